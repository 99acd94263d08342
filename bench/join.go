package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
)

const (
	rooms   = 10
	history = 50
)

// roomOf is the subject of the message of a number: rooms take turns.
func roomOf(i int) string { return fmt.Sprintf("bench.room.%d", i%rooms) }

// joiners measures the median time until the first message when n join at once; join returns
// when what was stored has been handled.
func joiners(ctx context.Context, n int, join func(ctx context.Context, room string, handle func()) error) (float64, error) {
	times := make([]float64, n)
	begin := make(chan struct{})
	var start time.Time
	var ready sync.WaitGroup
	ready.Add(n)
	go func() { ready.Wait(); start = time.Now(); close(begin) }()
	err := together(n, func(g int) error {
		got, room := 0, roomOf(g)
		grow()
		ready.Done()
		<-begin
		err := join(ctx, room, func() {
			if got++; got == 1 {
				times[g] = float64(time.Since(start).Nanoseconds()) / 1e6
			}
		})
		if err == nil && got != history {
			err = fmt.Errorf("joined and got %d messages, not %d", got, history)
		}
		return err
	})
	return quantile(times, 0.5), err
}

// grow gives the goroutine the stack that one has which serves a request, and which takes longer to make than to join.
//
//go:noinline
func grow() byte {
	var frame [16 << 10]byte
	return frame[len(os.Args)]
}

func joinBus(b bus.Bus, n int) side {
	return func(ctx context.Context) (float64, error) {
		subs := make(chan bus.Subscription, n)
		result, err := joiners(ctx, n, func(ctx context.Context, room string, handle func()) error {
			sub, err := b.Subscribe(ctx, room, func(context.Context, *bus.Message) error { handle(); return nil }, bus.Last(history))
			if err == nil {
				subs <- sub
			}
			return err
		})
		close(subs)
		errs := []error{err}
		for sub := range subs {
			errs = append(errs, sub.Unsubscribe(ctx))
		}
		return result, errors.Join(errs...)
	}
}

// joinRaw gives an ordered consumer each the sequence to start from, which it would have to find out.
func joinRaw(r *raw, stream jetstream.Stream, n, messages int) side {
	return func(ctx context.Context) (float64, error) {
		stops := make(chan func() error, n)
		result, err := joiners(ctx, n, func(ctx context.Context, room string, handle func()) error {
			done, got := make(chan struct{}), 0
			stop, err := consumeOrdered(ctx, stream, func(jetstream.Msg) {
				if handle(); got == history-1 {
					close(done)
				}
				got++
			}, jetstream.OrderedConsumerConfig{
				FilterSubjects: []string{room},
				DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(messages - rooms*history + 1),
			})
			if err != nil {
				return err
			}
			stops <- stop
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		close(stops)
		errs := []error{err}
		for stop := range stops {
			errs = append(errs, stop())
		}
		return result, errors.Join(errs...)
	}
}

// openJoin is a process that has followed its stream; in the cold variant it has just started.
func openJoin(cold bool) func(e *env) (ours, floor side, err error) {
	return func(e *env) (ours, floor side, err error) {
		r, stream, err := e.newRaw()
		if err != nil {
			return nil, nil, err
		}
		n, messages := e.size(500, 10), e.size(4000, rooms*history)
		if err := fill(e.ctx, r.js, messages, roomOf); err != nil {
			return nil, nil, err
		}
		floor = joinRaw(r, stream, n, messages)
		if cold {
			dir := e.dir()
			b, err := openBus(e.ctx, dir)
			if err == nil {
				err = errors.Join(fillBus(e.ctx, b, messages, roomOf), closeBus(b))
			}
			ours = func(ctx context.Context) (float64, error) {
				b, err := openBus(ctx, dir)
				if err != nil {
					return 0, err
				}
				result, err := joinBus(b, n)(ctx)
				return result, errors.Join(err, closeBus(b))
			}
			return ours, floor, err
		}
		b, err := e.newBus()
		if err != nil {
			return nil, nil, err
		}
		var followed atomic.Int64
		all := make(chan struct{})
		_, err = b.Subscribe(e.ctx, streamPattern, func(context.Context, *bus.Message) error {
			if followed.Add(1) == int64(messages) {
				close(all)
			}
			return nil
		})
		if err == nil {
			err = fillBus(e.ctx, b, messages, roomOf)
		}
		if err != nil {
			return nil, nil, err
		}
		select {
		case <-all:
		case <-e.ctx.Done():
			return nil, nil, e.ctx.Err()
		}
		return joinBus(b, n), floor, nil
	}
}
