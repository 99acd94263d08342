package bustest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var durableGroupChecks = []Check{
	{
		Name: "Redelivery", Run: redelivery, Needs: []Ability{DurableGroups},
		Rule:   "in a durable group an error, a panic or the end of the goroutine is told and redelivers after its wait and no second later, with Attempt counting from 1, until nil is returned",
		Origin: "nats-server#4726: a rejected message comes again at once, whatever the backoff; Dapr's suite passes a bus that never redelivers",
	},
	{
		Name: "RedeliveryForEver", Run: redeliveryForEver, Needs: []Ability{DurableGroups},
		Rule:   "with Attempts(0) a durable group never gives up, and needs no stream for what is dead",
		Origin: "apache/pulsar#14704, #14706: 0 means that each message is dead at once, then the default of 16",
	},
	{
		Name: "DeadLetter", Run: deadLetter, Needs: []Ability{DurableGroups},
		Rule:   "what was delivered in vain as often as Attempts says, by default 5 times, is published to dead.NAME.SUBJECT with its data, its headers and Dead-Error, and not delivered again",
		Origin: "pulsar#4426: what was sent to the dead letter topic came again",
	},
	{
		Name: "DeadBeforeDone", Run: deadBeforeDone, Needs: []Ability{DurableGroups},
		Rule:   "a message whose dead letter can't be stored isn't done, and is buried when it can",
		Origin: "protean#1263, runmq#19: acknowledged although the dead letter was refused",
	},
	{
		Name: "DeadStreamMissing", Run: deadStreamMissing, Needs: []Ability{DurableGroups},
		Rule:   "without another stream that captures its dead letters a durable group is ErrNoStream, naming them",
		Origin: "rabbitmq/rabbitmq-server#1792: a dead letter exchange that doesn't exist is a line in the log",
	},
	{
		Name: "DurableGroupCaptured", Run: durableGroupCaptured, Needs: []Ability{DurableGroups},
		Rule: "a durable group on a pattern that isn't captured as a whole is ErrNoStream",
	},
	{
		Name: "DurableGroupConflict", Run: durableGroupConflict, Needs: []Ability{DurableGroups},
		Rule: "a durable group of the same name and another pattern is ErrConflict, also while nobody is subscribed",
	},
	{
		Name: "DurableGroupPosition", Run: durableGroupPosition, Needs: []Ability{DurableGroups},
		Rule:   "a durable group goes on where it was when its last member left: nothing is lost and nothing that is done comes again",
		Origin: "nats-server#1580: a durable that is restarted resends the last message; watermill#389",
	},
	{
		Name: "DurableGroupStart", Run: durableGroupStart, Needs: []Ability{DurableGroups},
		Rule:   "a start position holds when a durable group is made and is ignored afterwards, and Subscribe doesn't wait for what is to be done",
		Origin: "watermill#389: everything is delivered again at each start",
	},
	{
		Name: "CutShort", Run: cutShort, Needs: []Ability{DurableGroups},
		Rule:   "what a handler fails to do since its subscription ends is left for another and is no attempt that makes a dead letter",
		Origin: "hornetq/hornetq#1312: closing a consumer delayed what it had not acknowledged, as if its delivery had failed",
	},
	{
		Name: "DurableGroupReopen", Run: durableGroupReopen, Needs: []Ability{DurableGroups, Durable},
		Rule:   "a durable group's position survives Close and Open: what wasn't done comes, and nothing else",
		Origin: "nats-streaming-server#72, #41: acknowledged messages came again after a restart",
	},
	{
		Name: "RemoveGroup", Run: removeGroup, Needs: []Ability{DurableGroups},
		Rule: "RemoveGroup ends a durable group's members with ErrStreamChanged and forgets its position; of no such group it is nil",
	},
	{
		Name: "GroupStreamRemoved", Run: groupStreamRemoved, Needs: []Ability{DurableGroups},
		Rule:   "a durable group's position lives as long as its stream, whose removal ends the members with ErrStreamChanged",
		Origin: "bus/driver returned an internal error from a Subscribe that met the removal",
	},
}

var errOnPurpose = errors.New("on purpose")

