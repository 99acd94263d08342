package driver

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

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
	case o.Attempts != nil && *o.Attempts < 0 || slices.ContainsFunc(o.Waits, func(d time.Duration) bool { return d < 0 }):
		return nil, errors.New("bus.Attempts: neither the number nor a wait can be negative")
	case o.Until != nil && o.Until.Err() != nil:
		return nil, fmt.Errorf("bus.Until: %w", o.Until.Err())
	}
	switch {
	case o.Start.Kind == bus.StartLast && o.Start.N == 0:
		o.Start = bus.Start{}
	case o.Start.Kind == bus.StartSince && o.Start.Time.IsZero():
		o.Start = bus.Start{Kind: bus.StartAll}
	}
	if o.Grouped {
		if err := b.checkGroup(pattern, &o); err != nil {
			return nil, err
		}
	}
	inside := !counted || b.inside(ctx)
	caller := ctx
	bounded := &boundedContext{Context: caller, end: b.endOf(caller)}
	defer bounded.over()
	ctx = bounded
	for attempt := 0; ; attempt++ {
		if err := b.routedAll(ctx, pattern, &o); err != nil {
			return nil, err
		}
		s, err := b.attach(ctx, pattern, handler, &o, nil)
		if err == nil {
			if err := s.awaitReplay(caller, inside || o.Background); err != nil {
				return nil, err // what was replayed mustn't be again
			}
			s.mu.Lock()
			s.standing = true
			s.counted = b.metrics != nil && !s.ended
			counted := s.counted
			s.mu.Unlock()
			if counted {
				b.metrics.Subscriptions(+1)
			}
			return s, nil
		}
		again := !errors.Is(err, errBegun) && (isChange(err) || attempt == 0 && errors.Is(err, bus.ErrNoStream))
		if !again || attempt == 3 || ctx.Err() != nil {
			switch {
			case !again || errors.Is(err, bus.ErrNoStream) || errors.Is(err, bus.ErrStreamChanged):
			case ctx.Err() != nil: // what err says is between driver and backend
				err = context.Cause(ctx)
			default:
				err = fmt.Errorf("%w again and again: %w", bus.ErrStreamChanged, err)
			}
			return nil, unanswered(cause(ctx, err))
		}
		if _, err := b.refresh.Get(ctx); err != nil {
			return nil, unanswered(cause(ctx, err))
		}
	}
}

// routedAll waits until it is known what captures all that a subscription concerns.
func (b *Bus) routedAll(ctx context.Context, pattern string, o *bus.SubscribeOptions) error {
	t, err := b.routed(ctx, b.table.Load(), pattern)
	if dead := deadOf(pattern, o); err == nil && dead != "" {
		_, err = b.routed(ctx, t, dead)
	}
	return err
}

// unanswered adds to a deadline that came while the backend was waited for, and nothing else, that it is unavailable.
func unanswered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, bus.ErrUnavailable) {
		return fmt.Errorf("%w: the store doesn't answer: %w", bus.ErrUnavailable, err)
	}
	return err
}

