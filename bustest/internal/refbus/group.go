package refbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// place is what a subscription has yet to be given. The members of a group share one, so
// that each takes what comes next when it is free, and a member that ends takes nothing away.
type place struct {
	legs     []*leg
	queue    []*bus.Message // uncaptured
	bytes    int
	open     int // how many of queue the tick has let through
	dropped  uint64
	reported uint64
	swap     *bus.Message
	group    *group // of a durable group
	turn     int    // of the bug groupStuckMember
}

// group is the memory of a durable group. It is there also while nobody is subscribed.
type group struct {
	name, pattern string
	b             *Bus
	st            *stream
	place         *place
	done          map[uint64]bool
	failed        map[uint64]int       // how often
	again         map[uint64]time.Time // what has failed, and when it is due
}

const defaultAttempts = 5

var defaultWaits = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// attempts is how often a member delivers and how long it waits after the nth failure.
func (s *subscription) attempts() (limit int, wait func(n int) time.Duration) {
	limit, waits := defaultAttempts, defaultWaits
	if s.b.bug("tenAttempts") {
		limit = 10
	}
	if s.o.Attempts != nil && !(*s.o.Attempts == 0 && s.b.bug("zeroIsDefault")) {
		limit = *s.o.Attempts
	}
	if len(s.o.Waits) > 0 {
		waits = s.o.Waits
	}
	return limit, func(n int) time.Duration {
		if s.b.bug("redeliversAtOnce") {
			return 0
		}
		if s.b.bug("redeliversLate") {
			return 2 * waits[min(n, len(waits))-1]
		}
		return waits[min(n, len(waits))-1]
	}
}

// isTurn is how a group goes wrong that doesn't ask who is free.
func (s *subscription) isTurn() bool {
	members := s.b.members(func(other *subscription) bool { return other.place == s.place })
	return len(members) > 0 && members[s.turn%len(members)] == s
}

// isLater reports whether another member of the group is of a process that was there before.
func (s *subscription) isLater() bool {
	return len(s.b.members(func(other *subscription) bool {
		return other.place == s.place && other.process != nil && other.process.number < s.process.number
	})) > 0
}

func (s *subscription) inGroup() bool { return s.o.Grouped }

// pokeAll wakes all that share the place of s. b.mu is held.
func (s *subscription) pokeAll() {
	if !s.inGroup() {
		s.poke()
		return
	}
	for _, other := range s.b.toPoke() {
		if other.place == s.place {
			other.poke()
		}
	}
}

// join gives s the place of its group. b.mu is held.
func (b *Bus) join(s *subscription) error {
	const letters = "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	name := s.o.Group
	if bad := name == "" || len(name) > 32 || strings.Trim(name, letters) != ""; bad && !b.bug("groupNameUnchecked") {
		return fmt.Errorf("%w: group %q: want 1 to 32 letters, digits, '-' and '_'", bus.ErrBadSubject, name)
	}
	if s.o.Durable {
		return b.joinDurable(s)
	}
	if s.o.Start.Kind != bus.StartNew && !b.bug("groupStartIgnored") {
		return fmt.Errorf("a start position in group %s is %w", name, bus.ErrUnsupported)
	}
	if b.bug("groupAll") {
		return nil
	}
	if b.bug("groupRemembers") {
		if kept := b.kept[name+" "+s.pattern]; kept != nil {
			s.place = kept
		}
		b.kept[name+" "+s.pattern] = s.place
		return nil
	}
	for _, other := range b.subs {
		sameName := other.o.Group == name || b.bug("groupNameForgotten") && other.o.Grouped
		samePattern := other.pattern == s.pattern || b.bug("groupPatternForgotten")
		if sameName && samePattern && !other.o.Durable {
			s.place = other.place
			if b.bug("groupStartsOver") {
				for _, l := range s.legs {
					l.pos = l.st.lost
				}
			}
			return nil
		}
	}
	return nil
}

