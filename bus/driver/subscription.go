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
	maxBatch        = 256
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
	maxMsgs  int
	maxBytes int
	ctx      context.Context // of the handler
	cancel   context.CancelFunc
	ready    func() // tells the gate; nil without one
	leaveFn  func()
	until    func() bool // stops watching the context given as Until

	done     chan struct{}
	caughtUp chan struct{}
	dropped  atomic.Uint64

	mu       sync.Mutex
	legs     []*leg
	turn     int  // the leg that is asked first
	running  bool // a goroutine runs
	waiting  bool // the gate knows that something waits
	caught   bool // caughtUp is closed
	standing bool // Subscribe has returned it
	ended    bool
	over     bool // done is closed, or about to be
	err      error
	draining bool
	last     bus.Cursor // of the last message that was handed over from a stream
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	s, err := b.subscribe(ctx, pattern, handler, opts)
	if err != nil {
		return nil, fmt.Errorf("bus: subscribe %.80q: %w", pattern, err)
	}
	return s, nil
}

func (b *Bus) subscribe(ctx context.Context, pattern string, handler bus.Handler, opts []bus.SubscribeOption) (*subscription, error) {
	counted, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer b.leave(counted)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := bus.CheckPattern(pattern); err != nil {
		return nil, err
	}
	o := bus.NewSubscribeOptions(opts)
	switch {
	case handler == nil:
		return nil, errors.New("the handler is nil")
	case o.Start.Kind == bus.StartLast && o.Start.N < 0:
		return nil, fmt.Errorf("bus.Last(%d): the number of messages can't be negative", o.Start.N)
	case o.MaxMsgs < 0 || o.MaxBytes < 0:
		return nil, errors.New("bus.Buffer: a bound can't be negative")
	case o.Durable:
		return nil, fmt.Errorf("bus.DurableGroup: %w", bus.ErrUnsupported)
	case o.Group != "":
		return nil, fmt.Errorf("bus.Group: %w", bus.ErrUnsupported)
	case o.Until != nil && o.Until.Err() != nil:
		return nil, fmt.Errorf("bus.Until: %w", o.Until.Err())
	}
	switch {
	case o.Start.Kind == bus.StartLast && o.Start.N == 0:
		o.Start = bus.Start{}
	case o.Start.Kind == bus.StartSince && o.Start.Time.IsZero():
		o.Start = bus.Start{Kind: bus.StartAll}
	}
	inside := !counted || b.inside(ctx)
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		s, err := b.attach(ctx, pattern, handler, &o)
		if err == nil {
			if err := s.awaitReplay(ctx, inside || o.Background); err != nil {
				return nil, cause(ctx, err) // what was replayed mustn't be again
			}
			s.mu.Lock()
			s.standing = true
			s.mu.Unlock()
			return s, nil
		}
		again := errors.Is(err, ErrNotCaptured) || errors.Is(err, ErrEpoch) || errors.Is(err, bus.ErrStreamChanged) ||
			attempt == 0 && errors.Is(err, bus.ErrNoStream)
		if !again || attempt == 3 || ctx.Err() != nil {
			return nil, cause(ctx, err)
		}
		if _, err := b.refresh.get(ctx); err != nil {
			return nil, cause(ctx, err)
		}
	}
}

