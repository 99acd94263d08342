package natsbus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

func TestPublish_saysWhichStreamHasItWhenAnotherOneHasTakenTheSubject(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	b := openURL(t, s.ClientURL())
	_, js := raw(t, s.ClientURL())
	keepStream(t, js)
	for i := range 20 {
		names := [2]string{fmt.Sprint("OLD", i), fmt.Sprint("NEW", i)}
		require.NoError(t, b.EnsureStreams(ctx, bus.StreamConfig{Name: names[0], Subjects: []string{"moving"}}))
		// Whether b has learnt of it when it publishes is left to chance.
		require.NoError(t, js.DeleteStream(ctx, names[0]))
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: names[1], Subjects: []string{"moving"}})
		require.NoError(t, err)
		var receipt bus.Receipt
		require.NoError(t, b.Publish(ctx, "moving", nil, bus.WithReceipt(&receipt)))
		streams, err := b.(bus.StreamLister).Streams(ctx)
		require.NoError(t, err)
		require.Len(t, streams, 2) // by name
		require.Equal(t, names[1], streams[1].Config.Name)
		require.Equal(t, streams[1].Last, receipt.Cursor)
		require.ErrorIs(t, b.Publish(ctx, "moving", nil, bus.ExpectNone()), bus.ErrConflict)
		require.NoError(t, b.Publish(ctx, "moving", nil, bus.ExpectLast(receipt.Cursor)))
		require.NoError(t, js.DeleteStream(ctx, names[1]))
	}
}

func TestPublish_endsWhenTheConnectionIsLost(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	b := openURL(t, s.ClientURL())
	_, js := raw(t, s.ClientURL())
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "SILENT", Subjects: []string{"silent"}, NoAck: true})
	require.NoError(t, err)
	eventually(t, func() bool {
		streams, err := b.(bus.StreamLister).Streams(ctx)
		return err == nil && len(streams) == 1
	}, "the stream")
	outcome := make(chan error, 1)
	go func() { outcome <- b.Publish(ctx, "silent", nil) }()
	stream, err := js.Stream(ctx, "SILENT")
	require.NoError(t, err)
	eventually(t, func() bool {
		info, err := stream.Info(ctx)
		return err == nil && info.State.Msgs == 1
	}, "the message, which nobody acknowledges")
	s.Shutdown()
	select {
	case err := <-outcome:
		require.ErrorIs(t, err, bus.ErrUnknownOutcome)
		require.ErrorIs(t, err, bus.ErrUnavailable)
		require.ErrorContains(t, err, "connection was lost")
	case <-time.After(30 * time.Second):
		require.Fail(t, "the publish waits for an acknowledgement that can't come")
	}
}
