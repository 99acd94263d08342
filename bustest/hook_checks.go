package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

var hookChecks = []Check{
	{
		Name: "HookOnce", Run: hookOnce,
		Rule: "each problem is told once, to the hook of its subscription, or else to that of the bus",
	},
	{
		Name: "SlowHook", Run: slowHook,
		Rule:   "a hook that doesn't return delays no publisher and no other subscription",
		Origin: "nats.java#1502: the error listener was called on the spot",
	},
	{
		Name: "TypedDecode", Run: typedDecode,
		Rule:   "a message that doesn't decode goes to the error hook with its subject, without its data, and the next one comes",
		Origin: "the chat that this project grew from dropped decode errors in silence",
	},
	{
		Name: "TraceContext", Run: traceContext, Needs: []Ability{Headers},
		Rule:   "a handler's context carries the trace of the publisher, live and replayed, and of nobody else",
		Origin: "watermill's suite passes a bus that loses what a context holds",
	},
}

func hookOnce(c *C) {
	e := c.env()
	b := c.open(e)
	own, none := &history{name: "with a hook"}, &history{name: "without a hook"}
	failing := func(h *history) bus.Handler {
		return func(_ context.Context, m *bus.Message) error {
			h.message(m)
			switch text := string(m.Data); {
			case strings.HasPrefix(text, "panic"):
				panic(text)
			case strings.HasPrefix(text, "error"):
				return errors.New(text)
			}
			return nil
		}
	}
	c.subscribeFunc(b, c.subject("a"), failing(own), bus.OnError(own.hook()))
	c.subscribeFunc(b, c.subject("a"), failing(none))
	var want []string
	for i := range 5 {
		want = append(want, numbered("panic", i), numbered("error", i))
	}
	for _, text := range append(want, "end") {
		c.publish(b, c.subject("a"), text)
	}
	c.awaitText(own, "end")
	c.awaitText(none, "end")
	for _, h := range []*history{own, e.problems} {
		told := 0
		c.await(h, "the hook to be told of every problem", func(e event) bool {
			if e.kind == problem {
				told++
			}
			return told == len(want)
		})
	}
	c.settle() // a second call would come behind it
	for _, h := range []*history{own, e.problems} {
		c.judge(h, toldOnce(want))
	}
}

// toldOnce: the hook was told of each of these, once, and of nothing else. A bus may tell its
// own hook in another order.
func toldOnce(want []string) judge {
	return func(events []event) *fault {
		told := map[string]bool{}
		for at, e := range events {
			if e.kind != problem {
				continue
			}
			i := slices.IndexFunc(want, func(text string) bool { return strings.Contains(e.problem.Err.Error(), text) })
			if i < 0 {
				return &fault{at, "nothing of the kind has happened"}
			}
			if told[want[i]] {
				return &fault{at, fmt.Sprintf("%q was told before", want[i])}
			}
			told[want[i]] = true
		}
		for _, text := range want {
			if !told[text] {
				return &fault{len(events), fmt.Sprintf("%q wasn't told", text)}
			}
		}
		return nil
	}
}

func slowHook(c *C) {
	e := c.env()
	gate, open := c.gate()
	defer open()
	inside := make(chan struct{}, 2)
	slow := func(bus.Problem) {
		inside <- struct{}{}
		<-gate
	}
	e.Options = append(e.Options, bus.OnError(slow))
	b := c.open(e)
	failing := func(context.Context, *bus.Message) error { return errors.New("on purpose") }
	c.subscribeFunc(b, c.subject("own"), failing, bus.OnError(slow))
	c.subscribeFunc(b, c.subject("none"), failing)
	for _, subject := range []string{"own", "none"} {
		done := c.start(func() { c.publish(b, c.subject(subject), "x") })
		receive(c, done, "Publish to return")
		receive(c, inside, "the hook to be called")
		done = c.start(func() {
			h := c.subscribe(b, c.subject("other"))
			want := sequence(subject, 1, 50)
			for _, text := range want {
				c.publish(b, c.subject("other"), text)
			}
			c.awaitText(h, want[49])
			c.judge(h, exactly(want...), quiet)
			c.unsubscribe(h.sub)
		})
		receive(c, done, "another subscription and a publisher, while a hook doesn't return")
	}
}

