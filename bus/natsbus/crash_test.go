package natsbus_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

func TestCrash_ofMostMembersLeavesNoReplicaThatDiffersAndNobodyPassesOverAnything(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, disks := range []string{"lee", "ele", "bee", "ebe", "lle", "sss", "bes", "iee", "eoe"} {
		t.Run(disks, func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			c.restore(t, disks)
			ctx := t.Context()
			for i := range c.configs {
				c.configs[i].Listen, c.configs[i].Token = fmt.Sprint("127.0.0.1:", freePort(t)), "geheim"
			}
			var told, problems [3]collector
			opened := make(chan []bus.Bus, 1)
			go func() { opened <- c.open(t, &told, 0, 1, 2) }()
			clients := make([]bus.Bus, 3) // they needn't wait
			var readers [3]collector
			var all, late collector
			for i := range clients {
				require.Eventually(t, func() (ok bool) {
					var err error
					clients[i], err = bus.Open(ctx, "nats://"+c.configs[i].Listen+"?token=geheim", bus.OnError(problems[i].hook), quietly(t))
					return err == nil
				}, clusterPatience, 10*time.Millisecond)
				whileServersStart(t, func() error { return clients[i].EnsureStreams(ctx, chat) })
				readWhileServersStart(t, clients[i], &readers[i], bus.After(c.last))
			}
			for i, b := range clients[:2] {
				group, got := []string{"all", "late"}[i], []*collector{&all, &late}[i]
				readWhileServersStart(t, b, got, bus.DurableGroup(group), bus.Attempts(0))
			}
			after := publishAfter(t, clients...)
			require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond, "replicas to be compared")
			buses := <-opened
			require.False(t, t.Failed())
			requireHealthy(t, buses...)
			last := "the last one"
			whileServersStart(t, func() error { return clients[0].Publish(ctx, "chat.Go", []byte(last)) })
			for who, got := range map[string]*collector{"n1": &readers[0], "n2": &readers[1], "n3": &readers[2], "group all": &all, "group late": &late} {
				eventually(t, func() bool { return slices.Contains(got.texts(), last) }, who+" to have the last one")
				eventually(t, func() bool { return containsAll(got.texts(), after) }, who+" to have what was stored after the crash")
			}
			for i := range clients {
				eventually(t, func() bool { return problems[i].told(bus.ErrGap) > 0 }, names[i]+" to be told that there is a gap")
			}
			c.awaitLast(t, last)
			closeAll(t, clients...)
			closeAll(t, buses...)
			c.requireSame(t, last)
		})
	}
}

func TestCrash_ofOneMemberIsNoGapToAnybody(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, disks := range []string{"eii", "lii", "ibi"} {
		t.Run(disks, func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			c.restore(t, disks)
			var problems [3]collector
			buses := c.open(t, &problems, 0, 1, 2)
			var reader, group collector
			readWhileServersStart(t, buses[0], &reader, bus.After(c.last))
			readWhileServersStart(t, buses[1], &group, bus.DurableGroup("all"), bus.Attempts(0))
			after := publishAfter(t, buses...)
			require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond, "replicas to be compared")
			requireHealthy(t, buses...)
			for who, got := range map[string]*collector{"reader": &reader, "group": &group} {
				eventually(t, func() bool { return containsAll(got.texts(), after) }, who+" to have all")
				require.Len(t, got.texts(), afterEnd, who)
			}
			for i := range problems {
				require.Zero(t, problems[i].told(bus.ErrGap), names[i])
			}
			c.awaitLast(t, after[afterEnd-1])
			closeAll(t, buses...)
			c.requireSame(t, after...)
		})
	}
}

