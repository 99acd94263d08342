package natsbus_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// served is a store that others reach while it is open.
type served struct {
	dir, addr string
	open      bus.Bus
	clients   []bus.Bus
}

var sole = bus.StreamConfig{Name: "S", Subjects: []string{"a"}}

func serveStore(t *testing.T, dir string) *served {
	t.Helper()
	s := &served{dir: filepath.Join(dir, "store"), addr: fmt.Sprint("127.0.0.1:", freePort(t))}
	s.start(t)
	require.NoError(t, s.open.EnsureStreams(t.Context(), sole))
	return s
}

func (s *served) start(t *testing.T, opts ...bus.OpenOption) {
	t.Helper()
	var err error
	s.open, err = bus.Open(t.Context(), "nats:"+s.dir+"?listen="+s.addr, opts...)
	require.NoError(t, err)
	open := s.open
	t.Cleanup(func() { _ = open.Close(context.Background()) }) // the tests close it, unless they fail
}

func (s *served) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, s.open.Close(context.Background()))
}

func (s *served) client(t *testing.T) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), "nats://"+s.addr)
	require.NoError(t, err)
	s.clients = append(s.clients, b)
	return b
}

// end closes the clients before their server.
func (s *served) end(t *testing.T) {
	t.Helper()
	for _, b := range append(s.clients, s.open) {
		require.NoError(t, b.Close(context.Background()))
	}
}

// publish publishes n messages and returns where the last one stands.
func publish(t *testing.T, b bus.Bus, n int) bus.Cursor {
	t.Helper()
	var r bus.Receipt
	for range n {
		require.NoError(t, b.Publish(t.Context(), "a", []byte("x"), bus.WithReceipt(&r)))
	}
	return r.Cursor
}

// putBack has the store hold what a copy of it holds, without the end that was stored since. It is stopped.
func (s *served) putBack(t *testing.T, backup string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(s.dir))
	require.NoError(t, os.CopyFS(s.dir, os.DirFS(backup)))
	require.NoError(t, os.Remove(filepath.Join(s.dir, "jitney.lives"))) // as docs/operate.md says
}

// lose has the store lose its end: ten messages are left of twenty. It returns where the last one stood.
func (s *served) lose(t *testing.T) bus.Cursor {
	t.Helper()
	backup := filepath.Join(t.TempDir(), "backup")
	publish(t, s.open, 10)
	s.stop(t)
	require.NoError(t, os.CopyFS(backup, os.DirFS(s.dir)))
	s.start(t)
	c := publish(t, s.open, 10)
	s.stop(t)
	s.putBack(t, backup)
	return c
}

func requireAgreed(t *testing.T, buses ...bus.Bus) (epoch string) {
	t.Helper()
	for _, b := range buses {
		eventually(t, func() bool { return b.(bus.HealthChecker).Health(t.Context()) == nil }, "the server")
	}
	for _, by := range buses {
		c := publish(t, by, 1)
		for _, b := range buses {
			var got collector
			require.NoError(t, b.Publish(t.Context(), "a", []byte("next"), bus.ExpectLast(c)), "its cursor is the other one's, too")
			c = publish(t, by, 1)
			sub, err := b.Subscribe(t.Context(), "a", got.handle, bus.After(c), bus.OnError(got.hook))
			require.NoError(t, err)
			c = publish(t, by, 1)
			eventually(t, func() bool { return len(got.texts()) == 1 }, "the next message")
			require.Zero(t, got.told(bus.ErrGap))
			require.NoError(t, sub.Unsubscribe(t.Context()))
			require.True(t, epoch == "" || epoch == c.Epoch(), "one epoch for all")
			epoch = c.Epoch()
		}
	}
	return epoch
}

func TestLives_aClientThatResumesIsToldWhatTheServerHasLost(t *testing.T) {
	s := serveStore(t, t.TempDir())
	stays := s.client(t)
	var live collector
	_, err := stays.Subscribe(t.Context(), "a", live.handle, bus.OnError(live.hook))
	require.NoError(t, err)
	c := s.lose(t)
	require.Zero(t, live.told(bus.ErrGap), "the store was only opened again")
	before := len(live.texts())
	require.LessOrEqual(t, before, 20)
	s.start(t)
	publish(t, s.open, 15)

	var got collector
	_, err = s.client(t).Subscribe(t.Context(), "a", got.handle, bus.After(c), bus.OnError(got.hook))
	require.NoError(t, err)
	eventually(t, func() bool { return len(got.texts()) == 10+15 }, "all messages")
	require.Equal(t, 1, got.told(bus.ErrGap), "without it ten messages would be missed in silence")
	eventually(t, func() bool { return live.told(bus.ErrGap) == 1 && len(live.texts()) == before+10+15 }, "the same of a client that has stayed")
	epoch := requireAgreed(t, s.open, stays, s.client(t))
	require.NotEqual(t, c.Epoch(), epoch)

	s.stop(t)
	s.start(t)
	require.Equal(t, epoch, requireAgreed(t, s.open, stays), "after a clean stop it is the same")
	s.end(t)
}

