package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// startBus is how long a bus needs until the first publish is acknowledged. Closing isn't counted.
func startBus(ctx context.Context, dir string) (float64, error) {
	start := time.Now()
	b, err := openBus(ctx, dir)
	if err != nil {
		return 0, err
	}
	err = b.Publish(ctx, "bench.start", make([]byte, payload))
	took := time.Since(start)
	return took.Seconds(), errors.Join(err, closeBus(b))
}

// startServer does the same with a server and a connection.
func startServer(ctx context.Context, dir string) (float64, error) {
	start := time.Now()
	r, err := startRaw(dir)
	if err != nil {
		return 0, err
	}
	if _, err = r.stream(ctx); err == nil {
		err = r.publish(ctx, "bench.start", make([]byte, payload))
	}
	took := time.Since(start)
	return took.Seconds(), errors.Join(err, r.close())
}

func openStartEmpty(e *env) (ours, floor side, err error) {
	ours = func(ctx context.Context) (float64, error) { return startBus(ctx, e.dir()) }
	floor = func(ctx context.Context) (float64, error) { return startServer(ctx, e.dir()) }
	return ours, floor, nil
}

// openStartFull starts on a store of a million messages of 1,000 subjects; both sides use the same one in turn.
func openStartFull(e *env) (ours, floor side, err error) {
	dir := e.dir()
	b, err := openBus(e.ctx, dir) // the stream is made as ours makes it
	if err != nil {
		return nil, nil, err
	}
	if err := closeBus(b); err != nil {
		return nil, nil, err
	}
	r, err := startRaw(dir)
	if err != nil {
		return nil, nil, err
	}
	subject := func(i int) string { return fmt.Sprintf("bench.start.%d", i%1000) }
	if err := errors.Join(fill(e.ctx, r.js, e.size(1_000_000, 2000), subject), r.close()); err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) { return startBus(ctx, dir) }
	floor = func(ctx context.Context) (float64, error) { return startServer(ctx, dir) }
	return ours, floor, nil
}
