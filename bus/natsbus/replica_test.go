package natsbus_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// lag makes a server answer reads of a stream as one of its replicas would that has only the messages up to n: those of a
// stream on another server.
func lag(t *testing.T, nc *nats.Conn, js jetstream.JetStream, stream string, subjects ...string) (behind jetstream.JetStream) {
	t.Helper()
	other := startServer(t, t.TempDir(), -1)
	there, behind := raw(t, other.ClientURL())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: subjects})
	require.NoError(t, err)
	_, err = behind.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: subjects, AllowDirect: true})
	require.NoError(t, err)
	forward(t, nc, there, "$JS.API.DIRECT.GET."+stream, nil)
	return behind
}

// forward has what is asked on a subject of one server answered by another one, unless instead answers it.
func forward(t *testing.T, here, there *nats.Conn, subject string, instead func(m *nats.Msg) (answer string)) {
	t.Helper()
	_, err := here.Subscribe(subject, func(m *nats.Msg) {
		if instead != nil {
			if answer := instead(m); answer != "" {
				if err := m.Respond([]byte(answer)); err != nil {
					t.Error(err)
				}
				return
			}
		}
		inbox := there.NewInbox()
		sub, err := there.Subscribe(inbox, func(answer *nats.Msg) {
			answer.Subject, answer.Reply = m.Reply, ""
			if err := here.PublishMsg(answer); err != nil {
				t.Error(err)
			}
		})
		if err == nil {
			err = there.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: inbox, Header: m.Header, Data: m.Data})
		}
		if err != nil {
			t.Error(err, sub)
		}
	})
	require.NoError(t, err)
	require.NoError(t, here.Flush())
}

// A process that was just started has never seen the config of a stream whose leader is being elected, and the server's
// list of streams gives only its name.
func TestElsewhere_publishesNothingPastAStreamThatHasNoLeaderYet(t *testing.T) {
	there, js := raw(t, startServer(t, t.TempDir(), -1).ClientURL())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log.>"}})
	require.NoError(t, err)
	front, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	require.NoError(t, err)
	front.Start()
	require.True(t, front.ReadyForConnections(10*time.Second))
	t.Cleanup(front.Shutdown)
	here, err := nats.Connect(front.ClientURL())
	require.NoError(t, err)
	t.Cleanup(here.Close)
	var elected atomic.Bool
	forward(t, here, there, "$JS.API.>", func(m *nats.Msg) string {
		if m.Subject == "$JS.API.STREAM.LIST" && !elected.Load() {
			return `{"total": 1, "limit": 256, "streams": [], "missing": ["LOG"]}`
		}
		return ""
	})
	forward(t, here, there, "log.>", nil)

	b := openURL(t, front.ClientURL())
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	require.ErrorIs(t, b.Publish(soon(), "log.a", []byte("lost?")), bus.ErrUnavailable)
	_, err = b.Subscribe(soon(), "log.*", func(context.Context, *bus.Message) error { return nil }, bus.All())
	require.ErrorIs(t, err, bus.ErrUnavailable)
	_, err = b.(bus.StreamLister).Streams(soon())
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.NoError(t, b.Publish(t.Context(), "note.a", nil), "no stream captures it")

	published := make(chan error, 1)
	go func() { published <- b.Publish(t.Context(), "log.a", []byte("stored")) }()
	time.Sleep(300 * time.Millisecond)
	require.Empty(t, published)
	elected.Store(true)
	require.NoError(t, <-published)
	stream, err := js.Stream(t.Context(), "LOG")
	require.NoError(t, err)
	require.EqualValues(t, 1, stream.CachedInfo().State.Msgs)
	m, err := stream.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "stored", string(m.Data))
}

func TestElsewhere_aReplicaThatLagsBehindGivesNoShortReplay(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	nc, js := raw(t, s.ClientURL())
	behind := lag(t, nc, js, "LOG", "log.*")
	began := time.Now()
	var all, a []string
	var cursor bus.Cursor
	b := openURL(t, s.ClientURL())
	for i, text := range numberedTexts(100) {
		subject := []string{"log.a", "log.b"}[i%2]
		var receipt bus.Receipt
		require.NoError(t, b.Publish(ctx, subject, []byte(text), bus.WithReceipt(&receipt)))
		if i == 49 {
			cursor = receipt.Cursor
		}
		if i < 60 {
			_, err := behind.Publish(ctx, subject, []byte(text))
			require.NoError(t, err)
		}
		all = append(all, text)
		if i%2 == 0 {
			a = append(a, text)
		}
	}
	for name, c := range map[string]struct {
		pattern string
		start   bus.SubscribeOption
		want    []string
	}{
		"all":                 {"log.*", bus.All(), all},
		"all of a subject":    {"log.a", bus.All(), a},
		"last":                {"log.*", bus.Last(10), all[90:]},
		"last of a subject":   {"log.a", bus.Last(10), a[40:]},
		"last, more than all": {"log.a", bus.Last(1000), a},
		"last, as it has":     {"log.a", bus.Last(30), a[20:]},
		"after":               {"log.*", bus.After(cursor), all[50:]},
		"since":               {"log.*", bus.Since(began), all},
		"last of each":        {"log.*", bus.LastPerSubject(), all[98:]},
	} {
		var got collector
		sub, err := b.Subscribe(ctx, c.pattern, got.handle, c.start)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got.texts(), name)
		require.NoError(t, sub.Unsubscribe(ctx))
	}
	// A subject that the replica has never heard of.
	var got collector
	require.NoError(t, b.Publish(ctx, "log.new", []byte("new")))
	for _, start := range []bus.SubscribeOption{bus.All(), bus.Last(3), bus.LastPerSubject(), bus.Since(began)} {
		_, err := b.Subscribe(ctx, "log.new", got.handle, start)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"new", "new", "new", "new"}, got.texts())
	// A repetition is found where it is stored.
	require.NoError(t, b.Publish(ctx, "log.once", nil, bus.MessageID("once"), bus.ExpectNone()))
	var receipt bus.Receipt
	require.NoError(t, b.Publish(ctx, "log.once", nil, bus.MessageID("once"), bus.ExpectNone(), bus.WithReceipt(&receipt)))
	require.True(t, receipt.Duplicate)
}