// workers makes a stream on held.> with its dead letters' stream, and returns the option
// of a durable group on it.
func (c *C) workers(b bus.Bus) bus.SubscribeOption {
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}},
		bus.StreamConfig{Name: c.stream("DEAD"), Subjects: []string{c.deadOf("g", "held.>")}})
	return bus.DurableGroup(c.group("g"))
}

// try is one delivery in a durable group.
type try struct {
	attempt      int
	began, ended time.Time
}

// tries records the deliveries of each message.
type tries struct {
	mu sync.Mutex
	of map[string][]try
}

func (t *tries) begin(m *bus.Message) func() {
	began := time.Now()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.of == nil {
			t.of = map[string][]try{}
		}
		t.of[string(m.Data)] = append(t.of[string(m.Data)], try{m.Attempt, began, time.Now()})
	}
}

// leastLate is by how much the most punctual repetition of a message came later than its wait says.
func (t *tries) leastLate(text string, waits ...time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	least := time.Duration(math.MaxInt64)
	for i, try := range t.of[text] {
		if i > 0 {
			least = min(least, try.began.Sub(t.of[text][i-1].ended)-waits[min(i, len(waits))-1])
		}
	}
	return least
}

// checkTries fails the check unless a message was tried that often, with the attempts counted
// and at least these waits between them.
func (c *C) checkTries(t *tries, text string, n int, waits ...time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.of[text]) != n {
		c.Errorf("%q was delivered %d times, want %d: %v", text, len(t.of[text]), n, t.of[text])
	}
	for i, try := range t.of[text] {
		if try.attempt != i+1 {
			c.Errorf("delivery %d of %q says attempt %d", i+1, text, try.attempt)
		}
		if i == 0 || len(waits) == 0 {
			continue
		}
		wait := waits[min(i, len(waits))-1]
		if waited := try.began.Sub(t.of[text][i-1].ended); waited < wait {
			c.Errorf("delivery %d of %q came %v after the one before, want at least %v", i+1, text, waited, wait)
		}
	}
}

func redelivery(c *C) {
	b := c.Bus()
	group := c.workers(b)
	waits := []time.Duration{10 * time.Millisecond, 30 * time.Millisecond}
	attempts := bus.Attempts(5, waits...)
	if c.h.Bubble { // the default
		attempts, waits = wide, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	}
	t, all := &tries{}, &history{name: "the group"}
	for range 2 {
		c.subscribeFunc(b, c.subject("held.*"), func(_ context.Context, m *bus.Message) error {
			defer t.begin(m)()
			all.message(m)
			switch text := string(m.Data); {
			case text == "fails" && m.Attempt <= 3:
				return errOnPurpose
			case text == "panics" && m.Attempt <= 1:
				panic("on purpose")
			case text == "goes" && m.Attempt <= 1:
				runtime.Goexit() // as t.FailNow does
			}
			return nil
		}, group, attempts, bus.OnError(all.hook()))
	}
	cursor := c.store(b, c.subject("held.a"), "fails")
	c.publish(b, c.subject("held.b"), "panics")
	c.publish(b, c.subject("held.b"), "goes")
	want := sequence("p", 1, 10)
	c.publishOn(b, []string{c.subject("held.a")}, want...)
	c.awaitAll(all, want...) // what waits for its repetition holds up nobody
	calls := map[string]int{}
	c.await(all, "the repetitions", func(e event) bool {
		if e.kind == delivered {
			calls[e.text]++
		}
		return calls["fails"] >= 4 && calls["panics"] >= 2 && calls["goes"] >= 2
	})
	if p := c.awaitProblem(all, errOnPurpose).problem; p.Subject != c.subject("held.a") || p.Cursor != cursor || p.Pattern != c.subject("held.*") {
		c.Errorf("the problem has pattern %q, subject %q and cursor %q", p.Pattern, p.Subject, p.Cursor)
	}
	if p := c.awaitProblem(all, bus.ErrPanic).problem; len(p.Stack) == 0 {
		c.Errorf("the problem of a panic has no stack")
	}
	c.settle()
	// What keeps one message back, such as a busy machine, doesn't keep all.
	latest := c.h.Tick
	if !c.h.Bubble {
		latest += time.Second
	}
	if late := t.leastLate("fails", waits...); late > latest {
		c.Errorf("each delivery of %q came at least %v later than its wait says, want at most %v: %v", "fails", late, latest, t.of["fails"])
	}
	c.checkTries(t, "fails", 4, waits...)
	c.checkTries(t, "panics", 2, waits...)
	c.checkTries(t, "goes", 2, waits...)
	for _, text := range want {
		c.checkTries(t, text, 1)
	}
	problems := 0
	for _, e := range all.all() {
		if e.kind == problem {
			problems++
		}
	}
	if problems != 5 {
		c.Errorf("the hook was told %d problems of 3 errors, a panic and a goroutine that was ended", problems)
	}
}

