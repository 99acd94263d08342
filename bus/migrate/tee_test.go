package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
)

// hook remembers what it is told.
type hook struct {
	mu  sync.Mutex
	all []bus.Problem
}

func (h *hook) tell(p bus.Problem) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, p)
}

func (h *hook) problems() []bus.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]bus.Problem{}, h.all...)
}

func openMem(t *testing.T) bus.Bus {
	t.Helper()
	b, err := membus.Open(0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

var chat = bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}

// inBubble calls f with a Tee of two buses in memory, the new one behind what can fail.
func inBubble(t *testing.T, cfg migrate.TeeConfig, f func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, fault *faulty, told *hook)) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := openMem(t), openMem(t)
		fault, told := &faulty{Bus: fresh}, &hook{}
		cfg.OnError = told.tell
		tee, err := migrate.NewTee(t.Context(), old, fault, cfg)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, tee.Close(context.Background())) })
		require.NoError(t, tee.EnsureStreams(t.Context(), chat))
		require.NoError(t, tee.Flush(t.Context()))
		f(t, tee, old, fresh, fault, told)
	})
}

// stored returns subject=data of all that a pattern has stored.
func stored(t *testing.T, b bus.Bus, pattern string) []string {
	t.Helper()
	var texts []string
	sub, err := b.Subscribe(t.Context(), pattern, func(_ context.Context, m *bus.Message) error {
		texts = append(texts, m.Subject+"="+string(m.Data))
		return nil
	}, bus.All())
	require.NoError(t, err)
	require.NoError(t, sub.Unsubscribe(t.Context()))
	return texts
}

func numbered(subject string, from, to int) []string {
	var texts []string
	for i := from; i <= to; i++ {
		texts = append(texts, fmt.Sprintf("%s=%d", subject, i))
	}
	return texts
}

func publishNumbers(t *testing.T, b bus.Bus, subject string, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		require.NoError(t, b.Publish(t.Context(), subject, fmt.Append(nil, i)))
	}
}

func TestTee_writesBothAndReadsTheOld(t *testing.T) {
	inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, _ *faulty, told *hook) {
		var got, gotFresh []string
		_, err := tee.Subscribe(t.Context(), "live.*", func(_ context.Context, m *bus.Message) error {
			got = append(got, string(m.Data)+m.Header.Value("K"))
			return nil
		})
		require.NoError(t, err)
		_, err = fresh.Subscribe(t.Context(), "live.*", func(_ context.Context, m *bus.Message) error {
			gotFresh = append(gotFresh, string(m.Data)+m.Header.Value("K"))
			return nil
		})
		require.NoError(t, err)
		publishNumbers(t, tee, "chat.a", 1, 50)
		data := []byte("x")
		require.NoError(t, tee.Publish(t.Context(), "live.a", data, bus.WithHeader("K", "v")))
		data[0] = 'y' // it is the caller's again
		require.NoError(t, tee.Flush(t.Context()))
		synctest.Wait()

		require.Equal(t, numbered("chat.a", 1, 50), stored(t, old, "chat.>"))
		require.Equal(t, numbered("chat.a", 1, 50), stored(t, fresh, "chat.>"))
		require.Equal(t, []string{"xv"}, got)
		require.Equal(t, []string{"xv"}, gotFresh)
		require.NoError(t, fresh.Publish(t.Context(), "live.a", []byte("only at the new")))
		synctest.Wait()
		require.Len(t, got, 1)
		require.Equal(t, migrate.TeeStats{Written: 51}, tee.Stats())
		require.Empty(t, told.problems())
	})
}

// holding is a bus whose Publish of some data returns late.
type holding struct {
	bus.Bus
	data   string
	stored chan struct{}
	hold   chan struct{}
}

func (h *holding) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	err := h.Bus.Publish(ctx, subject, data, opts...)
	if string(data) == h.data {
		close(h.stored)
		<-h.hold
	}
	return err
}

func (h *holding) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	return h.Bus.(bus.StreamLister).Streams(ctx)
}

