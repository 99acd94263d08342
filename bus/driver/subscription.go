package driver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	defaultMaxMsgs  = 1024
	defaultMaxBytes = 1 << 20
	maxBatch        = 1024
	// freshness is how old the answer may be that a waiting message still stands.
	freshness = 100 * time.Millisecond
)

// subscription runs one handler.
type subscription struct {
	b        *Bus
	pattern  string
	handler  bus.Handler
	hook     bus.ErrorHook // nil: the bus's
	route    route         // under b.mu
	grouped  bool          // it is in a group, or about to be
	member   *group        // under mu: that it is in
	fills    *group        // whose inner subscription it is; nil: none's
	attempts int           // of a member of a durable group; 0: without end
	waits    []time.Duration
	maxMsgs  int
	maxBytes int
	parent   handlerContext
	ctx      context.Context // of the handler
	cancel   context.CancelFunc
	ready    func() // tells the gate; nil without one
	leaveFn  func()
	until    func() bool // stops watching the context given as Until

	done     signal
	caughtUp signal
	dropped  atomic.Uint64

	place int // among those of the bus, under b.mu

	// What most need is made with them.
	one     leg
	oneUsed atomic.Bool
	oneLeg  [1]*leg // what legs begins with

	mu       sync.Mutex
	legs     []*leg
	turn     int  // the leg that is asked first
	running  bool // the crew has it
	waiting  bool // the gate knows that something waits
	whole    bool // all legs are there; a gate may have the goroutine run before
	standing bool // Subscribe has returned it
	counted  bool // in the metrics
	ended    bool
	over     bool // done is closed, or about to be
	err      error
	draining bool
	last     bus.Cursor // of the last message that was handed over from a stream

	// The first messages of a leg's batch, or of a live leg's queue, are lent to the runner, who claims one after the other
	// without the lock. Whoever else needs them settles before: what isn't claimed by then isn't lent any more.
	lender *leg
	hand   *hand // nil while the crew hasn't s
}

func (s *subscription) spot() *int { return &s.place }

// handlerContext is what the handler's context comes from: Until, or none, and whose it is.
type handlerContext struct {
	context.Context
	s *subscription
}

func (c *handlerContext) Value(key any) any {
	if inside, ok := key.(insideKey); ok && inside.Bus == c.s.b {
		return c.s
	}
	return c.Context.Value(key)
}

// newLeg returns one that isn't a part of s yet.
func (s *subscription) newLeg() *leg {
	l := &s.one
	if s.oneUsed.Swap(true) {
		l = new(leg)
	}
	l.sub = s
	return l
}

// startLocked has the crew hand over, if it doesn't already.
func (s *subscription) startLocked() {
	if s.beginLocked() {
		s.b.crew.add(s)
	}
}

// beginLocked reports whether the caller is to add s to the crew.
func (s *subscription) beginLocked() bool {
	begin := !s.running && !s.over
	s.running = s.running || begin
	return begin
}

// wakeLocked says that a queue isn't empty. It reports whether the caller is to add s to the crew.
func (s *subscription) wakeLocked() bool {
	if s.ready == nil || s.draining {
		return s.beginLocked()
	}
	if !s.waiting {
		s.waiting = true
		s.ready()
	}
	return false
}

// release is called by the gate: what waits now may be handed over.
func (s *subscription) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
	s.settleLocked()
	for _, l := range s.legs {
		if l.open == 0 {
			l.allowMsgs, l.allowBytes = max(s.maxMsgs, l.queue.len), max(s.maxBytes, l.queue.bytes)
		}
		l.open = l.queue.len
	}
	s.startLocked()
}

// run hands over what there is, and returns when there is nothing.
func (s *subscription) run() {
	finished := false
	defer func() {
		if !finished { // a handler has ended the goroutine
			s.b.crew.add(s)
		}
	}()
	for s.step() {
	}
	finished = true
}

