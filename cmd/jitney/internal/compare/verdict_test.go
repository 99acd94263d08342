package compare

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// measured are the figures of a bus: what varies in a test comes last.
func measured(name string, change ...func(f *figures)) *figures {
	of := func(p50, p99 time.Duration) *phase {
		p := &phase{
			Messages: 100, Deliveries: 1000, Renders: 500, Took: time.Second,
			Handled: distribution{P50: p50, P99: p99, Max: p99}, Rendered: distribution{P50: 2 * p50, P99: 2 * p99, Max: 2 * p99},
		}
		p.use(100 * time.Millisecond)
		return p
	}
	f := &figures{
		Bus: name, Conversation: of(time.Millisecond, 2*time.Millisecond), Burst: of(5*time.Millisecond, 20*time.Millisecond),
		Flood: of(time.Millisecond, time.Millisecond), Memory: &memory{Live: 1 << 20}, Kill: &kill{Acknowledged: 1000},
	}
	for _, c := range change {
		c(f)
	}
	return f
}

// ticks is what a ticker of 100 ms does to the latencies.
func ticks(f *figures) {
	f.Conversation.Handled = distribution{P50: 50 * time.Millisecond, P99: 99 * time.Millisecond}
	f.Burst.Rendered.P99 = 120 * time.Millisecond
	f.Kill.Lost = 1000
}

// inBurst sets what a burst costs.
func inBurst(renders int, cpu, p99 time.Duration) func(f *figures) {
	return func(f *figures) {
		f.Burst.Renders = renders
		f.Burst.use(cpu)
		f.Burst.Rendered.P99 = p99
	}
}

func TestJudge_saysWhatTheFiguresCome(t *testing.T) {
	const second = time.Second
	for name, c := range map[string]struct {
		buses   []*figures
		verdict []string // each in this order
		waiting string   // the only sentences; empty: there are none
	}{
		"a ticker that saves CPU": {
			buses: []*figures{measured("tick", ticks, inBurst(100, second/10, 120*time.Millisecond)), measured("once", inBurst(800, second/2, 40*time.Millisecond))},
			verdict: []string{
				"once delivers 50 times sooner than tick in the conversation: 1.00 ms against 50.0 ms (p50).",
				"tick and once deliver about as much in the flood: 1,000 and 1,000 per second.",
				"tick lost all of 1,000 acknowledged messages when its process was killed.",
				"once lost none of 1,000 acknowledged messages when its process was killed.",
			},
			waiting: "In the burst, where a page costs 1 ms, tick renders 8.0 times less often than once and takes 5.0 times less CPU per message; " +
				"what is said is rendered after 120 ms (p99) against 40.0 ms. It is better there if you lack CPU and nobody minds the 120 ms; else it isn't.",
		},
		"a ticker that is better in both": {
			buses: []*figures{measured("once", inBurst(800, second/2, 400*time.Millisecond)), measured("tick", ticks, inBurst(100, second/10, 120*time.Millisecond))},
			waiting: "In the burst, where a page costs 1 ms, tick renders 8.0 times less often than once and takes 5.0 times less CPU per message; " +
				"what is said is rendered after 120 ms (p99) against 400 ms. There it is the better one in both: once is busy rendering what is old already.",
		},
		"a ticker that is as soon": {
			buses: []*figures{measured("once", inBurst(800, second/2, 120*time.Millisecond)), measured("tick", ticks, inBurst(100, second/10, 120*time.Millisecond))},
			waiting: "In the burst, where a page costs 1 ms, tick renders 8.0 times less often than once and takes 5.0 times less CPU per message; " +
				"what is said is rendered after 120 ms (p99) against 120 ms. There it is the better one: it saves CPU, and shows what is said as soon.",
		},
		"a ticker that saves nothing": {
			buses: []*figures{measured("once", inBurst(500, second/2, 40*time.Millisecond)), measured("tick", ticks, inBurst(480, second/2, 120*time.Millisecond))},
			waiting: "In the burst, where a page costs 1 ms, tick renders about as often as once and takes about as much CPU per message; " +
				"what is said is rendered after 120 ms (p99) against 40.0 ms. It isn't better there: waiting saves nothing that is worth the wait.",
		},
		"a ticker that costs more": {
			buses: []*figures{measured("once", inBurst(500, second/10, 40*time.Millisecond)), measured("tick", ticks, inBurst(1000, second/2, 120*time.Millisecond))},
			waiting: "In the burst, where a page costs 1 ms, tick renders 2.0 times more often than once and takes 5.0 times more CPU per message; " +
				"what is said is rendered after 120 ms (p99) against 40.0 ms. It isn't better there: waiting saves nothing that is worth the wait.",
		},
		"a ticker that is only sooner": {
			buses: []*figures{measured("once", inBurst(500, second/10, 400*time.Millisecond)), measured("tick", ticks, inBurst(500, second/10, 120*time.Millisecond))},
			waiting: "In the burst, where a page costs 1 ms, tick renders about as often as once and takes about as much CPU per message; " +
				"what is said is rendered after 120 ms (p99) against 400 ms. There it is better: it shows what is said sooner, though it saves no CPU.",
		},
		"none waits": {
			buses: []*figures{measured("a"), measured("b", func(f *figures) {
				f.Conversation.Handled.P50 = 1100 * time.Microsecond
				f.Flood.PerSecond = 3000
				f.Elsewhere, f.Kill.Lost = true, 3
			})},
			verdict: []string{
				"a and b deliver about equally soon in the conversation: 1.00 ms and 1.10 ms (p50).",
				"b delivers 3.0 times as much as a in the flood: 3,000 per second against 1,000.",
				"a lost none of 1,000 acknowledged messages when its process was killed.",
				"b lost 3 of 1,000 acknowledged messages when the client was killed.",
			},
		},
		"one alone": {
			buses:   []*figures{measured("a")},
			verdict: []string{"a lost none of 1,000 acknowledged messages when its process was killed."},
		},
		"one that loses": {
			buses: []*figures{measured("a", func(f *figures) { f.Burst.Missing, f.Burst.Repeated = 20, 1 })},
			verdict: []string{
				"a breaks the contract: in the burst, of 1,020 deliveries 20 are missing and 1 were repeated. (jitney conformance says more.)",
				"a lost none of 1,000 acknowledged messages when its process was killed.",
			},
		},
		"one that failed": {
			buses:   []*figures{{Bus: "b", Error: "its process has ended early"}, measured("a")},
			verdict: []string{"a lost none of 1,000 acknowledged messages when its process was killed."},
		},
		"nothing that was measured": {
			buses:   []*figures{{Bus: "b", Error: "its process has ended early"}},
			verdict: []string{},
		},
	} {
		r := &report{Load: load{Render: time.Millisecond}, Buses: c.buses}
		r.judge()
		if c.verdict != nil {
			require.Equal(t, c.verdict, r.Verdict, name)
		}
		if c.waiting == "" {
			require.Empty(t, r.Waiting, name)
		} else {
			require.Equal(t, []string{c.waiting}, r.Waiting, name)
		}
		require.Equal(t, name != "one that loses" && name != "one that failed" && name != "nothing that was measured", r.sound(), name)
	}
}
