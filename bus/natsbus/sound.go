package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus/driver"
)

// How replicas become what their leader has again after a crash of several members.
//
// Each member tells the others what it suspects (standing.go), and compares a replica that it suspects with the leader's: by the messages
// with which it ended, and by how many there are. If so many holders have crashed that the others can't choose a leader by themselves,
// the leader's replica is what the stream is from then on. One that differs is taken away, one member after the other, and filled by the
// leader (replace.go). Then the stream begins another epoch, in which what was read before is a gap, and its groups go back to before
// the crash (rewind.go). Open waits for it, for a while.

const (
	soundEvery = 300 * time.Millisecond
	// sayEvery is how often at most it is logged why something isn't a step further.
	sayEvery = 5 * time.Second
	// openPatience is how long Open waits for it.
	openPatience = 15 * time.Second
	// absence is how long a holder that has answered is waited for: it may be filling a new replica.
	absence = 2 * time.Minute
	// gathering is how long one is that hasn't answered since this member was opened: its machine may be starting.
	gathering = 10 * time.Second
	// unreached is after what time a leader whose messages the others don't get starts its server anew. It has more messages than
	// its log tells of, which only a snapshot passes on, and the server makes one every two minutes, or when it stops.
	unreached = 10 * time.Second
	// countTries is how often a replica may have another number of messages deleted than the leader before it differs.
	countTries = 20
	// stepPause lies between attempts to have another member lead.
	stepPause = 5 * time.Second
	// lookTogether is how many streams are looked at together.
	lookTogether = 500
	// asksAtOnce is how many streams are asked for at a time.
	asksAtOnce = 8
)

// In a stream's metadata.
const (
	lifeKey   = "jitney-life"   // another epoch: when it began, in ns by 36
	soundKey  = "jitney-sound"  // crashes that it knows of, as MEMBER=CRASH
	absentKey = "jitney-absent" // the ids of members that had a replica and didn't answer when it began
	fromKey   = "jitney-from"   // the first sequence that may be another message's since then
	rewindKey = "jitney-rewind" // the sequence to which groups have to go back, until they have
	againKey  = "jitney-again"  // the config of a consumer that is being made once more
)

// keepSound looks after what is suspected until ctx ends.
func (b *backend) keepSound(ctx context.Context) {
	r := b.node.review
	for sleep(ctx, soundEvery) {
		r.mu.Lock()
		maps.DeleteFunc(r.poked, func(_ string, until time.Time) bool { return time.Now().After(until) })
		names := map[string]bool{}
		for name := range r.poked {
			names[name] = true
		}
		for name := range r.record.Suspects {
			names[name] = true
		}
		leftovers, suspicion := len(r.leftovers) > 0, r.record.Log
		r.mu.Unlock()
		if !b.rc.IsConnected() || b.node.failure() != nil {
			continue
		}
		var waits error
		if suspicion != nil {
			waits = b.renewLog(ctx, *suspicion)
		}
		b.tellStep(ctx, "the cluster's log", waits)
		if leftovers && time.Now().After(r.next) && b.node.canRestart() {
			b.node.clear(ctx)
		} else if len(names) > 0 {
			for some := range slices.Chunk(sortedKeys(names), lookTogether) {
				b.settleAll(ctx, some)
			}
			if err := b.node.save(); err != nil {
				b.log.Warn("natsbus: noting what isn't suspected any more", "error", err)
			}
		}
	}
}

// awaitSound waits for a while until nothing is suspected, so that a program doesn't begin with a server that starts anew.
func (e *embedded) awaitSound(ctx context.Context) {
	for until := time.Now().Add(openPatience); time.Now().Before(until) && sleep(ctx, soundEvery/10); {
		e.review.mu.Lock()
		done := len(e.review.record.Suspects)+len(e.review.leftovers) == 0 && e.review.record.Log == nil
		e.review.mu.Unlock()
		if done {
			return
		}
	}
}

