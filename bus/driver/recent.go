package driver

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	// feedPatience is how long one who joins waits for the feed to have what is known to be stored.
	feedPatience = 50 * time.Millisecond
	// What is read from the store when a feed's ring doesn't reach back to where somebody wants to start.
	warmMsgs  = 1024
	warmBytes = 256 << 10
	// usualHistory is how many messages a page shows at first.
	usualHistory = 64
)

// recent has a subscription of one subject start from what the feed remembers, and go over into live, in one step. If
// that can't be, the store must be asked; st is then what it has said of the stream, if it was asked already.
func (s *subscription) recent(ctx context.Context, f *feed, start *bus.Start) (done bool, st *State, err error) {
	if start.Kind != bus.StartLast && start.Kind != bus.StartAfter && start.Kind != bus.StartAll || !isSubject(s.pattern) {
		return false, nil, nil
	}
	// What nobody else changes, nobody needs to be asked about, as long as limits are far. Bytes are counted by the store alone.
	if s.b.sole && f.config.Load().Config.MaxBytes == 0 {
		if done, err := s.join(ctx, f, start, nil); done || err != nil {
			return done, nil, err
		}
	}
	asked, err := f.states.Get(ctx)
	if err != nil {
		return false, nil, err
	}
	done, err = s.join(ctx, f, start, &asked)
	if !done && err == nil && f.warm(ctx, asked) {
		done, err = s.join(ctx, f, start, &asked)
	}
	return done, &asked, err
}

// join tries it. st, if not nil, says what the stream holds; otherwise nobody but this bus changes that.
func (s *subscription) join(ctx context.Context, f *feed, start *bus.Start, st *State) (bool, error) {
	cfg := f.config.Load()
	last := s.b.ackedOf(*cfg).Load()
	if st != nil {
		last = max(last, st.Last)
	}
	if f.newest.Load() < last {
		soon, cancel := context.WithTimeout(ctx, feedPatience)
		err := f.reach(soon, cfg.Epoch, last)
		cancel()
		if err != nil {
			return false, ctx.Err()
		}
	}
	l := s.newLeg()
	l.feed, l.epoch, l.readAt, l.fresh = f, cfg.Epoch, clock(), true
	lockSoon(&f.mu) // for as short as can be: many may join at once
	defer f.mu.Unlock()
	if f.epoch != cfg.Epoch || f.config.Load().Epoch != cfg.Epoch || st != nil && st.Epoch != cfg.Epoch || f.head < last {
		return false, nil
	}
	batch, ok := f.recentLocked(s.pattern, start, st, s.maxMsgs, s.maxBytes)
	if !ok {
		return false, nil
	}
	l.pos, l.from, l.target, l.batch = f.head, f.head, f.head, batch
	began := f.head
	if len(batch) > 0 {
		began = batch[0].Cursor.Sequence() - 1
	}
	l.began = cursorOrZero(f.epoch, began)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false, errEnded
	}
	s.legs = append(s.legs, l)
	f.legs.add(l)
	f.index.Add(s.pattern, l)
	return true, nil
}

