package natsbus_test

import (
	"testing"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/bustest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	bustest.Run(t, bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) { return natsbus.Open(e.Context(), e.Dir, e.Options...) },
		Claims: []bustest.Ability{
			bustest.Headers, bustest.Streams, bustest.Durable, bustest.CrashSafe, bustest.Locking, bustest.TotalOrder,
			bustest.Groups, bustest.DurableGroups,
		},
		MaxPayload: 1 << 20,
		Parallel:   true, // most of it waits
	})
}
