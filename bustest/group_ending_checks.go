package bustest

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

func groupEndings(c *C) {
	b := c.Bus()
	c.flavours(b, func(g flavour) {
		// In its handler.
		leaves := &history{name: g.name + ", the member that goes in its handler"}
		var itself atomic.Pointer[bus.Subscription]
		left := make(chan error, 1)
		sub := c.subscribeFunc(b, g.pattern, func(ctx context.Context, m *bus.Message) error {
			leaves.message(m)
			left <- (*itself.Load()).Unsubscribe(ctx)
			return nil
		}, g.option)
		itself.Store(&sub)
		select {
		case <-sub.CaughtUp():
		default:
			c.Errorf("%s: CaughtUp is open when Subscribe has returned", g.name)
		}
		c.publish(b, g.subjects[0], "the first")
		if err := receive(c, left, "Unsubscribe in the handler to return"); err != nil {
			c.Errorf("%s: Unsubscribe in the handler: %v", g.name, err)
		}
		receive(c, sub.Done(), "Done to close")
		if err := sub.Err(); err != nil {
			c.Errorf("%s: Err after Unsubscribe: %v", g.name, err)
		}

		// With the context of Until. The rest goes to the other.
		ctx, cancel := context.WithCancel(c.ctx)
		stays := &history{name: g.name + ", the member that stays"}
		until := c.member(b, g, stays, bus.Until(ctx))
		c.member(b, g, stays)
		cancel()
		receive(c, until.Done(), "Done to close after Until's context has ended")
		if err := until.Err(); !errors.Is(err, context.Canceled) {
			c.Errorf("%s: Err: want context.Canceled, have %v", g.name, err)
		}
		want := sequence("p", 1, 10)
		c.publishOn(b, g.subjects, want...)
		c.awaitAll(stays, want...)
		c.judge(leaves, exactly("the first"))
		c.judge(stays, unique, quiet)
	})
}

func groupClose(c *C) {
	b := c.Bus()
	histories := map[string]*history{}
	want := sequence("p", 1, 60)
	c.flavours(b, func(g flavour) {
		all := &history{name: g.name + ", closed while its members are at work"}
		histories[g.name] = all
		for range 2 {
			c.subscribeFunc(b, g.pattern, func(_ context.Context, m *bus.Message) error {
				runtime.Gosched()
				all.message(m)
				return nil
			}, g.option, wide)
		}
		c.publishOn(b, g.subjects, want...)
	})
	c.close(b)
	for _, all := range histories {
		c.judge(all, complete(want...), unique)
	}

	// In a member's handler it doesn't wait.
	b = c.Bus()
	inside, closed, open := make(chan struct{}), make(chan error, 1), []<-chan struct{}{}
	c.flavours(b, func(g flavour) {
		all := &history{name: g.name + ", closed in a handler"}
		histories[g.name] = all
		for range 2 {
			sub := c.subscribeFunc(b, g.pattern, func(ctx context.Context, m *bus.Message) error {
				all.message(m)
				if string(m.Data) == "closes" {
					<-inside
					closed <- b.Close(ctx)
				}
				return nil
			}, g.option, wide)
			open = append(open, sub.Done())
		}
		c.publishOn(b, g.subjects, want...)
	})
	c.publish(b, c.subject("free.a"), "closes")
	close(inside)
	if err := receive(c, closed, "Close in a handler to return"); err != nil {
		c.Errorf("Close in a handler: %v", err)
	}
	for _, done := range open {
		receive(c, done, "a group's members to end with the bus")
	}
	for _, all := range histories {
		c.judge(all, complete(want...), unique)
	}
}

