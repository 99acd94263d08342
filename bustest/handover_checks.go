package bustest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var handoverChecks = []Check{
	{
		Name: "HandoverNoGap", Run: handoverNoGap, Needs: []Ability{Streams},
		Rule:   "replay goes over into live with no gap, no repeat and no reordering, whatever is published meanwhile",
		Origin: "history and then a core subscription lost 41,236 of 90,000 messages",
	},
	{
		Name: "HandoverEachStart", Run: handoverEachStart, Needs: []Ability{Streams},
		Rule: "from whichever start position, replay goes over into live with no gap, no repeat and no reordering",
	},
	{
		Name: "HandoverHistoryFirst", Run: handoverHistoryFirst, Needs: []Ability{Streams},
		Rule:   "no live message comes before an older stored one",
		Origin: "mastra-ai/mastra#18479: live events come before the history",
	},
	{
		Name: "SpanningPattern", Run: spanningPattern, Needs: []Ability{Streams},
		Rule:   "a pattern across streams and free subjects gets each message once, and never one that was refused",
		Origin: "a core NATS subscription gets what the stream has refused",
	},
	{
		Name: "SpanningSlow", Run: spanningSlow, Needs: []Ability{Streams},
		Rule: "of a pattern across streams and free subjects a slow handler loses nothing that is captured, and what it loses of the rest is counted and told",
	},
}

func handoverNoGap(c *C) { c.handover(20, c.Bus()) }

// handover joins replays on the last bus while publishers are at work on all of them.
func (c *C) handover(rounds int, buses ...bus.Bus) {
	b := buses[len(buses)-1]
	for _, b := range buses {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	}
	const publishers, stored, meanwhile = 4, 20, 15
	for round := range rounds {
		subject := c.subject(fmt.Sprintf("a.%d", round))
		for _, text := range sequence("stored", 1, stored) {
			c.publish(b, subject, text)
		}
		h := &history{name: fmt.Sprintf("round %d", round)}
		published := make(chan struct{})
		// In every other round all is published during the replay, in the rest whenever.
		inReplay := round%2 == 1
		begin, begun := c.gate()
		var calls atomic.Int32
		fire := c.start(func() {
			if inReplay {
				<-begin
			}
			c.together(publishers, "Publish", func(p int) {
				for _, text := range sequence(string(rune('A'+p)), 1, meanwhile) {
					if err := buses[p%len(buses)].Publish(c.ctx, subject, []byte(text)); err != nil {
						c.Errorf("Publish: %v", err)
					}
				}
			})
			close(published)
		})
		_, err := b.Subscribe(c.ctx, subject, func(_ context.Context, m *bus.Message) error {
			h.message(m)
			if inReplay && calls.Add(1) == stored/2 {
				begun()
				select {
				case <-published:
				case <-c.ctx.Done():
				}
			}
			return nil
		}, bus.All(), bus.OnError(h.hook()))
		if err != nil {
			c.Fatalf("Subscribe: %v", err)
		}
		receive(c, fire, "Publish to return")
		c.publish(buses[0], subject, "end")
		c.awaitText(h, "end")
		c.judge(h, ordered, unique, inStreamOrder, replayedFirst, quiet, complete(sequence("stored", 1, stored)...))
		for p := range publishers {
			c.judge(h, complete(sequence(string(rune('A'+p)), 1, meanwhile)...))
		}
		if c.Failed() {
			return
		}
	}
}

func handoverEachStart(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	const stored, subjects, publishers, meanwhile = 20, 4, 3, 15
	for name, start := range map[string]struct {
		option func(cursors []bus.Cursor) bus.SubscribeOption
		first  int // of the stored ones
	}{
		"last":             {func([]bus.Cursor) bus.SubscribeOption { return bus.Last(5) }, stored - 4},
		"after":            {func(cursors []bus.Cursor) bus.SubscribeOption { return bus.After(cursors[9]) }, 11},
		"since":            {func([]bus.Cursor) bus.SubscribeOption { return bus.Since(time.Now().Add(-2 * clockSkew)) }, 1},
		"all":              {func([]bus.Cursor) bus.SubscribeOption { return bus.All() }, 1},
		"last-per-subject": {func([]bus.Cursor) bus.SubscribeOption { return bus.LastPerSubject() }, stored - subjects + 1},
	} {
		subject := func(i int) string { return c.subject(fmt.Sprintf("a.%s.%d", name, i%subjects)) }
		var cursors []bus.Cursor
		for i, text := range sequence("stored", 1, stored) {
			cursors = append(cursors, c.store(b, subject(i), text))
		}
		h := &history{name: "started with " + name}
		begin, begun := c.gate()
		published := c.start(func() {
			<-begin
			c.together(publishers, "Publish", func(p int) {
				for i, text := range sequence(string(rune('A'+p)), 1, meanwhile) {
					if err := b.Publish(c.ctx, subject(p+i), []byte(text)); err != nil {
						c.Errorf("Publish: %v", err)
					}
				}
			})
		})
		c.subscribeFunc(b, c.subject("a."+name+".*"), func(_ context.Context, m *bus.Message) error {
			h.message(m)
			begun() // all of it is published during the replay
			select {
			case <-published:
			case <-c.ctx.Done():
			}
			return nil
		}, start.option(cursors), bus.OnError(h.hook()))
		begun() // of a bus that has replayed nothing
		receive(c, published, "Publish to return")
		c.publish(b, subject(0), "end")
		c.awaitText(h, "end")
		c.judge(h, ordered, unique, inStreamOrder, replayedFirst, quiet, complete(sequence("stored", start.first, stored)...))
		for p := range publishers {
			c.judge(h, complete(sequence(string(rune('A'+p)), 1, meanwhile)...))
		}
	}
}

