package filebus_test

import (
	"testing"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest"
	_ "github.com/jitney-go/jitney/examples/filebus"
)

func TestConformance(t *testing.T) {
	bustest.Run(t, bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) { return bus.Open(e.Context(), "file:"+e.Dir, e.Options...) },
		Claims: []bustest.Ability{
			bustest.Headers, bustest.Streams, bustest.Groups, bustest.TotalOrder,
			bustest.Durable, bustest.DurableIDs, bustest.CrashSafe, bustest.Locking,
		},
	})
}
