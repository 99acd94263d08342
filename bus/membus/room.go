package membus

import (
	"sync"
	"time"
)

// rooms is the publish loop of rooms that share a clock. The clock runs only while a room
// is dirty.
type rooms struct {
	tick  time.Duration
	start time.Time

	mu      sync.Mutex
	byName  map[string]*room
	dirty   []*room
	timer   *time.Timer // not nil while a tick is due
	stopped bool
}

// room is a set of members that are told together when something has changed.
type room struct {
	rooms   *rooms
	name    string
	members map[*member]struct{}
	dirty   bool
}

// member is told by a call of sync, which doesn't block.
type member struct {
	room *room
	sync func()
}

func newRooms(tick time.Duration) *rooms {
	return &rooms{tick: tick, start: time.Now(), byName: map[string]*room{}}
}

// join makes a member of the room of that name, which exists while it has members.
func (r *rooms) join(name string, sync func()) *member {
	r.mu.Lock()
	defer r.mu.Unlock()
	rm := r.byName[name]
	if rm == nil {
		rm = &room{rooms: r, name: name, members: map[*member]struct{}{}}
		r.byName[name] = rm
	}
	m := &member{room: rm, sync: sync}
	rm.members[m] = struct{}{}
	return m
}

// leave ends the membership. The member may be told once more.
func (m *member) leave() {
	rm, r := m.room, m.room.rooms
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(rm.members, m)
	if len(rm.members) == 0 && r.byName[rm.name] == rm {
		delete(r.byName, rm.name)
	}
}

// markDirty has the members told at the next tick.
func (rm *room) markDirty() {
	r := rm.rooms
	r.mu.Lock()
	defer r.mu.Unlock()
	if rm.dirty || r.stopped {
		return
	}
	rm.dirty = true
	r.dirty = append(r.dirty, rm)
	if r.timer == nil {
		r.timer = time.AfterFunc(r.tick-time.Since(r.start)%r.tick, r.publish)
	}
}

// publish is one turn of the loop.
func (r *rooms) publish() {
	r.mu.Lock()
	var members []*member
	for _, rm := range r.dirty {
		rm.dirty = false
		for m := range rm.members {
			members = append(members, m)
		}
	}
	r.dirty, r.timer = nil, nil
	r.mu.Unlock()
	for _, m := range members {
		m.sync()
	}
}

// stop ends the clock: nobody is told any more.
func (r *rooms) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.timer != nil {
		r.timer.Stop()
	}
}
