package bustest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var streamChecks = []Check{
	{
		Name: "EnsureTwice", Run: ensureTwice, Needs: []Ability{Streams},
		Rule:   "EnsureStreams with the same configs changes nothing, also from several callers at once",
		Origin: "spring-projects/spring-kafka#943: instances that start together fail",
	},
	{
		Name: "EnsureUpdates", Run: ensureUpdates, Needs: []Ability{Streams},
		Rule:   "EnsureStreams updates limits and subjects and loses only what the new limits discard, also of a subject that is released and captured again",
		Origin: "the chat that this project grew from couldn't change a stream's limit",
	},
	{
		Name: "EnsureInvalid", Run: ensureInvalid, Needs: []Ability{Streams},
		Rule:   "an invalid stream config is ErrBadStream, the error names the stream, and nothing is created",
		Origin: "nats-server accepts MaxMsgs -2 and a stream without subjects",
	},
	{
		Name: "EnsureOverlap", Run: ensureOverlap, Needs: []Ability{Streams},
		Rule:   "capturing a subject of another stream is ErrStreamOverlap, naming both, and changes nothing",
		Origin: "nats-server#3362, #3429, #2144; nats.rs#1498",
	},
	{
		Name: "CaptureChanges", Run: captureChanges, Needs: []Ability{Streams},
		Rule:   "a subscription whose pattern EnsureStreams captures goes on or ends with ErrStreamChanged, never silent",
		Origin: "bus/driver left a subscription deaf when EnsureStreams captured its pattern",
	},
	{
		Name: "CaptureReturns", Run: captureReturns, Needs: []Ability{Streams},
		Rule:   "a subscription whose pattern is released and captured again gets each message once or ends with ErrStreamChanged",
		Origin: "bus/driver delivered twice what was published after a pattern was released and captured again",
	},
	{
		Name: "MaxMsgs", Run: maxMsgs, Needs: []Ability{Streams},
		Rule: "a stream keeps its newest MaxMsgs messages, in order",
	},
	{
		Name: "MaxMsgsPerSubject", Run: maxMsgsPerSubject, Needs: []Ability{Streams},
		Rule:   "a stream keeps the newest MaxMsgsPerSubject messages of each subject",
		Origin: "nats-server#6245, #4865: more messages per subject than the limit",
	},
	{
		Name: "MaxBytes", Run: maxBytes, Needs: []Ability{Streams},
		Rule:   "a stream holds its newest MaxBytes; what could never fit is ErrTooLarge and costs no other message",
		Origin: "nats-server acknowledges 500 bytes into MaxBytes=100 and holds nothing; natsbus forgot the headers that NATS stores",
	},
	{
		Name: "MaxAge", Run: maxAge, Needs: []Ability{Streams},
		Rule:   "a stream holds a message until MaxAge has passed, to the second; then it isn't delivered any more, which is told as ErrGap",
		Origin: "nats-server keeps a message 450 ms with a MaxAge of 200 ms",
	},
}

// checkStored fails the check unless the stream holds these messages of the pattern.
func (c *C) checkStored(b bus.Bus, pattern string, want ...string) {
	h := c.subscribe(b, pattern, bus.All())
	h.name = "what is stored of " + pattern
	c.judge(h, exactly(want...), inStreamOrder)
	c.unsubscribe(h.sub)
}

func ensureTwice(c *C) {
	b := c.Bus()
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>"), c.subject("b")}, MaxMsgs: 100}
	other := bus.StreamConfig{Name: c.stream("T"), Subjects: []string{c.subject("c")}}
	c.together(8, "EnsureStreams", func(int) { c.ensure(b, cfg, other) })
	want := sequence("p", 1, 10)
	cursors := map[bus.Cursor]bool{}
	for _, text := range want {
		cursors[c.store(b, c.subject("a.x"), text)] = true
	}
	live := c.subscribe(b, c.subject("a.>"))
	c.together(8, "EnsureStreams", func(int) { c.ensure(b, cfg) })
	c.checkStored(b, c.subject("a.>"), want...)
	c.publish(b, c.subject("a.x"), "end")
	e := c.awaitText(live, "end")
	c.judge(live, exactly("end"), quiet)
	for cursor := range cursors {
		if order, same := cursor.Compare(e.cursor); !same || order >= 0 {
			c.Errorf("cursor %s before EnsureStreams, %s after it", cursor, e.cursor)
		}
	}
}

