package natsbus_test

import (
	"testing"
	"time"

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
	forward(t, nc, there, "$JS.API.DIRECT.GET."+stream, func(*nats.Msg) bool { return false })
	return behind
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
