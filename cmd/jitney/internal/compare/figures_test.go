package compare

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantile_isTheNearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		sorted []time.Duration
		q      float64
		want   time.Duration
	}{
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
		{hundred[:1], 0.5, 1},
		{hundred[:1], 0.99, 1},
		{hundred[:2], 0.5, 1},
		{hundred[:3], 0.5, 2},
		{hundred[:10], 0.99, 10},
	} {
		require.Equal(t, c.want, quantile(c.sorted, c.q), "%d of them, %v", len(c.sorted), c.q)
	}
}

func TestBinOf_isTheFirstWhoseBoundIsNotExceeded(t *testing.T) {
	for d := time.Duration(1); d < time.Hour; d += d/50 + 1 {
		i := binOf(d)
		require.LessOrEqual(t, d, bound(i), d)
		if i > 0 {
			require.Greater(t, d, bound(i-1), d)
		}
	}
	require.Equal(t, time.Millisecond, bound(binOf(time.Millisecond)))
	require.Zero(t, binOf(0))
	require.Zero(t, binOf(-1))
}

func TestDistribute_countsEachOnce(t *testing.T) {
	d := distribute([]time.Duration{1000, 1001, 1100, 1122, 5000, 5000})
	require.Equal(t, distribution{P50: 1100, P99: 5000, Max: 5000, Bins: []bin{{1000, 1}, {1122, 3}, {5012, 2}}}, d)
	require.Equal(t, distribution{Bins: []bin{}}, distribute(nil))
}

func TestSchedule_isTheSameForAllAndAsFastAsAsked(t *testing.T) {
	l := load{Rooms: 5, Tabs: 10, Rate: 100, Conversation: 3 * time.Second}
	l.fill()
	list := l.schedule(l.Rate, l.Conversation)
	require.Equal(t, list, l.schedule(l.Rate, l.Conversation))
	require.Len(t, list, 300)
	rooms := map[int]int{}
	before := time.Duration(0)
	for _, u := range list {
		require.GreaterOrEqual(t, u.at, before)
		before = u.at
		rooms[u.room]++
	}
	require.Less(t, before, l.Conversation)
	require.Greater(t, before, l.Conversation*9/10)
	require.Len(t, rooms, 5)
	require.Len(t, l.schedule(l.BurstRate, l.Burst), 1000)
	require.NotEmpty(t, l.schedule(1, 100*time.Millisecond), "something is said")
}

func TestNumbers_holdEachOnce(t *testing.T) {
	var s numbers
	for _, n := range []int{0, 63, 64, 1000} {
		require.False(t, s.has(n))
		require.True(t, s.add(n))
		require.False(t, s.add(n))
		require.True(t, s.has(n))
	}
	require.False(t, s.has(1))
	require.False(t, s.has(100_000))
}

func TestUnits_haveThreeSignificantDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ns", 7: "7 ns", 999: "999 ns", 1000: "1.00 µs", 9_994: "9.99 µs", 9_996: "10.0 µs", 123_456: "123 µs", 999_499: "999 µs",
		999_500: "1.00 ms", 50_149_000: "50.1 ms", 99_960_000: "100 ms", 999_500_000: "1.00 s", 61 * time.Second: "61.0 s",
		20 * time.Minute: "1,200 s", -1500: "-1.50 µs",
	} {
		require.Equal(t, want, duration(d))
	}
	require.Equal(t, "1 ms", given(time.Millisecond))
	require.Equal(t, "1.5 s", given(1500*time.Millisecond))
	require.Equal(t, "100 ms", given(100*time.Millisecond))
	require.Equal(t, "50", rate(50))
	require.Equal(t, "1,000", rate(1000))
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		require.Equal(t, want, count(n))
	}
	for x, want := range map[float64]string{0: "0", 0.1234: "0.123", 1.005: "1.00", 99.96: "100", 171_234: "171,000", 999_999: "1,000,000"} {
		require.Equal(t, want, digits(x))
	}
	require.Equal(t, "4.25 MB", size(4_250_000))
	require.Equal(t, "1.00 MB", size(999_600))
	require.Equal(t, "1.50 GB", size(1_500_000_000))
	require.Equal(t, "95 %", percent(0.9461))
	require.Equal(t, "4.2", times(4.24))
	require.Equal(t, "240", times(240.3))
	require.Equal(t, "infinitely many", times(math.Inf(1)))
}