func TestTee_keepsTheStreamsOrderOfConcurrentPublishers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &holding{Bus: openMem(t), data: "1", stored: make(chan struct{}), hold: make(chan struct{})}
		fresh := openMem(t)
		require.NoError(t, old.EnsureStreams(t.Context(), chat))
		require.NoError(t, fresh.EnsureStreams(t.Context(), chat))
		tee, err := migrate.NewTee(t.Context(), old, fresh, migrate.TeeConfig{})
		require.NoError(t, err)
		first := make(chan error)
		go func() { first <- tee.Publish(t.Context(), "chat.a", []byte("1")) }()
		<-old.stored
		publishNumbers(t, tee, "chat.a", 2, 5) // stored behind it, answered before it
		synctest.Wait()
		require.Empty(t, stored(t, fresh, "chat.a"))
		flushed := make(chan error)
		go func() { flushed <- tee.Flush(t.Context()) }()
		close(old.hold)
		require.NoError(t, <-first)
		require.NoError(t, <-flushed)
		require.Equal(t, numbered("chat.a", 1, 5), stored(t, fresh, "chat.a"))

		var publishers sync.WaitGroup
		for p := range 8 {
			publishers.Go(func() { publishNumbers(t, tee, "chat.b", 1000+p*1000, 1000+p*1000+99) })
		}
		publishers.Wait()
		require.NoError(t, tee.Flush(t.Context()))
		require.Len(t, stored(t, old, "chat.b"), 800)
		require.Equal(t, stored(t, old, "chat.b"), stored(t, fresh, "chat.b"))
		require.NoError(t, tee.Close(t.Context()))
	})
}

func TestTee_givesTheNewBusWhatItMissedWhileItWasDown(t *testing.T) {
	for name, fault := range map[string]struct {
		err   error
		hangs bool
	}{"refuses": {err: bus.ErrUnavailable}, "hangs": {hangs: true}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, f *faulty, told *hook) {
				publishNumbers(t, tee, "chat.a", 1, 10)
				require.NoError(t, tee.Flush(t.Context()))
				f.is(fault.err, fault.hangs)
				began := time.Now()
				publishNumbers(t, tee, "chat.a", 11, 1000)
				require.Zero(t, time.Since(began), "a publish has waited for the new bus")
				<-time.After(time.Minute) // of the bubble's clock
				require.Equal(t, numbered("chat.a", 1, 10), stored(t, fresh, "chat.a"))
				f.is(nil, false)
				require.NoError(t, tee.Flush(t.Context()))
				require.Equal(t, numbered("chat.a", 1, 1000), stored(t, fresh, "chat.a"))
				require.Equal(t, migrate.TeeStats{Written: 1000}, tee.Stats())
				require.Len(t, told.problems(), 1)
				require.Contains(t, told.problems()[0].Err.Error(), "tried again")
			})
		})
	}
}

// forgetful stores what is published and says that it doesn't know.
type forgetful struct {
	bus.Bus
	calls int
}

func (f *forgetful) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	err := f.Bus.Publish(ctx, subject, data, opts...)
	if f.calls++; err == nil && f.calls%2 == 1 {
		return fmt.Errorf("%w: %w", bus.ErrUnknownOutcome, bus.ErrUnavailable)
	}
	return err
}

func TestTee_storesOnceWhatTheNewBusIsntSureOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh, told := openMem(t), &forgetful{Bus: openMem(t)}, &hook{}
		tee, err := migrate.NewTee(t.Context(), old, fresh, migrate.TeeConfig{OnError: told.tell})
		require.NoError(t, err)
		require.NoError(t, tee.EnsureStreams(t.Context(), chat))
		publishNumbers(t, tee, "chat.a", 1, 20)
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, numbered("chat.a", 1, 20), stored(t, fresh, "chat.a"))
		require.Equal(t, migrate.TeeStats{Written: 20}, tee.Stats())

		// What no stream holds can't be given twice.
		require.NoError(t, tee.Publish(t.Context(), "live.a", nil))
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, migrate.TeeStats{Written: 20, Lost: 1}, tee.Stats())
		require.NoError(t, tee.Close(t.Context()))
		last := told.problems()[len(told.problems())-1]
		require.ErrorIs(t, last.Err, bus.ErrUnknownOutcome)
		require.Equal(t, "live.a", last.Subject)
	})
}

