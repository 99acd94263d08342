package refbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// subscription is a handler's place in the bus. Its fields are behind the bus' mutex,
// except those that never change.
type subscription struct {
	b           *Bus
	ballast     []byte // of the bug fatSub
	pattern     string
	handler     bus.Handler
	o           bus.SubscribeOptions
	ctx         context.Context
	cancel      context.CancelFunc
	running     bool // on a goroutine of its own, as long as there is something to do
	over        bool // done is being closed
	done        chan struct{}
	caughtUp    chan struct{}
	stopUntil   func() bool
	number      int
	process     *process // that it is of, if there are several
	began       time.Time
	early       bool // of the bug lateSub
	goneAwaited bool // of the bugs waitsForGone and panicStopsReplay
	lost        bool // a connection was, and that is to be told
	reorder     bool // of the bug reorderOnReconnect

	*place
	ended    bool
	err      error
	isCaught bool

	serial sync.Mutex     // of the bug goPerMsg
	last   *bus.Problem   // why it ended, if that is to be told
	held   []*bus.Message // of the bug causeLater
	keep   []byte         // of the bug reuseBuffer
}

// position makes a subscription that stands where o says. b.mu is held.
func (b *Bus) position(ctx context.Context, pattern string, handler bus.Handler, o bus.SubscribeOptions) (*subscription, error) {
	if err := bus.CheckPattern(pattern); err != nil {
		reserved := strings.HasPrefix(pattern, "$") || strings.HasPrefix(pattern, "_")
		if !(reserved && b.bug("reservedOK")) && !(!reserved && b.bug("noValidate")) {
			return nil, err
		}
	}
	if handler == nil || o.Start.Kind == bus.StartLast && o.Start.N < 0 || o.MaxMsgs < 0 || o.MaxBytes < 0 {
		if !b.bug("negativeOK") {
			return nil, errors.New("the handler is nil, or a number is negative")
		}
	}
	switch {
	case o.Durable && (b.cfg.NoDurableGroups || b.cfg.NoStreams), o.Grouped && !o.Durable && b.cfg.NoGroups:
		if !b.bug("groupIgnored") {
			return nil, b.lacks("group " + o.Group)
		}
		o.Grouped, o.Durable = false, false
	}
	s := &subscription{
		b: b, pattern: pattern, handler: handler, o: o, place: &place{},
		done: make(chan struct{}), caughtUp: make(chan struct{}),
		stopUntil: func() bool { return true }, began: time.Now(),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithValue(context.Background(), handlerKey{b}, s))
	b.created++
	s.number = b.created
	var touched []string
	whole := false
	for _, st := range b.streams {
		for _, captured := range st.cfg.Subjects {
			if overlap(captured, pattern) {
				s.legs = append(s.legs, &leg{st: st, pos: st.seq, past: st.seq, open: st.seq})
				touched = append(touched, st.cfg.Name)
				whole = whole || contains(captured, pattern)
				break
			}
		}
	}
	if s.inGroup() {
		if err := b.join(s); err != nil {
			s.cancel()
			return nil, err
		}
		s.isCaught = !b.bug("groupWaits")
		if s.isCaught {
			close(s.caughtUp)
		}
	} else if o.Start.Kind != bus.StartNew && !(o.Start.Kind == bus.StartLast && o.Start.N <= 0) {
		if !whole {
			if b.bug("startIgnored") {
				o.Start = bus.Start{}
			} else if b.bug("streamsUnnamed") {
				return nil, bus.ErrNoStream
			} else {
				return nil, fmt.Errorf("%w as a whole (it touches %s)", bus.ErrNoStream, strings.Join(touched, ", "))
			}
		} else if !b.bug("liveOnly") && !(b.bug("inHandlerOnlyNew") && b.inHandler(ctx)) {
			s.legs[0].seek(s, o.Start)
		}
	}
	if b.bug("lateSub") {
		s.early = true
		time.AfterFunc(2*time.Millisecond, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			s.early = false
			for _, l := range s.legs {
				l.pos = l.st.seq
			}
		})
	}
	s.checkCaughtUp()
	return s, nil
}

func (s *subscription) matches(subject string) bool {
	p := s.pattern
	switch s.b.cfg.Bug {
	case "midStarLiteral":
		// A '*' between literals is taken for itself when a '>' follows.
		if tokens := strings.Split(p, "."); len(tokens) > 3 && tokens[len(tokens)-1] == ">" && tokens[len(tokens)-3] == "*" && tokens[len(tokens)-2] != "*" {
			return false
		}
	case "starMany":
		if head, ok := strings.CutSuffix(p, ".*"); ok {
			p = head + ".>"
		}
	case "tailZero":
		if head, ok := strings.CutSuffix(p, ".>"); ok && head == subject {
			return true
		}
	case "prefix":
		if !strings.ContainsAny(p, "*>") {
			return strings.HasPrefix(subject, p)
		}
	case "reservedOK", "wildcardOK", "noValidate":
		// Match is for what is valid.
		if subject == p {
			return true
		}
		if head, ok := strings.CutSuffix(p, ">"); ok && strings.HasPrefix(subject, head) {
			return true
		}
	}
	return bus.Match(p, subject)
}

