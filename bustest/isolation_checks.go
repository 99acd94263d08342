package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jitney-go/jitney/bus"
)

var isolationChecks = []Check{
	{
		Name: "PublisherBuffer", Run: publisherBuffer,
		Rule:   "the data is the caller's again when Publish returns",
		Origin: "watermill's GoChannel delivers what the publisher wrote afterwards",
	},
	{
		Name: "KeepAndAppend", Run: keepAndAppend,
		Rule:   "a handler may keep a message for ever, which stays as it is, and appending to its data copies",
		Origin: "watermill's GoChannel: subscriber B reads what A has written",
	},
	{
		Name: "SlowHandlerAlone", Run: slowHandlerAlone,
		Rule:   "a thousand blocked handlers delay no other subscription",
		Origin: "watermill#247, #275, #382; nats.net#1041",
	},
	{
		Name: "SlowHandlerNoPublisher", Run: slowHandlerNoPublisher,
		Rule:   "a blocked handler delays no publisher",
		Origin: "nats.net#1041: a blocked handler stops the reader of the socket",
	},
	{
		Name: "LossIsCounted", Run: lossIsCounted,
		Rule:   "what an uncaptured subject loses to a slow handler is the oldest, counted exactly and reported",
		Origin: "NATS drops silently for a slow consumer: 16 of 80 messages of 1 MiB",
	},
	{
		Name: "BufferBounds", Run: bufferBounds,
		Rule:   "Buffer bounds the messages and the bytes that wait for a blocked handler, however long and with whatever tick; one message always fits",
		Origin: "bus/driver bounded nothing between two ticks",
	},
	{
		Name: "SlowCatchesUp", Run: slowCatchesUp, Needs: []Ability{Streams},
		Rule:   "on a captured subject a subscription that falls behind loses nothing",
		Origin: "NATS drops for a slow consumer: 16 of 80 messages of 1 MiB",
	},
}

func publisherBuffer(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		gate, open := c.gate()
		h := &history{name: root}
		c.subscribeFunc(b, c.subject(root+".a"), func(_ context.Context, m *bus.Message) error {
			<-gate
			h.message(m)
			return nil
		})
		calls := 0
		buffer := make([]byte, 0, 64)
		want := sequence("p", 10, 29)
		for _, text := range want {
			buffer = append(buffer[:0], text...)
			if err := b.Publish(c.ctx, c.subject(root+".a"), buffer); err != nil {
				c.Fatalf("Publish: %v", err)
			}
		}
		copy(buffer, "overwritten")
		open()
		c.await(h, "the last message", func(event) bool { calls++; return calls == len(want) })
		c.judge(h, exactly(want...))
	})
}

func keepAndAppend(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		first, second := &history{name: root + ", which appends"}, &history{name: root + ", which keeps"}
		for _, h := range []*history{first, second} {
			c.subscribeFunc(b, c.subject(root+".a"), func(_ context.Context, m *bus.Message) error {
				if h == first {
					_ = append(m.Data, "appended"...) // must not reach anybody else
				}
				h.message(m)
				return nil
			}, wide)
		}
		want := sequence("p", 1, 100)
		for _, text := range want {
			c.publish(b, c.subject(root+".a"), text)
		}
		for _, h := range []*history{first, second} {
			c.awaitText(h, want[len(want)-1])
		}
		if root == "held" {
			c.checkStored(b, c.subject(root+".a"), want...) // what is replayed to others stays a live message here
		}
		for _, h := range []*history{first, second} {
			c.judge(h, exactly(want...), unchanged)
			for _, e := range h.all() {
				// Seen from the second handler, an appended byte lies behind its data.
				if room := e.msg.Data[len(e.msg.Data):cap(e.msg.Data)]; len(room) > 0 {
					c.Errorf("%s: the capacity of %q exceeds its length by %d", h.name, e.text, len(room))
					break
				}
			}
		}
	})
}

// unchanged: the messages that were kept still say what they said.
func unchanged(events []event) *fault {
	for at, e := range events {
		if e.kind != delivered {
			continue
		}
		if m := e.msg; string(m.Data) != e.text || m.Subject != e.subject || m.Cursor != e.cursor || m.Replayed != e.replayed {
			return &fault{at, fmt.Sprintf("the kept message has become %.60q on %s at %q, replayed: %t", m.Data, m.Subject, m.Cursor, m.Replayed)}
		}
	}
	return nil
}

// block subscribes a handler on a below root that waits for the gate, and returns when it does.
func (c *C) block(b bus.Bus, root string, opts ...bus.SubscribeOption) (h *history, open func()) {
	return c.blockOn(b, root+".a", opts...)
}

func (c *C) blockOn(b bus.Bus, subject string, opts ...bus.SubscribeOption) (h *history, open func()) {
	gate, open := c.gate()
	h = &history{name: subject + ", blocked"}
	inside := make(chan struct{}, 1)
	h.sub = c.subscribeFunc(b, c.subject(subject), func(_ context.Context, m *bus.Message) error {
		h.message(m)
		select {
		case inside <- struct{}{}:
		default:
		}
		<-gate
		return nil
	}, append([]bus.SubscribeOption{bus.OnError(h.hook())}, opts...)...)
	c.publish(b, c.subject(subject), "blocks")
	receive(c, inside, "the handler to be called")
	return h, open
}

