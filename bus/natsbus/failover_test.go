package natsbus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// history judges what the members were told, against what was acknowledged.
type history struct {
	acked map[string]map[int]bool
	runs  map[string][]said // what each subscriber got
}

// settle has all writers rest and all subscribers catch up, and takes what they said.
func (c *members) settle(runs map[string]*process) history {
	t := c.t
	t.Helper()
	h := history{acked: map[string]map[int]bool{}, runs: map[string][]said{}}
	for _, name := range names {
		c.procs[name].ask(t, "rest", "resting")
	}
	for _, p := range runs {
		acked, _ := p.all("acked")
		for _, s := range acked {
			if h.acked[s.Writer] == nil {
				h.acked[s.Writer] = map[int]bool{}
			}
			h.acked[s.Writer][s.N] = true
		}
	}
	// One more message by each: behind it nothing is to be expected.
	for _, name := range names {
		tried := c.procs[name].ask(t, "try end 60s", "tried")
		require.Empty(t, tried.Error)
	}
	for label, p := range runs {
		var got []said
		require.Eventually(t, func() bool {
			got, _ = p.all("got")
			ends := 0
			for _, s := range got {
				if s.Writer == "end" {
					ends++
				}
			}
			select {
			case <-p.ended:
				return true // it isn't told any more
			default:
				return ends == len(names)
			}
		}, clusterPatience, 20*time.Millisecond, "%s to get everything", label)
		h.runs[label] = got
	}
	return h
}

// judge checks that each subscriber saw the stream's order from its beginning, without a gap or a repetition, and those
// who are still there all that was acknowledged.
func (h *history) judge(t *testing.T, there ...string) {
	t.Helper()
	var longest []said
	for _, got := range h.runs {
		if len(got) > len(longest) {
			longest = got
		}
	}
	for label, got := range h.runs {
		if len(got) == 0 && !slices.Contains(there, label) {
			continue // it has only written
		}
		for i, s := range got {
			require.Equal(t, uint64(i+1), s.Seq, "%s: no gap, no repetition", label)
		}
		require.Equal(t, longest[:len(got)], got, "%s saw the stream's order", label)
		if slices.Contains(there, label) {
			require.Len(t, got, len(longest), "%s saw all", label)
		}
	}
	have, total := map[string]int{}, 0
	stored := map[string]map[int]bool{}
	for _, s := range longest {
		if s.Writer == "try" || s.Writer == "end" {
			continue
		}
		require.Less(t, have[s.Writer], s.N, "each writer's messages are in its order, once")
		have[s.Writer] = s.N
		if stored[s.Writer] == nil {
			stored[s.Writer] = map[int]bool{}
		}
		stored[s.Writer][s.N] = true
	}
	for writer, acked := range h.acked {
		for n := range acked {
			total++
			require.True(t, stored[writer][n], "acknowledged to %s: %d", writer, n)
		}
	}
	t.Logf("%d stored, %d acknowledged, none lost, %d subscribers agree", len(longest), total, len(h.runs))
}

