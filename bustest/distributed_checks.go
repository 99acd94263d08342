package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Each of these has several buses open on one Env.
var distributedChecks = []Check{
	{
		Name: "Elsewhere", Run: elsewhere, Needs: []Ability{Distributed},
		Rule:   "what is published on one bus of a system reaches subscriptions on the others once and in the publisher's order, what is captured at once",
		Origin: "on three NATS servers 75 of 2,000 uncaptured messages that were published right after Subscribe were lost",
	},
	{
		Name: "ReadyElsewhere", Run: readyElsewhere, Needs: []Ability{OneServer},
		Rule:   "what is published on another bus of the server after Subscribe has returned is delivered, captured or not, without a sleep",
		Origin: "emqx/emqx#645: a subscription is acknowledged before it works",
	},
	{
		Name: "StreamOrderElsewhere", Run: streamOrderElsewhere, Needs: []Ability{Distributed, Streams},
		Rule:   "subscriptions on all buses of a system see the stream's order, live and replayed, wherever is published",
		Origin: "nats-server#8368: on three replicas messages got lower sequences than those before them",
	},
	{
		Name: "HandoverElsewhere", Run: handoverElsewhere, Needs: []Ability{Distributed, Streams},
		Rule:   "replay goes over into live with no gap, no repeat and no reordering while other buses publish",
		Origin: "history and then a core subscription lost 41,236 of 90,000 messages",
	},
	{
		Name: "StreamsElsewhere", Run: streamsElsewhere, Needs: []Ability{Distributed, Streams},
		Rule:   "streams that one bus creates, changes or removes count on the others within a second: what is published there is stored, and no subscription falls silent",
		Origin: "go-via/via's log on JetStream fell silent when its stream was deleted",
	},
	{
		Name: "EnsureElsewhere", Run: ensureElsewhere, Needs: []Ability{Distributed, Streams},
		Rule:   "of EnsureStreams calls on several buses at the same time whose streams overlap one succeeds, and equal ones all do",
		Origin: "nats-server 2.15 creates two streams that overlap when two clients ask in the same moment",
	},
	{
		Name: "ExpectElsewhere", Run: expectElsewhere, Needs: []Ability{Distributed, Streams},
		Rule:   "of publishes on several buses that expect the same last message one is stored, and the others are ErrConflict",
		Origin: "nats-server#4320: several publishes that expect the same sequence are accepted",
	},
	{
		Name: "MessageIDElsewhere", Run: messageIDElsewhere, Needs: []Ability{Distributed, Streams},
		Rule:   "of publishes under one ID on several buses one is stored, and all are accepted",
		Origin: "noxdafox/rabbitmq-message-deduplication#67: duplicates of three services get through",
	},
	{
		Name: "GroupElsewhere", Run: groupElsewhere, Needs: []Ability{Distributed, Groups},
		Rule:   "members on several buses share a group's messages, and none is lost or handled twice while members and buses come and go",
		Origin: "natsbus lost messages of captured groups when a process left, and of others when one came or left",
	},
	{
		Name: "GroupFreeElsewhere", Run: groupFreeElsewhere, Needs: []Ability{Distributed, Groups},
		Rule:   "a group's captured message goes to a member that is free, on whichever bus it is, and of the others no member takes all",
		Origin: "pulsar#6496: a message waits at a busy worker while others idle",
	},
	{
		Name: "DurableGroupElsewhere", Run: durableGroupElsewhere, Needs: []Ability{Distributed, DurableGroups},
		Rule: "a durable group is one on all buses of a system: its position, its pattern, and RemoveGroup, which ends the members everywhere",
	},
	{
		Name: "CloseElsewhere", Run: closeElsewhere, Needs: []Ability{Distributed},
		Rule:   "Close ends one bus of a system and no other",
		Origin: "FreeOpcUa/opcua-asyncio#67: the end of one client's session deletes the subscriptions of all",
	},
}

// system is several buses on one Env.
type system struct {
	c     *C
	e     *Env
	buses []bus.Bus
}

func (c *C) system(n int) *system {
	s := &system{c: c, e: c.env()}
	for range n {
		s.buses = append(s.buses, s.open())
	}
	return s
}

