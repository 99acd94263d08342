package driver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Grouper is a Backend whose groups are shared by processes. Of other backends the driver
// shares messages within its own bus, where Config.Sole and Config.Volatile say that this is all there is.
type Grouper interface {
	// Join makes this bus a member of a group on one stream, which it creates if it doesn't exist; g.After counts
	// only then. A durable group that exists with another pattern, also on another stream, is ErrConflict.
	Join(ctx context.Context, s Stream, g Group, sink ShareSink) (Share, error)

	// ListenGroup is Listen, but each message goes to one of the listeners of a group and pattern, as does what is
	// passed on. stop returns when all that was meant for this listener has come to its sink.
	ListenGroup(ctx context.Context, pattern, group string, sink Sink) (stop func(), err error)

	// Pass gives a message that came to one listener of a group to another one, for whoever has stopped listening. It
	// doesn't block. Where nobody listens any more, the message ends with its group.
	Pass(pattern, group string, m *bus.Message) error

	// RemoveGroup forgets a durable group. Its shares end. It is nil when there is none.
	RemoveGroup(ctx context.Context, name string) error
}

// Group says what a group takes from a stream.
type Group struct {
	Name    string
	Pattern string
	Durable bool
	After   uint64 // where it starts
}

// Share is what a group gives to this bus. Its methods don't block, except for Given and Leave.
type Share interface {
	// Ask lets the group give so many more messages to this bus.
	Ask(n int)

	// Done says that a message needn't be delivered again; Release, that another member may have it at once. What is
	// neither is this bus's as long as it lives: the backend tells the group so, and what a crash leaves is delivered again.
	Done(d *Delivery)
	Release(d *Delivery)

	// Through reports whether the group has given away all up to a sequence, and this bus's part has come to the sink.
	Through(ctx context.Context, upTo uint64) (bool, error)

	// Leave stops asking, then releases what is given back, so that it doesn't come here again, and returns when the group has heard
	// of all that was said here. Nothing comes after it.
	Leave(back ...*Delivery)
}

// Delivery is a message that a group has given to this bus.
type Delivery struct {
	Message *bus.Message // nobody else's
	Attempt int          // from 1
	Ticket  string       // the backend's own
	from    *source
}

// ShareSink takes what a share gives. Its methods don't block.
type ShareSink interface {
	Deliver(d *Delivery)
	Notice(err error) // for a member's error hook: a gap
	End(err error)    // the group is gone
}

const (
	defaultAttempts = 5
	maxGroupName    = 32
	// maxHeld is how many messages of a group may wait to be delivered again by this bus before it takes no new ones.
	maxHeld = 1000
	// deadTimeout bounds the publishing of a dead letter.
	deadTimeout = 5 * time.Second
	// deadError is the header of a dead letter that says how the last handler failed, in at most errorText bytes.
	deadError = "Dead-Error"
	errorText = 500
	// drainPause lies between looks whether a closing bus's groups are through.
	drainPause = 5 * time.Millisecond
)

var defaultWaits = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// group is this bus's part of a group: it gives what it is given to members that are free.
type group struct {
	b       *Bus
	name    string
	pattern string
	durable bool
	stream  string // of a durable one

	turn  chan struct{} // holds one token: one start or stop at a time
	local *localShare   // by turn; of a durable group it keeps the position

	inner   atomic.Pointer[subscription] // of local
	drained atomic.Bool                  // a closing bus has nothing more for the members

	mu      sync.Mutex // before any subscription's
	members map[*leg]struct{}
	idle    []*leg // members that have nothing to do
	busy    int    // messages that members have
	sources []*source
	waiting []*Delivery               // for a member that is free
	held    map[*Delivery]*time.Timer // until they are delivered again
}

// groupKey finds a group: a durable one by its name alone.
type groupKey struct {
	name, pattern string
	durable       bool
}

func (g *group) key() groupKey {
	if g.durable {
		return groupKey{name: g.name, durable: true}
	}
	return groupKey{name: g.name, pattern: g.pattern}
}

// checkGroup says what is wrong with the options of a subscription in a group, whatever the streams.
func (b *Bus) checkGroup(pattern string, o *bus.SubscribeOptions) error {
	option := "bus.Group"
	if o.Durable {
		option = "bus.DurableGroup"
	}
	_, shared := b.backend.(Grouper)
	switch {
	case !shared && (!b.sole || o.Durable && !b.volatile):
		return fmt.Errorf("%s: %w", option, bus.ErrUnsupported)
	case len(o.Group) > maxGroupName || !isStreamName(o.Group):
		return fmt.Errorf("%s(%.80q): %w: a name is 1 to %d ASCII letters, digits, '-' and '_'", option, o.Group, bus.ErrBadSubject, maxGroupName)
	case !o.Durable && o.Start.Kind != bus.StartNew:
		return fmt.Errorf("%s with a start position: %w: it has no past (see bus.DurableGroup)", option, bus.ErrUnsupported)
	case o.Start.Kind == bus.StartLastPerSubject:
		return fmt.Errorf("%s with bus.LastPerSubject: %w", option, bus.ErrUnsupported)
	}
	if dead := deadOf(pattern, o); dead != "" {
		if err := bus.CheckPattern(dead); err != nil {
			return fmt.Errorf("what is dead would go to %s: %w", dead, err)
		}
	}
	return nil
}

