package natsbus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// state is how a server stands to the cluster's log.
func state(term, committed, end uint64, leader string) server.RaftzGroup {
	g := server.RaftzGroup{ID: "me", State: "FOLLOWER", Term: term, Committed: committed, PIndex: end, Leader: leader}
	if leader == "me" {
		g.State = "LEADER"
	}
	return g
}

func TestClusterLog_whoLeadsAfterNobodyClaimsWhatItEndedWith(t *testing.T) {
	for name, row := range map[string]struct {
		states []server.RaftzGroup
		want   []string
	}{
		"it leads first":         {[]server.RaftzGroup{state(3, 7, 9, ""), state(4, 7, 9, ""), state(5, 9, 10, "me"), state(5, 20, 20, "me")}, []string{"5:9"}},
		"it leads later":         {[]server.RaftzGroup{state(4, 9, 10, "another"), state(5, 10, 10, ""), state(6, 11, 11, "me")}, []string{"6:10"}},
		"it leads after another": {[]server.RaftzGroup{state(4, 9, 10, "another"), state(5, 10, 11, "me")}, nil},
		"another leads":          {[]server.RaftzGroup{state(3, 7, 9, ""), state(4, 7, 9, "another")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := natsbus.BeginLog(t, dir)
			for _, g := range row.states {
				l.See(t, g)
			}
			require.Equal(t, row.want, l.Claims())
			require.Equal(t, row.want, natsbus.BeginLog(t, dir).Claims(), "of the next process")
		})
	}
}

func TestClusterLog_aClaimIsKeptUntilAllHaveComparedIt(t *testing.T) {
	dir := t.TempDir()
	l := natsbus.BeginLog(t, dir)
	l.See(t, state(3, 7, 9, ""))
	l.See(t, state(4, 9, 10, "me"))
	l.Check(t, 4, []string{"n2"}, []string{"n2", "n3"})
	require.Equal(t, []string{"4:9"}, l.Claims())
	l = natsbus.BeginLog(t, dir)
	l.See(t, state(4, 9, 9, ""))
	l.See(t, state(5, 9, 10, "me"))
	require.Equal(t, []string{"4:9", "5:9"}, l.Claims())
	l.Check(t, 4, []string{"n3"}, []string{"n2", "n3"})
	require.Equal(t, []string{"5:9"}, l.Claims())
	l = natsbus.BeginLog(t, dir)
	require.Equal(t, []string{"5:9"}, l.Claims())
	l.Check(t, 5, []string{"n2"}, []string{"n2", "n3"})
	l.Check(t, 5, nil, []string{"n2"}) // the other one is none any more
	require.Empty(t, l.Claims())
}

