package bustest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// What a backend doesn't claim must fail clearly, so that nobody builds on half of it.
var claimChecks = []Check{
	{
		Name: "NoHeaders", Run: noHeaders, Lacks: Headers,
		Rule:   "a header on a backend without headers is ErrUnsupported, naming it, and nothing is published",
		Origin: "nats.rs#160: with a server that knows no headers a message with one is dropped without an error",
	},
	{
		Name: "NoStreams", Run: noStreams, Lacks: Streams,
		Rule: "EnsureStreams on a backend without streams is ErrUnsupported, naming it",
	},
	{
		Name: "NoGroups", Run: noGroups, Lacks: Groups,
		Rule: "Group on a backend without groups is ErrUnsupported, naming it, and nothing is subscribed",
	},
	{
		Name: "NoDurableGroups", Run: noDurableGroups, Lacks: DurableGroups,
		Rule: "DurableGroup on a backend without durable groups is ErrUnsupported, naming it, and nothing is subscribed",
	},
	{
		Name: "NoDurable", Run: noDurable, Needs: []Ability{Streams}, Lacks: Durable,
		Rule:   "what isn't kept over Close is gone as a whole: the stream of the next Open is another epoch, and a cursor of before is ErrGap",
		Origin: "centrifugal/centrifuge-go#159: a stream that was made anew isn't told from the old one",
	},
}

// unsupported fails the check unless err is ErrUnsupported and says what the backend lacks.
func (c *C) unsupported(what, lacks string, err error) {
	if !errors.Is(err, bus.ErrUnsupported) {
		c.Errorf("%s: want ErrUnsupported, have %v", what, err)
	} else if !strings.Contains(strings.ToLower(err.Error()), lacks) {
		c.Errorf("%s: the error doesn't name the %s that the backend lacks: %v", what, lacks, err)
	}
}

func noHeaders(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	c.unsupported("Publish with a header", "header", b.Publish(c.ctx, c.subject("a"), []byte("refused"), bus.WithHeader("K", "v")))
	c.publish(b, c.subject("a"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
}

func noStreams(c *C) {
	b := c.Bus()
	c.unsupported("EnsureStreams", "stream", b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}}))
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
	c.unsupported("Subscribe to "+root+" with a group", "group", err)
	if err != nil && sub != nil {
		c.Errorf("Subscribe returned a subscription and an error")
	}
	watch := c.subscribe(b, c.subject(root+".a"))
	c.publish(b, c.subject(root+".a"), "end")
	c.awaitText(watch, "end")
	c.judge(h, exactly())
}

func noDurable(c *C) {
	e := c.env()
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}}
	var old []bus.Cursor
	for round := range 2 {
		b := c.open(e)
		if round > 0 {
			if err := b.Publish(c.ctx, c.subject("a"), nil, bus.ExpectNone()); !errors.Is(err, bus.ErrNoStream) {
				c.Errorf("a stream of the bus before captures what is published: want ErrNoStream, have %v", err)
			}
		}
		c.ensure(b, cfg)
		want := sequence(fmt.Sprint("r", round), 1, 5)
		for _, text := range want {
			cursor := c.store(b, c.subject("a"), text)
			if round == 0 {
				old = append(old, cursor)
			} else if _, same := cursor.Compare(old[0]); same {
				c.Errorf("cursor %s is of the same epoch as %s of the bus before", cursor, old[0])
			}
		}
		if round > 0 {
			h := c.subscribe(b, c.subject("a"), bus.After(old[2]))
			h.name += ", resumed after message 3 of the bus before"
			c.judge(h, exactly(want...), gapFirst)
		}
		c.close(b)
	}
}
