package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
)

// openLatency is the median time of one goroutine's publish until it is acknowledged.
func openLatency(e *env) (ours, floor side, err error) {
	b, r, _, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	return e.latency(e.size(10_000, 20), b, r)
}

// openSyncLatency is the same where what is acknowledged is on the disk.
func openSyncLatency(e *env) (ours, floor side, err error) {
	b, r, err := e.syncSides()
	if err != nil {
		return nil, nil, err
	}
	return e.latency(e.size(1000, 20), b, r)
}

func (e *env) latency(n int, b bus.Bus, r *raw) (ours, floor side, err error) {
	measure := func(p publish) side {
		data, times := make([]byte, payload), make([]float64, n)
		return func(ctx context.Context) (float64, error) {
			for i := range times {
				start := time.Now()
				if err := p(ctx, "bench.ack", data); err != nil {
					return 0, err
				}
				times[i] = float64(time.Since(start).Nanoseconds()) / 1e3
			}
			return quantile(times, 0.5), nil
		}
	}
	return measure(busPublish(b)), measure(r.publish), nil
}

// openThroughput is how many acknowledged publishes 64 goroutines do per second.
func openThroughput(e *env) (ours, floor side, err error) {
	b, r, _, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	return e.throughput(e.size(1000, 5), b, r)
}

// openSyncThroughput is the same where what is acknowledged is on the disk.
func openSyncThroughput(e *env) (ours, floor side, err error) {
	b, r, err := e.syncSides()
	if err != nil {
		return nil, nil, err
	}
	return e.throughput(e.size(200, 5), b, r)
}

func (e *env) throughput(each int, b bus.Bus, r *raw) (ours, floor side, err error) {
	const goroutines = 64
	measure := func(p publish) side {
		return func(ctx context.Context) (float64, error) {
			start := time.Now()
			err := together(goroutines, func(int) error {
				data := make([]byte, payload)
				for range each {
					if err := p(ctx, "bench.ack", data); err != nil {
						return err
					}
				}
				return nil
			})
			return float64(goroutines*each) / time.Since(start).Seconds(), err
		}
	}
	return measure(busPublish(b)), measure(r.publish), nil
}

// openAsync is one goroutine that doesn't wait for each acknowledgement, with as many on their way on both sides.
func openAsync(e *env) (ours, floor side, err error) {
	b, r, _, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	n := e.size(50_000, 100)
	ours = func(ctx context.Context) (float64, error) {
		var stored sync.WaitGroup
		var failed []error // told one at a time
		data := make([]byte, payload)
		start := time.Now()
		for range n {
			stored.Add(1)
			b.(bus.AsyncPublisher).PublishAsync(ctx, "bench.async", data, func(err error) {
				if err != nil {
					failed = append(failed, err)
				}
				stored.Done()
			})
		}
		stored.Wait()
		return float64(n) / time.Since(start).Seconds(), errors.Join(failed...)
	}
	js, err := jetstream.New(r.nc, jetstream.WithPublishAsyncMaxPending(1024))
	floor = func(ctx context.Context) (float64, error) {
		futures := make([]jetstream.PubAckFuture, n)
		data := make([]byte, payload)
		start := time.Now()
		for i := range futures {
			var err error
			if futures[i], err = js.PublishAsync("bench.async", data, jetstream.WithStallWait(10*time.Second)); err != nil {
				return 0, err
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		took := time.Since(start)
		for _, f := range futures {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				return 0, err
			}
		}
		return float64(n) / took.Seconds(), nil
	}
	return ours, floor, err
}