func TestLives_clientsSeeTheEpochWhateverTheyDoToTheStream(t *testing.T) {
	s := serveStore(t, t.TempDir())
	s.lose(t)
	s.start(t)
	client := s.client(t)
	epoch := requireAgreed(t, s.open, client)
	require.Contains(t, epoch, "-")
	limited := sole
	for i, b := range []bus.Bus{s.open, client} {
		limited.MaxMsgs = int64(1000 + i)
		require.NoError(t, b.EnsureStreams(t.Context(), limited))
		require.Equal(t, epoch, requireAgreed(t, s.open, client), "EnsureStreams leaves it")
	}

	_, js := raw(t, "nats://"+s.addr)
	told := func() (string, string) {
		stream, err := js.Stream(t.Context(), "S")
		require.NoError(t, err)
		info := stream.CachedInfo()
		return info.Config.Metadata["jitney-life"], info.Config.Metadata["color"]
	}
	life, _ := told()
	require.NotEmpty(t, life)
	_, err := js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"a"}, AllowDirect: true, Metadata: map[string]string{"color": "blue"}})
	require.NoError(t, err)
	eventually(t, func() bool { again, color := told(); return again == life && color == "blue" }, "what an operator's config has left out")
	require.Equal(t, epoch, requireAgreed(t, s.open, client))

	require.NoError(t, js.DeleteStream(t.Context(), "S"))
	require.NoError(t, client.EnsureStreams(t.Context(), sole))
	eventually(t, func() bool { return s.open.EnsureStreams(t.Context(), sole) == nil }, "the new stream")
	fresh := requireAgreed(t, s.open, client)
	require.NotContains(t, fresh, "-", "a stream that was made again has lost nothing")

	require.NoError(t, js.DeleteStream(t.Context(), "S"))
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"a"}, AllowDirect: true, Metadata: map[string]string{"jitney-life": life}})
	require.NoError(t, err)
	eventually(t, func() bool {
		var r bus.Receipt
		return client.Publish(t.Context(), "a", nil, bus.WithReceipt(&r)) == nil && r.Cursor.Epoch() != fresh && r.Cursor.Epoch() != ""
	}, "the stream that was made of the old one's config")
	requireAgreed(t, s.open, client)
	s.end(t)
}

// loseInPlace has a store that is open, and looks for damage each second, lose the newest messages of its small stream.
func loseInPlace(t *testing.T, dir string, b bus.Bus) {
	t.Helper()
	files := blockFiles(t, dir)
	harmWhileOpen(t, dir, 10)
	require.NoError(t, os.Remove(files[len(files)-1]))
	eventually(t, func() bool {
		err := b.(bus.HealthChecker).Health(t.Context())
		return err != nil && strings.Contains(err.Error(), "messages of stream SMALL from 10 to 10")
	}, "Health, which names the message")
}

func smallReceipt(t *testing.T, b bus.Bus) bus.Cursor {
	t.Helper()
	var r bus.Receipt
	whileServersStart(t, func() error { return b.Publish(t.Context(), "small.1", make([]byte, 200), bus.WithReceipt(&r)) })
	return r.Cursor
}

func TestLives_aStoreThatIsMendedInPlaceIsAnotherEpochToAll(t *testing.T) {
	for _, listens := range []bool{false, true} {
		t.Run(fmt.Sprint("listens=", listens), func(t *testing.T) {
			dir := t.TempDir()
			filled(t, dir)
			url, addr := "nats:"+dir+"?scrub=1s", fmt.Sprint("127.0.0.1:", freePort(t))
			if listens {
				url += "&listen=" + addr
			}
			own := openURL(t, url, bus.WithLogger(slog.New(slog.DiscardHandler)))
			buses := []bus.Bus{own}
			if listens {
				buses = append(buses, openURL(t, "nats://"+addr))
			}
			before := smallReceipt(t, own)
			loseInPlace(t, dir, own)
			for _, b := range buses {
				for began := time.Now(); smallReceipt(t, b).Epoch() == before.Epoch(); {
					require.Less(t, time.Since(began), 20*time.Second, "another epoch")
				}
				require.Equal(t, smallReceipt(t, own).Epoch(), smallReceipt(t, b).Epoch())
			}
		})
	}
}
