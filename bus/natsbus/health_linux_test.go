package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

func TestFullDisk_ofAMemberIsSaidAndHealsWhenThereIsRoom(t *testing.T) {
	ctx := t.Context()
	dir := smallDisk(t, 64<<20)
	d := &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	left := filepath.Join(d.store(), "jitney.door-left") // by a process that was killed
	require.NoError(t, os.MkdirAll(left, 0o700))
	require.NoError(t, os.Symlink(filepath.Join("..", "jetstream"), filepath.Join(left, "jetstream")))
	buses := openMembers(t, func(i int, c *natsbus.Config) {
		if i == 0 {
			c.Dir = d.store()
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
	require.ErrorContains(t, said, "make room or mend the disk, and this member comes back")
	require.NotContains(t, said.Error(), "room-", "the name of a file that is another one each time")
	requireHealthy(t, buses[1:]...)
	for _, b := range buses {
		for have := len(p.acked); len(p.acked) < have+10; {
			write(b) // the others have the stream, also for this one
		}
	}

	var there collector
	_, err := buses[0].Subscribe(ctx, "task", there.handle, bus.All())
	require.NoError(t, err)

	d.free(t)
	requireHealthy(t, buses...)
	// It is one of the two that are enough again.
	require.NoError(t, buses[1].Close(ctx))
	for have := len(p.acked); len(p.acked) < have+10; {
		write(buses[0])
	}
	p.requireHeld(t, buses[0], "task")
	p.requireHeld(t, buses[2], "task")
	eventually(t, func() bool { return len(there.texts()) >= len(p.acked) }, "what came before, meanwhile and since, to who was subscribed")
	require.NoError(t, buses[0].Close(ctx))
	doors, err := filepath.Glob(filepath.Join(d.store(), "jitney.door-*"))
	require.NoError(t, err)
	require.Empty(t, doors)
}

func TestFullDisk_ofAllMembersIsSaidAndHealsWhenThereIsRoom(t *testing.T) {
	ctx := t.Context()
	dir := smallDisk(t, 256<<20)
	d := &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	buses := openMembers(t, func(i int, c *natsbus.Config) { c.Dir = filepath.Join(dir, names[i]) })
	for _, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, task))
	}
	requireHealthy(t, buses...)
	d.fill(t, 12<<20)
	var ps [3]acknowledged
	var writing sync.WaitGroup
	var size atomic.Int64
	size.Store(32 << 10)
	stop := make(chan struct{})
	for i, b := range buses {
		ps[i].next = i * 1_000_000 // no two have the same
		writing.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				if err := b.Publish(ctx, "task", fmt.Appendf(nil, "%d %s", ps[i].next, strings.Repeat("x", int(size.Load())))); err == nil {
					ps[i].acked = append(ps[i].acked, ps[i].next)
				}
				cancel()
				ps[i].next++
			}
		})
	}
	stopped := sync.OnceFunc(func() { close(stop); writing.Wait() })
	defer stopped()
	// When two have found out, nothing gets to the third one any more that it could fail to write.
	var said [3]error
	require.Eventually(t, func() bool {
		full := 0
		for i, b := range buses {
			if said[i] = b.(bus.HealthChecker).Health(ctx); said[i] == nil {
				return false
			}
			if strings.Contains(said[i].Error(), "can't be written to") {
				full++
			}
		}
		return full >= 2
	}, clusterPatience, 20*time.Millisecond, "all to be unavailable, and two to say why")
	t.Log(said)
	size.Store(32) // however long they need, they don't fill it again
	d.free(t)
	requireHealthy(t, buses...)
	stopped()
	for i := range ps { // one that nothing had reached any more learns now that its disk was full
		whileServersStart(t, func() error { return ps[i].publish(t, buses[i], "task") })
		t.Logf("%d of %d acknowledged", len(ps[i].acked), ps[i].next-i*1_000_000)
	}
	requireHealthy(t, buses...)
	for _, b := range buses {
		for _, p := range ps {
			p.requireHeld(t, b, "task")
		}
	}
}

// What a member's server has left open could be written to, beside the one that takes its place.
func TestFullDisk_aMemberDoesntComeBackWhileAFileOfItsStoreIsOpen(t *testing.T) {
	ctx := t.Context()
	dir := smallDisk(t, 64<<20)
	d := &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	buses := openMembers(t, func(i int, c *natsbus.Config) {
		if i == 0 {
			c.Dir = d.store()
		}
	})
	require.NoError(t, buses[0].EnsureStreams(ctx, task))
	requireHealthy(t, buses...)
	d.fill(t, 1<<20)
	sick := buses[0].(bus.HealthChecker)
	var said error
	for began := time.Now(); said == nil || !strings.Contains(said.Error(), "can't be written to"); said = sick.Health(ctx) {
		require.Less(t, time.Since(began), clusterPatience, "Health says only: %v", said)
		_ = buses[0].Publish(ctx, "task", make([]byte, 64<<10)) // it is for the disk
	}
	left, err := os.OpenFile(filepath.Join(d.store(), "jetstream", "$SYS", "left"), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	d.free(t)
	require.Eventually(t, func() bool {
		said = sick.Health(ctx)
		require.Error(t, said)
		return strings.Contains(said.Error(), "can't be opened again yet: the server has ended, and "+left.Name()+" is open still")
	}, clusterPatience, 20*time.Millisecond, "Health says only: %v", said)
	require.NotContains(t, said.Error(), "coming back")
	require.NoError(t, buses[0].Publish(ctx, "task", nil), "by the others")
	var all collector
	_, err = buses[0].Subscribe(ctx, "task", all.handle, bus.All())
	require.NoError(t, err)
	require.NotEmpty(t, all.texts(), "what the others have")
	require.NoError(t, left.Close())
	requireHealthy(t, buses...)
	require.NoError(t, buses[0].Publish(ctx, "task", nil))
}
