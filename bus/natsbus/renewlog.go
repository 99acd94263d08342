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
	// unknownDir is where replicas are kept of streams that the cluster has lost. The server would remove them.
	unknownDir = "unknown"
	// renewPatience is how long a member whose server has ended for it waits until its log may go. The others may have to choose a leader.
	renewPatience = 20 * time.Second
)

// logStanding is how a member stands to the cluster's log.
type logStanding struct {
	Checked   bool    `json:"checked,omitempty"`  // it has compared the claims, and its log agrees with them
	Differs   bool    `json:"differs,omitempty"`  // it has its log made anew
	Helpless  bool    `json:"helpless,omitempty"` // it would, and can't
	Leads     bool    `json:"leads,omitempty"`
	Term      uint64  `json:"term,omitempty"`
	Committed uint64  `json:"committed,omitempty"`
	Claims    []claim `json:"claims,omitempty"` // its own
}

// logStanding is this member's, which compares what another one claims; nil: it can't tell now.
func (e *embedded) logStanding(claims []claim) *logStanding {
	g := e.clusterState()
	if g == nil {
		return nil
	}
	checked := e.compareClaims(g, claims)
	differs := e.suspectsLog()
	return &logStanding{
		Checked: checked && !differs, Differs: differs, Helpless: differs && !e.canRestart(),
		Leads: g.State == server.Leader.String(), Term: g.Term, Committed: g.Committed, Claims: e.clusterLog.claims(),
	}
}

// compareClaims compares what others claim, and has this member's log made anew if it contradicts. all is false where it doesn't know of
// a claim's term yet.
func (e *embedded) compareClaims(g *server.RaftzGroup, claims []claim) (all bool) {
	all = true
	for _, c := range claims {
		switch {
		case c.Term > g.Term:
			all = false
		case e.clusterLog.contradicts(c):
			e.suspectLog(c)
		}
	}
	return all
}

// suspectsLog reports whether this member has its log made anew.
func (e *embedded) suspectsLog() bool {
	e.review.mu.Lock()
	defer e.review.mu.Unlock()
	return e.review.record.Log != nil
}

// suspectLog has this member's log made anew.
func (e *embedded) suspectLog(c claim) {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Log != nil {
		return
	}
	e.log.Warn("natsbus: machines have crashed, and the cluster has lost what this member knew of its streams last; the member's log is made anew", "term", c.Term, "end", c.End)
	r.record.Log = &logSuspicion{Claim: claim{Term: c.Term, End: c.End}}
	if err := errors.Join(e.clusterLog.note(), e.noteReview(r)); err != nil {
		e.log.Warn("natsbus: noting that the cluster's log differs", "error", err)
	}
}

// reviewSuspicion drops a suspicion that nothing supports any more: the disk has lost what this member had applied.
func (e *embedded) reviewSuspicion() error {
	e.review.mu.Lock()
	s := e.review.record.Log
	e.review.mu.Unlock()
	if s == nil || s.Replaced || e.clusterLog.contradicts(s.Claim) {
		return nil
	}
	return e.noteLog(nil)
}

// noteLog notes how far it is; nil: it is done.
func (e *embedded) noteLog(to *logSuspicion) error {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.Log = to
	return e.noteReview(r)
}

// tellClaims tells the others what this member claims of the log and they haven't compared, until ctx ends.
func (b *backend) tellClaims(ctx context.Context) {
	for sleep(ctx, claimEvery) {
		claims := b.node.clusterLog.claims()
		if len(claims) == 0 || !b.rc.IsConnected() {
			continue
		}
		g := b.node.clusterState()
		if g == nil {
			continue
		}
		members := others(g)
		heard := b.hearLogs(ctx, slices.DeleteFunc(slices.Clone(members), func(member string) bool {
			return !slices.ContainsFunc(claims, func(c claim) bool { return !slices.Contains(c.Checked, member) })
		}), claims)
		for _, c := range claims {
			var checked []string
			for member, x := range heard {
				if x.Checked && !slices.Contains(c.Checked, member) {
					checked = append(checked, member)
				}
			}
			if err := b.node.clusterLog.check(c.Term, checked, members); err != nil {
				b.log.Warn("natsbus: noting who has compared the cluster's log", "error", err)
			}
		}
	}
}

