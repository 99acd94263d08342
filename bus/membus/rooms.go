package membus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Rooms are named rooms with data, whose members are told at the next tick that it has changed: what a
// program of one process has before it needs a bus. Data is what a room holds, User what the program
// knows of a member. Rooms cost nothing while nothing changes in them, however many they are.
//
//	rooms := membus.NewRooms[Chat, User](100*time.Millisecond, "Go", "Rust")
//	rooms.Start()
//	defer rooms.Stop()
//
//	room, ok := rooms.Get("Go")
//	room.Join(c.Context(), user, c)                                  // c.Sync is called from now on,
//	room.UpdateData(func(chat *Chat) { chat.Lines = append(chat.Lines, line) }) // at the tick after this,
//	chat := room.GetData(last50)                                     // and looks at what there is
//
// Their methods are safe for concurrent use, and those of a Room as well. None waits for a member.
//
// Rooms that come and go by the thousand are a bus' patterns rather: a room stays in its Rooms.
type Rooms[Data, User any] struct {
	// OnError is told of a Sync that has panicked, which harms nobody else: the error is bus.ErrPanic and names the
	// room. It runs on a goroutine of the member. nil: it is logged to slog.Default(). Set it before Start.
	OnError bus.ErrorHook

	clock *clock // of the bus, and of the rooms that have no tick of their own

	mu      sync.RWMutex
	started bool
	rooms   []*Room[Data, User]
	byName  map[string]*Room[Data, User]
	clocks  map[time.Duration]*clock
}

// NewRooms returns rooms that aren't started yet, with the zero value of Data. Their members are told at ticks
// of that length, at least 1 ms; with a tick of 0 at once. It panics if the tick is anything else.
func NewRooms[Data, User any](tick time.Duration, names ...string) *Rooms[Data, User] {
	rs := &Rooms[Data, User]{byName: map[string]*Room[Data, User]{}, clocks: map[time.Duration]*clock{}}
	rs.add(tick, names)
	rs.clock = rs.clocks[tick]
	return rs
}

// Add adds rooms with a tick of their own, as in NewRooms. A room that exists stays as it is.
func (rs *Rooms[Data, User]) Add(tick time.Duration, names ...string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.add(tick, names)
}

func (rs *Rooms[Data, User]) add(tick time.Duration, names []string) {
	if err := checkTick(tick); err != nil {
		panic("membus: rooms: " + err.Error())
	}
	c := rs.clocks[tick]
	if c == nil {
		start := time.Now()
		if rs.clock != nil {
			start = rs.clock.start // ticks of different lengths coincide where they can
		}
		c = newClock(tick, start)
		rs.clocks[tick] = c
	}
	for _, name := range names {
		if rs.byName[name] == nil {
			room := newRoom(rs, c, name)
			room.members.setStopped(!rs.started)
			rs.rooms, rs.byName[name] = append(rs.rooms, room), room
		}
	}
}

// Get returns a room by its name.
func (rs *Rooms[Data, User]) Get(name string) (room *Room[Data, User], ok bool) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	room, ok = rs.byName[name]
	return room, ok
}

// Visit calls fn with the names of the rooms, in the order in which they were added.
func (rs *Rooms[Data, User]) Visit(fn func(name string)) {
	rs.mu.RLock()
	rooms := rs.rooms
	rs.mu.RUnlock()
	for _, room := range rooms {
		fn(room.Name)
	}
}

// Start lets members be told of what changes, and of what has changed before. It may be called again, also after Stop.
func (rs *Rooms[Data, User]) Start() { rs.setStarted(true) }

// Stop ends the calls of Sync. One may still be running for each member, or just beginning: Stop doesn't wait. Rooms can be
// used as before, and what isn't told then is told after another Start. A bus of OpenBus goes on until it is closed.
func (rs *Rooms[Data, User]) Stop() { rs.setStarted(false) }

func (rs *Rooms[Data, User]) setStarted(started bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.started = started
	for _, room := range rs.rooms {
		room.members.setStopped(!started)
	}
}

// OpenBus opens a bus in memory on the clock of these rooms, for programs that are on their way to one. Its tick is that of
// NewRooms. A page that is a member of a room and has subscriptions, too, is told of both at the same tick, and rendered
// once. A room that follows the bus, as in the example, is updated at a tick and tells its members at the next one.
//
// Start and Stop are the rooms' alone: the bus lasts until it is closed.
func (rs *Rooms[Data, User]) OpenBus(opts ...bus.OpenOption) (bus.Bus, error) {
	return open(context.Background(), rs.clock, bus.NewOpenOptions(opts))
}

// report tells that a member's Sync has panicked.
func (rs *Rooms[Data, User]) report(room string, panicked any, stack []byte) {
	p := bus.Problem{Err: fmt.Errorf("membus: room %q: Sync: %w: %v", room, bus.ErrPanic, panicked), Stack: stack}
	if rs.OnError == nil {
		slog.Error("membus: problem", "error", p.Err, "stack", string(stack))
		return
	}
	defer func() {
		if r := recover(); r != nil {
			slog.Error("membus: the error hook panicked", "panic", fmt.Sprint(r), "problem", p.Err)
		}
	}()
	rs.OnError(p)
}
