package natsbus

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// The cluster has a log of its own, which says what streams and consumers there are. If a crash takes its end from most members, the
// next leader goes on from there, and one that has applied more keeps what it has applied: it takes the leader's entries for its own
// until they reach further than it had, without applying them, and goes on behind them as if nothing had been (measured with nats-server
// 2.15). From then on it lacks streams and consumers that the others have, and has some that nobody else knows.
//
// So a member whose machine has crashed, and that is the first one to lead, claims what the log ended with. The others compare that with
// how far they had applied it before, and one that was further has its log made anew by the leader (renewlog.go).

// claimFile is in a member's store until the others have compared what it claims.
const claimFile = "jitney.claims"

const (
	clusterGroup = "_meta_"
	logEvery     = 200 * time.Millisecond
	// mostPositions bounds what is remembered of a log: one for each term in which it has grown.
	mostPositions = 100
	// Of an entry of the log (appendEntry in nats-server's raft.go): 8 bytes of the leader's name come first.
	entryTerm, entryCommit, entryHead = 8, 16, 24
)

// position is how far a member had applied the log, and in which term that was first seen.
type position struct {
	Term, Index uint64
}

// claim is that the log ended with an entry when a term began. Without a term it is to come.
type claim struct {
	Term    uint64   `json:"term,omitempty"`
	End     uint64   `json:"end,omitempty"`
	Checked []string `json:"checked,omitempty"` // members
}

// clusterLog is what a member knows of the log.
type clusterLog struct {
	path string // of claimFile

	mu      sync.Mutex
	applied []position // ascending
	end     uint64     // of the log, when it was seen last
	led     bool       // somebody led it then
	claims  []claim    // the last one may be to come
}

// beginLog reads what the log of a store holds that nobody has opened. crashed says that its machine has.
func (e *embedded) beginLog(crashed bool) (*clusterLog, error) {
	l := &clusterLog{path: filepath.Join(e.dir, claimFile)}
	end, applied, err := readLog(filepath.Join(consensusDir(e.dir), clusterGroup))
	if err != nil {
		return nil, err
	}
	l.end, l.applied = end, []position{applied}
	text, err := os.ReadFile(l.path)
	if err == nil && json.Unmarshal(text, &l.claims) != nil {
		err = errors.New(claimFile + " can't be read: remove it, and watch whether all members have the same streams")
	}
	if err = ignoreAbsence(err); err != nil {
		return nil, err
	}
	if n := len(l.claims); crashed && (n == 0 || l.claims[n-1].Term != 0) {
		l.claims = append(l.claims, claim{})
		err = l.record()
	}
	return l, err
}

// readLog reads with what a log ends, and what of it is applied at least.
func readLog(dir string) (end uint64, applied position, err error) {
	snapshots, err := filepath.Glob(filepath.Join(dir, "snapshots", "snap.*"))
	if err != nil {
		return 0, position{}, err
	}
	for _, path := range snapshots {
		var at position
		if n, _ := fmt.Sscanf(filepath.Base(path), "snap.%d.%d", &at.Term, &at.Index); n == 2 && at.Index > applied.Index { // others aren't the server's
			end, applied = at.Index, at
		}
	}
	files, err := glob(dir, messageFiles)
	if err != nil {
		return 0, position{}, err
	}
	slices.SortFunc(files, func(a, b string) int { return blockNumber(a) - blockNumber(b) })
	terms := map[uint64]uint64{applied.Index: applied.Term} // of entries
	committed := applied.Index
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, position{}, err
		}
		b, err := newBlock(clusterGroup, strconv.Itoa(blockNumber(path)), text)
		if err != nil {
			return 0, position{}, err
		}
		b.messages(func(seq uint64, _ int64, entry []byte) {
			if len(entry) < entryHead || seq != end+1 { // the server gives up what comes behind a hole
				return
			}
			end = seq
			terms[seq] = binary.LittleEndian.Uint64(entry[entryTerm:])
			committed = max(committed, binary.LittleEndian.Uint64(entry[entryCommit:]))
		})
	}
	text, err := os.ReadFile(filepath.Join(dir, "commit.idx"))
	if err = ignoreAbsence(err); err != nil {
		return 0, position{}, err
	}
	if len(text) >= 8 {
		committed = max(committed, binary.LittleEndian.Uint64(text))
	}
	committed = min(committed, end)
	return end, position{terms[committed], committed}, nil
}

// record writes down what is claimed. l.mu is held, or nobody else has l.
func (l *clusterLog) record() error {
	if len(l.claims) == 0 {
		return ignoreAbsence(os.Remove(l.path))
	}
	text, err := json.Marshal(l.claims)
	if err != nil {
		return err
	}
	return replaceFile(l.path, text)
}

// see takes note of where the log is.
func (l *clusterLog) see(g *server.RaftzGroup) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch n := len(l.applied); {
	case n > 0 && g.Committed <= l.applied[n-1].Index:
	case n > 0 && g.Term == l.applied[n-1].Term:
		l.applied[n-1].Index = g.Committed
	default:
		l.applied = append(l.applied[max(0, n-mostPositions+1):], position{g.Term, g.Committed})
	}
	var err error
	if n := len(l.claims); n > 0 && l.claims[n-1].Term == 0 {
		switch {
		case g.State == server.Leader.String() && !l.led:
			l.claims[n-1].Term, l.claims[n-1].End = g.Term, l.end
			err = l.record()
		case g.Leader != "": // it has the log of another one
			l.claims = l.claims[:n-1]
			err = l.record()
		}
	}
	l.end, l.led = g.PIndex, g.Leader != ""
	return err
}

// contradicts reports whether more of the log was applied than it ended with, according to a claim.
func (l *clusterLog) contradicts(c claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.applied, func(p position) bool { return p.Term < c.Term && p.Index > c.End })
}

// forget is for a log that is made anew.
func (l *clusterLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied, l.end = nil, 0
}

// made are the claims that others are to compare.
func (l *clusterLog) made() (claims []claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.claims {
		if c.Term != 0 {
			c.Checked = slices.Clone(c.Checked)
			claims = append(claims, c)
		}
	}
	return claims
}

// check notes which members have compared a claim. It is over when these are all members.
func (l *clusterLog) check(term uint64, by, members []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.claims, func(c claim) bool { return c.Term == term })
	if i < 0 || len(by) == 0 {
		return nil
	}
	c := &l.claims[i]
	c.Checked = append(c.Checked, by...)
	if !slices.ContainsFunc(members, func(name string) bool { return !slices.Contains(c.Checked, name) }) {
		l.claims = slices.Delete(l.claims, i, i+1)
	}
	return l.record()
}

// clusterState is how the server stands to the cluster's log; nil: it doesn't run.
func (e *embedded) clusterState() *server.RaftzGroup {
	all := e.server.Load().Raftz(&server.RaftzOptions{GroupFilter: clusterGroup})
	if all == nil {
		return nil
	}
	for _, groups := range *all {
		if g, ok := groups[clusterGroup]; ok {
			return &g
		}
	}
	return nil
}

// watchLog takes note of the log until the server stops.
func (e *embedded) watchLog() {
	ctx, cancel := e.untilStopped()
	defer cancel()
	for sleep(ctx, logEvery) {
		if g := e.clusterState(); g != nil {
			if err := e.clusterLog.see(g); err != nil {
				e.log.Warn("natsbus: noting where the cluster's log is", "error", err)
			}
		}
	}
}
