package bustest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// fault is what a judge found: the first offending event, or len(events) when something
// lacks at the end.
type fault struct {
	at   int
	text string
}

// judge decides about a history. It is pure: the same events give the same fault.
type judge func(events []event) *fault

// judge fails the check with the first fault of each judge.
func (c *C) judge(h *history, judges ...judge) {
	events := h.all()
	for _, j := range judges {
		f := j(events)
		if f == nil {
			continue
		}
		c.mu.Lock()
		c.faults++
		n := c.faults
		c.mu.Unlock()
		switch {
		case n <= maxFaults:
			c.Errorf("%s: %s\n%s", h.name, f.text, around(events, f.at))
		case n == maxFaults+1:
			c.Errorf("(further faults are left out)")
		}
	}
}

// maxFaults is how many faults a check shows: what is broken is often broken everywhere.
const maxFaults = 5

// numbered is the data of the nth message of a publisher.
func numbered(publisher string, n int) string { return publisher + "#" + strconv.Itoa(n) }

// number reads what numbered has written.
func number(text string) (publisher string, n int, ok bool) {
	publisher, digits, ok := strings.Cut(text, "#")
	n, err := strconv.Atoi(digits)
	return publisher, n, ok && err == nil
}

// sequence is the texts of a publisher's messages from first to last.
func sequence(publisher string, first, last int) []string {
	var texts []string
	for n := first; n <= last; n++ {
		texts = append(texts, numbered(publisher, n))
	}
	return texts
}

// exactly: these messages were delivered, in this order, and no other.
func exactly(want ...string) judge {
	return func(events []event) *fault {
		i := 0
		for at, e := range events {
			if e.kind != delivered {
				continue
			}
			if i == len(want) {
				return &fault{at, fmt.Sprintf("nothing more was expected after %d messages", i)}
			}
			if e.text != want[i] {
				return &fault{at, fmt.Sprintf("message %d of %d should be %s", i+1, len(want), brief(want[i]))}
			}
			i++
		}
		if i < len(want) {
			return &fault{len(events), fmt.Sprintf("%d of %d messages were delivered, %s is missing", i, len(want), brief(want[i]))}
		}
		return nil
	}
}

// complete: each of these messages was delivered.
func complete(want ...string) judge {
	return func(events []event) *fault {
		got := map[string]bool{}
		for _, e := range events {
			if e.kind == delivered {
				got[e.text] = true
			}
		}
		for _, text := range want {
			if got[text] {
				continue
			}
			if at := follower(events, text); at < len(events) {
				return &fault{at, fmt.Sprintf("%s is missing, and %s is there", brief(text), brief(events[at].text))}
			}
			return &fault{len(events), fmt.Sprintf("%s is missing", brief(text))}
		}
		return nil
	}
}

// follower is the first event with a higher number of the same publisher, or len(events).
func follower(events []event, text string) int {
	publisher, n, ok := number(text)
	for at, e := range events {
		if of, k, numbered := number(e.text); ok && numbered && e.kind == delivered && of == publisher && k > n {
			return at
		}
	}
	return len(events)
}

// unique: no message was delivered twice.
func unique(events []event) *fault {
	first := map[string]int{}
	for at, e := range events {
		if e.kind != delivered {
			continue
		}
		if before, twice := first[e.text]; twice {
			return &fault{at, fmt.Sprintf("%s was delivered before, as event %d", brief(e.text), before)}
		}
		first[e.text] = at
	}
	return nil
}

// ordered: each publisher's numbers grow.
func ordered(events []event) *fault {
	last := map[string]int{}
	for at, e := range events {
		publisher, n, ok := number(e.text)
		if e.kind != delivered || !ok {
			continue
		}
		if before, seen := last[publisher]; seen && n <= before {
			return &fault{at, fmt.Sprintf("number %d of publisher %s came after its number %d", n, publisher, before)}
		}
		last[publisher] = n
	}
	return nil
}

// inStreamOrder: the cursors grow.
func inStreamOrder(events []event) *fault {
	var last bus.Cursor
	for at, e := range events {
		if e.kind != delivered {
			continue
		}
		if e.cursor.IsZero() {
			return &fault{at, "a message of a stream has no cursor"}
		}
		if order, same := e.cursor.Compare(last); same && order <= 0 {
			return &fault{at, fmt.Sprintf("cursor %s came after cursor %s", e.cursor, last)}
		}
		last = e.cursor
	}
	return nil
}

