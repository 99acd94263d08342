package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Each of these has a server of its own, which it breaks.
var faultChecks = []Check{
	{
		Name: "CutResumes", Run: cutResumes, Needs: []Ability{Streams, Faults}, rounds: 3,
		Rule: "after connections are cut under load, subscriptions to streams go on with no loss, repeat or reordering, others are told ErrSlow, " +
			"and what is published again under its ID is stored once and in order",
		Origin: "nats.go#1370, #1729, #1875; dapr/components-contrib#4563",
	},
	{
		Name: "RestartResumes", Run: restartResumes, Needs: []Ability{Durable, Faults}, rounds: 2,
		Rule:   "a server that is killed under load and started again loses nothing that Publish has accepted; subscriptions go on, and replay goes over into live",
		Origin: "nats-server#6888",
	},
	{
		Name: "FrozenDeadline", Run: frozenDeadline, Needs: []Ability{Streams, Faults},
		Rule:   "while the server doesn't answer, calls end by their deadline; a publish is then ErrUnknownOutcome, and publishing it again under its ID stores it once",
		Origin: "rabbitmq/amqp091-go#178: a publish outlives its context when the server stops reading",
	},
	{
		Name: "HealthOutage", Run: healthOutage, Needs: []Ability{Faults},
		Rule:   "bus.HealthChecker says ErrUnavailable while the server is gone, without waiting for it, and nil when it is back",
		Origin: "redpanda-data/connect#3311, automagik-dev/omni#807: healthy without a connection to NATS",
	},
	{
		Name: "AsyncBounded", Run: asyncBounded, Needs: []Ability{Streams, Faults},
		Rule: "while the server doesn't answer, bus.AsyncPublisher takes 1,024 messages; what it has no room for by the end of its context isn't published",
	},
	{
		Name: "CloseWithoutServer", Run: closeWithoutServer, Needs: []Ability{Streams, Faults},
		Rule:   "when the server is gone or frozen, Unsubscribe and Close return by their deadline, Close ends what waits for the server, and no goroutine is left",
		Origin: "a Close that waits for the server it has lost",
	},
}

// serve starts a server for the check, and returns where buses that are its clients are opened.
func (c *C) serve() (*Env, Server) {
	e := c.env()
	s, err := c.h.Serve(e)
	if err != nil {
		c.Fatalf("Serve: %v", err)
	}
	c.Cleanup(func() {
		if err := s.Close(); err != nil {
			c.Logf("the server's Close: %v", err)
		}
	})
	e.Addr = s.Addr()
	return e, s
}

// do fails the check if breaking or mending the server fails.
func (c *C) do(what string, err error) {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		c.NotClaimed("the server can't be made to %s here", what)
	case err != nil:
		c.Fatalf("%s the server: %v", what, err)
	}
}

// slack is what a call may take beyond its deadline on a busy machine, well below the
// timeouts that clients have of their own.
func (c *C) slack() time.Duration { return c.h.Patience * 2 / 5 }

// load is publishers that publish until stop, each message again under its ID until it is accepted.
type load struct {
	c    *C
	b    bus.Bus
	stop atomic.Bool
	done []<-chan struct{}
	last [loadPublishers]int
}

const loadPublishers = 3

func loadPublisher(i int) string { return string(rune('A' + i)) }

// load begins a load on subjects below pattern's first token.
func (c *C) load(b bus.Bus) *load {
	l := &load{c: c, b: b}
	for i := range loadPublishers {
		l.done = append(l.done, c.start(func() { l.publish(i) }))
	}
	return l
}

func (l *load) publish(i int) {
	pause := time.NewTicker(200 * time.Microsecond)
	defer pause.Stop()
	for n := 1; !l.stop.Load() && !l.c.Failed(); n++ {
		text := numbered(loadPublisher(i), n)
		for !l.c.attempt(l.b, l.c.subject("a."+loadPublisher(i)), text) {
			select {
			case <-pause.C:
			case <-l.c.ctx.Done():
				return
			}
			if l.c.Failed() {
				return
			}
		}
		l.last[i] = n
		<-pause.C
	}
}

// end stops the load and returns what was published.
func (l *load) end() (published []string) {
	l.stop.Store(true)
	for i, done := range l.done {
		receive(l.c, done, "the last publish to be accepted")
		published = append(published, sequence(loadPublisher(i), 1, l.last[i])...)
	}
	return published
}

// attempt publishes text under an ID of its own, and reports whether it was accepted. It
// fails the check if that takes too long or fails in another way than a fault excuses.
func (c *C) attempt(b bus.Bus, subject, text string) bool {
	timeout := c.h.Patience / 20
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	defer cancel()
	began := time.Now()
	err := b.Publish(ctx, subject, []byte(text), bus.MessageID(text))
	if took := time.Since(began); took > timeout+c.slack() {
		c.Errorf("Publish of %s took %v, its deadline was %v", text, took, timeout)
	}
	c.excuse("Publish of "+text, err)
	return err == nil
}

