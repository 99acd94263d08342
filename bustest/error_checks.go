package bustest

import (
	"context"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

var errorChecks = []Check{
	{
		Name: "ErrorText", Run: errorText,
		Rule:   "an error names the operation and the subject, and never the payload",
		Origin: "evolution-gaming/kafka-journal#930: the whole event is in the error",
	},
}

func errorText(c *C) {
	const secret = "s3cr3t-payload"
	e := c.env()
	b := c.open(e)
	check := func(what, op, subject string, err error) {
		if err == nil {
			c.Errorf("%s: no error", what)
			return
		}
		text := err.Error()
		if !strings.Contains(strings.ToLower(text), op) || !strings.Contains(text, subject) {
			c.Errorf("%s: the error names not both %q and %q: %s", what, op, subject, text)
		}
		if strings.Contains(text, secret) {
			c.Errorf("%s: the error holds the payload: %s", what, text)
		}
	}
	publish := func(subject string, opts ...bus.PublishOption) error {
		return b.Publish(c.ctx, subject, []byte(secret), opts...)
	}
	subscribe := func(pattern string, opts ...bus.SubscribeOption) error {
		_, err := b.Subscribe(c.ctx, pattern, (&history{}).handler(), opts...)
		return err
	}
	bad := c.subject("a.*.b*")
	check("Publish on a bad subject", "publish", bad, publish(bad))
	check("Subscribe to a bad pattern", "subscribe", bad, subscribe(bad))
	free := c.subject("free")
	check("an option that needs a stream", "publish", free, publish(free, bus.ExpectNone()))
	check("a start that needs a stream", "subscribe", free, subscribe(free, bus.All()))
	if c.h.claims(Headers) {
		check("a bad header", "publish", free, publish(free, bus.WithHeader("a b", "v")))
	}
	if c.h.MaxPayload > 0 {
		large := secret + strings.Repeat(" ", c.h.MaxPayload)
		check("too much data", "publish", free, b.Publish(c.ctx, free, []byte(large)))
	}
	stuck, open := c.blockOn(b, "stuck")
	done, cancel := context.WithCancel(c.ctx)
	cancel()
	check("Unsubscribe while the handler is running", "unsubscribe", c.subject("stuck"), stuck.sub.Unsubscribe(done))
	open()
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}})
		held := c.subject("a")
		if err := publish(held); err != nil {
			c.Fatalf("Publish: %v", err)
		}
		bad := bus.StreamConfig{Name: c.stream("BAD"), Subjects: []string{c.subject("b")}, MaxMsgs: -1}
		check("EnsureStreams of a bad stream", "ensure", bad.Name, b.EnsureStreams(c.ctx, bad))
		check("a conflict", "publish", held, publish(held, bus.ExpectNone()))
		overlaps := bus.StreamConfig{Name: c.stream("OVER"), Subjects: []string{held}}
		check("a stream that overlaps", "ensure", overlaps.Name, b.EnsureStreams(c.ctx, overlaps))
		small := bus.StreamConfig{Name: c.stream("SMALL"), Subjects: []string{c.subject("small")}, MaxBytes: 256}
		c.ensure(b, small)
		large := secret + strings.Repeat(" ", 256)
		check("what a stream couldn't hold", "publish", c.subject("small"), b.Publish(c.ctx, c.subject("small"), []byte(large)))
		if r, ok := b.(bus.Remover); ok {
			check("RemoveStream of what isn't there", "remove", c.stream("NONE"), r.RemoveStream(c.ctx, c.stream("NONE")))
		}
	}
	if c.h.claims(Groups) {
		check("a group with a bad name", "subscribe", free, subscribe(free, bus.Group("a b")))
	}
	if c.h.claims(DurableGroups) {
		check("a durable group on an uncaptured subject", "subscribe", free, subscribe(free, bus.DurableGroup(c.group("g"))))
		c.ensure(b, bus.StreamConfig{Name: c.stream("GROUP"), Subjects: []string{c.subject("group.>")}})
		for _, subject := range []string{"group.a", "group.b"} {
			err := subscribe(c.subject(subject), bus.DurableGroup(c.group("g")), bus.Attempts(0))
			if subject == "group.a" && err != nil {
				c.Fatalf("Subscribe: %v", err)
			} else if subject == "group.b" {
				check("a durable group with another pattern", "subscribe", c.subject(subject), err)
			}
		}
	}
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
	check("Publish after Close", "publish", free, publish(free))
	check("Subscribe after Close", "subscribe", free, subscribe(free))
}
