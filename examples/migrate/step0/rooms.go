package main

import (
	"sync"
	"time"
)

// Syncable is told that its room has changed.
type Syncable interface{ Sync() }

// Rooms are rooms by name.
type Rooms[Data any, User comparable] struct {
	names  []string
	byName map[string]*Room[Data, User]
}

func NewRooms[Data any, User comparable](names ...string) *Rooms[Data, User] {
	rs := &Rooms[Data, User]{names: names, byName: map[string]*Room[Data, User]{}}
	for _, name := range names {
		rs.byName[name] = newRoom[Data, User](name)
	}
	return rs
}

func (rs *Rooms[Data, User]) Get(name string) (*Room[Data, User], bool) {
	room, ok := rs.byName[name]
	return room, ok
}

func (rs *Rooms[Data, User]) Visit(fn func(name string)) {
	for _, name := range rs.names {
		fn(name)
	}
}

func (rs *Rooms[Data, User]) Start() {
	for _, room := range rs.byName {
		go room.run()
	}
}

func (rs *Rooms[Data, User]) Stop() {
	for _, room := range rs.byName {
		close(room.stop)
		<-room.stopped
	}
}

// member is a user with what is to be told.
type member[User comparable] struct {
	user User
	sync Syncable
}

// Room has data and members, and a goroutine that tells them at each tick if the data has changed.
type Room[Data any, User comparable] struct {
	Name string

	mu    sync.RWMutex
	data  Data
	dirty bool

	members map[User]Syncable // of the goroutine
	joining chan member[User]
	leaving chan User
	stop    chan struct{}
	stopped chan struct{}
}

func newRoom[Data any, User comparable](name string) *Room[Data, User] {
	return &Room[Data, User]{
		Name:    name,
		members: map[User]Syncable{},
		joining: make(chan member[User], 5),
		leaving: make(chan User, 5),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
}

func (r *Room[Data, User]) Join(user User, s Syncable) { r.joining <- member[User]{user, s} }

func (r *Room[Data, User]) Leave(user User) { r.leaving <- user }

// UpdateData changes the data.
func (r *Room[Data, User]) UpdateData(fn func(data *Data)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(&r.data)
	r.dirty = true
}

// GetData returns a copy of the data, or what subset makes of it.
func (r *Room[Data, User]) GetData(subset ...func(data *Data) Data) Data {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(subset) == 0 {
		return r.data
	}
	data := r.data
	return subset[0](&data)
}

func (r *Room[Data, User]) run() {
	defer close(r.stopped)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case m := <-r.joining:
			r.members[m.user] = m.sync
		case user := <-r.leaving:
			delete(r.members, user)
		case <-ticker.C:
			r.publish()
		case <-r.stop:
			return
		}
	}
}

func (r *Room[Data, User]) publish() {
	r.mu.Lock()
	dirty := r.dirty
	r.dirty = false
	r.mu.Unlock()
	if !dirty {
		return
	}
	for _, s := range r.members {
		s.Sync()
	}
}
