package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	tellPause     = 100 * time.Millisecond // between two calls of a visit's changed
	announcePause = 100 * time.Millisecond // between two changes or states that are published
	announceRate  = 256 << 10              // bytes per second of states that are published
	retryPause    = time.Second            // after a publish that failed
	pageSize      = 32 << 10               // bytes of a message
	minPageSize   = 256

	// What may wait for the handler: everybody answers at once.
	bufferMessages = 8192
	bufferBytes    = 32 << 20
)

// room is one room as this process sees it. A goroutine of its own (run) does what needs the bus.
type room struct {
	rs      *Rooms
	subject string
	wake    chan struct{}

	mu      sync.Mutex
	visits  map[*Visit]struct{}
	here    map[string]*local // the members of this process
	peers   map[string]*peer  // the other processes
	entries map[string]*entry // the members of all
	claims  int               // of all entries
	list    []Member          // of entries; nil: to be made

	telling, tellAgain bool
	over               bool
	captured           bool // a stream has captured the subject since the room was subscribed to
	tellers            sync.WaitGroup

	// What is to be announced, and when.
	version    uint64              // of the last change or state; 0: none
	dirty      map[string]struct{} // members of this process that have changed since
	whole      bool                // a state is due, not only a change
	answerAt   time.Time           // when a state is due because somebody has asked; zero: nobody has
	notBefore  time.Time           // of the next change or state
	beatAt     time.Time
	askedAll   time.Time           // when somebody last has asked all
	askAt      time.Time           // when a question is due; zero: none
	askAll     bool                // of whom: everybody
	askThese   map[string]struct{} // or these
	page       int                 // bytes of a page
	expectedAt time.Time           // when run has meant to look again
}

// local is a member of this process.
type local struct {
	claim  claim // as announced
	visits []*Visit
	until  time.Time // when it has left, if there are no visits
}

// entry is a member of the room.
type entry struct {
	shown claim
	by    map[*peer]claim // by process; nil is this one
}

func newRoom(rs *Rooms, subject string) *room {
	return &room{
		rs: rs, subject: subject, wake: make(chan struct{}, 1), page: pageSize,
		visits: map[*Visit]struct{}{}, here: map[string]*local{}, peers: map[string]*peer{}, entries: map[string]*entry{},
		dirty: map[string]struct{}{}, askThese: map[string]struct{}{},
	}
}

func (r *room) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *room) enter(v *Visit) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.claim.ID != "" {
		l := r.here[v.claim.ID]
		if l == nil {
			if r.claims >= maxMembers {
				return ErrFull
			}
			l = &local{}
			r.here[v.claim.ID] = l
		}
		l.visits = append(l.visits, v)
		r.settle(l, v.claim)
	}
	r.visits[v] = struct{}{}
	return nil
}

// until ends a visit with ctx.
func (r *room) until(ctx context.Context, v *Visit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v.stop = context.AfterFunc(ctx, v.Leave)
}

// leave ends a visit and returns what stops it from being ended again, if there is something.
func (r *room) leave(v *Visit) (stop func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.over {
		return nil
	}
	v.over = true
	delete(r.visits, v)
	if l := r.here[v.claim.ID]; l != nil {
		l.visits = slices.DeleteFunc(l.visits, func(o *Visit) bool { return o == v })
		if n := len(l.visits); n > 0 {
			r.settle(l, l.visits[n-1].claim)
		} else {
			l.until = time.Now().Add(r.rs.grace)
		}
	}
	r.poke() // there is a grace to wait for, or a room to close
	return v.stop
}

// settle makes c the claim of a member of this process, unless it looks the same: then the
// others needn't be told.
func (r *room) settle(l *local, c claim) {
	if l.claim.member() == c.member() {
		return
	}
	l.claim = c
	r.put(nil, c)
	r.dirty[c.ID] = struct{}{}
	r.poke()
}

// idle reports whether nobody here is interested in the room, and the others know it or can't be told.
func (r *room) idle(listening bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.visits) == 0 && len(r.here) == 0 && (r.version == 0 || !listening)
}

// put notes that a process (nil: this one) has a member; false if the room is full.
func (r *room) put(p *peer, c claim) bool {
	e := r.entries[c.ID]
	if e == nil {
		e = &entry{by: map[*peer]claim{}}
	}
	if _, had := e.by[p]; !had {
		if r.claims >= maxMembers && p != nil {
			return false
		}
		r.claims++
	}
	e.by[p] = c
	r.entries[c.ID] = e
	r.show(c.ID, e)
	return true
}

// remove notes that a process hasn't a member any more.
func (r *room) remove(p *peer, id string) {
	e := r.entries[id]
	if e == nil {
		return
	}
	if _, had := e.by[p]; !had {
		return
	}
	r.claims--
	delete(e.by, p)
	r.show(id, e)
}

// show makes the list right after the claims of one member have changed.
func (r *room) show(id string, e *entry) {
	if len(e.by) == 0 {
		delete(r.entries, id)
		r.changed()
		return
	}
	var best claim
	for _, c := range e.by {
		if best.ID == "" || c.beats(best) {
			best = c
		}
	}
	was := e.shown.member()
	e.shown = best
	if was != best.member() {
		r.changed()
	}
}

func (r *room) members() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		list := make([]Member, 0, len(r.entries))
		for _, e := range r.entries {
			list = append(list, e.shown.member())
		}
		slices.SortFunc(list, func(a, b Member) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
		})
		r.list = list[:len(list):len(list)]
	}
	return r.list
}

