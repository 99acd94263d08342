package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

var appendChecks = []Check{
	{
		Name: "Append", Run: appendInOrder, Needs: []Ability{Streams},
		Rule: "bus.Appender stores messages at a stream's end, as they are, in their order and with nothing in between, and says where",
	},
	{
		Name: "AppendAtEnd", Run: appendAtEnd, Needs: []Ability{Streams}, rounds: 10,
		Rule: "bus.Appender stores nothing unless the stream ends where it should; of several at once one stores all and the others nothing",
	},
	{
		Name: "AppendStops", Run: appendStops, Needs: []Ability{Streams},
		Rule: "bus.Appender stores nothing behind a message that it can't store, and says why and what came before it",
	},
}

// appender returns b as one with a stream S, or ends the check.
func (c *C) appender(b bus.Bus) (a bus.Appender, stream string) {
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>"), c.subject("b")}, MaxBytes: 200 << 10}
	c.ensure(b, cfg)
	a, ok := b.(bus.Appender)
	if !ok {
		c.NotClaimed("the bus is no bus.Appender")
	}
	if _, err := a.Append(c.ctx, cfg.Name, bus.Cursor{}); errors.Is(err, bus.ErrUnsupported) {
		c.NotClaimed("%v", err)
	}
	return a, cfg.Name
}

// texts makes messages of subjects and texts in turn.
func (c *C) texts(texts ...string) []*bus.Message {
	var messages []*bus.Message
	for i, text := range texts {
		messages = append(messages, &bus.Message{Subject: c.subject([]string{"a.x", "b", "a.y.z"}[i%3]), Data: []byte(text)})
	}
	return messages
}

func appendInOrder(c *C) {
	b := c.Bus()
	a, stream := c.appender(b)
	live := c.subscribe(b, c.subject("a.>"))
	var want []string
	var end bus.Cursor
	last := end
	for round := range 20 {
		texts := sequence(fmt.Sprintf("r%d.", round), 1, 30)
		messages := c.texts(texts...)
		if c.h.claims(Headers) {
			messages[3].Header = bus.Header{"K": {"v", "", "w"}, "k": {"x"}}
		}
		messages[5].Data = nil
		texts[5] = ""
		cursors, err := a.Append(c.ctx, stream, end, messages...)
		if err != nil || len(cursors) != len(messages) {
			c.Fatalf("Append of %d: %d stored, %v", len(messages), len(cursors), err)
		}
		for i, cursor := range cursors {
			if order, same := cursor.Compare(last); !last.IsZero() && (!same || order <= 0) {
				c.Errorf("message %d is at %s, behind %s", i, cursor, last)
			}
			last = cursor
			messages[i].Data = append(messages[i].Data[:0], "changed"...) // it is the caller's again
		}
		for i, text := range texts {
			if i%3 != 1 {
				want = append(want, text)
			}
		}
		end = c.store(b, c.subject("a.x"), fmt.Sprint("published ", round))
		want = append(want, fmt.Sprint("published ", round))
	}
	c.awaitText(live, want[len(want)-1])
	c.judge(live, exactly(want...), inStreamOrder, quiet)
	c.checkStored(b, c.subject("a.>"), want...)
	if !c.h.claims(Headers) {
		return
	}
	h := c.subscribe(b, c.subject("a.x"), bus.All())
	if m := c.awaitText(h, "r0.#4").msg; fmt.Sprint(m.Header) != fmt.Sprint(bus.Header{"K": {"v", "", "w"}, "k": {"x"}}) {
		c.Errorf("the header has become %q", m.Header)
	}
}

