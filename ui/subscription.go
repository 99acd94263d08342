package ui

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// Subscription is a handler's place in the bus, for as long as its tab lives. It is used on
// its tab's thread only.
type Subscription struct {
	tab     *tab
	pattern string
	ctx     context.Context
	cancel  context.CancelFunc
	sub     bus.Subscription // nil until the bus has answered

	over bool // guarded by the tab's thread

	// While lent, the thread that Subscribe was called on is the handler's.
	loan sync.Mutex
	lent bool
}

// Subscribe calls handler, on the tab's thread, with each message whose subject matches
// pattern, decoded as [bus.Subscribe] does. With a start position ([bus.Last] and the like)
// the stored messages have been handled when it returns. The subscription ends with the tab, or by
// Unsubscribe.
//
// What fails (the subscribing, a message that doesn't decode, messages that are missing, a handler that panics) is
// shown to the user and logged; the option [bus.OnError] replaces that for what fails after Subscribe has returned.
// Handlers call [Context.Sync] when the view is to change.
func Subscribe[T any](c *Context, pattern string, handler func(T), opts ...bus.SubscribeOption) *Subscription {
	t := c.tab
	s := &Subscription{tab: t, pattern: pattern}
	s.ctx, s.cancel = context.WithCancel(t.ctx)
	all := append([]bus.SubscribeOption{bus.OnError(s.problem)}, opts...)
	all = append(all, bus.Until(s.ctx))

	s.lend(true)
	ctx, cancel := context.WithTimeout(s.ctx, t.app.limits.subscribe)
	sub, err := bus.Subscribe(ctx, t.app.bus, pattern, func(ctx context.Context, v T) error {
		return s.handle(ctx, func() { handler(v) })
	}, all...)
	cancel()
	s.lend(false)

	switch {
	case err == nil && !s.over:
		s.sub = sub
		t.mu.Lock()
		if !t.ended {
			if t.subs == nil {
				t.subs = map[*Subscription]struct{}{}
			}
			t.subs[s] = struct{}{}
		}
		t.mu.Unlock()
	case err == nil: // the handler has ended its own subscription
	case t.ctx.Err() == nil && !s.over:
		s.over = true
		s.cancel()
		advice := ""
		if errors.Is(err, bus.ErrUnavailable) {
			advice = "; reload the page in a moment"
		}
		err = fmt.Errorf("can't subscribe to %q: %w%s", pattern, err, advice)
		t.log.Error("ui: subscribe", "pattern", pattern, "error", err)
		t.complain(err)
	}
	return s
}

// Unsubscribe ends the subscription: no message of it is handled any more. It is idempotent.
func (s *Subscription) Unsubscribe() {
	if s.over {
		return
	}
	s.over = true
	// A handler that waits for the thread, which we are on, gives up now.
	s.cancel()
	if s.sub == nil {
		return
	}
	s.tab.mu.Lock()
	delete(s.tab.subs, s)
	s.tab.mu.Unlock()
	ctx := s.tab.current
	if ctx == nil {
		ctx = s.tab.ctx
	}
	if err := s.sub.Unsubscribe(ctx); err != nil && s.tab.ctx.Err() == nil {
		s.tab.log.Warn("ui: unsubscribe", "pattern", s.pattern, "error", err)
	}
}

// lend gives the thread to the handler while Subscribe waits for it, or takes it back, which waits
// for a handler that runs.
func (s *Subscription) lend(lent bool) {
	s.loan.Lock()
	s.lent = lent
	s.loan.Unlock()
}

// handle runs fn on the tab's thread: the one that is lent, or in its turn.
func (s *Subscription) handle(ctx context.Context, fn func()) error {
	s.loan.Lock()
	if s.lent {
		defer s.loan.Unlock()
		return s.run(ctx, fn)
	}
	s.loan.Unlock()
	t := s.tab
	if !t.lock(ctx) {
		return nil // the subscription, its tab or the bus has ended
	}
	defer t.unlock()
	return s.run(ctx, fn)
}

func (s *Subscription) run(ctx context.Context, fn func()) error {
	if s.over {
		return nil
	}
	t := s.tab
	outer := t.current
	t.current = ctx
	defer func() { t.current = outer }()
	return t.call("a subscription's handler", func() error { fn(); return nil })
}

// problem is the subscription's error hook.
func (s *Subscription) problem(p bus.Problem) {
	if s.ctx.Err() != nil {
		return // what is late for a subscription that has ended interests nobody
	}
	s.tab.log.Warn("ui: subscription", "pattern", p.Pattern, "subject", p.Subject, "error", p.Err)
	s.tab.complain(p.Err)
}

// checkSubscriptions tells the tab's user of subscriptions that the bus has ended, which it
// does when the streams change under them.
func (t *tab) checkSubscriptions() {
	var lost []*Subscription
	t.mu.Lock()
	for s := range t.subs {
		select {
		case <-s.sub.Done():
			lost = append(lost, s)
			delete(t.subs, s)
		default:
		}
	}
	t.mu.Unlock()
	for _, s := range lost {
		if s.ctx.Err() != nil {
			continue // we have ended it ourselves
		}
		t.log.Error("ui: the bus has ended a subscription", "pattern", s.pattern, "error", s.sub.Err())
		t.complain(fmt.Errorf("%q is not followed any more; reload the page: %w", s.pattern, s.sub.Err()))
	}
}

// Publish encodes v as [bus.Publish] does and publishes it on subject. It waits until the message is
// accepted, ten seconds at most. In an action, on a subject of Options.Streams, the message has an
// ID that names what the user did: when the action runs again because its outcome was unknown, it isn't
// stored a second time. An option [bus.MessageID] replaces that.
func Publish[T any](c *Context, subject string, v T, opts ...bus.PublishOption) error {
	t := c.tab
	if t.publishes != nil && t.app.captured(subject) {
		opts = append([]bus.PublishOption{bus.MessageID(t.publishes.next(subject))}, opts...)
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.app.limits.publish)
	defer cancel()
	return bus.Publish(ctx, t.app.bus, subject, v, opts...)
}
