package natsbus

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// Read implements driver.Backend.
func (b *backend) Read(ctx context.Context, s driver.Stream, q driver.Query) (driver.Batch, error) {
	r, err := b.page(ctx, s, q.After+1, q.Pattern, q.MaxMsgs, q.MaxBytes, q.UpTo)
	if err != nil {
		return driver.Batch{}, err
	}
	// What was trimmed before the read is told by a state from after it.
	info, err := b.info(ctx, s.Config.Name)
	if err != nil {
		return driver.Batch{}, err
	}
	if b.epoch(info) != s.Epoch {
		return driver.Batch{}, driver.ErrEpoch
	}
	if info.State.Last < q.UpTo {
		return driver.Batch{}, errNoLeader // one that was the leader has answered
	}
	r.newer(info.first())
	c := &info.Config
	if info.State.Deleted > 0 && c.MaxMsgsPerSubject <= 0 {
		if b.server == nil || info.State.Deleted > manyMissing {
			return b.readHoles(ctx, s, q)
		}
		if info, err = b.missing(ctx, s.Config.Name); err != nil {
			return driver.Batch{}, err
		}
		if b.epoch(info) != s.Epoch {
			return driver.Batch{}, driver.ErrEpoch
		}
	}
	batch := r.batch(q, s.Epoch)
	if b.server != nil {
		damaged, err := b.passedOver(ctx, s, q, r, &batch, info)
		if err != nil {
			return driver.Batch{}, err
		}
		if damaged {
			if batch, err = b.readHoles(ctx, s, q); err == nil && len(batch.Holes) > 0 {
				// Which has reads wait for a while.
				b.server.suspect(s.Config.Name, batch.Holes[0].After, batch.Holes[len(batch.Holes)-1].Before-1)
			}
			return batch, err
		}
		batch.Holes = holesOf(info.State.Missing, q.After, batch.Through)
		if c.MaxMsgsPerSubject > 0 {
			batch.Holes = b.server.lives.holes(s.Config.Name, q.After, batch.Through)
		}
	}
	replacesOnly := c.MaxMsgsPerSubject > 0 && c.MaxMsgs <= 0 && c.MaxBytes <= 0 && c.MaxAge == 0
	if first := info.first(); first > q.After+1 && !replacesOnly {
		if len(batch.Messages) > 0 {
			first = min(first, batch.Messages[0].Cursor.Sequence())
		}
		if first > q.After+1 {
			batch.Holes = append([]driver.Hole{{After: q.After, Before: first}}, batch.Holes...)
			batch.Through = max(batch.Through, first-1)
		}
	}
	return batch, nil
}

// batch cuts what was read at the end of the question.
func (r *getResult) batch(q driver.Query, epoch string) driver.Batch {
	stamp(r.messages, epoch)
	batch := driver.Batch{Messages: r.messages, Through: q.UpTo}
	for i, m := range r.messages {
		if m.Cursor.Sequence() > q.UpTo {
			batch.Messages = r.messages[:i]
			return batch
		}
	}
	if through := max(r.through, r.last()); through > 0 && r.pending > 0 {
		batch.Through = min(q.UpTo, through) // that nothing is left of what was read says nothing of what is behind it
	}
	return batch
}

// readHoles reads everything and matches here: where messages were deleted from the middle
// of a stream, only the sequence of all shows what is missing.
func (b *backend) readHoles(ctx context.Context, s driver.Stream, q driver.Query) (driver.Batch, error) {
	r, err := b.page(ctx, s, q.After+1, ">", q.MaxMsgs, q.MaxBytes, q.UpTo)
	if err != nil {
		return driver.Batch{}, err
	}
	batch := r.batch(q, s.Epoch)
	all := batch.Messages
	batch.Messages = nil
	last := q.After
	for _, m := range all {
		seq := m.Cursor.Sequence()
		if seq > last+1 {
			batch.Holes = append(batch.Holes, driver.Hole{After: last, Before: seq})
		}
		last = seq
		if bus.Match(q.Pattern, m.Subject) {
			batch.Messages = append(batch.Messages, m)
		}
	}
	if batch.Through > last { // nothing is left up to the end of the question
		batch.Holes = append(batch.Holes, driver.Hole{After: last, Before: batch.Through + 1})
	}
	return batch, b.sameEpoch(ctx, s)
}

// Seek implements driver.Backend.
func (b *backend) Seek(ctx context.Context, s driver.Stream, q driver.Query) (uint64, error) {
	after, err := b.seek(ctx, s, q)
	if err != nil {
		return 0, err
	}
	return after, b.sameEpoch(ctx, s)
}

func (b *backend) seek(ctx context.Context, s driver.Stream, q driver.Query) (uint64, error) {
	if !q.Since.IsZero() {
		r, err := b.getThrough(ctx, s.Config.Name, getRequest{StartTime: &q.Since, Next: q.Pattern, Batch: 1}, q.UpTo)
		if err != nil {
			return 0, err
		}
		if len(r.messages) == 0 {
			return q.UpTo, nil
		}
		return min(q.UpTo, r.messages[0].Cursor.Sequence()-1), nil
	}
	return b.seekLast(ctx, s, q)
}

