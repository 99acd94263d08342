package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
)

// unsure is a destination that takes many messages at once and often doesn't say what has become of them.
type unsure struct {
	bus.Bus
	mu   sync.Mutex
	late []func() // what is stored later, as a network does
}

func (u *unsure) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	return u.Bus.(bus.StreamLister).Streams(ctx)
}

func (u *unsure) Append(ctx context.Context, stream string, after bus.Cursor, messages ...*bus.Message) ([]bus.Cursor, error) {
	store := func() ([]bus.Cursor, error) {
		return u.Bus.(bus.Appender).Append(context.WithoutCancel(ctx), stream, after, messages...)
	}
	unknown := fmt.Errorf("%w: %w", bus.ErrUnknownOutcome, bus.ErrUnavailable)
	u.mu.Lock()
	defer u.mu.Unlock()
	switch rand.IntN(10) {
	case 0: // it is lost
		return nil, unknown
	case 1: // its answer is lost
		if _, err := store(); err != nil {
			return nil, err
		}
		return nil, unknown
	case 2: // it comes later
		u.late = append(u.late, func() { _, _ = store() }) // nobody waits for the answer any more
		return nil, unknown
	case 3: // a part of it is stored
		messages = messages[:len(messages)/2]
		cursors, err := store()
		return cursors, errors.Join(unknown, err)
	case 4:
		for _, store := range u.late {
			store()
		}
		u.late = nil
	}
	return store()
}

func TestBridge_byBatchesLosesAndDoublesNothingWhereAnswersAreLost(t *testing.T) {
	from, to := openMem(t), openURL(t, "nats:"+t.TempDir())
	ensure(t, from, mixed)
	fill(t, from, 1, 3000)
	told := &hook{}
	b := migrate.NewBridge(from, &unsure{Bus: to}, migrate.BridgeConfig{OnError: told.tell})
	copied := make(chan error)
	go func() { copied <- b.Follow(t.Context()) }()
	for i := range 20 {
		fill(t, from, 3001+100*i, 3100+100*i)
	}
	summaries, err := b.CutOver(t.Context())
	require.NoError(t, err)
	require.NoError(t, <-copied)
	require.EqualValues(t, 5000, summaries[0].Destination.Messages)
	isMixture(t, allOf(t, to, mixed), 1, 5000)
}

func TestBridge_twoAtOnceByBatchesLoseAndDoubleNothing(t *testing.T) {
	from, to := openMem(t), openURL(t, "nats:"+t.TempDir())
	ensure(t, from, mixed)
	fill(t, from, 1, 6_000)
	ensure(t, to, mixed)
	errs := make(chan error)
	for range 2 {
		go func() { errs <- migrate.NewBridge(from, to, migrate.BridgeConfig{}).Copy(t.Context()) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			require.ErrorIs(t, err, bus.ErrConflict)
		}
	}
	b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
	require.NoError(t, b.Copy(t.Context()))
	same(t, b, 6_000)
}

func TestBridge_byBatchesNoticesWhoElsePublishesToTheDestination(t *testing.T) {
	from, to := openMem(t), openURL(t, "nats:"+t.TempDir())
	ensure(t, from, chat)
	publishNumbers(t, from, "chat.a", 1, 10)
	b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
	require.NoError(t, b.Copy(t.Context()))
	publishNumbers(t, to, "chat.elsewhere", 1, 1)
	publishNumbers(t, from, "chat.a", 11, 20)
	require.ErrorContains(t, b.Copy(t.Context()), "somebody else publishes")
	require.Len(t, messages(t, to, "chat.>"), 11)

	require.NoError(t, to.(bus.Remover).RemoveStream(t.Context(), "CHAT"))
	ensure(t, to, chat)
	require.ErrorContains(t, b.Copy(t.Context()), "was made anew")
	require.Empty(t, messages(t, to, "chat.>"))
}

func TestBridge_stopsAtWhatIsTooLargeOrLeavesItOut(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) bus.Bus{
		"batches": func(t *testing.T) bus.Bus { return openURL(t, "nats:"+t.TempDir()) }, "singles": openMem,
	} {
		t.Run(name, func(t *testing.T) {
			from, to := openURL(t, "nats:"+t.TempDir()), open(t)
			ensure(t, from, chat)
			publishNumbers(t, from, "chat.a", 1, 5)
			// It fits by itself, but not with its stamps.
			require.NoError(t, from.Publish(t.Context(), "chat.large", make([]byte, 1<<20)))
			publishNumbers(t, from, "chat.a", 6, 9)
			for range 2 {
				err := migrate.NewBridge(from, to, migrate.BridgeConfig{}).Copy(t.Context())
				require.ErrorIs(t, err, bus.ErrTooLarge)
				require.ErrorContains(t, err, `copy "chat.large" at`)
				require.Equal(t, numbered("chat.a", 1, 5), stored(t, to, "chat.>"))
			}
			told := &hook{}
			b := migrate.NewBridge(from, to, migrate.BridgeConfig{SkipTooLarge: true, OnError: told.tell})
			summaries, err := b.CutOver(t.Context())
			require.ErrorContains(t, err, "1 missing at the destination, of which 1 were left out")
			require.EqualValues(t, 1, summaries[0].TooLarge)
			require.Equal(t, numbered("chat.a", 1, 9), stored(t, to, "chat.>"))
			require.Eventually(t, func() bool { return len(told.problems()) == 1 }, 10*time.Second, time.Millisecond)
			require.Equal(t, "chat.large", told.problems()[0].Subject)
			require.ErrorIs(t, told.problems()[0].Err, bus.ErrTooLarge)
		})
	}
}

// counting is a bus that counts what its subscriptions are given.
type counting struct {
	bus.Bus
	mu              sync.Mutex
	messages, bytes int
}