// settleAll brings each of some streams a step further.
func (b *backend) settleAll(ctx context.Context, names []string) {
	replace := map[string][]string{}
	for _, v := range b.look(ctx, names) {
		if !b.rc.IsConnected() {
			return // its server was started anew for one of them
		}
		groups, err := b.settle(ctx, v)
		if len(groups) > 0 {
			replace[v.name] = groups
		}
		b.tellStep(ctx, "stream "+v.name, err)
	}
	if len(replace) > 0 && ctx.Err() == nil && time.Now().After(b.node.review.next) {
		b.replace(ctx, replace)
	}
}

// tellStep logs why something, a stream mostly, isn't a step further: once, and not too often where that changes.
func (b *backend) tellStep(ctx context.Context, of string, err error) {
	r := b.node.review
	if err == nil {
		delete(r.said, of)
	} else if ctx.Err() == nil && r.said[of].text != err.Error() && time.Since(r.said[of].at) > sayEvery {
		r.said[of] = saying{err.Error(), time.Now()}
		b.log.Warn("natsbus: it can't be compared or made anew after a crash yet", "what", of, "error", err)
	}
}

// look asks about streams. Those that can't be asked now are left out.
func (b *backend) look(ctx context.Context, names []string) (views []*view) {
	me := b.node.cfg.Cluster.Member
	infos := make([]*streamInfo, len(names))
	turns := make(chan struct{}, asksAtOnce)
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			info, err := b.surely(ctx, name)
			switch {
			case errors.Is(err, driver.ErrNotCaptured) || err == nil && !info.holds(me):
				b.node.acquit(name, "this member has no replica of it")
			case err == nil && info.Cluster != nil:
				infos[i] = info
			}
		})
	}
	asking.Wait()
	holders := map[string][]string{}
	for i, info := range infos {
		if info != nil {
			for _, holder := range info.holders() {
				holders[holder.name] = append(holders[holder.name], names[i])
			}
		}
	}
	heard := b.hear(ctx, holders)
	for i, info := range infos {
		if info == nil {
			continue
		}
		v := &view{name: names[i], info: info, lead: info.lead(), me: me, all: map[string]standing{}}
		for _, holder := range info.holders() {
			x, answered := heard[holder.name][v.name]
			if x.Crash != "" && x.Crash == crashOf(info.Config.Metadata, holder.name) { // it is about to find out
				x = standing{Holds: x.Holds, First: x.First, Last: x.Last, Deleted: x.Deleted}
			}
			if answered {
				v.all[holder.name] = x
			}
		}
		views = append(views, v)
	}
	return views
}

// surely is info of a leader that is one.
func (b *backend) surely(ctx context.Context, name string) (*streamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return b.info(ctx, name)
}

// settle brings a stream a step further. It returns the groups of this member's replica if that is to be taken away.
func (b *backend) settle(ctx context.Context, v *view) (groups []string, err error) {
	p := b.node.review.suspectOf(v.name)
	switch {
	case p == nil:
	case !p.Created.IsZero() && !p.Created.Equal(v.info.Created):
		b.node.acquit(v.name, "it is another stream")
		return nil, nil
	case p.Crash == crashOf(v.info.Config.Metadata, v.me):
		b.node.acquit(v.name, "the stream has begun another epoch")
		return nil, nil
	}
	if p == nil && v.missed(b.node.server.Load().Node()) {
		return nil, b.node.suspectReplica(v.name, v.info.Created)
	}
	if v.info.Cluster.Leader == v.me {
		return nil, b.lead(ctx, v, p)
	}
	mine, truth := v.all[v.me], v.all[v.info.Cluster.Leader]
	if p != nil {
		p.waiting = time.Time{}
	}
	switch {
	case !truth.Holds || !truth.sound(v.lead): // there is nothing to compare with yet
		return nil, nil
	case p == nil && v.lossy():
		return nil, b.node.suspectReplica(v.name, v.info.Created)
	case p == nil:
		return nil, nil
	case p.Sound == v.lead && v.safe() && !p.Misled:
		return nil, b.trust(ctx, v)
	case p.Sound == v.lead: // until the leader begins the next epoch, or more is known
		return nil, nil
	case !p.Differs && p.checked != v.lead:
		same, err := b.same(ctx, v, p)
		if err == nil && same {
			p.checked = v.lead
		}
		return nil, b.differs(p, same, err)
	case p.Differs && !p.Replaced:
		return b.turn(v)
	}
	return nil, b.count(ctx, v, p, mine, truth)
}

