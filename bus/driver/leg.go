package driver

import (
	"time"

	"github.com/jitney-go/jitney/bus"
)

// state says where the messages of a captured leg come from.
type state uint8

const (
	live    state = iota // from the queue
	behind               // first what is queued, then reads from pos on
	joining              // reads up to the place from which on the feed fills the queue
)

// leg is one source of a subscription: a stream, or everything that isn't captured.
// All its fields are under the subscription's lock; methods without "Locked" take it.
type leg struct {
	sub      *subscription
	feed     *feed     // nil: uncaptured, or a group's
	listener *listener // nil: captured, or a group's
	place    int       // among the legs of either, under its lock
	group    *group    // nil: not a member
	taken    *Delivery // what a member was given last

	queue queue
	open  int // how many of the queue a gate has released
	// How much the queue may hold while some of it is released and not yet taken.
	allowMsgs, allowBytes int

	state    state
	epoch    string
	pos      uint64 // behind, joining: complete up to here
	from     uint64 // the feed pushes what is behind this
	began    bus.Cursor
	target   uint64 // the last sequence that was stored when Subscribe was called
	joinAt   uint64
	batch    []*bus.Message // read, not yet handed over
	readAt   time.Duration  // on the driver's clock
	snapshot bool           // the batch is the last message of each subject
	resnap   []*bus.Message // what was left of it when it had to be asked for again
	fresh    bool           // nothing of the batch has been handed over: the store has just said that it stands
	holes    []Hole
	known    State // of the stream; zero when it must be asked for
	reading  bool  // the store is being asked for more
	failure  error // of the last read, which has been told; nil: it didn't fail

	notices []error // to be told before the next message
	dropped uint64  // not told yet
	drainTo uint64  // while draining: captured: the last sequence; uncaptured: how many are left
}

func (l *leg) spot() *int { return &l.place }

// push queues messages, if the leg takes from its queue. It reports whether the caller is to add the subscription to the crew.
func (l *leg) push(items ...item) (start bool) {
	s := l.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.draining && l.feed == nil {
		return false
	}
	for _, it := range items {
		if l.feed == nil {
			for l.fullLocked(it.m) {
				l.queue.pop()
				l.open = max(0, l.open-1)
				l.dropped++
				s.dropped.Add(1)
			}
			l.queue.push(it)
			continue
		}
		seq := it.m.Cursor.Sequence()
		if l.state == behind {
			return false
		}
		if seq <= l.from {
			continue
		}
		if l.fullLocked(it.m) {
			l.fallBehindLocked(seq - 1)
			return s.beginLocked()
		}
		l.queue.push(it)
	}
	return l.queue.len > 0 && s.wakeLocked()
}

// fullLocked reports whether the queue has no place for m.
func (l *leg) fullLocked(m *bus.Message) bool {
	if !l.exceededBy(m) {
		return false
	}
	l.sub.settleLocked() // what is with the handler doesn't wait
	return l.exceededBy(m)
}

// exceededBy reports whether m is too much for the queue. What waits for a tick is bounded
// more loosely than what waits for a handler.
func (l *leg) exceededBy(m *bus.Message) bool {
	if l.queue.len == 0 {
		return false
	}
	msgs, size := l.sub.maxMsgs, l.sub.maxBytes
	if l.sub.ready != nil {
		if l.open == 0 {
			msgs, size = 64*msgs, 64*size
		} else {
			msgs, size = l.allowMsgs, l.allowBytes
		}
	}
	return l.queue.len >= msgs || l.queue.bytes+messageSize(m) > size
}

// fallBehind makes the leg read on from the store behind head, once what it has is handed over.
func (l *leg) fallBehind(head uint64) {
	l.sub.mu.Lock()
	defer l.sub.mu.Unlock()
	if l.sub.ended {
		return
	}
	l.fallBehindLocked(head)
	l.sub.startLocked()
}

func (l *leg) fallBehindLocked(head uint64) {
	switch l.state {
	case live:
		l.state, l.pos = behind, max(head, l.from)
	case joining: // it still reads: what it has queued it will come to
		l.state = behind
		l.queue.clear()
		l.open = 0
	}
	l.known = State{}
}

// reread forgets what the leg holds from seq on and lets the store decide.
func (l *leg) rereadLocked(seq uint64) {
	l.sub.settleLocked()
	l.batch, l.holes, l.resnap, l.snapshot = nil, nil, nil, false
	l.queue.clear()
	l.open = 0
	l.state, l.pos, l.known = behind, seq-1, State{}
}

// shortenLocked takes the first messages of the batch, which have been handed over.
func (l *leg) shortenLocked(n int) {
	l.batch, l.fresh = l.batch[n:], false
	if len(l.batch) == 0 {
		l.batch = nil // gives their memory back
	}
}

// rebase starts the leg anew in another epoch of its stream.
func (l *leg) rebase(epoch string) {
	l.sub.mu.Lock()
	defer l.sub.mu.Unlock()
	if l.sub.ended {
		return
	}
	l.sub.settleLocked()
	last := l.sub.last
	if last.Epoch() != l.epoch {
		last = cursorOrZero(l.epoch, max(l.pos, l.from))
	}
	l.notices = append(l.notices, &bus.GapError{Stream: l.feed.name, After: last, Before: bus.NewCursor(epoch, 1)})
	l.epoch = epoch
	l.rereadLocked(1)
	l.from, l.target = 0, 0
	l.sub.startLocked()
}

// notice tells the subscription's hook before the next message.
func (l *leg) notice(err error) {
	l.sub.mu.Lock()
	defer l.sub.mu.Unlock()
	if !l.sub.ended {
		l.notices = append(l.notices, err)
		l.sub.startLocked()
	}
}

// caughtUpLocked reports whether everything up to the target has been handed over.
func (l *leg) caughtUpLocked() bool {
	if l.feed == nil || l.target == 0 {
		return true
	}
	if len(l.batch) > 0 || len(l.holes) > 0 || len(l.resnap) > 0 {
		return false
	}
	return l.state == live || l.pos >= l.target && l.queue.len == 0
}

// drainedLocked reports whether a draining leg has handed over what it must.
func (l *leg) drainedLocked() bool {
	if l.group != nil {
		return l.group.drained.Load() && l.queue.len == 0
	}
	if l.feed == nil {
		return l.drainTo == 0 || l.queue.len == 0
	}
	if len(l.batch) > 0 {
		return l.batch[0].Cursor.Sequence() > l.drainTo
	}
	if l.state == live || l.state == behind && l.queue.len > 0 {
		return l.queue.len == 0 || l.queue.peek().m.Cursor.Sequence() > l.drainTo
	}
	return l.pos >= l.drainTo
}
