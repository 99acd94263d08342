package migrate_test

import (
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
	"github.com/jitney-go/jitney/bustest"
)

func TestTee_isABusWhateverTheNewOneDoes(t *testing.T) {
	for name, open := range map[string]func() (bus.Bus, error){
		"both work":       func() (bus.Bus, error) { return membus.Open(0) },
		"the new is down": func() (bus.Bus, error) { return &faulty{err: bus.ErrUnavailable}, nil },
		"the new hangs":   func() (bus.Bus, error) { return &faulty{hangs: true}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			bustest.Run(t, bustest.Harness{
				Open: func(e *bustest.Env) (bus.Bus, error) {
					old, err := membus.Open(0, e.Options...)
					if err != nil {
						return nil, err
					}
					fresh, err := open()
					if err != nil {
						return nil, err
					}
					// The suite looks for problems of the bus; those of the new one aren't.
					return migrate.NewTee(e.Context(), old, fresh, migrate.TeeConfig{
						OnError: func(bus.Problem) {}, MaxMsgs: 8, Wait: 50 * time.Millisecond, Timeout: 200 * time.Millisecond,
					})
				},
				Claims: []bustest.Ability{
					bustest.Headers, bustest.Streams, bustest.TotalOrder, bustest.Groups, bustest.DurableGroups,
				},
				MaxPayload: 1 << 20,
				Bubble:     true,
			})
		})
	}
}
