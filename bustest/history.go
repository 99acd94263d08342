package bustest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// kind says what an event is.
type kind uint8

const (
	delivered kind = iota // a handler was called with a message
	returned              // and is about to return
	problem               // an error hook was called
	mark                  // the check itself notes a moment
)

// event is one line of a history: what was seen, in the order in which it was.
type event struct {
	kind     kind
	text     string // a message's data, or the words of a mark
	subject  string
	cursor   bus.Cursor
	replayed bool
	problem  bus.Problem
	msg      *bus.Message
}

// brief quotes a text, of a long one its beginning, its end and its length.
func brief(text string) string {
	if len(text) <= 60 {
		return strconv.Quote(text)
	}
	return fmt.Sprintf("%q...%q (%d bytes)", text[:30], text[len(text)-10:], len(text))
}

func (e event) String() string {
	switch e.kind {
	case returned:
		return "returned  " + brief(e.text)
	case problem:
		return fmt.Sprintf("problem   %v (pattern %q, subject %q)", e.problem.Err, e.problem.Pattern, e.problem.Subject)
	case mark:
		return "mark      " + e.text
	}
	s := fmt.Sprintf("delivered %s on %s", brief(e.text), e.subject)
	if !e.cursor.IsZero() {
		s += " at " + e.cursor.String()
	}
	if e.replayed {
		s += ", replayed"
	}
	return s
}

// history is what one subscription has seen. Handlers and hooks only append to it; pure
// judges read it afterwards, so that nothing is decided in the middle of a race.
type history struct {
	name string
	sub  bus.Subscription

	mu      sync.Mutex
	events  []event
	changed chan struct{} // closed by the next event; nil while nobody waits
}

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// message notes that a handler was called with m.
func (h *history) message(m *bus.Message) {
	h.add(event{kind: delivered, text: string(m.Data), subject: m.Subject, cursor: m.Cursor, replayed: m.Replayed, msg: m})
}

// mark notes a moment of the check's own.
func (h *history) mark(text string) { h.add(event{kind: mark, text: text}) }

// handler records messages and does nothing else.
func (h *history) handler() bus.Handler {
	return func(_ context.Context, m *bus.Message) error {
		h.message(m)
		return nil
	}
}

// hook records problems.
func (h *history) hook() bus.ErrorHook {
	return func(p bus.Problem) { h.add(event{kind: problem, subject: p.Subject, cursor: p.Cursor, problem: p}) }
}

// all is a copy of what was seen so far.
func (h *history) all() []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]event(nil), h.events...)
}

// await waits until ok is true of an event, and returns it.
func (c *C) await(h *history, what string, ok func(e event) bool) event {
	return c.awaitWithin(c.h.Patience, h, what, ok)
}

func (c *C) awaitWithin(patience time.Duration, h *history, what string, ok func(e event) bool) event {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for next := 0; ; {
		h.mu.Lock()
		for ; next < len(h.events); next++ {
			if ok(h.events[next]) {
				e := h.events[next]
				h.mu.Unlock()
				return e
			}
		}
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			events := h.all()
			c.Fatalf("%s: not within %v: %s\n%s", h.name, patience, what, around(events, len(events)))
		case <-c.ctx.Done():
			c.Fatalf("the check has ended before: %s", what)
		}
	}
}

// awaitText waits until a message with this data was delivered.
func (c *C) awaitText(h *history, text string) event {
	return c.await(h, "the message "+brief(text), func(e event) bool { return e.kind == delivered && e.text == text })
}

// awaitProblem waits until the hook was told target.
func (c *C) awaitProblem(h *history, target error) event {
	return c.await(h, fmt.Sprintf("a call of the error hook with %q", target), func(e event) bool {
		return e.kind == problem && errors.Is(e.problem.Err, target)
	})
}

// around shows the events next to events[at].
func around(events []event, at int) string {
	const neighbours = 4
	if len(events) == 0 {
		return "\t(no events)"
	}
	var b strings.Builder
	for i := max(0, at-neighbours); i < min(len(events), at+neighbours+1); i++ {
		pointer := " "
		if i == at {
			pointer = ">"
		}
		fmt.Fprintf(&b, "\t%s %4d %v\n", pointer, i, events[i])
	}
	if at >= len(events) {
		fmt.Fprintf(&b, "\t> the end, after %d events\n", len(events))
	}
	return strings.TrimRight(b.String(), "\n")
}
