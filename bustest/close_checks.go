package bustest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var closeChecks = []Check{
	{
		Name: "AfterClose", Run: afterClose,
		Rule:   "after Close every call is ErrClosed, before anything else that is wrong with it",
		Origin: "Dapr's and watermill's suites pass a bus that publishes after Close",
	},
	{
		Name: "CloseTwice", Run: closeTwice,
		Rule:   "Close is idempotent, and no call of it returns before the work is done",
		Origin: "watermill-nats#1: close of a closed channel",
	},
	{
		Name: "CloseFence", Run: closeFence,
		Rule:   "after Close has returned nil no handler is running or will run",
		Origin: "paullouisageneau/libdatachannel#697: callbacks that were queued are called after close",
	},
	{
		Name: "CloseFlushes", Run: closeFlushes,
		Rule:   "what was accepted before Close is delivered before it returns",
		Origin: "watermill#235, #446; dapr#9604",
	},
	{
		Name: "CloseFinishesReplay", Run: closeFinishesReplay, Needs: []Ability{Streams},
		Rule:   "Close lets a replay come to the end of what was stored before it, also when a handler publishes meanwhile",
		Origin: "bus/driver cut a replay that was about to go over into live",
	},
	{
		Name: "CloseServesHandlers", Run: closeServesHandlers,
		Rule:   "while Close waits for them, handlers may still publish; others are refused",
		Origin: "watermill#568: contexts that end before handlers are done",
	},
	{
		Name: "CloseWaitsForEnded", Run: closeWaitsForEnded,
		Rule:   "Close waits for handlers whose subscription has ended before, however it did, too: they may publish meanwhile, and those that don't return are named",
		Origin: "bus/driver forgot a subscription at its end, and so the handler that it still ran",
	},
	{
		Name: "CloseUnderFire", Run: closeUnderFire,
		Rule:   "calls that meet Close return nil or ErrClosed, and nothing panics or hangs",
		Origin: "nats.go#1882: send on closed channel; watermill#111, #317; membus panicked in a publish that met Close",
	},
	{
		Name: "CloseUnderFireKept", Run: closeUnderFireKept, Needs: []Ability{Durable},
		Rule:   "of the publishes that meet Close, the accepted ones are stored in the next Open, and those that are refused aren't",
		Origin: "apache/pulsar#6648: Close fails messages that are stored",
	},
	{
		Name: "CloseStuckHandler", Run: closeStuckHandler,
		Rule:   "Close ends by its deadline, or else after 5 s, names the patterns whose handlers don't return, whose context it cancels and whose calls are ErrClosed from then on, and leaves nothing but them",
		Origin: "watermill#285, #351: deadlocks in Close; bus/driver never stopped a group whose member was stuck",
	},
}

func afterClose(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("a"))
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
	done, cancel := context.WithCancel(c.ctx)
	cancel()
	calls := map[string]func(ctx context.Context, subject string) error{
		"Publish": func(ctx context.Context, subject string) error { return b.Publish(ctx, subject, []byte("late")) },
		"Subscribe": func(ctx context.Context, subject string) error {
			_, err := b.Subscribe(ctx, subject, h.handler())
			return err
		},
		"EnsureStreams": func(ctx context.Context, subject string) error {
			return b.EnsureStreams(ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{subject}})
		},
	}
	if l, ok := b.(bus.StreamLister); ok {
		calls["Streams"] = func(ctx context.Context, _ string) error {
			_, err := l.Streams(ctx)
			return err
		}
	}
	if r, ok := b.(bus.Remover); ok {
		calls["RemoveStream"] = func(ctx context.Context, _ string) error { return r.RemoveStream(ctx, c.stream("S")) }
		calls["RemoveGroup"] = func(ctx context.Context, _ string) error { return r.RemoveGroup(ctx, "g") }
	}
	if l, ok := b.(bus.HealthChecker); ok {
		calls["Health"] = func(ctx context.Context, _ string) error { return l.Health(ctx) }
	}
	if a, ok := b.(bus.Appender); ok {
		calls["Append"] = func(ctx context.Context, subject string) error {
			_, err := a.Append(ctx, c.stream("S"), bus.Cursor{}, &bus.Message{Subject: subject})
			return err
		}
	}
	for name, call := range calls {
		for how, args := range map[string]struct {
			ctx     context.Context
			subject string
		}{
			"":                            {c.ctx, c.subject("a")},
			" of a bad subject":           {c.ctx, "..*"},
			" with a context that's done": {done, c.subject("a")},
		} {
			returned := make(chan error, 1)
			c.start(func() { returned <- call(args.ctx, args.subject) })
			if err := receive(c, returned, name+how+" after Close to return"); !errors.Is(err, bus.ErrClosed) {
				c.Errorf("%s%s after Close: want ErrClosed, have %v", name, how, err)
			}
		}
	}
	receive(c, h.sub.Done(), "the subscription to end with the bus")
	if err := h.sub.Err(); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("Err of the subscription: want ErrClosed, have %v", err)
	}
	c.judge(h, exactly())
}