func ensureUpdates(c *C) {
	b := c.Bus()
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}}
	c.ensure(b, cfg)
	for _, text := range sequence("p", 1, 20) {
		c.store(b, c.subject("a"), text)
	}
	cfg.MaxMsgs = 5
	c.ensure(b, cfg)
	c.checkStored(b, c.subject("a"), sequence("p", 16, 20)...)
	cfg.MaxMsgs, cfg.Subjects = 7, append(cfg.Subjects, c.subject("b"))
	c.ensure(b, cfg)
	for _, text := range sequence("p", 21, 23) {
		c.store(b, c.subject("b"), text)
	}
	c.checkStored(b, c.subject("a"), sequence("p", 17, 20)...)
	c.checkStored(b, c.subject("b"), sequence("p", 21, 23)...)
	released := cfg
	released.Subjects = cfg.Subjects[:1]
	c.ensure(b, released)
	c.publish(b, c.subject("b"), "uncaptured")
	c.ensure(b, cfg)
	c.checkStored(b, c.subject("b"), sequence("p", 21, 23)...)
	c.checkStored(b, c.subject("a"), sequence("p", 17, 20)...)
}

func ensureInvalid(c *C) {
	b := c.Bus()
	good := bus.StreamConfig{Name: c.stream("GOOD"), Subjects: []string{c.subject("good")}}
	valid := func(change func(cfg *bus.StreamConfig)) bus.StreamConfig {
		cfg := bus.StreamConfig{Name: c.stream("BAD"), Subjects: []string{c.subject("bad")}}
		change(&cfg)
		return cfg
	}
	for what, bad := range map[string]bus.StreamConfig{
		"an empty name":               valid(func(cfg *bus.StreamConfig) { cfg.Name = "" }),
		"a dot in its name":           valid(func(cfg *bus.StreamConfig) { cfg.Name += ".x" }),
		"a space in its name":         valid(func(cfg *bus.StreamConfig) { cfg.Name += " x" }),
		"a wildcard in its name":      valid(func(cfg *bus.StreamConfig) { cfg.Name += "*" }),
		"a slash in its name":         valid(func(cfg *bus.StreamConfig) { cfg.Name += "/x" }),
		"a name of 65 bytes":          valid(func(cfg *bus.StreamConfig) { cfg.Name = strings.Repeat("x", 65) }),
		"no subject":                  valid(func(cfg *bus.StreamConfig) { cfg.Subjects = nil }),
		"negative MaxMsgs":            valid(func(cfg *bus.StreamConfig) { cfg.MaxMsgs = -2 }),
		"MaxMsgs of -1":               valid(func(cfg *bus.StreamConfig) { cfg.MaxMsgs = -1 }),
		"negative MaxBytes":           valid(func(cfg *bus.StreamConfig) { cfg.MaxBytes = -7 }),
		"negative per subject":        valid(func(cfg *bus.StreamConfig) { cfg.MaxMsgsPerSubject = -1 }),
		"negative MaxAge":             valid(func(cfg *bus.StreamConfig) { cfg.MaxAge = -time.Hour }),
		"MaxAge below one second":     valid(func(cfg *bus.StreamConfig) { cfg.MaxAge = time.Millisecond }),
		"negative Duplicates":         valid(func(cfg *bus.StreamConfig) { cfg.Duplicates = -time.Second }),
		"Duplicates below 100 ms":     valid(func(cfg *bus.StreamConfig) { cfg.Duplicates = time.Millisecond }),
		"Duplicates above its MaxAge": valid(func(cfg *bus.StreamConfig) { cfg.MaxAge, cfg.Duplicates = time.Minute, time.Hour }),
	} {
		err := b.EnsureStreams(c.ctx, good, bad)
		if !errors.Is(err, bus.ErrBadStream) {
			c.Errorf("a config with %s: want ErrBadStream, have %v", what, err)
		} else if bad.Name != "" && len(bad.Name) <= 64 && !strings.Contains(err.Error(), bad.Name) {
			c.Errorf("a config with %s: the error doesn't name %q: %v", what, bad.Name, err)
		}
	}
	for _, subject := range []string{"good", "bad"} {
		if err := b.Publish(c.ctx, c.subject(subject), nil, bus.ExpectNone()); !errors.Is(err, bus.ErrNoStream) {
			c.Errorf("a refused list of configs has created a stream: Publish on %s: want ErrNoStream, have %v", subject, err)
		}
	}
}

