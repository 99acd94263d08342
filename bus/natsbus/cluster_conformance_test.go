package natsbus_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/bustest"
)

// A bus of this harness is a client of one of three members, the next one each time, and its streams have three replicas.
func TestConformance_cluster(t *testing.T) {
	t.Parallel() // most of it waits
	var urls []string
	openMembers(t, func(_ int, c *natsbus.Config) {
		c.Listen, c.Token = fmt.Sprint("127.0.0.1:", freePort(t)), "geheim"
		urls = append(urls, "nats://geheim@"+c.Listen+"?replicas=3")
	})
	var opened atomic.Int64
	bustest.Run(t, bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) {
			return bus.Open(e.Context(), urls[opened.Add(1)%3], e.Options...)
		},
		Shared: true,
		Claims: []bustest.Ability{
			bustest.Headers, bustest.Streams, bustest.Durable, bustest.Distributed, bustest.Groups, bustest.DurableGroups,
		},
	})
}