// errNotYet says that a replica can't be compared now.
var errNotYet = errors.New("the replica isn't written yet")

// differs notes the end of a comparison.
func (b *backend) differs(p *suspect, same bool, err error) error {
	switch {
	case errors.Is(err, errNotYet):
		return nil
	case err == nil && !same:
		return b.node.note(p, func() { p.Differs, p.Misled, p.Sound = true, true, "" })
	}
	return err
}

// count compares how many messages a replica has with how many the leader has. What it has is asked later.
func (b *backend) count(ctx context.Context, v *view, p *suspect, mine, truth standing) error {
	goesOn := p.truth != 0 && truth.Last > p.truth
	p.truth = truth.Last
	more, fewer := mine.Last-truth.Last, mine.Deleted-truth.Deleted
	switch {
	case !mine.Holds || mine.Last < truth.Last:
		return nil // not all yet
	case v.info.Config.Retention != "limits", // each replica removes what is acknowledged in its own time
		more == 0 && fewer == 0 && (mine.First == truth.First || v.info.Config.MaxAge > 0),
		goesOn && fewer >= 0 && uint64(fewer) <= more:
		p.uncounted = 0
		if !p.Replaced { // its log may have added something since it was compared
			if same, err := b.same(ctx, v, p); err != nil || !same {
				return b.differs(p, same, err)
			}
		}
		return b.node.note(p, func() { p.Sound = v.lead })
	case goesOn:
		p.uncounted = 0
		return nil
	}
	if p.uncounted++; p.uncounted < countTries {
		return nil
	}
	return b.node.note(p, func() { p.Differs, p.Misled, p.Replaced, p.Sound, p.uncounted = true, true, false, "", 0 })
}

// same reports whether the leader has the messages with which a replica ended, and those that its log has added, as far as limits have left them.
func (b *backend) same(ctx context.Context, v *view, p *suspect) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if applied, err := b.node.hasApplied(v.name); err != nil || !applied {
		return false, cmp.Or(err, errNotYet)
	}
	added, last, err := behind(filepath.Join(b.node.streamsDir(), v.name), p.End, p.Since)
	if err != nil {
		return false, err
	}
	if last < v.all[v.me].Last { // the server writes in the background; the last ones may also have been removed
		if p.unwritten++; p.unwritten < countTries {
			return false, errNotYet
		}
	}
	p.unwritten = 0
	for _, m := range slices.Concat(added, p.Marks) {
		switch same, err := b.has(ctx, v, m); {
		case err != nil:
			return false, err
		case !same:
			return false, nil
		}
	}
	return true, nil
}

// hasApplied reports whether a replica holds all that its log is known to have.
func (e *embedded) hasApplied(stream string) (bool, error) {
	groups, err := e.groupsOf(stream)
	if err != nil || len(groups) == 0 {
		return false, err
	}
	g := e.raftState(server.DEFAULT_GLOBAL_ACCOUNT, groups[0])
	return g != nil && g.Applied >= g.Committed && !g.CatchingUp, nil
}

