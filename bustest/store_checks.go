package bustest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var storeChecks = []Check{
	{
		Name: "ReadYourWrites", Run: readYourWrites, Needs: []Ability{Streams},
		Rule:   "a captured message whose Publish has returned nil is stored",
		Origin: "core NATS loses what it has flushed",
	},
	{
		Name: "Receipt", Run: receipt, Needs: []Ability{Streams},
		Rule: "a receipt tells the cursor with which the message is delivered, live and replayed, each time with the time of its storing",
	},
	{
		Name: "MessageID", Run: messageID, Needs: []Ability{Streams},
		Rule:   "a second publish under the same ID is accepted, told as a duplicate with the cursor of the first, and neither stored nor delivered",
		Origin: "natsbus overlooked, when an expectation failed, an ID that was first used on another subject",
	},
	{
		Name: "MessageIDRefused", Run: messageIDRefused, Needs: []Ability{Streams},
		Rule:   "a publish that is refused doesn't use up its message ID: the next one under it is stored",
		Origin: "apache/pulsar#5218: what couldn't be stored is taken for a duplicate when it is sent again",
	},
	{
		Name: "MessageIDDiscarded", Run: messageIDDiscarded, Needs: []Ability{Streams},
		Rule:   "a message ID is remembered for its window also when limits have discarded the message",
		Origin: "nats-server forgets it at a restart: see MessageIDOutlives",
	},
	{
		Name: "Expect", Run: expect, Needs: []Ability{Streams},
		Rule:   "an expectation that doesn't hold is ErrConflict and stores nothing",
		Origin: "nats-server#7361: a subject's expected sequence is compared with the stream's last one",
	},
	{
		Name: "StreamOptions", Run: streamOptions,
		Rule: "a stream's option on an uncaptured subject is ErrNoStream and publishes nothing",
	},
}

func readYourWrites(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	for i := range 30 {
		subject := c.subject(fmt.Sprintf("a.%d", i))
		c.publish(b, subject, "written")
		c.checkStored(b, subject, "written")
	}
}

// clockSkew is how far a server's clock may be off.
const clockSkew = time.Hour

func receipt(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	live := c.subscribe(b, c.subject("a.x"))
	free := c.subscribe(b, c.subject("free"))
	began := time.Now()
	var cursors []bus.Cursor
	want := sequence("p", 1, 10)
	for _, text := range want {
		c.publish(b, c.subject("a.other"), "between")
		cursor := c.store(b, c.subject("a.x"), text)
		cursors = append(cursors, cursor)
		if parsed, err := bus.ParseCursor(cursor.String()); err != nil || parsed != cursor {
			c.Errorf("cursor %q doesn't survive being written: %q, %v", cursor, parsed, err)
		}
	}
	c.awaitText(live, want[9])
	c.settle() // it is told again later
	stored := c.subscribe(b, c.subject("a.x"), bus.All())
	times := map[string]time.Time{}
	for _, e := range live.all() {
		times[e.text] = e.msg.Time
	}
	c.judge(stored, func(events []event) *fault {
		last := began.Add(-clockSkew)
		for at, e := range events {
			switch {
			case !e.msg.Time.Equal(times[e.text]):
				return &fault{at, fmt.Sprintf("live its time was %v, replayed it is %v", times[e.text], e.msg.Time)}
			case e.msg.Time.Before(last):
				return &fault{at, fmt.Sprintf("its time is %v, that of what came before it %v", e.msg.Time, last)}
			case e.msg.Time.After(time.Now().Add(clockSkew)):
				return &fault{at, fmt.Sprintf("its time is %v, which is to come", e.msg.Time)}
			}
			last = e.msg.Time
		}
		return nil
	})
	c.publish(b, c.subject("free"), "of no stream")
	if m := c.awaitText(free, "of no stream").msg; !m.Cursor.IsZero() || !m.Time.IsZero() || m.Replayed {
		c.Errorf("a message of no stream has cursor %q, time %v, replayed %t", m.Cursor, m.Time, m.Replayed)
	}
	for _, h := range []*history{live, stored} {
		c.judge(h, exactly(want...), inStreamOrder)
		i := 0
		for at, e := range h.all() {
			if e.kind != delivered || i == len(cursors) {
				continue
			}
			if e.cursor != cursors[i] || e.msg.Time.IsZero() || e.replayed != (h == stored) {
				c.Errorf("%s: want cursor %s, a time, and replayed %t, have %s, %v, %t\n%s", h.name, cursors[i], h == stored,
					e.cursor, e.msg.Time, e.replayed, around(h.all(), at))
			}
			i++
		}
	}
}