func redeliveryForEver(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	const n = 12
	t, all := &tries{}, &history{name: "the group"}
	c.subscribeFunc(b, c.subject("held.a"), func(_ context.Context, m *bus.Message) error {
		defer t.begin(m)()
		defer all.message(m)
		if m.Attempt < n {
			return errOnPurpose
		}
		return nil
	}, bus.DurableGroup(c.group("g")), bus.Attempts(0, time.Millisecond), bus.OnError(all.hook()))
	c.publish(b, c.subject("held.a"), "fails")
	c.await(all, "the last repetition", func(e event) bool { return e.kind == delivered && e.msg.Attempt >= n })
	c.publish(b, c.subject("held.a"), "fails")
	c.await(all, "the next message", func(e event) bool { return e.kind == delivered && e.msg.Attempt == 1 })
	c.checkTriesPrefix(t, "fails", n)
}

// checkTriesPrefix: the first n deliveries of a message counted from 1.
func (c *C) checkTriesPrefix(t *tries, text string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, try := range t.of[text] {
		if i < n && try.attempt != i+1 {
			c.Errorf("delivery %d of %q says attempt %d", i+1, text, try.attempt)
		}
	}
}

func deadLetter(c *C) {
	b := c.Bus()
	group := c.workers(b)
	letters := c.subscribe(b, c.deadOf("g", "held.>"), wide)
	n, attempts := 2, bus.Attempts(2, time.Millisecond)
	if c.h.Bubble { // the default
		n, attempts = 5, wide
	}
	t, all := &tries{}, &history{name: "the group"}
	var long strings.Builder // that no header can hold
	for long.Len() <= max(c.h.MaxPayload, 64<<10) {
		long.WriteString("an error that goes on and on\n")
	}
	for range 2 {
		c.subscribeFunc(b, c.subject("held.*"), func(_ context.Context, m *bus.Message) error {
			defer t.begin(m)()
			all.message(m)
			switch text := string(m.Data); text {
			case "panics":
				panic("lost its head")
			case "says too much":
				return errors.New(long.String())
			}
			if strings.HasPrefix(string(m.Data), "later") {
				return nil
			}
			return fmt.Errorf(" attempt %d\r\n\tfails\x00 ", m.Attempt)
		}, group, attempts, bus.OnError(all.hook()))
	}
	want := map[string]string{"fails \x00\xff": fmt.Sprint("attempt ", n), "panics": "lost its head", "says too much": "an error that goes on"}
	header := bus.Header{}
	for text := range want {
		var opts []bus.PublishOption
		if c.h.claims(Headers) {
			header = bus.Header{"K": {"1", "2"}, "lower": {""}}
			opts = []bus.PublishOption{bus.WithHeader("K", "1", "2"), bus.WithHeader("lower", ""), bus.WithHeader("Dead-Error", "of a former life")}
		}
		c.publish(b, c.subject("held.a"), text, opts...)
	}
	for text, reason := range want {
		e := c.awaitText(letters, text)
		if e.subject != c.deadOf("g", "held.a") {
			c.Errorf("the dead letter of %q is on %s", text, e.subject)
		}
		said := e.msg.Header["Dead-Error"]
		if c.h.claims(Headers) && (len(said) != 1 || !strings.Contains(said[0], reason) || strings.ContainsAny(said[0], "\r\n\x00")) {
			c.Errorf("Dead-Error of %q: want one line with %q, have %.200q", text, reason, said)
		}
		for k, values := range header {
			if !slices.Equal(e.msg.Header[k], values) {
				c.Errorf("header %q of the dead letter: want %q, have %q", k, values, e.msg.Header[k])
			}
		}
	}
	for _, text := range sequence("later", 1, 20) { // one by one, so that what would come again has its turns
		c.publish(b, c.subject("held.b"), text)
		c.await(all, text, func(e event) bool { return e.text == text })
	}
	c.settle()
	for text := range want {
		c.checkTries(t, text, n)
	}
	c.checkTries(t, numbered("later", 1), 1)
	c.judge(letters, complete("fails \x00\xff", "panics", "says too much"), unique, quiet)
	if have := len(letters.all()); have != len(want) {
		c.Errorf("there are %d dead letters, want %d", have, len(want))
	}
}

