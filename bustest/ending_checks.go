package bustest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var endingChecks = []Check{
	{
		Name: "Fence", Run: fence,
		Rule:   "after Unsubscribe has returned nil the handler isn't running and will not run again",
		Origin: "nats.go returns while the handler runs; nats.c#299, #302; go-nitro#1464",
	},
	{
		Name: "UnsubscribeTwice", Run: unsubscribeTwice,
		Rule:   "Unsubscribe is idempotent, also from several goroutines and after Close",
		Origin: "libp2p/go-libp2p#3002: the second Close panics; libp2p/go-libp2p-pubsub#200: Cancel hangs when everything has ended",
	},
	{
		Name: "OnlyItself", Run: onlyItself,
		Rule:   "Unsubscribe ends one subscription and no other with the same handler",
		Origin: "Dapr's in-memory broker removes by handler",
	},
	{
		Name: "UntilEnds", Run: untilEnds,
		Rule:   "the end of the context given as Until ends the subscription",
		Origin: "Dapr's and watermill's suites pass buses that ignore it; bus/driver missed an Until that ended during Subscribe",
	},
	{
		Name: "SubscribeContext", Run: subscribeContext,
		Rule:   "the context of Subscribe bounds the call, not the subscription",
		Origin: "bus/driver outlived the context while the backend hung",
	},
	{
		Name: "NoLeak", Run: noLeak,
		Rule:   "after Close no goroutine is left",
		Origin: "nats.go leaves consumers for five minutes; watermill's suite passes a leak",
	},
}

func fence(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		// A running handler: Unsubscribe must wait for it.
		gate, open := c.gate()
		inside := make(chan struct{}, 1)
		h := &history{name: root + ", unsubscribed while its handler runs"}
		sub := c.subscribeFunc(b, c.subject(root+".a"), func(_ context.Context, m *bus.Message) error {
			h.message(m)
			inside <- struct{}{}
			<-gate
			h.add(event{kind: returned, text: string(m.Data)})
			return nil
		})
		c.publish(b, c.subject(root+".a"), "runs")
		receive(c, inside, "the handler to be called")
		done := c.start(func() {
			if err := sub.Unsubscribe(c.ctx); err != nil && !c.Failed() {
				c.Errorf("Unsubscribe: %v", err)
			}
			h.mark("Unsubscribe has returned")
		})
		c.settle()
		open()
		receive(c, done, "Unsubscribe to return")
		receive(c, sub.Done(), "Done to close")
		c.judge(h, fenced("Unsubscribe has returned"))

		// Messages on their way: none must start its handler afterwards.
		other := c.subscribe(b, c.subject(root+".b"), wide)
		for round := range 10 {
			h := &history{name: root + ", unsubscribed under fire"}
			sub := c.subscribeFunc(b, c.subject(root+".b"), func(_ context.Context, m *bus.Message) error {
				h.message(m)
				runtime.Gosched()
				h.add(event{kind: returned, text: string(m.Data)})
				return nil
			}, wide)
			publisher := fmt.Sprint("r", round)
			fire := c.start(func() {
				for _, text := range sequence(publisher, 1, 50) {
					if err := b.Publish(c.ctx, c.subject(root+".b"), []byte(text)); err != nil {
						c.Errorf("Publish: %v", err)
					}
				}
			})
			c.await(h, "a first message", func(e event) bool { return e.kind == delivered })
			c.unsubscribe(sub)
			h.mark("Unsubscribe has returned")
			receive(c, fire, "Publish to return")
			c.awaitText(other, numbered(publisher, 50))
			c.judge(h, fenced("Unsubscribe has returned"))
		}
	})
}

func unsubscribeTwice(c *C) {
	b := c.Bus()
	first, second := c.subscribe(b, c.subject("a")), c.subscribe(b, c.subject("a"))
	c.together(8, "Unsubscribe", func(int) {
		for range 2 {
			c.unsubscribe(first.sub)
		}
	})
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
	for _, h := range []*history{first, second} {
		if err := h.sub.Unsubscribe(c.ctx); err != nil {
			c.Errorf("Unsubscribe after Close: %v", err)
		}
	}
	if err := first.sub.Err(); err != nil {
		c.Errorf("Err after Unsubscribe: %v", err)
	}
	if err := second.sub.Err(); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("Err after Close: want ErrClosed, have %v", err)
	}
}

func onlyItself(c *C) {
	b := c.Bus()
	h := &history{name: "the handler that is subscribed twice"}
	handler := h.handler()
	first := c.subscribeFunc(b, c.subject("a"), handler)
	c.subscribeFunc(b, c.subject("a"), handler)
	c.unsubscribe(first)
	c.publish(b, c.subject("a"), "to the other")
	c.awaitText(h, "to the other")
	c.settle()
	c.judge(h, exactly("to the other")) // the first has ended
}

