package bustest_test

import (
	"context"
	"fmt"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bustest"
)

// What a bus can do whose harness one hasn't written.
func ExampleProbe() {
	trial, err := bustest.Probe(context.Background(), bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) { return membus.Open(0, e.Options...) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range trial.Findings {
		if f.Ability == bustest.Durable || f.Ability == bustest.PayloadLimit {
			fmt.Printf("%s: %t, %s\n", f.Ability, f.Has, f.Why)
		}
	}
	// Output:
	// PayloadLimit: true, 1048576 bytes are accepted, one more is ErrTooLarge
	// Durable: false, a stream is gone after Close and Open
}
