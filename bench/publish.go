package main

import (
	"context"
	"time"

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
