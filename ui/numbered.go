package ui

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// numbered is an action as a browser asks for it: the n-th of its tab. It may be sent again
// until it is answered.
type numbered struct {
	N       uint64                 `json:"n"`
	Action  string                 `json:"act"`
	Once    string                 `json:"once"`
	Signals map[string]signalValue `json:"signals"`

	form bool // from a form: what has failed is run again when it is sent again
}

// run is what becomes of a numbered action. Tabs that ask under the same once share it.
type run struct {
	done    chan struct{} // closed when it has ended
	err     error         // for its user
	unknown bool          // whether it took effect isn't known: it may be asked for again
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// endedRun answers for numbers that the browser has long had an answer to.
var endedRun = func() *run {
	r := &run{done: make(chan struct{})}
	close(r.done)
	return r
}()

var (
	errBusy = errors.New("the action before is still running")
	errRate = errors.New("too many actions")
	errGone = errors.New("the tab is gone")
)

// submit starts a numbered action, or finds what became of it. first tells that it is
// worth a wait: the tab hasn't asked for this run before. It doesn't wait for the tab's thread.
func (t *tab) submit(a numbered, allow func() bool) (r *run, first bool, err error) {
	a.Action = a.Action[:min(len(a.Action), 32)] // it is logged, and told to its user
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, false, errGone
	}
	switch {
	case t.run == nil || a.N > t.number:
		if t.run != nil && !t.run.ended() {
			return nil, false, errBusy
		}
		if !allow() {
			return nil, false, errRate
		}
		first = true
	case a.N < t.number:
		if r := t.app.onces.find(a.Once); r != nil {
			return r, false, nil // it was refused, perhaps, after a goodbye
		}
		return endedRun, false, nil
	case !t.run.ended() || !t.run.unknown:
		return t.run, false, nil
	case !allow():
		return nil, false, errRate
	}
	if !t.app.running.enter() {
		return nil, false, errClosing
	}
	r, fresh := t.app.onces.claim(a.Once)
	t.number, t.run, t.late = a.N, r, false
	if !fresh {
		t.app.running.leave()
		return r, first, nil
	}
	go t.act(r, a)
	return r, true, nil
}

// act runs a numbered action on the tab's thread.
func (t *tab) act(r *run, a numbered) {
	defer t.app.running.leave()
	err := errGone
	unknown := true
	if t.lock(t.ctx) {
		err = t.perform(a)
		t.unlock()
		// What the end of the tab has interrupted is asked for again, under its next one.
		interrupted := errors.Is(err, context.Canceled) && t.ctx.Err() != nil
		unknown = errors.Is(err, bus.ErrUnknownOutcome) || interrupted || a.form && err != nil
		t.sync()
	}
	if err != nil {
		if _, panicked := errors.AsType[*panicError](err); !panicked && !errors.Is(err, errGone) {
			t.log.Warn("ui: action failed", "action", a.Action, "error", err)
		}
	}
	t.mu.Lock()
	r.err, r.unknown = brief(err), unknown
	close(r.done)
	// That its signals weren't taken is told in an answer alone: after {done} the browser would think that they were.
	if t.run == r && t.late && !unknown && !isFull(err) {
		t.doneNote = encode(doneEvent{Tab: t.id, Done: a.N, Error: message(r.err)})
	}
	s := t.seat
	t.mu.Unlock()
	t.app.onces.settle(a.Once, r)
	if s != nil {
		s.wake()
	}
}

func (t *tab) perform(a numbered) error {
	var fn func() error
	number, ok := strings.CutPrefix(a.Action, "a")
	if i, err := strconv.Atoi(number); ok && err == nil && i >= 1 && i <= len(t.actions) {
		fn = t.actions[i-1]
	}
	if fn == nil {
		return fmt.Errorf("the page has no action %q; reload it", a.Action)
	}
	if err := t.takeSignals(a.Signals); err != nil {
		return err
	}
	t.publishes = &publishing{once: a.Once}
	defer func() { t.publishes = nil }()
	began := time.Now()
	err := t.call("the action", fn)
	t.app.opts.Metrics.Acted(t.page.path, time.Since(began), err)
	return err
}

