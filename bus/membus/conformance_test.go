package membus_test

import (
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bustest"
)

func TestConformance_instant(t *testing.T) { bustest.Run(t, harness(0)) }

func TestConformance_ticker(t *testing.T) { bustest.Run(t, harness(100*time.Millisecond)) }

func harness(tick time.Duration) bustest.Harness {
	return bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) { return membus.Open(tick, e.Options...) },
		Claims: []bustest.Ability{
			bustest.Headers, bustest.Streams, bustest.TotalOrder, bustest.Groups, bustest.DurableGroups,
		},
		MaxPayload: 1 << 20,
		Tick:       tick,
		Bubble:     true,
	}
}
