package bustest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var publishChecks = []Check{
	{
		Name: "NoSubscribers", Run: noSubscribers,
		Rule:   "publishing what nobody listens to is no error",
		Origin: "nanomsg/mangos-v1#219: without subscribers a publisher blocks when its queue is full",
	},
	{
		Name: "AnyBytes", Run: anyBytes, Needs: []Ability{Streams},
		Rule:   "data of any bytes and size arrives as it was published, live and replayed",
		Origin: "Go CDK's suite passes a driver that cuts bodies at 1000 bytes",
	},
	{
		Name: "PublishOrderOfErrors", Run: publishOrderOfErrors,
		Rule: "Publish checks its context, the subject, the header, the size and then the stream, in this order",
	},
	{
		Name: "PublishCancelled", Run: publishCancelled,
		Rule:   "a publish whose context ends meanwhile is accepted, or ErrUnknownOutcome with the context's error in it, or published nowhere",
		Origin: "nats.node#628, EasyNetQ#1413: a timeout is returned and the message is stored",
	},
	{
		Name: "HeadersCount", Run: headersCount, Needs: []Ability{Headers, PayloadLimit},
		Rule:   "headers count towards the limit of a message and what a stream's bytes limit could hold",
		Origin: "nats.py#896 counted the data alone",
	},
	{
		Name: "OutsideStreams", Run: outsideStreams, Needs: []Ability{Streams},
		Rule:   "publishing on an uncaptured subject waits for no stream, also when somebody subscribes to everything",
		Origin: "nats.go#1461, nats-server#8038: 500 ms without a stream, 5 s with any subscriber",
	},
	{
		Name: "MessageIDAtOnce", Run: messageIDAtOnce, Needs: []Ability{Streams},
		Rule:   "of several publishes under one ID at the same time one is stored, and all are accepted",
		Origin: "noxdafox/rabbitmq-message-deduplication#67: duplicates that come at the same time get through",
	},
	{
		Name: "MessageIDPerStream", Run: messageIDPerStream, Needs: []Ability{Streams},
		Rule: "a message ID is of one stream: another stream takes it",
	},
	{
		Name: "DuplicateWindow", Run: duplicateWindow, Needs: []Ability{Streams},
		Rule:   "a message ID is remembered for the stream's Duplicates, by default 30 s, and not for ever",
		Origin: "apache/iggy#207, Wave-RF/WaveHouse#220: IDs are remembered for ever",
	},
	{
		Name: "ExpectAtOnce", Run: expectAtOnce, Needs: []Ability{Streams},
		Rule:   "of several publishes that expect the same last message one is stored, and the others are ErrConflict",
		Origin: "nats-server#4320: several publishes that expect the same sequence are accepted",
	},
	{
		Name: "ExpectNoneNow", Run: expectNoneNow, Needs: []Ability{Streams},
		Rule:   "ExpectNone asks what the stream holds now: what limits have discarded is no conflict",
		Origin: "nats-server#6712: a key that MaxAge has removed can't be created",
	},
}

func noSubscribers(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		done := c.start(func() {
			for _, text := range sequence("p", 1, 20) {
				c.publish(b, c.subject(root+".nobody"), text)
			}
			h := c.subscribe(b, c.subject(root+".gone"))
			c.unsubscribe(h.sub)
			c.publish(b, c.subject(root+".gone"), "late")
		})
		receive(c, done, "Publish without subscribers to return")
	})
}

func anyBytes(c *C) {
	b := c.Bus()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	texts := []string{string(every), "\xff\xfe\x00 not UTF-8 \xc3", "\r\n", "MSG a 1 2\r\n"}
	for _, size := range []int{1, 999, 1001, 4095, 4097, 64 << 10} {
		if c.h.MaxPayload > 0 {
			size = min(size, c.h.MaxPayload)
		}
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(c.rand.IntN(256))
		}
		texts = append(texts, string(data))
	}
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".a"), wide)
		for _, text := range texts {
			c.publish(b, c.subject(root+".a"), text)
		}
		c.publish(b, c.subject(root+".a"), "end")
		c.awaitText(h, "end")
		c.judge(h, exactly(append(texts[:len(texts):len(texts)], "end")...))
	})
	c.checkStored(b, c.subject("held.a"), append(texts, "end")...)
}

// wrong is one thing that can be wrong with a publish.
type wrong struct {
	name    string
	is      func(err error) bool
	subject string // "": a good one
	opt     bus.PublishOption
	done    bool // its context
	large   bool
}