func groupStreamChanged(c *C) {
	b := c.Bus()
	// Nothing captures it, then a stream does. A pattern that spans may go on or end.
	members := []*history{c.subscribe(b, c.subject("a.x"), bus.Group(c.group("g")))}
	spans := c.subscribe(b, c.subject("*.x"), bus.Group(c.group("g")))
	apart := c.subscribe(b, c.subject("b.y"), bus.Group(c.group("g")))
	config := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>"), c.subject("c.>")}}
	c.ensure(b, config)
	c.changed(members)
	c.publish(b, c.subject("a.x"), "captured now")
	c.goesOn(spans, "captured now")
	// A stream captures them, then it doesn't.
	members = []*history{c.subscribe(b, c.subject("a.x"), bus.Group(c.group("g")))}
	if c.h.claims(DurableGroups) {
		members = append(members, c.subscribe(b, c.subject("a.*"), bus.DurableGroup(c.group("d")), bus.Attempts(0)))
	}
	config.Subjects = config.Subjects[1:]
	c.ensure(b, config)
	c.changed(members)
	c.publish(b, c.subject("b.y"), "unharmed")
	c.awaitText(apart, "unharmed")
	if err := apart.sub.Err(); err != nil {
		c.Errorf("a group that has nothing to do with it: %v", err)
	}
}

// changed: these subscriptions end since what captures their pattern has changed.
func (c *C) changed(members []*history) {
	for _, h := range members {
		receive(c, h.sub.Done(), "a member of "+h.name+" to end")
		if err := h.sub.Err(); !errors.Is(err, bus.ErrStreamChanged) {
			c.Errorf("%s: Err: want ErrStreamChanged, have %v", h.name, err)
		}
		c.awaitProblem(h, bus.ErrStreamChanged)
	}
}

func cutShort(c *C) {
	b := c.Bus()
	group := c.workers(b)
	letters := c.subscribe(b, c.deadOf("g", "held.>"))
	attempts := bus.Attempts(2, time.Millisecond)
	all := &history{name: "the group"}
	inside := make(chan struct{}, 1)
	// Its second and last attempt is cut short.
	first := c.subscribeFunc(b, c.subject("held.*"), func(ctx context.Context, m *bus.Message) error {
		all.message(m)
		if m.Attempt == 1 {
			return errOnPurpose
		}
		inside <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}, group, attempts, bus.OnError(all.hook()))
	c.publish(b, c.subject("held.a"), "cut short")
	receive(c, inside, "the last attempt to begin")
	c.unsubscribe(first)
	c.settle() // in which it isn't buried
	second := c.subscribe(b, c.subject("held.*"), group, attempts)
	c.awaitText(second, "cut short")
	c.publish(b, c.subject("held.a"), "end")
	c.awaitText(second, "end")
	c.unsubscribe(second.sub)

	// A repetition that waits when the last member leaves.
	failed := make(chan struct{})
	tell := sync.OnceFunc(func() { close(failed) })
	third := c.subscribeFunc(b, c.subject("held.*"), func(context.Context, *bus.Message) error {
		tell()
		return errOnPurpose
	}, group, bus.Attempts(0, min(c.h.Settle, 100*time.Millisecond)), bus.OnError(all.hook()))
	c.publish(b, c.subject("held.a"), "waits")
	receive(c, failed, "the handler to fail")
	c.unsubscribe(third)
	fourth := c.subscribe(b, c.subject("held.*"), group, attempts)
	c.awaitText(fourth, "waits")
	c.judge(second, unique, quiet)
	c.judge(letters, exactly(), quiet)
}

