package presence

import (
	"context"
	"errors"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// plan does what is due and returns what is to be published now, and when to look again; the zero time is never.
func (r *room) plan(now time.Time, late time.Duration, listening bool) (messages []*message, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	soon := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	defer func() { r.expectedAt = next }()

	for id, l := range r.here {
		if len(l.visits) > 0 {
			continue
		}
		if now.Before(l.until) {
			soon(l.until)
			continue
		}
		delete(r.here, id)
		r.remove(nil, id)
		r.dirty[id] = struct{}{}
	}
	r.expire(now, late, soon)
	if !listening {
		return nil, next
	}

	if !r.askAt.IsZero() && !now.Before(r.askAt) {
		messages = append(messages, r.question(now))
	}
	soon(r.askAt)

	// Somebody with nothing to tell needn't tell it, unless others think otherwise.
	if len(r.here) == 0 && r.version == 0 {
		r.whole, r.answerAt = false, time.Time{}
		clear(r.dirty)
		return messages, next
	}
	due := r.answerAt
	if r.whole || len(r.dirty) > 0 {
		due = now
	}
	if !due.IsZero() && due.Before(r.notBefore) {
		due = r.notBefore
	}
	beat := now.Add(r.rs.every*9/10 + jitter(r.rs.every/5))
	switch {
	case !due.IsZero() && !now.Before(due):
		messages = append(messages, r.news(now)...)
		r.beatAt = beat
	case len(r.here) > 0 && r.version != 0 && !now.Before(r.beatAt):
		messages = append(messages, r.beat(r.rs.ttl()))
		r.beatAt = beat
		soon(due)
	default:
		soon(due)
	}
	if len(r.here) > 0 && r.version != 0 {
		soon(r.beatAt)
	}
	return messages, next
}

func (r *room) question(now time.Time) *message {
	m := &message{P: r.rs.id, Op: opAsk}
	if !r.askAll {
		for id := range r.askThese {
			m.Q = append(m.Q, id)
		}
		if len(m.Q) > 8 {
			m.Q = nil // that is nearly everybody, and short
		}
	}
	r.asked(m.Q, now)
	return m
}

// asked notes that somebody has asked, all or these.
func (r *room) asked(q []string, now time.Time) {
	if len(q) == 0 {
		r.askAll, r.askedAll = false, now
		clear(r.askThese)
		for _, p := range r.peers {
			p.asked = now
		}
	}
	for _, id := range q {
		delete(r.askThese, id)
		if p := r.peers[id]; p != nil {
			p.asked = now
		}
	}
	if !r.askAll && len(r.askThese) == 0 {
		r.askAt = time.Time{}
	}
}

func (r *room) beat(ttl time.Duration) *message {
	return &message{P: r.rs.id, Op: opBeat, N: r.rs.counter.Add(1), V: r.version, T: ttl.Milliseconds()}
}

// news says what has changed, or everything if somebody needs that or it is shorter.
func (r *room) news(now time.Time) []*message {
	bytes := 0
	whole := r.whole || r.version == 0 || !r.answerAt.IsZero() || len(r.dirty) > len(r.here)/2
	change := &message{P: r.rs.id, Op: opChange, B: r.version, T: r.rs.ttl().Milliseconds()}
	if !whole {
		for id := range r.dirty {
			if l := r.here[id]; l != nil {
				change.M = append(change.M, l.claim)
				bytes += l.claim.size()
			} else {
				change.D = append(change.D, id)
				bytes += claim{ID: id}.size()
			}
		}
		whole = bytes > r.page
	}
	var messages []*message
	if whole {
		bytes = 0
		var page []claim
		pages := [][]claim{}
		inPage := 0
		for _, l := range r.here {
			size := l.claim.size()
			if inPage > 0 && inPage+size > r.page {
				pages, page, inPage = append(pages, page), nil, 0
			}
			page = append(page, l.claim)
			inPage += size
			bytes += size
		}
		pages = append(pages, page)
		n := uint64(len(pages))
		r.version = r.rs.counter.Add(n) - n + 1
		for k, page := range pages {
			messages = append(messages, &message{P: r.rs.id, Op: opState, N: r.version + uint64(k), V: r.version,
				K: k, Of: len(pages), M: page, T: change.T})
		}
		if len(r.here) == 0 {
			r.version = 0 // said, and nothing more to say
		}
	} else {
		r.version = r.rs.counter.Add(1)
		change.N, change.V = r.version, r.version
		messages = append(messages, change)
	}
	r.whole, r.answerAt = false, time.Time{}
	clear(r.dirty)
	cost := time.Duration(bytes) * time.Second / announceRate
	r.notBefore = now.Add(min(max(announcePause, cost), r.rs.every))
	return messages
}

func (r *room) publish(messages []*message) {
	for _, m := range messages {
		// Meanwhile nobody expires, so don't wait for long.
		ctx, cancel := context.WithTimeout(r.rs.life, min(r.rs.every, busTimeout))
		err := r.rs.bus.Publish(ctx, r.subject, m.encode())
		cancel()
		if err == nil {
			continue
		}
		if r.rs.life.Err() != nil {
			return
		}
		r.mu.Lock()
		now := time.Now()
		switch {
		case m.Op == opAsk:
			r.askAll, r.askAt = true, now.Add(retryPause)
		case errors.Is(err, bus.ErrTooLarge) && r.page > minPageSize:
			r.page /= 2
			r.whole, r.notBefore = true, now
		default:
			// What others have got of it isn't known.
			r.whole = true
			r.notBefore = now.Add(retryPause + jitter(retryPause))
			r.beatAt = r.notBefore
		}
		r.mu.Unlock()
		r.poke() // to plan again
		r.rs.warn("can't publish; trying again", "subject", r.subject, "error", err)
		return
	}
}

// goodbye lets the others keep the members of this process for the grace only.
func (r *room) goodbye() {
	r.mu.Lock()
	var m *message
	if r.version != 0 {
		m = r.beat(r.rs.grace)
	}
	r.mu.Unlock()
	if m == nil {
		return
	}
	if err := r.rs.bus.Publish(r.rs.farewell, r.subject, m.encode()); err != nil {
		r.rs.warn("can't say goodbye: the members of this process will be gone when they expire", "subject", r.subject, "error", err)
	}
}
