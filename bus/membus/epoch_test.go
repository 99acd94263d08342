package membus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

func TestRemoveStream_receiptsAreOfTheLifeThatHasTheMessage(t *testing.T) {
	b, err := membus.Open(0)
	require.NoError(t, err)
	defer b.Close(context.Background())
	ctx := t.Context()
	cfg := bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}}
	wrong := 0
	for round := range 1000 {
		require.NoError(t, b.EnsureStreams(ctx, cfg))
		var wg sync.WaitGroup
		var mu sync.Mutex
		at := map[string]bus.Cursor{}
		for p := range 4 {
			wg.Go(func() {
				for i := range 4 {
					text := fmt.Sprint(round, ".", p, ".", i)
					var r bus.Receipt
					if err := b.Publish(ctx, "s.a", []byte(text), bus.WithReceipt(&r)); err == nil {
						mu.Lock()
						at[text] = r.Cursor
						mu.Unlock()
					}
				}
			})
		}
		require.NoError(t, b.(bus.Remover).RemoveStream(ctx, "S"))
		require.NoError(t, b.EnsureStreams(ctx, cfg))
		wg.Wait()
		sub, err := b.Subscribe(ctx, "s.a", func(_ context.Context, m *bus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if c, ok := at[string(m.Data)]; ok && c != m.Cursor {
				wrong++
			}
			return nil
		}, bus.All())
		require.NoError(t, err)
		require.NoError(t, sub.Unsubscribe(ctx))
		require.NoError(t, b.(bus.Remover).RemoveStream(ctx, "S"))
	}
	require.Zero(t, wrong)
}
