package natsbus_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// numbered makes messages, the same every time.
func numbered(n int) []*bus.Message {
	var messages []*bus.Message
	for i := range n {
		messages = append(messages, &bus.Message{Subject: fmt.Sprintf("chat.%d", i%7), Data: fmt.Append(nil, i)})
	}
	return messages
}

// batched reports how many of a stream's messages came in atomic batches.
func batched(t *testing.T, url string, upTo uint64) (n int) {
	t.Helper()
	_, js := raw(t, url)
	stream, err := js.Stream(t.Context(), "CHAT")
	require.NoError(t, err)
	for seq := uint64(1); seq <= upTo; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		require.NoError(t, err)
		if m.Header.Get("Nats-Batch-Id") != "" {
			n++
		}
	}
	return n
}

func TestAppend_goesByAtomicBatchesThatTheServerTakes(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	b := openURL(t, s.ClientURL())
	unlimited := chat
	unlimited.MaxMsgs = 0
	require.NoError(t, b.EnsureStreams(t.Context(), unlimited))
	cursors, err := b.(bus.Appender).Append(t.Context(), "CHAT", bus.Cursor{}, numbered(2500)...)
	require.NoError(t, err)
	require.Len(t, cursors, 2500)
	require.EqualValues(t, 2500, cursors[2499].Sequence())
	require.Equal(t, 2500, batched(t, s.ClientURL(), 2500))
	var got collector
	sub, err := b.Subscribe(t.Context(), "chat.>", got.handle, bus.All())
	require.NoError(t, err)
	require.NoError(t, sub.Unsubscribe(t.Context()))
	for i, m := range got.messages {
		require.Equal(t, fmt.Sprint(i), string(m.Data))
		require.Nil(t, m.Header)
	}
	require.NoError(t, b.EnsureStreams(t.Context(), unlimited), "nothing has changed that a config says")
	cursors, err = b.(bus.Appender).Append(t.Context(), "CHAT", cursors[2499], numbered(1)...)
	require.NoError(t, err)
	require.EqualValues(t, 2501, cursors[0].Sequence())
}

func TestAppend_goesOneByOneWhereTheServerTakesNoBatches(t *testing.T) {
	o := server.Options{Port: -1, StoreDir: t.TempDir()}
	o.JetStreamLimits.MaxBatchSize = 1
	s := startServerWith(t, o)
	b := openURL(t, s.ClientURL())
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	cursors, err := b.(bus.Appender).Append(t.Context(), "CHAT", bus.Cursor{}, numbered(20)...)
	require.NoError(t, err)
	require.Len(t, cursors, 20)
	require.Zero(t, batched(t, s.ClientURL(), 20))
	_, err = b.(bus.Appender).Append(t.Context(), "CHAT", cursors[18], numbered(20)...)
	require.ErrorIs(t, err, bus.ErrConflict)
}

func TestAppend_saysWhichMessageOfABatchTheServerRefuses(t *testing.T) {
	permissions := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"chat.secret"}}}
	s := startServerWith(t, server.Options{Port: -1, StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "guest", Password: "guest", Permissions: permissions},
	}})
	url := "nats://guest:guest@" + s.Addr().String()
	_, js := raw(t, url)
	b := openURL(t, url, bus.OnError(func(bus.Problem) {}))
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	stream, err := js.Stream(t.Context(), "CHAT")
	require.NoError(t, err)
	limited := stream.CachedInfo().Config
	limited.MaxMsgSize = 1000 // an operator's
	_, err = js.UpdateStream(t.Context(), limited)
	require.NoError(t, err)

	var end bus.Cursor
	for _, refused := range []struct {
		change func(m *bus.Message)
		want   error
	}{
		{func(m *bus.Message) { m.Data = make([]byte, 2000) }, bus.ErrTooLarge},
		{func(m *bus.Message) { m.Subject = "chat.secret" }, bus.ErrForbidden},
	} {
		for _, at := range []int{0, 4, 9} {
			messages := numbered(10)
			refused.change(messages[at])
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			cursors, err := b.(bus.Appender).Append(ctx, "CHAT", end, messages...)
			cancel()
			require.ErrorIs(t, err, refused.want)
			require.ErrorContains(t, err, messages[at].Subject)
			require.NotErrorIs(t, err, bus.ErrUnknownOutcome)
			require.Len(t, cursors, at)
			if at > 0 {
				end = cursors[at-1]
			}
		}
	}
	require.EqualValues(t, 26, end.Sequence())
}
