package bustest

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-go/jitney/bus"
)

// Calls that are blocked or wrong.
var callChecks = []Check{
	{
		Name: "BadOptions", Run: badOptions,
		Rule:   "Subscribe without a handler, to the last -1 messages or with a negative Buffer is an error and subscribes nothing",
		Origin: "nats.go#48: Subscribe without a handler is no error on one connection and panics on another",
	},
	{
		Name: "UnsubscribeDeadline", Run: unsubscribeDeadline,
		Rule: "Unsubscribe ends by its context's deadline while a handler runs, and that handler is the last",
	},
	{
		Name: "UnsubscribeEachOther", Run: unsubscribeEachOther,
		Rule: "two running handlers that unsubscribe each other don't wait for each other",
	},
	{
		Name: "CloseUnblocks", Run: closeUnblocks,
		Rule:   "Close ends calls that are blocked, with ErrClosed, while it waits for handlers",
		Origin: "stan.java#79: publishes stay blocked on a connection that was closed",
	},
	{
		Name: "Causal", Run: causal, Needs: []Ability{TotalOrder},
		Rule: "what is published on seeing a message comes behind it everywhere in the process",
	},
}

func badOptions(c *C) {
	b := c.Bus()
	h := &history{name: "a subscription that was refused"}
	c.kinds(b, func(root string) {
		for what, subscribe := range map[string]func() (bus.Subscription, error){
			"without a handler": func() (bus.Subscription, error) { return b.Subscribe(c.ctx, c.subject(root+".a"), nil) },
			"to the last -1": func() (bus.Subscription, error) {
				return b.Subscribe(c.ctx, c.subject(root+".a"), h.handler(), bus.Last(-1))
			},
			"with Buffer(-1, 1)": func() (bus.Subscription, error) {
				return b.Subscribe(c.ctx, c.subject(root+".a"), h.handler(), bus.Buffer(-1, 1))
			},
			"with Buffer(1, -1)": func() (bus.Subscription, error) {
				return b.Subscribe(c.ctx, c.subject(root+".a"), h.handler(), bus.Buffer(1, -1))
			},
		} {
			if sub, err := subscribe(); err == nil || sub != nil {
				c.Errorf("Subscribe %s: want an error and no subscription, have %v (a subscription: %t)", what, err, sub != nil)
			}
		}
		watch := c.subscribe(b, c.subject(root+".a"))
		c.publish(b, c.subject(root+".a"), "end")
		c.awaitText(watch, "end")
	})
	c.judge(h, exactly())
}

func unsubscribeDeadline(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		h, open := c.block(b, root)
		c.publish(b, c.subject(root+".a"), "waits")
		ctx, cancel := context.WithCancel(c.ctx)
		cancel()
		returned := make(chan error, 1)
		c.start(func() { returned <- h.sub.Unsubscribe(ctx) })
		if err := receive(c, returned, "Unsubscribe to end by its context"); !errors.Is(err, context.Canceled) {
			c.Errorf("%s: Unsubscribe while a handler runs: want context.Canceled, have %v", root, err)
		}
		select {
		case <-h.sub.Done():
			c.Errorf("%s: Done is closed while a handler runs", root)
		default:
		}
		open()
		if err := h.sub.Unsubscribe(c.ctx); err != nil {
			c.Errorf("%s: Unsubscribe once more: %v", root, err)
		}
		receive(c, h.sub.Done(), "Done to close when the handler has returned")
		c.judge(h, exactly("blocks"))
	})
}