// deadOf is where dead letters of a subscription go, or "".
func deadOf(pattern string, o *bus.SubscribeOptions) string {
	if !o.Durable || attempts(o) == 0 {
		return ""
	}
	return deadSubject(o.Group, pattern)
}

// checkCaptured says what a durable group lacks.
func checkCaptured(t *table, r route, pattern string, o *bus.SubscribeOptions) error {
	if !r.captured {
		return fmt.Errorf("%w as a whole: %s", bus.ErrNoStream, r)
	}
	dead := deadOf(pattern, o)
	if dead == "" {
		return nil
	}
	if d := t.route(dead); !d.captured || slices.Equal(d.streams, r.streams) {
		return fmt.Errorf("%w other than %s as a whole for what is dead, %s: %s; bus.Attempts(0) needs none", bus.ErrNoStream, r.streams[0], dead, d)
	}
	return nil
}

func attempts(o *bus.SubscribeOptions) int {
	if o.Attempts == nil {
		return defaultAttempts
	}
	return *o.Attempts
}

func deadSubject(group, subject string) string { return "dead." + group + "." + subject }

// joinGroup makes s a member of its group.
func (s *subscription) joinGroup(ctx context.Context, r route, o *bus.SubscribeOptions) error {
	b := s.b
	g := &group{
		b: b, name: o.Group, pattern: s.pattern, durable: o.Durable, turn: make(chan struct{}, 1),
		members: map[*leg]struct{}{}, held: map[*Delivery]*time.Timer{},
	}
	if o.Durable {
		g.stream = r.streams[0]
	}
	b.mu.Lock()
	if known := b.groups[g.key()]; known != nil {
		g = known
	} else {
		b.groups[g.key()] = g
	}
	b.mu.Unlock()
	if g.pattern != s.pattern {
		return g.conflict(ctx)
	}
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b.mu.Lock()
	current := b.groups[g.key()] == g
	b.mu.Unlock()
	if !current {
		return errEnded // its last member has just left
	}
	l := &leg{sub: s, group: g}
	s.mu.Lock()
	s.member = g
	s.mu.Unlock()
	g.mu.Lock()
	running := len(g.sources) > 0
	g.members[l] = struct{}{}
	g.mu.Unlock()
	err := error(nil)
	if !running {
		err = g.start(ctx, r, l, o)
	}
	if err == nil && !s.add(l) {
		err = errEnded
	}
	if err != nil {
		g.mu.Lock()
		delete(g.members, l)
		unused := g.unusedLocked()
		g.mu.Unlock()
		if unused {
			g.stop()
		}
		return err
	}
	s.mu.Lock()
	s.whole = true
	s.markCaughtUpLocked()
	if len(l.notices) > 0 {
		s.startLocked()
	}
	s.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.freeLocked(l)
	return nil
}