func messageID(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	h := c.subscribe(b, c.subject("a.>"))
	var first, second, third bus.Receipt
	c.publish(b, c.subject("a.x"), "once", bus.MessageID("id-1"), bus.WithReceipt(&first))
	c.publish(b, c.subject("a.x"), "between")
	c.publish(b, c.subject("a.x"), "once", bus.MessageID("id-1"), bus.WithReceipt(&second))
	// The ID is of the stream, not of the subject, and looked at before an expectation.
	c.publish(b, c.subject("a.y"), "once", bus.MessageID("id-1"), bus.WithReceipt(&third), bus.ExpectLast(first.Cursor))
	c.publish(b, c.subject("a.x"), "another", bus.MessageID("id-2"))
	c.awaitText(h, "another")
	c.judge(h, exactly("once", "between", "another"))
	c.checkStored(b, c.subject("a.>"), "once", "between", "another")
	if first.Duplicate || !second.Duplicate || !third.Duplicate {
		c.Errorf("the receipts say duplicate: %t, %t, %t; want false, true, true", first.Duplicate, second.Duplicate, third.Duplicate)
	}
	for _, again := range []bus.Receipt{second, third} {
		if first.Cursor.IsZero() || !again.Cursor.IsZero() && again.Cursor != first.Cursor {
			c.Errorf("the receipt says %q, that of the duplicate %q: want that of the message which is stored, or zero", first.Cursor, again.Cursor)
		}
	}
}

func messageIDRefused(c *C) {
	b := c.Bus()
	const limit = 32 << 10
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}, MaxBytes: limit})
	h := c.subscribe(b, c.subject("a.>"))
	c.publish(b, c.subject("a.x"), "first")
	done, cancel := context.WithCancel(c.ctx)
	cancel()
	refusals := []struct {
		id   string
		ctx  context.Context
		size int
		opt  bus.PublishOption
		want error
	}{
		{"a conflict", c.ctx, 1, bus.ExpectNone(), bus.ErrConflict},
		{"too large", c.ctx, 2 * limit, nil, bus.ErrTooLarge},
		{"a context that is done", done, 1, nil, context.Canceled},
	}
	if c.h.claims(Headers) {
		refusals = append(refusals, refusals[0])
		last := &refusals[len(refusals)-1]
		last.id, last.opt, last.want = "a bad header", bus.WithHeader("a b", "v"), bus.ErrBadHeader
	}
	want := []string{"first"}
	for _, r := range refusals {
		opts := []bus.PublishOption{bus.MessageID(r.id)}
		if r.opt != nil {
			opts = append(opts, r.opt)
		}
		if err := b.Publish(r.ctx, c.subject("a.x"), make([]byte, r.size), opts...); !errors.Is(err, r.want) {
			c.Errorf("%s: want %v, have %v", r.id, r.want, err)
		}
		receipt := bus.Receipt{Duplicate: true} // of a publish before
		c.publish(b, c.subject("a.x"), r.id, bus.MessageID(r.id), bus.WithReceipt(&receipt))
		if receipt.Duplicate {
			c.Errorf("%s: the next publish under the same ID is told as a duplicate", r.id)
		}
		want = append(want, r.id)
	}
	c.publish(b, c.subject("a.x"), "end")
	want = append(want, "end")
	c.awaitText(h, "end")
	c.judge(h, exactly(want...), quiet)
	c.checkStored(b, c.subject("a.>"), want...)
}

// smallStreams are limits that discard a message when two large ones come.
var smallStreams = map[string]bus.StreamConfig{
	"msgs":    {MaxMsgs: 2},
	"subject": {MaxMsgsPerSubject: 2},
	"bytes":   {MaxBytes: 8 << 10},
}