func closeTwice(c *C) {
	b := c.Bus()
	h, open := c.block(b, "free")
	var running atomic.Bool
	running.Store(true)
	var early atomic.Int32
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Settle+c.h.Patience)
	defer cancel()
	var dones []<-chan struct{}
	for range 8 {
		dones = append(dones, c.start(func() {
			if err := b.Close(ctx); err != nil && !c.Failed() {
				c.Errorf("Close: %v", err)
			}
			if running.Load() {
				early.Add(1)
			}
		}))
	}
	c.settle()
	running.Store(false)
	open()
	for _, done := range dones {
		receive(c, done, "Close to return")
	}
	if n := early.Load(); n > 0 {
		c.Errorf("%d of 8 calls of Close returned while a handler was running", n)
	}
	c.judge(h, exactly("blocks"))
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close once more: %v", err)
	}
}

func closeFence(c *C) {
	// A running handler: Close must wait for it.
	b := c.Bus()
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	h := &history{name: "a handler that runs while the bus is closed"}
	c.subscribeFunc(b, c.subject("a"), func(_ context.Context, m *bus.Message) error {
		h.message(m)
		inside <- struct{}{}
		<-gate
		h.add(event{kind: returned, text: string(m.Data)})
		return nil
	})
	c.publish(b, c.subject("a"), "runs")
	receive(c, inside, "the handler to be called")
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Settle+c.h.Patience)
	defer cancel()
	done := c.start(func() {
		if err := b.Close(ctx); err != nil && !c.Failed() {
			c.Errorf("Close: %v", err)
		}
		h.mark("Close has returned")
	})
	c.settle()
	open()
	receive(c, done, "Close to return")
	c.judge(h, fenced("Close has returned"))

	// Messages on their way: none must start a handler afterwards.
	b = c.Bus()
	c.kinds(b, func(string) {})
	fired := &history{name: "all subjects"}
	for _, root := range []string{"free", "held"} {
		c.subscribeFunc(b, c.subject(root+".*"), func(_ context.Context, m *bus.Message) error {
			fired.message(m)
			runtime.Gosched()
			return nil
		}, wide)
	}
	fire := c.start(func() {
		for i := 1; ; i++ {
			for _, root := range []string{"free", "held"} {
				if err := b.Publish(c.ctx, c.subject(root+".a"), []byte(numbered("p", i))); err != nil {
					return
				}
			}
			if i%20 == 0 { // in a bubble a tick comes only when everybody waits
				breath := time.NewTimer(time.Millisecond)
				<-breath.C
			}
		}
	})
	c.await(fired, "a first message", func(e event) bool { return e.kind == delivered })
	c.close(b)
	fired.mark("Close has returned")
	receive(c, fire, "Publish to be refused")
	c.settle()
	c.judge(fired, func(events []event) *fault {
		at := slices.IndexFunc(events, func(e event) bool { return e.kind == mark })
		if at+1 < len(events) {
			return &fault{at + 1, "a handler was called after Close had returned"}
		}
		return nil
	})
}

func closeFlushes(c *C) {
	b := c.Bus()
	n := 300
	roots := map[string]*history{}
	c.kinds(b, func(root string) {
		h := &history{name: root}
		roots[root] = h
		c.subscribeFunc(b, c.subject(root+".a"), func(_ context.Context, m *bus.Message) error {
			runtime.Gosched()
			h.message(m)
			return nil
		}, wide)
	})
	for _, text := range sequence("p", 1, n) {
		for root := range roots {
			c.publish(b, c.subject(root+".a"), text)
		}
	}
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
	for _, h := range roots {
		c.judge(h, exactly(sequence("p", 1, n)...))
	}
}

func closeFinishesReplay(c *C) {
	b, _ := c.filled(50)
	h := &history{name: "a.>, replayed while the bus is closed"}
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	c.subscribeFunc(b, c.subject("a.>"), func(ctx context.Context, m *bus.Message) error {
		h.message(m)
		if string(m.Data) == numbered("p", 1) {
			inside <- struct{}{}
			<-gate
			if err := b.Publish(ctx, c.subject("a.x"), []byte("late")); err != nil {
				c.Errorf("Publish in a handler while Close waits for it: %v", err)
			}
		}
		return nil
	}, bus.All(), bus.Background(), bus.Buffer(4, 1<<20))
	receive(c, inside, "the replay to begin")
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Settle+c.h.Patience)
	defer cancel()
	done := c.start(func() {
		if err := b.Close(ctx); err != nil && !c.Failed() {
			c.Errorf("Close: %v", err)
		}
	})
	c.settle() // Close has begun
	open()
	receive(c, done, "Close to return")
	c.judge(h, complete(sequence("p", 1, 50)...), ordered, unique)
}