func publishOrderOfErrors(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject(">"))
	is := func(target error) func(error) bool {
		return func(err error) bool { return errors.Is(err, target) }
	}
	// In the order in which they are looked at.
	wrongs := []wrong{
		{name: "a context that is done", is: is(context.Canceled), done: true},
		{name: "a bad subject", is: is(bus.ErrBadSubject), subject: "a..b"},
	}
	if c.h.claims(Headers) {
		wrongs = append(wrongs, wrong{name: "a bad header", is: is(bus.ErrBadHeader), opt: bus.WithHeader("a b", "v")})
	}
	if c.h.claims(Streams) {
		wrongs = append(wrongs, wrong{name: "a message ID with a line break", is: is(bus.ErrBadHeader), opt: bus.MessageID("a\nb")})
	}
	if c.h.MaxPayload > 0 {
		wrongs = append(wrongs, wrong{name: "too much data", is: is(bus.ErrTooLarge), large: true})
	}
	wrongs = append(wrongs, wrong{name: "an expectation without a stream", is: c.isNoStream, opt: bus.ExpectNone()})
	done, cancel := context.WithCancel(c.ctx)
	cancel()
	for i, first := range wrongs {
		for _, second := range wrongs[i:] {
			ctx, subject, data := c.ctx, "a", []byte("refused")
			var opts []bus.PublishOption
			for _, w := range []wrong{second, first} {
				if w.done {
					ctx = done
				}
				if w.subject != "" {
					subject = w.subject
				}
				if w.large {
					data = make([]byte, c.h.MaxPayload+1)
				}
				if w.opt != nil {
					opts = append(opts, w.opt)
				}
			}
			if err := b.Publish(ctx, c.subject(subject), data, opts...); !first.is(err) {
				c.Errorf("Publish with %s and %s: the first counts, have %v", first.name, second.name, err)
			}
		}
	}
	c.publish(b, c.subject("a"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
}

// publishCancelled ends contexts at any moment of a publish, which a check can't see. What a publish says of its outcome is
// compared with what came of it.
func publishCancelled(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".a"), wide)
		const publishers, n = 4, 50
		var mu sync.Mutex
		accepted, refused := []string{}, map[string]error{}
		c.together(publishers, "Publish", func(p int) {
			for _, text := range sequence(string(rune('A'+p)), 1, n) {
				ctx, cancel := context.WithCancel(c.ctx)
				// It ends before, during or after the call, as it happens.
				cancelled := c.start(cancel)
				err := b.Publish(ctx, c.subject(root+".a"), []byte(text))
				<-cancelled
				mu.Lock()
				switch {
				case err == nil:
					accepted = append(accepted, text)
				case !errors.Is(err, context.Canceled):
					c.Errorf("Publish whose context is cancelled: want nil or context.Canceled, have %v", err)
				case !errors.Is(err, bus.ErrUnknownOutcome):
					refused[text] = err
				}
				mu.Unlock()
			}
		})
		c.publish(b, c.subject(root+".a"), "end")
		c.awaitText(h, "end")
		c.judge(h, complete(accepted...), ordered, unique, notRefused(refused))
	})
}

func headersCount(c *C) {
	b := c.Bus()
	value := strings.Repeat("v", 200)
	refused := func(subject string, size int) {
		err := b.Publish(c.ctx, c.subject(subject), make([]byte, size), bus.WithHeader("K", value))
		if !errors.Is(err, bus.ErrTooLarge) {
			c.Errorf("Publish of %d bytes and a header of %d on %s: want ErrTooLarge, have %v", size, len(value), subject, err)
		}
	}
	c.kinds(b, func(root string) {
		refused(root+".a", c.h.MaxPayload-len(value)/2)
	})
	if c.h.claims(Streams) {
		const limit = 512
		c.ensure(b, bus.StreamConfig{Name: c.stream("SMALL"), Subjects: []string{c.subject("small")}, MaxBytes: limit})
		c.publish(b, c.subject("small"), "stays")
		refused("small", limit-len(value)/2)
		c.checkStored(b, c.subject("small"), "stays")
	}
}

func outsideStreams(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	const n = 100
	everything := c.subscribe(b, c.subject(">"), wide)
	for round, subscribed := range []bool{true, false} {
		subject := c.subject(fmt.Sprint("free.", round))
		if !subscribed {
			c.unsubscribe(everything.sub)
		}
		// A wait for a stream that doesn't answer, however short, adds up.
		receive(c, c.start(func() {
			for _, text := range sequence("p", 1, n) {
				c.publish(b, subject, text)
			}
		}), fmt.Sprintf("%d calls of Publish on an uncaptured subject to return", n))
		receive(c, c.start(func() {
			for range n / 10 {
				if _, err := b.Subscribe(c.ctx, subject, everything.handler(), bus.All()); !errors.Is(err, bus.ErrNoStream) {
					c.Errorf("Subscribe to the past of an uncaptured subject: want ErrNoStream, have %v", err)
				}
			}
		}), "calls of Subscribe to the past of an uncaptured subject to return")
		if subscribed {
			c.awaitText(everything, numbered("p", n))
			c.judge(everything, exactly(sequence("p", 1, n)...), quiet)
		}
	}
	c.checkStored(b, c.subject("held.>"))
}

