package natsbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// claimEvery is how often the others are told what wasn't compared yet.
	claimEvery = time.Second
	// logAside is where a log is, below asideDir, that was taken away, until there is another one. No stream has this name.
	logAside = ".log"
)

// logStanding is how a member stands to the cluster's log.
type logStanding struct {
	Checked   bool   `json:"checked,omitempty"` // it has compared the claims, and its log agrees with them
	Differs   bool   `json:"differs,omitempty"` // it has its log made anew
	Leads     bool   `json:"leads,omitempty"`
	Term      uint64 `json:"term,omitempty"`
	Committed uint64 `json:"committed,omitempty"`
	End       uint64 `json:"end,omitempty"`
}

// logStanding is this member's, which compares what another one claims; nil: it can't tell now.
func (e *embedded) logStanding(claims []claim) *logStanding {
	for _, c := range claims {
		if e.clusterLog.contradicts(c) {
			e.suspectLog(c)
		}
	}
	g := e.clusterState()
	if g == nil {
		return nil
	}
	differs := e.suspectsLog()
	return &logStanding{
		Checked: !differs, Differs: differs, Leads: g.State == server.Leader.String(),
		Term: g.Term, Committed: g.Committed, End: g.PIndex,
	}
}

// suspectsLog reports whether this member has its log made anew.
func (e *embedded) suspectsLog() bool {
	e.review.mu.Lock()
	defer e.review.mu.Unlock()
	return e.review.record.Log != ""
}

// suspectLog has this member's log made anew.
func (e *embedded) suspectLog(c claim) {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Log != "" {
		return
	}
	e.log.Warn("natsbus: most members' machines have crashed, and the cluster has lost what this member knew of its streams last; the member's log is made anew", "term", c.Term, "end", c.End)
	r.record.Log = logDiffers
	if err := e.noteReview(r); err != nil {
		e.log.Warn("natsbus: noting that the cluster's log differs", "error", err)
	}
}

// noteLog notes how far it is.
func (e *embedded) noteLog(to logSuspicion) error {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.Log = to
	return e.noteReview(r)
}

// tellClaims tells the others what this member claims of the log, until they have compared it or ctx ends.
func (b *backend) tellClaims(ctx context.Context) {
	for sleep(ctx, claimEvery) {
		claims := b.node.clusterLog.made()
		if len(claims) == 0 || !b.rc.IsConnected() {
			continue
		}
		g := b.node.clusterState()
		if g == nil {
			continue
		}
		for _, c := range claims {
			var checked []string
			for member, x := range b.hearLogs(ctx, others(g), []claim{c}) {
				if x.Checked && !slices.Contains(c.Checked, member) {
					checked = append(checked, member)
				}
			}
			if err := b.node.clusterLog.check(c.Term, checked, others(g)); err != nil {
				b.log.Warn("natsbus: noting who has compared the cluster's log", "error", err)
			}
		}
	}
}

// others are the members of the cluster but this one.
func others(g *server.RaftzGroup) (names []string) {
	for _, peer := range g.Peers {
		names = append(names, peer.Name)
	}
	slices.Sort(names)
	return names
}

// hearLogs asks members how they stand to the log.
func (b *backend) hearLogs(ctx context.Context, members []string, claims []claim) map[string]*logStanding {
	heard := map[string]*logStanding{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, member := range members {
		asking.Go(func() {
			answer := b.askPeer(ctx, member, peerQuestion{Log: true, Claims: claims})
			if answer != nil && answer.Log != nil {
				mu.Lock()
				defer mu.Unlock()
				heard[member] = answer.Log
			}
		})
	}
	asking.Wait()
	r := b.node.review
	r.mu.Lock()
	defer r.mu.Unlock()
	for member := range heard {
		r.heard[member] = time.Now()
	}
	return heard
}

// renewLog brings a log that differs a step further. It says what it waits for.
func (b *backend) renewLog(ctx context.Context) error {
	e, r := b.node, b.node.review
	g := e.clusterState()
	if g == nil {
		return nil
	}
	heard := b.hearLogs(ctx, others(g), nil)
	r.mu.Lock()
	replaced := r.record.Log == logReplaced
	r.mu.Unlock()
	if replaced {
		if g = e.clusterState(); g == nil || !filled(g, heard) {
			return nil
		}
		e.log.Info("natsbus: this member knows again what the others know of the cluster's streams")
		return errors.Join(e.noteLog(""), os.RemoveAll(filepath.Join(e.dir, asideDir, logAside)))
	}
	if err := b.mayRenew(g, heard); err != nil || time.Now().Before(r.next) {
		return err
	}
	e.startAnew(ctx, func(context.Context) error {
		if err := e.putLogAside(); err != nil {
			return storeError(e.dir, err)
		}
		return nil
	})
	return nil
}

// filled reports whether a log has all that its leader had when it was asked.
func filled(g *server.RaftzGroup, heard map[string]*logStanding) bool {
	for _, x := range heard {
		if x.Leads && x.Term == g.Term {
			return g.Committed > 0 && g.Committed >= x.Committed && !g.CatchingUp
		}
	}
	return false
}

// mayRenew returns what this member's log is still needed for. More than half of the members must have all without it.
func (b *backend) mayRenew(g *server.RaftzGroup, heard map[string]*logStanding) error {
	if !b.node.canRestart() {
		return errors.New("the cluster's log differs from the leader's: give this member an empty directory, which the others fill")
	}
	committed := uint64(0)
	if g.State == server.Leader.String() {
		committed = g.Committed
	}
	for _, x := range heard {
		committed = max(committed, x.Committed)
	}
	sound := 0
	for _, member := range others(g) {
		x := heard[member]
		switch {
		case x == nil && b.node.review.awaits(member):
			return fmt.Errorf("the cluster's log differs from the leader's; %s doesn't answer", member)
		case x == nil:
		case x.Differs && member < b.node.cfg.Cluster.Member:
			return fmt.Errorf("the cluster's log differs from the leader's; first comes %s", member)
		case !x.Differs && x.End >= committed:
			sound++
		}
	}
	if need := g.Size/2 + 1; sound < need {
		return fmt.Errorf("the cluster's log differs from the leader's; %d other members have it all now, and %d must", sound, need)
	}
	return nil
}

// putLogAside takes the log away, but not what this member has voted for, nor who the others are.
func (e *embedded) putLogAside() error {
	from, to := filepath.Join(consensusDir(e.dir), clusterGroup), filepath.Join(e.dir, asideDir, logAside, fmt.Sprint(time.Now().UnixNano()))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"snapshots", "msgs", "commit.idx"} {
		if err := ignoreAbsence(os.Rename(filepath.Join(from, name), filepath.Join(to, name))); err != nil {
			return err
		}
	}
	e.clusterLog.forget()
	return e.noteLog(logReplaced)
}
