package presence

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	maxID      = 128
	maxName    = 256
	maxInfo    = 1024
	maxProcess = 64
	maxMembers = 100_000 // of a room
	maxPeers   = 4096    // other processes in a room
	maxPages   = 100_000
	maxTTL     = 10 * time.Minute

	defaultEvery = 2 * time.Second
	defaultGrace = 3 * time.Second
	maxEvery     = 2 * time.Minute
	maxGrace     = 5 * time.Minute

	busTimeout   = 5 * time.Second // of one call of the bus
	closeTimeout = 5 * time.Second
)

var (
	// ErrClosed: the Rooms were closed before the call.
	ErrClosed = errors.New("presence is closed")

	// ErrBadMember: the member has no ID, or one of its texts is too long or not UTF-8.
	ErrBadMember = errors.New("bad member")

	// ErrFull: the room has 100,000 members.
	ErrFull = errors.New("the room is full")

	// ErrCaptured: a stream of the bus captures the subjects, and would store every greeting.
	// Take a prefix that no stream captures.
	ErrCaptured = errors.New("a stream captures it")
)

// Member is somebody in a room. Its texts are valid UTF-8; they may be anything else that whoever joined
// could choose, so escape them where they are shown, as package ui does.
type Member struct {
	ID   string // who it is: 1 to 128 bytes
	Name string // what to call it: at most 256 bytes
	Info string // what else the program wants to know of a member: at most 1,024 bytes
}

// Option changes what Open returns.
type Option func(*Rooms)

// Every sets how often this process says that it is still there: 2 seconds by default, from 100 ms to 2 minutes.
// Its members are gone 3.25 times as long after a crash. Processes with different values get on.
func Every(d time.Duration) Option { return func(rs *Rooms) { rs.every = d } }

// Grace sets how long a member may be away without having left: 3 seconds by default, from 0 to
// 5 minutes. A grace of 0 tells a leave at once.
func Grace(d time.Duration) Option { return func(rs *Rooms) { rs.grace = d } }

// WithLogger logs to l instead of slog.Default(). Problems of the bus are logged, each kind at most every ten
// seconds; they end by themselves, or go on being logged.
func WithLogger(l *slog.Logger) Option { return func(rs *Rooms) { rs.log = l } }

// Rooms are the rooms of one bus under one prefix, as one process sees them. Its methods are safe for
// concurrent use, and none but Close waits for the bus.
type Rooms struct {
	bus          bus.Bus
	prefix       string
	every, grace time.Duration
	log          *slog.Logger

	id      string // of this process, made up
	mark    []byte // how messages of this process begin
	counter atomic.Uint64

	life     context.Context
	end      context.CancelFunc
	farewell context.Context // set before life ends: bounds the goodbyes

	mu     sync.Mutex // before any room's
	closed bool
	open   map[string]*room // by subject
	ended  chan struct{}    // closed when the last room has ended after Close
	live   int              // rooms whose goroutines run

	toldMu sync.Mutex
	told   map[string]time.Time // when a kind of problem was logged
}

// Open returns the rooms whose subjects are prefix, a dot, and the room's name as [bus.EscapeToken]
// makes it. Every process that shares them uses the same prefix. ctx bounds the call.
//
// Errors: bus.ErrBadSubject when prefix isn't the start of a subject, [ErrCaptured] when a stream
// captures what is under it, a bad option, or the bus's.
func Open(ctx context.Context, b bus.Bus, prefix string, opts ...Option) (*Rooms, error) {
	rs := &Rooms{bus: b, prefix: prefix, every: defaultEvery, grace: defaultGrace, log: slog.Default(),
		id: rand.Text(), open: map[string]*room{}, ended: make(chan struct{}), told: map[string]time.Time{}}
	for _, o := range opts {
		o(rs)
	}
	rs.mark = []byte(`{"p":"` + rs.id + `"`)
	switch {
	case rs.every < 100*time.Millisecond || rs.every > maxEvery:
		return nil, fmt.Errorf("presence: open %q: Every is %s, want 100ms to %s", prefix, rs.every, maxEvery)
	case rs.grace < 0 || rs.grace > maxGrace:
		return nil, fmt.Errorf("presence: open %q: Grace is %s, want 0 to %s", prefix, rs.grace, maxGrace)
	}
	if err := rs.checkUncaptured(ctx, prefix+".room"); err != nil {
		return nil, fmt.Errorf("presence: open %q: %w", prefix, err)
	}
	rs.life, rs.end = context.WithCancel(context.Background())
	return rs, nil
}

// checkUncaptured returns an error if a stream captures subject. It publishes nothing: what it asks
// for is refused on an uncaptured subject, and on a captured one a condition that can't hold fails.
func (rs *Rooms) checkUncaptured(ctx context.Context, subject string) error {
	err := rs.bus.Publish(ctx, subject, nil, bus.ExpectLast(bus.NewCursor("presence", 1)))
	switch {
	case errors.Is(err, bus.ErrNoStream), errors.Is(err, bus.ErrUnsupported):
		return nil
	case err == nil, errors.Is(err, bus.ErrConflict):
		return fmt.Errorf("%w: take a prefix that no stream captures", ErrCaptured)
	}
	return err
}

