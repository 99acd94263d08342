package driver

import (
	"context"
	"slices"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// localShare is a group's share of what arrives in this process: an inner subscription, whose
// handler waits until a member is free. Where the backend is no Grouper it is the whole group.
type localShare struct {
	g *group

	// By the group's turn.
	placed bool // a position is kept

	mu      sync.Mutex
	src     *source
	inner   *subscription
	asked   chan struct{}          // a token for each message that may come
	through bus.Cursor             // of a durable group: what was given away last
	left    map[*Delivery]struct{} // of a durable group: given away and not done
	back    []*bus.Message         // of another that processes share: what no member here has begun
}

// manyTokens is more than a group has members.
const manyTokens = 1 << 30

// start subscribes: where o says, or where a durable group has got to.
func (ls *localShare) start(ctx context.Context, src *source, o *bus.SubscribeOptions) error {
	inner := bus.SubscribeOptions{Start: o.Start, MaxMsgs: o.MaxMsgs, MaxBytes: o.MaxBytes}
	inner.ErrorHook = func(p bus.Problem) { ls.g.notice(p.Err) }
	ls.mu.Lock()
	if ls.placed {
		inner.Start = bus.Start{Kind: bus.StartAfter, Cursor: ls.through}
	}
	ls.src, ls.asked = src, make(chan struct{}, manyTokens)
	ls.mu.Unlock()
	s, err := ls.g.b.attach(ctx, ls.g.pattern, ls.offer, &inner, ls.g)
	if err != nil {
		return err
	}
	s.mu.Lock()
	began := bus.Cursor{}
	if len(s.legs) > 0 {
		began = s.legs[0].began
	}
	s.mu.Unlock()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.inner = s
	ls.g.inner.Store(s)
	if !ls.placed && ls.through.IsZero() { // otherwise the first message has been faster
		ls.through = began
	}
	ls.placed = ls.g.durable
	return nil
}

// offer is the inner subscription's handler.
func (ls *localShare) offer(ctx context.Context, m *bus.Message) error {
	select {
	case <-ls.asked:
	case <-ctx.Done():
		ls.giveBack(m) // a durable group reads it again
		return nil
	}
	own := *m
	d := &Delivery{Message: &own, Attempt: 1}
	ls.mu.Lock()
	src := ls.src
	if ls.g.durable {
		ls.through = m.Cursor
		ls.left[d] = struct{}{}
	}
	ls.mu.Unlock()
	src.Deliver(d)
	return nil
}

// giveLeft gives away once more what earlier members have left.
func (ls *localShare) giveLeft() {
	ls.mu.Lock()
	src := ls.src
	left := make([]*Delivery, 0, len(ls.left))
	for d := range ls.left {
		left = append(left, d)
	}
	ls.mu.Unlock()
	slices.SortFunc(left, func(x, y *Delivery) int {
		order, _ := x.Message.Cursor.Compare(y.Message.Cursor)
		return order
	})
	for _, d := range left {
		m := *d.Message // a handler may have kept it
		d.Message = &m
		src.Deliver(d)
	}
}

// Ask implements Share.
func (ls *localShare) Ask(n int) {
	for range n {
		ls.asked <- struct{}{}
	}
}

// Done implements Share.
func (ls *localShare) Done(d *Delivery) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.left, d)
}

// Release implements Share: what is left of a durable group is given away again when somebody joins.
func (ls *localShare) Release(d *Delivery) { ls.giveBack(d.Message) }

// giveBack keeps a message for other processes.
func (ls *localShare) giveBack(m *bus.Message) {
	if !ls.g.shared() {
		return // nobody else is there
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.back = append(ls.back, m)
}

// Through implements Share. Close drains the inner subscription like any other.
func (ls *localShare) Through(ctx context.Context, _ uint64) (bool, error) {
	ls.mu.Lock()
	inner := ls.inner
	ls.mu.Unlock()
	select {
	case <-inner.done.channel():
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// Leave implements Share.
func (ls *localShare) Leave(back ...*Delivery) {
	for _, d := range back {
		ls.Release(d)
	}
	ls.mu.Lock()
	inner := ls.inner
	ls.mu.Unlock()
	var rest []*bus.Message
	if ls.g.shared() {
		inner.stopListening()
		rest = inner.takeUncaptured()
	}
	inner.end(nil)
	<-inner.done.channel()
	ls.mu.Lock()
	rest, ls.back = append(ls.back, rest...), nil
	ls.mu.Unlock()
	ls.g.b.passOn(ls.g.pattern, ls.g.name, rest...)
}