// changed has the visits told that the list has changed.
func (r *room) changed() {
	r.list = nil
	switch {
	case r.telling:
		r.tellAgain = true
	case !r.over:
		r.telling = true
		r.tellers.Go(r.tell)
	}
}

// tell calls the visits until nothing has changed for a while.
func (r *room) tell() {
	pause := time.NewTimer(tellPause)
	defer pause.Stop()
	for {
		r.mu.Lock()
		r.tellAgain = false
		var hooks []func()
		for v := range r.visits {
			if v.changed != nil {
				hooks = append(hooks, v.changed)
			}
		}
		r.mu.Unlock()
		for _, hook := range hooks {
			r.call(hook)
		}
		pause.Reset(tellPause)
		select {
		case <-pause.C:
		case <-r.rs.life.Done():
		}
		r.mu.Lock()
		if !r.tellAgain || r.rs.life.Err() != nil {
			r.telling = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
	}
}

func (r *room) call(hook func()) {
	defer func() {
		if p := recover(); p != nil {
			r.rs.tell(slog.LevelError, "a function that is told of changes panicked", "subject", r.subject, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	hook()
}

// run does what needs the bus, until nobody here is interested in the room, or Close.
func (r *room) run() {
	defer r.rs.exit()
	defer func() {
		r.mu.Lock()
		r.over = true // nobody is told any more
		r.mu.Unlock()
		r.tellers.Wait()
	}()
	var (
		sub   bus.Subscription
		subAt time.Time // when to subscribe
		fails int
		late  time.Duration // how much later than planned the clock has woken us
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for r.rs.life.Err() == nil {
		if sub == nil && !time.Now().Before(subAt) {
			var err error
			if sub, err = r.subscribe(); err != nil {
				pause := min(30*time.Second, retryPause<<min(fails, 5)) + jitter(retryPause)
				fails++
				subAt = time.Now().Add(pause)
				if r.rs.life.Err() == nil {
					r.rs.warn("can't subscribe: other processes are not seen, and see nobody here", "subject", r.subject, "error", err, "again in", pause.Round(time.Second))
				}
			} else {
				fails = 0
			}
		}
		if r.isCaptured() {
			r.unsubscribe(r.rs.life, sub)
			sub, subAt = nil, time.Time{}
			continue // to be told why
		}
		messages, next := r.plan(time.Now(), late, sub != nil)
		late = 0
		r.publish(messages)
		if r.rs.drop(r, sub != nil) {
			r.unsubscribe(r.rs.life, sub)
			return
		}
		if sub == nil && (next.IsZero() || subAt.Before(next)) {
			next = subAt
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(next)))
		}
		var over <-chan struct{}
		if sub != nil {
			over = sub.Done()
		}
		select {
		case <-timer.C:
			late = time.Since(next)
		case <-r.wake:
		case <-over:
			r.rs.warn("the subscription has ended; subscribing again", "subject", r.subject, "error", sub.Err())
			sub, subAt = nil, time.Time{}
		case <-r.rs.life.Done():
		}
	}
	if sub != nil {
		r.goodbye()
	}
	r.unsubscribe(r.rs.farewell, sub)
}

// isCaptured reports, once, that a message has come from a stream.
func (r *room) isCaptured() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	captured := r.captured
	r.captured = false
	return captured
}

// subscribe listens to the room and prepares to ask who is there.
func (r *room) subscribe() (bus.Subscription, error) {
	ctx, cancel := context.WithTimeout(r.rs.life, busTimeout)
	defer cancel()
	// Whether it works at all is what Subscribe says.
	if err := r.rs.checkUncaptured(ctx, r.subject); errors.Is(err, ErrCaptured) {
		return nil, err
	}
	sub, err := r.rs.bus.Subscribe(ctx, r.subject, r.handle, bus.OnError(r.problem), bus.Buffer(bufferMessages, bufferBytes))
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.askAll, r.askAt = true, time.Now()
	r.whole, r.captured = true, false
	return sub, nil
}

func (r *room) unsubscribe(ctx context.Context, sub bus.Subscription) {
	if sub == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	if err := sub.Unsubscribe(ctx); err != nil {
		r.rs.warn("unsubscribe", "subject", r.subject, "error", err)
	}
}

// problem is the error hook of the subscription.
func (r *room) problem(p bus.Problem) {
	r.rs.warn("problem of the subscription", "subject", r.subject, "error", p.Err)
	if !errors.Is(p.Err, bus.ErrSlow) && !errors.Is(p.Err, bus.ErrGap) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ask("", time.Now())
}

// ask plans a question to one process, or to all if id is empty. Others who ask in the meantime
// make it unnecessary.
func (r *room) ask(id string, now time.Time) {
	if id == "" {
		r.askAll = true
	} else {
		r.askThese[id] = struct{}{}
	}
	if r.askAt.IsZero() {
		r.askAt = now.Add(jitter(r.spread()))
		r.poke()
	}
}

// spread is the time over which the processes of the room spread what they all have to say.
func (r *room) spread() time.Duration {
	others := 1
	for _, p := range r.peers {
		if !p.expires.IsZero() {
			others++
		}
	}
	return time.Duration(min(others, 1000)) * 2 * time.Millisecond
}

func jitter(d time.Duration) time.Duration { return rand.N(max(d, 1)) }