// blockMany has n subscriptions whose handlers are blocked.
func (c *C) blockMany(b bus.Bus, root string, n int) {
	gate, _ := c.gate()
	inside := make(chan struct{}, n)
	for range n {
		first := true // a subscription's handler is called serially
		c.subscribeFunc(b, c.subject(root+".a"), func(context.Context, *bus.Message) error {
			if first {
				inside <- struct{}{}
			}
			first = false
			<-gate
			return nil
		}, bus.Buffer(4, 1<<10))
	}
	c.publish(b, c.subject(root+".a"), "blocks")
	for i := range n {
		receive(c, inside, fmt.Sprintf("the handler of subscription %d of %d to be called, while the others are blocked", i+1, n))
	}
}

func slowHandlerAlone(c *C) {
	b := c.Bus()
	n := 2000
	c.kinds(b, func(root string) {
		c.blockMany(b, root, 1000)
		other := c.subscribe(b, c.subject(root+".*"), wide)
		want := sequence("p", 1, n)
		for _, text := range want {
			c.publish(b, c.subject(root+".b"), text)
		}
		c.awaitText(other, want[n-1])
		same := c.subscribe(b, c.subject(root+".a"), wide)
		c.publish(b, c.subject(root+".a"), "on the same subject")
		c.awaitText(same, "on the same subject")
		c.judge(other, ordered, unique, complete(want...))
		n /= 4
	})
}

func slowHandlerNoPublisher(c *C) {
	b := c.Bus()
	n := 2000
	c.kinds(b, func(root string) {
		c.block(b, root, bus.Buffer(4, 1<<10))
		var published atomic.Int32
		done := c.start(func() {
			for _, text := range sequence("p", 1, n) {
				if err := b.Publish(c.ctx, c.subject(root+".a"), []byte(text)); err != nil && c.ctx.Err() == nil {
					c.Errorf("Publish: %v", err)
					return
				}
				published.Add(1)
			}
		})
		receive(c, done, fmt.Sprintf("%d calls of Publish to return", n))
		n /= 4
	})
}

func lossIsCounted(c *C) {
	b := c.Bus()
	const room, n = 16, 200
	h, open := c.block(b, "free", bus.Buffer(room, 1<<20))
	want := sequence("p", 1, n)
	for _, text := range want {
		c.publish(b, c.subject("free.a"), text)
	}
	// A message may still be on its way to the queue; one that arrives elsewhere is not.
	watch := c.subscribe(b, c.subject("free.end"))
	c.publish(b, c.subject("free.end"), "end")
	c.awaitText(watch, "end")
	open()
	c.awaitText(h, want[n-1])
	events := h.all()
	got, told := 0, uint64(0)
	for _, e := range events {
		var slow *bus.SlowError
		switch {
		case e.kind == delivered && e.text != "blocks":
			got++
		case e.kind == problem && errors.As(e.problem.Err, &slow):
			told += slow.Dropped
		}
	}
	dropped := h.sub.Dropped()
	if uint64(got)+dropped != n {
		c.Errorf("%d messages were published, %d delivered, %d counted as dropped", n, got, dropped)
	}
	if told != dropped {
		c.Errorf("%d messages were dropped, the error hook was told of %d", dropped, told)
	}
	if got < room {
		c.Errorf("%d messages were delivered, there was room for %d", got, room)
	}
	c.judge(h, ordered, unique, complete(slices.Clone(want[n-room:])...))
}

func bufferBounds(c *C) {
	b := c.Bus()
	const room, rounds = 8, 10
	h, _ := c.block(b, "free", bus.Buffer(room, 1<<20))
	watch := c.subscribe(b, c.subject("free.end"))
	for round := range rounds {
		publisher := fmt.Sprint("r", round)
		for _, text := range sequence(publisher, 1, room) {
			c.publish(b, c.subject("free.a"), text)
		}
		c.publish(b, c.subject("free.end"), publisher)
		c.awaitText(watch, publisher) // a tick has passed
	}
	c.awaitDropped(h, (rounds-2)*room)

	// There is room for the bytes of three of these. What is larger than the whole of it has it for itself.
	const size = 1 << 10
	small, open := c.block(b, "bytes", bus.Buffer(1000, 3*size+size/2))
	for round := range 4 {
		for _, text := range sequence(fmt.Sprint("bytes", round), 1, room) {
			c.publish(b, c.subject("bytes.a"), text+strings.Repeat(" ", size))
		}
		text := fmt.Sprint("bytes", round)
		c.publish(b, c.subject("free.end"), text)
		c.awaitText(watch, text) // a tick has passed
	}
	c.awaitDropped(small, 2*room)
	larger := strings.Repeat("larger than all that Buffer has room for ", 10*size/40)
	c.publish(b, c.subject("bytes.a"), larger)
	open()
	c.awaitText(small, larger)
	c.judge(small, ordered, unique)
}

func slowCatchesUp(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	h, open := c.block(b, "held", bus.Buffer(4, 1<<10))
	want := sequence("p", 1, 500)
	for i, text := range want {
		c.publish(b, c.subject("held.a"), text)
		if i == len(want)/2 {
			open() // half of it while the handler runs
		}
	}
	c.awaitText(h, want[len(want)-1])
	c.judge(h, exactly(append([]string{"blocks"}, want...)...), inStreamOrder, quiet)
	if n := h.sub.Dropped(); n != 0 {
		c.Errorf("%d messages count as dropped", n)
	}
}