// pauseOf is the longest time without an acknowledgement to any of the processes since a moment.
func pauseOf(since time.Time, processes ...*process) time.Duration {
	var all []time.Time
	for _, p := range processes {
		_, at := p.all("acked")
		for _, moment := range at {
			if moment.After(since) {
				all = append(all, moment)
			}
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	longest, last := time.Duration(0), since
	for _, moment := range all {
		longest = max(longest, moment.Sub(last))
		last = moment
	}
	return longest
}

// writeOn has a process write, and waits for some acknowledgements.
func writeOn(t *testing.T, n int, processes ...*process) {
	t.Helper()
	for _, p := range processes {
		acked, _ := p.all("acked")
		p.await(t, "acked", len(acked)+n)
	}
}

func TestCluster_losesNothingThatWasAcknowledgedToSIGKILL(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	began := time.Now()
	c.startAll()
	t.Logf("three members start together: %s", time.Since(began).Round(time.Millisecond))
	require.Empty(t, c.procs["n1"].ask(t, "ensure", "ensured").Error)
	runs := map[string]*process{}
	run := 0
	join := func(name string) {
		p := c.procs[name]
		run++
		label := fmt.Sprintf("%s-%d", name, run)
		runs[label] = p
		require.Empty(t, p.ask(t, "subscribe", "subscribed").Error)
		p.do(t, "write "+label)
	}
	for _, name := range names {
		join(name)
	}
	for _, role := range []string{"leader", "follower", "leader"} {
		writeOn(t, 50, c.procs["n1"], c.procs["n2"], c.procs["n3"])
		leader := ""
		require.Eventually(t, func() bool { leader = c.leader("n1"); return leader != "" }, clusterPatience, 50*time.Millisecond, "a leader")
		victim := leader
		if role == "follower" {
			victim = names[(slices.Index(names, leader)+1)%3]
		}
		killed := time.Now()
		c.procs[victim].kill()
		var alive []*process
		for _, name := range names {
			if name != victim {
				alive = append(alive, c.procs[name])
			}
		}
		writeOn(t, 50, alive...)
		t.Logf("%s %s killed: no acknowledgement for %s", role, victim, pauseOf(killed, alive...).Round(time.Millisecond))
		back := time.Now()
		c.start(victim).await(t, "open", 1)
		join(victim)
		writeOn(t, 1, c.procs[victim])
		t.Logf("%s is back: open, caught up and acknowledged after %s", victim, time.Since(back).Round(time.Millisecond))
	}
	h := c.settle(runs)
	var there []string
	for label, p := range runs {
		if p == c.procs[p.name] {
			there = append(there, label)
		}
	}
	h.judge(t, there...)
	for label, p := range runs {
		failed, _ := p.all("failed")
		require.Empty(t, failed, "%s: publishing only waits", label)
	}
}

func TestCluster_losesNothingInARollingRestart(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	c.startAll()
	require.Empty(t, c.procs["n1"].ask(t, "ensure", "ensured").Error)
	runs := map[string]*process{}
	join := func(name, label string) {
		runs[label] = c.procs[name]
		require.Empty(t, c.procs[name].ask(t, "subscribe", "subscribed").Error)
		c.procs[name].do(t, "write "+label)
	}
	for _, name := range names {
		join(name, name)
	}
	for _, name := range names {
		writeOn(t, 50, c.procs["n1"], c.procs["n2"], c.procs["n3"])
		var others []*process
		for _, other := range names {
			if other != name {
				others = append(others, c.procs[other])
			}
		}
		stopped := time.Now()
		leads := c.leader(name) == name
		c.procs[name].ask(t, "rest", "resting")
		require.Empty(t, c.procs[name].ask(t, "close", "closed").Error)
		<-c.procs[name].ended
		writeOn(t, 50, others...)
		t.Logf("%s stopped (leader: %t): no acknowledgement for %s", name, leads, pauseOf(stopped, others...).Round(time.Millisecond))
		again := c.start(name)
		again.await(t, "open", 1)
		require.Eventually(t, func() bool { return again.ask(t, "health", "health").Error == "" }, clusterPatience, 20*time.Millisecond, "what was missed")
		join(name, name+"-again")
	}
	writeOn(t, 50, c.procs["n1"], c.procs["n2"], c.procs["n3"])
	var took []time.Duration
	for _, p := range runs {
		acked, _ := p.all("acked")
		for _, s := range acked {
			took = append(took, s.Took)
		}
	}
	slices.Sort(took)
	t.Logf("an acknowledgement takes %s, half of the time, with a publisher on each member", took[len(took)/2].Round(10*time.Microsecond))
	h := c.settle(runs)
	h.judge(t, "n1-again", "n2-again", "n3-again")
	for label, p := range runs {
		failed, _ := p.all("failed")
		require.Empty(t, failed, "%s: publishing only waits", label)
	}
}

func TestCluster_aMemberThatHasLostItsStoreGetsItFromTheOthers(t *testing.T) {
	t.Parallel() // most of it waits
	c := newMembers(t, "")
	c.startAll()
	for _, name := range names { // what others have made counts within a second, and these don't wait
		require.Empty(t, c.procs[name].ask(t, "ensure", "ensured").Error)
	}
	for _, name := range names {
		c.procs[name].do(t, "write "+name)
	}
	writeOn(t, 100, c.procs["n1"], c.procs["n2"], c.procs["n3"])
	leader := ""
	require.Eventually(t, func() bool { leader = c.leader("n1"); return leader != "" }, clusterPatience, 50*time.Millisecond, "a leader")
	runs := map[string]*process{"before": c.procs[leader]}
	c.procs[leader].kill()
	require.NoError(t, os.RemoveAll(filepath.Join(c.dir, leader)))
	p := c.start(leader)
	p.await(t, "open", 1)
	require.Empty(t, p.ask(t, "subscribe", "subscribed").Error)
	p.do(t, "write again")
	writeOn(t, 100, c.procs["n1"], c.procs["n2"], c.procs["n3"])
	for _, name := range names {
		runs[name] = c.procs[name]
	}
	for _, name := range names {
		if name != leader {
			require.Empty(t, c.procs[name].ask(t, "subscribe", "subscribed").Error)
		}
	}
	h := c.settle(runs)
	h.judge(t, names...)
}

// A group without a position has its place in the stream on as many members as the stream.
func TestGroup_goesOnWhenTheMemberIsGoneThatServedIt(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	buses := openMembers(t, nil)
	for _, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, work))
	}
	var groups [8]collector // which of them the first member serves is the servers' choice
	for i := range groups {
		for _, b := range buses[1:] {
			_, err := b.Subscribe(ctx, "work.*", groups[i].handle, bus.Group(fmt.Sprint("g", i)))
			require.NoError(t, err)
		}
	}
	texts := numberedTexts(20)
	for i, text := range texts {
		if i == 10 {
			for i := range groups {
				eventually(t, func() bool { return containsAll(groups[i].texts(), texts[:10]) }, "the first ones")
			}
			require.NoError(t, buses[0].Close(ctx))
		}
		whileServersStart(t, func() error { return buses[1].Publish(ctx, "work.a", []byte(text)) })
	}
	for i := range groups {
		require.Eventually(t, func() bool { return containsAll(groups[i].texts(), texts) }, clusterPatience, 10*time.Millisecond, "group %d: %s", i, groups[i].texts())
		require.Less(t, len(groups[i].texts()), 30, "it doesn't begin again")
	}
}
