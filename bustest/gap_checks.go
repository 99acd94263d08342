package bustest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var gapChecks = []Check{
	{
		Name: "LiveGapTold", Run: liveGapTold, Needs: []Ability{Streams},
		Rule:   "what limits discard before its turn is told as ErrGap before the next message, and the newest is delivered",
		Origin: "a prompt consumer of a stream with MaxMsgs=1000 got 10,285 of 20,000 messages and no word",
	},
	{
		Name: "LimitsWin", Run: limitsWin, Needs: []Ability{Streams},
		Rule:   "what limits discard while the handler is slow isn't delivered any more but told as ErrGap, whichever limit it is",
		Origin: "bus/driver delivered what limits had taken while it waited for a slow handler",
	},
	{
		Name: "TrimDuringReplay", Run: trimDuringReplay, Needs: []Ability{Streams},
		Rule:   "what a limit on messages, bytes or age discards during a replay is told as ErrGap, nothing that is still stored is skipped, and Subscribe doesn't wait for what is gone",
		Origin: "nats-server#2083: messages that expire before they are acknowledged stop a consumer for ever",
	},
	{
		Name: "TrimDuringSnapshot", Run: trimDuringSnapshot, Needs: []Ability{Streams},
		Rule:   "limits that discard during a replay of LastPerSubject don't make it one of everything",
		Origin: "bus/driver went on with everything when limits took part of a LastPerSubject",
	},
	{
		Name: "ResumeGapTold", Run: resumeGapTold, Needs: []Ability{Streams},
		Rule:   "a resume after a cursor behind which messages are gone is ErrGap, then what is left",
		Origin: "dunglas/mercure#704: a resume after an event that is gone gets nothing and no word",
	},
	{
		Name: "NewestOfSubject", Run: newestOfSubject, Needs: []Ability{Streams},
		Rule:   "a limit per subject never costs a subscription the newest message of a subject",
		Origin: "nats.c#925: with one message per subject the last one is sometimes missed",
	},
}

func liveGapTold(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}, MaxMsgs: 10})
	h, open := c.block(b, "held", bus.Buffer(2, 1<<20))
	cursors := []bus.Cursor{c.firstCursor(h)}
	want := sequence("p", 1, 100)
	for _, text := range want {
		cursors = append(cursors, c.store(b, c.subject("held.a"), text))
	}
	open()
	c.awaitText(h, want[len(want)-1])
	c.judge(h, accountedFor(cursors), unique)

	// The same for a handler that is prompt, under more than one publisher.
	prompt := c.subscribe(b, c.subject("held.b"))
	var mu sync.Mutex
	stored := map[bus.Cursor]bool{}
	c.together(4, "Publish", func(p int) {
		for _, text := range sequence(string(rune('A'+p)), 1, 100) {
			cursor := c.store(b, c.subject("held.b"), text)
			mu.Lock()
			stored[cursor] = true
			mu.Unlock()
		}
	})
	end := c.store(b, c.subject("held.b"), "end")
	c.awaitText(prompt, "end")
	stored[end] = true
	c.judge(prompt, accountedFor(inOrder(stored)), unique)
}

func limitsWin(c *C) {
	b := c.Bus()
	const n, left, size = 40, 10, 1 << 10
	for root, cfg := range map[string]bus.StreamConfig{
		"msgs":  {MaxMsgs: left},
		"bytes": {MaxBytes: left * size},
		"both":  {MaxMsgs: left, MaxMsgsPerSubject: 10 * n},
	} {
		cfg.Name, cfg.Subjects = c.stream(root), []string{c.subject(root + ".>")}
		c.ensure(b, cfg)
		h, open := c.block(b, root, wide)
		prompt := c.subscribe(b, c.subject(root+".a"), wide)
		cursors := []bus.Cursor{c.firstCursor(h)}
		var texts []string
		for _, text := range sequence("p", 1, n) {
			texts = append(texts, text+strings.Repeat(" ", size))
			cursors = append(cursors, c.store(b, c.subject(root+".a"), texts[len(texts)-1]))
		}
		c.awaitText(prompt, texts[n-1]) // so that the blocked one has been given all, too
		open()
		c.awaitText(h, texts[n-1])
		c.judge(h, accountedFor(cursors), unique, func(events []event) *fault {
			for at, e := range events {
				if e.kind == delivered && slices.Contains(texts[:n-left], e.text) {
					return &fault{at, "it was discarded before its turn"}
				}
			}
			return nil
		})
	}
}