func ensureOverlap(c *C) {
	b := c.Bus()
	first := bus.StreamConfig{Name: c.stream("FIRST"), Subjects: []string{c.subject("a.*"), c.subject("b.>")}}
	c.ensure(b, first)
	c.store(b, c.subject("a.x"), "stored")
	for _, subject := range []string{"a.x", "a.*", "*.x", "b.x.y", "b.>", "*.*", ">"} {
		second := bus.StreamConfig{Name: c.stream("SECOND"), Subjects: []string{c.subject("free." + subject), c.subject(subject)}}
		if subject == ">" {
			second.Subjects = second.Subjects[1:]
		}
		err := b.EnsureStreams(c.ctx, second)
		if !errors.Is(err, bus.ErrStreamOverlap) {
			c.Errorf("capturing %s, too: want ErrStreamOverlap, have %v", subject, err)
		} else if !strings.Contains(err.Error(), first.Name) || !strings.Contains(err.Error(), second.Name) {
			c.Errorf("the error doesn't name %s and %s: %v", first.Name, second.Name, err)
		}
	}
	itself := bus.StreamConfig{Name: c.stream("SELF"), Subjects: []string{c.subject("c.*"), c.subject("c.x")}}
	if err := b.EnsureStreams(c.ctx, itself); !errors.Is(err, bus.ErrStreamOverlap) && !errors.Is(err, bus.ErrBadStream) {
		c.Errorf("a stream whose subjects overlap: want ErrStreamOverlap, have %v", err)
	}
	both := []bus.StreamConfig{
		{Name: c.stream("D1"), Subjects: []string{c.subject("d.>")}},
		{Name: c.stream("D2"), Subjects: []string{c.subject("d.x")}},
	}
	if err := b.EnsureStreams(c.ctx, both...); !errors.Is(err, bus.ErrStreamOverlap) {
		c.Errorf("two new streams that overlap: want ErrStreamOverlap, have %v", err)
	}
	c.checkStored(b, c.subject("a.x"), "stored")
}

func captureChanges(c *C) {
	b := c.Bus()
	touched := []*history{c.subscribe(b, c.subject("a.x")), c.subscribe(b, c.subject("a.>")), c.subscribe(b, c.subject("*.x"))}
	apart := c.subscribe(b, c.subject("b.y"))
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.*")}})
	// Own changes count at once: a subscription has ended when EnsureStreams returns, or it goes on.
	ended := map[*history]bool{}
	for _, h := range touched {
		ended[h] = h.sub.Err() != nil
	}
	c.store(b, c.subject("a.x"), "after")
	for _, h := range touched {
		if !c.goesOn(h, "after") && !ended[h] {
			c.Errorf("%s: it ended after EnsureStreams had returned", h.name)
		}
	}
	c.checkStored(b, c.subject("a.x"), "after")
	c.publish(b, c.subject("b.y"), "unharmed")
	c.awaitText(apart, "unharmed")
	if err := apart.sub.Err(); err != nil {
		c.Errorf("a subscription that has nothing to do with it: %v", err)
	}
}

// goesOn reports whether a message comes; otherwise the subscription must have ended with ErrStreamChanged.
func (c *C) goesOn(h *history, text string) bool {
	ended := c.start(func() {
		select {
		case <-h.sub.Done():
			h.mark("Done has closed")
		case <-c.ctx.Done():
		}
	})
	e := c.await(h, "the message, or the end of the subscription", func(e event) bool { return e.kind == mark || e.text == text })
	if e.kind != mark {
		return true
	}
	<-ended
	if err := h.sub.Err(); !errors.Is(err, bus.ErrStreamChanged) {
		c.Errorf("%s: Err: want ErrStreamChanged, have %v", h.name, err)
	}
	told := 0
	for _, e := range h.all() {
		if e.kind == problem && errors.Is(e.problem.Err, bus.ErrStreamChanged) {
			told++
		}
	}
	if told != 1 {
		c.Errorf("%s: the error hook was told of the end %d times\n%s", h.name, told, around(h.all(), len(h.all())))
	}
	return false
}

func captureReturns(c *C) {
	b := c.Bus()
	captured := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>"), c.subject("b.>")}}
	released := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("b.>")}}
	c.ensure(b, captured)
	h := c.subscribe(b, c.subject("a.x"))
	for i, cfg := range []bus.StreamConfig{released, captured, released} {
		c.ensure(b, cfg)
		var want error
		if i%2 == 0 {
			want = bus.ErrNoStream // at once
		}
		var r bus.Receipt
		if err := b.Publish(c.ctx, c.subject("a.y"), nil, bus.WithReceipt(&r)); !errors.Is(err, want) {
			c.Errorf("Publish with a receipt after change %d: want %v, have %v", i+1, want, err)
		}
		text := numbered("p", i+1)
		c.publish(b, c.subject("a.x"), text)
		if !c.goesOn(h, text) {
			break
		}
	}
	c.settle() // there is no order between the two places from which a second copy would come
	c.judge(h, unique)
}

