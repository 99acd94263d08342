package bustest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jitney-go/jitney/bus"
)

var handlerChecks = []Check{
	{
		Name: "PanicContained", Run: panicContained,
		Rule:   "a handler that panics or ends its goroutine, live or in a replay, ends neither the process nor its subscription; the hook is told with subject and stack",
		Origin: "eclipse-paho/paho.golang#106, lileio/pubsub#29: a panic ends the process; bus/driver told nobody of a handler that ended its goroutine",
	},
	{
		Name: "HandlerError", Run: handlerError,
		Rule:   "a handler's error goes to the error hook of its subscription, or else of the bus, and the next message comes",
		Origin: "stan.py#18: an exception in a handler is ignored; nats.node#233: it breaks all messages after it",
	},
	{
		Name: "HookHarmsNobody", Run: hookHarmsNobody,
		Rule:   "a hook, of a subscription or of the bus, that panics or ends its goroutine harms nobody, and is called again",
		Origin: "a hook that ended its goroutine silenced bus/driver",
	},
	{
		Name: "HandlerContext", Run: handlerContext,
		Rule:   "a handler's context ends when its subscription ends, so that it can return",
		Origin: "utilitywarehouse/go-pubsub#61, eclipse-paho/paho.mqtt.golang#609: nothing tells a handler to return",
	},
	{
		Name: "PublishInHandler", Run: publishInHandler,
		Rule:   "publishing from inside a handler works",
		Origin: "asaskevich/EventBus#35, tailscale/tailscale#18012: publishing in a handler deadlocks",
	},
	{
		Name: "SubscribeInHandler", Run: subscribeInHandler,
		Rule:   "subscribing from inside a handler waits for no replay, of which CaughtUp tells, and then the next message is delivered",
		Origin: "opendxl/opendxl-client-python#21: adding a callback in a callback deadlocks",
	},
	{
		Name: "ChangeInHandler", Run: changeInHandler, Needs: []Ability{Streams},
		Rule:   "creating, changing and removing streams, and removing groups, in a handler waits for no handler, also when it ends the handler's own subscription",
		Origin: "bus/driver said that a removal had failed, since it had ended the context that it was given",
	},
	{
		Name: "UnsubscribeInHandler", Run: unsubscribeInHandler,
		Rule:   "Unsubscribe in a handler never waits, its handler isn't called again, and Done closes when the running one has returned",
		Origin: "eclipse-ecal/ecal#1073: destroying a subscriber in a callback deadlocks",
	},
	{
		Name: "CloseInHandler", Run: closeInHandler,
		Rule:   "Close in a handler never waits, everything ends, and Done closes when the running one has returned",
		Origin: "rabbitmq/rabbitmq-dotnet-client#1567, Azure/azure-sdk-for-js#9491: closing in a handler deadlocks",
	},
}

func panicContained(c *C) {
	e := c.env()
	b := c.open(e)
	c.pastToo(b, func(subject string, past bool) {
		own, none, gone := &history{name: "with a hook"}, &history{name: "without a hook"}, &history{name: "which ends its goroutine"}
		faulty := func(h *history) bus.Handler {
			return func(_ context.Context, m *bus.Message) error {
				h.message(m)
				switch {
				case string(m.Data) != numbered("p", 2):
				case h == gone:
					runtime.Goexit() // as t.FailNow does
				default:
					panic("on purpose")
				}
				return nil
			}
		}
		want := sequence("p", 1, 4)
		other := &history{name: "which has no fault"}
		c.handOver(b, subject, past, want, func(opts ...bus.SubscribeOption) {
			c.subscribeFunc(b, subject, faulty(own), append(opts, bus.OnError(own.hook()))...)
			c.subscribeFunc(b, subject, faulty(none), opts...)
			c.subscribeFunc(b, subject, faulty(gone), append(opts, bus.OnError(gone.hook()))...)
			c.subscribeFunc(b, subject, other.handler(), append(opts, bus.OnError(other.hook()))...)
		})
		for _, h := range []*history{own, none, gone, other} {
			c.awaitText(h, want[3])
			c.judge(h, exactly(want...))
		}
		c.judge(other, quiet)
		for _, h := range []*history{own, gone, e.problems} {
			p := c.awaitProblemOf(h, subject, bus.ErrPanic)
			if p.Subject != subject || p.Pattern != subject {
				c.Errorf("%s: the problem has pattern %q and subject %q", h.name, p.Pattern, p.Subject)
			}
			if !strings.Contains(string(p.Stack), "panicContained") {
				c.Errorf("%s: the stack of the panic doesn't show the handler:\n%s", h.name, p.Stack)
			}
		}
	})
}