// joinDurable is join for a durable group, which it makes when it isn't there.
func (b *Bus) joinDurable(s *subscription) error {
	st := b.whole(s.pattern)
	if st == nil && b.bug("durableUncaptured") {
		return nil
	}
	if st == nil {
		return fmt.Errorf("%w as a whole: %s (it touches %s)", bus.ErrNoStream, s.pattern, b.touched(s.pattern))
	}
	if s.o.Start.Kind == bus.StartLastPerSubject && !b.bug("lastPerSubjectInGroup") {
		return fmt.Errorf("LastPerSubject in a durable group is %w", bus.ErrUnsupported)
	}
	limit, _ := s.attempts()
	if dead := "dead." + s.o.Group + "." + s.pattern; (limit > 0 || b.bug("zeroNeedsDead")) && !b.bug("deadUnneeded") {
		if to := b.whole(dead); to == nil || to == st && !b.bug("deadInItself") {
			return fmt.Errorf("%w but that of the pattern itself: %s", bus.ErrNoStream, dead)
		}
	}
	g := b.groups[s.o.Group]
	if g != nil && g.pattern != s.pattern && !b.bug("conflictIgnored") && !(b.bug("conflictForgotten") && !b.hasMembers(g)) {
		return fmt.Errorf("%w: group %s has the pattern %s", bus.ErrConflict, g.name, g.pattern)
	}
	if g != nil && b.bug("positionOutlivesStream") {
		g.st, g.place.legs[0].st = st, st
	}
	if g == nil || g.st != st || b.bug("durableAll") || b.bug("startsOver") {
		leg := &leg{st: st, pos: st.seq, past: st.seq, open: st.seq}
		if !b.bug("durableStartIgnored") {
			leg.seek(s, s.o.Start)
		}
		g = b.newGroup(s.o.Group, s.pattern, st, leg.pos)
		g.place.legs[0] = leg
		if err := b.write(line{Group: g.name, Pattern: g.pattern, Stream: st.cfg.Name, Seq: leg.pos}); err != nil {
			return err
		}
	}
	if !b.hasMembers(g) {
		g.place.legs[0].open = st.seq // nobody waits for a tick
	}
	s.place = g.place
	return nil
}

// newGroup makes a group that stands at a sequence.
func (b *Bus) newGroup(name, pattern string, st *stream, pos uint64) *group {
	g := &group{
		name: name, pattern: pattern, b: b, st: st,
		done: map[uint64]bool{}, failed: map[uint64]int{}, again: map[uint64]time.Time{},
	}
	g.place = &place{group: g, legs: []*leg{{st: st, pos: pos, past: st.seq, open: st.seq}}}
	b.groups[name] = g
	return g
}

func (b *Bus) hasMembers(g *group) bool {
	return slices.ContainsFunc(b.subs, func(s *subscription) bool { return s.group == g })
}

// whole returns the stream that captures every subject of a pattern.
func (b *Bus) whole(pattern string) *stream {
	for _, st := range b.streams {
		for _, captured := range st.cfg.Subjects {
			if contains(captured, pattern) {
				return st
			}
		}
	}
	return nil
}

// takeFromGroup takes what is due again, or else what comes next. b.mu is held.
func (s *subscription) takeFromGroup() (*bus.Message, *bus.Problem) {
	g := s.group
	for seq, due := range g.again {
		if time.Now().Before(due) || s.b.closing {
			continue // what fails while the bus closes is left for the next time
		}
		delete(g.again, seq)
		if i := slices.IndexFunc(g.st.msgs, func(m *bus.Message) bool { return m.Cursor.Sequence() == seq }); i >= 0 {
			return g.attempt(g.st.msgs[i]), nil
		}
		gap := &bus.GapError{Stream: g.st.cfg.Name, Before: g.st.cursor(seq + 1), Missed: 1}
		return nil, &bus.Problem{Err: gap, Pattern: s.pattern}
	}
	for {
		m, p := s.takeFrom(s.legs[0])
		if m == nil {
			return nil, p
		}
		if !g.done[m.Cursor.Sequence()] {
			if g.b.bug("doneBeforeHandled") {
				g.finish(m.Cursor.Sequence())
			}
			return g.attempt(m), nil
		}
	}
}

