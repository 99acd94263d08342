package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

var subjectChecks = []Check{
	{
		Name: "RoundTrip", Run: roundTrip,
		Rule:   "a message arrives byte for byte as it was published, with its own subject, which may have 255 bytes",
		Origin: "Go CDK's suite passes a driver that cuts bodies at 1000 bytes",
	},
	{
		Name: "EmptyPayload", Run: emptyPayload,
		Rule:   "empty data is a message, also one that a stream stores",
		Origin: "cesanta/mongoose#1827: an empty message is malformed; awslabs/aws-c-mqtt#204: it can't be received",
	},
	{
		Name: "StarTable", Run: starTable,
		Rule:   "'*' stands for exactly one token, wherever it stands",
		Origin: "njouanin/hbmqtt#44: '+' matches several levels; eclipse-paho/paho.mqtt.rust#166",
	},
	{
		Name: "TailTable", Run: tailTable,
		Rule:   "a last '>' stands for one or more tokens, never for none",
		Origin: "ralphtheninja/mqtt-match#18: customer/+/# matches customer",
	},
	{
		Name: "LiteralTable", Run: literalTable,
		Rule:   "a pattern without wildcards matches itself alone, case kept",
		Origin: "emitter-io/emitter#73: a subscription to a/ gets a/b/, too",
	},
	{
		Name: "BadSubject", Run: badSubject,
		Rule:   "a subject or pattern that breaks the grammar is ErrBadSubject and has no effect",
		Origin: "core NATS publishes a..b and stores it",
	},
	{
		Name: "PublishWildcard", Run: publishWildcard,
		Rule:   "a pattern is not a subject: publishing on it is ErrBadSubject and stored nowhere",
		Origin: "nats-server#375, #7104",
	},
	{
		Name: "ReservedSubject", Run: reservedSubject,
		Rule:   "a first token that starts with '$' or '_' is refused",
		Origin: "nats-server#6786, #6846",
	},
	{
		Name: "ReservedUnseen", Run: reservedUnseen,
		Rule:   "'*' and '>' don't match a first token that is reserved: nobody is given what a backend says to itself",
		Origin: "core NATS gives _INBOX and $JS to a subscription to '>'; moscajs/aedes#135: '+' matches $SYS",
	},
	{
		Name: "OverlapOnce", Run: overlapOnce,
		Rule:   "a message is delivered once to each subscription that it matches, however many match it",
		Origin: "moscajs/mosca#62, emqx/emqtt#17: patterns that overlap make copies",
	},
}

func roundTrip(c *C) {
	b := c.Bus()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	size := 64 << 10
	if c.h.MaxPayload > 0 {
		size = min(size, c.h.MaxPayload)
	}
	long := make([]byte, size)
	for i := range long {
		long[i] = byte(c.rand.IntN(256))
	}
	subjects := []string{c.subject("Plain"), c.subject("UPPER.lower.x-y_z"), c.subject("Zürich.東京"), c.subject("1.2.3"), c.longSubject(255)}
	texts := []string{"plain text", string(every), "\xff\xfe not UTF-8 \xc3", string(long), "the longest subject"}
	h := c.subscribe(b, c.subject(">"))
	for i, subject := range subjects {
		c.publish(b, subject, texts[i])
	}
	c.publish(b, c.subject("end"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly(append(texts, "end")...), onSubjects(append(subjects, c.subject("end"))...))
}

// longSubject is a subject of so many bytes.
func (c *C) longSubject(size int) string {
	subject := c.subject("")
	return subject + strings.Repeat("x", size-len(subject))
}

// onSubjects: the messages were delivered with these subjects.
func onSubjects(want ...string) judge {
	return func(events []event) *fault {
		i := 0
		for at, e := range events {
			if e.kind != delivered || i == len(want) {
				continue
			}
			if e.subject != want[i] {
				return &fault{at, fmt.Sprintf("its subject should be %q", want[i])}
			}
			i++
		}
		return nil
	}
}

func emptyPayload(c *C) {
	b := c.Bus()
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".a"))
		for _, data := range [][]byte{nil, {}, []byte("end")} {
			if err := b.Publish(c.ctx, c.subject(root+".a"), data); err != nil {
				c.Fatalf("Publish of %d bytes: %v", len(data), err)
			}
		}
		c.awaitText(h, "end")
		c.judge(h, exactly("", "", "end"))
		if root == "held" {
			c.checkStored(b, c.subject(root+".a"), "", "", "end")
		}
	})
}