func closeServesHandlers(c *C) {
	b := c.Bus()
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	c.subscribeFunc(b, c.subject("a"), func(ctx context.Context, m *bus.Message) error {
		inside <- struct{}{}
		<-gate
		if err := b.Publish(ctx, c.subject("b"), []byte("from a handler")); err != nil {
			c.Errorf("Publish in a handler while Close waits for it: %v", err)
		}
		return nil
	})
	c.publish(b, c.subject("a"), "x")
	receive(c, inside, "the handler to be called")
	done := c.start(func() {
		if err := b.Close(c.ctx); err != nil {
			c.Errorf("Close: %v", err)
		}
	})
	c.until("Publish to be refused, since Close has begun", c.h.Patience, func(int) bool {
		err := b.Publish(c.ctx, c.subject("c"), nil)
		if err != nil && !errors.Is(err, bus.ErrClosed) {
			c.Fatalf("Publish while Close waits: want ErrClosed, have %v", err)
		}
		return err != nil
	})
	open()
	receive(c, done, "Close to return")
}

func closeUnderFire(c *C) {
	b := c.Bus()
	c.kinds(b, func(string) {})
	const callers = 32
	var calls atomic.Int32
	begun := make(chan struct{}, callers)
	var dones []<-chan struct{}
	for i := range callers {
		dones = append(dones, c.start(func() {
			for n := 0; ; n++ {
				err := c.fire(b, i+n)
				calls.Add(1)
				if n == 3 {
					begun <- struct{}{}
				}
				if errors.Is(err, bus.ErrClosed) {
					return
				}
				if err != nil {
					c.Errorf("a call that meets Close: want nil or ErrClosed, have %v", err)
					begun <- struct{}{}
					return
				}
				runtime.Gosched()
			}
		}))
	}
	for range callers / 2 {
		receive(c, begun, "callers to begin")
	}
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close: %v", err)
	}
	for _, done := range dones {
		receive(c, done, "a call that meets Close to return")
	}
}

// fire makes one of the calls that a bus has.
func (c *C) fire(b bus.Bus, n int) error {
	root := []string{"free", "held"}[n/8%2]
	switch n % 8 {
	case 0:
		sub, err := b.Subscribe(c.ctx, c.subject(root+".*"), func(context.Context, *bus.Message) error { return nil })
		if err != nil {
			return err
		}
		return sub.Unsubscribe(c.ctx)
	case 1:
		if c.h.claims(Streams) {
			return b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
		}
	case 2:
		if c.h.claims(Streams) {
			_, err := b.Subscribe(c.ctx, c.subject("held.*"), func(context.Context, *bus.Message) error { return nil }, bus.Last(3))
			return err
		}
	}
	return b.Publish(c.ctx, c.subject(root+".a"), []byte(fmt.Sprint(n)))
}

func closeUnderFireKept(c *C) {
	e := c.env()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}})
	const publishers = 8
	var mu sync.Mutex
	var accepted []string
	refused := map[string]error{}
	begun := make(chan struct{}, publishers)
	var dones []<-chan struct{}
	for p := range publishers {
		dones = append(dones, c.start(func() {
			for n := 1; ; n++ {
				text := numbered(string(rune('A'+p)), n)
				err := b.Publish(c.ctx, c.subject("a"), []byte(text))
				mu.Lock()
				if err == nil {
					accepted = append(accepted, text)
				} else if !errors.Is(err, bus.ErrUnknownOutcome) {
					refused[text] = err
				}
				mu.Unlock()
				if n == 10 {
					begun <- struct{}{}
				}
				if err != nil {
					if !errors.Is(err, bus.ErrClosed) {
						c.Errorf("a publish that meets Close: want nil or ErrClosed, have %v", err)
					}
					return
				}
			}
		}))
	}
	for range publishers {
		receive(c, begun, "publishers to begin")
	}
	c.close(b)
	for _, done := range dones {
		receive(c, done, "a publish that meets Close to return")
	}
	b = c.open(e)
	h := c.subscribe(b, c.subject("a"), bus.All())
	h.name = "what is stored after Close"
	c.judge(h, complete(accepted...), ordered, unique, inStreamOrder, notRefused(refused))
}

