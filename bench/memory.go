package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
)

// memory is what this process, servers included, holds in its heap and its stacks.
func memory() float64 {
	runtime.GC()
	runtime.GC() // what had a finalizer
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// memoryPerSub is how much n subscriptions add, each on a subject of its own, when each has received a message.
func memoryPerSub(ctx context.Context, n int, p publish, subscribe func(subject string, handle func()) (stop func() error, err error)) (float64, error) {
	var received sync.WaitGroup
	received.Add(n)
	stops := make([]func() error, n)
	before := memory()
	for i := range n {
		var err error
		if stops[i], err = subscribe("bench.memory."+strconv.Itoa(i), received.Done); err != nil {
			return 0, err
		}
	}
	for i := range n {
		if err := p(ctx, "bench.memory."+strconv.Itoa(i), make([]byte, payload)); err != nil {
			return 0, err
		}
	}
	all := make(chan struct{})
	go func() { received.Wait(); close(all) }()
	select {
	case <-all:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	grown := memory() - before
	var errs []error
	for _, stop := range stops {
		errs = append(errs, stop())
	}
	return grown / float64(n), errors.Join(errs...)
}

func openMemory(e *env) (ours, floor side, err error) {
	b, r, stream, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	n := e.size(1000, 10)
	ours = func(ctx context.Context) (float64, error) {
		return memoryPerSub(ctx, n, busPublish(b), func(subject string, handle func()) (func() error, error) {
			sub, err := b.Subscribe(ctx, subject, func(context.Context, *bus.Message) error { handle(); return nil })
			return func() error { return sub.Unsubscribe(ctx) }, err
		})
	}
	floor = func(ctx context.Context) (float64, error) {
		return memoryPerSub(ctx, n, r.publish, func(subject string, handle func()) (func() error, error) {
			return consumeOrdered(ctx, stream, func(jetstream.Msg) { handle() },
				jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverNewPolicy})
		})
	}
	return ours, floor, nil
}

// consumeOrdered runs an ordered consumer; stop also removes it from the server, which otherwise keeps it for five minutes.
func consumeOrdered(ctx context.Context, s jetstream.Stream, handle func(jetstream.Msg), cfg jetstream.OrderedConsumerConfig) (stop func() error, err error) {
	consumer, err := s.OrderedConsumer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	consuming, err := consumer.Consume(handle)
	if err != nil {
		return nil, err
	}
	return func() error {
		consuming.Stop()
		<-consuming.Closed()
		err := s.DeleteConsumer(ctx, consumer.CachedInfo().Name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil
		}
		return err
	}, nil
}

// openSubscribe opens 10,000 subscriptions on as many subjects, one after the other.
func openSubscribe(e *env) (ours, floor side, err error) {
	b, r, _, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	subjects := make([]string, e.size(10_000, 20))
	for i := range subjects {
		subjects[i] = fmt.Sprintf("bench.subscribe.%d", i)
	}
	ours = func(ctx context.Context) (float64, error) {
		subs := make([]bus.Subscription, len(subjects))
		start := time.Now()
		for i, subject := range subjects {
			var err error
			if subs[i], err = b.Subscribe(ctx, subject, func(context.Context, *bus.Message) error { return nil }); err != nil {
				return 0, err
			}
		}
		took := time.Since(start)
		var errs []error
		for _, sub := range subs {
			errs = append(errs, sub.Unsubscribe(ctx))
		}
		return took.Seconds(), errors.Join(errs...)
	}
	floor = func(ctx context.Context) (float64, error) {
		subs := make([]*nats.Subscription, len(subjects))
		start := time.Now()
		for i, subject := range subjects {
			var err error
			if subs[i], err = r.nc.Subscribe(subject, func(*nats.Msg) {}); err != nil {
				return 0, err
			}
		}
		if err := r.nc.FlushWithContext(ctx); err != nil {
			return 0, err
		}
		took := time.Since(start)
		var errs []error
		for _, sub := range subs {
			errs = append(errs, sub.Unsubscribe())
		}
		return took.Seconds(), errors.Join(append(errs, r.nc.FlushWithContext(ctx))...)
	}
	return ours, floor, nil
}
