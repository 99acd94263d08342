package driver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// How much may be on its way at a time that nobody waits for.
const (
	asyncMsgs  = 1024
	asyncBytes = 8 << 20
)

// async is what was published without waiting.
type async struct {
	mu    sync.Mutex
	msgs  int // on their way
	bytes int
	room  chan struct{} // closed when there is room again; nil: nobody waits for it

	settled []settled // not yet told
	telling bool      // a goroutine tells
}

// settled is a publish whose outcome is known.
type settled struct {
	subject string
	bytes   int
	began   time.Time // zero: it isn't measured
	counted bool
	done    func(error)
	err     error
}

// PublishAsync implements bus.AsyncPublisher.
func (b *Bus) PublishAsync(ctx context.Context, subject string, data []byte, done func(err error), opts ...bus.PublishOption) {
	x := settled{subject: subject, bytes: len(data), done: done}
	if b.metrics != nil {
		x.began = time.Now()
	}
	x.counted, x.err = b.enter(ctx)
	if x.err == nil && b.publishAsync(ctx, data, opts, &x) {
		return
	}
	b.settle(x)
}

// publishAsync reports whether it has left the outcome to the backend.
func (b *Bus) publishAsync(ctx context.Context, data []byte, opts []bus.PublishOption, x *settled) bool {
	p, o, err := b.publication(ctx, x.subject, data, opts)
	if err != nil {
		x.err = err
		return false
	}
	s, captured := b.table.Load().captures(p.Subject)
	pipeliner, able := b.backend.(Pipeliner)
	if !captured || !able {
		x.err = b.dispatch(ctx, &p, &o)
		return false
	}
	if x.err = b.expect(s, &p, &o); x.err != nil {
		return false
	}
	size := len(data) + HeaderSize(p.Header)
	if x.err = b.async.enter(ctx, b, size); x.err != nil {
		return false
	}
	pipeliner.AppendAsync(s, &p, func(ack Ack, err error) {
		b.async.leave(size)
		switch {
		case err == nil:
			b.acknowledged(s, ack, &o)
		case errors.Is(err, ErrNotCaptured):
			// Sent again it would come behind what has been sent since.
			b.Changed()
			err = fmt.Errorf("%w: stream %s does not take it any more", bus.ErrStreamChanged, s.Config.Name)
		}
		x.err = err
		b.settle(*x)
	})
	return true
}

// enter waits until there is room for a message.
func (a *async) enter(ctx context.Context, b *Bus, size int) error {
	for {
		a.mu.Lock()
		if a.room == nil && a.msgs < asyncMsgs && (a.bytes+size <= asyncBytes || a.msgs == 0) { // nobody passes those who wait
			a.msgs++
			a.bytes += size
			a.mu.Unlock()
			return nil
		}
		if a.room == nil {
			a.room = make(chan struct{})
		}
		room := a.room
		a.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-b.endOf(ctx).Done():
			return bus.ErrClosed
		}
	}
}

func (a *async) leave(size int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.msgs--
	a.bytes -= size
	// Whoever waits is to find room for several, and not to be woken for each.
	if a.room != nil && a.msgs <= asyncMsgs*3/4 && a.bytes <= asyncBytes*3/4 {
		close(a.room)
		a.room = nil
	}
}

// settle has an outcome told, from a goroutine that exists only while there is one to tell.
func (b *Bus) settle(x settled) {
	x.err = wrapPublish(x.subject, x.err)
	a := &b.async
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settled = append(a.settled, x)
	if !a.telling {
		a.telling = true
		go b.tellSettled()
	}
}

func (b *Bus) tellSettled() {
	finished := false
	defer func() {
		if !finished { // one ended its goroutine
			go b.tellSettled()
		}
	}()
	a := &b.async
	for {
		a.mu.Lock()
		if len(a.settled) == 0 {
			finished, a.telling, a.settled = true, false, nil
			a.mu.Unlock()
			return
		}
		x := a.settled[0]
		a.settled[0] = settled{}
		a.settled = a.settled[1:]
		a.mu.Unlock()
		b.tell(&x)
	}
}

// tell tells one outcome.
func (b *Bus) tell(x *settled) {
	defer b.leave(x.counted)
	if !x.began.IsZero() {
		b.measurePublish(x.subject, x.bytes, x.began, x.err)
	}
	if x.done == nil {
		if x.err != nil {
			b.Report(bus.Problem{Err: x.err, Subject: x.subject})
		}
		return
	}
	defer func() {
		if r := recover(); r != nil {
			b.Report(bus.Problem{Err: fmt.Errorf("%w: %v", bus.ErrPanic, r), Subject: x.subject, Stack: debug.Stack()})
		}
	}()
	x.done(x.err)
}
