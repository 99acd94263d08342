package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/bustest"
)

// several are the abilities of buses on several servers. The order of what isn't captured is that of each server.
var several = []bustest.Ability{
	bustest.Headers, bustest.Streams, bustest.Durable, bustest.Distributed, bustest.Groups, bustest.DurableGroups,
}

// ofServers are a check or two of each thing that several servers may do otherwise than one: storing, reading, changing
// streams, opening again. All of them take minutes, and many times as long under the race detector:
//
//	go test ./bus/natsbus -run 'TestConformance_(cluster|leaf|member)' -timeout 30m
var ofServers = regexp.MustCompile("^(RoundTrip|Receipt|MessageID|Expect|ReadYourWrites|ReplayAllThenLive|LastN|AfterCursor|EnsureUpdates|MaxMsgs|Reopen|Health)$")

// unlessSlow is nil, for all checks, or ofServers with -short and under the race detector.
func unlessSlow() *regexp.Regexp {
	if testing.Short() || underRace {
		return ofServers
	}
	return nil
}

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
		Shared: true, Patience: clusterPatience,
		Claims: several,
		Match:  unlessSlow(),
	})
}

// A bus of this harness is a leaf of its own.
func TestConformance_leaf(t *testing.T) {
	t.Parallel() // most of it waits
	_, leaves := startHub(t, server.Options{})
	bustest.Run(t, bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) {
			return bus.Open(e.Context(), "nats:?domain=hub&leaf="+leaves, e.Options...)
		},
		Shared: true, Patience: clusterPatience,
		Claims: several,
		Match:  unlessSlow(),
	})
}

// The first bus of each check of this harness is a member, which has just joined again; the others of the check, if any,
// are clients of another member.
func TestConformance_member(t *testing.T) {
	t.Parallel() // most of it waits
	configs := memberConfigs(t)
	configs[0].Listen, configs[0].Token = fmt.Sprint("127.0.0.1:", freePort(t)), "geheim"
	var opening sync.WaitGroup
	var buses [3]bus.Bus
	for i, c := range configs {
		opening.Go(func() {
			var err error
			if buses[i], err = c.Open(t.Context(), quietly(t)); err != nil {
				t.Error(err)
			}
		})
	}
	opening.Wait()
	t.Cleanup(func() {
		for _, b := range buses {
			if b != nil {
				require.NoError(t, b.Close(context.Background()))
			}
		}
	})
	require.False(t, t.Failed())
	require.NoError(t, buses[2].Close(t.Context()))
	bustest.Run(t, bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) {
			b, err := configs[2].Open(e.Context(), e.Options...)
			if errors.Is(err, bus.ErrLocked) { // the check's first bus is there
				return bus.Open(e.Context(), "nats://geheim@"+configs[0].Listen+"?replicas=3", e.Options...)
			}
			if err != nil {
				return nil, err
			}
			for b.(bus.HealthChecker).Health(e.Context()) != nil { // until it has what it missed
				if err := e.Context().Err(); err != nil {
					return nil, errors.Join(err, b.Close(context.Background()))
				}
			}
			return b, nil
		},
		Shared: true, Patience: clusterPatience,
		Claims: several,
		Match:  ofServers,
	})
}
