package driver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/internal/share"
)

const (
	maxReads = 4 // at a time, per stream
	// feedLinger is how long a feed outlives its last subscription, so that a page that is loaded
	// anew finds it running.
	feedLinger = 5 * time.Second
)

// feed is the one live view of a stream in this process: it tails everything that is
// stored and gives each message to the legs whose pattern matches.
type feed struct {
	b       *Bus
	name    string
	states  share.Call[State]
	warming share.Call[struct{}]
	slots   chan struct{} // one token per running read

	// Under b.mu.
	users  int
	expiry *time.Timer

	config  atomic.Pointer[Stream] // the stream as it was last seen
	newest  atomic.Uint64          // head, for those who don't hold mu
	running atomic.Bool            // ready is closed and err is nil, for the same
	stored  atomic.Int64           // bytes of all messages that were delivered, from 1

	mu       sync.Mutex // before any subscription's
	run      int        // counts tails: what a stopped one still delivers is dropped
	ready    chan struct{}
	err      error // why it isn't ready; it doesn't change after ready is closed
	stop     func()
	epoch    string
	head     uint64 // everything up to here has been given to the legs
	legs     set[*leg]
	index    Index[*leg]
	matches  []*leg          // scratch
	starting []*subscription // scratch

	items []item // those of one subject that are to be given next

	ring   ring
	first  uint64 // what is before it is gone: the stream's first sequence as it was last heard of
	warmed bool   // the ring has been filled from the store, or that was tried

	moved chan struct{} // closed and replaced when head moves, if somebody waits
}

// acquire returns the feed of a stream, running, and counts its user until release.
func (b *Bus) acquireFeed(ctx context.Context, name string) (*feed, error) {
	lockSoon(&b.mu)
	f := b.feeds[name]
	if f == nil && b.over {
		b.mu.Unlock()
		return nil, bus.ErrClosed
	}
	if f == nil {
		f = &feed{b: b, name: name, slots: make(chan struct{}, maxReads), ready: make(chan struct{})}
		f.states.Ask = f.askState
		f.warming.Ask = f.fillRing
		b.feeds[name] = f
		b.ending.Go(func() { f.start(0) })
	}
	f.users++
	if f.expiry != nil {
		f.expiry.Stop()
		f.expiry = nil
	}
	b.mu.Unlock()
	if err := f.wait(ctx); err != nil {
		b.releaseFeed(f)
		return nil, err
	}
	return f, nil
}

func (b *Bus) releaseFeed(f *feed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.users--
	if f.users == 0 && b.feeds[f.name] == f && !b.closing.Load() {
		f.expiry = time.AfterFunc(feedLinger, func() {
			b.mu.Lock()
			unused := f.users == 0 && b.feeds[f.name] == f && !b.closing.Load()
			if unused {
				delete(b.feeds, f.name)
				b.ending.Add(1)
			}
			b.mu.Unlock()
			if unused {
				f.end()
				b.ending.Done()
			}
		})
	}
}

// dropFeed forgets a feed whose stream is gone or that couldn't start, and then tells those who wait for
// it why: they may try again at once, and would find it again.
func (b *Bus) dropFeed(f *feed, err error) {
	b.mu.Lock()
	if b.feeds[f.name] == f {
		delete(b.feeds, f.name)
	}
	b.mu.Unlock()
	f.endWith(err)
}

