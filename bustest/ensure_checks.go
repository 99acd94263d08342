package bustest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var ensureChecks = []Check{
	{
		Name: "EnsureAtOnce", Run: ensureAtOnce, Needs: []Ability{Streams},
		Rule:   "of EnsureStreams calls at the same time whose streams overlap one succeeds, and equal ones all do",
		Origin: "confluentinc/ksql#779: of nodes that create the same topic together all but one fail",
	},
	{
		Name: "EnsureAllOrNothing", Run: ensureAllOrNothing, Needs: []Ability{Streams},
		Rule: "when one config of a list is refused, none of the others is applied",
	},
	{
		Name: "EnsureLeavesAlone", Run: ensureLeavesAlone, Needs: []Ability{Streams},
		Rule: "streams that EnsureStreams doesn't name are left alone",
	},
	{
		Name: "LimitsSeparate", Run: limitsSeparate, Needs: []Ability{Streams},
		Rule:   "the limits of one stream don't touch another",
		Origin: "FlintUA/MeshCenter#7: a busy channel evicts the history of the others",
	},
	{
		Name: "DiscardLogged", Run: discardLogged, Needs: []Ability{Streams},
		Rule: "what an update's new limits discard is logged with the stream's name and the count",
	},
	{
		Name: "StreamList", Run: streamList, Needs: []Ability{Streams},
		Rule: "bus.StreamLister lists the streams by name, with their config, also when that was changed, and what they hold",
	},
	{
		Name: "RemoveStream", Run: removeStream, Needs: []Ability{Streams},
		Rule:   "bus.Remover removes a stream: who received from it ends with ErrStreamChanged, and one of the same name is another epoch",
		Origin: "membus gave receipts of the stream's next life",
	},
	{
		Name: "Health", Run: health,
		Rule: "bus.HealthChecker says nil while the bus can publish and deliver",
	},
}

func ensureAtOnce(c *C) { c.overlapping([]bus.Bus{c.Bus()}) }

// overlapping ensures streams that overlap at the same time, on the buses in turn.
func (c *C) overlapping(buses []bus.Bus) {
	for round := range 5 {
		root := fmt.Sprintf("r%d.", round)
		left := bus.StreamConfig{Name: c.stream(fmt.Sprint("LEFT", round)), Subjects: []string{c.subject(root + "*.x")}}
		right := bus.StreamConfig{Name: c.stream(fmt.Sprint("RIGHT", round)), Subjects: []string{c.subject(root + "x.*")}}
		same := bus.StreamConfig{Name: c.stream(fmt.Sprint("SAME", round)), Subjects: []string{c.subject(root + "same")}}
		var wins [2]atomic.Int32
		c.together(8, "EnsureStreams", func(i int) {
			b := buses[i%len(buses)]
			c.ensure(b, same)
			err := b.EnsureStreams(c.ctx, []bus.StreamConfig{left, right}[i/4])
			if err == nil {
				wins[i/4].Add(1)
			} else if !errors.Is(err, bus.ErrStreamOverlap) {
				c.Errorf("EnsureStreams of one of two that overlap: want nil or ErrStreamOverlap, have %v", err)
			}
		})
		l, r := wins[0].Load(), wins[1].Load()
		if max(l, r) != 4 || min(l, r) != 0 {
			c.Fatalf("of two streams that overlap, ensured by 4 callers each, one was told nil %d times and the other %d times", l, r)
		}
		c.publish(buses[0], c.subject(root+"same"), "once")
		c.checkStored(buses[0], c.subject(root+"same"), "once")
		c.publish(buses[0], c.subject(root+"x.x"), "once")
		c.checkStored(buses[0], c.subject(root+"x.x"), "once")
	}
}