func (c *counting) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	return c.Bus.(bus.StreamLister).Streams(ctx)
}

func (c *counting) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	return c.Bus.Subscribe(ctx, pattern, func(ctx context.Context, m *bus.Message) error {
		c.mu.Lock()
		c.messages++
		c.bytes += len(m.Data)
		c.mu.Unlock()
		return handler(ctx, m)
	}, opts...)
}

func TestBridge_readsNoMoreAheadThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := &counting{Bus: openMem(t)}, &faulty{Bus: openMem(t)}
		ensure(t, from, mixed)
		ensure(t, to, mixed)
		for i := range 300 {
			require.NoError(t, from.Publish(t.Context(), []string{"chat.a", "news.b", "mail"}[i%3], make([]byte, 200_000)))
		}
		b := migrate.NewBridge(from, &slowly{first: &first{Bus: to}}, migrate.BridgeConfig{OnError: func(bus.Problem) {}})
		ctx, cancel := context.WithCancel(t.Context())
		copied := make(chan error)
		go func() { copied <- b.Copy(ctx) }()
		<-time.After(10 * time.Millisecond)
		to.is(bus.ErrUnavailable, false)
		<-time.After(time.Minute)
		synctest.Wait()
		from.mu.Lock()
		require.Less(t, from.bytes, 5<<20)
		from.mu.Unlock()
		cancel()
		require.ErrorIs(t, <-copied, context.Canceled)
	})
}

func TestBridge_findsWhereToGoOnWithoutReadingTheDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), &counting{Bus: openMem(t)}
		ensure(t, from, chat)
		for i := range 5000 {
			require.NoError(t, from.Publish(t.Context(), fmt.Sprint("chat.", i), nil))
		}
		require.NoError(t, migrate.NewBridge(from, to, migrate.BridgeConfig{}).Copy(t.Context()))
		to.messages = 0
		publishNumbers(t, from, "chat.17", 1, 1)
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		require.Less(t, to.messages, 5)
		same(t, b, 5001)
	})
}

func TestBridge_copiesAnyHeader(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) bus.Bus{
		"to nats": func(t *testing.T) bus.Bus { return openURL(t, "nats:"+t.TempDir()) }, "to mem": openMem,
	} {
		t.Run(name, func(t *testing.T) {
			from, to := openMem(t), open(t)
			ensure(t, from, chat)
			began := time.Now()
			headers := []bus.Header{
				{"K": {}}, {"K": {""}}, {"K": {"", "a", "", "b"}}, {"k": {"1"}, "K": {"2"}}, {"K": {"a: b, c", "ä\t x", "\xff"}},
				{"bridge-source": {"x"}, "bridge-time": {"y"}}, {"Bridge-Source": {"junk"}}, {"Bridge-Time": {"junk"}}, {"Status": {"404"}}, nil,
			}
			for _, h := range headers {
				var opts []bus.PublishOption
				for key, values := range h {
					opts = append(opts, bus.WithHeader(key, values...))
				}
				require.NoError(t, from.Publish(t.Context(), "chat.a", nil, opts...))
			}
			b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
			require.NoError(t, b.Copy(t.Context()))
			same(t, b, len(headers))
			for i, m := range messages(t, to, "chat.a") {
				require.WithinRange(t, migrate.Original(m), began, m.Time, "%v", headers[i])
				require.NotEqual(t, migrate.Original(m), m.Time, "%v", headers[i])
				for key, values := range headers[i] {
					if key != "Bridge-Time" && len(values) > 0 {
						require.Equal(t, values, m.Header[key][:len(values)])
					}
				}
			}
		})
	}
}

// serverTask makes this test binary a NATS server: directory and port. In a process of its own it gets a real SIGKILL;
// a server that is shut down while it writes leaves goroutines of its store behind.
const serverTask = "MIGRATE_TEST_SERVER"

// serveUntilKilled tells the server's URL, and ends at the latest with the test that has started it.
func serveUntilKilled(task string) {
	var dir string
	var port int
	if _, err := fmt.Sscan(task, &dir, &port); err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true, SyncInterval: 10 * time.Minute,
	})
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		panic("the server isn't ready")
	}
	fmt.Println(s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has ended
}

func TestBridge_goesOnWhenServersComeBack(t *testing.T) {
	dirs := [2]string{t.TempDir(), t.TempDir()}
	var urls [2]string
	var stops [2]func()
	start := func(i int, port string) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", serverTask, dirs[i], port))
		cmd.Stderr = os.Stderr
		_, err := cmd.StdinPipe() // closed by Wait
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		stops[i] = sync.OnceFunc(func() {
			_ = cmd.Process.Kill() // it may have failed
			_ = cmd.Wait()
		})
		_, err = fmt.Fscan(out, &urls[i])
		require.NoError(t, err)
	}
	for i := range 2 {
		start(i, "-1")
		t.Cleanup(func() { stops[i]() }) // after the buses: without their server they would wait in Close
	}
	from, to := openURL(t, urls[0]), openURL(t, urls[1])
	ensure(t, from, mixed)
	fillMany(t, from, 1, 6_000)
	told := &hook{}
	halfway := make(chan struct{})
	b := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: told.tell, OnProgress: func(p migrate.Progress) {
		select {
		case <-halfway:
		default:
			if p.Done > 0 {
				close(halfway)
			}
		}
	}})
	copied := make(chan error)
	go func() { copied <- b.Copy(t.Context()) }()
	<-halfway
	for i := range 2 {
		_, port, err := net.SplitHostPort(strings.TrimPrefix(urls[i], "nats://"))
		require.NoError(t, err)
		stops[i]()
		start(i, port)
	}
	require.NoError(t, <-copied)
	same(t, b, 6_000)
}