// attempt is m with the number of its delivery.
func (g *group) attempt(m *bus.Message) *bus.Message {
	numbered := *m
	numbered.Attempt = 1
	if !g.b.bug("attemptStuck") {
		numbered.Attempt += g.failed[m.Cursor.Sequence()]
	}
	return &numbered
}

// settle decides what becomes of a message for which the handler of s has returned err.
func (g *group) settle(s *subscription, m *bus.Message, err error) {
	b, seq := g.b, m.Cursor.Sequence()
	b.mu.Lock()
	defer b.mu.Unlock()
	limit, wait := s.attempts()
	cutShort := s.ended || b.closing // no attempt that counts
	switch {
	case err == nil || b.bug("neverRedelivers") || b.bug("panicIsDone") && errors.Is(err, bus.ErrPanic) ||
		b.bug("goexitIsDone") && errors.Is(err, errGoexit):
		g.finish(seq)
		return
	case cutShort && !b.bug("cutShortCounts"):
		g.redeliver(seq, 0)
		return
	}
	g.failed[seq]++
	if limit == 0 || g.failed[seq] < limit {
		g.redeliver(seq, wait(g.failed[seq]))
		return
	}
	dead := g.bury(m, err)
	if dead == nil && b.bug("deadGoesOn") {
		g.redeliver(seq, wait(g.failed[seq]))
		return
	}
	if dead == nil || b.bug("doneBeforeDead") {
		g.finish(seq)
		return
	}
	b.report(bus.Problem{Err: dead, Pattern: g.pattern, Subject: m.Subject, Cursor: m.Cursor})
	g.redeliver(seq, wait(g.failed[seq]))
}

// redeliver lets a message be taken again after a while.
func (g *group) redeliver(seq uint64, wait time.Duration) {
	g.again[seq] = time.Now().Add(wait)
	time.AfterFunc(wait, func() {
		g.b.mu.Lock()
		defer g.b.mu.Unlock()
		for _, s := range g.b.toPoke() {
			if s.group == g {
				s.poke()
			}
		}
	})
}

// bury publishes the dead letter of m.
func (g *group) bury(m *bus.Message, reason error) error {
	if g.b.bug("deadLost") {
		return nil
	}
	header := m.Header.Clone()
	if header == nil || g.b.bug("deadHeadless") {
		header = bus.Header{}
	}
	text := strings.ReplaceAll(reason.Error(), "\x00", " ")
	if len(text) > 1024 && !g.b.bug("deadErrorWhole") {
		text = strings.ToValidUTF8(text[:1024], "")
	}
	if !g.b.bug("deadErrorRaw") {
		text = strings.Join(strings.Fields(text), " ")
	}
	header["Dead-Error"] = []string{text}
	if err := checkHeader(header); err != nil {
		return err
	}
	letter := g.b.message("dead."+g.name+"."+m.Subject, m.Data, header)
	to := g.b.capturing(letter.Subject)
	if to == nil {
		return bus.ErrNoStream
	}
	if g.b.cfg.MaxPayload > 0 && len(text) > g.b.cfg.MaxPayload {
		return bus.ErrTooLarge
	}
	return g.b.append(to, letter, bus.PublishOptions{})
}

// finish notes that a message is done.
func (g *group) finish(seq uint64) {
	if !g.b.bug("doneNotStored") {
		if err := g.b.write(line{Group: g.name, Done: seq}); err != nil {
			g.b.report(bus.Problem{Err: err, Pattern: g.pattern})
		}
	}
	g.done[seq] = true
	delete(g.failed, seq)
	delete(g.again, seq)
}

