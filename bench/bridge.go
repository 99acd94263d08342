package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
)

// openBridge copies a stream from one embedded server to another, which doesn't have it.
func openBridge(e *env) (ours, floor side, err error) {
	from, rawFrom, _, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	to, rawTo, _, err := e.newSides()
	if err != nil {
		return nil, nil, err
	}
	n := e.size(100_000, 1000)
	subject := func(i int) string { return "bench.copy." + strconv.Itoa(i%100) }
	if err := fillBus(e.ctx, from, n, subject); err != nil {
		return nil, nil, err
	}
	if err := fill(e.ctx, rawFrom.js, n, subject); err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		if err := to.(bus.Remover).RemoveStream(ctx, streamName); err != nil {
			return 0, err
		}
		start := time.Now()
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{Streams: []string{streamName}})
		if err := b.Copy(ctx); err != nil {
			return 0, err
		}
		took := time.Since(start)
		infos, err := to.(bus.StreamLister).Streams(ctx)
		if err != nil || len(infos) != 1 || infos[0].Msgs != uint64(n) {
			return 0, fmt.Errorf("%d messages were to be copied, there is %v: %w", n, infos, err)
		}
		return float64(n) / took.Seconds(), nil
	}
	floor = func(ctx context.Context) (float64, error) {
		if err := rawTo.js.DeleteStream(ctx, streamName); err != nil {
			return 0, err
		}
		start := time.Now()
		if err := rawCopy(ctx, rawFrom, rawTo, n); err != nil {
			return 0, err
		}
		return float64(n) / time.Since(start).Seconds(), nil
	}
	return ours, floor, nil
}

// rawCopy is what one would write with nats.go: an ordered consumer, and publishes of which many are on their way. It loses
// the order where one fails, and begins from the start when it is killed.
func rawCopy(ctx context.Context, from, to *raw, n int) error {
	stream, err := from.js.Stream(ctx, streamName)
	if err != nil {
		return err
	}
	there, err := to.stream(ctx)
	if err != nil {
		return err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	errs := make(chan error, 1)
	read := 0
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if read == n {
			return
		}
		_, err := to.js.PublishMsgAsync(&nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}, jetstream.WithStallWait(10*time.Second))
		if read++; err != nil || read == n {
			select {
			case errs <- err:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer consuming.Stop()
	select {
	case err := <-errs:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-to.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	info, err := there.Info(ctx)
	if err == nil && info.State.Msgs != uint64(n) {
		err = fmt.Errorf("%d messages were to be copied, there are %d", n, info.State.Msgs)
	}
	return err
}