func appendAtEnd(c *C) {
	b := c.Bus()
	a, stream := c.appender(b)
	refused := func(what string, after bus.Cursor, want error) {
		cursors, err := a.Append(c.ctx, stream, after, c.texts("refused", "too")...)
		if len(cursors) > 0 || !errors.Is(err, want) {
			c.Errorf("Append %s: %d stored, %v: want none and %v", what, len(cursors), err, want)
		}
	}
	first := c.store(b, c.subject("b"), "p1")
	refused("to a stream that isn't fresh, as to a fresh one", bus.Cursor{}, bus.ErrConflict)
	second := c.store(b, c.subject("a.x"), "p2")
	refused("after a message that isn't the last", first, bus.ErrConflict)
	refused("after the end of another epoch", bus.NewCursor("other", second.Sequence()), bus.ErrConflict)
	refused("after what isn't there yet", bus.NewCursor(second.Epoch(), second.Sequence()+1), bus.ErrConflict)
	if _, err := a.Append(c.ctx, c.stream("NONE"), bus.Cursor{}, c.texts("x")...); !errors.Is(err, bus.ErrNoStream) {
		c.Errorf("Append to a stream that isn't there: want ErrNoStream, have %v", err)
	}
	done, cancel := context.WithCancel(c.ctx)
	cancel()
	if cursors, err := a.Append(done, stream, second, c.texts("x")...); len(cursors) > 0 || !errors.Is(err, context.Canceled) {
		c.Errorf("Append with a context that is done: %d stored, %v", len(cursors), err)
	}

	for range c.rounds() {
		const n = 4
		results := make([]int, n)
		after := c.store(b, c.subject("b"), "start")
		c.together(n, "Append", func(i int) {
			texts := sequence(fmt.Sprintf("by%d.", i), 1, 20)
			cursors, err := a.Append(c.ctx, stream, after, c.texts(texts...)...)
			if results[i] = len(cursors); err != nil && !errors.Is(err, bus.ErrConflict) {
				c.Errorf("Append: %v", err)
			}
		})
		slices.Sort(results)
		if !slices.Equal(results, []int{0, 0, 0, 20}) {
			c.Errorf("of 4 that append 20 messages each at the same place, one stores 20 and the others none; they stored %v", results)
		}
	}
	h := c.subscribe(b, c.subject("a.>"), bus.All())
	c.judge(h, whole)
}

// whole: what begins as one of several that append is followed by the rest of it.
func whole(events []event) *fault {
	who := ""
	for at, e := range events {
		by, number, found := strings.Cut(e.text, ".#")
		if !found || e.kind != delivered {
			continue
		}
		if number != "1" && by != who {
			return &fault{at, "it comes in between what another one appends"}
		}
		who = by
	}
	return nil
}

func appendStops(c *C) {
	b := c.Bus()
	a, stream := c.appender(b)
	var end bus.Cursor
	var want []string
	type fault struct {
		change func(m *bus.Message)
		want   error
	}
	bad := map[string]fault{
		"what the stream couldn't hold": {func(m *bus.Message) { m.Data = make([]byte, 201<<10) }, bus.ErrTooLarge},
		"what it doesn't capture":       {func(m *bus.Message) { m.Subject = c.subject("elsewhere") }, bus.ErrNoStream},
		"a pattern":                     {func(m *bus.Message) { m.Subject = c.subject("a.*") }, bus.ErrBadSubject},
	}
	if c.h.claims(Headers) {
		bad["a bad header"] = fault{func(m *bus.Message) { m.Header = bus.Header{"a b": {"x"}} }, bus.ErrBadHeader}
	}
	if c.h.claims(PayloadLimit) {
		bad["what is too large"] = fault{func(m *bus.Message) { m.Data = make([]byte, c.h.MaxPayload+1) }, bus.ErrTooLarge}
	}
	for _, what := range slices.Sorted(maps.Keys(bad)) {
		for _, at := range []int{0, 4} {
			texts := sequence(what, 1, 10)
			messages := c.texts(texts...)
			bad[what].change(messages[at])
			cursors, err := a.Append(c.ctx, stream, end, messages...)
			if len(cursors) != at || !errors.Is(err, bad[what].want) {
				c.Fatalf("Append with %s at %d: %d stored, %v: want %d and %v", what, at, len(cursors), err, at, bad[what].want)
			}
			if at > 0 {
				end = cursors[at-1]
			}
			for i, text := range texts[:at] {
				if i%3 != 1 {
					want = append(want, text)
				}
			}
		}
	}
	c.checkStored(b, c.subject("a.>"), want...)
}