// wait returns when the feed runs.
func (f *feed) wait(ctx context.Context) error {
	if f.running.Load() {
		return nil
	}
	f.mu.Lock()
	ready := f.ready
	f.mu.Unlock()
	select {
	case <-ready:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// start tails the stream from its end and makes the feed ready. run is the tail that it may replace.
// The first start fails for good; a later one, which subscriptions wait for, is tried again.
func (f *feed) start(run int) {
	for {
		err := f.tryStart(run)
		if err == nil {
			return
		}
		f.mu.Lock()
		current := f.run == run
		giveUp := run == 0 || len(f.legs.all) == 0 || f.b.life.Err() != nil
		f.mu.Unlock()
		if !current {
			return
		}
		if giveUp {
			f.b.dropFeed(f, err)
			return
		}
		f.b.log.Warn("bus: can't follow a stream; trying again", "stream", f.name, "error", err)
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-f.b.life.Done():
			pause.Stop()
		}
	}
}

func (f *feed) tryStart(run int) error {
	s, st, err := f.look()
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.run != run {
		f.mu.Unlock()
		return nil
	}
	if f.epoch != st.Epoch {
		for _, l := range f.legs.all {
			l.rebase(st.Epoch)
		}
	} else {
		for _, l := range f.legs.all { // what came between the two tails is read
			l.fallBehind(f.head)
		}
	}
	f.epoch, f.head, f.first, f.warmed = st.Epoch, st.Last, st.First, false
	f.ring.reset(st.Last)
	f.stored.Store(max(1, f.stored.Load()))
	f.mu.Unlock()
	f.config.Store(&s)
	f.newest.Store(st.Last)
	ctx, cancel := context.WithTimeout(f.b.life, askTimeout)
	defer cancel()
	stop, err := f.b.backend.Tail(ctx, s, st.Last, &tailSink{f, run})
	if err != nil {
		return err
	}
	f.mu.Lock()
	stale := f.run != run
	if !stale {
		f.stop = stop
		f.running.Store(true)
		close(f.ready)
	}
	f.mu.Unlock()
	if stale {
		stop()
	}
	return nil
}

// look finds the stream and its state in the same epoch.
func (f *feed) look() (Stream, State, error) {
	t := f.b.table.Load()
	for range 3 {
		s, ok := t.streams[f.name]
		if !ok {
			break
		}
		st, err := f.askState()
		if err == nil && st.Epoch == s.Epoch {
			return s, st, nil
		}
		if err != nil && !errors.Is(err, ErrNotCaptured) {
			return s, st, err
		}
		ctx, cancel := context.WithTimeout(f.b.life, askTimeout)
		t, err = f.b.refresh.Get(ctx)
		cancel()
		if err != nil {
			return s, st, err
		}
	}
	return Stream{}, State{}, ErrNotCaptured
}

func (f *feed) askState() (State, error) {
	if !f.b.begin() {
		return State{}, bus.ErrClosed
	}
	defer f.b.ending.Done()
	ctx, cancel := context.WithTimeout(f.b.life, askTimeout)
	defer cancel()
	st, err := f.b.backend.State(ctx, f.name)
	return st, cause(ctx, err)
}

// follow learns how the stream is now; another epoch starts it anew.
func (f *feed) follow(s Stream) {
	f.mu.Lock()
	same := s.Epoch == f.epoch
	run := f.run
	if known := f.config.Load(); same && known != nil {
		f.config.Store(&s)
		if !sameConfig(known.Config, s.Config) { // limits may have come and gone again, and taken what the ring has
			f.ring.reset(f.head)
			f.warmed = false
		}
	}
	f.mu.Unlock()
	if !same {
		f.restart(run)
	}
}

// restart replaces the tail of a run, unless it is still starting and so looks for itself.
func (f *feed) restart(run int) {
	f.mu.Lock()
	select {
	case <-f.ready:
	default:
		f.mu.Unlock()
		return
	}
	if f.run != run || f.err != nil {
		f.mu.Unlock()
		return
	}
	f.run++
	run, stop := f.run, f.stop
	f.stop, f.ready = nil, make(chan struct{})
	f.running.Store(false)
	f.mu.Unlock()
	spawned := f.b.spawn(func() {
		if stop != nil {
			stop()
		}
		f.start(run)
	})
	if !spawned && stop != nil {
		stop()
	}
}

// end stops the tail. The feed isn't used again.
func (f *feed) end() { f.endWith(ErrNotCaptured) }

// endWith tells why those who still wait for the feed to run.
func (f *feed) endWith(err error) {
	f.mu.Lock()
	f.run++
	stop := f.stop
	f.stop = nil
	select {
	case <-f.ready:
	default:
		f.err = err
		close(f.ready)
	}
	f.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// tailSink receives one run of the tail.
type tailSink struct {
	f   *feed
	run int
}

func (t *tailSink) Deliver(entries ...Entry) { t.f.deliver(t.run, entries) }
func (t *tailSink) Lost()                    {}

// End starts the tail anew, when the table says what has become of the stream.
func (t *tailSink) End(error) {
	t.f.b.spawn(func() {
		if _, err := t.f.b.refresh.Get(t.f.b.life); err != nil && t.f.b.life.Err() == nil {
			t.f.b.log.Warn("bus: can't learn what the streams capture", "error", err)
		}
		t.f.restart(t.run)
	})
}

func (f *feed) deliver(run int, entries []Entry) {
	now := clock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if run != f.run {
		return
	}
	for _, e := range entries {
		seq := e.Message.Cursor.Sequence()
		if seq <= f.head {
			continue
		}
		if e.Prev > f.head {
			// Something is missing: each leg asks the store what and whether it matters.
			f.give()
			f.ring.reset(e.Prev)
			for _, l := range f.legs.all {
				l.fallBehind(f.head)
			}
		}
		f.head = seq
		f.newest.Store(seq)
		size := f.stored.Load()
		f.stored.Add(f.b.limits.StoredSize(e.Message.Subject, e.Message.Header, e.Message.Data))
		if !f.acceptable(e.Message) {
			continue
		}
		f.ring.add(e.Message)
		if len(f.items) > 0 && f.items[0].m.Subject != e.Message.Subject {
			f.give()
		}
		f.items = append(f.items, item{m: e.Message, at: now, before: size})
	}
	f.give()
	f.b.crew.add(f.starting...)
	clear(f.starting)
	f.starting = f.starting[:0]
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// give gives the legs of one subject what has come for it.
func (f *feed) give() {
	if len(f.items) == 0 {
		return
	}
	f.matches = f.index.Match(f.items[0].m.Subject, f.matches[:0])
	for _, l := range f.matches {
		if l.push(f.items...) {
			f.starting = append(f.starting, l.sub)
		}
	}
	clear(f.items)
	f.items = f.items[:0]
}

// acceptable reports whether a message of the stream keeps the grammar.
func (f *feed) acceptable(m *bus.Message) bool { return f.b.keepsGrammar(m, "stream "+f.name, "") }

// messageSize is what a waiting message counts.
func messageSize(m *bus.Message) int {
	return len(m.Subject) + len(m.Data) + HeaderSize(m.Header)
}

// fromRing answers a query from the ring, if it reaches back far enough.
func (f *feed) fromRing(epoch string, q Query) (Batch, bool) {
	f.mu.Lock()
	entries, after, head := f.ring.entries, f.ring.after, f.head
	usable := f.epoch == epoch && q.After >= after && q.After < head // the store may be ahead of the feed
	f.mu.Unlock()
	if !usable {
		return Batch{}, false
	}
	batch := Batch{Through: min(head, q.UpTo)}
	size := 0
	for i := firstBehind(entries, q.After); i < len(entries); i++ {
		m := entries[i].m
		if m.Cursor.Sequence() > q.UpTo {
			break
		}
		if !bus.Match(q.Pattern, m.Subject) {
			continue
		}
		if size += messageSize(m); len(batch.Messages) > 0 && (len(batch.Messages) == q.MaxMsgs || size > q.MaxBytes) {
			batch.Through = batch.Messages[len(batch.Messages)-1].Cursor.Sequence()
			return batch, true
		}
		batch.Messages = append(batch.Messages, m)
	}
	return batch, true
}

// seekRing finds the place before the last n messages that match, if the ring reaches back far enough.
func (f *feed) seekRing(st State, pattern string, n int, upTo uint64) (after uint64, ok bool) {
	if !st.Dense || f.config.Load().Config.MaxMsgsPerSubject > 0 {
		return 0, false
	}
	f.mu.Lock()
	entries, ringAfter := f.ring.entries, f.ring.after
	usable := f.epoch == st.Epoch && f.head >= upTo
	f.mu.Unlock()
	if !usable {
		return 0, false
	}
	for i := len(entries) - 1; i >= 0; i-- {
		m := entries[i].m
		seq := m.Cursor.Sequence()
		if seq < st.First {
			return st.First - 1, true
		}
		if seq <= upTo && bus.Match(pattern, m.Subject) {
			if n--; n == 0 {
				return seq - 1, true
			}
		}
	}
	return st.First - 1, ringAfter < st.First
}

// read answers a query from the ring, or else from the store. st is what the caller has just asked for, if anything.
func (f *feed) read(ctx context.Context, epoch string, st State, q Query) (Batch, error) {
	s := *f.config.Load()
	if f.inRing(epoch, q.After) && s.Config.MaxMsgsPerSubject == 0 {
		if st == (State{}) {
			var err error
			if st, err = f.states.Get(ctx); err != nil {
				return Batch{}, err
			}
		}
		if st.Epoch != epoch {
			return Batch{}, ErrEpoch
		}
		if st.Dense && q.After+1 >= st.First {
			if batch, ok := f.fromRing(epoch, q); ok {
				// The ring's messages are shared with those who are live; a replayed one is its reader's own.
				for i, m := range batch.Messages {
					c := *m
					batch.Messages[i] = &c
				}
				return batch, nil
			}
		}
	}
	release, err := f.slot(ctx)
	if err != nil {
		return Batch{}, err
	}
	defer release()
	s.Epoch = epoch
	return f.b.backend.Read(ctx, s, q)
}

// inRing reports whether the ring has all that is behind a sequence. The store may be ahead of the feed.
func (f *feed) inRing(epoch string, after uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch == epoch && after >= f.ring.after && after < f.head
}

// slot waits for a place among the running reads.
func (f *feed) slot(ctx context.Context) (release func(), err error) {
	select {
	case f.slots <- struct{}{}:
		return func() { <-f.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reach returns when the feed has given everything up to seq to its legs.
func (f *feed) reach(ctx context.Context, epoch string, seq uint64) error {
	for {
		f.mu.Lock()
		if f.epoch != epoch || f.head >= seq {
			f.mu.Unlock()
			return nil
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