// limits of the queue.
func (s *subscription) limits() (msgs, size int) {
	msgs, size = s.o.MaxMsgs, s.o.MaxBytes
	if s.b.bug("boundedBurst") {
		msgs = min(msgs, 10_000)
	}
	if msgs <= 0 {
		msgs = defaultMsgs
		if s.b.bug("smallDefault") {
			msgs = 256
		}
	}
	if size <= 0 {
		size = defaultBytes
	}
	return msgs, size
}

func (s *subscription) full(m *bus.Message) bool {
	msgs, size := s.limits()
	waiting := len(s.queue)
	if s.b.bug("tickUnbounds") {
		waiting -= s.open
	}
	return len(s.queue) > 0 && (waiting >= msgs || s.bytes+len(m.Data) > size && !s.b.bug("bytesUnbounded"))
}

// push queues an uncaptured message and drops the oldest ones for which there is no room.
func (s *subscription) push(m *bus.Message) {
	if _, size := s.limits(); len(m.Data) > size && s.b.bug("bigDropped") || s.b.bug("lose1pc") && rand.IntN(100) == 0 {
		return
	}
	for s.full(m) {
		s.bytes -= len(s.queue[0].Data)
		s.queue = s.queue[1:]
		s.open = max(0, s.open-1)
		s.dropped++
		if s.b.bug("silentDrop") {
			s.dropped, s.reported = 0, 0
		}
		if s.b.bug("dropsUntold") {
			s.reported = s.dropped
		}
	}
	s.queue = append(s.queue, m)
	s.bytes += len(m.Data)
	if s.b.cfg.Tick == 0 || s.b.bug("earlyTick") {
		s.allow()
	}
	s.b.tick(s)
	s.pokeAll()
	if s.b.bug("dup") && rand.IntN(3) == 0 {
		s.queue = append(s.queue, m)
		s.open++
	}
	if s.b.bug("lateDup") {
		time.AfterFunc(5*time.Millisecond, func() {
			s.b.mu.Lock()
			defer s.b.mu.Unlock()
			s.queue = append(s.queue, m)
			s.open = len(s.queue)
			s.pokeAll()
		})
	}
}

// allow lets through all that is there now.
func (s *subscription) allow() {
	s.open = len(s.queue)
	for _, l := range s.legs {
		l.open = l.st.seq
	}
}

// poke has the subscription look for what there is to do. b.mu is held. Ten thousand that wait
// cost no goroutine: under the race detector each takes more than 100 KiB.
func (s *subscription) poke() {
	if s.running || s.over {
		return
	}
	s.running = true
	if m, p := s.next(); m != nil || p != nil {
		go s.run(m, p)
	}
}

// toPoke is all subscriptions. While the bus closes, those that have nothing to do end when they are poked.
func (b *Bus) toPoke() []*subscription {
	if b.closing {
		return slices.Clone(b.subs)
	}
	return b.subs
}

// next returns a message or a problem; it returns neither when run is through. b.mu is held.
func (s *subscription) next() (*bus.Message, *bus.Problem) {
	if s.over { // of the bugs doneEarly and closeDoneEarly
		s.running = false
		return nil, nil
	}
	if s.ended {
		if last := s.last; last != nil {
			s.last = nil
			return nil, last
		}
		s.finished()
		return nil, nil
	}
	var m *bus.Message
	var p *bus.Problem
	if !(s.b.closing && !s.isCaught && s.b.bug("closeCutsReplay")) {
		m, p = s.take()
	}
	switch {
	case m != nil && s.b.bug("groupStuckMember"):
		s.turn++
		s.pokeAll()
	case m != nil || p != nil:
	case s.b.closing:
		s.endLocked(bus.ErrClosed)
		s.finished()
	default:
		s.checkCaughtUp()
		s.running = false
	}
	return m, p
}

// finished: the handler isn't running and will not run again. b.mu is held.
func (s *subscription) finished() {
	s.running, s.over = false, true
	close(s.done)
	s.b.leaving = slices.DeleteFunc(s.b.leaving, func(other *subscription) bool { return other == s })
}

// take removes what comes next. b.mu is held.
func (s *subscription) take() (*bus.Message, *bus.Problem) {
	if s.early || !s.b.connected() {
		return nil, nil
	}
	if s.lost {
		s.lost = false
		return nil, &bus.Problem{Err: &bus.SlowError{}, Pattern: s.pattern}
	}
	if s.dropped > s.reported {
		p := &bus.Problem{Err: &bus.SlowError{Dropped: s.dropped - s.reported}, Pattern: s.pattern}
		s.reported = s.dropped
		return nil, p
	}
	if s.inGroup() && s.b.bug("groupStuckMember") && !s.isTurn() {
		return nil, nil
	}
	if s.inGroup() && s.b.bug("groupOfFirst") && s.process != nil && s.isLater() {
		return nil, nil
	}
	if s.group != nil {
		return s.takeFromGroup()
	}
	for _, l := range s.legs {
		if m, p := s.takeFrom(l); m != nil || p != nil {
			return m, p
		}
	}
	if s.open == 0 && !s.b.closing || len(s.queue) == 0 {
		return nil, nil
	}
	i := 0
	if s.b.bug("lifo") {
		i = len(s.queue) - 1
	}
	if s.b.bug("perSubShuffle") && s.number%2 == 1 && len(s.queue) > 1 && s.queue[0].Subject != s.queue[1].Subject {
		i = 1
	}
	if s.b.bug("perSubjectQueue") {
		for k, m := range s.queue {
			if m.Subject < s.queue[i].Subject {
				i = k
			}
		}
	}
	m := s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	s.bytes -= len(m.Data)
	s.open--
	return m, nil
}