// conflict is what who wants the name of a durable group for another pattern is told: ErrConflict, or errEnded, upon which it tries
// again. A group that processes share may have been removed by another one, and what is left of it here, unless a handler still
// runs, ends with the question; the backend then decides.
func (g *group) conflict(ctx context.Context) error {
	if g.shared() {
		g.stopUnused(ctx)
		g.b.mu.Lock()
		current := g.b.groups[g.key()] == g
		g.b.mu.Unlock()
		switch {
		case !current:
			return errEnded
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("%w: group %s has the pattern %s", bus.ErrConflict, g.name, g.pattern)
}

// start connects the group to its sources. Its first member is l.
func (g *group) start(ctx context.Context, r route, l *leg, o *bus.SubscribeOptions) error {
	grouper, shared := g.b.backend.(Grouper)
	if shared {
		for _, name := range r.streams {
			if err := g.join(ctx, grouper, name, l, o); err != nil {
				return err
			}
		}
		if r.captured {
			return nil
		}
	}
	if g.local == nil {
		g.local = &localShare{g: g, left: map[*Delivery]struct{}{}}
	}
	src := &source{g: g, share: g.local}
	if err := g.local.start(ctx, src, o); err != nil {
		return err
	}
	g.add(src)
	g.local.giveLeft()
	return nil
}

func (g *group) add(src *source) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sources = append(g.sources, src)
	g.flowLocked()
}

// join makes this bus a member on one stream.
func (g *group) join(ctx context.Context, grouper Grouper, stream string, l *leg, o *bus.SubscribeOptions) error {
	f, err := g.b.acquireFeed(ctx, stream)
	if err != nil {
		return err
	}
	defer g.b.releaseFeed(f)
	at, err := l.sub.position(ctx, f, &o.Start, nil)
	if err != nil {
		return err
	}
	l.notices = at.notices
	s := *f.config.Load()
	s.Epoch = at.epoch
	src := &source{g: g, stream: s, last: at.known.Last}
	src.share, err = grouper.Join(ctx, s, Group{Name: g.name, Pattern: g.pattern, Durable: g.durable, After: max(at.pos, at.from)}, src)
	if err != nil {
		return err
	}
	g.add(src)
	return nil
}

// stop disconnects the group. A durable one that only this bus knows stays, with its position.
func (g *group) stop() {
	g.mu.Lock()
	sources, back := g.sources, map[*source][]*Delivery{}
	for d, timer := range g.held {
		timer.Stop()
		back[d.from] = append(back[d.from], d)
	}
	for _, d := range g.waiting {
		back[d.from] = append(back[d.from], d)
	}
	g.sources, g.waiting, g.held = nil, nil, map[*Delivery]*time.Timer{}
	for _, src := range sources {
		src.over = true
	}
	g.mu.Unlock()
	for _, src := range sources {
		src.share.Leave(back[src]...)
	}
	if g.durable && g.local != nil && g.local.placed {
		return
	}
	g.b.forget(g)
}

func (b *Bus) forget(g *group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.groups[g.key()] == g {
		delete(b.groups, g.key())
	}
}

// shared reports whether other processes are in the group, too; in none nobody is.
func (g *group) shared() bool {
	if g == nil {
		return false
	}
	_, ok := g.b.backend.(Grouper)
	return ok
}

func (g *group) unusedLocked() bool { return len(g.members) == 0 && g.busy == 0 }

// stopUnusedLocked stops the group on another goroutine if nobody is in it any more.
func (g *group) stopUnusedLocked() {
	if !g.unusedLocked() || len(g.sources) == 0 {
		return
	}
	g.b.spawn(func() { g.stopUnused(context.Background()) }) // Close ends what is left by itself
}

// stopUnused returns when the group doesn't ask for messages that nobody would handle.
func (g *group) stopUnused(ctx context.Context) {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-g.turn }()
	g.mu.Lock()
	unused := g.busy == 0 && len(g.sources) > 0
	for l := range g.members {
		l.sub.mu.Lock()
		unused = unused && l.sub.ended // it is about to leave
		l.sub.mu.Unlock()
	}
	g.mu.Unlock()
	if unused {
		g.stop()
	}
}

// endGroups stops what a handler that doesn't return would keep.
func (b *Bus) endGroups() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.groups {
		b.ending.Go(func() {
			g.turn <- struct{}{}
			defer func() { <-g.turn }()
			g.stop()
		})
	}
}

// end ends all subscriptions of the group.
func (g *group) end(reason error) {
	g.mu.Lock()
	members := make([]*leg, 0, len(g.members))
	for l := range g.members {
		members = append(members, l)
	}
	g.mu.Unlock()
	for _, l := range members {
		l.sub.end(reason)
	}
}

// drain returns when the members have handled what was stored here so far, and lets them end.
func (g *group) drain(ctx context.Context) {
	g.mu.Lock()
	sources := g.sources
	g.mu.Unlock()
	for _, src := range sources {
		if !src.drained(ctx) {
			return
		}
	}
	tick := time.NewTicker(drainPause)
	defer tick.Stop()
	for {
		g.mu.Lock()
		through := g.busy == 0 && len(g.waiting) == 0
		g.mu.Unlock()
		if through {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	g.drained.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	for l := range g.members {
		l.sub.mu.Lock()
		l.sub.startLocked()
		l.sub.mu.Unlock()
	}
}

// RemoveGroup implements bus.Remover.
func (b *Bus) RemoveGroup(ctx context.Context, name string) error {
	if err := b.removeGroup(ctx, name); err != nil {
		return fmt.Errorf("bus: remove group %.80q: %w", name, err)
	}
	return nil
}

func (b *Bus) removeGroup(ctx context.Context, name string) error {
	counted, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer b.leave(counted)
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := b.changing(ctx)
	defer cancel()
	if grouper, ok := b.backend.(Grouper); ok {
		if err := grouper.RemoveGroup(ctx, name); err != nil {
			return cause(ctx, err)
		}
	} else if !b.sole || !b.volatile {
		return bus.ErrUnsupported
	}
	b.mu.Lock()
	g := b.groups[groupKey{name: name, durable: true}]
	b.mu.Unlock()
	if g != nil {
		g.remove()
	}
	return nil
}

// remove forgets the group with its position.
func (g *group) remove() {
	g.end(bus.ErrStreamChanged)
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if g.local != nil {
		g.local.placed = false
	}
	g.stop()
}
