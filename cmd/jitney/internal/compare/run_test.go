package compare

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

var small = load{Rooms: 2, Tabs: 6, Rate: 50, BurstRate: 500, Conversation: 2 * time.Second, Seed: seed}

// inBubble opens the tabs on a bus in memory, where the clock is the test's and nothing takes time but waiting.
func inBubble(t *testing.T, tick time.Duration, wrap func(b bus.Bus) bus.Bus, f func(t *testing.T, c *chat)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, err := membus.Open(tick)
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), stream("S", "compare")))
		c, err := openChat(t.Context(), wrap(b), "compare", small)
		require.NoError(t, err)
		f(t, c)
		require.NoError(t, b.Close(context.Background()))
	})
}

func sound(b bus.Bus) bus.Bus { return b }

func TestMeasure_seesHowATickerWaitsAndCoalesces(t *testing.T) {
	const tick = 100 * time.Millisecond
	inBubble(t, tick, sound, func(t *testing.T, c *chat) {
		list := small.schedule(small.Rate, small.Conversation)
		p, err := c.measure(t.Context(), small.Rooms, 0, openLoop(list))
		require.NoError(t, err)
		require.Equal(t, 100, p.Messages)
		require.Equal(t, 300, p.Deliveries)
		require.Zero(t, p.Missing+p.Repeated+p.Refused)
		require.InDelta(t, tick/2, p.Handled.P50, float64(tick/4))
		require.LessOrEqual(t, p.Handled.Max, tick)
		require.LessOrEqual(t, p.Rendered.Max, tick+pace, "a page may be rendered between two handlers of a tick, and then again")
		require.LessOrEqual(t, p.Renders, 2*6*21, "six pages, at most 21 ticks")
		require.Greater(t, p.Renders, 6*10)
	})
}

func TestMeasure_seesThatPagesCoalesceByThemselves(t *testing.T) {
	inBubble(t, 0, sound, func(t *testing.T, c *chat) {
		p, err := c.measure(t.Context(), small.Rooms, 0, openLoop(small.schedule(small.BurstRate, small.Conversation)))
		require.NoError(t, err)
		require.Equal(t, 3000, p.Deliveries)
		require.Zero(t, p.Handled.Max, "at once")
		require.Equal(t, pace, p.Rendered.Max.Round(time.Millisecond))
		require.Less(t, p.Renders, 6*201, "six pages, each at most every 10 ms")
		require.Greater(t, p.Saved, 0.5)
	})
}

// mute takes messages of the load, and delivers none.
type mute struct{ bus.Bus }

func (m mute) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if strings.Contains(string(data), `"phase":0`) {
		return m.Bus.Publish(ctx, subject, data, opts...)
	}
	return nil
}

func TestMeasure_givesUpOnWhatDoesNotCome(t *testing.T) {
	inBubble(t, 0, func(b bus.Bus) bus.Bus { return mute{b} }, func(t *testing.T, c *chat) {
		began := time.Now()
		_, err := c.measure(t.Context(), small.Rooms, 0, closedLoop(2, 10, time.Second))
		require.ErrorContains(t, err, "of 30 deliveries, 30 haven't come within 1m0s; no publish failed")
		require.Equal(t, patience, time.Since(began))
	})
}