// pastToo calls f for subjects as kinds does, and for one whose messages are to be stored before anybody subscribes.
func (c *C) pastToo(b bus.Bus, f func(subject string, past bool)) {
	c.kinds(b, func(root string) {
		f(c.subject(root+".live"), false)
		if root == "held" {
			f(c.subject(root+".past"), true)
		}
	})
}

// handOver publishes texts and subscribes, or the other way round for messages of the past.
func (c *C) handOver(b bus.Bus, subject string, past bool, texts []string, subscribe func(opts ...bus.SubscribeOption)) {
	if !past {
		subscribe()
	}
	for _, text := range texts {
		c.publish(b, subject, text)
	}
	if past {
		receive(c, c.start(func() { subscribe(bus.All()) }), "Subscribe to return behind what was stored")
	}
}

// awaitProblemOf waits until the hook was told target of a subject or pattern.
func (c *C) awaitProblemOf(h *history, subject string, target error) bus.Problem {
	return c.await(h, fmt.Sprintf("a call of the error hook with %q, for %s", target, subject), func(e event) bool {
		p := e.problem
		return e.kind == problem && errors.Is(p.Err, target) && (p.Subject == subject || p.Pattern == subject)
	}).problem
}

func handlerError(c *C) {
	e := c.env()
	b := c.open(e)
	c.pastToo(b, func(subject string, past bool) {
		fault := errors.New("on purpose")
		own, none := &history{name: "with a hook"}, &history{name: "without a hook"}
		failing := func(h *history) bus.Handler {
			return func(_ context.Context, m *bus.Message) error {
				h.message(m)
				if string(m.Data) == numbered("p", 2) {
					return fault
				}
				return nil
			}
		}
		want := sequence("p", 1, 3)
		c.handOver(b, subject, past, want, func(opts ...bus.SubscribeOption) {
			c.subscribeFunc(b, subject, failing(own), append(opts, bus.OnError(own.hook()))...)
			c.subscribeFunc(b, subject, failing(none), opts...)
		})
		for _, h := range []*history{own, none} {
			c.awaitText(h, want[2])
			c.judge(h, exactly(want...))
		}
		for _, h := range []*history{own, e.problems} {
			if p := c.awaitProblemOf(h, subject, fault); p.Subject != subject {
				c.Errorf("%s: the problem has subject %q", h.name, p.Subject)
			}
		}
	})
}

func hookHarmsNobody(c *C) {
	for what, harm := range map[string]func(){
		"panics":             func() { panic("in the hook, on purpose") },
		"ends its goroutine": runtime.Goexit, // as t.FailNow does
	} {
		e := c.env()
		told := &history{name: "the hook of the bus, which " + what}
		e.Options = append(e.Options, bus.OnError(func(p bus.Problem) {
			told.hook()(p)
			harm()
		}))
		b := c.open(e)
		failing := func(h *history) bus.Handler {
			return func(_ context.Context, m *bus.Message) error {
				h.message(m)
				return errors.New(string(m.Data))
			}
		}
		own := &history{name: "with a hook that " + what}
		none := &history{name: "without a hook, where that of the bus " + what}
		c.subscribeFunc(b, c.subject("a"), failing(own), bus.OnError(func(p bus.Problem) {
			own.hook()(p)
			harm()
		}))
		c.subscribeFunc(b, c.subject("a"), failing(none))
		want := sequence("p", 1, 5)
		for _, text := range want {
			c.publish(b, c.subject("a"), text)
			for _, h := range []*history{own, told} {
				c.await(h, "the hook to be told of "+text, func(e event) bool { return e.kind == problem && strings.Contains(e.problem.Err.Error(), text) })
			}
		}
		for _, h := range []*history{own, none} {
			c.awaitText(h, want[4])
			c.judge(h, exactly(want...))
		}
	}
}