func deadBeforeDone(c *C) {
	b := c.Bus()
	group := c.workers(b)
	dead := bus.StreamConfig{Name: c.stream("DEAD"), Subjects: []string{c.deadOf("g", "held.>")}, MaxBytes: 100}
	c.ensure(b, dead)
	letters := c.subscribe(b, c.deadOf("g", "held.>"))
	all := &history{name: "the group"}
	c.subscribeFunc(b, c.subject("held.*"), func(_ context.Context, m *bus.Message) error {
		all.message(m)
		return errOnPurpose
	}, group, bus.Attempts(1, 10*time.Millisecond), bus.OnError(all.hook()))
	big := strings.Repeat("too much for a stream of 100 bytes ", 20)
	c.publish(b, c.subject("held.a"), big)
	c.awaitText(all, big)
	c.awaitProblem(all, errOnPurpose)
	c.wait(min(c.h.Settle, defaultSettle)) // its burial has failed
	dead.MaxBytes = 0
	c.ensure(b, dead)
	c.awaitText(letters, big)
}

func deadStreamMissing(c *C) {
	b := c.Bus()
	none := &history{name: "a group that was refused"}
	refused := func(why string) {
		_, err := b.Subscribe(c.ctx, c.subject("held.*"), none.handler(), bus.DurableGroup(c.group("g")))
		if !errors.Is(err, bus.ErrNoStream) {
			c.Errorf("%s: want ErrNoStream, have %v", why, err)
		} else if !strings.Contains(err.Error(), c.deadOf("g", "held")) {
			c.Errorf("%s: the error doesn't name %s: %v", why, c.deadOf("g", "held.*"), err)
		}
	}
	config := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}}
	c.ensure(b, config)
	refused("no stream captures the dead letters")
	config.Subjects = append(config.Subjects, c.deadOf("g", "held.>"))
	c.ensure(b, config)
	refused("the stream itself captures the dead letters")
	config.Subjects = config.Subjects[:1]
	dead := bus.StreamConfig{Name: c.stream("DEAD"), Subjects: []string{c.deadOf("g", "held.a")}}
	c.ensure(b, config, dead)
	refused("a stream captures some of the dead letters")
	watch := c.subscribe(b, c.subject("held.*"))
	c.publish(b, c.subject("held.a"), "end")
	c.awaitText(watch, "end")
	// What was refused has left no group behind.
	other := c.subscribe(b, c.subject("held.b"), bus.DurableGroup(c.group("g")), bus.Attempts(0))
	c.publish(b, c.subject("held.b"), "to the group")
	c.awaitText(other, "to the group")
	c.judge(none, exactly())
}

func durableGroupCaptured(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.*")}})
	none := &history{name: "a group that was refused"}
	for _, pattern := range []string{"free.a", "*.a", "held.>", ">"} {
		_, err := b.Subscribe(c.ctx, c.subject(pattern), none.handler(), bus.DurableGroup(c.group("g")), bus.Attempts(0))
		if !errors.Is(err, bus.ErrNoStream) {
			c.Errorf("a durable group on %s: want ErrNoStream, have %v", pattern, err)
		}
	}
	watch := []*history{c.subscribe(b, c.subject("free.a")), c.subscribe(b, c.subject("held.a"))}
	for i, subject := range []string{"free.a", "held.a"} {
		c.publish(b, c.subject(subject), "end")
		c.awaitText(watch[i], "end")
	}
	c.judge(none, exactly())
}

