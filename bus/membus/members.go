package membus

import "sync"

// members are those who are told together that something has changed: the members of a Room, and the
// subscriptions of a bus that have the same pattern.
type members struct {
	clock *clock

	mu      sync.Mutex
	all     map[*member]struct{}
	stopped bool // nobody is told; what is dirty stays so
	dirty   bool // those who are in all are still to be told
}

// member is told by a call that doesn't block.
type member struct{ tell func() }

func newMembers(c *clock) *members { return &members{clock: c, all: map[*member]struct{}{}} }

func (ms *members) add(m *member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.all[m] = struct{}{}
}

// remove ends a membership. The member may be told once more. It returns how many are left.
func (ms *members) remove(m *member) int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.all, m)
	return len(ms.all)
}

// markDirty has the members told at the next tick.
func (ms *members) markDirty() {
	ms.mu.Lock()
	if ms.dirty || len(ms.all) == 0 {
		ms.mu.Unlock()
		return
	}
	ms.dirty = true
	stopped := ms.stopped
	ms.mu.Unlock()
	if !stopped {
		ms.clock.add(ms)
	}
}

// setStopped says whether members are told. What is dirty is told when it may be.
func (ms *members) setStopped(stopped bool) {
	ms.mu.Lock()
	ms.stopped = stopped
	due := ms.dirty && !stopped
	ms.mu.Unlock()
	if due {
		ms.clock.add(ms)
	}
}

func (ms *members) isStopped() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.stopped
}

// publish tells the members if they are still to be told.
func (ms *members) publish() {
	ms.mu.Lock()
	var told []*member
	if ms.dirty && !ms.stopped {
		ms.dirty = false
		told = make([]*member, 0, len(ms.all))
		for m := range ms.all {
			told = append(told, m)
		}
	}
	ms.mu.Unlock()
	for _, m := range told { // without the lock, which they take to say that there is more
		m.tell()
	}
}
