package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// What waits of each pattern in a reader, at most. One message always fits.
const (
	aheadMsgs  = 256
	aheadBytes = 512 << 10
)

// reader reads a part of a stream in its order, however many patterns the stream has: a subscription each, whose
// handler waits until its message's turn has come.
type reader struct {
	epoch string
	upTo  uint64
	gap   func(*bus.GapError) // called by next
	fails func(error)         // the bus is unavailable, and goes on by itself: called by next
	idle  func()              // called by next now and then while nothing comes
	parts []*part
	end   context.CancelFunc
}

type part struct {
	sub      bus.Subscription
	items    chan item
	bytes    atomic.Int64  // of items
	taken    chan struct{} // something was taken out of items
	head     *bus.Message
	complete bool
}

// give waits until there is room, or ctx ends.
func (p *part) give(ctx context.Context, it item) {
	for p.bytes.Load() > aheadBytes {
		select {
		case <-p.taken:
		case <-ctx.Done():
			return
		}
	}
	p.bytes.Add(it.size())
	select {
	case p.items <- it:
	case <-ctx.Done():
	}
}

type item struct {
	message *bus.Message
	err     error // told to the subscription's hook before the next message
}

func (it item) size() int64 {
	if it.message == nil {
		return 0
	}
	return messageSize(it.message.Subject, it.message.Header, it.message.Data)
}

// openReader reads a stream behind a sequence up to a cursor, which the stream has reached.
func openReader(ctx context.Context, b bus.Bus, patterns []string, after uint64, upTo bus.Cursor) (*reader, error) {
	r := &reader{epoch: upTo.Epoch(), upTo: upTo.Sequence(), gap: func(*bus.GapError) {}, fails: func(error) {}, idle: func() {}}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	r.end = end
	start := bus.All()
	if after > 0 {
		start = bus.After(bus.NewCursor(r.epoch, after))
	}
	for _, pattern := range patterns {
		p := &part{items: make(chan item, aheadMsgs), taken: make(chan struct{}, 1)}
		handler := func(_ context.Context, m *bus.Message) error {
			if m.Cursor.Epoch() == r.epoch && m.Cursor.Sequence() <= r.upTo {
				p.give(life, item{message: m})
			}
			return nil
		}
		hook := bus.OnError(func(problem bus.Problem) { p.give(life, item{err: problem.Err}) })
		var err error
		if p.sub, err = b.Subscribe(ctx, pattern, handler, start, bus.Background(), hook); err != nil {
			r.close()
			return nil, err
		}
		r.parts = append(r.parts, p)
	}
	return r, nil
}

// next returns the next message, or io.EOF behind the last one.
func (r *reader) next(ctx context.Context) (*bus.Message, error) {
	var first *part
	for _, p := range r.parts {
		if p.head == nil && !p.complete {
			if err := r.fill(ctx, p); err != nil {
				return nil, err
			}
		}
		if p.head != nil && (first == nil || p.head.Cursor.Sequence() < first.head.Cursor.Sequence()) {
			first = p
		}
	}
	if first == nil {
		return nil, io.EOF
	}
	m := first.head
	first.head = nil
	return m, nil
}

const idleEvery = 2 * time.Second

// fill waits for the next message of a part or its end.
func (r *reader) fill(ctx context.Context, p *part) error {
	var slow *time.Timer
	for p.head == nil && !p.complete {
		select {
		case it := <-p.items:
			if err := r.take(p, it); err != nil {
				return err
			}
			continue
		default:
		}
		if slow == nil {
			slow = time.NewTimer(idleEvery)
			defer slow.Stop()
		}
		var err error
		select {
		case it := <-p.items:
			err = r.take(p, it)
		case <-p.sub.CaughtUp():
			select { // its handler has given all
			case it := <-p.items:
				err = r.take(p, it)
			default:
				p.complete = p.sub.Err() == nil
				err = p.sub.Err()
			}
		case <-p.sub.Done():
			if err = p.sub.Err(); err == nil {
				err = bus.ErrClosed
			}
		case <-slow.C:
			r.idle()
			slow.Reset(idleEvery)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) take(p *part, it item) error {
	p.bytes.Add(-it.size())
	select {
	case p.taken <- struct{}{}:
	default:
	}
	if it.err == nil {
		p.head = it.message
		return nil
	}
	gap, ok := errors.AsType[*bus.GapError](it.err)
	switch {
	case !ok && mayPass(it.err):
		r.fails(it.err)
		return nil
	case !ok:
		return it.err
	}
	if gap.Before.Epoch() != r.epoch {
		return fmt.Errorf("stream %s was made anew while it was read: %w", gap.Stream, bus.ErrConflict)
	}
	r.gap(gap)
	return nil
}

// close ends the subscriptions.
func (r *reader) close() {
	r.end()
	for _, p := range r.parts {
		// Its handler heeds the reader's end, which has come. An error would say that the bus is being closed, which ends it, too.
		_ = p.sub.Unsubscribe(context.Background())
	}
}