// Join makes m a member of the room, which may have any name (its [bus.EscapeToken] and the prefix are at
// most 254 bytes), until ctx ends or Leave is called. The list has m at once,
// and whoever else is here in a moment: changed is called then.
//
// Join returns at once. A bus that doesn't work is no error here; the others are told when it does.
// Errors are [ErrClosed], [ErrBadMember], [ErrFull], bus.ErrBadSubject, or that of a ctx that has ended. The
// Visit is nil then, which is one to nowhere: its methods may be called.
//
// changed, unless it is nil, is called after the list has changed: on another goroutine, never twice at a
// time for one room, at most ten times a second, and perhaps once more after Leave has returned. While it runs, others of
// the room in this process wait to be told, so it should be quick, as ui's Context.Sync is.
func (rs *Rooms) Join(ctx context.Context, room string, m Member, changed func()) (*Visit, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("presence: join %.80q: %w", room, err)
	}
	v, err := rs.enter(ctx, room, m, changed)
	if err != nil {
		return nil, fmt.Errorf("presence: join %.80q: %w", room, err)
	}
	return v, nil
}

// Watch is Join without a member: it shows who is in the room, and nobody sees the watcher.
func (rs *Rooms) Watch(ctx context.Context, room string, changed func()) (*Visit, error) {
	v, err := rs.enter(ctx, room, Member{}, changed)
	if err != nil {
		return nil, fmt.Errorf("presence: watch %.80q: %w", room, err)
	}
	return v, nil
}

func (rs *Rooms) enter(ctx context.Context, name string, m Member, changed func()) (*Visit, error) {
	subject := rs.prefix + "." + bus.EscapeToken(name)
	if err := bus.CheckSubject(subject); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	v := &Visit{claim: claim{ID: m.ID, Name: m.Name, Info: m.Info, At: time.Now().UnixMilli()}, changed: changed}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return nil, ErrClosed
	}
	r := rs.open[subject]
	fresh := r == nil
	if fresh {
		r = newRoom(rs, subject)
	}
	v.room = r
	if err := r.enter(v); err != nil {
		return nil, err
	}
	if fresh {
		rs.open[subject] = r
		rs.live++
		go r.run()
	}
	r.until(ctx, v)
	return v, nil
}

// ttl is how long what this process says holds without another word: it may miss three.
func (rs *Rooms) ttl() time.Duration { return rs.every * 13 / 4 }

// drop forgets a room in which nobody here is interested any more; false if somebody is.
func (rs *Rooms) drop(r *room, listening bool) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !r.idle(listening) {
		return false
	}
	if rs.open[r.subject] == r {
		delete(rs.open, r.subject)
	}
	return true
}

// exit counts the end of a room's goroutine.
func (rs *Rooms) exit() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.live--
	if rs.closed && rs.live == 0 {
		close(rs.ended)
	}
}

// Close says goodbye in every room, so that the members of this process are gone after the grace
// unless they join elsewhere, and ends everything. It waits until that is done, at the longest until
// ctx ends (5 seconds where it has no deadline), and for a changed that is running; so don't call it there. Close
// it before the bus. It is idempotent. Lists stay as they are.
func (rs *Rooms) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeTimeout)
		defer cancel()
	}
	rs.mu.Lock()
	if !rs.closed {
		rs.closed = true
		rs.farewell = ctx
		if rs.live == 0 {
			close(rs.ended)
		}
		rs.end()
	}
	rs.mu.Unlock()
	select {
	case <-rs.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("presence: close %q: rooms are still open: %w", rs.prefix, context.Cause(ctx))
	}
}

// warn logs a problem, one of each kind in ten seconds.
func (rs *Rooms) warn(kind string, args ...any) { rs.tell(slog.LevelWarn, kind, args...) }

func (rs *Rooms) tell(level slog.Level, kind string, args ...any) {
	now := time.Now()
	rs.toldMu.Lock()
	last, told := rs.told[kind]
	told = told && now.Sub(last) < 10*time.Second
	if !told {
		rs.told[kind] = now
	}
	rs.toldMu.Unlock()
	if !told {
		rs.log.Log(context.Background(), level, "presence: "+kind, args...)
	}
}

// Visit is one tab's, or one watcher's, place in a room. Its methods are safe for concurrent use and never wait.
type Visit struct {
	room    *room
	claim   claim // its ID is empty for a watcher
	changed func()

	// Under the room's mutex:
	stop func() bool
	over bool
}

// List returns everybody in the room by name, and by ID where names are equal. The slice is shared with other
// visits: it must not be modified, and never changes. After Leave it may be out of date.
func (v *Visit) List() []Member {
	if v == nil {
		return nil
	}
	return v.room.members()
}

// Leave ends the visit. The member leaves the list after the grace, unless it has joined
// again or has other visits. It is idempotent.
func (v *Visit) Leave() {
	if v == nil {
		return
	}
	if stop := v.room.leave(v); stop != nil {
		stop()
	}
}