// checkCaughtUp closes CaughtUp when nothing is left of what was stored at the call.
// b.mu is held.
func (s *subscription) checkCaughtUp() {
	if s.isCaught || s.goneAwaited {
		return
	}
	for _, l := range s.legs {
		for _, m := range l.st.after(l.pos) {
			seq := m.Cursor.Sequence()
			if (seq <= l.past || s.b.bug("liveAwaited")) && s.matches(m.Subject) && (l.only == nil || l.only[seq]) {
				if s.b.bug("markerEarly") && len(l.st.after(l.pos)) < 5 {
					break
				}
				return
			}
		}
		if s.b.bug("gap") || s.b.bug("gapOfLast") && s.o.Start.Kind == bus.StartLast || s.b.bug("gapOfSnapshot") && l.only != nil {
			l.pos = l.st.seq
		}
	}
	s.isCaught = true
	close(s.caughtUp)
}

// end ends the subscription; the first reason counts.
func (s *subscription) end(err error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.endLocked(err)
}

func (s *subscription) endLocked(err error) {
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	s.stopUntil()
	switch {
	case s.b.bug("contextKept") && !errors.Is(err, bus.ErrClosed), s.b.bug("contextKeptOnChange") && errors.Is(err, bus.ErrStreamChanged):
	default:
		s.cancel()
	}
	if errors.Is(err, bus.ErrStreamChanged) && !s.b.bug("changeUntold") {
		s.last = &bus.Problem{Err: err, Pattern: s.pattern}
	}
	if s.b.bug("leakSubs") {
		s.b.leaked = append(s.b.leaked, s.handler)
	}
	s.b.subs = slices.DeleteFunc(s.b.subs, func(other *subscription) bool { return other == s })
	s.b.leaving = append(s.b.leaving, s)
	s.left()
	if s.b.bug("removeByFunc") {
		for _, other := range s.b.subs {
			if sameFunc(other.handler, s.handler) {
				other.early = true
			}
		}
	}
	s.poke()
}

// Unsubscribe implements bus.Subscription.
func (s *subscription) Unsubscribe(ctx context.Context) error {
	s.b.mu.Lock()
	again := s.ended
	s.b.mu.Unlock()
	if again && s.b.bug("unsubTwiceErr") {
		return errors.New("refbus: no such subscription")
	}
	if !s.b.bug("unsubNothing") {
		s.end(nil)
	}
	inside := s.b.inHandler(ctx)
	if inside && s.b.bug("doneEarly") {
		s.doneNow()
	}
	if s.b.bug("crossFence") {
		inside = ctx.Value(handlerKey{s.b}) == s
	}
	if inside && !s.b.bug("selfFence") || s.b.bug("noFence") || s.b.bug("unsubNothing") {
		return nil
	}
	if s.b.bug("selfFence") {
		ctx = context.WithoutCancel(ctx)
	}
	if s.b.bug("unsubWaits") {
		<-s.done
	}
	ends := s.b.ends
	if s.b.bug("unsubOutlivesClose") {
		ends = nil
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return s.b.wrap("unsubscribe", s.pattern, ctx.Err(), nil)
	case <-ends:
	}
	if s.heedsContext() {
		return nil
	}
	return s.b.wrap("unsubscribe", s.pattern, bus.ErrClosed, nil)
}

// heedsContext reports whether the handler returns soon after its context was cancelled.
func (s *subscription) heedsContext() bool {
	grace := time.NewTimer(20 * time.Millisecond)
	defer grace.Stop()
	select {
	case <-s.done:
		return true
	case <-grace.C:
		return false
	}
}

// doneNow closes Done while the handler runs, of the bugs doneEarly and closeDoneEarly.
func (s *subscription) doneNow() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.endLocked(bus.ErrClosed)
	if !s.over {
		s.over = true
		close(s.done)
	}
}

// CaughtUp implements bus.Subscription.
func (s *subscription) CaughtUp() <-chan struct{} { return s.caughtUp }

// Done implements bus.Subscription.
func (s *subscription) Done() <-chan struct{} { return s.done }

// Err implements bus.Subscription.
func (s *subscription) Err() error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.err
}

// Dropped implements bus.Subscription.
func (s *subscription) Dropped() uint64 {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.dropped
}

// sameFunc is how a bus goes wrong that removes a subscription by its handler.
func sameFunc(a, b bus.Handler) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}
