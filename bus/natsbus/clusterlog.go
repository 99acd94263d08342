package natsbus

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
// So who leads after nobody has claims what the log ended with. The others compare that with how far they had applied it before, and one
// that was further has its log made anew by the leader (renewlog.go). Where nothing is lost nobody was.

// logFile is in a member's store: how far it had applied the log, and what it claims until the others have compared it.
const logFile = "jitney.log"

const (
	clusterGroup = "_meta_"
	logEvery     = 200 * time.Millisecond
	stale        = time.Second // what was seen of the log, if somebody leads now
	// mostPositions and mostClaims bound what is remembered: one for each term in which the log has grown, and one for each
	// term in which this member led and not all have compared it.
	mostPositions = 100
	mostClaims    = 20
	// Of an entry of the log (appendEntry in nats-server's raft.go): 8 bytes of the leader's name come first.
	entryTerm, entryCommit, entryHead = 8, 16, 24
)

// position is how far a member had applied the log, and in which term that was first seen.
type position struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

// claim is that the log ended with an entry when a term began.
type claim struct {
	Term    uint64   `json:"term"`
	End     uint64   `json:"end"`
	Checked []string `json:"checked,omitempty"` // by members
}

// logRecord is what logFile holds.
type logRecord struct {
	Applied []position `json:"applied,omitempty"` // ascending
	Claims  []claim    `json:"claims,omitempty"`
}

// clusterLog is what a member knows of the log.
type clusterLog struct {
	path string

	mu     sync.Mutex
	record logRecord
	end    uint64    // of the log, when it was seen last
	led    bool      // somebody led it then
	term   uint64    // then
	seen   time.Time // then
}

// beginLog reads what a store that nobody has opened has of the log.
func (e *embedded) beginLog() (*clusterLog, error) {
	l := &clusterLog{path: filepath.Join(e.dir, logFile)}
	text, err := os.ReadFile(l.path)
	if err == nil && json.Unmarshal(text, &l.record) != nil {
		return nil, fmt.Errorf("%s can't be read: give this member an empty directory, which the others fill", l.path)
	}
	if err = ignoreAbsence(err); err != nil {
		return nil, storeError(e.dir, err)
	}
	end, applied, err := readLog(filepath.Join(consensusDir(e.dir), clusterGroup))
	if err != nil {
		return nil, storeError(e.dir, err)
	}
	l.end, l.seen, l.term = end, time.Now(), math.MaxUint64
	for i := range l.record.Applied { // what the disk has lost of the log the server doesn't apply
		l.record.Applied[i].Index = min(l.record.Applied[i].Index, end)
	}
	if err := l.advance(applied); err != nil {
		return nil, storeError(e.dir, err)
	}
	return l, nil
}

// readLog reads with what a log ends, and what of it is applied at least.
func readLog(dir string) (end uint64, applied position, err error) {
	snapshots, err := glob(dir, "snapshots/snap.*.*")
	if err != nil {
		return 0, position{}, err
	}
	for _, path := range snapshots {
		var at position
		name := filepath.Base(path)
		if n, _ := fmt.Sscanf(name, "snap.%d.%d", &at.Term, &at.Index); n != 2 || name != fmt.Sprintf("snap.%d.%d", at.Term, at.Index) {
			continue // as the server does
		}
		if at.Term > applied.Term || at.Term == applied.Term && at.Index > applied.Index {
			end, applied = at.Index, at
		}
	}
	files, err := glob(dir, messageFiles)
	if err != nil {
		return 0, position{}, err
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(blockNumber(a), blockNumber(b)) })
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
			// Rather a later term than the one in which it was applied: a leader commits entries of earlier ones, too.
			applied.Term = binary.LittleEndian.Uint64(entry[entryTerm:])
			applied.Index = max(applied.Index, binary.LittleEndian.Uint64(entry[entryCommit:]))
		})
	}
	text, err := os.ReadFile(filepath.Join(dir, "commit.idx"))
	if err = ignoreAbsence(err); err != nil {
		return 0, position{}, err
	}
	if len(text) >= 8 {
		applied.Index = max(applied.Index, binary.LittleEndian.Uint64(text))
	}
	applied.Index = min(applied.Index, end)
	return end, applied, nil
}

