package membus

import (
	"cmp"
	"context"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
)

// Syncer is told that its room has changed, such as the page of a tab. What has changed it finds by Room.GetData.
type Syncer interface {
	// Sync is called by a room once at a time, on a goroutine of the member, and may use the room. While it runs,
	// changes wait, and are told together by one more call. A member that is slow or blocked delays nobody else.
	Sync()
}

// Room has data and members.
type Room[Data, User any] struct {
	Name string // not to be changed

	rooms   *Rooms[Data, User]
	members *members

	dataMu sync.RWMutex
	data   Data

	mu     sync.Mutex
	visits map[Syncer]*visit[Data, User]
	joins  uint64 // calls of Join
}

func newRoom[Data, User any](rs *Rooms[Data, User], c *clock, name string) *Room[Data, User] {
	return &Room[Data, User]{Name: name, rooms: rs, members: newMembers(c), visits: map[Syncer]*visit[Data, User]{}}
}

// UpdateData calls fn with the room's data, to change it, and has the members told at the next tick. Other calls of UpdateData
// and GetData wait meanwhile, so fn is quick and uses nothing of the room but its argument.
func (r *Room[Data, User]) UpdateData(fn func(data *Data)) {
	defer r.members.markDirty() // also of what a panic leaves half done
	r.dataMu.Lock()
	defer r.dataMu.Unlock()
	fn(&r.data)
}

// GetData returns what subset makes of the room's data or, without one, all of it. What UpdateData has changed is seen at
// once, without waiting for a tick.
//
// What is returned is a copy as assignments make it: the elements of slices and maps are shared with later calls of UpdateData.
// If those change them in place, subset clones what it returns. subset only reads, may run concurrently with others,
// and uses nothing of the room but its argument.
func (r *Room[Data, User]) GetData(subset ...func(data *Data) Data) Data {
	r.dataMu.RLock()
	defer r.dataMu.RUnlock()
	data := r.data
	if len(subset) == 0 || subset[0] == nil {
		return data
	}
	return subset[0](&data)
}

// Join makes m a member until Leave, or until ctx ends, such as that of a tab. Join before you look at the data, and you miss
// nothing. Members are told apart by themselves and not by user, so two of one name are two. One that joins again is still one
// member, with the last user and ctx. Join panics if m is no pointer or other comparable value.
//
// Join and Leave don't tell the others; UpdateData does.
func (r *Room[Data, User]) Join(ctx context.Context, user User, m Syncer) {
	if !isComparable(m) {
		panic("membus: Room.Join: members are told apart by ==, so a member is a pointer")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joins++
	join := r.joins
	v := r.visits[m]
	if v == nil {
		v = &visit[Data, User]{room: r, syncer: m, first: join}
		v.member.tell = v.tell
		r.visits[m] = v
		r.members.add(&v.member)
	} else if v.setLeft(false) {
		v.first = join
		r.members.add(&v.member)
	} else {
		v.until()
	}
	v.user, v.last = user, join
	v.until = context.AfterFunc(ctx, func() { r.leave(m, join) })
}

// Leave ends a membership, if there is one. A call of Sync may still be running, or just beginning; none follows.
func (r *Room[Data, User]) Leave(m Syncer) {
	if isComparable(m) {
		r.leave(m, 0)
	}
}

func isComparable(m Syncer) bool { return m != nil && reflect.ValueOf(m).Comparable() }

// leave ends a membership, unless m has joined again since the call of a number; 0: in any case.
func (r *Room[Data, User]) leave(m Syncer, join uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.visits[m]
	if v == nil || join != 0 && join != v.last || !v.setLeft(true) {
		return
	}
	v.until()
	r.members.remove(&v.member)
	r.forgetLocked(v)
}

// forgetLocked removes a visit that has left. While Sync runs it stays, so that m isn't told twice at a time if it joins again.
func (r *Room[Data, User]) forgetLocked(v *visit[Data, User]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.left && !v.running {
		delete(r.visits, v.syncer)
	}
}

// Members returns the users of the members, in the order in which they have joined.
func (r *Room[Data, User]) Members() []User {
	r.mu.Lock()
	defer r.mu.Unlock()
	visits := make([]*visit[Data, User], 0, len(r.visits))
	for _, v := range r.visits {
		if !v.hasLeft() {
			visits = append(visits, v)
		}
	}
	slices.SortFunc(visits, func(x, y *visit[Data, User]) int { return cmp.Compare(x.first, y.first) })
	users := make([]User, len(visits))
	for i, v := range visits {
		users[i] = v.user
	}
	return users
}

// visit is a membership. It has a goroutine only while there is something to tell.
type visit[Data, User any] struct {
	room   *Room[Data, User]
	syncer Syncer
	member member

	// Under the room's lock.
	user        User
	first, last uint64      // the numbers of its calls of Join
	until       func() bool // stops watching the context of the last one

	mu      sync.Mutex
	running bool // a goroutine calls Sync
	dirty   bool // Sync is to be called
	left    bool
}

func (v *visit[Data, User]) tell() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dirty = true
	if !v.running {
		v.running = true
		go v.run()
	}
}

// setLeft says whether the member has left, and reports whether that is news. It is called under the room's lock.
func (v *visit[Data, User]) setLeft(left bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	news := v.left != left
	v.left = left
	v.dirty = v.dirty && !news // of another membership
	return news
}

func (v *visit[Data, User]) hasLeft() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.left
}

// run calls Sync until there is nothing to tell.
func (v *visit[Data, User]) run() {
	finished := false
	defer func() {
		if !finished { // Sync has ended its goroutine
			go v.run()
		}
	}()
	for v.due() {
		v.sync()
	}
	finished = true
}

// due reports whether Sync is to be called now.
func (v *visit[Data, User]) due() bool {
	stopped := v.room.members.isStopped()
	v.mu.Lock()
	dirty := v.dirty && !v.left
	v.running = dirty && !stopped
	if v.running {
		v.dirty = false
	}
	running, left := v.running, v.left
	v.mu.Unlock()
	switch {
	case dirty && stopped:
		v.room.members.markDirty() // Start will tell
	case left:
		v.room.mu.Lock()
		v.room.forgetLocked(v)
		v.room.mu.Unlock()
	}
	return running
}

func (v *visit[Data, User]) sync() {
	returned := false
	defer func() {
		if r := recover(); r != nil {
			v.room.rooms.report(v.room.Name, r, debug.Stack())
		} else if !returned {
			v.room.rooms.report(v.room.Name, "it has ended its goroutine", debug.Stack())
		}
	}()
	v.syncer.Sync()
	returned = true
}
