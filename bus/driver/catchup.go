package driver

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// stale reports whether the stream's limits may have taken a waiting message. The
// store decides, when it is read again; this only says when to ask.
func (s *subscription) stale(l *leg, it item) bool {
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
	if cfg.MaxAge > 0 && time.Since(it.m.Time) >= cfg.MaxAge {
		return true
	}
	if cfg.MaxBytes > 0 && it.before > 0 && l.feed.stored.Load()-it.before >= cfg.MaxBytes {
		return true
	}
	return cfg.MaxBytes > 0 && clock()-it.at > freshness && l.feed.newest.Load() > seq
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
			s.wakeLocked() // s is running
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
	l.reading = true
	s.mu.Unlock()
	f.mu.Unlock()

	batch, err := f.read(s.ctx, epoch, st, q)
	s.mu.Lock()
	l.reading = false
	s.mu.Unlock()
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
	left = l.accept(left)
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
	if len(left) < len(l.resnap) && l.feed.config.Load().Config.MaxMsgsPerSubject == 0 {
		before := l.target + 1
		if len(left) > 0 {
			before = left[0].Cursor.Sequence()
		}
		l.holes = []Hole{{After: first - 1, Before: before}}
	}
	l.batch, l.resnap = left, nil
	l.readAt, l.fresh, l.failure = clock(), true, nil
}

// take makes a batch that was read the next one of its leg.
func (s *subscription) take(l *leg, epoch string, after uint64, batch Batch) {
	messages := l.accept(batch.Messages)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || l.epoch != epoch || l.pos != after {
		return // it was rebased meanwhile
	}
	l.batch, l.holes, l.pos = messages, batch.Holes, batch.Through
	l.readAt, l.fresh, l.failure = clock(), true, nil
}

// accept leaves what keeps the grammar of messages that were read, and marks what was stored at the call.
func (l *leg) accept(read []*bus.Message) []*bus.Message {
	messages := read[:0]
	for _, m := range read {
		if l.feed.acceptable(m) {
			m.Replayed = m.Cursor.Sequence() <= l.target
			messages = append(messages, m)
		}
	}
	return messages
}

// endOrRetry waits before a failed read is tried again; what captures the pattern may have changed.
func (s *subscription) endOrRetry(l *leg, err error) {
	if s.ctx.Err() != nil {
		return
	}
	if errors.Is(err, ErrEpoch) || errors.Is(err, ErrNotCaptured) {
		// The new table ends the subscription or rebases the leg.
		_, err = s.b.refresh.Get(s.ctx)
	}
	s.mu.Lock()
	first := l.failure == nil
	if err != nil {
		l.failure = err
	}
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
