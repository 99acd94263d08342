package driver

import (
	"context"
	"fmt"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

type listenKey struct {
	pattern string
	group   string // that several processes share; "": none
}

// listener receives the uncaptured messages of one pattern for all legs that have it.
type listener struct {
	b *Bus
	listenKey
	users int // under b.mu

	ready   chan struct{} // closed when stop and err are set
	stop    func()
	err     error
	stopped sync.Once

	mu       sync.Mutex // before any subscription's
	legs     set[*leg]
	starting []*subscription // scratch
	items    []item          // scratch
	early    []item          // what came for a group whose leg isn't there yet: nobody else is given it
}

// acquireListener returns the listener of a pattern and group, listening, and counts its user until release.
func (b *Bus) acquireListener(ctx context.Context, key listenKey) (*listener, error) {
	b.mu.Lock()
	n := b.listeners[key]
	if n == nil {
		n = &listener{b: b, listenKey: key, ready: make(chan struct{})}
		b.listeners[key] = n
		go n.start()
	}
	n.users++
	b.mu.Unlock()
	select {
	case <-n.ready:
		if n.err != nil {
			b.releaseListener(n)
			return nil, n.err
		}
		return n, nil
	case <-ctx.Done():
		go b.releaseListener(n) // it waits until the listener has started
		return nil, context.Cause(ctx)
	}
}

func (b *Bus) releaseListener(n *listener) {
	b.mu.Lock()
	n.users--
	last := n.users == 0
	if last && b.listeners[n.listenKey] == n {
		delete(b.listeners, n.listenKey)
	}
	b.mu.Unlock()
	if last {
		n.end()
	}
}

func (n *listener) start() {
	ctx, cancel := context.WithTimeout(n.b.life, askTimeout)
	defer cancel()
	if n.group == "" {
		n.stop, n.err = n.b.backend.Listen(ctx, n.pattern, n)
	} else {
		n.stop, n.err = n.b.backend.(Grouper).ListenGroup(ctx, n.pattern, n.group, n)
	}
	if n.err != nil {
		n.err = cause(ctx, n.err)
		n.b.mu.Lock()
		if n.b.listeners[n.listenKey] == n {
			delete(n.b.listeners, n.listenKey)
		}
		n.b.mu.Unlock()
	}
	close(n.ready)
}

// end stops listening, when it has started.
func (n *listener) end() {
	<-n.ready
	if n.stop != nil {
		n.stopped.Do(func() {
			n.stop()
			n.mu.Lock()
			early := n.early
			n.early = nil
			n.mu.Unlock()
			for _, it := range early {
				n.b.passOn(n.pattern, n.group, it.m)
			}
		})
	}
}

// passOn gives another process what nobody here has begun of a group.
func (b *Bus) passOn(pattern, group string, messages ...*bus.Message) {
	for i, m := range messages {
		if err := b.backend.(Grouper).Pass(pattern, group, m); err != nil {
			lost := &bus.SlowError{Dropped: uint64(len(messages) - i)}
			b.Report(bus.Problem{Err: fmt.Errorf("what group %s hasn't begun can't be passed on: %w: %w", group, lost, err), Pattern: pattern})
			return
		}
	}
}

// stopListening lets nothing more come to a subscription that is the only one of its listener; what was on its way has come.
func (s *subscription) stopListening() {
	s.mu.Lock()
	legs := s.legs
	s.mu.Unlock()
	for _, l := range legs {
		if l.listener != nil {
			l.listener.end()
		}
	}
}

// takeUncaptured takes what waits for the handler and is of no stream.
func (s *subscription) takeUncaptured() []*bus.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	var taken []*bus.Message
	for _, l := range s.legs {
		for l.listener != nil && l.queue.len > 0 {
			taken = append(taken, l.queue.pop().m)
		}
		l.open = min(l.open, l.queue.len)
	}
	return taken
}

// remove gives a leg nothing any more.
func (n *listener) remove(l *leg) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.legs.remove(l)
}

// Deliver implements Sink.
func (n *listener) Deliver(entries ...Entry) {
	t := n.b.table.Load()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range entries {
		// What a stream captures comes from the stream: this copy may be one that it refused.
		if _, captured := t.captures(e.Message.Subject); captured || !n.b.keepsGrammar(e.Message, "pattern "+n.pattern, n.pattern) {
			continue
		}
		n.items = append(n.items, item{m: e.Message})
	}
	if n.group != "" && len(n.legs.all) == 0 {
		n.early = append(n.early, n.items...)
	}
	for _, l := range n.legs.all {
		if l.push(n.items...) {
			n.starting = append(n.starting, l.sub)
		}
	}
	clear(n.items)
	n.items = n.items[:0]
	n.b.crew.add(n.starting...)
	clear(n.starting)
	n.starting = n.starting[:0]
}

// Lost implements Sink.
func (n *listener) Lost() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.legs.all {
		l.notice(&bus.SlowError{})
	}
}

// End implements Sink.
func (n *listener) End(error) {}