// has reports whether the leader has a message, or a limit may have taken it.
func (b *backend) has(ctx context.Context, v *view, m mark) (bool, error) {
	if m.Seq < v.info.State.First {
		return true, nil
	}
	var answer struct {
		Message struct {
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	err := b.ask(ctx, "$JS.API.STREAM.MSG.GET."+v.name, map[string]uint64{"seq": m.Seq}, &answer)
	switch {
	case isCode(err, codeNoSuchMessage):
		info, err := b.info(ctx, v.name)
		return err == nil && m.Seq <= info.State.Last, err
	case err != nil:
		return false, err
	}
	return answer.Message.Time.UnixNano() == m.Time, nil
}

// trust acquits a replica of which nothing differs.
func (b *backend) trust(ctx context.Context, v *view) error {
	id := b.node.server.Load().Node()
	if v.missed(id) {
		err := b.changeMetadata(ctx, v.name, func(m map[string]string) {
			m[absentKey] = strings.Join(slices.DeleteFunc(strings.Fields(m[absentKey]), func(other string) bool { return other == id }), " ")
		})
		if err != nil {
			return err
		}
	}
	b.node.acquit(v.name, "it is what the leader has")
	return nil
}

// lead looks after a stream whose leader this member is. p is what it suspects of its own replica.
func (b *backend) lead(ctx context.Context, v *view, p *suspect) error {
	metadata := v.info.Config.Metadata
	if known := b.node.review.life(v.info); known != metadata[lifeKey] {
		return b.changeMetadata(ctx, v.name, func(m map[string]string) { m[lifeKey] = known }) // somebody has put it back
	}
	var failed error
	if metadata[rewindKey] != "" {
		failed = b.rewind(ctx, v)
	}
	switch better := v.better(p); {
	case better != "":
		return errors.Join(failed, b.stepDown(ctx, v, better))
	case !v.lossy() && !v.misled():
		return failed
	case p != nil && p.Sound != v.lead:
		return errors.Join(failed, b.seed(ctx, v, p))
	}
	for _, holder := range v.info.holders() {
		x, there := v.all[holder.name]
		switch {
		case holder.name == v.me:
		case there && !x.sound(v.lead), there && x.Crash == "" && v.lossy(): // it doesn't know yet
			return failed
		case !there && b.node.review.awaits(holder.name):
			return failed
		}
	}
	return errors.Join(failed, b.nextLife(ctx, v))
}

// stepDown has another member lead.
func (b *backend) stepDown(ctx context.Context, v *view, to string) error {
	r := b.node.review
	if time.Since(r.stepped[v.name]) < stepPause {
		return nil
	}
	r.stepped[v.name] = time.Now()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return b.ask(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+v.name, map[string]any{"placement": map[string]string{"preferred": to}}, nil)
}

// seed has this member's replica be what the stream is, once as many have it as are needed.
func (b *backend) seed(ctx context.Context, v *view, p *suspect) error {
	if p.waiting.IsZero() {
		p.waiting, p.reach, p.reached = time.Now(), v.all[v.me].Last, 0
	}
	n, reached := 0, uint64(0)
	for holder, x := range v.all {
		if x.Holds && x.Last >= p.reach && !x.Differs {
			n++
		}
		if holder != v.me {
			reached += x.Last
		}
	}
	switch {
	case n >= v.need():
		return b.node.note(p, func() { p.Sound = v.lead })
	case reached > p.reached || len(v.all) < v.need():
		p.waiting, p.reached = time.Now(), max(reached, p.reached)
	case time.Since(p.waiting) > unreached && time.Now().After(b.node.review.next) && b.node.canRestart():
		p.waiting = time.Time{}
		b.log.Warn("natsbus: the others don't get what this member has; its server is started anew", "stream", v.name)
		b.node.startAnew(ctx, func(context.Context) error { return nil })
	}
	return nil
}

// nextLife begins another epoch.
func (b *backend) nextLife(ctx context.Context, v *view) error {
	var sound, absent []string
	for _, holder := range v.info.holders() {
		x, there := v.all[holder.name]
		switch {
		case !there:
			absent = append(absent, holder.id)
		case x.Crash != "":
			sound = append(sound, holder.name+"="+x.Crash)
		case v.missed(holder.id): // it is about to find out
			absent = append(absent, holder.id)
		}
	}
	life, to := newLife(v.info.Config.Metadata[lifeKey]), v.rewindTo()
	err := b.changeMetadata(ctx, v.name, func(m map[string]string) {
		m[lifeKey], m[soundKey], m[rewindKey], m[fromKey] = life, strings.Join(sound, " "), fmt.Sprint(to), fmt.Sprint(to)
		delete(m, absentKey)
		if len(absent) > 0 {
			m[absentKey] = strings.Join(absent, " ")
		}
	})
	if err == nil {
		b.log.Warn("natsbus: after a crash a stream may have lost its end, or replicas differed: its cursors of before are gaps now, and its groups go back",
			"stream", v.name, "to", to, "suspected", sound, "absent", absent)
	}
	return err
}