// left is what becomes of the place of s when s has ended. b.mu is held.
func (s *subscription) left() {
	if s.inGroup() && s.b.bug("groupLosesOnLeave") {
		s.queue = nil
		for _, l := range s.legs {
			l.pos = l.st.seq
		}
	}
	if s.group != nil && s.b.bug("positionForgotten") && !s.b.hasMembers(s.group) {
		delete(s.b.groups, s.group.name)
	}
	if s.group != nil && s.b.bug("repetitionForgotten") && !s.b.hasMembers(s.group) {
		clear(s.group.again)
	}
	if s.inGroup() {
		s.pokeAll() // one that was woken for a message may be the one that ends
	}
}

// RemoveStream implements bus.Remover.
func (b *Bus) RemoveStream(ctx context.Context, name string) error {
	ctx = b.heeded(ctx, "removeHeedsNothing")
	return b.wrap("remove", name, b.over(ctx, nil, func() error { return b.removeStream(ctx, name) }), nil)
}

func (b *Bus) removeStream(ctx context.Context, name string) error {
	b.mu.Lock()
	if err := b.refuse(ctx); err != nil {
		b.mu.Unlock()
		return err
	}
	if b.cfg.NoRemoval {
		b.mu.Unlock()
		return b.lacks("removal")
	}
	i := slices.IndexFunc(b.streams, func(st *stream) bool { return st.cfg.Name == name })
	if i < 0 {
		b.mu.Unlock()
		if b.bug("removeUnknownOK") {
			return nil
		}
		return bus.ErrNoStream
	}
	st := b.streams[i]
	ended := b.members(func(s *subscription) bool {
		return slices.ContainsFunc(s.legs, func(l *leg) bool { return l.st == st })
	})
	if b.bug("removeUntoldElsewhere") {
		ended = slices.DeleteFunc(ended, func(s *subscription) bool { return s.stranger(ctx) })
	}
	if b.bug("removeSpares") {
		ended = nil
	}
	b.forgetStream(i)
	err := b.write(line{Stream: name, Removed: true})
	b.mu.Unlock()
	for _, s := range ended {
		s.change()
	}
	return err
}

// forgetStream removes a stream and the groups on it.
func (b *Bus) forgetStream(i int) {
	for name, g := range b.groups {
		switch {
		case g.st != b.streams[i], b.bug("positionOutlivesStream"):
		default:
			delete(b.groups, name)
		}
	}
	b.streams = slices.Delete(b.streams, i, i+1)
}

// RemoveGroup implements bus.Remover.
func (b *Bus) RemoveGroup(ctx context.Context, name string) error {
	ctx = b.heeded(ctx, "removeGroupHeedsNothing")
	return b.wrap("remove group", name, b.over(ctx, nil, func() error { return b.removeGroup(ctx, name) }), nil)
}

func (b *Bus) removeGroup(ctx context.Context, name string) error {
	b.mu.Lock()
	if err := b.refuse(ctx); err != nil {
		b.mu.Unlock()
		return err
	}
	g := b.groups[name]
	if g == nil {
		b.mu.Unlock()
		return nil
	}
	ended := b.members(func(s *subscription) bool { return s.group == g })
	if b.bug("removeLeavesMembers") {
		ended = nil
	}
	if b.bug("removeUntoldElsewhere") {
		ended = slices.DeleteFunc(ended, func(s *subscription) bool { return s.stranger(ctx) })
	}
	var err error
	if !b.bug("removeKeeps") {
		delete(b.groups, name)
		err = b.write(line{Group: name, Removed: true})
	}
	b.mu.Unlock()
	for _, s := range ended {
		s.change()
	}
	return err
}

func (b *Bus) members(which func(*subscription) bool) []*subscription {
	var members []*subscription
	for _, s := range b.subs {
		if which(s) {
			members = append(members, s)
		}
	}
	return members
}

// change ends a subscription since what it stands on has changed, and tells its hook.
func (s *subscription) change() {
	s.end(bus.ErrStreamChanged)
	if s.b.bug("changeWaits") {
		<-s.done
	}
}
