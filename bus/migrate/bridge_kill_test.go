package migrate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
	_ "github.com/jitney-go/jitney/bus/natsbus"
)

// bridgeTask makes this test binary a Bridge: source URL, destination URL, at which call it dies, "before" or "after", and
// "batches" or "singles".
const bridgeTask = "MIGRATE_TEST_BRIDGE"

// bridgeUntilKilled copies and kills itself at the publish of that number, before or after it was stored.
func bridgeUntilKilled(task string) {
	var from, to, when, how string
	var n int
	if _, err := fmt.Sscan(task, &from, &to, &n, &when, &how); err != nil {
		panic(err)
	}
	ctx := context.Background()
	source, err := bus.Open(ctx, from)
	if err != nil {
		panic(err)
	}
	destination, err := bus.Open(ctx, to)
	if err != nil {
		panic(err)
	}
	deadly := &killing{dying: dying{Bus: destination, left: n, after: when == "after"}}
	b := migrate.NewBridge(source, deadly, migrate.BridgeConfig{})
	if how == "batches" {
		b = migrate.NewBridge(source, &killingBatches{deadly}, migrate.BridgeConfig{})
	}
	if err := b.Copy(ctx); err != nil {
		panic(err)
	}
}

// killing is a destination that kills the process at a publish.
type killing struct{ dying }

func (k *killing) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	err := k.dying.Publish(ctx, subject, data, opts...)
	if k.left == 0 {
		k.die()
	}
	return err
}

func (k *killing) die() {
	self, _ := os.FindProcess(os.Getpid())
	if err := self.Kill(); err != nil {
		panic(err)
	}
	select {} // until it is dead
}

// killingBatches is one that takes many messages at once.
type killingBatches struct{ *killing }

func (k *killingBatches) Append(ctx context.Context, stream string, after bus.Cursor, messages ...*bus.Message) ([]bus.Cursor, error) {
	if k.left--; k.left == 0 && !k.after {
		k.die()
	}
	cursors, err := k.Bus.(bus.Appender).Append(ctx, stream, after, messages...)
	if k.left == 0 {
		k.die()
	}
	return cursors, err
}

// startServer starts a NATS server on a free port and returns its URL.
func startServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, SyncInterval: 10 * time.Minute,
	})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s.ClientURL()
}

func openURL(t *testing.T, url string) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

func TestBridge_killedAgainAndAgainLosesAndDoublesNothing(t *testing.T) {
	for how, each := range map[string]int{"singles": 200, "batches": 1500} {
		t.Run(how, func(t *testing.T) {
			fromURL, toURL := startServer(t), startServer(t)
			from, to := openURL(t, fromURL), openURL(t, toURL)
			ensure(t, from, mixed)
			ensure(t, to, mixed)
			published := 0
			for round := range 12 {
				fillMany(t, from, published+1, published+each) // more than is copied until the kill
				published += each
				calls, when := 1+rand.IntN(150), "before"
				if how == "batches" {
					calls = 1 + rand.IntN(2)
				}
				if round%2 == 1 {
					when = "after"
				}
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %s %s", bridgeTask, fromURL, toURL, calls, when, how))
				child.Stderr = os.Stderr
				require.NoError(t, child.Start())
				if round%4 >= 2 {
					// A kill from outside, anywhere: while it opens, reads, publishes, or when it is dead already.
					kill := time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { _ = child.Process.Kill() })
					defer kill.Stop()
				}
				require.Error(t, child.Wait(), "it was killed")
			}
			b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
			_, err := b.CutOver(t.Context())
			require.NoError(t, err)
			isMixture(t, allOf(t, to, mixed), 1, published)
		})
	}
}

func TestBridge_toNATSCursorsOfTheOldBusAreOneGap(t *testing.T) {
	from, to := openMem(t), openURL(t, "nats:"+t.TempDir())
	limited := chat
	limited.MaxMsgs = 50 // so that the streams don't begin at 1
	ensure(t, from, limited)
	publishNumbers(t, from, "chat.a", 1, 100)
	old := messages(t, from, "chat.a")
	b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
	require.NoError(t, b.Copy(t.Context()))
	publishNumbers(t, from, "chat.a", 101, 120)
	_, err := b.CutOver(t.Context())
	require.NoError(t, err)
	publishNumbers(t, to, "chat.a", 121, 125)
	for _, at := range []bus.Cursor{old[0].Cursor, old[49].Cursor, bus.NewCursor(old[0].Cursor.Epoch(), 120)} {
		told := &hook{}
		var got []string
		sub, err := to.Subscribe(t.Context(), "chat.>", func(_ context.Context, m *bus.Message) error {
			require.Len(t, told.problems(), 1, "the gap is told first")
			got = append(got, m.Subject+"="+string(m.Data))
			return nil
		}, bus.After(at), bus.OnError(told.tell))
		require.NoError(t, err)
		require.NoError(t, sub.Unsubscribe(t.Context()))
		require.Equal(t, numbered("chat.a", 76, 125), got)
		require.Len(t, told.problems(), 1)
		require.ErrorIs(t, told.problems()[0].Err, bus.ErrGap)
	}
}
