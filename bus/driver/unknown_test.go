package driver_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// finder is a backend that knows of a second stream only its name, until it is told.
type finder struct {
	scripted
	told  chan struct{}
	finds []string
}

func (f *finder) Streams(ctx context.Context) ([]driver.Stream, error) {
	streams, err := f.scripted.Streams(ctx)
	second := driver.Stream{Epoch: "one", Config: bus.StreamConfig{Name: "T", Subjects: []string{"b.>"}}}
	select {
	case <-f.told:
	default:
		second = driver.Stream{Config: bus.StreamConfig{Name: "T"}, Unknown: true}
	}
	return append(streams, second), err
}

func (f *finder) Find(_ context.Context, pattern string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finds = append(f.finds, pattern)
	if driver.Overlap(pattern, "b.>") {
		return []string{"T"}, nil
	}
	return nil, nil
}

func openFinder(t *testing.T) (*finder, *driver.Bus) {
	t.Helper()
	f := &finder{told: make(chan struct{})}
	f.epoch, f.first = "one", 1
	f.config = bus.StreamConfig{Name: "S", Subjects: []string{"a.>"}}
	f.listens = map[driver.Sink]string{}
	b, err := driver.New(t.Context(), f, driver.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return f, b
}

func TestUnknown_whatMayBeCapturedWaitsUntilItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := openFinder(t)
		ignore := func(context.Context, *bus.Message) error { return nil }
		calls := map[string]func(ctx context.Context) error{
			"publish": func(ctx context.Context) error { return b.Publish(ctx, "b.x", nil) },
			"async": func(ctx context.Context) error {
				result := make(chan error, 1)
				b.PublishAsync(ctx, "b.x", nil, func(err error) { result <- err })
				return <-result
			},
			"subscribe":       func(ctx context.Context) error { _, err := b.Subscribe(ctx, "b.*", ignore); return err },
			"replay":          func(ctx context.Context) error { _, err := b.Subscribe(ctx, "b.x", ignore, bus.All()); return err },
			"a wider pattern": func(ctx context.Context) error { _, err := b.Subscribe(ctx, ">", ignore); return err },
			"a list":          func(ctx context.Context) error { _, err := b.Streams(ctx); return err },
			"what needs one":  func(ctx context.Context) error { return b.Publish(ctx, "b.x", nil, bus.MessageID("1")) },
		}
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			err := call(ctx)
			cancel()
			require.ErrorIs(t, err, bus.ErrUnavailable, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.ErrorContains(t, err, "stream T", name)
			require.Equal(t, time.Second, time.Since(began), name)
		}
		began := time.Now()
		require.ErrorIs(t, b.Publish(t.Context(), "b.x", nil), bus.ErrUnavailable)
		require.Equal(t, 20*time.Second, time.Since(began), "without a deadline")

		// Nobody else waits.
		began = time.Now()
		require.NoError(t, b.Publish(t.Context(), "c.x", nil))
		_, err := b.Subscribe(t.Context(), "c.*", ignore)
		require.NoError(t, err)
		f.mu.Lock()
		f.finds = nil
		f.mu.Unlock()
		_, err = b.Subscribe(t.Context(), "a.x", ignore)
		require.NoError(t, err)
		require.Empty(t, f.finds, "what a known stream captures is not asked about")
		require.Zero(t, time.Since(began))

		published := make(chan error, 1)
		go func() { published <- b.Publish(t.Context(), "b.x", nil) }()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, published)
		close(f.told)
		require.ErrorContains(t, <-published, "not scripted", "it has gone to the stream")
	})
}

func TestUnknown_closeEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := openFinder(t)
		published := make(chan error, 1)
		go func() { published <- b.Publish(t.Context(), "b.x", nil) }()
		synctest.Wait()
		require.NoError(t, b.Close(context.Background()))
		require.ErrorIs(t, <-published, bus.ErrClosed)
	})
}
