package refbus

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// async is what was published without waiting, in order. One goroutine at a time publishes it.
type async struct {
	mu      sync.Mutex
	waiting []func()
	count   int // of those whose outcome isn't known
	running bool
	idle    *sync.Cond
}

// PublishAsync implements bus.AsyncPublisher.
func (b *Bus) PublishAsync(ctx context.Context, subject string, data []byte, done func(err error), opts ...bus.PublishOption) {
	b.publishAsync(ctx, subject, data, done, func(ctx context.Context, data []byte) error {
		return b.Publish(ctx, subject, data, opts...)
	})
}

// PublishAsync implements bus.AsyncPublisher.
func (p *process) PublishAsync(ctx context.Context, subject string, data []byte, done func(err error), opts ...bus.PublishOption) {
	p.publishAsync(ctx, subject, data, done, func(ctx context.Context, data []byte) error {
		return p.Publish(ctx, subject, data, opts...)
	})
}

func (b *Bus) publishAsync(ctx context.Context, subject string, data []byte, done func(error), publish func(context.Context, []byte) error) {
	if !b.bug("asyncReadsLate") {
		data = bytes.Clone(data)
	}
	early := b.async.room(ctx, b.bug("asyncUnbounded"))
	ctx = context.WithoutCancel(ctx)
	job := func() {
		defer b.async.left(early == nil)
		if b.bug("asyncReadsLate") {
			data = lateCopy(data)
		}
		err := early
		if early == nil {
			err = publish(ctx, data)
		} else {
			err = b.wrap("publish", subject, err, nil)
		}
		switch {
		case err != nil && b.bug("asyncForgets"):
		case done != nil:
			b.tellOutcome(done, err)
			if b.bug("asyncTwice") {
				b.tellOutcome(done, err)
			}
			if b.bug("asyncTwiceLater") {
				time.AfterFunc(50*time.Millisecond, func() { b.tellOutcome(done, err) })
			}
		case err != nil && !b.bug("asyncUnheard"):
			b.complain(bus.Problem{Err: err, Subject: subject})
		}
	}
	a := &b.async
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.bug("asyncReorders") && len(a.waiting) > 1 {
		a.waiting = slices.Insert(a.waiting, len(a.waiting)-1, job)
	} else {
		a.waiting = append(a.waiting, job)
	}
	if !a.running {
		a.running = true
		go b.runAsync()
	}
	if b.bug("asyncAtOnce") && len(a.waiting) > 1 {
		job := a.waiting[0]
		a.waiting = a.waiting[1:]
		go job()
	}
}

// room waits until there is room for a message.
func (a *async) room(ctx context.Context, unbounded bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		a.mu.Lock()
		free := a.count < 1024 || unbounded
		if free {
			a.count++
		}
		a.mu.Unlock()
		if free {
			return nil
		}
		_ = pauseUntil(ctx, time.Millisecond) // the loop looks at the context
	}
}

// left makes room again, if there was any taken.
func (a *async) left(taken bool) {
	if !taken {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count--
}

// lateCopy copies data that its owner may be changing. It is the bug itself, so the race detector isn't to fail the test.
//
//go:norace
func lateCopy(data []byte) []byte {
	late := make([]byte, len(data))
	for i := range late {
		late[i] = data[i]
	}
	return late
}

// complain tells the bus' own hook.
func (b *Bus) complain(p bus.Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report(p)
}

func (b *Bus) tellOutcome(done func(error), err error) {
	defer func() {
		if r := recover(); r != nil {
			b.complain(bus.Problem{Err: bus.ErrPanic})
		}
	}()
	done(err)
}

func (b *Bus) runAsync() {
	a := &b.async
	finished := false
	defer func() {
		if !finished && !b.bug("asyncEnds") { // an outcome has ended its goroutine
			go b.runAsync()
		}
	}()
	for {
		a.mu.Lock()
		if len(a.waiting) == 0 {
			a.running, finished = false, true
			a.idle.Broadcast()
			a.mu.Unlock()
			return
		}
		job := a.waiting[0]
		a.waiting = a.waiting[1:]
		a.mu.Unlock()
		job()
	}
}

// waitAsync returns when nothing is on its way.
func (b *Bus) waitAsync() {
	a := &b.async
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.running && !b.bug("asyncLeft") {
		a.idle.Wait()
	}
}