func durableGroupReopen(c *C) {
	e := c.env()
	b, err := c.h.Open(e) // whether its Close fails isn't said when a handler heeds its context
	if err != nil {
		c.Fatalf("Open: %v", err)
	}
	c.Cleanup(func() { _ = b.Close(c.ctx) }) // again, or after a failure
	group := c.workers(b)
	attempts := bus.Attempts(1, time.Millisecond)
	all := &history{name: "the group"}
	inside := make(chan struct{}, 1)
	want := sequence("done", 1, 20)
	for range 2 {
		c.subscribeFunc(b, c.subject("held.*"), func(ctx context.Context, m *bus.Message) error {
			all.message(m)
			if string(m.Data) == "cut short" {
				inside <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, group, attempts, bus.OnError(all.hook()))
	}
	c.publishOn(b, []string{c.subject("held.a"), c.subject("held.b")}, want...)
	c.awaitAll(all, want...)
	c.publish(b, c.subject("held.a"), "cut short")
	receive(c, inside, "the handler to be called")
	ctx, cancel := context.WithTimeout(c.ctx, min(c.h.Settle, 100*time.Millisecond))
	defer cancel()
	if err := b.Close(ctx); err != nil && !errors.Is(err, bus.ErrHandlersRunning) {
		c.Errorf("Close: %v", err)
	}

	b = c.open(e)
	c.publish(b, c.subject("held.a"), "while nobody is subscribed")
	again := c.subscribe(b, c.subject("held.*"), group, attempts)
	again.name = "the group, opened again"
	c.awaitAll(again, "cut short", "while nobody is subscribed")
	c.publish(b, c.subject("held.b"), "end")
	c.awaitText(again, "end")
	c.judge(again, unique, quiet)
	if n := len(again.all()); n != 3 {
		c.Errorf("%d messages were delivered after 3 that were not done:\n%s", n, around(again.all(), n))
	}
	c.checkStored(b, c.deadOf("g", "held.>"))
	if _, err := b.Subscribe(c.ctx, c.subject("held.a"), again.handler(), group, attempts); !errors.Is(err, bus.ErrConflict) {
		c.Errorf("the same name on another pattern: want ErrConflict, have %v", err)
	}
}

// remover returns what removes; a bus whose groups are durable has it.
func (c *C) remover(b bus.Bus) bus.Remover {
	r, ok := b.(bus.Remover)
	if !ok {
		c.Fatalf("a bus with durable groups is no bus.Remover: nobody can get rid of one")
	}
	return r
}

func removeGroup(c *C) {
	b := c.Bus()
	r := c.remover(b)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	if err := r.RemoveGroup(c.ctx, c.group("none")); err != nil {
		c.Errorf("RemoveGroup of none: %v", err)
	}
	subscribe := func(group, pattern string, opts ...bus.SubscribeOption) *history {
		return c.subscribe(b, c.subject(pattern), append(opts, bus.DurableGroup(c.group(group)), bus.Attempts(0))...)
	}
	members := []*history{subscribe("g", "held.*"), subscribe("g", "held.*")}
	other := subscribe("other", "held.*")
	c.publish(b, c.subject("held.a"), "done")
	c.awaitText(other, "done")
	if err := r.RemoveGroup(c.ctx, c.group("g")); err != nil {
		c.Errorf("RemoveGroup: %v", err)
	}
	c.changed(members)
	c.publish(b, c.subject("held.a"), "meanwhile")
	// It is made again, on another pattern and where it is told to.
	again := subscribe("g", "held.a", bus.All())
	c.awaitAll(again, "done", "meanwhile")
	c.unsubscribe(again.sub)
	if err := r.RemoveGroup(c.ctx, c.group("g")); err != nil {
		c.Errorf("RemoveGroup without a member: %v", err)
	}
	once := subscribe("g", "held.*")
	c.publish(b, c.subject("held.a"), "end")
	c.awaitText(once, "end")
	c.awaitAll(other, "meanwhile", "end")
	c.judge(once, exactly("end"))
	c.judge(other, unique, quiet)
}

func groupStreamRemoved(c *C) {
	b := c.Bus()
	r := c.remover(b)
	config := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}}
	c.ensure(b, config)
	durable := func() *history {
		return c.subscribe(b, c.subject("held.*"), bus.DurableGroup(c.group("g")), bus.Attempts(0))
	}
	members := []*history{durable()}
	if c.h.claims(Groups) {
		members = append(members, c.subscribe(b, c.subject("held.*"), bus.Group(c.group("g"))))
	}
	for _, text := range sequence("p", 1, 10) {
		c.publish(b, c.subject("held.a"), text)
	}
	for _, h := range members {
		c.awaitText(h, numbered("p", 10))
	}
	if err := r.RemoveStream(c.ctx, config.Name); errors.Is(err, bus.ErrUnsupported) {
		c.NotClaimed("RemoveStream: %v", err)
	} else if err != nil {
		c.Fatalf("RemoveStream: %v", err)
	}
	c.changed(members)
	c.ensure(b, config)
	again := durable()
	c.publish(b, c.subject("held.a"), "in the new stream")
	c.awaitText(again, "in the new stream")
	c.judge(again, exactly("in the new stream"))
}
