package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jitney-go/jitney/bus"
)

func groupLoss(c *C) {
	b := c.Bus()
	gate, open := c.gate()
	inside := make(chan struct{}, 2)
	all := &history{name: "a group whose members are blocked"}
	var subs []bus.Subscription
	for range 2 {
		subs = append(subs, c.subscribeFunc(b, c.subject("free.*"), func(_ context.Context, m *bus.Message) error {
			all.message(m)
			select {
			case inside <- struct{}{}:
			default:
			}
			<-gate
			return nil
		}, bus.Group(c.group("g")), bus.Buffer(10, 1<<20), bus.OnError(all.hook())))
	}
	c.publish(b, c.subject("free.a"), "blocks")
	c.publish(b, c.subject("free.a"), "blocks the other")
	for range subs {
		receive(c, inside, "both handlers to be called")
	}
	const n = 2000
	want := sequence("p", 1, n)
	c.publishOn(b, []string{c.subject("free.a"), c.subject("free.b")}, want...)
	open()
	handled, told := 0, uint64(0)
	c.await(all, "every message to be delivered or told as lost", func(e event) bool {
		var slow *bus.SlowError
		switch {
		case e.kind == delivered:
			handled++
		case e.kind == problem && errors.As(e.problem.Err, &slow):
			told += slow.Dropped
		}
		return uint64(handled)+told >= n+2
	})
	c.awaitText(all, want[n-1]) // the oldest go first
	c.publish(b, c.subject("free.a"), "end")
	c.awaitText(all, "end")
	c.judge(all, unique)
	dropped := uint64(0)
	for _, sub := range subs {
		dropped += sub.Dropped()
	}
	if lost := uint64(n + 2 - handled); told != lost || dropped < lost {
		c.Errorf("%d of %d messages were delivered, the hooks were told of %d lost ones, Dropped says %d", handled, n+2, told, dropped)
	}
}

func groupGap(c *C) {
	b := c.Bus()
	options := map[string]bus.SubscribeOption{"group": bus.Group(c.group("g"))}
	if c.h.claims(DurableGroups) {
		options["durable"] = bus.DurableGroup(c.group("d"))
	}
	for root, option := range options {
		c.ensure(b, bus.StreamConfig{Name: c.stream(root), Subjects: []string{c.subject(root + ".>")}, MaxMsgs: 10})
		h, open := c.block(b, root, option, bus.Attempts(0), bus.Buffer(2, 1<<20))
		var cursors []bus.Cursor
		for _, text := range sequence("p", 1, 100) {
			cursors = append(cursors, c.store(b, c.subject(root+".a"), text))
		}
		open()
		c.awaitText(h, numbered("p", 100))
		c.awaitProblem(h, bus.ErrGap)
		c.judge(h, unique, toldOrDelivered(cursors))
	}
}

// toldOrDelivered: each of the stored messages was delivered or lies inside a hole that was told.
func toldOrDelivered(stored []bus.Cursor) judge {
	return func(events []event) *fault {
		got := map[bus.Cursor]bool{}
		var holes []*bus.GapError
		for _, e := range events {
			var gap *bus.GapError
			if errors.As(e.problem.Err, &gap) {
				holes = append(holes, gap)
			}
			got[e.cursor] = true
		}
		for _, cursor := range stored {
			if !got[cursor] && !slices.ContainsFunc(holes, func(g *bus.GapError) bool { return inside(cursor, g) }) {
				return &fault{len(events), fmt.Sprintf("the message at %s is missing and no hole was announced", cursor)}
			}
		}
		return nil
	}
}
