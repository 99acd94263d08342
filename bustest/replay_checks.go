package bustest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var replayChecks = []Check{
	{
		Name: "ReplayAllThenLive", Run: replayAllThenLive, Needs: []Ability{Streams},
		Rule:   "All delivers what is stored, in order, and then what is published",
		Origin: "ballerina-platform/ballerina-library#1420: a replay comes in another order",
	},
	{
		Name: "LastN", Run: lastN, Needs: []Ability{Streams},
		Rule:   "Last(n) delivers the last n stored messages of all that match; Last(0) only new ones",
		Origin: "igniterealtime/Openfire#998: the last ten messages are eleven",
	},
	{
		Name: "AfterCursor", Run: afterCursor, Needs: []Ability{Streams},
		Rule:   "After delivers what stands strictly behind the cursor",
		Origin: "r3labs/sse sends the last event that was seen again; MAIF/izanami#51",
	},
	{
		Name: "AfterOtherEpoch", Run: afterOtherEpoch, Needs: []Ability{Streams},
		Rule:   "a resume from another epoch is ErrGap, then the stream from its start",
		Origin: "NATS's ordered consumer goes on at the old sequence in a stream that was made anew; centrifugal/centrifuge-go#160",
	},
	{
		Name: "SinceTime", Run: sinceTime, Needs: []Ability{Streams},
		Rule:   "Since starts with the first message stored at or after the time, and with the oldest for the zero time",
		Origin: "natsbus panicked for the zero time",
	},
	{
		Name: "LastPerSubject", Run: lastPerSubject, Needs: []Ability{Streams},
		Rule:   "LastPerSubject delivers the last stored message of each subject, in the stream's order",
		Origin: "nats.go#1662, nats-server#7005, #2390: several messages of a subject, or not its last",
	},
	{
		Name: "ReplayFilter", Run: replayFilter, Needs: []Ability{Streams},
		Rule:   "a replay holds only what the pattern matches",
		Origin: "nats.java#475, JasperFx/wolverine#3676: consumers without their filter get the whole stream",
	},
	{
		Name: "SubscribeWaits", Run: subscribeWaits, Needs: []Ability{Streams},
		Rule: "Subscribe returns when the handler has returned for each stored message, whatever is published meanwhile; with Background it doesn't wait",
	},
	{
		Name: "CaughtUp", Run: caughtUp, Needs: []Ability{Streams},
		Rule:   "CaughtUp closes when what was stored has been handled, whatever is published meanwhile, at once when nothing was",
		Origin: "dunglas/mercure#1321: a subscriber is told that it has caught up with what it never got",
	},
	{
		Name: "StartUncaptured", Run: startUncaptured,
		Rule: "a start position on a pattern that isn't captured as a whole is ErrNoStream, naming the streams it touches",
	},
}

// filled is a stream on a.> that holds p#1 to p#n, on a.x and a.y in turn.
func (c *C) filled(n int) (b bus.Bus, cursors []bus.Cursor) {
	b = c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	for i, text := range sequence("p", 1, n) {
		cursors = append(cursors, c.store(b, c.subject("a."+[]string{"x", "y"}[i%2]), text))
	}
	return b, cursors
}

func replayAllThenLive(c *C) {
	b, _ := c.filled(20)
	h := c.subscribe(b, c.subject("a.>"), bus.All())
	h.mark("Subscribe has returned")
	for _, text := range sequence("p", 21, 40) {
		c.publish(b, c.subject("a.x"), text)
	}
	c.awaitText(h, numbered("p", 40))
	c.judge(h, exactly(sequence("p", 1, 40)...), inStreamOrder, replayedFirst, quiet)
	for _, e := range h.all() {
		if _, n, _ := number(e.text); e.kind == delivered && e.replayed != (n <= 20) {
			c.Errorf("message %d of 20 stored and 20 live ones says replayed: %t", n, e.replayed)
		}
	}
}

func lastN(c *C) {
	b, _ := c.filled(11)
	for _, n := range []int{0, 1, 5, 10, 11, 12, 1000} {
		h := c.subscribe(b, c.subject("a.>"), bus.Last(n))
		h.name = fmt.Sprintf("Last(%d) of 11", n)
		c.judge(h, exactly(sequence("p", max(1, 12-n), 11)...))
	}
	h := c.subscribe(b, c.subject("a.y"), bus.Last(3))
	h.name = "Last(3) of 5 on one of two subjects"
	c.publish(b, c.subject("a.y"), "live")
	c.awaitText(h, "live")
	c.judge(h, exactly(numbered("p", 6), numbered("p", 8), numbered("p", 10), "live"), inStreamOrder, quiet)
	none := c.subscribe(b, c.subject("a.none"), bus.Last(3))
	c.publish(b, c.subject("a.none"), "live")
	c.awaitText(none, "live")
	c.judge(none, exactly("live"))
	zero := c.subscribe(b, c.subject("a.y"), bus.Last(0))
	c.publish(b, c.subject("a.y"), "live")
	c.awaitText(zero, "live")
	c.judge(zero, exactly("live"))
}

