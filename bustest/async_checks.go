package bustest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/jitney-go/jitney/bus"
)

var asyncChecks = []Check{
	{
		Name: "AsyncOutcomes", Run: asyncOutcomes,
		Rule:   "bus.AsyncPublisher tells the outcome of each message once, one at a time, as Publish would have returned it",
		Origin: "nats.py#985: the outcome of a refused message never comes; wagslane/go-rabbitmq#226: each comes on a goroutine of its own",
	},
	{
		Name: "AsyncOrder", Run: asyncOrder,
		Rule:   "what one goroutine publishes without waiting reaches every subscription in that order, also when its data is used again at once",
		Origin: "nats-server#2384: what is published without waiting and tried again comes in another order",
	},
	{
		Name: "AsyncUnheard", Run: asyncUnheard,
		Rule:   "an error of PublishAsync that nobody wants to be told goes to the error hook of the bus",
		Origin: "nats.c#538: when the server is gone the error handler isn't called",
	},
	{
		Name: "AsyncDone", Run: asyncDone,
		Rule:   "who is told an outcome may use the bus, panic and end the goroutine: the others are told all the same",
		Origin: "bloomberg/rmqcpp#79: a confirmation's callback that publishes deadlocks; stan.py#9: one that fails leaves its entry behind",
	},
	{
		Name: "AsyncClose", Run: asyncClose,
		Rule:   "Close tells the outcome of everything that is on its way before it returns; after it, it is ErrClosed",
		Origin: "apache/pulsar-client-go#1042: Close forgets what waits and its callbacks",
	},
}

// async is b as one that publishes without waiting.
func (c *C) async(b bus.Bus) bus.AsyncPublisher {
	p, ok := b.(bus.AsyncPublisher)
	if !ok {
		c.NotClaimed("the bus is no bus.AsyncPublisher")
	}
	return p
}

// outcomes are what was told of n messages.
type outcomes struct {
	running atomic.Int32
	all     chan struct{} // closed when each was told

	mu   sync.Mutex
	told [][]error
	left int
}

func newOutcomes(n int) *outcomes {
	return &outcomes{all: make(chan struct{}), told: make([][]error, n), left: n}
}

// done is what message i calls, before it does something else.
func (o *outcomes) done(c *C, i int, also ...func()) func(error) {
	return func(err error) {
		if o.running.Add(1) > 1 {
			c.Errorf("two outcomes are told at the same time")
		}
		defer o.running.Add(-1)
		for range 10 {
			runtime.Gosched() // so that others meet it
		}
		o.mu.Lock()
		o.told[i] = append(o.told[i], err)
		if len(o.told[i]) == 1 {
			if o.left--; o.left == 0 {
				close(o.all)
			}
		}
		o.mu.Unlock()
		for _, f := range also {
			f()
		}
	}
}

// judge fails the check unless each was told once what it should be; nil: no error.
func (o *outcomes) judge(c *C, want func(i int) error) {
	receive(c, o.all, "the outcome of each message")
	c.settle() // an outcome may be told once more
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, errs := range o.told {
		switch target := want(i); {
		case len(errs) != 1:
			c.Errorf("message %d: its outcome was told %d times", i, len(errs))
		case target == nil && errs[0] != nil, !errors.Is(errs[0], target):
			c.Errorf("message %d: the outcome was %v, want %v", i, errs[0], target)
		}
	}
}

func asyncOutcomes(c *C) {
	b := c.Bus()
	p := c.async(b)
	over, cancel := context.WithCancel(c.ctx)
	cancel()
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".>"), wide)
		captured := root == "held"
		const n = 300
		o := newOutcomes(n)
		wants := make([]error, n)
		receipts := make([]bus.Receipt, n)
		var texts []string
		for i := range n {
			ctx, subject, text := c.ctx, c.subject(root+".a"), fmt.Sprint("m", i)
			var opts []bus.PublishOption
			switch {
			case i%10 == 3:
				subject, wants[i] = "a..b", bus.ErrBadSubject
			case i%10 == 5:
				ctx, wants[i] = over, context.Canceled
			case i%10 == 7 && captured:
				opts, wants[i] = append(opts, bus.ExpectNone()), bus.ErrConflict
			case i%10 == 7 && c.h.claims(Streams):
				opts, wants[i] = append(opts, bus.ExpectNone()), bus.ErrNoStream
			case captured:
				opts = append(opts, bus.WithReceipt(&receipts[i]))
			}
			if wants[i] == nil {
				texts = append(texts, text)
			}
			p.PublishAsync(ctx, subject, []byte(text), o.done(c, i), opts...)
		}
		o.judge(c, func(i int) error { return wants[i] })
		c.awaitText(h, texts[len(texts)-1])
		c.judge(h, exactly(texts...))
		var last bus.Cursor
		for i, r := range receipts {
			if !captured || wants[i] != nil {
				continue
			}
			if order, ok := last.Compare(r.Cursor); r.Cursor.IsZero() || !last.IsZero() && (!ok || order >= 0) {
				c.Errorf("the receipt of message %d says %q, behind %q", i, r.Cursor, last)
			}
			last = r.Cursor
		}
	})
}

