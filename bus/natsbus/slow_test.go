package natsbus_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// inUse is how many bytes of memory are reachable.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what has a finalizer goes in the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// One subscriber sleeps while 62 MiB are published that it wants. The server is another process, so what this one
// holds is ours.
func TestSlow_oneThatSleepsCostsBoundedMemoryAndNobodyElseAnything(t *testing.T) {
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	server := serverProcess(t.TempDir(), addr)
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		require.NoError(t, server.Process.Kill())
		require.Error(t, server.Wait(), "it was killed")
	})
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		return err == nil && conn.Close() == nil
	}, "the server")

	const (
		messages = 1000
		size     = 64 << 10
		least    = 12 << 20 // what may wait, what the feed remembers (4 MiB), and what is on its way
	)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b := openURL(t, "nats://"+addr)
	require.NoError(t, b.EnsureStreams(ctx, bus.StreamConfig{Name: "HELD", Subjects: []string{"held.>"}}))
	for _, root := range []string{"held", "free"} {
		t.Run(root, func(t *testing.T) {
			subject := root + ".a"
			asleep, wake := make(chan struct{}), make(chan struct{})
			var sleeper sequence
			var told collector
			sub, err := b.Subscribe(ctx, subject, func(_ context.Context, m *bus.Message) error {
				if sleeper.add(m) == 1 {
					close(asleep)
					<-wake
				}
				return nil
			}, bus.OnError(told.hook))
			require.NoError(t, err)
			var other sequence
			_, err = b.Subscribe(ctx, subject, func(_ context.Context, m *bus.Message) error { other.add(m); return nil }, bus.Buffer(messages, messages*size))
			require.NoError(t, err)
			publish := func(n int) {
				require.NoError(t, b.Publish(ctx, subject, fmt.Appendf(make([]byte, 0, size), "%*d", size, n)))
			}
			publish(1)
			<-asleep
			before := inUse()
			for n := 2; n <= messages; n++ {
				publish(n)
			}
			eventually(t, func() bool { return other.len() == messages }, "the other one to have it all, meanwhile")
			require.Equal(t, numbers(1, messages), other.all())
			grown := inUse() - before
			t.Logf("a sleeping subscriber of %d MiB: %.1f MiB more are in use", messages*size>>20, float64(grown)/(1<<20))
			require.Less(t, grown, int64(least), "what it is to get isn't kept in memory")
			require.Equal(t, 1, sleeper.len())

			close(wake)
			if root == "held" {
				require.Eventually(t, func() bool { return sleeper.len() == messages }, time.Minute, time.Millisecond, "it catches up from the stream")
				require.Equal(t, numbers(1, messages), sleeper.all(), "without loss, in order")
				require.Zero(t, sub.Dropped())
				require.Empty(t, told.problems)
				return
			}
			eventually(t, func() bool { return uint64(sleeper.len())+sub.Dropped() == messages }, "it is told what it has lost")
			got := sleeper.all()
			require.Greater(t, len(got), 1)
			require.Equal(t, numbers(messages-len(got)+2, messages), got[1:], "the newest")
			eventually(t, func() bool { return told.dropped() == sub.Dropped() }, "the hook to be told, exactly")
		})
	}
}

// sequence are the numbers of messages.
type sequence struct {
	mu      sync.Mutex
	numbers []int
}

func (s *sequence) add(m *bus.Message) int {
	n, err := strconv.Atoi(string(bytes.TrimLeft(m.Data, " ")))
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers = append(s.numbers, n)
	return len(s.numbers)
}

func (s *sequence) all() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.numbers[:len(s.numbers):len(s.numbers)]
}

func (s *sequence) len() int { return len(s.all()) }

func numbers(from, to int) []int {
	var all []int
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}