// save writes the record down. l.mu is held, or nobody else has l.
func (l *clusterLog) save() error {
	text, err := json.Marshal(l.record)
	if err != nil {
		return err
	}
	return replaceFile(l.path, text)
}

// note writes down all that is known.
func (l *clusterLog) note() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.save()
}

// advance notes how far the log is applied, in the record for each term that is over. l.mu is held, or nobody else has l.
func (l *clusterLog) advance(to position) error {
	all := l.record.Applied
	n := len(all)
	switch {
	case to.Index == 0 || n > 0 && to.Index <= all[n-1].Index:
		return nil
	case n > 0 && to.Term <= all[n-1].Term:
		all[n-1].Index = to.Index
		return nil
	}
	l.record.Applied = append(all[max(0, n-mostPositions+1):], to)
	return l.save()
}

// see takes note of where the log is.
func (l *clusterLog) see(g *server.RaftzGroup) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.advance(position{g.Term, g.Committed})
	// Otherwise another one may have led meanwhile.
	known := !l.led && time.Since(l.seen) < stale && (g.Term <= l.term || g.Term == l.term+1)
	if g.State == server.Leader.String() && known {
		// The oldest ones are those that a member can contradict that is away for long.
		l.record.Claims = append(l.record.Claims[:min(len(l.record.Claims), mostClaims-1)], claim{Term: g.Term, End: l.end})
		err = errors.Join(err, l.save())
	}
	l.end, l.led, l.term, l.seen = g.PIndex, g.Leader != "", g.Term, time.Now()
	return err
}

// contradicts reports whether more of the log was applied than it ended with, according to a claim. A leader whose log was empty has nothing
// that this member's could be made of: if it leads a cluster of which this member has the last log, this one must not go, too.
func (l *clusterLog) contradicts(c claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.End == 0 || slices.ContainsFunc(l.record.Claims, func(own claim) bool { return own.Term == c.Term }) {
		return false
	}
	return slices.ContainsFunc(l.record.Applied, func(p position) bool { return p.Term < c.Term && p.Index > c.End })
}

// forget is for a log that is made anew.
func (l *clusterLog) forget() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record.Applied, l.end = nil, 0
	return l.save()
}

// claims are those that others are to compare.
func (l *clusterLog) claims() (claims []claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.record.Claims {
		c.Checked = slices.Clone(c.Checked)
		claims = append(claims, c)
	}
	return claims
}

// check notes which members have compared the claim of a term. It is over when these are all others.
func (l *clusterLog) check(term uint64, by, others []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.record.Claims, func(c claim) bool { return c.Term == term })
	if i < 0 {
		return nil
	}
	c := &l.record.Claims[i]
	c.Checked = append(c.Checked, by...)
	over := len(others) > 0 && !slices.ContainsFunc(others, func(name string) bool { return !slices.Contains(c.Checked, name) })
	if over {
		l.record.Claims = slices.Delete(l.record.Claims, i, i+1)
	}
	if !over && len(by) == 0 {
		return nil
	}
	return l.save()
}

// clusterState is how the server stands to the cluster's log; nil: it doesn't run.
func (e *embedded) clusterState() *server.RaftzGroup { return e.raftState("", clusterGroup) }

// raftState is how the server stands to the log of a consensus group of an account, or of the system's; nil: it isn't in it now.
func (e *embedded) raftState(account, group string) *server.RaftzGroup {
	all := e.server.Load().Raftz(&server.RaftzOptions{AccountFilter: account, GroupFilter: group})
	if all == nil {
		return nil
	}
	for _, groups := range *all {
		if g, ok := groups[group]; ok {
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