func typedDecode(c *C) {
	b := c.Bus()
	type note struct {
		Text string
		N    int
	}
	const secret = "s3cr3t-payload"
	h := &history{name: "notes"}
	_, err := bus.Subscribe(c.ctx, b, c.subject("a"), func(_ context.Context, v note) error {
		h.add(event{kind: delivered, text: numbered(v.Text, v.N)})
		return nil
	}, bus.OnError(h.hook()))
	if err != nil {
		c.Fatalf("Subscribe: %v", err)
	}
	raw := &history{name: "raw messages"}
	_, err = bus.Subscribe(c.ctx, b, c.subject("a"), func(_ context.Context, m bus.Message) error {
		raw.message(&m)
		return nil
	}, bus.OnError(raw.hook()))
	if err != nil {
		c.Fatalf("Subscribe: %v", err)
	}
	send := func(n int) {
		if err := bus.Publish(c.ctx, b, c.subject("a"), note{"p", n}); err != nil {
			c.Fatalf("Publish: %v", err)
		}
	}
	send(1)
	bad := []string{secret + " isn't JSON", `{"N": "` + secret + `"}`}
	for _, text := range bad {
		c.publish(b, c.subject("a"), text)
	}
	send(2)
	c.awaitText(h, numbered("p", 2))
	c.await(raw, "the last raw message", func(e event) bool { return e.text == `{"Text":"p","N":2}` })
	c.judge(h, exactly(sequence("p", 1, 2)...), func(events []event) *fault {
		told := 0
		for at, e := range events {
			switch {
			case e.kind != problem:
			case e.problem.Subject != c.subject("a"):
				return &fault{at, fmt.Sprintf("the problem has subject %q", e.problem.Subject)}
			case strings.Contains(e.problem.Err.Error(), secret):
				return &fault{at, "the problem tells the data"}
			default:
				told++
			}
		}
		if told != len(bad) {
			return &fault{len(events), fmt.Sprintf("%d messages don't decode, the hook was told of %d", len(bad), told)}
		}
		return nil
	})
	c.judge(raw, exactly(`{"Text":"p","N":1}`, bad[0], bad[1], `{"Text":"p","N":2}`), quiet)
}

// tracer carries one value, as a tracing library does.
type tracer struct{}

type traceKey struct{}

const traceHeader = "Traceparent"

func (t *tracer) Inject(ctx context.Context, h bus.Header) {
	if id, ok := ctx.Value(traceKey{}).(string); ok {
		h[traceHeader] = []string{id}
	}
}

func (t *tracer) Extract(ctx context.Context, h bus.Header) context.Context {
	if id := h.Value(traceHeader); id != "" {
		return context.WithValue(ctx, traceKey{}, id)
	}
	return ctx
}

func traceContext(c *C) {
	e := c.env()
	e.Options = append(e.Options, bus.WithPropagator(&tracer{}))
	b := c.open(e)
	ids := []string{"id-1", "", "id-3"}
	c.kinds(b, func(root string) {
		subscribe := func(name string, opts ...bus.SubscribeOption) *history {
			h := &history{name: root + ", " + name}
			c.subscribeFunc(b, c.subject(root+".a"), func(ctx context.Context, m *bus.Message) error {
				id, _ := ctx.Value(traceKey{}).(string) // none is ""
				h.add(event{kind: delivered, text: fmt.Sprintf("%s traced by %q", m.Data, id)})
				return nil
			}, opts...)
			return h
		}
		live := subscribe("live")
		var want []string
		for i, id := range ids {
			ctx := c.ctx
			if id != "" {
				ctx = context.WithValue(ctx, traceKey{}, id)
			}
			if err := b.Publish(ctx, c.subject(root+".a"), []byte(numbered("p", i)), bus.WithHeader("Other", "v")); err != nil {
				c.Fatalf("Publish: %v", err)
			}
			want = append(want, fmt.Sprintf("%s traced by %q", numbered("p", i), id))
		}
		c.await(live, "the last message", func(e event) bool { return strings.HasPrefix(e.text, numbered("p", 2)) })
		c.judge(live, exactly(want...))
		if root == "held" {
			c.judge(subscribe("replayed", bus.All()), exactly(want...))
		}
	})
}
