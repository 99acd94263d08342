package bustest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest"
	"github.com/jitney-go/jitney/bustest/internal/refbus"
)

// harness opens the backend and says what it can do.
var harness = bustest.Harness{
	Open: func(e *bustest.Env) (bus.Bus, error) {
		return refbus.Open(refbus.Config{Dir: e.Dir, NoGroups: true, NoDurableGroups: true}, e.Options...) // or bus.Open(e.Context(), "mine:"+e.Dir, e.Options...)
	},
	Claims: []bustest.Ability{
		bustest.Headers, bustest.Streams, bustest.Durable, bustest.CrashSafe, bustest.Locking,
	},
}

// The whole conformance test of a backend.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestConformance(t *testing.T)
		bustest.Run(t, harness)
	}
}

// Without a testing.T, and with results to look at.
func ExampleExamine() {
	report := bustest.Examine(context.Background(), harness)
	fmt.Println("failures:", report.Err())
	kill, _ := report.Result("Kill")
	fmt.Printf("%s: %s, %s\n", kill.Check.Name, kill.Status, kill.Reason)
	fmt.Println("all checks reported:", len(report.Results) == len(bustest.Checks()))
	// Output:
	// failures: <nil>
	// Kill: not claimed, the harness has no Child, which starts the process that it needs
	// all checks reported: true
}