func (s *system) open() bus.Bus { return s.c.open(s.e) }

// spread returns when what b publishes on subject reaches h: between servers interest takes a while to spread.
func (c *C) spread(b bus.Bus, subject string, h *history) {
	ready := fmt.Sprintf("ready on %s, %d events:", subject, len(h.all()))
	c.until("a message of another bus to arrive on "+subject, c.h.Patience, func(try int) bool {
		c.publish(b, subject, fmt.Sprint(ready, try, h.name))
		return slices.ContainsFunc(h.all(), func(e event) bool { return strings.HasPrefix(e.text, ready) })
	})
}

func elsewhere(c *C) {
	s := c.system(3)
	c.kinds(s.buses[0], func(root string) {
		if root == "held" {
			for _, b := range s.buses {
				c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
			}
		}
		var histories []*history
		for i, b := range s.buses {
			h := c.subscribe(b, c.subject(root+".*"), wide)
			h.name += fmt.Sprintf(" on bus %d", i)
			histories = append(histories, h)
		}
		for p, b := range s.buses {
			for _, h := range histories {
				if root == "free" {
					c.spread(b, c.subject(fmt.Sprintf("%s.ready%d", root, p)), h)
				}
			}
		}
		const n = 200
		c.together(len(s.buses), "Publish", func(p int) {
			for _, text := range sequence(string(rune('a'+p)), 1, n) {
				c.publish(s.buses[p], c.subject(root+".x"), text)
			}
		})
		for _, h := range histories {
			for p := range s.buses {
				c.awaitAll(h, sequence(string(rune('a'+p)), 1, n)...)
			}
			c.judge(h, ordered, unique, quiet)
		}
	})
}

