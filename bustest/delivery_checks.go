package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var deliveryChecks = []Check{
	{
		Name: "ReadyOnReturn", Run: readyOnReturn,
		Rule:   "what is published after Subscribe has returned is delivered, without a sleep",
		Origin: "emqx/emqx#645: a subscription is acknowledged before it works",
	},
	{
		Name: "FanOut", Run: fanOut,
		Rule:   "each subscription gets each message once, also with the same pattern and handler",
		Origin: "ros-industrial-attic/cros#9: of two subscribers each gets every other message",
	},
	{
		Name: "NoSurplus", Run: noSurplus,
		Rule:   "nothing arrives that was not published",
		Origin: "dotnet/MQTTnet#815: subscribing to another topic brings a message again; fppt/jedis-mock#172: each comes twice",
	},
	{
		Name: "HeadersRoundTrip", Run: headersRoundTrip, Needs: []Ability{Headers},
		Rule:   "headers arrive with the case of their keys and the order of their values, and mean nothing to the bus",
		Origin: "natsbus took a user's header Status on an empty message for one of NATS's own and fell silent",
	},
	{
		Name: "BadHeader", Run: badHeader, Needs: []Ability{Headers},
		Rule:   "a header that breaks the grammar is ErrBadHeader and nothing is published",
		Origin: "nats.py#1017, #1018: a line break in a value makes another header",
	},
	{
		Name: "MaxPayload", Run: maxPayload, Needs: []Ability{PayloadLimit},
		Rule:   "data of exactly the limit arrives, also on a captured subject and with a message ID and an expectation; one byte more is ErrTooLarge and goes nowhere",
		Origin: "nats.py#888: publishing too much costs the connection",
	},
	{
		Name: "DoneContext", Run: doneContext,
		Rule:   "a call with a context that is done returns its error and does nothing",
		Origin: "Go CDK's suite passes a driver that ignores contexts",
	},
	{
		Name: "Tick", Run: tick, Needs: []Ability{Ticking},
		Rule: "a ticking backend hands over everything that waits at its tick and nothing before; a replay doesn't wait for it",
	},
}

func readyOnReturn(c *C) {
	b := c.Bus()
	kinds := []string{"free"}
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
		kinds = append(kinds, "held")
	}
	for _, kind := range kinds {
		for i := range 10 {
			subject := c.subject(fmt.Sprintf("%s.%d", kind, i))
			h := c.subscribe(b, subject)
			c.together(2, "Publish", func(p int) {
				if err := b.Publish(c.ctx, subject, []byte(numbered("p", p))); err != nil {
					c.Errorf("Publish: %v", err)
				}
			})
			c.awaitText(h, numbered("p", 0))
			c.awaitText(h, numbered("p", 1))
		}
	}
}

func fanOut(c *C) {
	b := c.Bus()
	const n = 20
	var histories []*history
	for range n {
		histories = append(histories, c.subscribe(b, c.subject("a"), wide))
	}
	// One handler, two subscriptions.
	twice := &history{name: "the handler that is subscribed twice"}
	handler := twice.handler()
	c.subscribeFunc(b, c.subject("a"), handler, wide)
	c.subscribeFunc(b, c.subject("a"), handler, wide)
	want := append(sequence("p", 1, 50), "end")
	for _, text := range want {
		c.publish(b, c.subject("a"), text)
	}
	for _, h := range histories {
		c.awaitText(h, "end")
		c.judge(h, exactly(want...))
	}
	ends := 0
	c.await(twice, "the last message, twice", func(e event) bool {
		if e.text == "end" {
			ends++
		}
		return ends == 2
	})
	count := map[string]int{}
	for _, e := range twice.all() {
		count[e.text]++
	}
	for _, text := range want {
		if count[text] != 2 {
			c.Errorf("%q was delivered %d times to two subscriptions", text, count[text])
		}
	}
}

func noSurplus(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	other := c.subscribe(b, c.subject("b"))
	want := append(sequence("p", 1, 20), "end")
	for _, text := range want {
		c.publish(b, c.subject("a"), text)
	}
	var held *history
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held")}})
		held = c.subscribe(b, c.subject("held"), bus.All())
		for _, text := range want {
			c.publish(b, c.subject("held"), text)
		}
		c.awaitText(held, "end")
	}
	c.awaitText(h, "end")
	c.settle()
	c.judge(h, exactly(want...), quiet)
	c.judge(other, exactly(), quiet)
	if held != nil {
		c.judge(held, exactly(want...), quiet)
	}
}

func headersRoundTrip(c *C) {
	b := c.Bus()
	want := bus.Header{"x-lower": {"1"}, "X-Upper": {"2", "", "zwei, drei"}, "Tok!#$%&'*+.^_`|~9": {"ünï"}}
	// Words that a server may have for itself, on messages without data.
	status := func(kind string) {
		for _, value := range []string{"100", "200", "204", "404", "503"} {
			c.publish(b, c.subject(kind), "", bus.WithHeader("Status", value))
		}
	}
	kinds := []string{"free"}
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held")}})
		kinds = append(kinds, "held")
		status("held") // before a subscription that would keep them at hand
		c.checkStored(b, c.subject("held"), "", "", "", "", "")
	}
	for _, kind := range kinds {
		h := c.subscribe(b, c.subject(kind))
		var opts []bus.PublishOption
		for k, values := range want {
			opts = append(opts, bus.WithHeader(k, values...))
		}
		c.publish(b, c.subject(kind), "with", append(opts, bus.WithHeader("X-None"))...)
		c.publish(b, c.subject(kind), "without", bus.WithHeader("X-None")) // no value: no header
		with, without := c.awaitText(h, "with").msg, c.awaitText(h, "without").msg
		if len(with.Header) != len(want) {
			c.Errorf("%s: %d keys became %d: %q", kind, len(want), len(with.Header), with.Header)
		}
		for k, values := range want {
			if !slices.Equal(with.Header[k], values) {
				c.Errorf("%s: header %q: want %q, have %q", kind, k, values, with.Header[k])
			}
		}
		if without.Header != nil {
			c.Errorf("%s: a message without headers got %q", kind, without.Header)
		}
		status(kind)
		c.publish(b, c.subject(kind), "end")
		c.awaitText(h, "end")
		c.judge(h, exactly("with", "without", "", "", "", "", "", "end"))
	}
}

