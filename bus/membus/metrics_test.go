package membus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

// ledger is a bus.Metrics that writes everything down.
type ledger struct {
	mu    sync.Mutex
	lines []string
}

func (l *ledger) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *ledger) Published(stream string, bytes int, took time.Duration, err error) {
	l.add("published %q %d %v %v", stream, bytes, took, err != nil)
}

func (l *ledger) Handled(stream, pattern string, age, took time.Duration, err error) {
	l.add("handled %q %s %v %v %v", stream, pattern, age, took, err != nil)
}

func (l *ledger) Dropped(pattern string, messages uint64) { l.add("dropped %s %d", pattern, messages) }
func (l *ledger) Subscriptions(change int)                { l.add("subscriptions %+d", change) }

func TestMetrics_areToldOfEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		b, err := membus.Open(10*time.Millisecond, bus.WithMetrics(&l), bus.OnError(func(bus.Problem) {}))
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"held.>"}}))
		_, err = b.Subscribe(t.Context(), "*.a", func(_ context.Context, m *bus.Message) error {
			<-time.After(time.Second)
			if m.Subject == "free.a" {
				return errors.New("no")
			}
			return nil
		}, bus.Buffer(1, 1<<20))
		require.NoError(t, err)
		require.NoError(t, b.Publish(t.Context(), "held.a", []byte("hello")))
		require.NoError(t, b.Publish(t.Context(), "free.a", []byte("you")))
		require.Error(t, b.Publish(t.Context(), "free a", nil))
		<-time.After(500 * time.Millisecond)
		for range 66 { // one is being handled
			require.NoError(t, b.Publish(t.Context(), "free.a", nil))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.NoError(t, b.Close(ctx))
		require.Equal(t, []string{
			`subscriptions +1`,
			`published "S" 5 0s false`,
			`published "" 3 0s false`,
			`published "" 0 0s true`,
		}, l.lines[:4])
		require.Contains(t, l.lines, `handled "S" *.a 10ms 1s false`)
		require.Contains(t, l.lines, `handled "" *.a 0s 1s true`)
		require.Contains(t, fmt.Sprint(l.lines), "dropped *.a ")
		require.Contains(t, l.lines, "subscriptions -1")
	})
}
