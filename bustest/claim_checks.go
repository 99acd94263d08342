package bustest

import (
	"errors"

	"github.com/jitney-go/jitney/bus"
)

// What a backend doesn't claim must fail clearly, so that nobody builds on half of it.
var claimChecks = []Check{
	{
		Name: "NoHeaders", Run: noHeaders, Lacks: Headers,
		Rule: "a header on a backend without headers is ErrUnsupported and nothing is published",
	},
	{
		Name: "NoStreams", Run: noStreams, Lacks: Streams,
		Rule: "EnsureStreams on a backend without streams is ErrUnsupported",
	},
	{
		Name: "NoGroups", Run: noGroups, Lacks: Groups,
		Rule: "Group on a backend without groups is ErrUnsupported and nothing is subscribed",
	},
	{
		Name: "NoDurableGroups", Run: noDurableGroups, Lacks: DurableGroups,
		Rule: "DurableGroup on a backend without durable groups is ErrUnsupported and nothing is subscribed",
	},
}

func noHeaders(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	if err := b.Publish(c.ctx, c.subject("a"), []byte("refused"), bus.WithHeader("K", "v")); !errors.Is(err, bus.ErrUnsupported) {
		c.Errorf("Publish with a header: want ErrUnsupported, have %v", err)
	}
	c.publish(b, c.subject("a"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
}

func noStreams(c *C) {
	b := c.Bus()
	err := b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}})
	if !errors.Is(err, bus.ErrUnsupported) {
		c.Errorf("EnsureStreams: want ErrUnsupported, have %v", err)
	}
}

func noGroups(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) { c.refusedGroup(b, root, bus.Group("g")) })
}

func noDurableGroups(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		if root == "held" || !c.h.claims(Streams) {
			c.refusedGroup(b, root, bus.DurableGroup("g"))
		}
	})
}

func (c *C) refusedGroup(b bus.Bus, root string, group bus.SubscribeOption) {
	h := &history{name: root + ", a group that was refused"}
	sub, err := b.Subscribe(c.ctx, c.subject(root+".a"), h.handler(), group)
	if !errors.Is(err, bus.ErrUnsupported) {
		c.Errorf("Subscribe to %s with a group: want ErrUnsupported, have %v", root, err)
	}
	if err != nil && sub != nil {
		c.Errorf("Subscribe returned a subscription and an error")
	}
	watch := c.subscribe(b, c.subject(root+".a"))
	c.publish(b, c.subject(root+".a"), "end")
	c.awaitText(watch, "end")
	c.judge(h, exactly())
}