func ensureAllOrNothing(c *C) {
	b := c.Bus()
	first := bus.StreamConfig{Name: c.stream("FIRST"), Subjects: []string{c.subject("first")}}
	c.ensure(b, first)
	want := sequence("p", 1, 10)
	for _, text := range want {
		c.publish(b, c.subject("first"), text)
	}
	changed := first
	changed.MaxMsgs, changed.Subjects = 3, []string{c.subject("first"), c.subject("more")}
	second := bus.StreamConfig{Name: c.stream("SECOND"), Subjects: []string{c.subject("second")}}
	for what, refused := range map[string]bus.StreamConfig{
		"invalid":                    {Name: c.stream("BAD"), Subjects: []string{c.subject("bad")}, MaxMsgs: -1},
		"overlapping one that is":    {Name: c.stream("BAD"), Subjects: []string{c.subject("first")}},
		"overlapping one that comes": {Name: c.stream("BAD"), Subjects: []string{c.subject("second")}},
	} {
		for at := range 3 {
			list := slices.Insert([]bus.StreamConfig{changed, second}, at, refused)
			err := b.EnsureStreams(c.ctx, list...)
			if !errors.Is(err, bus.ErrBadStream) && !errors.Is(err, bus.ErrStreamOverlap) {
				c.Fatalf("a list whose config %d is %s: want ErrBadStream or ErrStreamOverlap, have %v", at, what, err)
			}
			if what == "invalid" && !strings.Contains(err.Error(), refused.Name) {
				c.Errorf("the error doesn't name the stream that failed, %s: %v", refused.Name, err)
			}
		}
		c.checkStored(b, c.subject("first"), want...)
		for _, subject := range []string{"second", "more", "bad"} {
			if err := b.Publish(c.ctx, c.subject(subject), nil, bus.ExpectNone()); !errors.Is(err, bus.ErrNoStream) {
				c.Errorf("a refused list has had a stream capture %s: want ErrNoStream, have %v", subject, err)
			}
		}
	}
}

func ensureLeavesAlone(c *C) {
	b := c.Bus()
	config := func(name string) bus.StreamConfig {
		return bus.StreamConfig{Name: c.stream(name), Subjects: []string{c.subject(name)}}
	}
	c.ensure(b, config("ONE"), config("TWO"))
	for _, name := range []string{"ONE", "TWO"} {
		c.publish(b, c.subject(name), "stays")
	}
	live := c.subscribe(b, c.subject("TWO"))
	c.ensure(b)
	c.ensure(b, config("THREE"))
	c.ensure(b, config("ONE"))
	for _, name := range []string{"ONE", "TWO"} {
		c.checkStored(b, c.subject(name), "stays")
	}
	c.publish(b, c.subject("TWO"), "live")
	c.awaitText(live, "live")
	c.judge(live, exactly("live"), quiet)
}

func limitsSeparate(c *C) {
	b := c.Bus()
	c.ensure(b,
		bus.StreamConfig{Name: c.stream("SMALL"), Subjects: []string{c.subject("small.*")}, MaxMsgs: 5, MaxMsgsPerSubject: 2, MaxBytes: 1 << 10},
		bus.StreamConfig{Name: c.stream("LARGE"), Subjects: []string{c.subject("large.*")}})
	want := sequence("p", 1, 30)
	for i, text := range want {
		c.publish(b, c.subject(fmt.Sprintf("large.%d", i%2)), text)
		c.publish(b, c.subject(fmt.Sprintf("small.%d", i%5)), text)
	}
	c.checkStored(b, c.subject("large.*"), want...)
	c.checkStored(b, c.subject("small.*"), want[25:]...)
}

// records is a slog.Handler that keeps what is logged.
type records struct {
	all  *recordList
	with []slog.Attr
}

type recordList struct {
	mu   sync.Mutex
	list []record
}

type record struct {
	message string
	values  []string // of its attributes
}

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithGroup(string) slog.Handler            { return r }

func (r records) WithAttrs(attrs []slog.Attr) slog.Handler {
	r.with = slices.Concat(r.with, attrs)
	return r
}

func (r records) Handle(_ context.Context, l slog.Record) error {
	entry := record{message: l.Message}
	keep := func(a slog.Attr) bool {
		entry.values = append(entry.values, a.Value.Resolve().String())
		return true
	}
	for _, a := range r.with {
		keep(a)
	}
	l.Attrs(keep)
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	r.all.list = append(r.all.list, entry)
	return nil
}