func TestTee_tellsAndCountsWhatFindsNoRoom(t *testing.T) {
	inBubble(t, migrate.TeeConfig{MaxMsgs: 100}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, f *faulty, told *hook) {
		f.is(bus.ErrUnavailable, false)
		publishNumbers(t, tee, "chat.a", 1, 1)
		synctest.Wait() // it is known to fail
		began := time.Now()
		publishNumbers(t, tee, "chat.a", 2, 150)
		require.Zero(t, time.Since(began), "a publish has waited for a bus that fails")
		require.Equal(t, migrate.TeeStats{Lost: 50, Waiting: 100}, tee.Stats())
		f.is(nil, false)
		require.NoError(t, tee.Flush(t.Context()))
		synctest.Wait()
		require.Equal(t, numbered("chat.a", 1, 150), stored(t, old, "chat.a"))
		require.Equal(t, numbered("chat.a", 1, 100), stored(t, fresh, "chat.a"))
		require.Equal(t, migrate.TeeStats{Written: 100, Lost: 50}, tee.Stats())
		var dropped uint64
		for _, p := range told.problems() {
			if slow, ok := errors.AsType[*bus.SlowError](p.Err); ok {
				dropped += slow.Dropped
				require.Equal(t, "chat.a", p.Subject)
				require.False(t, p.Cursor.IsZero())
			}
		}
		require.EqualValues(t, 50, dropped)
	})
}

func TestTee_boundsWhatWaitsInBytes(t *testing.T) {
	inBubble(t, migrate.TeeConfig{MaxBytes: 1000, Wait: -1}, func(t *testing.T, tee *migrate.Tee, _, _ bus.Bus, f *faulty, _ *hook) {
		f.is(bus.ErrUnavailable, false)
		for range 5 {
			require.NoError(t, tee.Publish(t.Context(), "chat.a", make([]byte, 300)))
		}
		require.Equal(t, migrate.TeeStats{Lost: 2, Waiting: 3}, tee.Stats())
		f.is(nil, false)
		require.NoError(t, tee.Flush(t.Context()))
		require.NoError(t, tee.Publish(t.Context(), "chat.a", make([]byte, 5000))) // one message always fits
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, migrate.TeeStats{Written: 4, Lost: 2}, tee.Stats())
	})
}

func TestTee_aFlushTakesNoRoom(t *testing.T) {
	inBubble(t, migrate.TeeConfig{MaxMsgs: 2, Wait: -1}, func(t *testing.T, tee *migrate.Tee, _, _ bus.Bus, f *faulty, _ *hook) {
		f.is(bus.ErrUnavailable, false)
		publishNumbers(t, tee, "chat.a", 1, 1)
		flushed := make(chan error, 1)
		go func() { flushed <- tee.Flush(t.Context()) }()
		synctest.Wait()
		publishNumbers(t, tee, "chat.a", 2, 2)
		require.Equal(t, migrate.TeeStats{Waiting: 2}, tee.Stats())
		f.is(nil, false)
		require.NoError(t, <-flushed)
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, migrate.TeeStats{Written: 2}, tee.Stats())
	})
}

func TestTee_waitsForASlowNewBusOnlySoLong(t *testing.T) {
	inBubble(t, migrate.TeeConfig{MaxMsgs: 2, Wait: 100 * time.Millisecond}, func(t *testing.T, tee *migrate.Tee, _, _ bus.Bus, f *faulty, _ *hook) {
		f.is(nil, true) // until its timeout it is only slow
		publishNumbers(t, tee, "chat.a", 1, 2)
		began := time.Now()
		publishNumbers(t, tee, "chat.a", 3, 3)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		began = time.Now()
		require.ErrorIs(t, tee.Publish(ctx, "chat.a", nil), context.DeadlineExceeded)
		require.Equal(t, 10*time.Millisecond, time.Since(began))
		f.is(nil, false)
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, migrate.TeeStats{Written: 2, Lost: 1}, tee.Stats())
	})
}