// notRefused: nothing was delivered of which Publish has said that it wasn't published.
func notRefused(refused map[string]error) judge {
	return func(events []event) *fault {
		for at, e := range events {
			if err := refused[e.text]; err != nil {
				return &fault{at, fmt.Sprintf("it was published, although Publish said: %v", err)}
			}
		}
		return nil
	}
}

func closeStuckHandler(c *C) {
	e := c.env()
	label := fmt.Sprintf("stuck-%d", runs.Add(1))
	st := &stuck{c: c, cancelled: make(chan struct{}, 3), after: make(chan error, 12)}
	st.gate, st.open = c.gate()
	done := c.start(func() { labelled(label, func() { st.close(e) }) })
	receive(c, done, "Close of a bus whose handlers are stuck")
	if c.Failed() {
		return
	}
	c.noneLeft(label, "(*stuck).handle")
	b := c.open(e) // nothing is locked
	h := c.subscribe(b, c.subject("free"))
	c.publish(b, c.subject("free"), "after")
	c.awaitText(h, "after")
	st.open()
	for _, sub := range st.subs {
		receive(c, sub.Done(), "Done to close when the handler returns")
	}
	close(st.after)
	for err := range st.after {
		if !errors.Is(err, bus.ErrClosed) {
			c.Errorf("a call in a handler for which Close hasn't waited: want ErrClosed, have %v", err)
		}
	}
	c.noneLeft(label, "")
}

// stuck is handlers that don't return while their bus is closed.
type stuck struct {
	c         *C
	b         bus.Bus
	gate      <-chan struct{}
	open      func()
	cancelled chan struct{} // for each whose context was
	subs      []bus.Subscription
	patterns  []string
	after     chan error // of calls after Close
}

// add adds one that has been called.
func (st *stuck) add(subject string, opts ...bus.SubscribeOption) {
	c := st.c
	inside := make(chan struct{}, 1)
	pattern := c.subject(subject + ".*")
	st.patterns = append(st.patterns, pattern)
	st.subs = append(st.subs, c.subscribeFunc(st.b, pattern, func(ctx context.Context, _ *bus.Message) error {
		inside <- struct{}{}
		st.handle(ctx)
		return nil
	}, opts...))
	c.publish(st.b, c.subject(subject+".a"), "x")
	receive(c, inside, "the handler to be called")
}

func (st *stuck) handle(ctx context.Context) {
	select {
	case <-ctx.Done():
		st.cancelled <- struct{}{}
	case <-st.gate:
	}
	<-st.gate
	c := st.c
	for _, ctx := range []context.Context{ctx, context.WithoutCancel(ctx)} {
		_, err := st.b.Subscribe(ctx, c.subject("free"), func(context.Context, *bus.Message) error { return nil })
		st.after <- err
		st.after <- st.b.Publish(ctx, c.subject("free"), []byte("late"))
	}
}

// close closes the bus while its handlers wait for the gate.
func (st *stuck) close(e *Env) {
	c := st.c
	var err error
	if st.b, err = c.h.Open(e); err != nil { // its last Close may fail, so c.Bus isn't for it
		c.Fatalf("Open: %v", err)
	}
	st.add("stuck")
	st.add("caught")
	if c.h.claims(Groups) && c.h.claims(Streams) {
		c.ensure(st.b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.*")}})
		st.add("held", bus.Group(c.group("g")))
	}
	ctx, want := c.ctx, 5*time.Second
	if !c.h.Bubble { // where the default takes no time
		var cancel context.CancelFunc
		c.NotChecked("how long Close waits without a deadline: that takes Harness.Bubble")
		want = min(c.h.Settle, time.Second)
		ctx, cancel = context.WithTimeout(c.ctx, want)
		defer cancel()
	}
	began := time.Now()
	returned := make(chan error, 1)
	c.start(func() { returned <- st.b.Close(ctx) })
	err = receive(c, returned, "Close to end by its deadline")
	if waited := time.Since(began); c.h.Bubble && (waited < want || waited > want+time.Second) {
		c.Errorf("Close without a deadline waited %v for a handler, want %v", waited, want)
	}
	if !errors.Is(err, bus.ErrHandlersRunning) {
		c.Errorf("Close: want ErrHandlersRunning, have %v", err)
	}
	for _, pattern := range st.patterns {
		if !strings.Contains(fmt.Sprint(err), pattern) {
			c.Errorf("Close: want an error that names %q, have %v", pattern, err)
		}
		receive(c, st.cancelled, "a stuck handler's context to be cancelled")
	}
}
