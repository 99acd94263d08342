package bustest

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/jitney-go/jitney/bus"
)

var orderChecks = []Check{
	{
		Name: "FIFO", Run: fifo,
		Rule:   "what one goroutine publishes reaches every subscription in that order",
		Origin: "Dapr's suite, with its order check on, passes a bus that delivers backwards",
	},
	{
		Name: "FIFOPerPublisher", Run: fifoPerPublisher,
		Rule:   "each of several publishers is seen in its order by each subscription",
		Origin: "watermill#459, #560, #692: a goroutine per message",
	},
	{
		Name: "CrossSubject", Run: crossSubject,
		Rule: "one publisher is seen in its order across subjects, too",
	},
	{
		Name: "StreamOrder", Run: streamOrder, Needs: []Ability{Streams},
		Rule:   "on captured subjects every subscription sees the stream's order",
		Origin: "nats.rs#187: consumers see a higher sequence before a lower one",
	},
	{
		Name: "TotalOrder", Run: totalOrder, Needs: []Ability{TotalOrder},
		Rule:   "subscriptions agree on the order of uncaptured messages",
		Origin: "Mercure's local transport hands out without a lock: subscribers may see publishers interleaved differently",
	},
	{
		Name: "HandlerSerial", Run: handlerSerial,
		Rule:   "one subscription's handler is never run concurrently with itself",
		Origin: "ScalaConsultants/reactive-rabbit#7, dotnetcore/CAP#1600: one consumer's handler runs twice at the same time",
	},
}

// kinds calls f for an uncaptured subject and, where there are streams, for a captured
// one.
func (c *C) kinds(b bus.Bus, f func(root string)) {
	f("free")
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
		f("held")
	}
}

func fifo(c *C) {
	b := c.Bus()
	n := 5000
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".a"), wide)
		want := sequence("p", 1, n)
		for _, text := range want {
			c.publish(b, c.subject(root+".a"), text)
		}
		c.awaitText(h, want[n-1])
		c.judge(h, exactly(want...), quiet)
		n /= 5 // a store takes its time
	})
}

func fifoPerPublisher(c *C) {
	b := c.Bus()
	const publishers = 8
	n := 200
	c.kinds(b, func(root string) {
		subject := c.subject(root + ".a")
		histories := []*history{c.subscribe(b, subject, wide), c.subscribe(b, c.subject(root+".>"), wide)}
		c.together(publishers, "Publish", func(p int) {
			for _, text := range sequence(string(rune('A'+p)), 1, n) {
				c.publish(b, subject, text)
			}
		})
		c.publish(b, subject, "end")
		for _, h := range histories {
			c.awaitText(h, "end")
			c.judge(h, ordered, unique)
			for p := range publishers {
				c.judge(h, complete(sequence(string(rune('A'+p)), 1, n)...))
			}
		}
		n /= 4
	})
}

func crossSubject(c *C) {
	b := c.Bus()
	n := 500
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".*"), wide)
		want := sequence("p", 1, n)
		for i, text := range want {
			c.publish(b, c.subject(root+"."+string(rune('a'+i%3))), text)
		}
		c.awaitText(h, want[n-1])
		c.judge(h, exactly(want...))
		n /= 2
	})
}

// interleaved has several publishers at work, on the buses in turn, and compares what subscriptions see.
func (c *C) interleaved(buses []bus.Bus, root string, judges ...judge) {
	var histories []*history
	for i := range 4 { // with two patterns, which may come by two ways
		h := c.subscribe(buses[i%len(buses)], c.subject(root+[]string{".*", ".>"}[i%2]), wide)
		h.name += fmt.Sprintf(", subscription %d of 4", i+1)
		histories = append(histories, h)
	}
	c.together(4, "Publish", func(p int) {
		publisher := string(rune('a' + p))
		for _, text := range sequence(publisher, 1, 100) {
			c.publish(buses[p%len(buses)], c.subject(root+"."+publisher), text)
		}
	})
	c.publish(buses[0], c.subject(root+".end"), "end")
	for _, h := range histories {
		c.awaitText(h, "end")
	}
	for _, h := range histories {
		c.judge(h, append(slices.Clone(judges), agreesWith(histories[0].all()))...)
		for p := range 4 {
			c.judge(h, complete(sequence(string(rune('a'+p)), 1, 100)...))
		}
	}
}

func streamOrder(c *C) {
	c.orderOfStream([]bus.Bus{c.Bus()})
}

func (c *C) orderOfStream(buses []bus.Bus) {
	for _, b := range buses {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	}
	c.interleaved(buses, "held", inStreamOrder, ordered)
	for _, b := range buses {
		stored := c.subscribe(b, c.subject("held.*"), bus.All())
		c.judge(stored, inStreamOrder, ordered, unique)
	}
}

func totalOrder(c *C) { c.interleaved([]bus.Bus{c.Bus()}, "free", ordered) }

func handlerSerial(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		h := &history{name: root}
		gate, open := c.gate()
		var calls atomic.Int32
		c.subscribeFunc(b, c.subject(root+".*"), func(_ context.Context, m *bus.Message) error {
			h.message(m)
			if calls.Add(1) == 1 {
				<-gate // any other call now would overlap
			}
			h.add(event{kind: returned, text: string(m.Data)})
			return nil
		})
		c.together(4, "Publish", func(p int) { c.publish(b, c.subject(root+"."+string(rune('a'+p))), numbered("p", p)) })
		c.publish(b, c.subject(root+".a"), "end")
		c.settle()
		open()
		c.await(h, "the last message to be handled", func(e event) bool { return e.kind == returned && e.text == "end" })
		c.judge(h, serial)
	})
}