// smallStream is cfg for a subject, with message IDs that are remembered for long.
func (c *C) smallStream(root string, cfg bus.StreamConfig) bus.StreamConfig {
	cfg.Name, cfg.Subjects, cfg.Duplicates = c.stream(root), []string{c.subject(root)}, time.Hour
	return cfg
}

// large is a message of which a small stream can hold one, but not two.
func large(text string) string { return text + strings.Repeat(" ", 5<<10) }

// discard pushes out what a small stream holds.
func (c *C) discard(b bus.Bus, root string) {
	c.publish(b, c.subject(root), large("first"))
	c.publish(b, c.subject(root), large("second"))
}

// onlySecond: a small stream holds what discard has left, and nothing else.
func (c *C) onlySecond(b bus.Bus, root string) {
	want := []string{large("first"), large("second")}
	if root == "bytes" {
		want = want[1:]
	}
	c.checkStored(b, c.subject(root), want...)
}

func messageIDDiscarded(c *C) {
	b := c.Bus()
	for root, cfg := range smallStreams {
		c.ensure(b, c.smallStream(root, cfg))
		h := c.subscribe(b, c.subject(root))
		c.publish(b, c.subject(root), "discarded", bus.MessageID("id"))
		c.awaitText(h, "discarded") // or it would be a hole
		c.discard(b, root)
		var r bus.Receipt
		c.publish(b, c.subject(root), "discarded", bus.MessageID("id"), bus.WithReceipt(&r))
		if !r.Duplicate {
			c.Errorf("%s: a second publish under the ID of a discarded message isn't told as a duplicate", root)
		}
		c.onlySecond(b, root)
	}
}

func expect(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	refused := func(what string, opt bus.PublishOption) {
		if err := b.Publish(c.ctx, c.subject("a.x"), []byte("refused"), opt); !errors.Is(err, bus.ErrConflict) {
			c.Errorf("%s: want ErrConflict, have %v", what, err)
		}
	}
	var first, other, second bus.Receipt
	c.publish(b, c.subject("a.x"), "first", bus.ExpectNone(), bus.WithReceipt(&first))
	refused("ExpectNone with one stored", bus.ExpectNone())
	c.publish(b, c.subject("a.y"), "of another subject", bus.ExpectNone(), bus.WithReceipt(&other))
	refused("ExpectLast of another subject", bus.ExpectLast(other.Cursor))
	c.publish(b, c.subject("a.x"), "second", bus.ExpectLast(first.Cursor), bus.WithReceipt(&second))
	refused("ExpectLast of the one before", bus.ExpectLast(first.Cursor))
	refused("ExpectLast of another epoch", bus.ExpectLast(bus.NewCursor("another", second.Cursor.Sequence())))
	c.publish(b, c.subject("a.x"), "third", bus.ExpectLast(second.Cursor))
	c.checkStored(b, c.subject("a.x"), "first", "second", "third")
}

func streamOptions(c *C) {
	b := c.Bus()
	h := c.subscribe(b, c.subject("free.*"))
	var r bus.Receipt
	for name, opt := range map[string]bus.PublishOption{
		"MessageID":   bus.MessageID("id"),
		"ExpectLast":  bus.ExpectLast(bus.NewCursor("epoch", 1)),
		"ExpectNone":  bus.ExpectNone(),
		"WithReceipt": bus.WithReceipt(&r),
	} {
		err := b.Publish(c.ctx, c.subject("free.a"), []byte(name), opt)
		if !c.isNoStream(err) {
			c.Errorf("%s on an uncaptured subject: want ErrNoStream, have %v", name, err)
		}
	}
	c.publish(b, c.subject("free.a"), "end")
	c.awaitText(h, "end")
	c.judge(h, exactly("end"))
}

// isNoStream: a backend without streams may also say that it has none.
func (c *C) isNoStream(err error) bool {
	return errors.Is(err, bus.ErrNoStream) || !c.h.claims(Streams) && errors.Is(err, bus.ErrUnsupported)
}