func TestCrash_aReplicaIsTakenAwayWithItsOwnGroupsAlone(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	buses := openMembers(t, nil)
	for _, stream := range []bus.StreamConfig{chat, work} {
		require.NoError(t, buses[0].EnsureStreams(ctx, stream))
	}
	for i, b := range buses { // each tail is a consumer, too
		require.NoError(t, b.EnsureStreams(ctx, chat, work))
		_, err := b.Subscribe(ctx, "chat.*", new(collector).handle)
		require.NoError(t, err)
		_, err = b.Subscribe(ctx, "work.*", new(collector).handle, bus.DurableGroup(fmt.Sprint("d", i)), bus.Attempts(0))
		require.NoError(t, err)
	}
	_, err := buses[0].Subscribe(ctx, "chat.*", new(collector).handle, bus.DurableGroup("all"), bus.Attempts(0))
	require.NoError(t, err)
	for _, b := range buses {
		var groups []string
		replicated := func(group string) bool {
			return strings.HasPrefix(group, "S-R3F-") || strings.HasPrefix(group, "C-R3F-")
		}
		require.Eventually(t, func() bool {
			groups = natsbus.GroupsOf(t, b, chat.Name)
			n := 0
			for _, group := range groups {
				if replicated(group) {
					n++
				}
			}
			return n == 2 // of the stream and of the durable group
		}, clusterPatience, 50*time.Millisecond)
		for _, group := range groups {
			require.Regexp(t, "^[SC]-R[13][FM]-", group)
			require.NotContains(t, natsbus.GroupsOf(t, b, work.Name), group)
		}
	}
}

func TestCrash_ofTheOnlyMemberThatHoldsAStreamIsAnotherEpoch(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	c := &crash{configs: memberConfigs(t)}
	for i := range c.configs {
		c.configs[i].Cluster.Replicas = 1
	}
	var problems [3]collector
	buses := c.open(t, &problems, 0, 1, 2)
	for _, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, chat))
	}
	var before, after collector
	_, err := buses[0].Subscribe(ctx, "chat.*", before.handle)
	require.NoError(t, err)
	require.NoError(t, buses[0].Publish(ctx, "chat.Go", []byte("before")))
	eventually(t, func() bool { return len(before.texts()) == 1 }, "the message")
	closeAll(t, buses...)
	crashed := 0
	for _, config := range c.configs {
		if storedIn(t, config.Dir, chat.Name) > 0 {
			crashed++
			require.NoError(t, os.WriteFile(filepath.Join(config.Dir, "jitney.boot"), []byte("another start"), 0o600))
		}
	}
	require.Equal(t, 1, crashed)
	buses = c.open(t, &problems, 0, 1, 2)
	_, err = buses[0].Subscribe(ctx, "chat.*", after.handle, bus.After(before.messages[0].Cursor))
	require.NoError(t, err)
	require.Eventually(t, c.settled, clusterPatience, 100*time.Millisecond)
	eventually(t, func() bool { return problems[0].told(bus.ErrGap) == 1 && slices.Contains(after.texts(), "before") }, "a gap, and all that there is")
}

// A disk may have written what came later and not what came before it.
func TestCrash_ofOneMemberThatLeavesAHoleInAReplica(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	c.restore(t, "ili")
	dir := filepath.Join(c.configs[1].Dir, "jetstream", "$G", "streams", chat.Name, "msgs")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "index.db"))) // it would tell of more
	natsbus.CutRecord(t, filepath.Join(dir, "1.blk"), 50)
	var problems [3]collector
	buses := c.open(t, &problems, 0, 1, 2)
	var reader collector
	readWhileServersStart(t, buses[1], &reader, bus.All())
	after := publishAfter(t, buses...)
	require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond, "replicas to be compared")
	requireHealthy(t, buses...)
	eventually(t, func() bool { return slices.Contains(reader.texts(), "before 50") && containsAll(reader.texts(), after) }, "all")
	c.awaitLast(t, after[afterEnd-1])
	closeAll(t, buses...)
	c.requireSame(t, append(after, "before 50")...)
}

