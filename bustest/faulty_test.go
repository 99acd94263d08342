package bustest

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/bustest/internal/faulty"
	"github.com/stretchr/testify/require"
)

// wrappedChecks are checks that must notice a fault, whatever the bus below it.
var wrappedChecks = map[faulty.Fault][]string{
	faulty.Duplicate: {"NoSurplus", "FanOut", "OverlapOnce", "FIFO", "StreamOrder", "ReplayAllThenLive", "HandoverNoGap"},
	faulty.Drop:      {"FIFO", "Burst", "StreamOrder", "SlowCatchesUp", "ReplayAllThenLive", "HandoverNoGap"},
	faulty.Reorder:   {"FIFO", "FIFOPerPublisher", "CrossSubject", "StreamOrder", "HandoverNoGap"},
	faulty.Late:      {"Fence"},
	faulty.Unready:   {"ReadyOnReturn", "ReplayAllThenLive", "SubscribeWaits"},
	faulty.Room:      {"KeepAndAppend", "ReplayIsolation"},
	faulty.Alias:     {"PublisherBuffer", "ReadYourWrites"},
}

func TestChecks_noticeFaultsOfRealBuses(t *testing.T) {
	for name, open := range map[string]func(e *Env) (bus.Bus, error){
		"membus":  func(e *Env) (bus.Bus, error) { return membus.Open(0, e.Options...) },
		"natsbus": func(e *Env) (bus.Bus, error) { return natsbus.Open(e.Context(), e.Dir, e.Options...) },
	} {
		harness := func(f faulty.Fault, check string) Harness {
			return Harness{
				Open: func(e *Env) (bus.Bus, error) {
					b, err := open(e)
					if err != nil {
						return nil, err
					}
					return faulty.Wrap(b, f), nil
				},
				Claims: []Ability{Headers, Streams, TotalOrder},
				Match:  regexp.MustCompile("^" + check + "$"),
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all []string
			for f, checks := range wrappedChecks {
				for _, check := range checks {
					h := harness(f, check)
					h.Patience = time.Second
					res, ok := Examine(t.Context(), h).Result(check)
					require.True(t, ok, check)
					require.Equal(t, Failed, res.Status, "%s survives %s", f, check)
					t.Logf("%-10s %-18s failed in %v", f, check, res.Duration.Round(time.Millisecond))
					all = append(all, check)
				}
			}
			slices.Sort(all)
			for _, check := range slices.Compact(all) {
				res, _ := Examine(t.Context(), harness(faulty.None, check)).Result(check)
				require.Equal(t, Passed, res.Status, "%s, without a fault: %s", check, res.Reason)
			}
		})
	}
}