func messageIDAtOnce(c *C) { c.sameIDs([]bus.Bus{c.Bus()}) }

// sameIDs has several publish under one ID at the same time, on the buses in turn.
func (c *C) sameIDs(buses []bus.Bus) {
	for _, b := range buses {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}})
	}
	var want []string
	for round := range 10 {
		id := fmt.Sprint("id-", round)
		var stored atomic.Int32
		c.together(8, "Publish", func(i int) {
			var r bus.Receipt
			c.publish(buses[i%len(buses)], c.subject("a"), id, bus.MessageID(id), bus.WithReceipt(&r))
			if !r.Duplicate {
				stored.Add(1)
			}
		})
		if n := stored.Load(); n != 1 {
			c.Errorf("of 8 publishes under one ID at the same time %d were told that they are no duplicate", n)
		}
		want = append(want, id)
	}
	c.checkStored(buses[0], c.subject("a"), want...)
}

func messageIDPerStream(c *C) {
	b := c.Bus()
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("ONE"), Subjects: []string{c.subject("one")}},
		bus.StreamConfig{Name: c.stream("TWO"), Subjects: []string{c.subject("two")}})
	for _, subject := range []string{"one", "two"} {
		var r bus.Receipt
		c.publish(b, c.subject(subject), subject, bus.MessageID("the same"), bus.WithReceipt(&r))
		if r.Duplicate {
			c.Errorf("an ID that another stream has seen is told as a duplicate on %s", subject)
		}
		c.checkStored(b, c.subject(subject), subject)
	}
}

func duplicateWindow(c *C) {
	b := c.Bus()
	window := 100 * time.Millisecond
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, Duplicates: window}
	if c.h.Bubble { // where waiting for the default costs nothing
		window, cfg.Duplicates = 30*time.Second, 0
	}
	c.ensure(b, cfg)
	began := time.Now()
	c.publish(b, c.subject("a"), "x", bus.MessageID("id"))
	c.until(fmt.Sprintf("an ID to be forgotten whose window is %v", window), window+c.h.Patience, func(int) bool {
		var r bus.Receipt
		c.publish(b, c.subject("a"), "x", bus.MessageID("id"), bus.WithReceipt(&r))
		if waited := time.Since(began); !r.Duplicate && waited < window { // longer than since the first was stored
			c.Errorf("an ID was taken again within %v, the window is %v", waited, window)
		}
		return !r.Duplicate
	})
	c.checkStored(b, c.subject("a"), "x", "x")
}

func expectAtOnce(c *C) { c.sameExpectations([]bus.Bus{c.Bus()}) }

// sameExpectations has several expect the same last message at the same time, on the buses in turn.
func (c *C) sameExpectations(buses []bus.Bus) {
	for _, b := range buses {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}})
	}
	const rounds = 10
	var last bus.Cursor
	var want []string
	for round := range rounds {
		receipts := make([]bus.Receipt, 8)
		var stored atomic.Int32
		c.together(len(receipts), "Publish", func(i int) {
			err := buses[i%len(buses)].Publish(c.ctx, c.subject("a"), []byte(numbered("p", round)), bus.ExpectLast(last), bus.WithReceipt(&receipts[i]))
			if err == nil {
				stored.Add(1)
			} else if !errors.Is(err, bus.ErrConflict) {
				c.Errorf("Publish that expects: want nil or ErrConflict, have %v", err)
			}
		})
		if n := stored.Load(); n != 1 {
			c.Fatalf("of %d publishes that expect %q as the last %d were stored", len(receipts), last, n)
		}
		for _, r := range receipts {
			if !r.Cursor.IsZero() {
				last = r.Cursor
			}
		}
		want = append(want, numbered("p", round))
	}
	c.checkStored(buses[0], c.subject("a"), want...)
}

func expectNoneNow(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.*")}, MaxMsgs: 2})
	gone := c.store(b, c.subject("a.x"), "discarded")
	c.publish(b, c.subject("a.y"), "first")
	c.publish(b, c.subject("a.y"), "second")
	if err := b.Publish(c.ctx, c.subject("a.x"), []byte("refused"), bus.ExpectLast(gone)); !errors.Is(err, bus.ErrConflict) {
		c.Errorf("ExpectLast of what limits have discarded: want ErrConflict, have %v", err)
	}
	if err := b.Publish(c.ctx, c.subject("a.x"), []byte("new"), bus.ExpectNone()); err != nil {
		c.Errorf("ExpectNone when limits have discarded the only one: %v", err)
	}
	c.checkStored(b, c.subject("a.*"), "second", "new")
}
