package driver

import (
	"context"
	"errors"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// boundedContext is a call's context that also ends when the bus ends blocked calls. Most calls don't wait for anything, so
// the two are joined when somebody first asks.
type boundedContext struct {
	context.Context // the caller's
	end             context.Context

	join   sync.Once
	both   context.Context
	cancel context.CancelCauseFunc
	stop   func() bool
}

// bounded returns such a context.
func (b *Bus) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	c := &boundedContext{Context: ctx, end: b.endOf(ctx)}
	return c, c.over
}

// endOf ends when a blocked call of a context must. A handler's calls go on until everything is delivered.
func (b *Bus) endOf(ctx context.Context) context.Context {
	if b.inside(ctx) {
		return b.life
	}
	return b.outside
}

func (c *boundedContext) joined() context.Context {
	c.join.Do(func() {
		c.both, c.cancel = context.WithCancelCause(c.Context)
		c.stop = context.AfterFunc(c.end, func() { c.cancel(bus.ErrClosed) })
		if c.end.Err() != nil {
			c.cancel(bus.ErrClosed) // at once
		}
	})
	return c.both
}

// over ends the context; nobody asks it for the first time any more.
func (c *boundedContext) over() {
	c.join.Do(func() { c.both = c.Context })
	if c.cancel != nil {
		c.stop()
		c.cancel(context.Canceled)
	}
}

func (c *boundedContext) Done() <-chan struct{} { return c.joined().Done() }
func (c *boundedContext) Err() error            { return c.joined().Err() }
func (c *boundedContext) Value(key any) any     { return c.joined().Value(key) }

// changing is bounded for a call that changes what is captured. Made in a handler, it may end the handler's own
// subscription, and so the context that it was given; that must not cut it short half-way, or have it say that it failed.
func (b *Bus) changing(ctx context.Context) (context.Context, context.CancelFunc) {
	s, ok := ctx.Value(insideKey{b}).(*subscription)
	if !ok {
		return b.bounded(ctx)
	}
	apart, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(s.Err(), bus.ErrStreamChanged) {
			cancel(context.Cause(ctx))
		}
	})
	deadline := func() {}
	if at, ok := ctx.Deadline(); ok {
		apart, deadline = context.WithDeadline(apart, at)
	}
	bounded, done := b.bounded(apart)
	return bounded, func() { stop(); done(); deadline(); cancel(context.Canceled) }
}