func handlerContext(c *C) {
	b := c.Bus()
	inside := make(chan struct{}, 1)
	h := &history{name: "a handler that waits for its context"}
	until, cancel := context.WithCancel(c.ctx)
	defer cancel()
	endings := map[string]func(sub bus.Subscription) error{
		"Unsubscribe": func(sub bus.Subscription) error { return sub.Unsubscribe(c.ctx) },
		"Until":       func(bus.Subscription) error { cancel(); return nil },
	}
	if r, ok := b.(bus.Remover); ok && c.h.claims(Streams) {
		removable := func(name string) error { return r.RemoveStream(c.ctx, c.stream(name)) }
		config := bus.StreamConfig{Name: c.stream("TRY"), Subjects: []string{c.subject("RemoveStream")}}
		c.ensure(b, config)
		if !errors.Is(removable("TRY"), bus.ErrUnsupported) {
			config.Name = c.stream("S")
			c.ensure(b, config)
			endings["RemoveStream"] = func(bus.Subscription) error { return removable("S") }
		}
	}
	for name, end := range endings {
		sub := c.subscribeFunc(b, c.subject(name), func(ctx context.Context, m *bus.Message) error {
			h.message(m)
			inside <- struct{}{}
			select {
			case <-ctx.Done():
			case <-c.ctx.Done(): // of a bus that has failed
			}
			return nil
		}, bus.Until(until))
		c.publish(b, c.subject(name), "waits")
		receive(c, inside, "the handler to be called")
		done := c.start(func() {
			if err := end(sub); err != nil && !c.Failed() {
				c.Errorf("%s: %v", name, err)
			}
		})
		receive(c, done, name+" to return")
		receive(c, sub.Done(), "the handler to return after "+name)
		if name == "Until" {
			until, cancel = context.WithCancel(c.ctx)
		}
	}
	cancel()
}

func publishInHandler(c *C) {
	b := c.Bus()
	depth := 1000
	if c.h.Tick > 0 {
		depth = 20 // each step waits for a tick
	}
	c.kinds(b, func(root string) {
		h := &history{name: root}
		c.subscribeFunc(b, c.subject(root+".a"), func(ctx context.Context, m *bus.Message) error {
			h.message(m)
			n, err := strconv.Atoi(string(m.Data))
			if err != nil || n == depth {
				return err
			}
			if err := b.Publish(ctx, c.subject(root+".a"), []byte(strconv.Itoa(n+1))); err != nil {
				c.Errorf("Publish in a handler: %v", err)
			}
			return nil
		})
		c.publish(b, c.subject(root+".a"), "1")
		c.awaitText(h, strconv.Itoa(depth))
	})
}

func subscribeInHandler(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		inner := &history{name: root + ", subscribed in a handler"}
		var want []string
		if root == "held" {
			want = append(want, "the first") // it asks for the past
		}
		type result struct {
			sub bus.Subscription
			err error
		}
		subscribed := make(chan result, 1)
		returned, returns := c.gate()
		c.subscribeFunc(b, c.subject(root+".a"), func(ctx context.Context, m *bus.Message) error {
			opts := []bus.SubscribeOption{wide}
			if root == "held" {
				opts = append(opts, bus.All()) // which begins with a message whose handler waits for this one
			}
			sub, err := b.Subscribe(ctx, c.subject(root+".*"), func(_ context.Context, m *bus.Message) error {
				<-returned
				inner.message(m)
				return nil
			}, opts...)
			returns()
			subscribed <- result{sub, err}
			return nil
		})
		c.publish(b, c.subject(root+".a"), "the first")
		res := receive(c, subscribed, "Subscribe in a handler to return")
		if res.err != nil {
			c.Fatalf("Subscribe in a handler: %v", res.err)
		}
		receive(c, res.sub.CaughtUp(), "CaughtUp to close when the replay has been handled")
		c.judge(inner, exactly(want...))
		c.publish(b, c.subject(root+".b"), "the next")
		c.awaitText(inner, "the next")
		c.judge(inner, exactly(append(want, "the next")...))
	})
}