// step does one thing and reports whether there may be another one.
func (s *subscription) step() bool {
	s.mu.Lock()
	s.settleLocked()
	if notices := s.noticesLocked(); len(notices) > 0 {
		s.mu.Unlock()
		for _, err := range notices {
			if slow, ok := err.(*bus.SlowError); ok && slow.Dropped > 0 && s.b.metrics != nil {
				s.b.metrics.Dropped(s.pattern, slow.Dropped)
			}
			s.report(bus.Problem{Err: err})
		}
		return true
	}
	if s.ended {
		s.over = true
		s.restLocked()
		s.mu.Unlock()
		s.done.fire()
		lockSoon(&s.b.mu)
		s.b.subs.remove(s) // until now Close has waited for it
		s.b.mu.Unlock()
		return false
	}
	s.markCaughtUpLocked()
	if s.draining && !slices.ContainsFunc(s.legs, func(l *leg) bool { return !l.drainedLocked() }) {
		s.mu.Unlock()
		s.end(bus.ErrClosed)
		return true
	}
	for i := range s.legs {
		l := s.legs[(s.turn+i)%len(s.legs)]
		if s.draining && l.drainedLocked() {
			continue
		}
		if h := s.lendLocked(l); h != nil {
			s.turn = (s.turn + i + 1) % len(s.legs)
			s.mu.Unlock()
			s.handOver(l, h)
			return true
		}
		if m, err := s.nextLocked(l); m != nil || err != nil {
			s.turn = (s.turn + i + 1) % len(s.legs)
			s.mu.Unlock()
			if err != nil {
				s.report(bus.Problem{Err: err})
			} else if l.group != nil {
				s.callMember(l, l.taken)
			} else {
				s.call(m)
			}
			return true
		}
		if l.feed != nil && l.state != live && len(l.batch) == 0 && (l.state == joining || l.queue.len == 0) {
			s.turn = (s.turn + i + 1) % len(s.legs)
			s.mu.Unlock()
			s.fill(l)
			return true
		}
	}
	s.restLocked()
	s.mu.Unlock()
	return false
}

// restLocked says that the crew has nothing to do any more.
func (s *subscription) restLocked() {
	s.running = false
	if s.hand != nil {
		clear(s.hand.items[:])
		clear(s.hand.read[:])
		s.hand.batch = nil
		hands.Put(s.hand)
		s.hand = nil
	}
}

// maxLoan is how many messages are lent at once.
const maxLoan = 64

// hand is what the runner is lent: messages that were read, or those of a queue. It isn't a part of the subscription, whose
// memory publishers write to.
type hand struct {
	batch   []*bus.Message // of read; nil: they are items
	read    [maxLoan]*bus.Message
	readAt  time.Duration
	items   [blockLen]item
	n       int
	claimed atomic.Int32
}

var hands = sync.Pool{New: func() any { return new(hand) }}

// at returns what is lent in a place.
func (h *hand) at(i int) item {
	if h.batch != nil {
		return item{m: h.batch[i], at: h.readAt}
	}
	return h.items[i]
}

// lendLocked lends the first messages of a leg's batch or queue, if there are several and the store needn't be asked.
func (s *subscription) lendLocked(l *leg) *hand {
	if l.group != nil || len(l.holes) > 0 || s.draining {
		return nil
	}
	if n := min(len(l.batch), maxLoan); n > 0 {
		if n == 1 || !l.fresh && s.stale(l, item{m: l.batch[0], at: l.readAt}) {
			return nil
		}
		h := s.handLocked(l)
		h.batch, h.readAt, h.n = h.read[:copy(h.read[:], l.batch[:n])], l.readAt, n
		h.claimed.Store(0)
		return h
	}
	if l.state != live {
		return nil
	}
	most := l.queue.len
	if s.ready != nil {
		most = l.open
	}
	if most < 2 || l.feed != nil && s.stale(l, l.queue.peek()) {
		return nil
	}
	h := s.handLocked(l)
	h.batch, h.n = nil, l.queue.copyTo(h.items[:min(most, blockLen)])
	h.claimed.Store(0)
	return h
}

func (s *subscription) handLocked(lender *leg) *hand {
	if s.hand == nil {
		s.hand = hands.Get().(*hand)
	}
	s.lender = lender
	return s.hand
}

// handOver calls the handler with what was lent, until it isn't any more.
func (s *subscription) handOver(l *leg, h *hand) {
	for i := 0; i < h.n; {
		var more bool
		if i, more = s.handOverFrom(l, h, i); !more {
			return
		}
	}
}

// handOverFrom does it from a place on, up to one where the handler panics, and returns the next place.
func (s *subscription) handOverFrom(l *leg, h *hand, i int) (next int, more bool) {
	if s.b.metrics != nil || s.b.traces != nil {
		it, ok := s.claim(l, h, i)
		if ok {
			s.call(it.m)
		}
		return i + 1, ok
	}
	var m *bus.Message // that the handler has
	defer func() {
		if m != nil {
			s.reportEnd(m, recover())
			next, more = i+1, true
		}
	}()
	for ; i < h.n; i++ {
		it, ok := s.claim(l, h, i)
		if !ok {
			return i, false
		}
		m = it.m
		err := s.handler(s.ctx, m)
		m = nil
		if err != nil {
			s.report(bus.Problem{Err: err, Subject: it.m.Subject, Cursor: it.m.Cursor})
		}
	}
	return i, true
}

