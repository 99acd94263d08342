package compare

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// pace is the time between two renders of a page, as package ui has it.
const pace = 10 * time.Millisecond

// chat is the tabs of one bus.
type chat struct {
	b      bus.Bus
	prefix string // of its subjects
	tabs   []*tab
	slots  chan struct{} // held while a page renders
	began  time.Time
	phase  int
	effort atomic.Int64 // what a page computes when it is rendered
}

// openChat fills the rooms, so that each page is as long as it will be, and opens the tabs.
func openChat(ctx context.Context, b bus.Bus, prefix string, l load) (*chat, error) {
	c := &chat{b: b, prefix: prefix, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), began: time.Now()}
	err := together(l.Rooms, func(room int) error {
		for n := range history {
			if err := c.say(ctx, room, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range l.Tabs {
		t := &tab{chat: c, room: i % l.Rooms}
		c.tabs = append(c.tabs, t)
		if _, err := bus.Subscribe(ctx, b, c.subject(t.room), t.handle, bus.Last(history)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *chat) subject(room int) string { return c.prefix + ".room." + strconv.Itoa(room) }

// now is the time that messages carry.
func (c *chat) now() time.Duration { return time.Since(c.began) }

func (c *chat) say(ctx context.Context, room, n int) error {
	m := said(c.phase, room, n)
	m.At = c.now()
	return bus.Publish(ctx, c.b, c.subject(room), m)
}

// together runs f in n goroutines.
func together(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var all []error
	for range n {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// said is what a robot says.
func said(phase, room, n int) message {
	robot := (7*n + room) % 40
	return message{
		ID: fmt.Sprintf("%d-%d-%d", phase, room, n), By: fmt.Sprintf("robot-%d", robot),
		Name: fmt.Sprintf("Robot %d", robot), Emoji: "🤖", Time: time.Now().UTC(), Phase: phase, N: n,
		Text: fmt.Sprintf("Has anybody tried <room %d> & its %d messages, one of which I'd never do without?", room, n),
	}
}

// tab is a page that looks at a room. It is rendered as package ui does it.
type tab struct {
	chat *chat
	room int

	thread sync.Mutex // held while a handler or the view runs; before mu
	rows   []string
	fresh  []time.Duration // when what isn't rendered yet was published
	out    []byte
	tally  *tally // of the phase; nil between two

	mu               sync.Mutex
	stale, rendering bool
	pausing          bool // the render waits for its time
	renderedAt       time.Time
}

// handle is the handler of its subscription.
func (t *tab) handle(_ context.Context, m message) error {
	now := t.chat.now()
	t.thread.Lock()
	defer t.thread.Unlock()
	if m.N == last {
		t.tally.end(m)
		return nil
	}
	t.rows = append(t.rows, row(m))
	if len(t.rows) > history {
		t.rows = t.rows[1:]
	}
	if t.tally.deliver(m, now) {
		t.fresh = append(t.fresh, m.At)
	}
	t.sync()
	return nil
}

// sync has the page rendered soon.
func (t *tab) sync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stale = true
	t.scheduleLocked()
}

func (t *tab) scheduleLocked() {
	if !t.stale || t.rendering || t.pausing {
		return
	}
	if wait := pace - time.Since(t.renderedAt); wait > 0 {
		t.pausing = true
		time.AfterFunc(wait, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.pausing = false
			t.scheduleLocked()
		})
		return
	}
	t.stale, t.rendering = false, true
	go t.render()
}

func (t *tab) render() {
	t.thread.Lock()
	t.chat.slots <- struct{}{}
	t.out = renderPage(t.out, t.rows)
	compute(t.out, int(t.chat.effort.Load()))
	<-t.chat.slots
	now := t.chat.now()
	t.tally.render(t.fresh, now)
	t.fresh = t.fresh[:0]
	t.thread.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rendering, t.renderedAt = false, time.Now()
	t.scheduleLocked()
}