func changeInHandler(c *C) {
	b := c.Bus()
	ensure := func(name, subject string, maxMsgs int64) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			return b.EnsureStreams(ctx, bus.StreamConfig{Name: c.stream(name), Subjects: []string{c.subject(subject)}, MaxMsgs: maxMsgs})
		}
	}
	remove := func(f func(r bus.Remover, ctx context.Context) error) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			r, ok := b.(bus.Remover)
			if !ok {
				c.NotChecked("a removal in a handler: the bus is no bus.Remover")
				return nil
			}
			err := f(r, ctx)
			if errors.Is(err, bus.ErrUnsupported) {
				c.NotChecked("a removal in a handler: %v", err)
				return nil
			}
			return err
		}
	}
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.*")}},
		bus.StreamConfig{Name: c.stream("GONE"), Subjects: []string{c.subject("gone")}})
	type change struct {
		name, subject string
		ends          bool // the handler's own subscription, or at least it may
		option        bus.SubscribeOption
		do            func(ctx context.Context) error
	}
	changes := []change{
		{"creating another stream", "held.create", false, wide, ensure("OTHER", "other", 0)},
		{"changing its stream's limits", "held.change", false, wide, ensure("S", "held.*", 1000)},
		{"capturing its subject", "free.capture", true, wide, ensure("FREE", "free.capture", 0)},
		{"removing its stream", "gone", true, wide, remove(func(r bus.Remover, ctx context.Context) error {
			return r.RemoveStream(ctx, c.stream("GONE"))
		})},
	}
	if c.h.claims(Groups) {
		changes = append(changes, change{"capturing its group's subject", "free.group", true, bus.Group(c.group("g")), ensure("GROUP", "free.group", 0)})
	}
	if c.h.claims(DurableGroups) {
		forget := remove(func(r bus.Remover, ctx context.Context) error { return r.RemoveGroup(ctx, c.group("d")) })
		changes = append(changes, change{"removing its durable group", "held.group", true, bus.DurableGroup(c.group("d")), forget})
	}
	for _, ch := range changes {
		h := &history{name: ch.name}
		changed := make(chan error, 1)
		h.sub = c.subscribeFunc(b, c.subject(ch.subject), func(ctx context.Context, m *bus.Message) error {
			h.message(m)
			if string(m.Data) == "first" {
				changed <- ch.do(ctx)
			}
			return nil
		}, ch.option, bus.Attempts(0), bus.OnError(h.hook()))
		c.publish(b, c.subject(ch.subject), "first")
		if err := receive(c, changed, ch.name+" in a handler to return"); err != nil {
			c.Errorf("%s in a handler: %v", ch.name, err)
		}
		c.publish(b, c.subject(ch.subject), "next")
		if !c.goesOn(h, "next") && !ch.ends {
			c.Errorf("%s in a handler has ended its subscription", ch.name)
		}
	}
}

func unsubscribeInHandler(c *C) {
	b := c.Bus()
	var sub atomic.Pointer[bus.Subscription]
	h := &history{name: "the one that ends itself"}
	gate, open := c.gate()
	s := c.subscribeFunc(b, c.subject("a"), func(ctx context.Context, m *bus.Message) error {
		h.message(m)
		if err := (*sub.Load()).Unsubscribe(ctx); err != nil {
			c.Errorf("Unsubscribe in its handler: %v", err)
		}
		h.mark("Unsubscribe has returned")
		<-gate
		return nil
	})
	sub.Store(&s)
	other := c.subscribe(b, c.subject("a"))
	want := sequence("p", 1, 10)
	for _, text := range want {
		c.publish(b, c.subject("a"), text)
	}
	c.await(h, "Unsubscribe to return in its handler", func(e event) bool { return e.kind == mark })
	c.awaitText(other, want[9]) // behind which Done would have been closed
	c.stillOpen(s, "Unsubscribe")
	open()
	receive(c, s.Done(), "Done to close after the handler has returned")
	for _, text := range sequence("q", 1, 10) {
		c.publish(b, c.subject("a"), text)
	}
	c.awaitText(other, numbered("q", 10))
	c.judge(h, exactly(want[0]))
	if err := s.Err(); err != nil {
		c.Errorf("Err after Unsubscribe: %v", err)
	}
}

func closeInHandler(c *C) {
	b := c.Bus()
	closed := make(chan error, 1)
	gate, open := c.gate()
	sub := c.subscribeFunc(b, c.subject("a"), func(ctx context.Context, m *bus.Message) error {
		closed <- b.Close(ctx)
		<-gate
		return nil
	})
	c.publish(b, c.subject("a"), "close")
	if err := receive(c, closed, "Close in a handler to return"); err != nil {
		c.Errorf("Close in a handler: %v", err)
	}
	if err := b.Publish(c.ctx, c.subject("a"), nil); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("Publish while the handler that has closed the bus is running: want ErrClosed, have %v", err)
	}
	c.stillOpen(sub, "Close")
	open()
	receive(c, sub.Done(), "the subscription to end")
	if err := b.Close(c.ctx); err != nil {
		c.Errorf("Close afterwards: %v", err)
	}
	if err := b.Publish(c.ctx, c.subject("a"), nil); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("Publish afterwards: want ErrClosed, have %v", err)
	}
}

// stillOpen fails the check if Done of a subscription has closed while its handler is running, which has made a call.
func (c *C) stillOpen(sub bus.Subscription, call string) {
	select {
	case <-sub.Done():
		c.Errorf("Done has closed while the handler is running that has called %s", call)
	default:
	}
}