// excuse fails the check if a publish has failed in another way than a fault excuses.
func (c *C) excuse(what string, err error) {
	switch {
	case err == nil || c.ctx.Err() != nil:
	case !excused(err):
		c.Errorf("%s: want ErrUnavailable or ErrUnknownOutcome, have %v", what, err)
	case errors.Is(err, bus.ErrUnknownOutcome) && !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, bus.ErrClosed) && !errors.Is(err, context.DeadlineExceeded):
		c.Errorf("%s: ErrUnknownOutcome has none of ErrUnavailable, ErrClosed and its context's error in it: %v", what, err)
	}
}

// excused: a fault may be the reason.
func excused(err error) bool {
	return errors.Is(err, bus.ErrUnavailable) || errors.Is(err, bus.ErrUnknownOutcome) || errors.Is(err, context.DeadlineExceeded)
}

// persist calls f until it succeeds, as long as a fault excuses its errors.
func (c *C) persist(what string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Patience)
	defer cancel()
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for {
		short, cancel := context.WithTimeout(ctx, c.h.Patience/5)
		err := f(short)
		cancel()
		if err == nil {
			return
		}
		if !excused(err) {
			c.Fatalf("%s: %v", what, err)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			c.Fatalf("%s doesn't succeed within %v: %v", what, c.h.Patience, err)
		}
	}
}

func cutResumes(c *C) {
	c.underLoad(func(s Server) { c.do("cut", s.Cut()) })
}

func restartResumes(c *C) {
	c.underLoad(func(s Server) {
		c.do("kill", s.Kill())
		c.do("start", s.Start())
	})
}

// underLoad breaks the server again and again while there is a load, and judges what came.
func (c *C) underLoad(breakIt func(Server)) {
	e, s := c.serve()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}, Duplicates: 10 * time.Minute})
	captured := []*history{c.subscribe(b, c.subject("a.>"))}
	free := c.subscribe(b, c.subject("free"))
	l := c.load(b)
	for round := range c.rounds() {
		c.awaitMore(captured[0], 30)
		breakIt(s)
		c.awaitSlow(free, round+1)
		text := numbered("free", round)
		c.persist("Publish", func(ctx context.Context) error { return b.Publish(ctx, c.subject("free"), []byte(text)) })
		c.awaitText(free, text)

		h := &history{name: fmt.Sprintf("a.>, joined after fault %d", round+1)}
		c.persist("Subscribe", func(ctx context.Context) error {
			h.mu.Lock()
			h.events = nil
			h.mu.Unlock()
			sub, err := b.Subscribe(ctx, c.subject("a.>"), h.handler(), bus.All(), bus.OnError(h.hook()))
			h.sub = sub
			return err
		})
		captured = append(captured, h)
	}
	c.awaitMore(captured[0], 30)
	want := l.end()
	if c.Failed() {
		return
	}
	c.persist("Publish", func(ctx context.Context) error {
		return b.Publish(ctx, c.subject("a.end"), []byte("end"), bus.MessageID("end"))
	})
	for _, h := range captured {
		c.awaitText(h, "end")
		c.judge(h, complete(want...), unique, ordered, inStreamOrder, agreesWith(captured[0].all()))
		if err := h.sub.Err(); err != nil {
			c.Errorf("%s: Err: want nil, have %v", h.name, err)
		}
	}
	c.judge(free, ordered, unique)
}

// awaitMore waits until so many more messages have been delivered.
func (c *C) awaitMore(h *history, n int) {
	until := len(h.all()) + n
	seen := 0
	c.await(h, fmt.Sprintf("%d more messages", n), func(event) bool { seen++; return seen >= until })
}

// awaitSlow waits until ErrSlow has been told so often.
func (c *C) awaitSlow(h *history, n int) {
	c.await(h, fmt.Sprintf("ErrSlow, which is told for each of %d interruptions", n), func(e event) bool {
		if e.kind == problem && errors.Is(e.problem.Err, bus.ErrSlow) {
			n--
		}
		return n == 0
	})
}

