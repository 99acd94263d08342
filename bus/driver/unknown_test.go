package driver_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
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
	fails error // of Find
	moves int   // calls of Ensure
}

func (f *finder) Streams(ctx context.Context) ([]driver.Stream, error) {
	streams, err := f.scripted.Streams(ctx)
	second := driver.Stream{Epoch: "one", Config: bus.StreamConfig{Name: "T", Subjects: []string{"b.>"}}}
	select {
	case <-f.told:
	default:
		second = driver.Stream{Config: bus.StreamConfig{Name: "T"}, Unknown: "its leader is asleep"}
	}
	return append(streams, second), err
}

func (f *finder) Find(_ context.Context, pattern string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finds = append(f.finds, pattern)
	if f.fails != nil {
		return nil, f.fails
	}
	if driver.Overlap(pattern, "b.>") {
		return []string{"T"}, nil
	}
	return nil, nil
}

func (f *finder) Ensure(context.Context, bus.StreamConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moves++
	return nil
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
			"ensure": func(ctx context.Context) error {
				return b.EnsureStreams(ctx, bus.StreamConfig{Name: "T", Subjects: []string{"b.>"}})
			},
			"what needs one": func(ctx context.Context) error { return b.Publish(ctx, "b.x", nil, bus.MessageID("1")) },
		}
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			err := call(ctx)
			cancel()
			require.ErrorIs(t, err, bus.ErrUnavailable, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.ErrorContains(t, err, "stream T", name)
			require.ErrorContains(t, err, "its leader is asleep", name)
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
		require.NoError(t, b.Publish(t.Context(), "c.y", nil))
		require.NoError(t, b.Publish(t.Context(), "c.y", nil))
		require.Equal(t, []string{"c.y"}, f.finds, "neither what a known stream captures is asked about, nor the same once more")
		require.Zero(t, f.moves, "what is there and can't be compared isn't changed")
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

func TestUnknown_saysWhatEndedTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := openFinder(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := b.Publish(ctx, "b.x", nil)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, bus.ErrUnavailable)

		// A mistake is told at once.
		began := time.Now()
		ignore := func(context.Context, *bus.Message) error { return nil }
		_, err = b.Subscribe(t.Context(), "b.*", ignore, bus.DurableGroup("no name"))
		require.ErrorIs(t, err, bus.ErrUnsupported)
		require.Zero(t, time.Since(began))

		f.mu.Lock()
		f.fails = bus.ErrForbidden
		f.mu.Unlock()
		require.ErrorIs(t, b.Publish(t.Context(), "c.x", nil), bus.ErrForbidden)
		f.mu.Lock()
		f.fails = context.DeadlineExceeded
		f.mu.Unlock()
		require.ErrorIs(t, b.Publish(t.Context(), "c.x", nil), bus.ErrUnavailable)
	})
}

func TestUnknown_whatWasKnownStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := openFinder(t)
		close(f.told)
		b.Changed()
		synctest.Wait()
		r, _ := readPattern(t, b, "b.x")
		f.told = make(chan struct{})
		b.Changed()
		synctest.Wait()
		require.ErrorContains(t, b.Publish(t.Context(), "b.x", nil), "not scripted", "it has gone to the stream")
		require.Empty(t, r.events, "nothing has ended")
		require.Empty(t, f.finds)

		// Who can't ask whether T has come to capture more goes on with what is known.
		f.mu.Lock()
		f.fails = bus.ErrUnavailable
		f.mu.Unlock()
		require.NoError(t, b.Publish(t.Context(), "c.x", nil))
	})
}

// plain hides Find.
type plain struct{ driver.Backend }

func TestUnknown_withoutFindEverythingElseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &finder{told: make(chan struct{})}
		f.epoch, f.first = "one", 1
		f.config = bus.StreamConfig{Name: "S", Subjects: []string{"a.>"}}
		f.listens = map[driver.Sink]string{}
		b, err := driver.New(t.Context(), plain{f}, driver.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
		require.ErrorIs(t, b.Publish(t.Context(), "c.x", nil), bus.ErrUnavailable)
		close(f.told)
		require.NoError(t, b.Publish(t.Context(), "c.x", nil))
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

// late is a backend that doesn't answer so many times.
type late struct {
	scripted
	silent int
	asked  int
}

func (l *late) Streams(ctx context.Context) ([]driver.Stream, error) {
	if l.asked++; l.asked <= l.silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.scripted.Streams(ctx)
}

func TestNew_asksAgainWhoDoesntAnswerInTime(t *testing.T) {
	for _, row := range []struct {
		silent, asked int
		opens         bool
	}{
		{0, 1, true},
		{2, 3, true},
		{3, 3, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &late{silent: row.silent}
			l.listens = map[driver.Sink]string{}
			b, err := driver.New(t.Context(), l, driver.Config{})
			require.Equal(t, row.asked, l.asked)
			if !row.opens {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				return
			}
			require.NoError(t, err)
			require.NoError(t, b.Close(context.Background()))
		})
	}
}

// While servers are away, every publish that fails may say that something has changed.
func TestChanged_isAskedOnceForAllAndFailsAloudOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		var asked atomic.Int32
		s := scripted{before: func(ctx context.Context, call string) error {
			if call != "Streams" || !away.Load() {
				return nil
			}
			asked.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}}
		var log bytes.Buffer
		b := open(t, &s, bus.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		away.Store(true)
		for range 2 {
			for range 1000 {
				b.Changed()
			}
			synctest.Wait() // until the first ones are asked for
		}
		require.EqualValues(t, 1, asked.Load())
		time.Sleep(time.Minute) // of a bubble
		synctest.Wait()
		require.EqualValues(t, 2, asked.Load(), "those who came meanwhile know what the first ones didn't")
		require.Equal(t, 2, strings.Count(log.String(), "can't learn what the streams capture"), log.String())

		away.Store(false)
		r, _ := read(t, b)
		s.recreate("two")
		s.store("new")
		b.Changed()
		r.want(t, "gap", "new")
	})
}