func unsubscribeEachOther(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		h := &history{name: root + ", two that end each other"}
		var subs [2]bus.Subscription
		begin, begun := c.gate()
		inside := make(chan struct{}, 2)
		for i := range subs {
			subs[i] = c.subscribeFunc(b, c.subject(root+".a"), func(ctx context.Context, m *bus.Message) error {
				h.message(m)
				inside <- struct{}{}
				<-begin
				if err := subs[1-i].Unsubscribe(ctx); err != nil {
					c.Errorf("Unsubscribe in another's handler: %v", err)
				}
				return nil
			})
		}
		c.publish(b, c.subject(root+".a"), "first")
		for range subs {
			receive(c, inside, "both handlers to be called")
		}
		begun()
		for _, sub := range subs {
			receive(c, sub.Done(), "two handlers that unsubscribe each other to return")
		}
		c.judge(h, exactly("first", "first"))
	})
}

func closeUnblocks(c *C) {
	// An Unsubscribe that waits for its handler.
	b := c.Bus()
	gate, open := c.gate()
	ending := make(chan struct{})
	inside := make(chan struct{}, 1)
	sub := c.subscribeFunc(b, c.subject("free"), func(ctx context.Context, m *bus.Message) error {
		inside <- struct{}{}
		<-ctx.Done()
		close(ending)
		<-gate
		return nil
	})
	c.publish(b, c.subject("free"), "x")
	receive(c, inside, "the handler to be called")
	unsubscribed := make(chan error, 1)
	c.start(func() { unsubscribed <- sub.Unsubscribe(c.ctx) })
	receive(c, ending, "the handler's context to end with its subscription")
	c.closeUnblocks(b, "Unsubscribe, which waits for a handler,", unsubscribed, open)
	receive(c, sub.Done(), "Done to close")
	if err := sub.Unsubscribe(c.ctx); err != nil {
		c.Errorf("Unsubscribe once more: %v", err)
	}
	if !c.h.claims(Streams) {
		return
	}

	// A Subscribe that waits for its replay.
	b, _ = c.filled(3)
	gate, open = c.gate()
	subscribed := make(chan error, 1)
	c.start(func() {
		_, err := b.Subscribe(c.ctx, c.subject("a.>"), func(context.Context, *bus.Message) error {
			select {
			case inside <- struct{}{}:
			default:
			}
			<-gate
			return nil
		}, bus.All())
		subscribed <- err
	})
	receive(c, inside, "the replay to begin")
	c.closeUnblocks(b, "Subscribe, which waits for a replay,", subscribed, open)
}

// closeUnblocks closes a bus, which ends a call that waits for a handler. Then the handler is let go.
func (c *C) closeUnblocks(b bus.Bus, what string, call <-chan error, open func()) {
	closed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Settle+c.h.Patience)
	defer cancel()
	c.start(func() { closed <- b.Close(ctx) })
	if err := receive(c, call, what+" to return when the bus is closed"); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("%s meets Close: want ErrClosed, have %v", what, err)
	}
	open()
	if err := receive(c, closed, "Close to return"); err != nil {
		c.Errorf("Close: %v", err)
	}
}

func causal(c *C) {
	b := c.Bus()
	const n = 50
	c.kinds(b, func(root string) {
		var seen []*history
		for range 2 {
			seen = append(seen, c.subscribe(b, c.subject(root+".*"), wide))
		}
		c.subscribeFunc(b, c.subject(root+".cause"), func(ctx context.Context, m *bus.Message) error {
			if err := b.Publish(ctx, c.subject(root+".effect"), []byte("effect of "+string(m.Data))); err != nil {
				c.Errorf("Publish in a handler: %v", err)
			}
			return nil
		}, wide)
		for range 2 {
			seen = append(seen, c.subscribe(b, c.subject(root+".*"), wide))
		}
		for _, text := range sequence("p", 1, n) {
			c.publish(b, c.subject(root+".cause"), text)
		}
		for _, h := range seen {
			c.awaitText(h, "effect of "+numbered("p", n))
			c.judge(h, unique, func(events []event) *fault {
				caused := map[string]bool{}
				for at, e := range events {
					caused["effect of "+e.text] = true
					if e.subject == c.subject(root+".effect") && !caused[e.text] {
						return &fault{at, fmt.Sprintf("%q came before its cause", e.text)}
					}
				}
				return nil
			})
		}
	})
}