// claim takes what is lent in a place, unless it isn't any more, or the store must be asked about it.
func (s *subscription) claim(l *leg, h *hand, i int) (it item, ok bool) {
	it = h.at(i)
	if l.feed != nil && i > 0 && s.stale(l, it) || !h.claimed.CompareAndSwap(int32(i), int32(i+1)) {
		return item{}, false
	}
	return it, true
}

// settleLocked ends a loan: what was claimed is taken from the batch or the queue.
func (s *subscription) settleLocked() {
	l := s.lender
	if l == nil {
		return
	}
	s.lender = nil
	n := int(s.hand.claimed.Swap(-1))
	if n == 0 {
		return
	}
	s.handedLocked(s.hand.at(n - 1).m)
	if len(l.batch) > 0 { // only the runner, who has what is lent, makes a batch
		l.shortenLocked(n)
		return
	}
	l.queue.drop(n)
	l.open = max(0, l.open-n)
}

// handedLocked notes a message that is handed over.
func (s *subscription) handedLocked(m *bus.Message) {
	if !m.Cursor.IsZero() {
		s.last = m.Cursor
	}
}

// noticesLocked takes what is to be told before the next message.
func (s *subscription) noticesLocked() []error {
	var notices []error
	for _, l := range s.legs {
		notices, l.notices = append(notices, l.notices...), nil
		if l.dropped > 0 {
			notices = append(notices, &bus.SlowError{Dropped: l.dropped})
			l.dropped = 0
		}
	}
	return notices
}

func (s *subscription) markCaughtUpLocked() {
	if s.caughtUp.fired() || !s.whole || slices.ContainsFunc(s.legs, func(l *leg) bool { return !l.caughtUpLocked() }) {
		return
	}
	s.caughtUp.fire()
}

// nextLocked takes the next message of a leg, or the news of a hole before it.
func (s *subscription) nextLocked(l *leg) (*bus.Message, error) {
	if len(l.batch) > 0 || len(l.holes) > 0 {
		if len(l.holes) > 0 && (len(l.batch) == 0 || l.holes[0].Before <= l.batch[0].Cursor.Sequence()) {
			h := l.holes[0]
			l.holes = l.holes[1:]
			return nil, &bus.GapError{Stream: l.feed.name, After: cursorOrZero(l.epoch, h.After), Before: bus.NewCursor(l.epoch, h.Before), Missed: h.Before - h.After - 1}
		}
		m := l.batch[0]
		if !l.fresh && s.stale(l, item{m: m, at: l.readAt}) {
			if l.snapshot {
				l.resnap, l.batch = l.batch, nil
			} else {
				l.rereadLocked(m.Cursor.Sequence())
			}
			return nil, nil
		}
		l.shortenLocked(1)
		s.handedLocked(m)
		return m, nil
	}
	if l.state == joining || l.queue.len == 0 || s.ready != nil && l.open == 0 && !s.draining {
		return nil, nil
	}
	it := l.queue.peek()
	if l.feed != nil && s.stale(l, it) {
		l.rereadLocked(it.m.Cursor.Sequence())
		return nil, nil
	}
	l.queue.pop()
	l.open = max(0, l.open-1)
	if l.listener != nil && s.draining {
		l.drainTo--
	}
	s.handedLocked(it.m)
	return it.m, nil
}

func cursorOrZero(epoch string, seq uint64) bus.Cursor {
	if seq == 0 {
		return bus.Cursor{}
	}
	return bus.NewCursor(epoch, seq)
}

// errGoexit is how a handler fails that runtime.Goexit has ended, as t.FailNow does.
var errGoexit = fmt.Errorf("%w: it has ended its goroutine", bus.ErrPanic)

// call runs the handler and returns how it failed, which it has told.
func (s *subscription) call(m *bus.Message) (failure error) {
	if s.b.metrics != nil && s.fills == nil {
		defer s.measure(m, time.Now(), &failure)
	}
	returned := false
	defer func() {
		if !returned {
			failure = s.reportEnd(m, recover())
		}
	}()
	ctx := s.ctx
	if s.b.traces != nil && m.Header != nil {
		ctx = s.b.traces.Extract(ctx, m.Header)
	}
	failure = s.handler(ctx, m)
	returned = true
	if failure != nil {
		s.report(bus.Problem{Err: failure, Subject: m.Subject, Cursor: m.Cursor})
	}
	return failure
}