func TestTee_returnsTheOldBusResultWithAnyOption(t *testing.T) {
	inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, f *faulty, told *hook) {
		ctx := t.Context()
		publishNumbers(t, fresh, "chat.other", 1, 3) // so that cursors differ
		var first, second, again bus.Receipt
		require.NoError(t, tee.Publish(ctx, "chat.a", []byte("1"), bus.MessageID("id-1"), bus.WithReceipt(&first)))
		require.NoError(t, tee.Publish(ctx, "chat.a", []byte("2"), bus.ExpectLast(first.Cursor), bus.WithReceipt(&second)))
		require.ErrorIs(t, tee.Publish(ctx, "chat.a", []byte("no"), bus.ExpectLast(first.Cursor)), bus.ErrConflict)
		require.ErrorIs(t, tee.Publish(ctx, "chat.a", []byte("no"), bus.ExpectNone()), bus.ErrConflict)
		require.NoError(t, tee.Publish(ctx, "chat.a", []byte("1"), bus.MessageID("id-1"), bus.WithReceipt(&again)))
		require.True(t, again.Duplicate)
		require.Equal(t, first.Cursor, again.Cursor)
		require.ErrorIs(t, tee.Publish(ctx, "chat.*", nil), bus.ErrBadSubject)
		require.ErrorIs(t, tee.Publish(ctx, "live.a", nil, bus.MessageID("x")), bus.ErrNoStream)
		require.ErrorIs(t, tee.Publish(ctx, "chat.a", make([]byte, 2<<20)), bus.ErrTooLarge)
		require.NoError(t, tee.Flush(ctx))
		require.Equal(t, []string{"chat.a=1", "chat.a=2"}, stored(t, old, "chat.a"))
		require.Equal(t, []string{"chat.a=1", "chat.a=2"}, stored(t, fresh, "chat.a"))
		require.Empty(t, told.problems())

		// A publish whose copy was lost is made good by its repetition.
		f.is(bus.ErrForbidden, false)
		require.NoError(t, tee.Publish(ctx, "chat.a", []byte("3"), bus.MessageID("id-3")))
		require.NoError(t, tee.Flush(ctx))
		f.is(nil, false)
		require.NoError(t, tee.Publish(ctx, "chat.a", []byte("3"), bus.MessageID("id-3")))
		require.NoError(t, tee.Flush(ctx))
		require.Equal(t, numbered("chat.a", 1, 3), stored(t, old, "chat.a"))
		require.Equal(t, numbered("chat.a", 1, 3), stored(t, fresh, "chat.a"))
		synctest.Wait()
		require.Len(t, told.problems(), 1)
		require.ErrorIs(t, told.problems()[0].Err, bus.ErrForbidden)
	})
}

func TestTee_givesGroupsTheOldBusOnly(t *testing.T) {
	inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, _, fresh bus.Bus, _ *faulty, told *hook) {
		ctx := t.Context()
		got := map[string]int{}
		var mu sync.Mutex
		for range 3 {
			_, err := tee.Subscribe(ctx, "chat.>", func(_ context.Context, m *bus.Message) error {
				mu.Lock()
				defer mu.Unlock()
				got[string(m.Data)]++
				return nil
			}, bus.DurableGroup("workers"), bus.Attempts(0))
			require.NoError(t, err)
		}
		publishNumbers(t, tee, "chat.a", 1, 3)
		require.NoError(t, tee.Flush(ctx))
		synctest.Wait()
		require.Equal(t, map[string]int{"1": 1, "2": 1, "3": 1}, got)
		// The new bus knows no such group: there it begins where its first subscription says.
		var there []string
		_, err := fresh.Subscribe(ctx, "chat.>", func(_ context.Context, m *bus.Message) error {
			there = append(there, string(m.Data))
			return nil
		}, bus.DurableGroup("workers"), bus.Attempts(0), bus.All())
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []string{"1", "2", "3"}, there)
		require.Empty(t, told.problems())
	})
}

func TestTee_tellsOfStreamsThatTheNewBusLacks(t *testing.T) {
	inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, _ *faulty, told *hook) {
		require.NoError(t, fresh.(bus.Remover).RemoveStream(t.Context(), "CHAT"))
		publishNumbers(t, tee, "chat.a", 1, 1)
		require.NoError(t, tee.Flush(t.Context()))
		synctest.Wait()
		require.Len(t, told.problems(), 1)
		require.ErrorIs(t, told.problems()[0].Err, bus.ErrNoStream)
		require.NoError(t, tee.RemoveStream(t.Context(), "CHAT"))
		publishNumbers(t, tee, "chat.a", 2, 2) // no stream's any more
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, migrate.TeeStats{Written: 1, Lost: 1}, tee.Stats())
	})
}

