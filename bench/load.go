package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// openSlow is a bus with 100 subscriptions, and against it the same one while one more is blocked.
func openSlow(e *env) (ours, floor side, err error) {
	b, err := e.newBus()
	if err != nil {
		return nil, nil, err
	}
	floor, err = busFanout(e.ctx, b, "bench.slow", e.size(100, 5), e.size(60, 2))
	if err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		released := make(chan struct{})
		slow, err := b.Subscribe(ctx, "bench.slow", func(context.Context, *bus.Message) error { <-released; return nil })
		if err != nil {
			return 0, err
		}
		rate, err := floor(ctx)
		close(released)
		return rate, errors.Join(err, slow.Unsubscribe(ctx))
	}
	return ours, floor, nil
}

const (
	churnRate = 500                    // joins per second
	churnStay = 100 * time.Millisecond // how long each stays
)

// openChurn is a publisher while subscribers with a history come and go, and against it the same one alone.
func openChurn(e *env) (ours, floor side, err error) {
	b, err := e.newBus()
	if err != nil {
		return nil, nil, err
	}
	c := &churn{b: b}
	for range rooms * history {
		if err := c.publish(e.ctx); err != nil {
			return nil, nil, err
		}
	}
	length := e.last(1500 * time.Millisecond)
	floor = func(ctx context.Context) (float64, error) { return c.publishFor(ctx, length) }
	ours = func(ctx context.Context) (float64, error) {
		var joined sync.WaitGroup
		errs := make(chan error, 1)
		over := make(chan struct{})
		joined.Go(func() {
			begin := time.Now()
			for i := 0; ; i++ {
				wait := time.NewTimer(time.Until(begin.Add(time.Duration(i) * time.Second / churnRate)))
				select {
				case <-over:
					wait.Stop()
					return
				case <-wait.C:
				}
				joined.Go(func() {
					if err := c.join(ctx, i%rooms); err != nil {
						select {
						case errs <- err:
						default: // the first one tells enough
						}
					}
				})
			}
		})
		rate, err := c.publishFor(ctx, length)
		close(over)
		joined.Wait()
		e.count("joins", int(c.joins.Swap(0)))
		gaps, repeats := c.gaps.Swap(0), c.repeats.Swap(0)
		e.count("gaps", int(gaps))
		e.count("repeats", int(repeats))
		select {
		case other := <-errs:
			err = errors.Join(err, other)
		default:
		}
		if gaps+repeats > 0 {
			err = errors.Join(err, fmt.Errorf("%d gaps and %d repeats", gaps, repeats))
		}
		return rate, err
	}
	return ours, floor, nil
}

// churn is one publisher, who numbers the messages of each room, and what its subscribers saw.
type churn struct {
	b                    bus.Bus
	published            int
	acked                [rooms]atomic.Int64 // the last number of each room
	joins, gaps, repeats atomic.Int64
}

func (c *churn) publish(ctx context.Context) error {
	room := c.published % rooms
	number := c.published/rooms + 1
	data := make([]byte, payload)
	binary.LittleEndian.PutUint64(data, uint64(number))
	if err := c.b.Publish(ctx, roomOf(room), data); err != nil {
		return err
	}
	c.published++
	c.acked[room].Store(int64(number))
	return nil
}

// publishFor returns how many acknowledged publishes there were per second.
func (c *churn) publishFor(ctx context.Context, length time.Duration) (float64, error) {
	start, before := time.Now(), c.published
	for time.Since(start) < length {
		if err := c.publish(ctx); err != nil {
			return 0, err
		}
	}
	return float64(c.published-before) / time.Since(start).Seconds(), nil
}

// join takes the last messages of a room, stays, and goes, checking the numbers: the history reaches
// as far back as it was asked for, and each message is the one after the one before.
func (c *churn) join(ctx context.Context, room int) error {
	var last atomic.Int64
	oldest := c.acked[room].Load() - history + 1
	sub, err := c.b.Subscribe(ctx, roomOf(room), func(_ context.Context, m *bus.Message) error {
		number, before := int64(binary.LittleEndian.Uint64(m.Data)), last.Load()
		switch {
		case before == 0 && number < oldest || before > 0 && number <= before:
			c.repeats.Add(1)
		case before > 0 && number > before+1:
			c.gaps.Add(1)
		}
		last.Store(number)
		return nil
	}, bus.Last(history), bus.OnError(func(bus.Problem) { c.gaps.Add(1) }))
	if err != nil {
		return err
	}
	// What was acknowledged before the call must have been handled, after it, must arrive.
	stay := time.NewTimer(churnStay)
	defer stay.Stop()
	<-stay.C
	if err := c.arrived(ctx, &last, c.acked[room].Load()); err != nil {
		return errors.Join(err, sub.Unsubscribe(ctx))
	}
	c.joins.Add(1)
	return sub.Unsubscribe(ctx)
}

// arrived waits until a subscriber has got a number.
func (c *churn) arrived(ctx context.Context, last *atomic.Int64, number int64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for last.Load() < number {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("message %d of a room was acknowledged and hasn't arrived; the last is %d", number, last.Load())
		}
	}
	return nil
}