// table publishes on each subject and compares what arrives with what must.
func (c *C) table(patterns map[string][]string, subjects []string) {
	b := c.Bus()
	histories := map[string]*history{}
	for pattern := range patterns {
		histories[pattern] = c.subscribe(b, c.subject(pattern), wide)
	}
	for _, subject := range subjects {
		c.publish(b, c.subject(subject), subject)
	}
	// A marker for each pattern, behind everything on uncaptured subjects.
	for pattern := range patterns {
		subject := strings.NewReplacer("*", "end", ">", "end").Replace(pattern)
		c.publish(b, c.subject(subject), "end of "+pattern)
	}
	for pattern, h := range histories {
		c.awaitText(h, "end of "+pattern)
		var want []string
		for _, subject := range subjects {
			if slices.Contains(patterns[pattern], subject) {
				want = append(want, subject)
			}
		}
		c.judge(h, withoutEnds(exactly(want...)))
	}
}

func starTable(c *C) {
	subjects := []string{"a", "b", "a.b", "a.c", "x.b", "a.b.c", "a.x.c", "a.b.c.d", "x.y.z", "A.b"}
	c.table(map[string][]string{
		"*":     {"a", "b"},
		"a.*":   {"a.b", "a.c"},
		"*.b":   {"a.b", "x.b", "A.b"},
		"*.*":   {"a.b", "a.c", "x.b", "A.b"},
		"a.*.c": {"a.b.c", "a.x.c"},
		"*.*.*": {"a.b.c", "a.x.c", "x.y.z"},
		"*.b.*": {"a.b.c"},
	}, subjects)
}

func tailTable(c *C) {
	subjects := []string{"a", "b", "a.b", "b.a", "a.b.c", "a.b.c.d", "ab.c"}
	c.table(map[string][]string{
		">":     subjects,
		"a.>":   {"a.b", "a.b.c", "a.b.c.d"},
		"a.b.>": {"a.b.c", "a.b.c.d"},
		"*.>":   {"a.b", "b.a", "a.b.c", "a.b.c.d", "ab.c"},
		"*.b.>": {"a.b.c", "a.b.c.d"},
	}, subjects)
}

func literalTable(c *C) {
	subjects := []string{"a", "A", "a.b", "a.B", "a.bc", "a.b.c", "aa.b"}
	c.table(map[string][]string{
		"a":     {"a"},
		"a.b":   {"a.b"},
		"a.b.c": {"a.b.c"},
		"a.B":   {"a.B"},
	}, subjects)
}

// refused publishes on, subscribes to and captures what must be refused, and looks
// whether a message went anywhere.
func (c *C) refused(b bus.Bus, watch *history, bad string) {
	if err := b.Publish(c.ctx, bad, []byte("bad")); !errors.Is(err, bus.ErrBadSubject) {
		c.Errorf("Publish on %q: want ErrBadSubject, have %v", bad, err)
	}
	end := numbered("end", len(watch.all()))
	c.publish(b, c.subject("end"), end)
	c.awaitText(watch, end)
}

func (c *C) refusedPattern(b bus.Bus, bad string) {
	sub, err := b.Subscribe(c.ctx, bad, (&history{}).handler())
	if !errors.Is(err, bus.ErrBadSubject) {
		c.Errorf("Subscribe to %q: want ErrBadSubject, have %v", bad, err)
	}
	if err != nil && sub != nil {
		c.Errorf("Subscribe to %q returned a subscription and an error", bad)
	}
	if c.h.claims(Streams) {
		err := b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("BAD"), Subjects: []string{bad}})
		if !errors.Is(err, bus.ErrBadStream) {
			c.Errorf("EnsureStreams with subject %q: want ErrBadStream, have %v", bad, err)
		}
	}
}

func onlyMarkers(events []event) *fault {
	for at, e := range events {
		if e.kind == delivered && !strings.HasPrefix(e.text, "end#") {
			return &fault{at, "what was refused was delivered"}
		}
	}
	return nil
}