// reportEnd tells that a handler hasn't returned, but panicked, or ended its goroutine (nothing was recovered).
func (s *subscription) reportEnd(m *bus.Message, recovered any) error {
	failure := errGoexit
	if recovered != nil {
		failure = fmt.Errorf("%w: %v", bus.ErrPanic, recovered)
	}
	s.report(bus.Problem{Err: failure, Subject: m.Subject, Cursor: m.Cursor, Stack: debug.Stack()})
	return failure
}

// measure tells how a call of the handler went that began at a time.
func (s *subscription) measure(m *bus.Message, began time.Time, failure *error) {
	stream, age := "", time.Duration(0)
	if holder, captured := s.b.table.Load().captures(m.Subject); captured && !m.Cursor.IsZero() {
		stream = holder.Config.Name
	}
	if !m.Time.IsZero() && !m.Replayed {
		age = max(0, began.Sub(m.Time))
	}
	s.b.metrics.Handled(stream, s.pattern, age, time.Since(began), *failure)
}

// report tells the subscription's hook in turn, or the bus's on its own goroutine.
func (s *subscription) report(p bus.Problem) {
	p.Pattern = s.pattern
	if s.hook != nil {
		callHook(s.hook, p, s.b.log)
	} else {
		s.b.Report(p)
	}
}

// end lets no new call of the handler start. The first reason holds.
func (s *subscription) end(reason error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.settleLocked()
	s.ended, s.err = true, reason
	var back *Delivery
	for i, l := range s.legs {
		if l.group != nil && l.queue.len > 0 {
			back = l.taken
		}
		l.queue.clear()
		l.batch, l.holes = nil, nil
		if i == 0 && s.standing && errors.Is(reason, bus.ErrStreamChanged) {
			l.notices = append(l.notices, reason) // nobody may be watching Done
		}
	}
	legs, until, counted := s.legs, s.until, s.counted
	s.startLocked() // closes done
	s.mu.Unlock()
	if counted {
		s.b.metrics.Subscriptions(-1)
	}

	s.cancel()
	if until != nil {
		until()
	}
	if s.leaveFn != nil {
		s.leaveFn()
	}
	if s.fills != nil && errors.Is(reason, bus.ErrStreamChanged) {
		go s.fills.end(reason)
	}
	for _, l := range legs {
		if l.group != nil {
			l.group.leave(l, back)
		} else if f := l.feed; f != nil {
			f.mu.Lock()
			f.legs.remove(l)
			f.index.Remove(s.pattern, l)
			f.mu.Unlock()
			s.b.releaseFeed(f)
		} else {
			l.listener.remove(l)
			s.b.releaseListener(l.listener)
		}
	}
}

// Unsubscribe implements bus.Subscription.
func (s *subscription) Unsubscribe(ctx context.Context) error {
	s.end(nil)
	if s.b.inside(ctx) {
		return nil
	}
	if err := s.awaitEnd(ctx); err != nil {
		return fmt.Errorf("bus: unsubscribe %q: the handler is still running: %w", s.pattern, err)
	}
	if g := s.groupOf(); g != nil {
		g.stopUnused(ctx)
	}
	return nil
}

// awaitEnd returns when no handler runs any more, or the caller or the bus ends the wait.
func (s *subscription) awaitEnd(ctx context.Context) error {
	if s.done.fired() {
		return nil
	}
	select {
	case <-s.done.channel():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.b.outside.Done():
	}
	// The bus is closing. The handler's context was cancelled when the subscription ended, so it is given as long as one that
	// Close waits for no longer.
	grace := time.NewTimer(cancelGrace)
	defer grace.Stop()
	select {
	case <-s.done.channel():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-grace.C:
		return bus.ErrClosed
	}
}

// groupOf returns the group that s is or was a member of.
func (s *subscription) groupOf() *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.member
}

// CaughtUp implements bus.Subscription.
func (s *subscription) CaughtUp() <-chan struct{} { return s.caughtUp.channel() }

// Done implements bus.Subscription.
func (s *subscription) Done() <-chan struct{} { return s.done.channel() }

// Err implements bus.Subscription.
func (s *subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Dropped implements bus.Subscription.
func (s *subscription) Dropped() uint64 {
	if g := s.groupOf(); g != nil {
		if inner := g.inner.Load(); inner != nil {
			return inner.dropped.Load()
		}
	}
	return s.dropped.Load()
}