func TestClusterLog_isContradictedByWhatWasAppliedBefore(t *testing.T) {
	dir := t.TempDir()
	l := natsbus.BeginLog(t, dir)
	for _, g := range []server.RaftzGroup{
		state(3, 7, 9, "another"), state(3, 8, 9, "another"), // it runs on while the others crash
		state(4, 8, 9, ""), state(6, 8, 9, "another"), // that one has less, and it takes no note
		state(6, 12, 12, "another"),
	} {
		l.See(t, g)
	}
	snapshots := filepath.Join(dir, "jetstream", "$SYS", "_js_", "_meta_", "snapshots")
	require.NoError(t, os.MkdirAll(snapshots, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(snapshots, "snap.6.12"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(snapshots, "snap.7.20.tmp"), nil, 0o600)) // a crash has left it
	for _, l := range []*natsbus.ClusterLog{l, natsbus.BeginLog(t, dir)} {                  // also of the next process
		require.True(t, l.Contradicts(6, 7))
		require.True(t, l.Contradicts(4, 7))
		require.False(t, l.Contradicts(6, 8))
		require.False(t, l.Contradicts(3, 7), "it is of the same term")
		require.False(t, l.Contradicts(6, 10), "what it has applied since is the leader's")
		require.False(t, l.Contradicts(6, 0), "there is nothing to make it of")
	}
	require.True(t, l.Contradicts(7, 10))
}

func TestClusterLog_countsOnlyWhatTheDiskHasOfIt(t *testing.T) {
	dir := t.TempDir()
	l := natsbus.BeginLog(t, dir)
	l.See(t, state(3, 8, 9, "another"))
	l.See(t, state(4, 12, 12, "another"))
	require.True(t, l.Contradicts(5, 7))
	l = natsbus.BeginLog(t, dir) // a crash has taken the log, and not what was written down of it
	require.False(t, l.Contradicts(5, 7))
	l.See(t, state(4, 5, 5, ""))
	l.See(t, state(5, 5, 6, "me"))
	l.See(t, state(6, 8, 9, "another"))
	require.False(t, l.Contradicts(5, 3), "its own")
	require.True(t, l.Contradicts(7, 6))
}

func TestClusterLog_isReadFromTheDisk(t *testing.T) {
	t.Parallel() // most of it waits
	configs := memberConfigs(t)
	buses := openMembers(t, func(i int, config *natsbus.Config) { *config = configs[i] })
	require.NoError(t, buses[0].EnsureStreams(t.Context(), chat, work))
	requireHealthy(t, buses...)
	ends := make([]uint64, 3)
	for i, b := range buses {
		var g *server.RaftzGroup
		var image string
		require.Eventually(t, func() bool {
			g = natsbus.ClusterState(b)
			image = filepath.Join(t.TempDir(), "[a")
			copyDir(t, image, configs[i].Dir)
			now := natsbus.ClusterState(b)
			return g.Committed > 0 && g.Committed == g.PIndex && now.Term == g.Term && now.PIndex == g.PIndex
		}, clusterPatience, 50*time.Millisecond)
		ends[i] = g.PIndex
		require.NoError(t, os.RemoveAll(filepath.Join(image, "jitney.log")))
		l := natsbus.BeginLog(t, image) // of entries
		require.True(t, l.Contradicts(g.Term+1, g.Committed-1))
		require.False(t, l.Contradicts(g.Term+1, g.Committed))
		require.False(t, l.Contradicts(g.Term, g.Committed-1))
		l.See(t, state(g.Term+1, g.Committed, g.PIndex+1, "me"))
		require.Equal(t, []string{fmt.Sprint(g.Term+1, ":", g.PIndex)}, l.Claims())
	}
	for i, b := range buses {
		require.NotEmpty(t, natsbus.LostIn(t, filepath.Join(configs[i].Dir, "jetstream", "$G", "streams"), nil))
		known := map[string]time.Time{work.Name: {}} // it doesn't answer now
		known[chat.Name] = natsbus.Created(t, b)[chat.Name]
		require.NotZero(t, known[chat.Name])
		require.Empty(t, natsbus.LostIn(t, filepath.Join(configs[i].Dir, "jetstream", "$G", "streams"), known))
		known[chat.Name] = known[chat.Name].Add(time.Nanosecond) // another one of this name
		require.Equal(t, []string{chat.Name}, natsbus.LostIn(t, filepath.Join(configs[i].Dir, "jetstream", "$G", "streams"), known))
	}
	closeAll(t, buses...)
	for i, config := range configs {
		require.NoError(t, os.RemoveAll(filepath.Join(config.Dir, "jitney.log")))
		l := natsbus.BeginLog(t, config.Dir) // of a snapshot
		require.True(t, l.Contradicts(1000, ends[i]-1), names[i])
	}
}

// A member may have applied more of the cluster's own log than those that choose the next leader.
func TestCrash_aMemberThatKnowsOfLostStreamsLearnsWhatThereIs(t *testing.T) {
	t.Parallel() // most of it waits
	c := &crash{configs: memberConfigs(t), early: t.TempDir(), late: t.TempDir()}
	ctx := t.Context()
	buses := openMembers(t, func(i int, config *natsbus.Config) { *config = c.configs[i] })
	require.NoError(t, buses[0].EnsureStreams(ctx, chat, work))
	requireHealthy(t, buses...)
	c.image(t, c.early)
	const lost = 5
	var streams []bus.StreamConfig
	for i := range lost {
		streams = append(streams, bus.StreamConfig{Name: fmt.Sprint("LOST", i), Subjects: []string{fmt.Sprint("lost", i)}})
	}
	require.NoError(t, buses[0].EnsureStreams(ctx, streams...))
	for range 2 {
		require.NoError(t, buses[0].Publish(ctx, "lost0", []byte("before")))
	}
	_, err := buses[0].Subscribe(ctx, "work.*", new(collector).handle, bus.DurableGroup("late"), bus.Attempts(0))
	require.NoError(t, err)
	requireHealthy(t, buses...)
	c.image(t, c.late)
	closeAll(t, buses...)

	for member, disk := range map[int]rune{0: late, 2: intact} {
		t.Run(names[member], func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			ctx := t.Context()
			var rest []int
			for i := range c.configs {
				if i == member {
					c.restoreOne(t, i, disk)
				} else {
					c.restoreOne(t, i, early)
					rest = append(rest, i)
				}
			}
			var problems [3]collector
			buses := c.open(t, &problems, rest...)
			groups := []string{"late", "new", "newer", "newest"} // a stream can't be made while a member isn't there
			for i, group := range groups {
				_, err := buses[rest[i%2]].Subscribe(ctx, "work.*", new(collector).handle, bus.DurableGroup(group), bus.Attempts(0))
				require.NoError(t, err)
			}
			again := make(chan error, 1)
			go func() { again <- buses[rest[0]].EnsureStreams(ctx, streams[0]) }() // it waits for the member
			buses[member] = c.open(t, &problems, member)[member]
			require.NoError(t, <-again)
			require.NoError(t, buses[rest[0]].Publish(ctx, "lost0", []byte("after")))
			require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond)
			requireHealthy(t, buses...)
			requireSameAssets(t, buses, 3+len(groups))
			kept, err := filepath.Glob(filepath.Join(c.configs[member].Dir, "unknown", "LOST*", "msgs"))
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(kept), lost-1) // the one that is made again may have been taken over
			var got collector
			_, err = buses[member].Subscribe(ctx, "work.*", got.handle, bus.DurableGroup("last"), bus.Attempts(0))
			require.NoError(t, err)
			require.NoError(t, buses[member].Publish(ctx, "work.x", []byte("x")))
			eventually(t, func() bool { return len(got.texts()) == 1 }, "a group of the member to have a message")
			madeAgain := func(i int) []string {
				return natsbus.Stored(t, filepath.Join(c.configs[i].Dir, "jetstream", "$G", "streams", "LOST0"))
			}
			require.Eventually(t, func() bool { // with what was there before, if the member has become its first leader
				all := madeAgain(0)
				return len(all) > 0 && strings.HasSuffix(all[len(all)-1], " after") && slices.Equal(all, madeAgain(1)) && slices.Equal(all, madeAgain(2))
			}, clusterPatience, 100*time.Millisecond)
		})
	}
}

// requireSameAssets checks that members hold the same streams and groups, so many.
func requireSameAssets(t *testing.T, buses []bus.Bus, n int) {
	t.Helper()
	same := func() bool {
		first := natsbus.Assets(buses[0])
		for _, b := range buses[1:] {
			if !slices.Equal(first, natsbus.Assets(b)) {
				return false
			}
		}
		return len(first) == n
	}
	if !assert.Eventually(t, same, clusterPatience, 100*time.Millisecond) {
		for i, b := range buses {
			t.Logf("%s has %q", names[i], natsbus.Assets(b))
		}
		t.FailNow()
	}
}