func badHeader(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	for _, kv := range [][2]string{{"", "v"}, {"a b", "v"}, {"a:b", "v"}, {"ä", "v"}, {"Nats-Msg-Id", "v"}, {"nAtS-x", "v"}, {"k", "a\nb"}, {"k", "a\rb"}, {"k", "a\x00b"}, {"k", " a"}, {"k", "a\t"}} {
		err := b.Publish(c.ctx, c.subject("a"), []byte("bad"), bus.WithHeader(kv[0], kv[1]))
		if !errors.Is(err, bus.ErrBadHeader) {
			c.Errorf("Publish with header %q: %q: want ErrBadHeader, have %v", kv[0], kv[1], err)
		}
	}
	c.publish(b, c.subject("a"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
}

func maxPayload(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		subject := c.subject(root + ".a")
		h := c.subscribe(b, subject, bus.Buffer(16, 4*c.h.MaxPayload))
		options := [][]bus.PublishOption{nil}
		if root == "held" { // whatever a backend adds to a message for these takes nothing from the limit
			options = [][]bus.PublishOption{{bus.ExpectNone(), bus.MessageID("id")}, nil}
		}
		var want []string
		for _, opts := range options {
			if err := b.Publish(c.ctx, subject, make([]byte, c.h.MaxPayload+1), opts...); !errors.Is(err, bus.ErrTooLarge) {
				c.Errorf("Publish of %d bytes on %s: want ErrTooLarge, have %v", c.h.MaxPayload+1, subject, err)
			}
			whole := string(make([]byte, c.h.MaxPayload))
			c.publish(b, subject, whole, opts...)
			want = append(want, whole)
		}
		c.publish(b, subject, "end")
		c.awaitText(h, "end")
		c.judge(h, exactly(append(want, "end")...))
		if root == "held" {
			c.checkStored(b, subject, append(want, "end")...)
		}
	})
}

func doneContext(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	if err := b.Publish(ctx, c.subject("a"), []byte("late")); !errors.Is(err, context.Canceled) {
		c.Errorf("Publish: want context.Canceled, have %v", err)
	}
	late := &history{name: "the refused subscription"}
	if _, err := b.Subscribe(ctx, c.subject("a"), late.handler()); !errors.Is(err, context.Canceled) {
		c.Errorf("Subscribe: want context.Canceled, have %v", err)
	}
	if c.h.claims(Streams) {
		err := b.EnsureStreams(ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("s")}})
		if !errors.Is(err, context.Canceled) {
			c.Errorf("EnsureStreams: want context.Canceled, have %v", err)
		}
		if err := b.Publish(c.ctx, c.subject("s"), nil, bus.ExpectNone()); !errors.Is(err, bus.ErrNoStream) {
			c.Errorf("the refused stream was created: want ErrNoStream, have %v", err)
		}
		c.ensure(b, bus.StreamConfig{Name: c.stream("STAYS"), Subjects: []string{c.subject("stays")}})
	}
	optional := map[string]func() error{}
	if l, ok := b.(bus.StreamLister); ok && c.h.claims(Streams) {
		optional["Streams"] = func() error { _, err := l.Streams(ctx); return err }
	}
	if r, ok := b.(bus.Remover); ok && c.h.claims(Streams) {
		optional["RemoveStream"] = func() error { return r.RemoveStream(ctx, c.stream("STAYS")) }
		optional["RemoveGroup"] = func() error { return r.RemoveGroup(ctx, c.group("none")) }
	}
	if l, ok := b.(bus.HealthChecker); ok {
		optional["Health"] = func() error { return l.Health(ctx) }
	}
	for name, call := range optional {
		if err := call(); !errors.Is(err, context.Canceled) && !errors.Is(err, bus.ErrUnsupported) {
			c.Errorf("%s: want context.Canceled, have %v", name, err)
		}
	}
	if c.h.claims(Streams) {
		c.publish(b, c.subject("stays"), "the stream is there", bus.ExpectNone())
	}
	c.publish(b, c.subject("a"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
	c.judge(late, exactly())
}

func tick(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	began := time.Now()
	want := sequence("p", 1, 5)
	for _, text := range want {
		c.publish(b, c.subject("a"), text)
	}
	if c.h.Bubble {
		// Only here is it certain that no tick has passed meanwhile.
		synctest.Wait()
		c.judge(h, exactly())
	} else {
		c.NotChecked("when a tick is: that takes Harness.Bubble")
	}
	c.awaitText(h, want[4])
	if waited := time.Since(began); c.h.Bubble && waited > c.h.Tick {
		c.Errorf("the messages came after %v, a tick is %v", waited, c.h.Tick)
	}
	c.judge(h, exactly(want...))
	if !c.h.claims(Streams) {
		return
	}
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held")}})
	for _, text := range want {
		c.publish(b, c.subject("held"), text)
	}
	began = time.Now()
	c.checkStored(b, c.subject("held"), want...)
	if waited := time.Since(began); c.h.Bubble && waited > 0 {
		c.Errorf("a replay took %v, and nothing else takes time here", waited)
	}
}
