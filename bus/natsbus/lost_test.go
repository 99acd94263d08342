package natsbus_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// elsewhere is a server that can be ended, and started again on another store.
type elsewhere struct {
	options server.Options
	running *server.Server
	url     string
}

func newElsewhere(t *testing.T, o server.Options) *elsewhere {
	t.Helper()
	s := &elsewhere{options: o}
	s.options.Port = freePort(t)
	s.start(t, t.TempDir())
	s.url = s.running.ClientURL()
	return s
}

func (s *elsewhere) start(t *testing.T, dir string) {
	t.Helper()
	s.options.StoreDir = dir
	s.running = startServerWith(t, s.options)
}

// dir is where the running server has its store, or the one that has ended had.
func (s *elsewhere) dir() string { return s.options.StoreDir }

func (s *elsewhere) end() {
	s.running.Shutdown()
	s.running.WaitForShutdown()
}

func publishSome(t *testing.T, b bus.Bus, text string, n int) (last bus.Receipt) {
	t.Helper()
	for i := range n {
		require.NoError(t, b.Publish(t.Context(), "task", fmt.Append(nil, text, i), bus.WithReceipt(&last)))
	}
	return last
}

// lose has ten messages published, and then the server started on a store that doesn't have them; in their place somebody else has
// published as many as since says by the time that b is connected again.
func (s *elsewhere) lose(t *testing.T, b bus.Bus, since int, got ...*collector) (last bus.Receipt) {
	t.Helper()
	ctx, older := t.Context(), t.TempDir()
	s.end()
	require.NoError(t, os.CopyFS(older, os.DirFS(s.dir())))
	s.start(t, s.dir())
	eventually(t, healthy(b), "the server again")
	for _, c := range got {
		require.Never(t, func() bool { return c.told(bus.ErrGap) > 0 }, 3*time.Second, 50*time.Millisecond, "nothing is lost")
	}
	last = publishSome(t, b, "lost", 10)
	for _, c := range got {
		eventually(t, func() bool { return slices.Contains(c.texts(), "lost9") }, "all of it")
	}
	s.end()
	if since > 0 {
		port := s.options.Port
		s.options.Port = freePort(t)
		s.start(t, older)
		other, err := bus.Open(ctx, s.running.ClientURL(), quietly(t))
		require.NoError(t, err)
		publishSome(t, other, "since", since)
		require.NoError(t, other.Close(ctx))
		s.end()
		s.options.Port = port
	}
	s.start(t, older)
	eventually(t, healthy(b), "the server again")
	return last
}

// A server elsewhere that has lost the end of a stream, in a crash or since an older copy was put back, doesn't know it.
func TestElsewhere_theLostEndOfAStreamIsToldByWhoHadIt(t *testing.T) {
	for _, row := range []struct {
		name  string
		since int
		group bool // nobody has subscribed otherwise
	}{
		{"shorter than before", 0, false}, {"as long as before", 10, false}, {"longer than before", 15, false},
		{"of a group, shorter", 0, true}, {"of a group, longer", 15, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel() // most of it waits
			ctx := t.Context()
			s := newElsewhere(t, server.Options{})
			b := openURL(t, s.url, quietly(t))
			require.NoError(t, b.EnsureStreams(ctx, task))
			var got collector
			opts := []bus.SubscribeOption{bus.OnError(got.hook)}
			if row.group {
				opts = append(opts, bus.DurableGroup("workers"), bus.Attempts(0))
			}
			_, err := b.Subscribe(ctx, "task", got.handle, opts...)
			require.NoError(t, err)
			publishSome(t, b, "kept", 10)
			last := s.lose(t, b, row.since, &got)
			eventually(t, func() bool { return got.told(bus.ErrGap) == 1 }, "the gap")
			publishSome(t, b, "next", 5)
			eventually(t, func() bool { return slices.Contains(got.texts(), "next4") }, "what comes then")
			for i := range row.since {
				require.Contains(t, got.texts(), fmt.Sprint("since", i), "it has sequences that were given before")
			}
			s.end() // while the stream may be shorter than it was
			s.start(t, s.dir())
			eventually(t, healthy(b), "the server again")
			require.Never(t, func() bool { return got.told(bus.ErrGap) > 1 }, 3*time.Second, 50*time.Millisecond, "it is one loss")

			later := openURL(t, s.url)
			var resumed collector
			_, err = later.Subscribe(ctx, "task", resumed.handle, bus.After(last.Cursor), bus.OnError(resumed.hook))
			require.NoError(t, err)
			require.Equal(t, 1, resumed.told(bus.ErrGap))
			require.Equal(t, "kept0", resumed.texts()[0])
		})
	}
}

func TestElsewhere_aLostEndThatCantBeToldToOthersIsToldToTheHook(t *testing.T) {
	deny := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.UPDATE.>"}}}
	s := newElsewhere(t, server.Options{Users: []*server.User{{Username: "any", Password: "any"}, {Username: "user", Password: "user", Permissions: deny}}})
	with := func(user string) string {
		return "nats://" + user + ":" + user + "@" + s.running.Addr().(*net.TCPAddr).String()
	}
	admin := openURL(t, with("any"), quietly(t))
	require.NoError(t, admin.EnsureStreams(t.Context(), task))
	require.NoError(t, admin.Close(context.Background()))
	var hook, got collector
	b := openURL(t, with("user"), quietly(t), bus.OnError(hook.hook))
	_, err := b.Subscribe(t.Context(), "task", got.handle, bus.OnError(got.hook))
	require.NoError(t, err)
	publishSome(t, b, "kept", 10)
	s.lose(t, b, 0, &got)
	eventually(t, func() bool { return hook.told(bus.ErrGap) == 1 }, "it")
	require.ErrorIs(t, hook.problems[0].Err, bus.ErrForbidden)
	require.Never(t, func() bool { return hook.told(bus.ErrGap) > 1 }, 3*time.Second, 50*time.Millisecond, "once")
}