// hold reports whether one line says all words, each as an attribute or as a word of its message.
func (r records) hold(words ...string) bool {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	return slices.ContainsFunc(r.all.list, func(entry record) bool {
		said := append(strings.FieldsFunc(entry.message, func(r rune) bool { return strings.ContainsRune(" ,:;()\"", r) }), entry.values...)
		return !slices.ContainsFunc(words, func(word string) bool { return !slices.Contains(said, word) })
	})
}

func discardLogged(c *C) {
	e := c.env()
	log := records{all: &recordList{}}
	e.Options = append(e.Options, bus.WithLogger(slog.New(log)))
	b := c.open(e)
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}}
	c.ensure(b, cfg)
	for _, text := range sequence("p", 1, 60) {
		c.publish(b, c.subject("a"), text)
	}
	cfg.MaxMsgs = 3
	c.ensure(b, cfg)
	c.until(fmt.Sprintf("a line of the log that says that 57 messages of %s were discarded", cfg.Name), c.h.Patience, func(int) bool {
		return log.hold(cfg.Name, "57")
	})
	c.checkStored(b, c.subject("a"), sequence("p", 58, 60)...)
}

func streamList(c *C) {
	b := c.Bus()
	lister, ok := b.(bus.StreamLister)
	if !ok {
		c.NotClaimed("the bus is no bus.StreamLister")
	}
	empty := bus.StreamConfig{Name: c.stream("EMPTY"), Subjects: []string{c.subject("empty.>")}}
	full := bus.StreamConfig{
		Name: c.stream("FULL"), Subjects: []string{c.subject("full.*"), c.subject("more")},
		MaxMsgs: 5, MaxBytes: 1 << 20, MaxAge: time.Hour, MaxMsgsPerSubject: 100, Duplicates: time.Minute,
	}
	c.ensure(b, full, empty)
	var cursors []bus.Cursor
	for _, text := range sequence("p", 1, 12) {
		cursors = append(cursors, c.store(b, c.subject("full.a"), text))
	}
	list := func() []bus.StreamInfo {
		infos, err := lister.Streams(c.ctx)
		if err != nil {
			c.Fatalf("Streams: %v", err)
		}
		if !slices.IsSortedFunc(infos, func(x, y bus.StreamInfo) int { return strings.Compare(x.Config.Name, y.Config.Name) }) {
			c.Errorf("the streams aren't sorted by name")
		}
		// Others may use the same server.
		return slices.DeleteFunc(infos, func(info bus.StreamInfo) bool { return info.Config.Name != full.Name && info.Config.Name != empty.Name })
	}
	infos := list()
	if len(infos) != 2 {
		c.Fatalf("2 streams were created, %d of them are listed", len(infos))
	}
	if info := infos[0]; info.Msgs != 0 || !info.First.IsZero() || !info.Last.IsZero() {
		c.Errorf("an empty stream is listed with %d messages, from %q to %q", info.Msgs, info.First, info.Last)
	}
	if have := infos[0].Config.Duplicates; have != 30*time.Second {
		c.Errorf("a stream without Duplicates remembers IDs for %v, want 30s", have)
	}
	info := infos[1]
	if info.Msgs != 5 || info.First != cursors[7] || info.Last != cursors[11] || info.Bytes == 0 {
		c.Errorf("of 12 messages 5 are kept, from %q to %q; listed are %d (%d bytes), from %q to %q",
			cursors[7], cursors[11], info.Msgs, info.Bytes, info.First, info.Last)
	}
	same := func(have, want bus.StreamConfig) {
		have.Subjects, want.Subjects = slices.Sorted(slices.Values(have.Subjects)), slices.Sorted(slices.Values(want.Subjects))
		if fmt.Sprint(have) != fmt.Sprint(want) {
			c.Errorf("the config was %v, listed is %v", want, have)
		}
	}
	same(info.Config, full)
	// What was returned is the caller's.
	for i := range info.Config.Subjects {
		info.Config.Subjects[i] = "changed"
	}
	if again := list(); slices.Contains(again[1].Config.Subjects, "changed") {
		c.Errorf("changing a listed config changes the bus's")
	}
	c.store(b, c.subject("more"), "still captured")
	full.MaxMsgs, full.MaxBytes, full.MaxAge, full.MaxMsgsPerSubject, full.Duplicates = 6, 1<<21, 2*time.Hour, 200, 2*time.Minute
	full.Subjects = append(full.Subjects, c.subject("even.>"))
	c.ensure(b, full)
	same(list()[1].Config, full)
}

