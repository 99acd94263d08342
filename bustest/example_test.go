package bustest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bustest"
	"github.com/jitney-go/jitney/bustest/internal/refbus"
)

// The whole conformance test of a backend. Yours opens its own scheme in e.Dir, "mine:"+e.Dir, and claims
// what it can do; docs/backends.md says what each claim means.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestConformance(t *testing.T)
		bustest.Run(t, bustest.Harness{
			Open: func(e *bustest.Env) (bus.Bus, error) {
				return bus.Open(e.Context(), "mem:", e.Options...)
			},
			Claims: []bustest.Ability{
				bustest.Headers, bustest.Streams, bustest.Groups, bustest.DurableGroups, bustest.TotalOrder,
			},
			Bubble: true, // it lives in memory: waiting costs nothing
		})
	}
}

// Without a testing.T, and with results to look at.
func ExampleExamine() {
	report := bustest.Examine(context.Background(), bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) {
			return refbus.Open(refbus.Config{Dir: e.Dir, NoGroups: true, NoDurableGroups: true}, e.Options...)
		},
		Claims: []bustest.Ability{
			bustest.Headers, bustest.Streams, bustest.Durable, bustest.CrashSafe, bustest.Locking,
		},
	})
	fmt.Println("failures:", report.Err())
	kill, _ := report.Result("Kill")
	fmt.Printf("%s: %s, %s\n", kill.Check.Name, kill.Status, kill.Reason)
	fmt.Println("all checks reported:", len(report.Results) == len(bustest.Checks()))
	// Output:
	// failures: <nil>
	// Kill: not claimed, the harness has no Child, which starts the process that it needs
	// all checks reported: true
}
