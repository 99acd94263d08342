package natsbus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// fillStream stores n messages, with many on their way at a time.
func fillStream(t *testing.T, js jetstream.JetStream, subject string, n int) {
	t.Helper()
	for i := range n {
		_, err := js.PublishAsync(subject, fmt.Append(nil, i), jetstream.WithStallWait(30*time.Second))
		require.NoError(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-t.Context().Done():
		require.Fail(t, "the stream isn't filled")
	}
}

func TestScan_readsALongPastInOrderAndLeavesNoConsumer(t *testing.T) {
	for name, direct := range map[string]bool{"with direct access": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, t.TempDir(), -1)
			ctx := t.Context()
			_, js := raw(t, s.ClientURL())
			stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "LONG", Subjects: []string{"long.>"}, AllowDirect: direct})
			require.NoError(t, err)
			const n = 6000
			fillStream(t, js, "long.a", n)
			b, err := bus.Open(ctx, s.ClientURL())
			require.NoError(t, err)
			var most atomic.Int64
			done := make(chan error, 6)
			for range cap(done) {
				go func() {
					next := 0
					_, err := b.Subscribe(ctx, "long.*", func(_ context.Context, m *bus.Message) error {
						if string(m.Data) != fmt.Sprint(next) {
							return fmt.Errorf("got %s, want %d", m.Data, next)
						}
						if next++; next%2000 == 0 {
							if info, err := stream.Info(ctx); err == nil {
								most.Store(max(most.Load(), int64(info.State.Consumers)))
							}
						}
						return nil
					}, bus.All(), bus.OnError(func(p bus.Problem) { t.Error(p.Err) }))
					if err == nil && next != n {
						err = fmt.Errorf("replayed %d of %d messages", next, n)
					}
					done <- err
				}()
			}
			for range cap(done) {
				require.NoError(t, <-done)
			}
			require.LessOrEqual(t, most.Load(), int64(5), "one consumer that follows, and four that read the past")
			require.NoError(t, b.Close(ctx))
			info, err := stream.Info(ctx)
			require.NoError(t, err)
			require.Zero(t, info.State.Consumers)
		})
	}
}

func TestScan_tellsWhatLimitsTakeOnTheWay(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	_, js := raw(t, s.ClientURL())
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "LONG", Subjects: []string{"long.>"}, AllowDirect: true})
	require.NoError(t, err)
	const n = 6000
	fillStream(t, js, "long.a", n)
	b := openURL(t, s.ClientURL())
	var got collector
	_, err = b.Subscribe(ctx, "long.*", func(ctx context.Context, m *bus.Message) error {
		if len(got.texts()) == 2500 { // pages have been read ahead
			require.NoError(t, stream.Purge(ctx, jetstream.WithPurgeSequence(n-10)))
		}
		return got.handle(ctx, m)
	}, bus.After(streamCursor(t, b, 1)), bus.OnError(got.hook))
	require.NoError(t, err)
	texts := got.texts()
	require.Equal(t, fmt.Sprint(n-1), texts[len(texts)-1])
	require.Less(t, len(texts), n-1)
	require.Positive(t, got.told(bus.ErrGap), "what was purged before its turn is told")
}

// streamCursor is a place in the only stream of a bus.
func streamCursor(t *testing.T, b bus.Bus, sequence uint64) bus.Cursor {
	t.Helper()
	streams, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.Len(t, streams, 1)
	return bus.NewCursor(streams[0].Last.Epoch(), sequence)
}

func TestSubscribe_startsFromWhatTheStreamHoldsNotFromWhatTheProcessRemembers(t *testing.T) {
	ctx := t.Context()
	b := openURL(t, "nats:"+t.TempDir())
	config := bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 100}
	require.NoError(t, b.EnsureStreams(ctx, config))
	var live collector
	_, err := b.Subscribe(ctx, "chat.Go", live.handle)
	require.NoError(t, err)
	for i := range 10 {
		require.NoError(t, b.Publish(ctx, "chat.Go", fmt.Append(nil, i)))
	}
	eventually(t, func() bool { return len(live.texts()) == 10 }, "the messages, so that they are remembered")
	for _, limit := range []int64{2, 100} { // it has acted when it is gone again
		config.MaxMsgs = limit
		require.NoError(t, b.EnsureStreams(ctx, config))
	}
	for name, start := range map[string]bus.SubscribeOption{"last": bus.Last(50), "all": bus.All()} {
		var got collector
		_, err := b.Subscribe(ctx, "chat.Go", got.handle, start)
		require.NoError(t, err)
		require.Equal(t, []string{"8", "9"}, got.texts(), name)
	}
	var resumed collector
	_, err = b.Subscribe(ctx, "chat.Go", resumed.handle, bus.After(live.messages[0].Cursor), bus.OnError(resumed.hook))
	require.NoError(t, err)
	require.Equal(t, []string{"8", "9"}, resumed.texts())
	require.Equal(t, 1, resumed.told(bus.ErrGap))
}

func TestSubscribe_aProcessThatHasJustStartedJoinsLikeOneThatHasFollowed(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	b, err := bus.Open(ctx, "nats:"+dir)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	var second bus.Receipt
	for i := range 200 {
		require.NoError(t, b.Publish(ctx, fmt.Sprint("chat.", i%4), fmt.Append(nil, i), bus.WithReceipt(&second)))
	}
	require.NoError(t, b.Close(ctx))
	b = openURL(t, "nats:"+dir)
	for range 2 { // from the store, and then from what it has told
		for room := range 4 {
			var got collector
			_, err := b.Subscribe(ctx, fmt.Sprint("chat.", room), got.handle, bus.Last(3), bus.OnError(got.hook))
			require.NoError(t, err)
			require.Equal(t, []string{fmt.Sprint(188 + room), fmt.Sprint(192 + room), fmt.Sprint(196 + room)}, got.texts())
			for _, m := range got.messages {
				require.True(t, m.Replayed)
			}
			require.Empty(t, got.problems)
		}
	}
}

func TestScan_isOfOneLifeOfItsStream(t *testing.T) {
	dir := t.TempDir()
	open := func() bus.Bus {
		b, err := natsbus.Open(t.Context(), dir)
		require.NoError(t, err)
		return b
	}
	fill := func(b bus.Bus, life string) {
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "LIVES", Subjects: []string{"lives.>"}}))
		for i := range 100 {
			require.NoError(t, b.Publish(t.Context(), "lives.a", fmt.Append(nil, life, " ", i)))
		}
	}
	read := func(b bus.Bus, until context.Context, handle func(text string)) error {
		_, err := b.Subscribe(t.Context(), "lives.*", func(_ context.Context, m *bus.Message) error {
			handle(string(m.Data))
			return nil
		}, bus.All(), bus.Buffer(16, 1<<20), bus.Until(until))
		return err
	}
	b := open()
	fill(b, "first")
	require.NoError(t, b.Close(t.Context())) // what a process has seen come, it needn't read
	b = open()
	defer b.Close(context.Background())

	// A reader goes away while pages are on their way to it, and soon another one reads the same place of another life.
	until, leave := context.WithCancel(t.Context())
	got := 0
	require.Error(t, read(b, until, func(string) {
		if got++; got == 17 {
			leave()
		}
	}))
	require.NoError(t, b.(bus.Remover).RemoveStream(t.Context(), "LIVES"))
	fill(b, "second")
	var texts []string
	require.NoError(t, read(b, t.Context(), func(text string) { texts = append(texts, text) }))
	require.Len(t, texts, 100)
	for i, text := range texts {
		require.Equal(t, fmt.Sprint("second ", i), text)
	}
}
