package natsbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// asideDir is where replicas are that were taken away, until there is another one.
	asideDir = "jitney.aside"
	// replacePause is how long after a start of the server for its replicas' sake there may be another one: twice as long each time.
	replacePause = 5 * time.Second
	// mostBehind is how many messages another replica may be behind the leader's when one is taken away.
	mostBehind = 1000
)

// turn returns the groups of this member's replica if no other one is being replaced.
func (b *backend) turn(v *view) (groups []string, err error) {
	for _, holder := range v.info.holders() {
		x, there := v.all[holder.name]
		switch {
		case holder.name == v.me:
		case !there && b.node.review.awaits(holder.name):
			return nil, fmt.Errorf("its replica differs from the leader's; %s, which has one too, doesn't answer", holder.name)
		case there && !x.sound(v.lead) && (x.Replaced || holder.name < v.me):
			return nil, fmt.Errorf("its replica differs from the leader's; first comes %s", holder.name)
		}
	}
	for _, holder := range v.info.holders() {
		if x, there := v.all[holder.name]; there && !x.Differs && holder.name != v.me && x.Last+mostBehind < v.all[v.info.Cluster.Leader].Last {
			return nil, fmt.Errorf("its replica differs from the leader's; first %s gets what it lacks", holder.name)
		}
	}
	if !b.node.canRestart() {
		return nil, errors.New("its replica differs from the leader's: give this member an empty directory, which the others fill")
	}
	return b.node.groupsOf(v.name)
}

// groupsOf are the consensus groups that this member is in for a stream, which comes first, and its consumers.
func (e *embedded) groupsOf(stream string) (groups []string, err error) {
	info, err := e.server.Load().Jsz(&server.JSzOptions{Account: server.DEFAULT_GLOBAL_ACCOUNT, Streams: true, Consumer: true, RaftGroups: true})
	if err != nil {
		return nil, err
	}
	for _, account := range info.AccountDetails {
		for _, s := range account.Streams {
			if s.Name != stream {
				continue
			}
			all := []string{s.RaftGroup}
			for _, c := range s.ConsumerRaftGroups {
				all = append(all, c.RaftGroup)
			}
			for _, group := range all {
				if group != "" { // the directory of all groups
					groups = append(groups, group)
				}
			}
		}
	}
	return groups, nil
}

// replace has replicas of this member's made anew, by stream with their groups, unless others are about to do the same: at least one of
// two sees that the other one is.
func (b *backend) replace(ctx context.Context, streams map[string][]string) {
	r := b.node.review
	replacing := func(yes bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for name := range streams {
			if p := r.record.Suspects[name]; p != nil {
				p.replacing = yes
			}
		}
	}
	replacing(true)
	defer replacing(false)
	me := b.node.cfg.Cluster.Member
	holders, leads := map[string][]string{me: sortedKeys(streams)}, map[string]string{}
	for name := range streams {
		info, err := b.surely(ctx, name)
		if err != nil || info.Cluster.Leader == me {
			return
		}
		leads[name] = info.lead()
		for _, holder := range info.holders() {
			if holder.name != me {
				holders[holder.name] = append(holders[holder.name], name)
			}
		}
	}
	heard := b.hear(ctx, holders)
	for member, names := range holders {
		for _, name := range names {
			x, there := heard[member][name]
			switch {
			case member == me:
			case !there && r.awaits(member), x.Replacing, x.Replaced && !x.sound(leads[name]):
				return
			}
		}
	}
	b.log.Warn("natsbus: replicas that differ from the leader's are made anew", "streams", sortedKeys(streams))
	b.node.startAnew(ctx, func(context.Context) error {
		for name, groups := range streams {
			if err := b.node.putAside(name, groups); err != nil {
				return storeError(b.node.dir, err)
			}
		}
		return nil
	})
}

// putAside takes a replica away. What it leaves when it is interrupted still differs.
func (e *embedded) putAside(stream string, groups []string) error {
	p := e.review.suspectOf(stream)
	if p == nil {
		return nil
	}
	to := filepath.Join(e.dir, asideDir, stream, fmt.Sprint(time.Now().UnixNano()))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	move := func(from string) error {
		return ignoreAbsence(os.Rename(from, filepath.Join(to, filepath.Base(from))))
	}
	err := move(filepath.Join(e.streamsDir(), stream))
	for _, group := range groups {
		err = errors.Join(err, move(filepath.Join(consensusDir(e.dir), group)))
	}
	if err != nil {
		return err
	}
	return e.note(p, func() { p.Replaced, p.uncounted = true, 0 })
}

// consensusDir is where the server has the logs of a member's groups.
func consensusDir(dir string) string { return filepath.Join(dir, storeDir, "$SYS", "_js_") }

// clear starts the server anew without the consumers that are in the way.
func (e *embedded) clear(ctx context.Context) {
	r := e.review
	r.mu.Lock()
	leftovers := r.leftovers
	r.leftovers = map[configOf]bool{}
	r.mu.Unlock()
	for of := range leftovers {
		e.log.Warn("natsbus: this member has a consumer that the cluster has lost in a crash, in the way of another one; it is taken away", "stream", of.stream, "consumer", of.consumer)
	}
	e.startAnew(ctx, func(context.Context) error {
		for of := range leftovers {
			if err := os.RemoveAll(filepath.Join(e.streamsDir(), of.stream, "obs", of.consumer)); err != nil {
				return storeError(e.dir, err)
			}
		}
		return nil
	})
}

// canRestart reports whether the server can be started anew in this process.
func (e *embedded) canRestart() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.restarts
}

// startAnew starts the server anew, and has its store healed if it can't be opened. between is called when nothing uses the store.
func (e *embedded) startAnew(ctx context.Context, between func(ctx context.Context) error) {
	r := e.review
	if time.Since(r.next) > mostPause {
		r.pause = 0
	}
	r.pause = min(max(2*r.pause, replacePause), mostPause)
	err := e.restart(ctx, between)
	r.next = time.Now().Add(r.pause)
	if err != nil && ctx.Err() == nil {
		e.broken(fmt.Sprintf("the store in %s can't be opened: %s", e.dir, err))
	}
}
