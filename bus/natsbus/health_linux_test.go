package natsbus_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

func TestFullDisk_ofAMemberIsSaidAndARestartBringsItBack(t *testing.T) {
	ctx := t.Context()
	dir := smallDisk(t, 64<<20)
	d := &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	var config natsbus.Config
	buses := openMembers(t, func(i int, c *natsbus.Config) {
		if i == 0 {
			c.Dir = d.store()
			config = *c
		}
	})
	for _, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, task)) // otherwise it learns within a second what is captured
	}
	requireHealthy(t, buses...)
	d.fill(t, 4<<20)
	var p acknowledged
	write := func(b bus.Bus) {
		t.Helper()
		err := b.Publish(ctx, "task", fmt.Appendf(nil, "%d %s", p.next, strings.Repeat("x", 32<<10)))
		if err == nil {
			p.acked = append(p.acked, p.next)
		} else { // an election may take longer on a busy machine
			require.True(t, errors.Is(err, bus.ErrUnavailable) || errors.Is(err, bus.ErrUnknownOutcome), err)
		}
		p.next++
	}
	sick := buses[0].(bus.HealthChecker)
	var said error
	for began := time.Now(); said == nil || !strings.Contains(said.Error(), "can't be written to"); said = sick.Health(ctx) {
		require.Less(t, time.Since(began), clusterPatience, "Health says only: %v", said)
		write(buses[1])
	}
	t.Logf("%d acknowledged: %v", len(p.acked), said)
	require.ErrorIs(t, said, bus.ErrUnavailable)
	require.ErrorContains(t, said, d.store())
	require.ErrorContains(t, said, "no space left")
	require.ErrorContains(t, said, "make room or mend the disk, and restart this member")
	requireHealthy(t, buses[1:]...)
	for _, b := range buses {
		for have := len(p.acked); len(p.acked) < have+10; {
			write(b) // the others have the stream, also for this one
		}
	}

	d.free(t)
	require.ErrorContains(t, sick.Health(ctx), "there is room now: restart this member")
	require.NoError(t, buses[0].Close(ctx))
	again := reopen(t, config)
	requireHealthy(t, again, buses[1], buses[2])
	// It is one of the two that are enough again.
	require.NoError(t, buses[1].Close(ctx))
	for have := len(p.acked); len(p.acked) < have+10; {
		write(again)
	}
	p.requireHeld(t, again, "task")
	p.requireHeld(t, buses[2], "task")
}
