package filebus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
)

func TestBridge_movesStreamsIntoFilesAndOutOfThem(t *testing.T) {
	open := func(url string) bus.Bus {
		b, err := bus.Open(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
		return b
	}
	old, files, fresh := open("mem:"), open("file:"+t.TempDir()), open("mem:")
	require.NoError(t, old.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>", "news"}, MaxMsgs: 500}))
	for i := range 1000 {
		subject := []string{"chat.a", "news", "chat.b.c"}[i%3]
		require.NoError(t, old.Publish(t.Context(), subject, fmt.Append(nil, i), bus.WithHeader("K", fmt.Sprint(i))))
	}
	for _, hop := range [][2]bus.Bus{{old, files}, {files, fresh}} {
		for copied := range 2 { // the second one finds nothing to do
			summaries, err := migrate.NewBridge(hop[0], hop[1], migrate.BridgeConfig{}).CutOver(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 500, summaries[0].Destination.Messages)
			require.EqualValues(t, 500*(1-copied), summaries[0].Copied)
		}
	}
	n := 0
	sub, err := fresh.Subscribe(t.Context(), "chat.>", func(_ context.Context, m *bus.Message) error {
		n++
		require.Equal(t, m.Header.Value("K"), string(m.Data))
		require.Len(t, m.Header["Bridge-Source"], 2)
		return nil
	}, bus.All())
	require.NoError(t, err)
	require.NoError(t, sub.Unsubscribe(t.Context()))
	require.Equal(t, 334, n) // of the last 500, two thirds
}