// seekLast finds the place before the last q.N messages by halving: how many match from a
// sequence on is known to the server. It is counted against what comes behind q.UpTo, which
// grows while we ask, so the result is counted once more and mended.
func (b *backend) seekLast(ctx context.Context, s driver.Stream, q driver.Query) (uint64, error) {
	guessed := false
	from := func(seq uint64) (first, count uint64, err error) {
		r, err := b.getThrough(ctx, s.Config.Name, getRequest{Seq: seq, Next: q.Pattern, Batch: 1}, q.UpTo)
		if err != nil || len(r.messages) == 0 {
			return 0, 0, err
		}
		guessed = guessed || r.guessed
		return r.messages[0].Cursor.Sequence(), r.pending + 1, nil
	}
	_, behind, err := from(q.UpTo + 1)
	if err != nil {
		return 0, err
	}
	first, count, err := from(1)
	if err != nil || count == 0 || first > q.UpTo {
		return q.UpTo, err
	}
	if guessed || b.server == nil && count <= uint64(q.N)+behind { // the counts may be of a replica that lags behind
		return b.countBack(ctx, s, q, first)
	}
	lo, hi := first, q.UpTo+1 // at least N from lo on, if there are as many; fewer from hi on
	want := uint64(q.N) + behind
	if count <= want {
		return first - 1, nil
	}
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		at, n, err := from(mid)
		if err != nil {
			return 0, err
		}
		if n >= want && at <= q.UpTo {
			lo = at
			if n == want {
				break
			}
		} else {
			hi = mid
		}
		if hi <= lo {
			break
		}
	}
	return b.countBack(ctx, s, q, lo)
}

// countBack returns the place before the last q.N messages, given a place that is near it.
func (b *backend) countBack(ctx context.Context, s driver.Stream, q driver.Query, near uint64) (uint64, error) {
	for {
		var seqs []uint64
		read := q
		read.After, read.MaxMsgs, read.MaxBytes = near-1, 1000, 1<<20
		for read.After < q.UpTo {
			r, err := b.page(ctx, s, read.After+1, q.Pattern, read.MaxMsgs, read.MaxBytes, q.UpTo)
			if err != nil {
				return 0, err
			}
			batch := r.batch(read, s.Epoch)
			for _, m := range batch.Messages {
				seqs = append(seqs, m.Cursor.Sequence())
			}
			if extra := len(seqs) - q.N; extra > 1000 {
				seqs = slices.Delete(seqs, 0, extra)
			}
			read.After = batch.Through
		}
		if len(seqs) >= q.N {
			return seqs[len(seqs)-q.N] - 1, nil
		}
		if near <= 1 {
			return 0, nil
		}
		// What was published meanwhile made it look nearer than it is.
		if back := (q.UpTo-near+1)*2 + uint64(q.N); near > back {
			near -= back
		} else {
			near = 1
		}
	}
}

// LastPerSubject implements driver.Backend.
func (b *backend) LastPerSubject(ctx context.Context, s driver.Stream, q driver.Query) ([]*bus.Message, error) {
	if q.UpTo == 0 {
		return nil, nil
	}
	messages, err := b.lastPerSubject(ctx, s, q)
	if err != nil {
		return nil, err
	}
	return messages, b.sameEpoch(ctx, s)
}

func (b *backend) lastPerSubject(ctx context.Context, s driver.Stream, q driver.Query) ([]*bus.Message, error) {
	var all []*bus.Message
	for after := uint64(0); ; {
		r, err := b.getThrough(ctx, s.Config.Name, getRequest{Seq: after + 1, Last: []string{q.Pattern}, UpTo: q.UpTo}, q.UpTo)
		if errors.Is(err, errUnread) && b.server != nil {
			b.server.suspect(s.Config.Name, max(after, r.last()), q.UpTo)
		}
		if errors.Is(err, errTooMany) || errors.Is(err, errUnread) {
			return b.lastByReading(ctx, s, q)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r.messages...)
		if r.pending == 0 || len(r.messages) == 0 {
			stamp(all, s.Epoch)
			return all, nil
		}
		after = r.messages[len(r.messages)-1].Cursor.Sequence()
	}
}

// lastByReading keeps the last message of each subject of everything that matches.
func (b *backend) lastByReading(ctx context.Context, s driver.Stream, q driver.Query) ([]*bus.Message, error) {
	last := map[string]*bus.Message{}
	q.After, q.MaxMsgs, q.MaxBytes = 0, 1000, 4<<20
	for q.After < q.UpTo {
		r, err := b.page(ctx, s, q.After+1, q.Pattern, q.MaxMsgs, q.MaxBytes, q.UpTo)
		if err != nil {
			return nil, err
		}
		batch := r.batch(q, s.Epoch)
		for _, m := range batch.Messages {
			last[m.Subject] = m
		}
		q.After = batch.Through
	}
	messages := make([]*bus.Message, 0, len(last))
	for _, m := range last {
		messages = append(messages, m)
	}
	slices.SortFunc(messages, func(x, y *bus.Message) int { return cmp.Compare(x.Cursor.Sequence(), y.Cursor.Sequence()) })
	return messages, nil
}
