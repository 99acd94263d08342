//go:build unix

package natsbus_test

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// begin starts a cluster whose members all subscribe, and returns the name of the log's leader.
func (c *members) begin(runs map[string]*process) (leader string) {
	t := c.t
	t.Helper()
	c.startAll()
	require.Empty(t, c.procs["n1"].ask(t, "ensure", "ensured").Error)
	for _, name := range names {
		runs[name] = c.procs[name]
		require.Empty(t, c.procs[name].ask(t, "subscribe", "subscribed").Error)
	}
	require.Eventually(t, func() bool { leader = c.leader("n1"); return leader != "" }, clusterPatience, 50*time.Millisecond, "a leader")
	return leader
}

func othersOf(name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

// freeze returns when the process has stopped.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	for {
		_, err := syscall.Wait4(p.cmd.Process.Pid, nil, syscall.WUNTRACED, nil)
		if !errors.Is(err, syscall.EINTR) {
			require.NoError(t, err)
			return
		}
	}
}

// requireUnavailable checks that a call said so, and when it was to.
func requireUnavailable(t *testing.T, s said, within time.Duration) {
	t.Helper()
	require.NotEmpty(t, s.Error, "%s: it must not succeed", s.Writer)
	require.True(t, s.Unavailable, "%s: %s", s.Writer, s.Error)
	require.Less(t, s.Took, within+10*time.Second, "%s ends with its context, as far as the machine lets it", s.Writer)
}

func TestCluster_aMinoritySaysThatItIsUnavailable(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	runs := map[string]*process{}
	alone := c.procs[c.begin(runs)] // as the leader it would be the one to accept
	require.Empty(t, alone.ask(t, "try publish 60s", "tried").Error)
	for _, name := range othersOf(alone.name) {
		c.procs[name].freeze(t)
	}
	stopped := time.Now()
	requireUnavailable(t, alone.ask(t, "try publish 3s", "tried"), 3*time.Second)
	require.Empty(t, alone.ask(t, "try uncaptured 3s", "tried").Error, "what isn't captured goes on")
	require.Eventually(t, func() bool { return alone.ask(t, "health", "health").Unavailable }, clusterPatience, 100*time.Millisecond, "Health says so")
	t.Logf("Health says so after %s", time.Since(stopped).Round(time.Millisecond))
	requireUnavailable(t, alone.ask(t, "try publish 3s", "tried"), 3*time.Second)
	requireUnavailable(t, alone.ask(t, "try subscribe 3s", "tried"), 3*time.Second)
	for _, name := range othersOf(alone.name) {
		require.NoError(t, c.procs[name].cmd.Process.Signal(syscall.SIGCONT))
	}
	for _, name := range names {
		c.procs[name].do(t, "write "+name)
	}
	for _, name := range names {
		c.procs[name].await(t, "acked", 20)
	}
	h := c.settleTries(runs)
	h.judge(t, names...)
}

func TestCluster_aMemberThatIsCutOffStoresNothingAndTellsNoHalfTruth(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	w := newWires(t, c)
	c.wires = w
	runs := map[string]*process{}
	leader := c.begin(runs)
	cut, others := c.procs[leader], othersOf(leader)
	for _, name := range others {
		c.procs[name].do(t, "write "+name)
		c.procs[name].await(t, "acked", 20)
	}
	w.set(leader, true)
	since := time.Now()
	cut.do(t, "try publish 2s")
	// The others elect one of themselves and go on, while the old leader still believes that it is one.
	acked := func(name string) int {
		all, _ := c.procs[name].all("acked")
		return len(all)
	}
	before := acked(others[0])
	tries := 0
	for acked(others[0]) < before+50 {
		// Whatever it says is the truth: what is stored elsewhere meanwhile it doesn't know, so it must not say that it is through.
		known := acked(others[0])
		s := cut.ask(t, "try subscribe 1s", "tried")
		if s.Error == "" {
			require.LessOrEqual(t, known, before+2, "a replay without what was acknowledged elsewhere before it")
		} else {
			require.True(t, s.Unavailable, s.Error)
		}
		tries++
	}
	t.Logf("cut off: the others go on after %s, and %d subscriptions here were told", pauseOf(since, c.procs[others[0]], c.procs[others[1]]).Round(time.Millisecond), tries)
	requireUnavailable(t, cut.ask(t, "try publish 3s", "tried"), 3*time.Second)
	w.set(leader, false)
	cut.do(t, "write "+leader)
	cut.await(t, "acked", 20)
	h := c.settleTries(runs)
	h.judge(t, names...)
}

// What isn't captured is lost while there is no way, from the first moment to the last.
func TestCluster_tellsAlsoWhenAMemberIsBack(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	w := newWires(t, c)
	c.wires = w
	c.startAll()
	p := c.procs["n1"]
	require.Empty(t, p.ask(t, "listen", "listening").Error)
	told := func() int {
		all, _ := p.all("problem")
		return len(all)
	}
	w.set("n1", true)
	require.Eventually(t, func() bool { return told() > 0 }, clusterPatience, 10*time.Millisecond, "it is told that what was on its way is lost")
	require.Empty(t, c.procs["n2"].ask(t, "try uncaptured 60s", "tried").Error)
	before := -1
	require.Eventually(t, func() bool {
		same := told() == before
		before = told()
		return same
	}, clusterPatience, 3*time.Second, "nothing more is to be told")
	w.set("n1", false)
	require.Eventually(t, func() bool { return told() > before }, clusterPatience, 10*time.Millisecond, "it is told that what was sent meanwhile is lost")
	require.Empty(t, c.procs["n2"].ask(t, "try uncaptured 60s", "tried").Error)
	require.Eventually(t, func() bool {
		heard, _ := p.all("heard")
		return len(heard) > 0 || c.procs["n2"].ask(t, "try uncaptured 60s", "tried").Error != ""
	}, clusterPatience, 100*time.Millisecond, "then it is heard again")
}

// settleTries is settle where publishes were tried whose outcome may be unknown.
func (c *members) settleTries(runs map[string]*process) history {
	c.t.Helper()
	h := c.settle(runs)
	for _, got := range h.runs {
		require.LessOrEqual(c.t, count(got, "try"), 4, "a message that was tried is stored once, if at all")
	}
	return h
}

func count(all []said, writer string) (n int) {
	for _, s := range all {
		if s.Writer == writer {
			n++
		}
	}
	return n
}

func TestCluster_aReplicaThatLagsBehindGivesNoShortReplay(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	c.startAll()
	require.Empty(t, c.procs["n1"].ask(t, "ensure", "ensured").Error)
	leader := ""
	require.Eventually(t, func() bool { leader = c.leader("n1"); return leader != "" }, clusterPatience, 50*time.Millisecond, "a leader")
	publisher, lagging := c.procs[leader], c.procs[othersOf(leader)[0]]
	stored := 0
	for _, kind := range []string{"all", "last", "subjects"} {
		lagging.freeze(t)
		require.Zero(t, publisher.ask(t, "burst 6400", "burst").N, "two of three are enough")
		stored += 6400
		replayed, _ := lagging.all("replayed")
		lagging.do(t, "replay "+kind) // it finds the question when it wakes up, together with all that it has missed
		require.NoError(t, lagging.cmd.Process.Signal(syscall.SIGCONT))
		s := lagging.await(t, "replayed", len(replayed)+1)
		require.Equal(t, "<nil>", s.Error)
		require.Equal(t, uint64(stored), s.Seq, "%s: what was stored when Subscribe was called", kind)
		require.Equal(t, map[string]int{"all": stored, "last": 10, "subjects": burstWriters}[kind], s.N, kind)
	}
}