// recentLocked returns the messages of a subject that are there from a start position on, as replayed ones, if the ring
// has them all.
func (f *feed) recentLocked(subject string, start *bus.Start, st *State, maxMsgs, maxBytes int) (batch []*bus.Message, ok bool) {
	cfg := &f.config.Load().Config
	first := f.first
	if st != nil {
		if !st.Dense || cfg.MaxMsgsPerSubject > 0 {
			return nil, false
		}
		first = max(first, st.First)
	}
	var now time.Time
	if cfg.MaxAge > 0 {
		now = time.Now()
	}
	// there reports whether a message is certainly still there.
	there := func(m *bus.Message) bool {
		seq := m.Cursor.Sequence()
		return seq >= first && (cfg.MaxMsgs == 0 || f.head-seq < uint64(cfg.MaxMsgs)) && (cfg.MaxAge == 0 || now.Sub(m.Time) < cfg.MaxAge)
	}
	n, after := math.MaxInt, uint64(0)
	switch start.Kind {
	case bus.StartLast:
		n = start.N
	case bus.StartAfter:
		after = start.Cursor.Sequence()
		if start.Cursor.Epoch() != f.epoch || after > f.head || after < f.ring.after || after+1 < first {
			return nil, false
		}
		if i := firstBehind(f.ring.entries, after); i < len(f.ring.entries) && !there(f.ring.entries[i].m) {
			return nil, false // limits have taken something of what is asked for, which is to be told
		}
	}
	if limit := cfg.MaxMsgsPerSubject; limit > 0 && int64(n) > limit {
		n = int(limit)
	}
	known := f.ring.pasts[subject]
	if start.Kind == bus.StartLast && known.n == n && len(known.messages) <= maxMsgs && known.size <= maxBytes && there(known.messages[0]) {
		return known.messages, true
	}
	e, size := f.ring.newestOf(subject), 0
	if e != nil {
		batch = make([]*bus.Message, 0, min(n, maxMsgs, usualHistory))
	}
	for ; e != nil && len(batch) < n; e = f.ring.before(e) {
		seq := e.m.Cursor.Sequence()
		if seq <= after || seq < first {
			e = nil
			break
		}
		size += messageSize(e.m)
		if !there(e.m) || len(batch) == maxMsgs || size > maxBytes && len(batch) > 0 {
			return nil, false
		}
		batch = append(batch, e.replayed())
	}
	if e == nil && len(batch) < n && f.ring.after >= max(first, after+1) {
		return nil, false // there may be more before the ring
	}
	slices.Reverse(batch)
	if start.Kind == bus.StartLast && len(batch) > 0 {
		f.ring.pasts[subject] = past{n, batch, size}
	}
	return batch, true
}

// warm fills the ring with what the stream has before it, once, and reports whether it is worth looking again.
func (f *feed) warm(ctx context.Context, st State) bool {
	f.mu.Lock()
	over := f.warmed || f.epoch != st.Epoch || f.ring.after < st.First
	f.mu.Unlock()
	if over {
		return false
	}
	_, err := f.warming.Get(ctx)
	return err == nil
}

// fillRing reads what is before the ring, up to a bound, and puts it there.
func (f *feed) fillRing() (struct{}, error) {
	if !f.b.begin() {
		return struct{}{}, bus.ErrClosed
	}
	defer f.b.ending.Done()
	ctx, cancel := context.WithTimeout(f.b.life, askTimeout)
	defer cancel()
	st, err := f.states.Get(ctx)
	if err != nil {
		return struct{}{}, err
	}
	f.mu.Lock()
	before, epoch, warmed := f.ring.after, f.epoch, f.warmed
	f.mu.Unlock()
	if warmed || epoch != st.Epoch || before < st.First || st.Msgs == 0 {
		return struct{}{}, nil
	}
	n := min(warmMsgs, max(1, warmBytes*st.Msgs/max(1, st.Bytes)))
	q := Query{After: max(st.First, before-min(before, n)+1) - 1, UpTo: before, Pattern: ">", MaxMsgs: warmMsgs, MaxBytes: 4 * warmBytes}
	release, err := f.slot(ctx)
	if err != nil {
		return struct{}{}, err
	}
	defer release()
	s := *f.config.Load()
	s.Epoch = epoch
	batch, err := f.b.backend.Read(ctx, s, q)
	if err != nil {
		return struct{}{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.warmed = true
	if f.epoch != epoch || f.ring.after != before || batch.Through < before || len(batch.Holes) > 0 {
		return struct{}{}, nil
	}
	f.first = max(f.first, st.First)
	messages := slices.DeleteFunc(batch.Messages, func(m *bus.Message) bool { return !f.acceptable(m) })
	f.ring.prepend(q.After, messages)
	return struct{}{}, nil
}