func asyncOrder(c *C) {
	b := c.Bus()
	p := c.async(b)
	n := 3000 // more than may be on their way
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".>"), wide)
		o := newOutcomes(n)
		var want []string
		data := make([]byte, 0, 16)
		for i := range n {
			data = fmt.Appendf(data[:0], "m%d", i)
			want = append(want, string(data))
			p.PublishAsync(c.ctx, c.subject(root+"."+string(rune('a'+i%3))), data, o.done(c, i))
			for j := range data {
				data[j] = '?'
			}
		}
		o.judge(c, func(int) error { return nil })
		c.publish(b, c.subject(root+".a"), "end")
		c.awaitText(h, "end")
		c.judge(h, exactly(append(want, "end")...))
		n /= 2
	})
}

func asyncUnheard(c *C) {
	e := c.env()
	p := c.async(c.open(e))
	p.PublishAsync(c.ctx, "a..b", nil, nil)
	c.awaitProblem(e.problems, bus.ErrBadSubject)
}

func asyncDone(c *C) {
	e := c.env()
	b := c.open(e)
	p := c.async(b)
	c.kinds(b, func(root string) {
		subject := c.subject(root + ".a")
		h := c.subscribe(b, subject, wide)
		o := newOutcomes(5)
		p.PublishAsync(c.ctx, subject, []byte("one"), o.done(c, 0, func() { panic("in done") }))
		p.PublishAsync(c.ctx, subject, []byte("two"), o.done(c, 1, runtime.Goexit))
		p.PublishAsync(c.ctx, subject, []byte("three"), o.done(c, 2, func() {
			c.publish(b, subject, "four")
			p.PublishAsync(c.ctx, subject, []byte("five"), o.done(c, 4))
		}))
		p.PublishAsync(c.ctx, subject, []byte("last"), o.done(c, 3))
		o.judge(c, func(int) error { return nil })
		c.awaitText(h, "five")
		c.judge(h, complete("one", "two", "three", "four", "five", "last"), unique)
	})
	c.awaitProblem(e.problems, bus.ErrPanic)
}

func asyncClose(c *C) {
	b := c.Bus()
	p := c.async(b)
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	}
	const n = 500
	o := newOutcomes(2*n + 1)
	begun, begin := c.gate()
	published := c.start(func() {
		for i := range n {
			if i == n/2 {
				begin()
			}
			p.PublishAsync(c.ctx, c.subject("held.a"), []byte("m"), o.done(c, 2*i))
			p.PublishAsync(c.ctx, c.subject("free.a"), []byte("m"), o.done(c, 2*i+1))
		}
	})
	receive(c, begun, "the first half to be published")
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
	told := 0
	o.mu.Lock()
	for _, errs := range o.told[:n] {
		told += len(errs)
	}
	o.mu.Unlock()
	if told != n {
		c.Errorf("Close has returned, and of the %d messages before it the outcome of %d is known", n, told)
	}
	receive(c, published, "the second half to be published")
	p.PublishAsync(c.ctx, c.subject("free.a"), nil, o.done(c, 2*n))
	receive(c, o.all, "the outcome of each message")
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, errs := range o.told {
		if len(errs) != 1 || errs[0] != nil && !errors.Is(errs[0], bus.ErrClosed) || i == 2*n && errs[0] == nil {
			c.Errorf("message %d of a bus that is closed: the outcomes are %v, want one, nil or ErrClosed", i, errs)
		}
	}
}
