package migrate_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// faulty is a bus that fails in one way: with an error, or by calls that take until their context ends. With a bus
// behind it, it passes on what doesn't fail.
type faulty struct {
	bus.Bus

	mu    sync.Mutex
	err   error
	hangs bool
}

// is changes how it fails.
func (f *faulty) is(err error, hangs bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.hangs = err, hangs
}

func (f *faulty) fault(ctx context.Context) error {
	f.mu.Lock()
	err, hangs := f.err, f.hangs
	f.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", bus.ErrUnknownOutcome, ctx.Err())
	}
	return err
}

func (f *faulty) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Bus.Publish(ctx, subject, data, opts...)
}

func (f *faulty) EnsureStreams(ctx context.Context, streams ...bus.StreamConfig) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Bus.EnsureStreams(ctx, streams...)
}

func (f *faulty) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	if err := f.fault(ctx); err != nil {
		return nil, err
	}
	return f.Bus.(bus.StreamLister).Streams(ctx)
}

func (f *faulty) RemoveStream(ctx context.Context, name string) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Bus.(bus.Remover).RemoveStream(ctx, name)
}

func (f *faulty) RemoveGroup(ctx context.Context, name string) error {
	if err := f.fault(ctx); err != nil {
		return err
	}
	return f.Bus.(bus.Remover).RemoveGroup(ctx, name)
}

func (f *faulty) Close(ctx context.Context) error {
	if f.Bus == nil {
		return nil
	}
	return f.Bus.Close(ctx)
}