// attach makes a subscription that stands where o says; fills is the group that it is the inner one of, if any.
func (b *Bus) attach(ctx context.Context, pattern string, handler bus.Handler, o *bus.SubscribeOptions, fills *group) (*subscription, error) {
	t := b.table.Load()
	r := t.route(pattern)
	if o.Durable {
		if err := checkCaptured(t, r, pattern, o); err != nil {
			return nil, err
		}
	}
	if o.Start.Kind != bus.StartNew && !r.captured {
		return nil, fmt.Errorf("%w as a whole: %s", bus.ErrNoStream, r)
	}
	s := &subscription{
		b: b, pattern: pattern, handler: handler, hook: o.ErrorHook, route: r,
		maxMsgs: o.MaxMsgs, maxBytes: o.MaxBytes, attempts: attempts(o), waits: o.Waits, grouped: o.Grouped, fills: fills,
	}
	if s.maxMsgs == 0 {
		s.maxMsgs = defaultMaxMsgs
	}
	if s.maxBytes == 0 {
		s.maxBytes = defaultMaxBytes
	}
	if len(s.waits) == 0 {
		s.waits = defaultWaits
	}
	parent := o.Until
	if parent == nil {
		parent = context.Background()
	}
	s.legs, s.parent = s.oneLeg[:0], handlerContext{parent, s}
	s.ctx, s.cancel = context.WithCancel(&s.parent)
	if b.gate != nil && !o.Grouped { // a group's inner subscription waits for the gate
		s.ready, s.leaveFn = b.gate(pattern, s.release)
	}

	lockSoon(&b.mu)
	if b.table.Load() != t && !b.table.Load().route(pattern).equal(r) {
		b.mu.Unlock()
		s.end(bus.ErrStreamChanged)
		return nil, bus.ErrStreamChanged
	}
	b.subs.add(s)
	b.mu.Unlock()

	var err error
	if o.Grouped {
		err = s.joinGroup(ctx, r, o)
	} else {
		err = s.connect(ctx, r, &o.Start)
	}
	if until := o.Until; err == nil && until != nil {
		stop := context.AfterFunc(until, func() { s.end(context.Cause(until)) })
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
	if err == nil && b.table.Load() != t {
		b.mu.Lock()
		if !s.route.equal(r) {
			err = bus.ErrStreamChanged
		}
		b.mu.Unlock()
	}
	if err != nil {
		s.end(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.last.IsZero() && isChange(err) {
			err = errBegun
		}
		return nil, err
	}
	return s, nil
}

// connect makes the legs.
func (s *subscription) connect(ctx context.Context, r route, start *bus.Start) error {
	for _, name := range r.streams {
		if s.fills.shared() {
			break // the streams give the group its messages elsewhere
		}
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
	s.whole = true
	if !s.running { // or else what was replayed may be with the handler, and whoever runs s says when it isn't
		s.markCaughtUpLocked()
	}
	begin := slices.ContainsFunc(s.legs, func(l *leg) bool { return l.feed != nil && l.state != live || len(l.batch) > 0 || len(l.notices) > 0 }) &&
		s.beginLocked()
	s.mu.Unlock()
	if begin {
		s.b.crew.add(s) // without the lock, which whoever runs s takes at once
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
	key := listenKey{pattern: s.pattern}
	if s.fills.shared() {
		key.group = s.fills.name
	}
	n, err := s.b.acquireListener(ctx, key)
	if err != nil {
		return err
	}
	l := s.newLeg()
	l.listener = n
	if !s.add(l) {
		s.b.releaseListener(n)
		return errEnded
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return errEnded
	}
	n.legs.add(l)
	s.mu.Unlock()
	if l.push(n.early...) {
		s.b.crew.add(s)
	}
	n.early = nil
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

var (
	// errEnded: the subscription has ended while it was being connected.
	errEnded = errors.New("the subscription has ended")
	// errBegun: what captures the pattern has changed while the subscription was being connected, and messages were handed over by
	// then, which another try would repeat.
	errBegun = fmt.Errorf("%w while its messages were handed over", bus.ErrStreamChanged)
)

// isChange reports whether an error tells that what captures a pattern was another while a subscription was being connected.
func isChange(err error) bool {
	return errors.Is(err, errEnded) || errors.Is(err, ErrNotCaptured) || errors.Is(err, ErrEpoch) || errors.Is(err, bus.ErrStreamChanged)
}

// startBehind is a start position of the driver's own: live, behind the sequence N.
const startBehind bus.StartKind = 255

func (s *subscription) connectStream(ctx context.Context, name string, start *bus.Start) error {
	f, err := s.b.acquireFeed(ctx, name)
	if err != nil {
		return err
	}
	done, st, err := s.recent(ctx, f, start)
	if done {
		return nil
	}
	var l *leg
	if err == nil {
		l, err = s.position(ctx, f, start, st)
	}
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
	f.legs.add(l)
	f.index.Add(s.pattern, l)
	if l.state == live && f.head > l.from {
		// What the feed has given to others meanwhile must be read.
		l.state, l.pos = behind, l.from
	}
	return nil
}

// position makes a leg that stands where start says. known, if not nil, is what the stream holds, asked since the call began.
func (s *subscription) position(ctx context.Context, f *feed, start *bus.Start, known *State) (*leg, error) {
	stream := *f.config.Load()
	if start.Kind == bus.StartNew && s.b.sole {
		// Nobody else stores anything, so what is stored at the call has been acknowledged to us or comes from the feed.
		f.mu.Lock()
		epoch, last := f.epoch, f.head
		f.mu.Unlock()
		stream.Epoch = epoch
		last = max(last, s.b.ackedOf(stream).Load())
		return &leg{sub: s, feed: f, epoch: epoch, from: last, began: cursorOrZero(epoch, last)}, nil
	}
	if known == nil {
		asked, err := f.states.Get(ctx)
		if err != nil {
			return nil, err
		}
		known = &asked
	}
	st := *known
	stream = *f.config.Load()
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
			l.pos = min(max(1, st.First)-1, last) // what limits took before it is told by that, too
		}
	case bus.StartLast, bus.StartSince, bus.StartLastPerSubject:
		if start.Kind == bus.StartLast {
			after, ok := f.seekRing(st, s.pattern, start.N, last)
			if !ok && f.warm(ctx, st) {
				after, ok = f.seekRing(st, s.pattern, start.N, last)
			}
			if ok {
				l.pos = after
				break
			}
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
			l.pos, l.readAt, l.fresh, l.snapshot = last, clock(), true, true
			l.batch = l.accept(l.batch)
		}
		if err != nil {
			return nil, err
		}
	}
	if start.Kind != bus.StartNew && start.Kind != bus.StartAfter && start.Kind != startBehind {
		// What limits took before the call is no gap: all is what is there.
		l.pos = max(l.pos, min(max(1, st.First)-1, last))
	}
	l.began = cursorOrZero(l.epoch, max(l.pos, l.from))
	return l, nil
}

// awaitReplay returns when the replay has been handled, or at once, or when the caller or the bus ends it.
func (s *subscription) awaitReplay(ctx context.Context, atOnce bool) error {
	if atOnce {
		return nil
	}
	if !s.caughtUp.fired() {
		runtime.Gosched() // a short replay is through by then, which is cheaper than to be woken
	}
	if s.caughtUp.fired() {
		return nil
	}
	var err error
	select {
	case <-s.caughtUp.channel():
		return nil
	case <-s.done.channel():
		return s.Err() // nil when the handler itself has unsubscribed
	case <-ctx.Done():
		err = s.lateBecause(context.Cause(ctx))
	case <-s.b.endOf(ctx).Done():
		err = bus.ErrClosed
	}
	s.end(err)
	return err
}

// lateBecause adds why the replay wasn't through when a deadline came, if that is the store's doing and not a handler's.
func (s *subscription) lateBecause(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.legs {
		switch {
		case !errors.Is(err, context.DeadlineExceeded):
		case l.failure != nil:
			return fmt.Errorf("%w: %w", l.failure, err)
		case l.reading:
			return fmt.Errorf("%w: stream %s doesn't give its messages: %w", bus.ErrUnavailable, l.feed.name, err)
		}
	}
	return err
}
