package ui

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	g "maragu.dev/gomponents"
)

// tab is one document in one browser: what its page function remembers, the text that it
// was sent last, and its place in a stream. It has no goroutine of its own.
type tab struct {
	app  *App
	page *page
	id   string
	log  *slog.Logger

	// openKey is the key of the document that the tab was opened for, when that had lost its
	// own; it is empty for a tab that came with its document.
	openKey string

	ctx    context.Context // ends with the tab
	cancel context.CancelFunc

	// thread is full while the tab's thread is taken. It guards what page code touches:
	// the fields of threaded.
	thread chan struct{}
	threaded

	limiter   *rate.Limiter
	finishing atomic.Bool // what its document left behind runs

	mu sync.Mutex
	// Who the tab belongs to.
	origin  string // the session that opened it
	session string // the session that it is bound to; empty until something attaches
	key     string

	// Its life.
	ended    bool
	attached bool // something has attached at least once
	born     time.Time
	expiry   *time.Timer
	lease    uint64 // counts the expiries that were set and stopped

	// Its place in a stream. w and s name the newest stream that took it.
	seat *seat
	w    string
	s    uint64

	// The view as the browser has it.
	version    uint64
	sent       string // the text of version
	titleSent  string
	clientText bool // the browser holds the text of version, too
	stale      bool // a render is due
	rendering  bool
	pausing    bool      // the render waits for its time
	cutAt      time.Time // of the newest frame
	frame      []byte    // of version, rendered and not yet written
	notes      [][]byte
	doneNote   []byte
	subs       map[*Subscription]struct{}

	// Its newest numbered action.
	number uint64
	run    *run
	late   bool // its browser was told to wait for {done}
}

// threaded is what belongs to the tab's thread.
type threaded struct {
	view      func() g.Node
	ready     bool // the page function has returned
	signals   []*Signal
	actions   []func() error
	restored  map[string]signalValue // what the browser had, when the tab was opened for it
	title     string
	focus     string
	current   context.Context // of the bus handler that runs, or nil
	publishes *publishing     // of the action that runs, or nil
}

// newTab returns a tab whose thread is taken, until its page function has run.
func newTab(p *page, session, key string, restored map[string]signalValue) *tab {
	v := p.app
	t := &tab{
		app:     v,
		page:    p,
		id:      newID(),
		thread:  make(chan struct{}, 1),
		limiter: newLimiter(v.opts),
		origin:  session,
		openKey: key,
		key:     key,
		born:    time.Now(),
	}
	// The whole id would let a reader of the log act as the tab's user.
	t.log = v.log.With("page", p.path, "tab", t.id[:6])
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.title, t.restored = v.opts.DocumentTitle, restored
	t.thread <- struct{}{}
	return t
}

// lock takes the tab's thread. It returns false when ctx or the tab ends first.
func (t *tab) lock(ctx context.Context) bool {
	select {
	case t.thread <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	case <-t.ctx.Done():
		return false
	}
}

func (t *tab) unlock() { <-t.thread }

// panicError is what is left of a panic in page code.
type panicError struct {
	what  string
	value any
}

func (e *panicError) Error() string {
	// What was panicked with is for the log: it may hold anything.
	return fmt.Sprintf("%s failed unexpectedly; the server's log says why", e.what)
}

// call runs page code on the tab's thread, which the caller holds, and contains its panics.
func (t *tab) call(what string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{what, r}
			t.log.Error("ui: "+what+" panicked", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	return fn()
}

// sync marks the view as stale and wakes the tab's stream.
func (t *tab) sync() {
	t.mu.Lock()
	t.stale = true
	s := t.seat
	t.mu.Unlock()
	if s != nil {
		s.wake()
	}
}

// complain shows an error to the tab's user. The newest few wait for a stream.
func (t *tab) complain(err error) {
	note := encode(errorEvent{Tab: t.id, Error: brief(err).Error()})
	t.note(func(notes [][]byte) [][]byte { return append(notes, note) })
}

// unsay takes back errors that a stream couldn't write: the next one says them.
func (t *tab) unsay(said [][]byte) {
	t.note(func(notes [][]byte) [][]byte { return append(said, notes...) })
}

func (t *tab) note(add func(notes [][]byte) [][]byte) {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return
	}
	t.notes = add(t.notes)
	if n := len(t.notes) - t.app.limits.notes; n > 0 {
		t.notes = append([][]byte(nil), t.notes[n:]...)
	}
	s := t.seat
	t.mu.Unlock()
	if s != nil {
		s.wake()
	}
}

// admit binds the tab to the first session and key that come with its id, and refuses others.
func (t *tab) admit(session, key string) bool {
	if !validKey(key) || session == "" {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || t.session != "" && t.session != session || t.key != "" && t.key != key {
		return false
	}
	t.session, t.key = session, key
	return true
}

// sit gives the tab a place in a stream, unless a newer stream has it. It returns the place, and the
// number of that newer stream. have is the version that the browser says to have.
func (t *tab) sit(st *stream, have uint64) (s *seat, newer uint64) {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return nil, 0
	}
	if t.w == st.w && st.s < t.s {
		newer = t.s
		t.mu.Unlock()
		return nil, newer
	}
	old := t.seat
	s = &seat{tab: t, stream: st, have: have, written: have}
	t.seat, t.w, t.s = s, st.w, st.s
	t.attached = true
	t.frame = nil
	if have != t.version {
		t.stale = true
	}
	t.stopExpiry()
	t.mu.Unlock()
	if old != nil && old.stream != st {
		old.leave(st)
	}
	return s, 0
}

// stand takes the tab out of its place, if it still has it, and starts its time to live.
func (t *tab) stand(s *seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seat != s {
		return
	}
	t.seat = nil
	if t.frame != nil {
		t.frame, t.stale = nil, true
	}
	t.startExpiry(t.app.opts.TabTTL)
}

// touch tells that the tab's document lives although it has no stream.
func (t *tab) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attached = true
	if t.seat == nil {
		t.startExpiry(t.app.opts.TabTTL)
	}
}

// startExpiry lets the tab end after d. The caller holds mu.
func (t *tab) startExpiry(d time.Duration) {
	t.stopExpiry()
	if t.ended {
		return
	}
	lease := t.lease
	t.expiry = time.AfterFunc(d, func() { t.expire(lease) })
}

func (t *tab) stopExpiry() {
	t.lease++
	if t.expiry != nil {
		t.expiry.Stop()
		t.expiry = nil
	}
}

// expire ends the tab if its lease hasn't been renewed.
func (t *tab) expire(lease uint64) {
	t.mu.Lock()
	due := t.lease == lease
	t.mu.Unlock()
	if due {
		t.end()
	}
}

// end ends the tab: its context, and with it its subscriptions. It doesn't wait for the thread.
func (t *tab) end() {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return
	}
	t.ended = true
	t.stopExpiry()
	s := t.seat
	t.seat, t.frame, t.notes, t.doneNote, t.subs, t.sent = nil, nil, nil, nil, nil, ""
	t.mu.Unlock()
	t.cancel()
	t.app.tabs.remove(t)
	if s != nil {
		s.drop()
	}
}
