package driver

import (
	"sort"

	"github.com/jitney-go/jitney/bus"
)

const (
	ringMsgs  = 4096
	ringBytes = 4 << 20
)

// ring holds the newest messages of a stream: all that are behind after, up to the feed's head. Those of one
// subject are found without looking at the others. Messages that break the grammar aren't kept.
type ring struct {
	after   uint64
	gone    int         // how many entries have been given up: the number of the first one
	entries []ringEntry // their m never changes, so that a copy of the slice can be read for it without the feed's lock
	bytes   int
	last    map[string]int  // the number of each subject's last entry
	pasts   map[string]past // what was last answered of a subject to which nothing has come since
}

// past is what those get who join a subject and ask for its last messages. It isn't modified.
type past struct {
	n        int // how many were asked for
	messages []*bus.Message
	size     int
}

type ringEntry struct {
	m      *bus.Message
	before int          // the number of the subject's entry before; less than ring.gone: there is none
	replay *bus.Message // m as a replayed one, which all replays share; nil: not yet made
}

// reset forgets everything up to a sequence.
func (r *ring) reset(after uint64) {
	*r = ring{after: after, last: map[string]int{}, pasts: map[string]past{}}
}

// add adds the newest message.
func (r *ring) add(m *bus.Message) {
	number := r.gone + len(r.entries)
	before, ok := r.last[m.Subject]
	if !ok {
		before = -1
	}
	delete(r.pasts, m.Subject)
	r.entries = append(r.entries, ringEntry{m: m, before: before})
	r.last[m.Subject] = number
	r.bytes += messageSize(m)
	for len(r.entries) > ringMsgs || r.bytes > ringBytes {
		oldest := r.entries[0].m
		r.after = oldest.Cursor.Sequence()
		r.bytes -= messageSize(oldest)
		if r.last[oldest.Subject] == r.gone {
			delete(r.last, oldest.Subject)
			delete(r.pasts, oldest.Subject)
		}
		r.entries = r.entries[1:]
		r.gone++
	}
}

// prepend adds messages, all that there are between a sequence and after, before the others.
func (r *ring) prepend(after uint64, messages []*bus.Message) {
	others := r.entries
	r.reset(after)
	for _, m := range messages {
		r.add(m)
	}
	for _, e := range others {
		r.add(e.m)
	}
}

// firstBehind is where the first entry behind a sequence is.
func firstBehind(entries []ringEntry, after uint64) int {
	// It reads nothing but what never changes.
	return sort.Search(len(entries), func(i int) bool { return entries[i].m.Cursor.Sequence() > after })
}

// newestOf is the last entry of a subject; before is the one of the same subject before e. They are nil when there is none.
func (r *ring) newestOf(subject string) *ringEntry {
	number, ok := r.last[subject]
	if !ok {
		return nil
	}
	return &r.entries[number-r.gone]
}

func (r *ring) before(e *ringEntry) *ringEntry {
	if e.before < r.gone {
		return nil
	}
	return &r.entries[e.before-r.gone]
}

// replayed is e's message as one that was there before.
func (e *ringEntry) replayed() *bus.Message {
	if e.replay == nil {
		m := *e.m
		m.Replayed = true
		e.replay = &m
	}
	return e.replay
}