func readyElsewhere(c *C) {
	s := c.system(2)
	if c.h.claims(Streams) {
		c.ensure(s.buses[1], bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	}
	c.kinds(s.buses[0], func(root string) {
		const n = 50
		var all []*history
		for i := range n {
			subject := c.subject(fmt.Sprintf("%s.%d", root, i))
			h := c.subscribe(s.buses[i%2], subject)
			c.publish(s.buses[1-i%2], subject, "at once")
			all = append(all, h)
		}
		for _, h := range all {
			c.awaitText(h, "at once")
			c.judge(h, exactly("at once"), quiet)
		}
	})
}

func streamOrderElsewhere(c *C) { c.orderOfStream(c.system(4).buses) }
func ensureElsewhere(c *C)      { c.overlapping(c.system(3).buses) }
func expectElsewhere(c *C)      { c.sameExpectations(c.system(4).buses) }
func messageIDElsewhere(c *C)   { c.sameIDs(c.system(4).buses) }
func handoverElsewhere(c *C)    { c.handover(6, c.system(3).buses...) }

func streamsElsewhere(c *C) {
	s := c.system(2)
	a, b := s.buses[0], s.buses[1]
	const second = time.Second
	best := map[string]time.Duration{}
	rounds := 1
	for ; rounds == 1 || rounds <= 4 && slices.Max(slices.Collect(maps.Values(best))) > second; rounds++ {
		c.changeElsewhere(a, b, fmt.Sprintf("round%d", rounds), best)
	}
	for what, took := range best {
		if took > second {
			c.Errorf("%s on another bus counts after %v at best, in %d rounds; want within %v", what, took, rounds-1, second)
		}
	}
}

// changeElsewhere has bus a change streams and b notice it, and notes in best how long each change takes at best: a busy machine
// takes longer than it must, but not each time.
func (c *C) changeElsewhere(a, b bus.Bus, root string, best map[string]time.Duration) {
	first, second := c.subject(root+".first"), c.subject(root+".second")
	config := func(subjects ...string) bus.StreamConfig {
		return bus.StreamConfig{Name: c.stream(root), Subjects: subjects}
	}
	stored := func(subject, text string) bool {
		var r bus.Receipt
		err := b.Publish(c.ctx, subject, []byte(text), bus.WithReceipt(&r))
		if err != nil && !errors.Is(err, bus.ErrNoStream) {
			c.Fatalf("Publish with a receipt: want nil or ErrNoStream, have %v", err)
		}
		return err == nil
	}
	changed := func(e event) bool { return e.kind == problem && errors.Is(e.problem.Err, bus.ErrStreamChanged) }
	limit := time.Second + c.slack()
	counts := func(what, subject string, captured bool, h *history, change func()) {
		change()
		began := time.Now()
		c.until(fmt.Sprintf("%s to count on another bus: what is published there is captured: %t", what, captured), limit,
			func(int) bool { return stored(subject, what) == captured })
		c.awaitWithin(limit, h, "ErrStreamChanged, or what is captured, after "+what+" on another bus", func(e event) bool {
			return changed(e) || captured && e.kind == delivered && e.text == what
		})
		took := time.Since(began)
		if before, known := best[what]; !known || took < before {
			best[what] = took
		}
	}
	ensure := func(subjects ...string) func() { return func() { c.ensure(a, config(subjects...)) } }
	counts("a stream that is created", first, true, c.subscribe(b, first), ensure(first))
	counts("a subject that a stream captures now, too", second, true, c.subscribe(b, second), ensure(first, second))
	counts("a subject that a stream doesn't capture any more", second, false, c.subscribe(b, second, bus.All()), ensure(first))
	remover, ok := a.(bus.Remover)
	if !ok {
		c.NotChecked("a stream that another bus removes: the bus is no bus.Remover")
		return
	}
	err := remover.RemoveStream(c.ctx, c.stream("NONE"))
	if errors.Is(err, bus.ErrUnsupported) {
		c.NotChecked("a stream that another bus removes: %v", err)
		return
	}
	counts("a stream that is removed", first, false, c.subscribe(b, first, bus.All()), func() {
		if err := remover.RemoveStream(c.ctx, c.stream(root)); err != nil {
			c.Fatalf("RemoveStream: %v", err)
		}
	})
}

func groupElsewhere(c *C) {
	s := c.system(3)
	publisher := s.buses[0]
	for _, b := range s.buses[1:] {
		c.flavours(b, func(flavour) {}) // each process ensures the streams that it needs
	}
	c.flavours(publisher, func(g flavour) {
		all := &history{name: g.name + " on several buses"}
		join := func(b bus.Bus) bus.Subscription {
			return c.subscribeFunc(b, g.pattern, func(_ context.Context, m *bus.Message) error {
				all.message(m)
				runtime.Gosched()
				return nil
			}, g.option, wide, bus.OnError(all.hook()))
		}
		stays := join(s.buses[1])
		for _, subject := range g.subjects {
			c.spread(publisher, subject, all)
		}
		want := sequence("p", 1, 300)
		published := c.start(func() {
			for i, text := range want {
				if err := publisher.Publish(c.ctx, g.subjects[i%2], []byte(text)); err != nil {
					c.Errorf("Publish: %v", err)
				}
				if i%10 == 0 {
					runtime.Gosched()
				}
			}
		})
		c.together(2, "members and buses to come and go", func(i int) {
			for range 4 {
				b := s.buses[2]
				if i == 1 {
					b = s.open()
				}
				sub := join(b)
				runtime.Gosched()
				if i == 0 {
					c.unsubscribe(sub)
				} else if err := b.Close(c.ctx); err != nil {
					c.Errorf("Close: %v", err)
				}
			}
		})
		receive(c, published, "Publish to return")
		c.awaitAll(all, want...)
		if g.durable {
			c.judge(all, quiet) // at least once
		} else {
			c.judge(all, unique, quiet)
		}
		c.unsubscribe(stays)
	})
}

func groupFreeElsewhere(c *C) {
	s := c.system(3)
	publisher := s.buses[0]
	for _, b := range s.buses[1:] {
		c.flavours(b, func(flavour) {}) // each process ensures the streams that it needs
	}
	c.flavours(publisher, func(g flavour) {
		all := &history{name: g.name + " on two buses, one of which is blocked"}
		var blocked atomic.Int32
		var gates [2]<-chan struct{}
		var opens [2]func()
		for i := range gates {
			gates[i], opens[i] = c.gate()
		}
		var subs []bus.Subscription
		for i, b := range s.buses[1:] {
			subs = append(subs, c.subscribeFunc(b, g.pattern, func(_ context.Context, m *bus.Message) error {
				all.add(event{kind: mark, text: fmt.Sprint(m.Subject, " at member ", i)})
				all.message(m)
				if int(blocked.Load()) == i {
					<-gates[i]
				}
				return nil
			}, g.option, wide, bus.OnError(all.hook())))
		}
		for i := range gates {
			blocked.Store(int32(i))
			free := 1 - i
			for _, subject := range g.subjects { // interest takes a while to spread
				there := fmt.Sprint(subject, " at member ", free)
				seen := len(all.all())
				c.until("a message to come to the member that is free, on bus "+fmt.Sprint(free+1), c.h.Patience, func(try int) bool {
					c.publish(publisher, subject, fmt.Sprint("ready ", i, " ", subject, " ", try))
					return slices.ContainsFunc(all.all()[seen:], func(e event) bool { return e.kind == mark && e.text == there })
				})
			}
			want := sequence(fmt.Sprint("blocked", i), 1, 30)
			c.publishOn(publisher, g.subjects, want...)
			if strings.HasPrefix(g.pattern, c.subject("held.")) {
				c.awaitAll(all, want...)
			}
			blocked.Store(-1)
			opens[i]()
			c.awaitAll(all, want...) // of what isn't stored a server knows the process alone that it has given it to
		}
		for _, sub := range subs {
			c.unsubscribe(sub)
		}
		if g.durable {
			c.judge(all, quiet) // at least once
		} else {
			c.judge(all, unique, quiet)
		}
	})
}

func durableGroupElsewhere(c *C) {
	s := c.system(2)
	a, b := s.buses[0], s.buses[1]
	r := c.remover(b)
	for _, b := range s.buses {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	}
	group := bus.DurableGroup(c.group("g"))
	first := c.subscribe(a, c.subject("held.*"), group, bus.Attempts(0))
	c.publish(b, c.subject("held.a"), "at the first")
	c.awaitText(first, "at the first")
	refused := func(when string) {
		_, err := b.Subscribe(c.ctx, c.subject("held.>"), first.handler(), group, bus.Attempts(0))
		if !errors.Is(err, bus.ErrConflict) {
			c.Errorf("%s, the same name and another pattern on another bus: want ErrConflict, have %v", when, err)
		}
	}
	refused("while the group has a member")
	c.unsubscribe(first.sub)
	refused("while the group has no member")
	c.publish(a, c.subject("held.a"), "meanwhile")
	second := c.subscribe(b, c.subject("held.*"), group, bus.Attempts(0))
	c.awaitText(second, "meanwhile")
	c.judge(second, exactly("meanwhile"), quiet)
	third := c.subscribe(a, c.subject("held.*"), group, bus.Attempts(0))
	if err := r.RemoveGroup(c.ctx, c.group("g")); err != nil {
		c.Errorf("RemoveGroup: %v", err)
	}
	c.changed([]*history{second, third})
	again := c.subscribe(a, c.subject("held.>"), group, bus.Attempts(0), bus.All())
	c.awaitAll(again, "at the first", "meanwhile")
	c.judge(again, unique, quiet)
	c.judge(first, exactly("at the first"), quiet)
}

func closeElsewhere(c *C) {
	s := c.system(2)
	h := c.subscribe(s.buses[0], c.subject("a"))
	c.subscribe(s.buses[1], c.subject("a"))
	c.spread(s.buses[1], c.subject("a"), h)
	if err := s.buses[1].Close(c.ctx); err != nil {
		c.Fatalf("Close of one of two: %v", err)
	}
	if err := s.buses[1].Publish(c.ctx, c.subject("a"), nil); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("Publish on the bus that is closed: want ErrClosed, have %v", err)
	}
	third := s.open()
	c.publish(s.buses[0], c.subject("a"), "of its own")
	c.awaitText(h, "of its own")
	c.spread(third, c.subject("a"), h)
	if err := h.sub.Err(); err != nil {
		c.Errorf("a subscription on the bus that is open has ended: %v", err)
	}
}
