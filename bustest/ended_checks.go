package bustest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// endedHandler is of a subscription that has ended while its handler runs.
type endedHandler struct {
	pattern string
	*history
}

// endWhileRunning has one subscription end in each of the ways there are, while its handler waits for the gate. The handler
// calls last before it returns.
func (c *C) endWhileRunning(b bus.Bus, gate <-chan struct{}, last func(ctx context.Context, h *history)) []endedHandler {
	done, cancel := context.WithCancel(c.ctx)
	cancel()
	var ended []endedHandler
	begin := func(what, subject string, subscribe func(pattern string, handler bus.Handler) bus.Subscription, within func(ctx context.Context)) bus.Subscription {
		h := endedHandler{c.subject(subject + ".*"), &history{name: "the handler of " + what}}
		ended = append(ended, h)
		inside := make(chan struct{}, 1)
		sub := subscribe(h.pattern, func(ctx context.Context, m *bus.Message) error {
			h.message(m)
			if within != nil {
				within(ctx)
			}
			inside <- struct{}{}
			<-gate
			last(ctx, h.history)
			h.add(event{kind: returned, text: string(m.Data)})
			return nil
		})
		c.publish(b, c.subject(subject+".a"), "runs")
		receive(c, inside, h.name+" to be called")
		return sub
	}
	with := func(opts ...bus.SubscribeOption) func(string, bus.Handler) bus.Subscription {
		return func(pattern string, handler bus.Handler) bus.Subscription {
			return c.subscribeFunc(b, pattern, handler, opts...)
		}
	}
	giveUp := func(sub bus.Subscription) {
		if err := sub.Unsubscribe(done); !errors.Is(err, context.Canceled) {
			c.Errorf("Unsubscribe while the handler runs, with a context that is done: want context.Canceled, have %v", err)
		}
	}

	giveUp(begin("a subscription whose Unsubscribe has given up", "waited", with(), nil))

	until, over := context.WithCancel(c.ctx)
	defer over()
	sub := begin("a subscription whose Until has ended", "until", with(bus.Until(until)), nil)
	over()
	c.until("Err to say that Until has ended", c.h.Patience, func(int) bool { return sub.Err() != nil })

	itself := make(chan bus.Subscription, 1)
	begin("a subscription that has ended itself", "itself", func(pattern string, handler bus.Handler) bus.Subscription {
		sub := c.subscribeFunc(b, pattern, handler)
		itself <- sub
		return sub
	}, func(ctx context.Context) {
		if err := (<-itself).Unsubscribe(ctx); err != nil {
			c.Errorf("Unsubscribe in the handler: %v", err)
		}
	})
	if c.h.claims(Groups) {
		giveUp(begin("a member that has left its group", "group", with(bus.Group(c.group("g"))), nil))
	}
	if !c.h.claims(Streams) {
		return ended
	}

	c.ensure(b,
		bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("replay.*"), c.subject("durable.*")}},
		bus.StreamConfig{Name: c.stream("GONE"), Subjects: []string{c.subject("gone.*")}})
	if c.h.claims(DurableGroups) {
		giveUp(begin("a member that has left its durable group", "durable", with(bus.DurableGroup(c.group("d")), bus.Attempts(0)), nil))
	}

	ctx, cut := context.WithCancel(c.ctx)
	defer cut()
	subscribed := make(chan error, 1)
	begin("a Subscribe that was cut short in its replay", "replay", func(pattern string, handler bus.Handler) bus.Subscription {
		c.publish(b, c.subject("replay.a"), "stored")
		c.start(func() {
			_, err := b.Subscribe(ctx, pattern, handler, bus.All())
			subscribed <- err
		})
		return nil
	}, nil)
	cut()
	if err := receive(c, subscribed, "Subscribe to return when its context ends"); !errors.Is(err, context.Canceled) {
		c.Errorf("Subscribe whose context ends in the replay: want context.Canceled, have %v", err)
	}

	if r, ok := b.(bus.Remover); ok {
		sub := begin("a subscription whose stream is removed", "gone", with(), nil)
		switch err := r.RemoveStream(c.ctx, c.stream("GONE")); {
		case errors.Is(err, bus.ErrUnsupported): // so it goes on, and Close waits for it as it does for any
		case err != nil:
			c.Errorf("RemoveStream: %v", err)
		default:
			c.until("Err to say that the stream is gone", c.h.Patience, func(int) bool { return sub.Err() != nil })
		}
	}
	return ended
}

func closeWaitsForEnded(c *C) {
	b := c.Bus()
	gate, open := c.gate()
	publish := func(ctx context.Context, b bus.Bus) error { // whose subscription's end is the handler's too
		return b.Publish(context.WithoutCancel(ctx), c.subject("free"), nil)
	}
	ended := c.endWhileRunning(b, gate, func(ctx context.Context, h *history) {
		if err := publish(ctx, b); err != nil {
			c.Errorf("%s: Publish while Close waits for it: %v", h.name, err)
		}
	})
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Settle+c.h.Patience)
	defer cancel()
	closed := c.start(func() {
		if err := b.Close(ctx); err != nil && !c.Failed() {
			c.Errorf("Close: %v", err)
		}
		for _, h := range ended {
			h.mark("Close has returned")
		}
	})
	c.wait(min(c.h.Settle, defaultSettle)) // a bus may look again and again whether its handlers have returned
	open()
	receive(c, closed, "Close to return")
	for _, h := range ended {
		c.judge(h.history, fenced("Close has returned"))
	}

	// Those that don't return.
	stuck, err := c.h.Open(c.env())
	if err != nil { // its Close is to fail, so c.Bus isn't for it
		c.Fatalf("Open: %v", err)
	}
	gate, open = c.gate()
	ended = c.endWhileRunning(stuck, gate, func(ctx context.Context, h *history) {
		if err := publish(ctx, stuck); !errors.Is(err, bus.ErrClosed) {
			c.Errorf("%s: Publish after Close hasn't waited for it: want ErrClosed, have %v", h.name, err)
		}
	})
	short, cancel := context.WithTimeout(c.ctx, min(c.h.Settle, time.Second))
	defer cancel()
	result := make(chan error, 1)
	c.start(func() { result <- stuck.Close(short) })
	err = receive(c, result, "Close to end by its deadline")
	if !errors.Is(err, bus.ErrHandlersRunning) {
		c.Errorf("Close while handlers run whose subscriptions have ended: want ErrHandlersRunning, have %v", err)
	}
	for _, h := range ended {
		if !strings.Contains(fmt.Sprint(err), h.pattern) {
			c.Errorf("Close: want an error that names %s, which is that of %s, have %v", h.pattern, h.name, err)
		}
	}
	open()
	for _, h := range ended {
		c.await(h.history, "to return", func(e event) bool { return e.kind == returned })
	}
	c.wait(min(c.h.Settle, defaultSettle)) // nobody waits for what is told behind them
}