func badSubject(c *C) {
	b := c.Bus()
	watch := c.subscribe(b, c.subject(">"), wide)
	tails := []string{"", ".", "a.", "a..b", ".a", "a b", "a\tb", "a\r", "a\nb", "a\x00b", "a\x7fb", "a\xffb", "a\u0085b", "a\u2028b", strings.TrimPrefix(c.longSubject(256), c.subject(""))}
	for _, tail := range tails {
		c.refused(b, watch, c.subject(tail))
		c.refusedPattern(b, c.subject(tail))
	}
	for _, pattern := range []string{"a.>.b", "a*", "*a", "a.b>", ">a", "**"} {
		c.refused(b, watch, c.subject(pattern))
		c.refusedPattern(b, c.subject(pattern))
	}
	c.refused(b, watch, "")
	c.refusedPattern(b, "")
	c.judge(watch, onlyMarkers)
}

func publishWildcard(c *C) {
	b := c.Bus()
	if c.h.claims(Streams) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	}
	watch := c.subscribe(b, c.subject(">"), wide)
	for _, pattern := range []string{"a.*", "a.>", "*", ">", "*.b"} {
		c.refused(b, watch, c.subject(pattern))
	}
	c.judge(watch, onlyMarkers)
	if c.h.claims(Streams) {
		c.checkStored(b, c.subject("a.>"))
	}
}

func reservedSubject(c *C) {
	b := c.Bus()
	for _, subject := range []string{"$SYS.x", "$JS.API.INFO", "_INBOX.x", "$" + c.prefix, "_" + c.prefix + ".a"} {
		if err := b.Publish(c.ctx, subject, nil); !errors.Is(err, bus.ErrBadSubject) {
			c.Errorf("Publish on %q: want ErrBadSubject, have %v", subject, err)
		}
		c.refusedPattern(b, subject)
	}
}

// reservedUnseen subscribes to everything. Where the bus is shared, that is also what others publish.
func reservedUnseen(c *C) {
	b := c.Bus()
	c.kinds(b, func(string) {}) // a stream that comes later may end a subscription
	ends := map[string]string{">": c.subject("end"), "*": c.prefix, "*.*": c.subject("end"), "*.>": c.subject("end"), "*.*.*": c.subject("end.x")}
	var histories []*history
	for pattern := range ends {
		h := &history{name: pattern}
		histories = append(histories, h)
		c.subscribeFunc(b, pattern, func(_ context.Context, m *bus.Message) error {
			if strings.HasPrefix(m.Subject, "$") || strings.HasPrefix(m.Subject, "_") || m.Subject == ends[pattern] {
				h.message(m)
			}
			return nil
		}, wide)
	}
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".a"))
		var opts []bus.PublishOption
		if root == "held" {
			opts = append(opts, bus.MessageID("id"), bus.ExpectNone())
		}
		c.publish(b, c.subject(root+".a"), "x", opts...)
		c.awaitText(h, "x")
		if root == "held" {
			c.checkStored(b, c.subject("held.a"), "x")
			last := c.subscribe(b, c.subject("held.*"), bus.Last(1))
			c.judge(last, exactly("x"))
		}
	})
	for _, h := range histories {
		c.publish(b, ends[h.name], "end of "+h.name)
		c.awaitText(h, "end of "+h.name)
		c.judge(h, func(events []event) *fault {
			for at, e := range events {
				if e.subject != ends[h.name] {
					return &fault{at, "its first token is reserved"}
				}
			}
			return nil
		})
	}
}

func overlapOnce(c *C) {
	b := c.Bus()
	var histories []*history
	for _, pattern := range []string{"a.b", "a.*", "a.>", "*.b", ">", "a.b"} {
		histories = append(histories, c.subscribe(b, c.subject(pattern), wide))
	}
	want := sequence("p", 1, 20)
	for _, text := range want {
		c.publish(b, c.subject("a.b"), text)
	}
	for _, h := range histories {
		c.awaitText(h, want[len(want)-1])
	}
	c.publish(b, c.subject("a.b"), "end")
	for _, h := range histories {
		c.awaitText(h, "end")
		c.judge(h, exactly(append(slices.Clone(want), "end")...))
	}
}