func frozenDeadline(c *C) {
	e, s := c.serve()
	b := c.open(e)
	stream := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}, Duplicates: 10 * time.Minute}
	c.ensure(b, stream, bus.StreamConfig{Name: c.stream("REMOVED"), Subjects: []string{c.subject("removed")}})
	h := c.subscribe(b, c.subject("a.>"))
	c.publish(b, c.subject("a.x"), "before")
	c.awaitText(h, "before")

	c.do("freeze", s.Freeze())
	thaw := sync.OnceFunc(func() { c.do("thaw", s.Thaw()) })
	c.Cleanup(func() { _ = s.Thaw() }) // it may have been done
	publish := func(text string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			err := b.Publish(ctx, c.subject("a.x"), []byte(text), bus.MessageID(text))
			if !errors.Is(err, bus.ErrUnknownOutcome) {
				c.Errorf("Publish of %q to a frozen server: want ErrUnknownOutcome, have %v", text, err)
			}
			c.excuse("Publish to a frozen server", err)
			return err
		}
	}
	calls := map[string]func(ctx context.Context) error{
		"Publish": publish("frozen"),
		"Subscribe": func(ctx context.Context) error {
			_, err := b.Subscribe(ctx, c.subject("a.x"), (&history{}).handler(), bus.All())
			return err
		},
		"EnsureStreams": func(ctx context.Context) error {
			changed := stream
			changed.MaxMsgs = 1000
			return b.EnsureStreams(ctx, changed)
		},
		"Publish once more": publish("frozen"),
	}
	if l, ok := b.(bus.StreamLister); ok {
		calls["Streams"] = func(ctx context.Context) error { _, err := l.Streams(ctx); return err }
	}
	if l, ok := b.(bus.HealthChecker); ok {
		calls["Health"] = l.Health
	}
	if r, ok := b.(bus.Remover); ok {
		calls["RemoveStream"] = func(ctx context.Context) error { return r.RemoveStream(ctx, c.stream("REMOVED")) }
		calls["RemoveGroup"] = func(ctx context.Context) error { return r.RemoveGroup(ctx, c.group("removed")) }
	}
	var returned []<-chan struct{}
	for name, call := range calls {
		returned = append(returned, c.start(func() {
			timeout := c.h.Patience / 20
			ctx, cancel := context.WithTimeout(c.ctx, timeout)
			defer cancel()
			began := time.Now()
			err := call(ctx)
			if took := time.Since(began); took > timeout+c.slack() {
				c.Errorf("%s took %v, its deadline was %v", name, took, timeout)
			}
			if !errors.Is(err, context.DeadlineExceeded) && (!errors.Is(err, bus.ErrUnavailable) || name == "Publish") {
				c.Errorf("%s of a frozen server: want context.DeadlineExceeded, have %v", name, err)
			}
		}))
	}
	for _, done := range returned {
		receive(c, done, "calls to a frozen server to return")
	}
	thaw()
	c.persist("Publish", func(ctx context.Context) error {
		return b.Publish(ctx, c.subject("a.x"), []byte("frozen"), bus.MessageID("frozen"))
	})
	c.persist("Publish", func(ctx context.Context) error {
		return b.Publish(ctx, c.subject("a.x"), []byte("after"), bus.MessageID("after"))
	})
	c.awaitText(h, "after")
	c.judge(h, exactly("before", "frozen", "after"), inStreamOrder)
	c.persist("Subscribe", func(ctx context.Context) error {
		stored := &history{name: "what is stored"}
		sub, err := b.Subscribe(ctx, c.subject("a.>"), stored.handler(), bus.All())
		if err == nil {
			c.judge(stored, exactly("before", "frozen", "after"))
			err = sub.Unsubscribe(ctx)
		}
		return err
	})
}

func healthOutage(c *C) {
	e, s := c.serve()
	b := c.open(e)
	h, ok := b.(bus.HealthChecker)
	if !ok {
		c.NotClaimed("the bus is no bus.HealthChecker")
	}
	health := func() error {
		ctx, cancel := context.WithTimeout(c.ctx, c.h.Patience)
		defer cancel()
		began := time.Now()
		err := h.Health(ctx)
		if took := time.Since(began); took > c.slack() {
			c.Errorf("Health took %v, and isn't to wait for an outage to end", took)
		}
		if err != nil && !errors.Is(err, bus.ErrUnavailable) {
			c.Fatalf("Health: want nil or ErrUnavailable, have %v", err)
		}
		return err
	}
	for range 2 {
		c.until("Health to be nil with a server", c.h.Patience, func(int) bool { return health() == nil })
		c.do("kill", s.Kill())
		c.until("Health to be ErrUnavailable without a server", c.h.Patience, func(int) bool { return health() != nil })
		c.do("start", s.Start())
	}
	c.until("Health to be nil when the server is back", c.h.Patience, func(int) bool { return health() == nil })
}