func TestTee_closeGivesTheNewBusWhatWaitsAndTellsTheRest(t *testing.T) {
	for name, down := range map[string]bool{"up": false, "down": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old, told := openMem(t), &hook{}
				log := &recorder{}
				f := &faulty{Bus: log}
				tee, err := migrate.NewTee(t.Context(), old, f, migrate.TeeConfig{OnError: told.tell})
				require.NoError(t, err)
				f.is(bus.ErrUnavailable, false)
				publishNumbers(t, tee, "live.a", 1, 20)
				f.is(map[bool]error{true: bus.ErrUnavailable}[down], false)
				began := time.Now()
				require.NoError(t, tee.Close(context.Background()))
				require.LessOrEqual(t, time.Since(began), 5*time.Second)
				require.True(t, log.closed)
				require.ErrorIs(t, tee.Publish(context.Background(), "live.a", nil), bus.ErrClosed)
				require.NoError(t, tee.Close(context.Background()))
				if !down {
					require.Equal(t, numbered("live.a", 1, 20), log.texts)
					return
				}
				require.Empty(t, log.texts)
				require.Equal(t, migrate.TeeStats{Lost: 20}, tee.Stats())
				last := told.problems()[len(told.problems())-1]
				require.True(t, strings.Contains(last.Err.Error(), "20 messages were not written"), last.Err)
			})
		})
	}
}

// recorder is a bus that remembers what was published.
type recorder struct {
	bus.Bus
	texts  []string
	closed bool
}

func (r *recorder) Publish(_ context.Context, subject string, data []byte, _ ...bus.PublishOption) error {
	r.texts = append(r.texts, subject+"="+string(data))
	return nil
}

func (r *recorder) Close(context.Context) error {
	r.closed = true
	return nil
}

func TestTee_survivesAnOldBusThatStopsInTheMiddle(t *testing.T) {
	inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, _ *faulty, told *hook) {
		publishNumbers(t, tee, "chat.a", 1, 10)
		require.NoError(t, old.Close(t.Context()))
		require.ErrorIs(t, tee.Publish(t.Context(), "chat.a", []byte("11")), bus.ErrClosed)
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, numbered("chat.a", 1, 10), stored(t, fresh, "chat.a"))
		require.Empty(t, told.problems())
	})
}

func TestTee_hookMayPanicAndBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		calls := make(chan struct{}, 1000)
		tee, err := migrate.NewTee(t.Context(), openMem(t), &faulty{err: bus.ErrForbidden}, migrate.TeeConfig{OnError: func(bus.Problem) {
			calls <- struct{}{}
			<-block
			if len(calls) == 1 {
				panic("hook")
			}
		}})
		require.NoError(t, err)
		publishNumbers(t, tee, "live.a", 1, 500)
		require.NoError(t, tee.Flush(t.Context()))
		require.Equal(t, migrate.TeeStats{Lost: 500}, tee.Stats())
		close(block)
		require.NoError(t, tee.Close(t.Context()))
		// Those that were taken while it blocked, and how many were not told.
		require.GreaterOrEqual(t, len(calls), 257)
		require.Less(t, len(calls), 500)
	})
}

// traced is a bus in memory that carries the value of traceKey as a trace.
func traced(t *testing.T) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), "mem:", bus.WithPropagator(propagator{}))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

type traceKey struct{}

type propagator struct{}

func (propagator) Inject(ctx context.Context, h bus.Header) {
	if trace, ok := ctx.Value(traceKey{}).(string); ok {
		h["Traceparent"] = []string{trace}
	}
}

func (propagator) Extract(ctx context.Context, h bus.Header) context.Context {
	return context.WithValue(ctx, traceKey{}, h.Value("Traceparent"))
}

func TestTee_givesBothTheSameTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := traced(t), traced(t)
		tee, err := migrate.NewTee(t.Context(), old, fresh, migrate.TeeConfig{})
		require.NoError(t, err)
		s, err := migrate.NewShadow(t.Context(), old, fresh, migrate.ShadowConfig{Patterns: []string{"live.*"}})
		require.NoError(t, err)
		<-time.After(2 * time.Second)
		var traces []any
		_, err = fresh.Subscribe(t.Context(), "live.*", func(ctx context.Context, _ *bus.Message) error {
			traces = append(traces, ctx.Value(traceKey{}))
			return nil
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), traceKey{}, "the publisher's"))
		require.NoError(t, tee.Publish(ctx, "live.a", nil))
		cancel() // the publisher is through; the new bus may not be
		require.NoError(t, tee.Flush(t.Context()))
		r := s.Close(t.Context())
		require.EqualValues(t, 1, r.Same)
		require.NoError(t, r.Err())
		require.Equal(t, []any{"the publisher's"}, traces)
		require.NoError(t, tee.Close(t.Context()))
	})
}
