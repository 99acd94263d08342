package membus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

func number(n int) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }

func numberOf(m *bus.Message) int { return int(binary.LittleEndian.Uint64(m.Data)) }

func open(t *testing.T, opts ...bus.OpenOption) bus.Bus {
	b, err := membus.Open(0, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

// Each handler waits for the one that was subscribed after it, so that all of them must run at once.
func TestHandlers_thatWaitForEachOtherAllRun(t *testing.T) {
	for _, processors := range []int{1, runtime.GOMAXPROCS(0)} {
		was := runtime.GOMAXPROCS(processors)
		b := open(t)
		const n = 2000
		done := make([]chan struct{}, n+1)
		for i := range done {
			done[i] = make(chan struct{})
		}
		for i := range n {
			_, err := b.Subscribe(t.Context(), "a", func(context.Context, *bus.Message) error {
				<-done[i+1]
				close(done[i])
				return nil
			})
			require.NoError(t, err)
		}
		require.NoError(t, b.Publish(t.Context(), "a", nil))
		close(done[n])
		<-done[0]
		runtime.GOMAXPROCS(was)
	}
}

func TestHandlers_thatReturnQuicklyShareFewGoroutines(t *testing.T) {
	b := open(t)
	const n = 5000
	before := runtime.NumGoroutine()
	var handled sync.WaitGroup
	var most atomic.Int64
	for range n {
		_, err := b.Subscribe(t.Context(), "a", func(context.Context, *bus.Message) error {
			most.Store(max(most.Load(), int64(runtime.NumGoroutine())))
			handled.Done()
			return nil
		})
		require.NoError(t, err)
	}
	for range 20 {
		handled.Add(n)
		require.NoError(t, b.Publish(t.Context(), "a", nil))
		handled.Wait()
	}
	require.Less(t, int(most.Load())-before, 200)
}

func TestHandlers_thatEndTheirGoroutineAreCalledAgain(t *testing.T) {
	b := open(t, bus.OnError(func(bus.Problem) {}))
	var handled sync.WaitGroup
	handled.Add(300)
	for range 3 {
		_, err := b.Subscribe(t.Context(), "a", func(context.Context, *bus.Message) error {
			defer handled.Done()
			runtime.Goexit()
			return nil
		})
		require.NoError(t, err)
	}
	for range 100 {
		require.NoError(t, b.Publish(t.Context(), "a", nil))
	}
	handled.Wait()
}

func TestSlowHandler_missesTheOldestThatWaitAndIsToldBeforeTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := membus.Open(0)
		require.NoError(t, err)
		const bound = 40
		type event struct{ number, dropped int }
		var events []event
		proceed := make(chan struct{})
		sub, err := b.Subscribe(t.Context(), "a", func(_ context.Context, m *bus.Message) error {
			events = append(events, event{number: numberOf(m)})
			<-proceed
			return nil
		}, bus.Buffer(bound, 1<<20), bus.OnError(func(p bus.Problem) {
			var slow *bus.SlowError
			require.ErrorAs(t, p.Err, &slow)
			events = append(events, event{dropped: int(slow.Dropped)})
		}))
		require.NoError(t, err)
		published := 0
		publish := func(n int) {
			for range n {
				require.NoError(t, b.Publish(t.Context(), "a", number(published)))
				published++
			}
			synctest.Wait()
		}
		publish(1)     // 0 is being handled
		publish(bound) // 1 to 40 wait
		for range 3 {  // 1 to 3 are handled, the last one is being
			proceed <- struct{}{}
			synctest.Wait()
		}
		require.Zero(t, sub.Dropped())
		publish(3)
		require.Zero(t, sub.Dropped(), "there was room for as many as were handled")
		publish(5) // 4 to 8 have no room
		require.EqualValues(t, 5, sub.Dropped())
		close(proceed)
		synctest.Wait()
		want := []event{{number: 0}, {number: 1}, {number: 2}, {number: 3}, {dropped: 5}}
		for i := 9; i < published; i++ {
			want = append(want, event{number: i})
		}
		require.Equal(t, want, events)
		require.NoError(t, b.Close(t.Context()))
	})
}

func TestUnsubscribe_inAHandlerLetsNothingBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := membus.Open(0)
		require.NoError(t, err)
		var sub bus.Subscription
		var handled []int
		proceed := make(chan struct{})
		sub, err = b.Subscribe(t.Context(), "a", func(ctx context.Context, m *bus.Message) error {
			handled = append(handled, numberOf(m))
			<-proceed
			if numberOf(m) == 3 {
				return sub.Unsubscribe(ctx)
			}
			return nil
		})
		require.NoError(t, err)
		for i := range 100 {
			require.NoError(t, b.Publish(t.Context(), "a", number(i)))
		}
		close(proceed)
		<-sub.Done()
		require.Equal(t, []int{0, 1, 2, 3}, handled)
		require.NoError(t, b.Close(t.Context()))
	})
}

func TestClose_deliversWhatABusyHandlerHasBefore(t *testing.T) {
	for _, captured := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b, err := membus.Open(0)
			require.NoError(t, err)
			if captured {
				require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}}))
			}
			var handled []int
			proceed := make(chan struct{})
			_, err = b.Subscribe(t.Context(), "a", func(_ context.Context, m *bus.Message) error {
				handled = append(handled, numberOf(m))
				<-proceed
				return nil
			})
			require.NoError(t, err)
			var want []int
			for i := range 100 {
				require.NoError(t, b.Publish(t.Context(), "a", number(i)))
				want = append(want, i)
			}
			synctest.Wait()
			for range 7 { // in the middle of what the driver has taken at once
				proceed <- struct{}{}
			}
			closed := make(chan error)
			go func() { closed <- b.Close(t.Context()) }()
			synctest.Wait()
			close(proceed)
			require.NoError(t, <-closed)
			require.Equal(t, want, handled)
		})
	}
}

func TestLimits_winOverABusyHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := membus.Open(0)
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}, MaxMsgs: 10}))
		var handled []int
		proceed := make(chan struct{})
		var gaps atomic.Int64
		_, err = b.Subscribe(t.Context(), "a", func(_ context.Context, m *bus.Message) error {
			handled = append(handled, numberOf(m))
			<-proceed
			return nil
		}, bus.OnError(func(p bus.Problem) {
			var gap *bus.GapError
			if errors.As(p.Err, &gap) {
				gaps.Add(int64(gap.Missed))
			}
		}))
		require.NoError(t, err)
		for i := range 10 {
			require.NoError(t, b.Publish(t.Context(), "a", number(i)))
		}
		synctest.Wait()
		proceed <- struct{}{}
		proceed <- struct{}{}
		synctest.Wait() // 2 is being handled
		for i := range 5 {
			require.NoError(t, b.Publish(t.Context(), "a", number(10+i)))
		}
		close(proceed)
		time.Sleep(time.Second)
		require.NoError(t, b.Close(t.Context()))
		require.Equal(t, []int{0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, handled)
		require.EqualValues(t, 2, gaps.Load())
	})
}
