package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// logged is a slog.Handler that keeps what it is given.
type logged struct {
	mu    sync.Mutex
	lines []slog.Record
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, r)
	return nil
}

// has reports whether a line of a level begins so and holds the text.
func (l *logged) has(level slog.Level, begins, holds string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.lines {
		if r.Level == level && strings.HasPrefix(r.Message, begins) && strings.Contains(r.Message, holds) {
			return true
		}
	}
	return false
}

func TestLog_hasWhatTheServerSaysAtItsLevel(t *testing.T) {
	out, restore := standardOutput(t)
	var log logged
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	b, err := bus.Open(t.Context(), "nats:"+t.TempDir()+"?listen="+addr+"&token=geheim", bus.WithLogger(slog.New(&log)))
	require.NoError(t, err)
	require.True(t, log.has(slog.LevelDebug, "nats-server: ", "Listening for client connections on "+addr), "a notice")
	nc, err := nats.Connect("nats://geheim@" + addr)
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.Publish("$JS.API.STREAM.CREATE.X", []byte("{ is no JSON")))
	eventually(t, func() bool { return log.has(slog.LevelWarn, "nats-server: ", "Invalid JetStream request") }, "a warning")
	_, err = nats.Connect("nats://falsch@" + addr)
	require.ErrorIs(t, err, nats.ErrAuthorization)
	eventually(t, func() bool { return log.has(slog.LevelError, "nats-server: ", "authentication error") }, "an error")
	require.NoError(t, b.Close(t.Context()))
	for _, r := range log.lines {
		require.NotContains(t, r.Message, "geheim")
	}
	restore()
	require.Empty(t, out(), "nothing goes past the logger")
}

func TestLog_hidesSecretsInURLsAndNothingElse(t *testing.T) {
	var log logged
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	b, err := bus.Open(t.Context(), "nats:"+t.TempDir()+"?listen="+addr+"&token=s%3F", bus.WithLogger(slog.New(&log)))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	nc, err := nats.Connect("nats://"+addr, nats.Token("s?"))
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.Publish("$JS.API.STREAM.CREATE.X", []byte(`{"is? nats://s?@h, nats://s%3F@h, nats://u:s%3F@h": 1}`))) // the server repeats it
	eventually(t, func() bool {
		return log.has(slog.LevelWarn, "nats-server: ", "is? nats://xxxxx@h, nats://xxxxx@h, nats://u:xxxxx@h")
	}, "only what is a secret is hidden")
}

// standardOutput catches what is written to standard output and error, and returns it when that is restored.
func standardOutput(t *testing.T) (out func() string, restore func()) {
	t.Helper()
	stdout, stderr := os.Stdout, os.Stderr
	f, err := os.CreateTemp(t.TempDir(), "out")
	require.NoError(t, err)
	os.Stdout, os.Stderr = f, f
	restore = func() { os.Stdout, os.Stderr = stdout, stderr }
	t.Cleanup(func() {
		restore()
		require.NoError(t, f.Close())
	})
	return func() string {
		text, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		return string(text)
	}, restore
}

// measured is a bus.Metrics that keeps what it is told.
type measured struct {
	mu                    sync.Mutex
	published, handled    []string
	age                   time.Duration
	dropped               uint64
	subscriptions, opened int
}

func (m *measured) Published(stream string, bytes int, took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.published = append(m.published, fmt.Sprintf("%s %d %v %v", stream, bytes, took > 0, err != nil))
}

func (m *measured) Handled(stream, pattern string, age, _ time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handled = append(m.handled, fmt.Sprintf("%s %s %v", stream, pattern, err != nil))
	m.age = max(m.age, age)
}

func (m *measured) Dropped(_ string, messages uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropped += messages
}

func (m *measured) Subscriptions(change int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subscriptions += change
	m.opened += max(0, change)
}

func TestMetrics_areToldOfEverything(t *testing.T) {
	var m measured
	b, err := bus.Open(t.Context(), "nats:"+t.TempDir(), bus.WithMetrics(&m), bus.OnError(func(bus.Problem) {}))
	require.NoError(t, err)
	defer b.Close(context.Background())
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	_, err = b.Subscribe(t.Context(), "chat.*", func(_ context.Context, m *bus.Message) error {
		if len(m.Data) == 0 {
			return errors.New("no")
		}
		return nil
	})
	require.NoError(t, err)
	inside, wake := make(chan struct{}), make(chan struct{})
	slow, err := b.Subscribe(t.Context(), "note", func(_ context.Context, m *bus.Message) error {
		if string(m.Data) == "sleep" {
			close(inside)
			<-wake
		}
		return nil
	}, bus.Buffer(1, 1<<10))
	require.NoError(t, err)
	require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("hello")))
	require.NoError(t, b.Publish(t.Context(), "chat.Go", nil))
	require.NoError(t, b.Publish(t.Context(), "note", []byte("sleep")))
	<-inside
	for range 100 {
		require.NoError(t, b.Publish(t.Context(), "note", []byte("x")))
	}
	close(wake)
	require.Error(t, b.Publish(t.Context(), "a b", nil))
	require.NoError(t, b.Close(t.Context()))
	require.Equal(t, "CHAT 5 true false", m.published[0])
	require.Equal(t, " 0 true true", m.published[len(m.published)-1])
	require.Len(t, m.published, 104)
	require.Contains(t, m.handled, "CHAT chat.* false")
	require.Contains(t, m.handled, "CHAT chat.* true")
	require.Positive(t, m.age, "from when the server has stored it")
	require.Less(t, m.age, time.Minute)
	require.Positive(t, m.dropped)
	require.Equal(t, slow.Dropped(), m.dropped)
	require.Equal(t, 2, m.opened)
	require.Zero(t, m.subscriptions)
}

// What is accepted before Close reaches those who are elsewhere, also when the server itself goes.
func TestClose_flushesWhatWasAcceptedToOtherProcesses(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	for round := range 10 {
		addr := fmt.Sprint("127.0.0.1:", freePort(t))
		for kind, urls := range map[string][2]string{
			"elsewhere": {s.ClientURL(), s.ClientURL()},
			"embedded":  {"nats:" + t.TempDir() + "?listen=" + addr, "nats://" + addr},
		} {
			b, err := bus.Open(t.Context(), urls[0])
			require.NoError(t, err)
			nc, err := nats.Connect(urls[1])
			require.NoError(t, err)
			sub, err := nc.SubscribeSync("note.*")
			require.NoError(t, err)
			require.NoError(t, sub.SetPendingLimits(-1, -1))
			require.NoError(t, nc.Flush())
			handler := make(chan struct{})
			var handled bool
			_, err = b.Subscribe(t.Context(), "own", func(ctx context.Context, _ *bus.Message) error {
				handler <- struct{}{}
				err := b.Publish(ctx, "note.last", nil) // of a handler that Close waits for
				handled = err == nil
				return err
			})
			require.NoError(t, err)
			const n = 2000
			data := make([]byte, 1<<10)
			for range n {
				require.NoError(t, b.Publish(t.Context(), "note.a", data))
			}
			require.NoError(t, b.Publish(t.Context(), "own", nil))
			<-handler
			require.NoError(t, b.Close(t.Context()))
			require.True(t, handled, "the handler has finished")
			for i := range n + 1 {
				m, err := sub.NextMsg(5 * time.Second)
				require.NoError(t, err, "%s, round %d: message %d of %d", kind, round, i+1, n+1)
				require.Equal(t, i == n, m.Subject == "note.last")
			}
			nc.Close()
		}
	}
}