func durableGroupConflict(c *C) {
	b := c.Bus()
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}},
		bus.StreamConfig{Name: c.stream("T"), Subjects: []string{c.subject("other.>")}})
	group := bus.DurableGroup(c.group("g"))
	none := &history{name: "a group that was refused"}
	refused := func(when string) {
		for _, pattern := range []string{"held.a", "held.>", "other.a"} {
			if _, err := b.Subscribe(c.ctx, c.subject(pattern), none.handler(), group, bus.Attempts(0)); !errors.Is(err, bus.ErrConflict) {
				c.Errorf("%s, the same name on %s: want ErrConflict, have %v", when, pattern, err)
			}
		}
	}
	first := c.subscribe(b, c.subject("held.*"), group, bus.Attempts(0))
	refused("while the group has a member")
	c.publish(b, c.subject("held.a"), "to the first")
	c.awaitText(first, "to the first")
	c.unsubscribe(first.sub)
	refused("while the group has no member")
	c.publish(b, c.subject("held.a"), "meanwhile")
	second := c.subscribe(b, c.subject("held.*"), group, bus.Attempts(0))
	c.awaitText(second, "meanwhile")
	c.judge(second, exactly("meanwhile"))
	c.judge(none, exactly())
}

func durableGroupPosition(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	c.publish(b, c.subject("held.a"), "before the group was made")
	all := &history{name: "the group"}
	want := []string{}
	for round := range 3 {
		member := func() bus.Subscription {
			return c.subscribeFunc(b, c.subject("held.*"), all.handler(), bus.DurableGroup(c.group("g")), bus.Attempts(0), bus.OnError(all.hook()))
		}
		subs := []bus.Subscription{member(), member()}
		while, after := sequence(fmt.Sprint("while", round), 1, 10), sequence(fmt.Sprint("after", round), 1, 10)
		c.publishOn(b, []string{c.subject("held.a"), c.subject("held.b")}, while...)
		want = append(want, while...)
		c.awaitAll(all, want...)
		for _, sub := range subs {
			c.unsubscribe(sub)
		}
		c.publishOn(b, []string{c.subject("held.a"), c.subject("held.b")}, after...)
		want = append(want, after...)
	}
	c.subscribeFunc(b, c.subject("held.*"), all.handler(), bus.DurableGroup(c.group("g")), bus.Attempts(0), bus.OnError(all.hook()))
	c.awaitAll(all, want...)
	c.judge(all, unique, quiet)
	if n := len(all.all()); n != len(want) {
		c.Errorf("%d messages were delivered, %d published since the group was made", n, len(want))
	}
}

func durableGroupStart(c *C) {
	b, cursors := c.filled(20)
	for _, start := range []struct {
		name   string
		option bus.SubscribeOption
		first  int
	}{
		{"last", bus.Last(3), 18}, {"after", bus.After(cursors[4]), 6}, {"since", bus.Since(time.Now().Add(-time.Hour)), 1},
		{"all", bus.All(), 1}, {"none", bus.Last(0), 21}, {"default", wide, 21},
	} {
		name := start.name
		gate, open := c.gate()
		h := &history{name: "a durable group that starts with " + name}
		member := func(option bus.SubscribeOption) bus.Subscription {
			sub := c.subscribeFunc(b, c.subject("a.>"), func(_ context.Context, m *bus.Message) error {
				<-gate
				h.message(m)
				return nil
			}, bus.DurableGroup(c.group(name)), bus.Attempts(0), option) // it doesn't wait for the handler
			select {
			case <-sub.CaughtUp():
			default:
				c.Errorf("%s: CaughtUp is open when Subscribe has returned", h.name)
			}
			return sub
		}
		first := member(start.option)
		open()
		want := sequence("p", start.first, 20)
		c.awaitAll(h, want...)
		// It begins once: whoever comes later, and wherever they would start.
		member(bus.All())
		c.unsubscribe(first)
		end := "end of " + name
		c.publish(b, c.subject("a."+name), end)
		c.awaitText(h, end)
		h.mark("end")
		c.judge(h, unique, func(events []event) *fault {
			for at, e := range events {
				if _, n, ok := number(e.text); ok && n < start.first {
					return &fault{at, fmt.Sprintf("the group starts with message %d", start.first)}
				}
			}
			return nil
		})
	}
	_, err := b.Subscribe(c.ctx, c.subject("a.>"), (&history{}).handler(), bus.DurableGroup(c.group("per-subject")), bus.Attempts(0), bus.LastPerSubject())
	if !errors.Is(err, bus.ErrUnsupported) {
		c.Errorf("LastPerSubject in a durable group: want ErrUnsupported, have %v", err)
	}
}