// firstCursor is where the message stands that blocks a handler.
func (c *C) firstCursor(h *history) bus.Cursor { return c.awaitText(h, "blocks").cursor }

func trimDuringReplay(c *C) {
	b := c.Bus()
	c.trimWhileReplayed(b, "msgs", bus.StreamConfig{MaxMsgs: 20}, 20, 0)
	const size = 1 << 10
	c.trimWhileReplayed(b, "bytes", bus.StreamConfig{MaxBytes: 20 * size}, 10, size) // backends have bytes of their own in each
	for try := 1; !c.ageWhileReplayed(b, fmt.Sprint("age", try)); try++ {
		if try == 5 {
			c.Fatalf("%d times a replay was over before what was stored a moment ago was delivered", try)
		}
	}
}

// trimWhileReplayed publishes while a handler is given what was there before. The stream can hold so many: left.
func (c *C) trimWhileReplayed(b bus.Bus, root string, cfg bus.StreamConfig, left, size int) {
	cfg.Name, cfg.Subjects = c.stream(root), []string{c.subject(root)}
	c.ensure(b, cfg)
	padding := strings.Repeat(" ", size)
	padded := func(first, last int) []string {
		texts := sequence("p", first, last)
		for i := range texts {
			texts[i] = padding + texts[i] // so that judges find the number
		}
		return texts
	}
	var cursors []bus.Cursor
	for _, text := range padded(1, left) {
		cursors = append(cursors, c.store(b, c.subject(root), text))
	}
	h := &history{name: root + ", replayed while it is trimmed"}
	step := make(chan struct{})
	subscribed := c.start(func() {
		c.subscribeFunc(b, c.subject(root), func(_ context.Context, m *bus.Message) error {
			h.message(m)
			select {
			case <-step:
			case <-c.ctx.Done():
			}
			return nil
		}, bus.All(), bus.Buffer(3, 1<<20), bus.OnError(h.hook()))
	})
	c.await(h, "the replay to begin", func(e event) bool { return e.kind == delivered })
	next := left + 1
	for range 4 {
		for _, text := range padded(next, next+14) {
			cursors = append(cursors, c.store(b, c.subject(root), text))
		}
		next += 15
		for range 3 {
			receive(c, c.start(func() {
				select {
				case step <- struct{}{}:
				case <-c.ctx.Done():
				}
			}), "the handler to be called again")
		}
	}
	last := padding + numbered("p", next-1)
	done := c.start(func() { c.awaitText(h, last) })
	for handled := false; !handled; {
		select {
		case step <- struct{}{}:
		case <-done:
			handled = true
		}
	}
	receive(c, subscribed, "Subscribe to return when what was stored at the call is handled or gone")
	c.judge(h, accountedFor(cursors), ordered, unique)
	// What the stream still holds can't have been skipped: the last ones were never trimmed.
	c.judge(h, complete(padded(next-left, next-1)...))
}

// ageWhileReplayed blocks a handler in a replay until what it has yet to be given is too old. It reports false when that
// has happened before the replay had begun, since the machine stood still.
func (c *C) ageWhileReplayed(b bus.Bus, root string) bool {
	const age = time.Second
	c.ensure(b, bus.StreamConfig{Name: c.stream(root), Subjects: []string{c.subject(root)}, MaxAge: age})
	var cursors []bus.Cursor
	old := sequence("old", 1, 10)
	for _, text := range old {
		cursors = append(cursors, c.store(b, c.subject(root), text))
	}
	h := &history{name: root + ", replayed while it ages"}
	gate, open := c.gate()
	subscribed := c.start(func() {
		c.subscribeFunc(b, c.subject(root), func(_ context.Context, m *bus.Message) error {
			h.message(m)
			<-gate
			return nil
		}, bus.All(), bus.Buffer(3, 1<<20), bus.OnError(h.hook()))
	})
	begun := func() bool { return slices.ContainsFunc(h.all(), func(e event) bool { return e.kind == delivered }) }
	c.until("a replay to begin or to be over", c.h.Patience, func(int) bool {
		select {
		case <-subscribed:
			return true
		default:
			return begun()
		}
	})
	if !begun() {
		return false
	}
	c.until("what is stored to be too old", age+c.h.Patience, func(int) bool {
		h := c.subscribe(b, c.subject(root), bus.All())
		c.unsubscribe(h.sub)
		return len(h.all()) == 0
	})
	young := sequence("young", 1, 5)
	for _, text := range young {
		cursors = append(cursors, c.store(b, c.subject(root), text))
	}
	open()
	receive(c, subscribed, "Subscribe to return when what was stored at the call is too old")
	c.awaitText(h, young[len(young)-1])
	c.judge(h, accountedFor(cursors), ordered, unique, complete(young...), func(events []event) *fault {
		first := slices.IndexFunc(events, func(e event) bool { return e.kind == delivered })
		for at, e := range events {
			if at > first && e.kind == delivered && slices.Contains(old, e.text) {
				return &fault{at, "it was too old before its turn"}
			}
		}
		return nil
	})
	return true
}