func afterCursor(c *C) {
	b, cursors := c.filled(10)
	for i, cursor := range cursors {
		h := c.subscribe(b, c.subject("a.>"), bus.After(cursor))
		h.name = fmt.Sprintf("after message %d of 10", i+1)
		c.judge(h, exactly(sequence("p", i+2, 10)...), inStreamOrder, quiet)
	}
	last := c.subscribe(b, c.subject("a.>"), bus.After(cursors[9]))
	other := c.subscribe(b, c.subject("a.x"), bus.After(cursors[1])) // which is on a.y
	c.publish(b, c.subject("a.x"), "live")
	c.awaitText(last, "live")
	c.judge(last, exactly("live"), quiet)
	c.awaitText(other, "live")
	c.judge(other, exactly(numbered("p", 3), numbered("p", 5), numbered("p", 7), numbered("p", 9), "live"), quiet)
}

func afterOtherEpoch(c *C) {
	b, cursors := c.filled(5)
	h := c.subscribe(b, c.subject("a.>"), bus.After(bus.NewCursor("another", cursors[3].Sequence())))
	c.publish(b, c.subject("a.x"), "live")
	c.awaitText(h, "live")
	c.judge(h, exactly(append(sequence("p", 1, 5), "live")...), gapFirst)
}

// gapFirst: ErrGap was told before the first message.
func gapFirst(events []event) *fault {
	for at, e := range events {
		if e.kind == problem && errors.Is(e.problem.Err, bus.ErrGap) {
			return nil
		}
		if e.kind == delivered {
			return &fault{at, "no ErrGap was told before the first message"}
		}
	}
	return &fault{len(events), "no ErrGap was told"}
}

func sinceTime(c *C) {
	b, cursors := c.filled(6)
	all := c.subscribe(b, c.subject("a.>"), bus.All())
	times := map[bus.Cursor]time.Time{}
	for _, e := range all.all() {
		times[e.cursor] = e.msg.Time
	}
	// A clock may be too coarse to tell neighbours apart, so look at the times.
	for _, cursor := range cursors {
		at := times[cursor]
		h := c.subscribe(b, c.subject("a.>"), bus.Since(at))
		h.name = "since " + at.Format(time.RFC3339Nano)
		var want []string
		for i, other := range cursors {
			if len(want) > 0 || !times[other].Before(at) {
				want = append(want, numbered("p", i+1))
			}
		}
		c.judge(h, exactly(want...), inStreamOrder)
	}
	future := c.subscribe(b, c.subject("a.>"), bus.Since(times[cursors[5]].Add(24*time.Hour)))
	c.judge(future, exactly())
	ever := c.subscribe(b, c.subject("a.>"), bus.Since(time.Time{}))
	ever.name = "since the zero time"
	c.judge(ever, exactly(sequence("p", 1, 6)...))
	past := c.subscribe(b, c.subject("a.>"), bus.Since(times[cursors[0]].Add(-24*time.Hour)))
	c.publish(b, c.subject("a.x"), "live")
	c.awaitText(past, "live")
	c.judge(past, exactly(append(sequence("p", 1, 6), "live")...))
	c.settle() // behind which even a coarse clock tells them apart
	c.publish(b, c.subject("a.x"), "later")
	later := c.awaitText(past, "later").msg.Time
	h := c.subscribe(b, c.subject("a.>"), bus.Since(later))
	c.judge(h, exactly("later"))
}

func lastPerSubject(c *C) {
	b, _ := c.filled(10)
	c.publish(b, c.subject("a.z"), "third")
	c.publish(b, c.subject("a.x"), "new first")
	h := c.subscribe(b, c.subject("a.>"), bus.LastPerSubject())
	c.publish(b, c.subject("a.x"), "live")
	c.publish(b, c.subject("a.x"), "live too")
	c.awaitText(h, "live too")
	c.judge(h, exactly(numbered("p", 10), "third", "new first", "live", "live too"), inStreamOrder)
}

