package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
)

const (
	// block is how many messages the subscribers count before they say so, and blocks how many of those may be under way.
	block  = 64
	blocks = 4
)

// tally is one publisher and its subscribers. It keeps the publisher at most blocks*block messages
// ahead of the slowest of them, so that nothing is dropped on either side.
type tally struct {
	subscribers int
	counts      [2 * blocks]atomic.Int64 // who has counted a block
	free        chan struct{}            // a token for each block that may be published
}

func newTally(subscribers int) *tally {
	t := &tally{subscribers: subscribers, free: make(chan struct{}, blocks)}
	for range blocks {
		t.free <- struct{}{}
	}
	return t
}

// counter returns what one subscriber calls with each message, never concurrently with itself.
func (t *tally) counter() func() {
	n := 0
	return func() {
		n++
		if n%block != 0 {
			return
		}
		c := &t.counts[n/block%len(t.counts)]
		if c.Add(1) == int64(t.subscribers) {
			c.Store(0)
			t.free <- struct{}{}
		}
	}
}

// run publishes n blocks and returns how many messages were delivered per second.
func (t *tally) run(ctx context.Context, n int, publish func() error) (float64, error) {
	start := time.Now()
	for range n {
		select {
		case <-t.free:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		for range block {
			if err := publish(); err != nil {
				return 0, err
			}
		}
	}
	for range blocks { // all of them have arrived
		select {
		case <-t.free:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	took := time.Since(start)
	for range blocks {
		t.free <- struct{}{}
	}
	return float64(n*block*t.subscribers) / took.Seconds(), nil
}

// busFanout is n subscriptions of one subject of a bus, which the pair closes.
func busFanout(ctx context.Context, b bus.Bus, subject string, n, rounds int) (side, error) {
	t := newTally(n)
	for range n {
		count := t.counter()
		_, err := b.Subscribe(ctx, subject, func(context.Context, *bus.Message) error { count(); return nil })
		if err != nil {
			return nil, err
		}
	}
	data := make([]byte, payload)
	return func(ctx context.Context) (float64, error) {
		return t.run(ctx, rounds, func() error { return b.Publish(ctx, subject, data) })
	}, nil
}

// rawFanout is n subscriptions of one subject on one connection.
func rawFanout(r *raw, subject string, n, rounds int) (side, error) {
	t := newTally(n)
	for range n {
		count := t.counter()
		if _, err := r.nc.Subscribe(subject, func(*nats.Msg) { count() }); err != nil {
			return nil, err
		}
	}
	if err := r.nc.Flush(); err != nil {
		return nil, err
	}
	data := make([]byte, payload)
	return func(ctx context.Context) (float64, error) {
		return t.run(ctx, rounds, func() error { return r.nc.Publish(subject, data) })
	}, nil
}

// openFanout compares subscriptions of a bus's subject with raw ones of an uncaptured subject.
func openFanout(subject string) func(e *env) (ours, floor side, err error) {
	return func(e *env) (ours, floor side, err error) {
		b, r, _, err := e.newSides()
		if err != nil {
			return nil, nil, err
		}
		n := e.size(1000, 10)
		if ours, err = busFanout(e.ctx, b, subject, n, e.size(64, 2)); err != nil {
			return nil, nil, err
		}
		floor, err = rawFanout(r, "fanout", n, e.size(12, 2))
		return ours, floor, err
	}
}