// replayedFirst: no message of the past comes after a live one.
func replayedFirst(events []event) *fault {
	live := -1
	for at, e := range events {
		switch {
		case e.kind != delivered:
		case !e.replayed:
			live = at
		case live >= 0:
			return &fault{at, fmt.Sprintf("a stored message came after a live one, event %d", live)}
		}
	}
	return nil
}

// agreesWith: the same messages were delivered in the same order as in another history.
func agreesWith(other []event) judge {
	var want []string
	for _, e := range other {
		if e.kind == delivered {
			want = append(want, e.text)
		}
	}
	return exactly(want...)
}

// serial: no handler starts before the one before has returned.
func serial(events []event) *fault {
	inside := -1
	for at, e := range events {
		switch e.kind {
		case delivered:
			if inside >= 0 {
				return &fault{at, fmt.Sprintf("the handler was called while its call of event %d was running", inside)}
			}
			inside = at
		case returned:
			inside = -1
		}
	}
	return nil
}

// fenced: when the mark was made no handler was running, and none starts afterwards.
func fenced(text string) judge {
	return func(events []event) *fault {
		inside, marked := false, false
		for at, e := range events {
			switch {
			case e.kind == mark && e.text == text:
				if inside {
					return &fault{at, "the handler was still running"}
				}
				marked = true
			case e.kind == delivered:
				if marked {
					return &fault{at, fmt.Sprintf("the handler was called after %q", text)}
				}
				inside = true
			case e.kind == returned:
				inside = false
			}
		}
		if !marked {
			return &fault{len(events), fmt.Sprintf("%q is missing", text)}
		}
		return nil
	}
}

// quiet: the hook was told nothing.
func quiet(events []event) *fault {
	for at, e := range events {
		if e.kind == problem {
			return &fault{at, "no problem was expected"}
		}
	}
	return nil
}

// accountedFor: each of the stored messages, given by their cursors in order, was either
// delivered in order or lies inside a hole that was announced before the next message,
// and the newest was delivered.
func accountedFor(stored []bus.Cursor) judge {
	return func(events []event) *fault {
		place := map[bus.Cursor]int{}
		for i, cursor := range stored {
			place[cursor] = i
		}
		next := 0 // of stored, the first that is neither delivered nor excused
		var holes []*bus.GapError
		excused := func(c bus.Cursor) bool {
			return slices.ContainsFunc(holes, func(g *bus.GapError) bool { return inside(c, g) })
		}
		for at, e := range events {
			switch e.kind {
			case problem:
				var gap *bus.GapError
				if errors.As(e.problem.Err, &gap) {
					holes = append(holes, gap)
				} else if errors.Is(e.problem.Err, bus.ErrGap) {
					return &fault{at, "an ErrGap is not a *bus.GapError"}
				}
			case delivered:
				i, known := place[e.cursor]
				if !known {
					return &fault{at, "this cursor was not given to any publisher"}
				}
				if i < next {
					return &fault{at, fmt.Sprintf("a message came late or twice: %s was due", cursorAt(stored, next))}
				}
				for ; next < i; next++ {
					if !excused(stored[next]) {
						return &fault{at, fmt.Sprintf("the message at %s is missing and no hole was announced", stored[next])}
					}
				}
				next = i + 1
			}
		}
		if next < len(stored) {
			return &fault{len(events), fmt.Sprintf("the newest message, at %s, was not delivered", stored[len(stored)-1])}
		}
		return nil
	}
}

func cursorAt(cursors []bus.Cursor, i int) string {
	if i < len(cursors) {
		return cursors[i].String()
	}
	return "nothing"
}

// inside reports whether c lies in an announced hole. An end of another epoch, or none,
// doesn't bound it.
func inside(c bus.Cursor, g *bus.GapError) bool {
	after, sameAfter := c.Compare(g.After)
	before, sameBefore := c.Compare(g.Before)
	return (!sameAfter || after > 0) && (!sameBefore || before < 0)
}

// inOrder sorts cursors of one epoch.
func inOrder(set map[bus.Cursor]bool) []bus.Cursor {
	return slices.SortedFunc(maps.Keys(set), func(a, b bus.Cursor) int {
		order, _ := a.Compare(b)
		return order
	})
}