// attach makes a subscription that stands where o says.
func (b *Bus) attach(ctx context.Context, pattern string, handler bus.Handler, o *bus.SubscribeOptions) (*subscription, error) {
	t := b.table.Load()
	r := t.route(pattern)
	if o.Start.Kind != bus.StartNew && !r.captured {
		return nil, fmt.Errorf("%w as a whole: %s", bus.ErrNoStream, r)
	}
	s := &subscription{
		b: b, pattern: pattern, handler: handler, hook: o.ErrorHook, route: r,
		maxMsgs: o.MaxMsgs, maxBytes: o.MaxBytes,
		done: make(chan struct{}), caughtUp: make(chan struct{}),
	}
	if s.maxMsgs == 0 {
		s.maxMsgs = defaultMaxMsgs
	}
	if s.maxBytes == 0 {
		s.maxBytes = defaultMaxBytes
	}
	parent := o.Until
	if parent == nil {
		parent = context.Background()
	}
	s.ctx, s.cancel = context.WithCancel(context.WithValue(parent, insideKey{b}, true))
	if b.gate != nil {
		s.ready, s.leaveFn = b.gate(pattern, s.release)
	}

	b.mu.Lock()
	if b.table.Load() != t && !b.table.Load().route(pattern).equal(r) {
		b.mu.Unlock()
		s.end(bus.ErrStreamChanged)
		return nil, bus.ErrStreamChanged
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()

	err := s.connect(ctx, r, &o.Start)
	if err == nil && o.Until != nil {
		stop := context.AfterFunc(o.Until, func() { s.end(context.Cause(o.Until)) })
		s.mu.Lock()
		s.until = stop
		ended := s.ended
		s.mu.Unlock()
		if ended {
			stop()
		}
	}
	if err == nil {
		err = s.Err() // the streams may have changed meanwhile
	}
	b.mu.Lock()
	if err == nil && !s.route.equal(r) {
		err = bus.ErrStreamChanged
	}
	b.mu.Unlock()
	if err != nil {
		s.end(err)
		return nil, err
	}
	return s, nil
}

// connect makes the legs.
func (s *subscription) connect(ctx context.Context, r route, start *bus.Start) error {
	for _, name := range r.streams {
		if err := s.connectStream(ctx, name, start); err != nil {
			return err
		}
	}
	if !r.captured {
		if err := s.connectUncaptured(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.markCaughtUpLocked()
	if slices.ContainsFunc(s.legs, func(l *leg) bool { return l.feed != nil && l.state != live || len(l.notices) > 0 }) {
		s.startLocked()
	}
	return nil
}

// add adds a leg, unless the subscription has ended.
func (s *subscription) add(l *leg) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.legs = append(s.legs, l)
	return true
}

func (s *subscription) connectUncaptured(ctx context.Context) error {
	n, err := s.b.acquireListener(ctx, s.pattern)
	if err != nil {
		return err
	}
	l := &leg{sub: s, listener: n}
	if !s.add(l) {
		s.b.releaseListener(n)
		return errEnded
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnded
	}
	n.legs[l] = struct{}{}
	return nil
}

// reroute lets the subscription receive as t says, now that an own EnsureStreams has changed
// the named stream: what it has stored behind a sequence was published while the subscription stood.
func (s *subscription) reroute(ctx context.Context, t *table, name string, after uint64) error {
	r := t.route(s.pattern)
	s.b.mu.Lock()
	old := s.route
	s.route = r
	s.b.mu.Unlock()
	for _, touched := range r.streams {
		if slices.Contains(old.streams, touched) || s.has(touched) {
			continue
		}
		if touched != name {
			return bus.ErrStreamChanged // somebody else's doing
		}
		start := bus.Start{Kind: startBehind, N: int(after)}
		if err := s.connectStream(ctx, touched, &start); err != nil {
			return err
		}
	}
	if old.captured && !r.captured && !s.has("") {
		if err := s.connectUncaptured(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.startLocked()
	}
	return nil
}

// has reports whether the subscription has a leg of a stream, or of what isn't captured ("").
func (s *subscription) has(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.legs, func(l *leg) bool { return l.feed == nil && stream == "" || l.feed != nil && l.feed.name == stream })
}

// errEnded: the subscription has ended while it was being connected.
var errEnded = errors.New("the subscription has ended")

// startBehind is a start position of the driver's own: live, behind the sequence N.
const startBehind bus.StartKind = 255

func (s *subscription) connectStream(ctx context.Context, name string, start *bus.Start) error {
	f, err := s.b.acquireFeed(ctx, name)
	if err != nil {
		return err
	}
	l, err := s.position(ctx, f, start)
	if err == nil && !s.add(l) {
		err = errEnded
	}
	if err != nil {
		s.b.releaseFeed(f)
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnded
	}
	if f.epoch != l.epoch {
		return ErrEpoch // it has changed since; the caller ends s and tries again
	}
	f.legs[l] = struct{}{}
	f.index.Add(s.pattern, l)
	if l.state == live && f.head > l.from {
		// What the feed has given to others meanwhile must be read.
		l.state, l.pos = behind, l.from
	}
	return nil
}

// position makes a leg that stands where start says.
func (s *subscription) position(ctx context.Context, f *feed, start *bus.Start) (*leg, error) {
	st, err := f.states.get(ctx)
	if err != nil {
		return nil, err
	}
	stream := *f.config.Load()
	if st.Epoch != stream.Epoch {
		return nil, ErrEpoch
	}
	// The leader's answer is the newest, but where it is asked may lag behind our own acknowledgements.
	last := max(st.Last, s.b.ackedOf(stream).Load())
	l := &leg{sub: s, feed: f, epoch: st.Epoch, target: last, state: behind, known: st}
	q := Query{UpTo: last, Pattern: s.pattern, N: start.N, Since: start.Time}
	switch start.Kind {
	case bus.StartNew:
		l.state, l.from, l.target = live, last, 0
	case bus.StartAll:
	case startBehind:
		l.pos, l.target = uint64(start.N), 0
	case bus.StartAfter:
		seq := start.Cursor.Sequence()
		switch {
		case start.Cursor.Epoch() == st.Epoch && seq <= last:
			l.pos = seq
		case !start.Cursor.IsZero():
			l.notices = append(l.notices, &bus.GapError{Stream: f.name, After: start.Cursor, Before: bus.NewCursor(st.Epoch, max(1, st.First))})
		}
	case bus.StartLast, bus.StartSince, bus.StartLastPerSubject:
		if after, ok := f.seekRing(st, s.pattern, start.N, last); ok && start.Kind == bus.StartLast {
			l.pos = after
			break
		}
		release, err := f.slot(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
		if start.Kind != bus.StartLastPerSubject {
			l.pos, err = s.b.backend.Seek(ctx, stream, q)
		} else {
			l.batch, err = s.b.backend.LastPerSubject(ctx, stream, q)
			l.pos, l.readAt, l.fresh, l.snapshot = last, time.Now(), true, true
			for _, m := range l.batch {
				m.Replayed = true
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if start.Kind != bus.StartNew && start.Kind != bus.StartAfter && start.Kind != startBehind {
		// What limits took before the call is no gap: all is what is there.
		l.pos = max(l.pos, min(max(1, st.First)-1, last))
	}
	return l, nil
}

// awaitReplay returns when the replay has been handled, or at once.
func (s *subscription) awaitReplay(ctx context.Context, atOnce bool) error {
	if atOnce {
		return nil
	}
	select {
	case <-s.caughtUp:
		return nil
	default:
	}
	select {
	case <-s.caughtUp:
		return nil
	case <-s.done:
		return s.Err() // nil when the handler itself has unsubscribed
	case <-ctx.Done():
		err := context.Cause(ctx)
		s.end(err)
		return err
	}
}

// startLocked starts the goroutine that hands over, if there is none.
func (s *subscription) startLocked() {
	if !s.running && !s.over {
		s.running = true
		go s.run()
	}
}

// wakeLocked says that a queue isn't empty.
func (s *subscription) wakeLocked() {
	if s.ready == nil || s.draining {
		s.startLocked()
	} else if !s.waiting {
		s.waiting = true
		s.ready()
	}
}

// release is called by the gate: what waits now may be handed over.
func (s *subscription) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
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
		if !finished { // a handler ended its goroutine
			go s.run()
		}
	}()
	for s.step() {
	}
	finished = true
}

// step does one thing and reports whether there may be another one.
func (s *subscription) step() bool {
	s.mu.Lock()
	if notices := s.noticesLocked(); len(notices) > 0 {
		s.mu.Unlock()
		for _, err := range notices {
			s.report(bus.Problem{Err: err})
		}
		return true
	}
	if s.ended {
		s.running, s.over = false, true
		s.mu.Unlock()
		close(s.done)
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
		if m, err := s.nextLocked(l); m != nil || err != nil {
			s.turn = (s.turn + i + 1) % len(s.legs)
			s.mu.Unlock()
			if err != nil {
				s.report(bus.Problem{Err: err})
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
	s.running = false
	s.mu.Unlock()
	return false
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
	if s.caught || slices.ContainsFunc(s.legs, func(l *leg) bool { return !l.caughtUpLocked() }) {
		return
	}
	s.caught = true
	close(s.caughtUp)
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
		if !l.fresh && s.staleLocked(l, item{m: m, at: l.readAt}) {
			if l.snapshot {
				l.resnap, l.batch = l.batch, nil
			} else {
				l.rereadLocked(m.Cursor.Sequence())
			}
			return nil, nil
		}
		l.batch, l.fresh = l.batch[1:], false
		return m, nil
	}
	if l.state == joining || l.queue.len == 0 || s.ready != nil && l.open == 0 && !s.draining {
		return nil, nil
	}
	it := l.queue.peek()
	if l.feed != nil && s.staleLocked(l, it) {
		l.rereadLocked(it.m.Cursor.Sequence())
		return nil, nil
	}
	l.queue.pop()
	l.open = max(0, l.open-1)
	if l.feed == nil && s.draining {
		l.drainTo--
	}
	return it.m, nil
}

func cursorOrZero(epoch string, seq uint64) bus.Cursor {
	if seq == 0 {
		return bus.Cursor{}
	}
	return bus.NewCursor(epoch, seq)
}

// staleLocked reports whether the stream's limits may have taken a waiting message. The
// store decides, when it is read again; this only says when to ask.
func (s *subscription) staleLocked(l *leg, it item) bool {
	cfg := &l.feed.config.Load().Config
	seq := it.m.Cursor.Sequence()
	if cfg.MaxMsgs > 0 {
		// With a limit per subject fewer are left than lie between; then it is asked in vain.
		if newest := l.feed.newest.Load(); newest >= seq+uint64(cfg.MaxMsgs) {
			return true
		}
	}
	if cfg.MaxAge == 0 && cfg.MaxBytes == 0 {
		return false
	}
	now := time.Now()
	if cfg.MaxAge > 0 && now.Sub(it.m.Time) > cfg.MaxAge {
		return true
	}
	if cfg.MaxBytes > 0 && it.before > 0 && l.feed.stored.Load()-it.before >= cfg.MaxBytes {
		return true
	}
	return cfg.MaxBytes > 0 && now.Sub(it.at) > freshness && l.feed.newest.Load() > seq
}

// fill reads the next batch of a leg that isn't live, or makes it live.
func (s *subscription) fill(l *leg) {
	f := l.feed
	if err := f.wait(s.ctx); err != nil {
		s.endOrRetry(l, err)
		return
	}
	f.mu.Lock()
	s.mu.Lock()
	if f.epoch != l.epoch { // it is about to be rebased
		s.mu.Unlock()
		f.mu.Unlock()
		return
	}
	if l.state == behind {
		l.state, l.joinAt, l.from = joining, f.head, f.head
		l.queue.clear()
	}
	upTo := max(l.joinAt, l.target)
	if l.pos >= upTo && len(l.resnap) == 0 {
		l.state, l.from = live, max(l.pos, l.from)
		for l.queue.len > 0 && l.queue.peek().m.Cursor.Sequence() <= l.pos {
			l.queue.pop()
		}
		l.open = min(l.open, l.queue.len)
		if l.queue.len > 0 && s.ready != nil {
			s.wakeLocked()
		}
		s.mu.Unlock()
		f.mu.Unlock()
		return
	}
	if len(l.resnap) > 0 {
		s.mu.Unlock()
		f.mu.Unlock()
		s.resnap(l)
		return
	}
	st, epoch := l.known, l.epoch
	l.known = State{}
	l.snapshot = false
	q := Query{After: l.pos, UpTo: upTo, Pattern: s.pattern, MaxMsgs: min(maxBatch, s.maxMsgs), MaxBytes: s.maxBytes}
	s.mu.Unlock()
	f.mu.Unlock()

	var err error
	if st == (State{}) {
		if st, err = f.states.get(s.ctx); err == nil && st.Epoch != epoch {
			err = ErrEpoch
		}
	}
	var batch Batch
	if err == nil {
		batch, err = f.read(s.ctx, st, q)
	}
	if err == nil && batch.Through <= q.After {
		err = fmt.Errorf("%w: reading stream %s makes no progress after %d", bus.ErrUnavailable, f.name, q.After)
	}
	if err != nil {
		s.endOrRetry(l, err)
		return
	}
	s.take(l, epoch, q.After, batch)
}

// resnap asks again for what is left of the last messages of each subject, since limits may
// have taken some before their turn.
func (s *subscription) resnap(l *leg) {
	release, err := l.feed.slot(s.ctx)
	var left []*bus.Message
	if err == nil {
		stream := *l.feed.config.Load()
		stream.Epoch = l.epoch
		left, err = s.b.backend.LastPerSubject(s.ctx, stream, Query{UpTo: l.target, Pattern: s.pattern})
		release()
	}
	if err != nil {
		s.endOrRetry(l, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(l.resnap) == 0 {
		return
	}
	first := l.resnap[0].Cursor.Sequence()
	i := slices.IndexFunc(left, func(m *bus.Message) bool { return m.Cursor.Sequence() >= first })
	if i < 0 {
		i = len(left)
	}
	left = left[i:]
	for _, m := range left {
		m.Replayed = true
	}
	if len(left) < len(l.resnap) && l.feed.config.Load().Config.MaxMsgsPerSubject == 0 {
		before := l.target + 1
		if len(left) > 0 {
			before = left[0].Cursor.Sequence()
		}
		l.holes = []Hole{{After: first - 1, Before: before}}
	}
	l.batch, l.resnap = left, nil
	l.readAt, l.fresh, l.failing = time.Now(), true, false
}

// take makes a batch that was read the next one of its leg.
func (s *subscription) take(l *leg, epoch string, after uint64, batch Batch) {
	messages := batch.Messages[:0]
	for _, m := range batch.Messages {
		if bus.CheckSubject(m.Subject) == nil && checkHeader(m.Header) == nil {
			m.Replayed = m.Cursor.Sequence() <= l.target
			messages = append(messages, m)
			continue
		}
		l.feed.mu.Lock()
		l.feed.acceptable(m)
		l.feed.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || l.epoch != epoch || l.pos != after {
		return // it was rebased meanwhile
	}
	l.batch, l.holes, l.pos = messages, batch.Holes, batch.Through
	l.readAt, l.fresh, l.failing = time.Now(), true, false
}

// endOrRetry waits before a failed read is tried again; what captures the pattern may have changed.
func (s *subscription) endOrRetry(l *leg, err error) {
	if s.ctx.Err() != nil {
		return
	}
	if errors.Is(err, ErrEpoch) || errors.Is(err, ErrNotCaptured) {
		// The new table ends the subscription or rebases the leg.
		_, err = s.b.refresh.get(s.ctx)
	}
	s.mu.Lock()
	first := !l.failing
	l.failing = true
	s.mu.Unlock()
	if err != nil && first && s.ctx.Err() == nil {
		s.report(bus.Problem{Err: err})
	}
	pause := time.NewTimer(retryPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-s.ctx.Done():
	}
}

// retryPause lies between failed reads of one subscription.
const retryPause = 500 * time.Millisecond

// call runs the handler.
func (s *subscription) call(m *bus.Message) {
	if !m.Cursor.IsZero() {
		s.mu.Lock()
		s.last = m.Cursor
		s.mu.Unlock()
	}
	defer func() {
		if r := recover(); r != nil {
			s.report(bus.Problem{Err: fmt.Errorf("%w: %v", bus.ErrPanic, r), Subject: m.Subject, Cursor: m.Cursor, Stack: debug.Stack()})
		}
	}()
	ctx := s.ctx
	if s.b.traces != nil && m.Header != nil {
		ctx = s.b.traces.Extract(ctx, m.Header)
	}
	if err := s.handler(ctx, m); err != nil {
		s.report(bus.Problem{Err: err, Subject: m.Subject, Cursor: m.Cursor})
	}
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
	s.ended, s.err = true, reason
	for i, l := range s.legs {
		l.queue.clear()
		l.batch, l.holes = nil, nil
		if i == 0 && s.standing && errors.Is(reason, bus.ErrStreamChanged) {
			l.notices = append(l.notices, reason) // nobody may be watching Done
		}
	}
	legs, until := s.legs, s.until
	s.startLocked() // closes done
	s.mu.Unlock()

	s.cancel()
	if until != nil {
		until()
	}
	if s.leaveFn != nil {
		s.leaveFn()
	}
	s.b.mu.Lock()
	delete(s.b.subs, s)
	s.b.mu.Unlock()
	for _, l := range legs {
		if f := l.feed; f != nil {
			f.mu.Lock()
			delete(f.legs, l)
			f.index.Remove(s.pattern, l)
			f.mu.Unlock()
			s.b.releaseFeed(f)
		} else {
			l.listener.mu.Lock()
			delete(l.listener.legs, l)
			l.listener.mu.Unlock()
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
	select {
	case <-s.done:
		return nil
	default:
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("bus: unsubscribe %q: the handler is still running: %w", s.pattern, ctx.Err())
	}
}

// CaughtUp implements bus.Subscription.
func (s *subscription) CaughtUp() <-chan struct{} { return s.caughtUp }

// Done implements bus.Subscription.
func (s *subscription) Done() <-chan struct{} { return s.done }

// Err implements bus.Subscription.
func (s *subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Dropped implements bus.Subscription.
func (s *subscription) Dropped() uint64 { return s.dropped.Load() }