func untilEnds(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		ctx, cancel := context.WithCancel(c.ctx)
		h := c.subscribe(b, c.subject(root+".a"), bus.Until(ctx))
		other := c.subscribe(b, c.subject(root+".a"))
		c.publish(b, c.subject(root+".a"), "before")
		c.awaitText(h, "before")
		cancel()
		receive(c, h.sub.Done(), "Done to close after Until's context has ended")
		c.publish(b, c.subject(root+".a"), "after")
		c.awaitText(other, "after")
		c.judge(h, exactly("before"))
		if err := h.sub.Err(); !errors.Is(err, context.Canceled) {
			c.Errorf("Err: want context.Canceled, have %v", err)
		}

		// It may end while Subscribe is at work.
		for range 100 {
			ctx, cancel := context.WithCancel(c.ctx)
			cancelled := c.start(cancel)
			sub, err := b.Subscribe(c.ctx, c.subject(root+".b"), h.handler(), bus.Until(ctx))
			if err == nil {
				receive(c, sub.Done(), "Done to close after Until's context has ended")
			} else if !errors.Is(err, context.Canceled) {
				c.Errorf("Subscribe whose Until ends: want nil or context.Canceled, have %v", err)
			}
			receive(c, cancelled, "the context to end")
		}
	})
}

func subscribeContext(c *C) {
	b := c.Bus()
	ctx, cancel := context.WithCancel(c.ctx)
	h := &history{name: "subscribed with a context that has ended since"}
	if _, err := b.Subscribe(ctx, c.subject("a"), h.handler()); err != nil {
		c.Fatalf("Subscribe: %v", err)
	}
	cancel()
	c.publish(b, c.subject("a"), "still here")
	c.awaitText(h, "still here")
	if !c.h.claims(Streams) {
		return
	}
	// A replay that takes too long: the subscription is removed.
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	c.publish(b, c.subject("held.a"), "stored")
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	late := &history{name: "whose Subscribe has failed"}
	ctx, cancel = context.WithCancel(c.ctx)
	done := c.start(func() {
		_, err := b.Subscribe(ctx, c.subject("held.a"), func(_ context.Context, m *bus.Message) error {
			late.message(m)
			inside <- struct{}{}
			<-gate
			return nil
		}, bus.All())
		if !errors.Is(err, context.Canceled) {
			c.Errorf("Subscribe whose context ends in the replay: want context.Canceled, have %v", err)
		}
	})
	receive(c, inside, "the replay to begin")
	cancel()
	receive(c, done, "Subscribe to return when its context ends")
	open()
	watch := c.subscribe(b, c.subject("held.a"))
	c.publish(b, c.subject("held.a"), "end")
	c.awaitText(watch, "end")
	c.settle()
	c.judge(late, exactly("stored"))
}

var leakRounds atomic.Uint64 // makes labels unique in the process

func noLeak(c *C) {
	// The first round starts what a program has once: pools, a clock, a random source.
	for round := range 2 {
		label := fmt.Sprintf("leak-%d", leakRounds.Add(1))
		done := c.start(func() { labelled(label, func() { c.useEverything() }) })
		receive(c, done, "a bus to be opened, used and closed")
		if c.Failed() {
			return
		}
		if round > 0 {
			c.noneLeft(label, "")
		}
	}
}

// noneLeft fails the check unless the goroutines of a label come to their end, except for those that are in a function, if one
// is named.
func (c *C) noneLeft(label, except string) {
	look := func() []string {
		return slices.DeleteFunc(running(label), func(stack string) bool { return except != "" && strings.Contains(stack, except) })
	}
	left := look()
	for deadline := time.Now().Add(c.h.Patience / 2); len(left) > 0 && time.Now().Before(deadline); left = look() {
		c.wait(5 * time.Millisecond) // they may be on their last line
	}
	if len(left) > 0 {
		c.Errorf("%d kinds of goroutines are left:\n%s", len(left), strings.Join(left, "\n"))
	}
}

// useEverything opens a bus, uses it and closes it.
func (c *C) useEverything() {
	b, err := c.h.Open(c.env())
	if err != nil {
		c.Fatalf("Open: %v", err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.kinds(b, func(root string) {
		for i := range 10 {
			h := c.subscribe(b, c.subject(fmt.Sprintf("%s.%d", root, i)), bus.Until(ctx))
			c.publish(b, c.subject(fmt.Sprintf("%s.%d", root, i)), "x")
			c.awaitText(h, "x")
			if i%2 == 0 {
				c.unsubscribe(h.sub)
			}
		}
		if root == "held" {
			c.subscribe(b, c.subject("held.>"), bus.All())
		}
	})
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
}