func removeStream(c *C) {
	b := c.Bus()
	remover, ok := b.(bus.Remover)
	if !ok {
		c.NotClaimed("the bus is no bus.Remover")
	}
	cfg := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}}
	c.ensure(b, cfg, bus.StreamConfig{Name: c.stream("OTHER"), Subjects: []string{c.subject("other")}})
	var old []bus.Cursor
	for _, text := range sequence("old", 1, 5) {
		old = append(old, c.store(b, c.subject("a.x"), text))
	}
	c.publish(b, c.subject("other"), "stays")
	touched := []*history{c.subscribe(b, c.subject("a.x")), c.subscribe(b, c.subject("a.>"), bus.All())}
	apart := c.subscribe(b, c.subject("other"))
	if err := remover.RemoveStream(c.ctx, cfg.Name); err != nil {
		if errors.Is(err, bus.ErrUnsupported) {
			c.NotClaimed("RemoveStream: %v", err)
		}
		c.Fatalf("RemoveStream: %v", err)
	}
	for _, h := range touched {
		receive(c, h.sub.Done(), "the end of a subscription whose stream was removed")
		if c.goesOn(h, "none") {
			c.Errorf("%s: it goes on without its stream", h.name)
		}
	}
	if err := remover.RemoveStream(c.ctx, cfg.Name); !errors.Is(err, bus.ErrNoStream) {
		c.Errorf("RemoveStream of what isn't there: want ErrNoStream, have %v", err)
	}
	if err := b.Publish(c.ctx, c.subject("a.x"), nil, bus.ExpectNone()); !errors.Is(err, bus.ErrNoStream) {
		c.Errorf("Publish to a removed stream: want ErrNoStream, have %v", err)
	}
	if _, err := b.Subscribe(c.ctx, c.subject("a.x"), apart.handler(), bus.After(old[2])); !errors.Is(err, bus.ErrNoStream) {
		c.Errorf("Subscribe to the past of a removed stream: want ErrNoStream, have %v", err)
	}

	// The next life of the name.
	c.ensure(b, cfg)
	c.checkStored(b, c.subject("a.>"))
	if err := b.Publish(c.ctx, c.subject("a.x"), []byte("refused"), bus.ExpectLast(old[4])); !errors.Is(err, bus.ErrConflict) {
		c.Errorf("ExpectLast of another epoch: want ErrConflict, have %v", err)
	}
	for _, text := range sequence("new", 1, 5) {
		cursor := c.store(b, c.subject("a.x"), text)
		if _, same := cursor.Compare(old[0]); same {
			c.Errorf("cursor %s of the new stream is of the same epoch as %s of the removed one", cursor, old[0])
		}
	}
	resumed := c.subscribe(b, c.subject("a.x"), bus.After(old[2]))
	resumed.name = "a.x, resumed after message 3 of the removed stream"
	c.judge(resumed, exactly(sequence("new", 1, 5)...), gapFirst)
	c.publish(b, c.subject("other"), "live")
	c.awaitText(apart, "live")
	c.judge(apart, exactly("live"), quiet)
	c.checkStored(b, c.subject("other"), "stays", "live")
}

func health(c *C) {
	b := c.Bus()
	h, ok := b.(bus.HealthChecker)
	if !ok {
		c.NotClaimed("the bus is no bus.HealthChecker")
	}
	if err := h.Health(c.ctx); err != nil {
		c.Errorf("Health of a bus that works: %v", err)
	}
	c.close(b)
	if err := h.Health(c.ctx); !errors.Is(err, bus.ErrClosed) {
		c.Errorf("Health after Close: want ErrClosed, have %v", err)
	}
}