// waitLonger tells that the browser was answered 202, unless r has ended.
func (t *tab) waitLonger(r *run) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.ended() {
		return false
	}
	t.late = true
	return true
}

// longestError is how many bytes of an action's error are kept for its user.
const longestError = 2048

// brief cuts an error that is long: it is remembered for two minutes, and may quote what was posted.
func brief(err error) error {
	if text := message(err); len(text) > longestError {
		return errors.New(strings.ToValidUTF8(text[:longestError], "") + "…")
	}
	return err
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// publishing makes the message IDs of one action.
type publishing struct {
	once  string
	count map[string]int
}

// next returns the ID of the action's next message on subject.
func (p *publishing) next(subject string) string {
	if p.count == nil {
		p.count = map[string]int{}
	}
	p.count[subject]++
	return p.id(fmt.Sprintf("%s %d", subject, p.count[subject]))
}

// id is a hash: others may read the IDs of messages, and must not learn from them what the
// browser will send next.
func (p *publishing) id(of string) string {
	sum := sha256.Sum256([]byte(p.once + " " + of))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// outcomes remembers what became of actions by their once, beyond the end of their tab.
type outcomes struct {
	mu     sync.Mutex
	limit  int
	memory time.Duration
	byOnce map[string]*run
	order  []settled // oldest first
	timer  *time.Timer
}

type settled struct {
	once string
	run  *run
	at   time.Time
}

// claim returns what became of once, or a new run of it and true.
func (o *outcomes) claim(once string) (r *run, fresh bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byOnce[once]; r != nil && (!r.ended() || !r.unknown) {
		return r, false
	}
	if o.byOnce == nil {
		o.byOnce = map[string]*run{}
	}
	r = &run{done: make(chan struct{})}
	o.byOnce[once] = r
	return r, true
}

// find returns what became of once, or nil.
func (o *outcomes) find(once string) *run {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byOnce[once]
}

// settle starts the time for which the outcome of once is remembered.
func (o *outcomes) settle(once string, r *run) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.unknown {
		if o.byOnce[once] == r {
			delete(o.byOnce, once)
		}
		return
	}
	o.order = append(o.order, settled{once, r, time.Now()})
	if len(o.order) > o.limit {
		o.forgetOldest()
	}
	if o.timer == nil {
		o.timer = time.AfterFunc(o.memory, o.sweep)
	}
}

// sweep forgets what is due, and comes back for the next.
func (o *outcomes) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.order) > 0 && time.Since(o.order[0].at) >= o.memory {
		o.forgetOldest()
	}
	o.timer = nil
	if len(o.order) > 0 {
		o.timer = time.AfterFunc(o.memory-time.Since(o.order[0].at), o.sweep)
	} else {
		o.order = nil
	}
}

func (o *outcomes) forgetOldest() {
	first := o.order[0]
	if o.byOnce[first.once] == first.run {
		delete(o.byOnce, first.once)
	}
	o.order[0] = settled{}
	o.order = o.order[1:]
}

// stop forgets everything.
func (o *outcomes) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	o.byOnce, o.order = nil, nil
}

// inflight counts the actions that run, so that a shutdown can wait for them.
type inflight struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when it is closed and n is 0
}

func (f *inflight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.n++
	return true
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.closed && f.n == 0 {
		close(f.idle)
	}
}

// drain lets nobody in and waits for those inside until ctx ends. It is called once.
func (f *inflight) drain(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.idle = make(chan struct{})
	if f.n == 0 {
		close(f.idle)
	}
	f.mu.Unlock()
	select {
	case <-f.idle:
		return nil
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Errorf("ui: %d actions were still running at the shutdown: %w", f.n, ctx.Err())
	}
}