func trimDuringSnapshot(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.*")}, MaxMsgs: 30})
	c.publish(b, c.subject("a.first"), "first")
	c.publish(b, c.subject("a.second"), "second")
	old := sequence("old", 1, 20)
	for _, text := range old {
		c.publish(b, c.subject("a.third"), text)
	}
	h := &history{name: "the last messages, two of which are discarded meanwhile"}
	live := sequence("live", 1, 10)
	c.subscribeFunc(b, c.subject("a.*"), func(ctx context.Context, m *bus.Message) error {
		h.message(m)
		if string(m.Data) == "first" {
			for _, text := range live {
				if err := b.Publish(ctx, c.subject("a.fourth"), []byte(text)); err != nil {
					c.Errorf("Publish in a handler: %v", err)
				}
			}
		}
		return nil
	}, bus.LastPerSubject(), bus.OnError(h.hook()))
	c.awaitText(h, live[len(live)-1])
	c.judge(h, complete(append(live, old[len(old)-1])...), ordered, unique, inStreamOrder, func(events []event) *fault {
		for at, e := range events {
			if e.kind == delivered && slices.Contains(old[:len(old)-1], e.text) {
				return &fault{at, "it isn't the last of its subject"}
			}
		}
		return nil
	})
}

func resumeGapTold(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, MaxMsgs: 10})
	var cursors []bus.Cursor
	for _, text := range sequence("p", 1, 30) {
		cursors = append(cursors, c.store(b, c.subject("a"), text))
	}
	h := c.subscribe(b, c.subject("a"), bus.After(cursors[4]))
	h.name = "a, after message 5 of 30, of which 10 are left"
	e := c.awaitText(h, numbered("p", 30))
	c.judge(h, exactly(sequence("p", 21, 30)...), accountedFor(cursors[5:]))
	if e.cursor != cursors[29] {
		c.Errorf("the last message stands at %s, it was stored at %s", e.cursor, cursors[29])
	}
	// When nothing is left at all.
	c.ensure(b, bus.StreamConfig{Name: c.stream("NONE"), Subjects: []string{c.subject("none")}})
	text := strings.Repeat(" ", 1<<10)
	gone := []bus.Cursor{c.store(b, c.subject("none"), text), c.store(b, c.subject("none"), text)}
	c.ensure(b, bus.StreamConfig{Name: c.stream("NONE"), Subjects: []string{c.subject("none")}, MaxBytes: int64(len(text)) / 2})
	none := c.subscribe(b, c.subject("none"), bus.After(gone[0]))
	none.name = "none, after message 1 of 2, of which none is left"
	gone = append(gone, c.store(b, c.subject("none"), "new"))
	c.awaitText(none, "new")
	c.judge(none, exactly("new"), accountedFor(gone[1:]))

	whole := c.subscribe(b, c.subject("a"), bus.After(cursors[19]))
	whole.name = "a, after message 20 of 30, behind which nothing is gone"
	c.judge(whole, exactly(sequence("p", 21, 30)...))
}

func newestOfSubject(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}, MaxMsgsPerSubject: 1})
	h, open := c.block(b, "held", bus.Buffer(2, 1<<20))
	all := &history{name: "held.*"}
	c.subscribeFunc(b, c.subject("held.*"), all.handler(), bus.Buffer(2, 1<<20))
	for i, text := range sequence("p", 1, 100) {
		c.publish(b, c.subject("held."+[]string{"a", "b"}[i%2]), text)
	}
	c.publish(b, c.subject("held.c"), "end")
	open()
	c.awaitText(h, numbered("p", 99)) // the newest of held.a
	c.awaitText(all, "end")
	for _, h := range []*history{h, all} {
		c.judge(h, ordered, unique, inStreamOrder)
	}
	c.judge(all, complete(numbered("p", 99), numbered("p", 100), "end"))
	late := c.subscribe(b, c.subject("held.>"), bus.All())
	late.name = fmt.Sprintf("%s, which holds one message of each subject", c.stream("S"))
	c.judge(late, exactly(numbered("p", 99), numbered("p", 100), "end"))
}