func handoverHistoryFirst(c *C) {
	b, _ := c.filled(20)
	h := &history{name: "a.>"}
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	sub := c.subscribeFunc(b, c.subject("a.>"), func(_ context.Context, m *bus.Message) error {
		h.message(m)
		if string(m.Data) == numbered("p", 1) {
			inside <- struct{}{}
			<-gate
		}
		return nil
	}, bus.All(), bus.Background(), bus.OnError(h.hook()))
	receive(c, inside, "the replay to begin")
	for _, text := range sequence("p", 21, 40) {
		c.publish(b, c.subject("a.x"), text)
	}
	open()
	receive(c, sub.CaughtUp(), "CaughtUp to close")
	c.awaitText(h, numbered("p", 40))
	c.judge(h, exactly(sequence("p", 1, 40)...), inStreamOrder, replayedFirst, quiet)
}

func spanningPattern(c *C) {
	b := c.Bus()
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("ONE"), Subjects: []string{c.subject("one.a"), c.subject("one.b")}},
		bus.StreamConfig{Name: c.stream("TWO"), Subjects: []string{c.subject("two.>")}})
	subjects := []string{"one.a", "one.b", "one.free", "two.a", "free.a"}
	h := c.subscribe(b, c.subject("*.*"), wide)
	one := c.subscribe(b, c.subject("one.*"), wide)
	const n = 50
	for i := 1; i <= n; i++ {
		for _, subject := range subjects {
			c.publish(b, c.subject(subject), numbered(subject, i))
		}
		err := b.Publish(c.ctx, c.subject("one.a"), []byte("refused"), bus.ExpectNone())
		if !errors.Is(err, bus.ErrConflict) {
			c.Errorf("Publish that expects none: want ErrConflict, have %v", err)
		}
	}
	// A marker in each of the places, since there is no order between them.
	for _, subject := range subjects {
		c.publish(b, c.subject(subject), "end of "+subject)
	}
	for _, subject := range subjects {
		c.awaitText(h, "end of "+subject)
		c.judge(h, complete(sequence(subject, 1, n)...))
		if _, ok := strings.CutPrefix(subject, "one."); ok {
			c.awaitText(one, "end of "+subject)
			c.judge(one, complete(sequence(subject, 1, n)...))
		}
	}
	for _, h := range []*history{h, one} {
		c.judge(h, ordered, unique, quiet, func(events []event) *fault {
			for at, e := range events {
				captured := e.subject != c.subject("one.free") && e.subject != c.subject("free.a")
				switch {
				case e.kind != delivered:
				case e.text == "refused":
					return &fault{at, "a message was delivered whose Publish has failed"}
				case e.cursor.IsZero() == captured:
					return &fault{at, fmt.Sprintf("captured is %t, the cursor is %q", captured, e.cursor)}
				}
			}
			return nil
		})
	}
}

func spanningSlow(c *C) {
	b := c.Bus()
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("ONE"), Subjects: []string{c.subject("one.a")}},
		bus.StreamConfig{Name: c.stream("TWO"), Subjects: []string{c.subject("two.>")}})
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	h := &history{name: "*.*, blocked"}
	const room, n = 16, 200
	h.sub = c.subscribeFunc(b, c.subject("*.*"), func(_ context.Context, m *bus.Message) error {
		h.message(m)
		select {
		case inside <- struct{}{}:
		default:
		}
		<-gate
		return nil
	}, bus.Buffer(room, 1<<20), bus.OnError(h.hook()))
	c.publish(b, c.subject("free.a"), "blocks")
	receive(c, inside, "the handler to be called")
	subjects := []string{"one.a", "two.a", "free.a"}
	for i := 1; i <= n; i++ {
		for _, subject := range subjects {
			c.publish(b, c.subject(subject), numbered(subject, i))
		}
	}
	// As in LossIsCounted: what is published before has arrived.
	watch := c.subscribe(b, c.subject("free.end.of"))
	c.publish(b, c.subject("free.end.of"), "end")
	c.awaitText(watch, "end")
	open()
	for _, subject := range subjects {
		c.awaitText(h, numbered(subject, n)) // of the free ones, too: the oldest are dropped
	}
	free, told := 0, uint64(0)
	for at, e := range h.all() {
		var slow *bus.SlowError
		switch {
		case e.kind == delivered && strings.HasPrefix(e.text, "free.a#"):
			free++
		case e.kind == problem && errors.As(e.problem.Err, &slow):
			told += slow.Dropped
		case e.kind == problem:
			c.Errorf("only what was dropped should be told\n%s", around(h.all(), at))
		}
	}
	if dropped := h.sub.Dropped(); uint64(free)+dropped != n || told != dropped {
		c.Errorf("%d messages were published outside of streams, %d delivered, %d counted as dropped, %d told", n, free, dropped, told)
	}
	c.judge(h, ordered, unique, complete(sequence("one.a", 1, n)...))
	c.judge(h, complete(sequence("two.a", 1, n)...))
	c.judge(h, complete(sequence("free.a", n-room+1, n)...))
}