func replayFilter(c *C) {
	b, _ := c.filled(10)
	c.publish(b, c.subject("a.x.y"), "deep")
	h := c.subscribe(b, c.subject("a.x"), bus.All())
	c.judge(h, exactly(numbered("p", 1), numbered("p", 3), numbered("p", 5), numbered("p", 7), numbered("p", 9)))
	h = c.subscribe(b, c.subject("*.*"), bus.Last(0))
	c.publish(b, c.subject("a.x"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
}

func subscribeWaits(c *C) {
	b, _ := c.filled(20)
	h := &history{name: "a.>"}
	gate, open := c.gate()
	meanwhile := &history{name: "what is published meanwhile"}
	live, openLive := c.gate()
	inside := make(chan struct{}, 1)
	handler := func(_ context.Context, m *bus.Message) error {
		if string(m.Data) == "live" {
			meanwhile.message(m)
			<-live
			return nil
		}
		h.message(m)
		if string(m.Data) == numbered("p", 20) {
			inside <- struct{}{}
			<-gate
		}
		h.add(event{kind: returned, text: string(m.Data)})
		return nil
	}
	done := c.start(func() {
		if _, err := b.Subscribe(c.ctx, c.subject("a.>"), handler, bus.All()); err != nil {
			c.Errorf("Subscribe: %v", err)
		}
		h.mark("Subscribe has returned")
	})
	receive(c, inside, "the replay to reach its last message")
	c.settle()
	c.publish(b, c.subject("a.x"), "live")
	open()
	receive(c, done, "Subscribe to return after the replay, while the handler has a live message")
	openLive()
	c.awaitText(meanwhile, "live")
	c.judge(h, exactly(sequence("p", 1, 20)...), fenced("Subscribe has returned"))

	background, open := c.gate()
	defer open()
	c.subscribeFunc(b, c.subject("a.>"), func(context.Context, *bus.Message) error {
		<-background
		return nil
	}, bus.All(), bus.Background()) // which would fail by the watchdog
}

func caughtUp(c *C) {
	b, _ := c.filled(20)
	h := &history{name: "a.>"}
	gate, open := c.gate()
	meanwhile := &history{name: "what is published meanwhile"}
	live, openLive := c.gate()
	sub := c.subscribeFunc(b, c.subject("a.>"), func(_ context.Context, m *bus.Message) error {
		if string(m.Data) == "live" {
			meanwhile.message(m)
			<-live
			return nil
		}
		h.message(m)
		if string(m.Data) == numbered("p", 18) {
			<-gate
		}
		h.add(event{kind: returned, text: string(m.Data)})
		return nil
	}, bus.All(), bus.Background())
	done := c.start(func() {
		select {
		case <-sub.CaughtUp():
			h.mark("CaughtUp has closed")
		case <-c.ctx.Done():
		}
	})
	c.awaitText(h, numbered("p", 18))
	c.settle()
	c.publish(b, c.subject("a.x"), "live")
	open()
	receive(c, done, "CaughtUp to close, while the handler has a live message")
	openLive()
	c.awaitText(meanwhile, "live")
	c.judge(h, exactly(sequence("p", 1, 20)...), fenced("CaughtUp has closed"))
	for _, opts := range [][]bus.SubscribeOption{{bus.All(), bus.Background()}, {bus.Last(1)}, {}} {
		empty := c.subscribe(b, c.subject("a.none"), opts...)
		receive(c, empty.sub.CaughtUp(), "CaughtUp to close when nothing was stored")
	}
	free := c.subscribe(b, c.subject("free"))
	receive(c, free.sub.CaughtUp(), "CaughtUp to close on an uncaptured subject")
}

func startUncaptured(c *C) {
	b := c.Bus()
	patterns := map[string][]string{"free": nil}
	if c.h.claims(Streams) {
		c.ensure(b,
			bus.StreamConfig{Name: c.stream("ONE"), Subjects: []string{c.subject("one.a.*")}},
			bus.StreamConfig{Name: c.stream("TWO"), Subjects: []string{c.subject("two.>")}})
		patterns = map[string][]string{
			"free": nil, "one.>": {"ONE"}, "one.*.b": {"ONE"}, "*.a.b": {"ONE", "TWO"}, ">": {"ONE", "TWO"},
		}
		c.publish(b, c.subject("one.a.b"), "stored")
	}
	start := map[string]bus.SubscribeOption{
		"Last": bus.Last(1), "All": bus.All(), "After": bus.After(bus.NewCursor("epoch", 1)),
		"Since": bus.Since(time.Now().Add(-time.Hour)), "LastPerSubject": bus.LastPerSubject(),
	}
	h := &history{name: "a subscription that was refused"}
	for pattern, touched := range patterns {
		for name, opt := range start {
			_, err := b.Subscribe(c.ctx, c.subject(pattern), h.handler(), opt)
			if !c.isNoStream(err) {
				c.Errorf("%s on %s: want ErrNoStream, have %v", name, pattern, err)
				continue
			}
			for _, stream := range touched {
				if !strings.Contains(err.Error(), c.stream(stream)) {
					c.Errorf("%s on %s: the error doesn't name stream %s: %v", name, pattern, stream, err)
				}
			}
		}
		// Only new messages need no past.
		c.subscribe(b, c.subject(pattern), bus.Last(0))
	}
	watch := c.subscribe(b, c.subject(">"))
	c.publish(b, c.subject("free"), "end")
	c.awaitText(watch, "end")
	c.judge(h, exactly())
}