func TestCrash_aMemberThatComesBackLateIsComparedThen(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, row := range []struct {
		disks string
		again bool // that there is a gap is told again
	}{
		{"eel", true},
		{"eee", false},
		{"eei", true}, // what the others have lost it has still
	} {
		t.Run(row.disks, func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			c.restore(t, row.disks)
			ctx := t.Context()
			var problems, late [3]collector
			buses := c.open(t, &problems, 0, 1)
			var reader, group collector
			readWhileServersStart(t, buses[0], &reader, bus.All())
			readWhileServersStart(t, buses[1], &group, bus.DurableGroup("all"), bus.Attempts(0))
			after := publishAfter(t, buses[:2]...)
			require.Eventually(t, func() bool { return settled(c.configs[:2]) }, clusterPatience, 100*time.Millisecond, "the first ones to be compared")
			before := epochOf(t, buses[0])
			buses[2] = c.open(t, &late, 2)[2]
			require.Eventually(t, func() bool { return c.settled() && (epochOf(t, buses[0]) != before) == row.again },
				2*clusterPatience, 100*time.Millisecond, "the one that is late to be compared")
			requireHealthy(t, buses...)
			last := "the last one"
			require.NoError(t, buses[2].Publish(ctx, "chat.Go", []byte(last)))
			eventually(t, func() bool { return slices.Contains(reader.texts(), last) && containsAll(reader.texts(), after) }, "the reader to have all")
			eventually(t, func() bool { return slices.Contains(group.texts(), last) && containsAll(group.texts(), after) }, "the group to have all")
			c.awaitLast(t, last)
			closeAll(t, buses...)
			c.requireSame(t, last)
		})
	}
}

// What is acknowledged meanwhile stays.
func TestCrash_membersMayBeKilledWhileReplicasAreMadeAnew(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, disks := range []string{"lel", "ebe"} {
		t.Run(disks, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t, "")
			c := &crash{early: c.early, late: c.late}
			for _, name := range names {
				c.configs = append(c.configs, natsbus.Config{Dir: filepath.Join(m.dir, name)})
			}
			c.restore(t, disks)
			for _, name := range names {
				m.start(name)
			}
			conns := make([]*nats.Conn, 3)
			for i, name := range names {
				m.procs[name].await(t, "open", 1)
				var err error
				conns[i], err = nats.Connect(fmt.Sprint("127.0.0.1:", m.ports[name+" clients"]), nats.Token("geheim"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
				require.NoError(t, err)
				defer conns[i].Close()
			}
			var acked []string
			publish := func(text string) bool {
				for _, nc := range conns {
					answer, err := nc.Request("chat.Go", []byte(text), time.Second)
					if err == nil && bytes.Contains(answer.Data, []byte(`"seq"`)) {
						acked = append(acked, text)
						return true
					}
				}
				return false
			}
			number := 0
			for range 4 {
				for until := time.Now().Add(time.Duration(1+rand.IntN(6000)) * time.Millisecond); time.Now().Before(until); {
					publish(fmt.Sprint("after ", number))
					number++
					time.Sleep(20 * time.Millisecond)
				}
				name := names[rand.IntN(len(names))]
				m.procs[name].kill()
				m.start(name)
			}
			for _, name := range names {
				m.procs[name].await(t, "open", 1)
			}
			require.Eventually(t, c.settled, 3*clusterPatience, 100*time.Millisecond, "replicas to be compared")
			require.Eventually(t, func() bool { return publish("the last one") }, clusterPatience, 100*time.Millisecond)
			for _, name := range names {
				require.Eventually(t, func() bool { return m.procs[name].ask(t, "health", "health").Error == "" }, clusterPatience, 100*time.Millisecond, name)
			}
			c.awaitLast(t, "the last one")
			for _, name := range names {
				require.NoError(t, m.procs[name].in.Close()) // a clean stop
			}
			for _, name := range names {
				<-m.procs[name].ended
			}
			c.requireSame(t, acked...)
		})
	}
}