// askClaims compares what the others claim now.
func (b *backend) askClaims(ctx context.Context) {
	g := b.node.clusterState()
	if g == nil {
		return
	}
	for _, x := range b.hearLogs(ctx, others(g), nil) {
		b.node.compareClaims(g, x.Claims)
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
func (b *backend) renewLog(ctx context.Context, suspicion logSuspicion) error {
	e, r := b.node, b.node.review
	g := e.clusterState()
	if g == nil {
		return nil
	}
	if suspicion.Replaced {
		heard := b.hearLogs(ctx, others(g), nil)
		if g = e.clusterState(); g == nil || !filled(g, heard) {
			return errors.New("the leader of the cluster must run and answer, so that it fills this member's log")
		}
		e.log.Info("natsbus: this member knows again what the others know of the cluster's streams")
		return errors.Join(e.noteLog(nil), e.removeAside(r))
	}
	if !e.canRestart() {
		return errors.New("the cluster's log differs from the leader's: give this member an empty directory, which the others fill")
	}
	members := others(g)
	var leader *logStanding
	if g.State == server.Leader.String() {
		leader = &logStanding{Term: g.Term, Committed: g.Committed}
	}
	if err := b.mayRenew(ctx, members, suspicion.Claim, leader, 0); err != nil || time.Now().Before(r.next) {
		return err
	}
	var failed error
	e.startAnew(ctx, func(ctx context.Context) error {
		// Once more: now it has no part in what they acknowledge.
		waiting, cancel := context.WithTimeout(ctx, renewPatience)
		defer cancel()
		least := uint64(0)
		if leader != nil {
			least = leader.Committed
		}
		for failed = b.mayRenew(waiting, members, suspicion.Claim, nil, least); failed != nil && sleep(waiting, soundEvery); {
			failed = b.mayRenew(waiting, members, suspicion.Claim, nil, least)
		}
		if failed == nil {
			failed = b.reviewStore(ctx)
		}
		if failed == nil {
			failed = e.putLogAside(suspicion)
		}
		if failed == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			clear(r.leftovers) // the next server says which ones are left
		}
		return nil // its server goes on with what there is
	})
	return failed
}

// filled reports whether a log has all that its leader had when it was asked.
func filled(g *server.RaftzGroup, heard map[string]*logStanding) bool {
	if g.State == server.Leader.String() {
		return true
	}
	for _, x := range heard {
		if x.Leads && x.Term == g.Term {
			return g.Committed > 0 && g.Committed >= x.Committed && !g.CatchingUp
		}
	}
	return false
}

// mayRenew returns what this member's log is still needed for. Of the cluster more than half must have all of the log, under one leader and as
// far as another one has led it, without this member. leader is this member if it leads; nil: another one does.
func (b *backend) mayRenew(ctx context.Context, members []string, c claim, leader *logStanding, least uint64) error {
	heard := b.hearLogs(ctx, members, []claim{c})
	for _, x := range heard {
		if x.Leads && !x.Differs && (leader == nil || x.Term > leader.Term) {
			leader = x
		}
	}
	sound := 0
	for _, member := range members {
		x := heard[member]
		switch {
		case x == nil && b.node.review.awaits(member):
			return fmt.Errorf("the cluster's log differs from the leader's; %s doesn't answer", member)
		case x == nil, x.Helpless:
		case x.Differs && member < b.node.cfg.Cluster.Member:
			return fmt.Errorf("the cluster's log differs from the leader's; first comes %s", member)
		case !x.Differs && leader != nil && x.Term == leader.Term && x.Committed >= max(least, leader.Committed):
			sound++
		}
	}
	if need := (len(members)+1)/2 + 1; sound < need {
		return fmt.Errorf("the cluster's log differs from the leader's; %d other members have it all now, and %d must. If it stays so while all run, "+
			"give this member an empty directory, which the others fill, and each of which Health says the same, one after the other", sound, need)
	}
	return nil
}

// reviewStore looks at what this member has of streams and consumers, which its next server would go on with. What the cluster doesn't
// know, or knows as others of the same name, is taken away: of streams it is kept, as it is nowhere else. What is left is suspected: it may have
// become another stream's already.
func (b *backend) reviewStore(ctx context.Context) error {
	e := b.node
	streams, err := b.created(ctx, "$JS.API.STREAM.LIST")
	if err != nil {
		return err
	}
	lost, err := lostIn(e.streamsDir(), streams)
	for _, name := range lost {
		to := filepath.Join(e.dir, unknownDir, fmt.Sprint(name, "-", time.Now().UnixNano()))
		moved := os.MkdirAll(filepath.Dir(to), 0o700)
		if moved == nil {
			moved = os.Rename(filepath.Join(e.streamsDir(), name), to)
		}
		if moved == nil {
			e.log.Error("natsbus: the cluster has lost a stream", "stream", name, "kept", to)
		}
		err = errors.Join(err, moved)
	}
	if err == nil {
		err = e.suspectAll(streams, lost)
	}
	if err != nil {
		return storeError(e.dir, err)
	}
	for stream := range streams {
		dir := filepath.Join(e.streamsDir(), stream, "obs")
		if names, err := subdirs(dir); err != nil || len(names) == 0 {
			continue
		}
		consumers, err := b.created(ctx, "$JS.API.CONSUMER.LIST."+stream)
		if isGone(err) {
			continue
		}
		if err != nil {
			return err
		}
		lost, err := lostIn(dir, consumers)
		for _, name := range lost {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
		}
		if err != nil {
			return storeError(e.dir, err)
		}
	}
	return nil
}

// suspectAll suspects all replicas of this member that aren't suspected. Those that are lost are others in any case, if the cluster has
// streams of their names.
func (e *embedded) suspectAll(streams map[string]time.Time, lost []string) error {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.ID == "" {
		r.record.ID = newCrashID()
	}
	names, err := subdirs(e.streamsDir())
	for _, name := range names {
		if r.record.Suspects[name] == nil {
			err = errors.Join(err, r.add(name, filepath.Join(e.streamsDir(), name)))
		}
	}
	for name, created := range streams {
		switch p := r.record.Suspects[name]; {
		case slices.Contains(lost, name), p != nil && !created.IsZero() && !p.Created.Equal(created):
			r.record.Suspects[name] = &suspect{Crash: newCrashID(), Created: created, Differs: true, Misled: true}
		case p != nil:
			p.Created = created // zero: it may be another one, which is seen by its messages
		}
	}
	return err
}

// created lists when streams or consumers were created. It is zero for one that doesn't answer now.
func (b *backend) created(ctx context.Context, list string) (map[string]time.Time, error) {
	all := map[string]time.Time{}
	for {
		var page struct {
			Total   int `json:"total"`
			Streams []struct {
				Config struct {
					Name string `json:"name"`
				} `json:"config"`
				Created time.Time `json:"created"`
			} `json:"streams"`
			Consumers []listedConsumer `json:"consumers"`
			Missing   []string         `json:"missing"`
		}
		before := len(all)
		if err := b.ask(ctx, list, map[string]int{"offset": before}, &page); err != nil {
			return nil, err
		}
		for _, name := range page.Missing {
			all[name] = time.Time{}
		}
		for _, s := range page.Streams {
			all[s.Config.Name] = s.Created
		}
		for _, c := range page.Consumers {
			all[c.Name] = c.Created
		}
		if len(all) == before || len(all) >= page.Total {
			return all, nil
		}
	}
}

// lostIn names what has a directory below dir and isn't known, or was created at another time.
func lostIn(dir string, known map[string]time.Time) (lost []string, err error) {
	names, err := subdirs(dir)
	for _, name := range names {
		at, unreadable := createdOf(filepath.Join(dir, name))
		created, ok := known[name]
		if !ok || unreadable == nil && !created.IsZero() && !at.Equal(created) {
			lost = append(lost, name)
		}
	}
	return lost, err
}

// putLogAside takes the log away, but not what this member has voted for, nor who the others are.
func (e *embedded) putLogAside(suspicion logSuspicion) error {
	from, to := filepath.Join(consensusDir(e.dir), clusterGroup), filepath.Join(e.dir, asideDir, logAside, fmt.Sprint(time.Now().UnixNano()))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"snapshots", "msgs", "commit.idx"} {
		if err := ignoreAbsence(os.Rename(filepath.Join(from, name), filepath.Join(to, name))); err != nil {
			return err
		}
	}
	suspicion.Replaced = true
	return errors.Join(e.clusterLog.forget(), e.noteLog(&suspicion))
}