func asyncBounded(c *C) {
	e, s := c.serve()
	b := c.open(e)
	p := c.async(b)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}})
	c.publish(b, c.subject("a"), "first")
	c.do("freeze", s.Freeze())
	c.Cleanup(func() { _ = s.Thaw() }) // it may have been done
	const room, n = 1024, 1100
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	o := newOutcomes(n)
	var taken atomic.Int32
	done := c.start(func() {
		for i := range n {
			p.PublishAsync(ctx, c.subject("a"), []byte(strconv.Itoa(i)), o.done(c, i))
			taken.Add(1)
		}
	})
	c.until("as many to be taken as there is room for", c.h.Patience, func(int) bool { return taken.Load() >= room })
	c.settle()
	if now := taken.Load(); now > room {
		c.Errorf("%d messages were taken without an answer, at most %d may be on their way", now, room)
	}
	cancel()
	receive(c, done, "PublishAsync to return when its context ends")
	c.do("thaw", s.Thaw())
	receive(c, o.all, "the outcome of each message")
	var stored []string
	h := &history{name: "what is stored"}
	c.persist("Subscribe", func(ctx context.Context) error {
		h = &history{name: "what is stored"}
		_, err := b.Subscribe(ctx, c.subject("a"), h.handler(), bus.All())
		return err
	})
	refused := map[string]error{}
	for i, errs := range o.told {
		text := strconv.Itoa(i)
		switch {
		case errs[0] == nil:
			stored = append(stored, text)
		case !errors.Is(errs[0], bus.ErrUnknownOutcome):
			refused[text] = errs[0]
		}
		if err := errs[0]; i >= room && !errors.Is(err, context.Canceled) {
			c.Errorf("message %d, for which there was no room: want context.Canceled, have %v", i, err)
		}
	}
	c.judge(h, complete(stored...), unique, inStreamOrder, notRefused(refused))
}

func closeWithoutServer(c *C) {
	for _, how := range []string{"kill", "freeze"} {
		e, s := c.serve()
		label := fmt.Sprintf("%s-%s-%d", c.check.Name, how, runs.Add(1))
		done := c.start(func() { labelled(label, func() { c.loseServer(e, s, how) }) })
		receive(c, done, "Close of a bus whose server is gone")
		c.noneLeft(label, "")
		if c.Failed() {
			return
		}
	}
}

// loseServer uses a bus, breaks its server, and ends the bus.
func (c *C) loseServer(e *Env, s Server, how string) {
	b, err := c.h.Open(e)
	if err != nil {
		c.Fatalf("Open: %v", err)
	}
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	held, free := c.subscribe(b, c.subject("a.>")), c.subscribe(b, c.subject("free"))
	left := c.subscribe(b, c.subject("left"))
	for _, h := range []*history{held, free} {
		subject := c.subject("free")
		if h == held {
			subject = c.subject("a.x")
		}
		c.publish(b, subject, "before")
		c.awaitText(h, "before")
	}
	if how == "kill" {
		c.do(how, s.Kill())
	} else {
		c.do(how, s.Freeze())
	}
	timeout := c.h.Patience / 10
	timed := func(what string, f func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(c.ctx, timeout)
		defer cancel()
		began := time.Now()
		err := f(ctx)
		if took := time.Since(began); took > timeout+c.slack() {
			c.Errorf("after %s, %s took %v, its deadline was %v", how, what, took, timeout)
		}
		if err != nil {
			c.Logf("after %s, %s: %v", how, what, err)
		}
	}
	timed("Unsubscribe", left.sub.Unsubscribe)
	ended := map[string]chan error{}
	for what, call := range map[string]func() error{
		"Publish": func() error { return b.Publish(c.ctx, c.subject("a.x"), []byte("blocked")) },
		"Subscribe": func() error {
			_, err := b.Subscribe(c.ctx, c.subject("a.>"), held.handler(), bus.Last(1))
			return err
		},
		"EnsureStreams": func() error {
			return b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("T"), Subjects: []string{c.subject("b")}})
		},
	} {
		ch := make(chan error, 1)
		ended[what] = ch
		c.start(func() { ch <- call() }) // blocked until Close, or refused
	}
	c.wait(min(c.h.Settle, defaultSettle)) // they are there before Close
	timed("Close", b.Close)
	late := time.NewTimer(c.slack())
	defer late.Stop()
	for what, ch := range ended {
		select {
		case err := <-ch:
			if err == nil || !excused(err) && !errors.Is(err, bus.ErrClosed) {
				c.Errorf("after %s, %s: want ErrClosed or ErrUnavailable, have %v", how, what, err)
			}
		case <-late.C:
			c.Fatalf("after %s, %s still waits for the server %v after Close", how, what, c.slack())
		}
	}
	for _, h := range []*history{held, free} {
		receive(c, h.sub.Done(), "the subscriptions to end with the bus")
		if err := h.sub.Err(); !errors.Is(err, bus.ErrClosed) {
			c.Errorf("Err of a subscription: want ErrClosed, have %v", err)
		}
		c.judge(h, exactly("before"))
	}
	if slices.ContainsFunc(left.all(), func(e event) bool { return e.kind == delivered }) {
		c.Errorf("a message came after Unsubscribe")
	}
}
