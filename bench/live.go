package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
)

const liveRate = 500 // messages per second

// arrivals takes the times that messages needed from their publisher to a handler.
type arrivals struct {
	base  time.Time
	times chan float64 // µs
}

func newArrivals() *arrivals {
	return &arrivals{base: time.Now(), times: make(chan float64, 100_000)}
}

func (a *arrivals) stamp(data []byte) {
	binary.LittleEndian.PutUint64(data, uint64(time.Since(a.base)))
}

func (a *arrivals) handle(data []byte) {
	sent := time.Duration(binary.LittleEndian.Uint64(data))
	a.times <- float64((time.Since(a.base) - sent).Nanoseconds()) / 1e3
}

// run publishes at a steady rate, whatever the publisher is kept waiting for, and returns a quantile of the times.
func (a *arrivals) run(ctx context.Context, n int, q float64, p publish) (float64, error) {
	data := make([]byte, payload)
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / liveRate)))
		a.stamp(data)
		if err := p(ctx, "bench.live", data); err != nil {
			return 0, err
		}
	}
	times := make([]float64, n)
	for i := range times {
		select {
		case times[i] = <-a.times:
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d messages have arrived: %w", i, n, ctx.Err())
		}
	}
	return quantile(times, q), nil
}

// openLive measures from the call of publish to the handler, of one live subscription.
func openLive(q float64, duration time.Duration) func(e *env) (ours, floor side, err error) {
	return func(e *env) (ours, floor side, err error) {
		b, r, stream, err := e.newSides()
		if err != nil {
			return nil, nil, err
		}
		n := int(e.last(duration) * liveRate / time.Second)
		oursArrived := newArrivals()
		_, err = b.Subscribe(e.ctx, "bench.live", func(_ context.Context, m *bus.Message) error { oursArrived.handle(m.Data); return nil })
		if err != nil {
			return nil, nil, err
		}
		ours = func(ctx context.Context) (float64, error) { return oursArrived.run(ctx, n, q, busPublish(b)) }

		floorArrived := newArrivals()
		consumer, err := stream.OrderedConsumer(e.ctx, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{"bench.live"}, DeliverPolicy: jetstream.DeliverNewPolicy,
		})
		if err != nil {
			return nil, nil, err
		}
		consuming, err := consumer.Consume(func(m jetstream.Msg) { floorArrived.handle(m.Data()) })
		if err != nil {
			return nil, nil, err
		}
		e.after(func() error { consuming.Stop(); return nil })
		_, publisher, err := e.secondConn(r)
		floor = func(ctx context.Context) (float64, error) { return floorArrived.run(ctx, n, q, publishTo(publisher)) }
		return ours, floor, err
	}
}

// openReplay reads a stream of 100,000 messages from its start.
func openReplay(e *env) (ours, floor side, err error) {
	b, r, stream, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	n := e.size(100_000, 1000)
	subject := func(int) string { return "bench.replay" }
	if err := fillBus(e.ctx, b, n, subject); err != nil {
		return nil, nil, err
	}
	if err := fill(e.ctx, r.js, n, subject); err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		start, got := time.Now(), 0
		sub, err := b.Subscribe(ctx, "bench.replay", func(context.Context, *bus.Message) error { got++; return nil }, bus.All())
		if err != nil {
			return 0, err
		}
		took := time.Since(start)
		if err := sub.Unsubscribe(ctx); err != nil {
			return 0, err
		}
		if got != n {
			return 0, fmt.Errorf("replayed %d messages of %d", got, n)
		}
		return float64(n) / took.Seconds(), nil
	}
	floor = func(ctx context.Context) (float64, error) {
		start, got, done := time.Now(), 0, make(chan struct{})
		consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"bench.replay"}})
		if err != nil {
			return 0, err
		}
		consuming, err := consumer.Consume(func(jetstream.Msg) {
			if got++; got == n {
				close(done)
			}
		})
		if err != nil {
			return 0, err
		}
		defer consuming.Stop()
		select {
		case <-done:
			return float64(n) / time.Since(start).Seconds(), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return ours, floor, nil
}
