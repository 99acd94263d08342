package compare

import "time"

// tally is what one tab gets in a phase. Its methods are called on the tab's thread; those of nil, which
// is no phase, do nothing.
type tally struct {
	run      *run
	seen     numbers
	handled  []time.Duration // from publish to the call of the handler
	rendered []time.Duration // from publish to the end of the first render that shows it
	renders  int             // that showed something new
	repeated int
	newest   time.Duration // when the last one came
	ended    bool
}

// deliver counts a message, and reports whether it is a new one of the phase.
func (t *tally) deliver(m message, now time.Duration) bool {
	if t == nil || m.Phase != t.run.number {
		return false
	}
	if !t.seen.add(m.N) {
		t.repeated++
		return false
	}
	t.handled = append(t.handled, now-m.At)
	t.newest = now
	t.run.unrendered.Add(1) // before it counts as delivered
	t.run.delivered.Add(1)
	return true
}

// render counts a render that shows for the first time what was published at these times.
func (t *tally) render(published []time.Duration, now time.Duration) {
	if t == nil || len(published) == 0 {
		return
	}
	t.renders++
	for _, at := range published {
		t.rendered = append(t.rendered, now-at)
	}
	t.run.unrendered.Add(-int64(len(published)))
	t.run.check()
}

// end is told that everything has been published before.
func (t *tally) end(m message) {
	if t == nil || m.Phase != t.run.number || t.ended {
		return
	}
	t.ended = true
	t.run.ended.Add(1)
	t.run.check()
}

// numbers is a set of small ones.
type numbers []uint64

// add reports whether n wasn't in the set.
func (s *numbers) add(n int) bool {
	word, bit := n/64, uint64(1)<<(n%64)
	for len(*s) <= word {
		*s = append(*s, 0)
	}
	if (*s)[word]&bit != 0 {
		return false
	}
	(*s)[word] |= bit
	return true
}

func (s numbers) has(n int) bool { return n/64 < len(s) && s[n/64]&(1<<(n%64)) != 0 }
