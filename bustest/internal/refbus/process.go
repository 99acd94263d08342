package refbus

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// process is one of several buses that are open on one directory at once: a view of the Bus
// that they share, and that the last of them closes.
type process struct {
	*Bus
	hook   bus.ErrorHook
	number int
	known  map[string]bool // its own streams, of the bug tableStale
	alive  bool            // behind systems.mu
}

// processKey is for the context of a call: which process has made it.
type processKey struct{}

func (p *process) mark(ctx context.Context) context.Context {
	return context.WithValue(ctx, processKey{}, p)
}

func caller(ctx context.Context) *process {
	p, _ := ctx.Value(processKey{}).(*process)
	return p
}

// systems are the buses that processes share, by directory.
var systems = struct {
	mu sync.Mutex
	of map[string][]*process
}{of: map[string][]*process{}}

// openProcess opens a bus on what others have open, too.
func openProcess(cfg Config, opts []bus.OpenOption) (bus.Bus, error) {
	systems.mu.Lock()
	defer systems.mu.Unlock()
	p := &process{hook: bus.NewOpenOptions(opts).ErrorHook, known: map[string]bool{}, alive: true}
	others := systems.of[cfg.Dir]
	if len(others) == 0 {
		b, err := openBus(cfg, opts)
		if err != nil {
			return nil, err
		}
		p.Bus = b
	} else {
		p.Bus, p.number = others[0].Bus, others[len(others)-1].number+1
	}
	systems.of[cfg.Dir] = append(others, p)
	return p, nil
}

// ended reports whether p is closed while the bus that it shares goes on.
func (p *process) ended() bool {
	systems.mu.Lock()
	defer systems.mu.Unlock()
	return !p.alive && len(systems.of[p.cfg.Dir]) > 0
}

// Publish implements bus.Bus.
func (p *process) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	o := bus.NewPublishOptions(opts)
	switch {
	case p.ended():
		return p.wrap("publish", subject, bus.ErrClosed, data)
	case p.bug("tableStale") && o.Receipt != nil && !p.knows(subject):
		return p.wrap("publish", subject, bus.ErrNoStream, data)
	case p.bug("idPerProcess") && o.MessageID != "":
		o.MessageID = fmt.Sprintf("%d-%s", p.number, o.MessageID)
	case p.bug("expectPerProcess"):
		o.Expect = o.Expect && p.number == 0
	default:
		return p.Bus.Publish(p.mark(ctx), subject, data, opts...)
	}
	return p.wrap("publish", subject, p.publish(ctx, subject, data, o), data)
}

func (p *process) knows(subject string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.capturing(subject)
	return st == nil || p.known[st.cfg.Name]
}

// Subscribe implements bus.Bus.
func (p *process) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	if p.ended() {
		return nil, p.wrap("subscribe", pattern, bus.ErrClosed, nil)
	}
	o := bus.NewSubscribeOptions(opts)
	if o.ErrorHook == nil && p.hook != nil && p.number > 0 { // the first one's is that of the bus
		opts = append(slices.Clone(opts), bus.OnError(p.hook))
	}
	if name := fmt.Sprintf("%s-%d", o.Group, p.number); o.Grouped && p.bug("groupPerProcess") {
		group := bus.Group(name)
		if o.Durable {
			group = bus.DurableGroup(name)
		}
		opts = append(slices.Clone(opts), group)
	}
	if o.Durable && p.number > 0 && p.bug("conflictPerProcess") && p.conflicts(o.Group, pattern) {
		opts = append(slices.Clone(opts), bus.DurableGroup(fmt.Sprintf("%s-%d", o.Group, p.number)))
	}
	return p.Bus.Subscribe(p.mark(ctx), pattern, handler, opts...)
}

// conflicts reports whether a durable group of that name has another pattern.
func (p *process) conflicts(group, pattern string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groups[group]
	return g != nil && g.pattern != pattern
}

// EnsureStreams implements bus.Bus.
func (p *process) EnsureStreams(ctx context.Context, configs ...bus.StreamConfig) error {
	if p.ended() {
		return p.wrap("ensure", "streams", bus.ErrClosed, nil)
	}
	p.mu.Lock()
	for _, cfg := range configs {
		p.known[cfg.Name] = true
	}
	p.mu.Unlock()
	return p.Bus.EnsureStreams(p.mark(ctx), configs...)
}

// RemoveStream implements bus.Remover.
func (p *process) RemoveStream(ctx context.Context, name string) error {
	return p.Bus.RemoveStream(p.mark(ctx), name)
}

// RemoveGroup implements bus.Remover.
func (p *process) RemoveGroup(ctx context.Context, name string) error {
	return p.Bus.RemoveGroup(p.mark(ctx), name)
}

// Close implements bus.Bus.
func (p *process) Close(ctx context.Context) error {
	systems.mu.Lock()
	others := slices.DeleteFunc(systems.of[p.cfg.Dir], func(q *process) bool { return q == p })
	first := p.alive
	if p.alive = false; first {
		systems.of[p.cfg.Dir] = others
	}
	systems.mu.Unlock()
	if len(others) == 0 || p.bug("closeEndsAll") {
		return p.Bus.Close(ctx)
	}
	p.waitAsync()
	p.mu.Lock()
	subs := slices.DeleteFunc(slices.Concat(p.subs, p.leaving), func(s *subscription) bool { return s.process != p })
	p.mu.Unlock()
	for _, s := range subs {
		s.end(bus.ErrClosed)
		if err := s.Unsubscribe(ctx); err != nil {
			return p.wrap("close", s.pattern, bus.ErrHandlersRunning, nil)
		}
	}
	return nil
}

// stranger reports whether a subscription is another process's than the one that has made a call.
func (s *subscription) stranger(ctx context.Context) bool {
	p := caller(ctx)
	return p != nil && s.process != p
}