func maxMsgs(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}, MaxMsgs: 10})
	for i, text := range sequence("p", 1, 25) {
		c.publish(b, c.subject(fmt.Sprintf("a.%d", i%3)), text)
	}
	c.checkStored(b, c.subject("a.>"), sequence("p", 16, 25)...)
}

func maxMsgsPerSubject(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}, MaxMsgsPerSubject: 2})
	c.store(b, c.subject("a.rare"), "rare")
	for i, text := range sequence("p", 1, 20) {
		c.store(b, c.subject(fmt.Sprintf("a.%d", i%2)), text)
	}
	c.checkStored(b, c.subject("a.>"), append([]string{"rare"}, sequence("p", 17, 20)...)...)
}

func maxBytes(c *C) {
	b := c.Bus()
	const size, limit = 1 << 10, 10 << 10
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, MaxBytes: limit})
	var all []string
	for n := range 30 {
		text := numbered("p", n) + strings.Repeat(" ", size)
		all = append(all, text)
		c.publish(b, c.subject("a"), text)
	}
	if err := b.Publish(c.ctx, c.subject("a"), make([]byte, 2*limit)); !errors.Is(err, bus.ErrTooLarge) {
		c.Errorf("Publish of %d bytes to a stream of %d: want ErrTooLarge, have %v", 2*limit, limit, err)
	}
	h := c.subscribe(b, c.subject("a"), bus.All())
	h.name = "what is stored"
	n := 0
	for _, e := range h.all() {
		if e.kind == delivered {
			n++
		}
	}
	// How a message's own bytes are counted is the backend's, but data counts.
	if n == 0 || n*size > limit {
		c.Errorf("%d messages of %d bytes are stored, the limit is %d bytes", n, size, limit)
	}
	c.judge(h, exactly(all[len(all)-n:]...))

	// The largest that is accepted does fit.
	text, err := strings.Repeat("x", limit), bus.ErrTooLarge
	for err != nil && text != "" {
		text = text[:max(0, len(text)-7)]
		if err = b.Publish(c.ctx, c.subject("a"), []byte(text)); err != nil && !errors.Is(err, bus.ErrTooLarge) {
			c.Fatalf("Publish of %d bytes to a stream of %d: want nil or ErrTooLarge, have %v", len(text), limit, err)
		}
	}
	largest := c.subscribe(b, c.subject("a"), bus.Last(1))
	largest.name = fmt.Sprintf("a message of %d bytes in a stream of %d", len(text), limit)
	c.judge(largest, exactly(text))
}

func maxAge(c *C) {
	b := c.Bus()
	// Outside a bubble a machine may stand still, and its timers be late; what was seen is compared with the time before or
	// after the look, so that this makes no early or late message of one that isn't.
	age, late := time.Second, 3*time.Second
	if c.h.Bubble {
		age, late = 10*time.Second, time.Second
	}
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, MaxAge: age})
	slow, open := c.blockOn(b, "a")
	before := time.Now()
	cursors := []bus.Cursor{c.firstCursor(slow), c.store(b, c.subject("a"), "ages")}
	stored := time.Now()
	c.until(fmt.Sprintf("a message to be discarded whose MaxAge is %v", age), age+c.h.Patience, func(int) bool {
		looked := time.Now()
		h := c.subscribe(b, c.subject("a"), bus.Last(1))
		c.unsubscribe(h.sub)
		there := slices.ContainsFunc(h.all(), func(e event) bool { return e.kind == delivered })
		if old := time.Since(before); !there && old < age {
			c.Errorf("a message is gone %v after it was published, its MaxAge is %v", old, age)
		}
		if old := looked.Sub(stored); there && old > age+late {
			c.Fatalf("a message is still there %v after it was stored, its MaxAge is %v", old, age)
		}
		return !there
	})
	resumed := c.subscribe(b, c.subject("a"), bus.After(cursors[0]))
	resumed.name = "a, after the first of two messages, which are gone"
	cursors = append(cursors, c.store(b, c.subject("a"), "young"))
	open()
	c.awaitText(slow, "young")
	c.judge(slow, exactly("blocks", "young"), accountedFor(cursors))
	c.awaitText(resumed, "young")
	c.judge(resumed, exactly("young"), accountedFor(cursors[1:]))
}
