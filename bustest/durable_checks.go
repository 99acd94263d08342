package bustest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var durableChecks = []Check{
	{
		Name: "Reopen", Run: reopen, Needs: []Ability{Durable},
		Rule:   "streams, their limits and their messages survive Close and Open, and cursors from before still hold",
		Origin: "nats-server#6888, #6890: restarts of an embedded server",
	},
	{
		Name: "MessageIDReopened", Run: messageIDReopened, Needs: []Ability{Durable},
		Rule: "a message ID is remembered for its window across Close and Open",
	},
	{
		Name: "MessageIDOutlives", Run: messageIDOutlives, Needs: []Ability{DurableIDs},
		Rule:   "a message ID is remembered for its window across Close and Open also when limits have discarded the message",
		Origin: "nats-server 2.15 rebuilds what it remembers from what the stream holds",
	},
	{
		Name: "CursorGrows", Run: cursorGrows, Needs: []Ability{Durable},
		Rule:   "sequences never go back, also across Close and Open",
		Origin: "nats-server#6888, #6890: restarts of an embedded server",
	},
	{
		Name: "FilesClosed", Run: filesClosed, Needs: []Ability{Durable},
		Rule: "when Close has returned no file of the store is open in this process, nor after an Open that was refused",
	},
	{
		Name: "SecondOpen", Run: secondOpen, Needs: []Ability{Locking},
		Rule:   "opening a store that is open is ErrLocked, and works when it is closed",
		Origin: "two embedded NATS servers open one directory without an error",
	},
}

func reopen(c *C) {
	e := c.env()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, MaxMsgs: 50})
	var cursors []bus.Cursor
	for _, text := range sequence("p", 1, 60) {
		cursors = append(cursors, c.store(b, c.subject("a"), text))
	}
	c.close(b)

	b = c.open(e)
	c.checkStored(b, c.subject("a"), sequence("p", 11, 60)...)
	after := c.subscribe(b, c.subject("a"), bus.After(cursors[39]))
	after.name = "a, resumed after message 40"
	c.judge(after, exactly(sequence("p", 41, 60)...), quiet)
	for _, text := range sequence("p", 61, 70) {
		c.store(b, c.subject("a"), text)
	}
	c.awaitText(after, numbered("p", 70))
	c.judge(after, exactly(sequence("p", 41, 70)...), inStreamOrder, quiet)
	c.checkStored(b, c.subject("a"), sequence("p", 21, 70)...)
}

func messageIDReopened(c *C) {
	e := c.env()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, Duplicates: time.Hour})
	c.publish(b, c.subject("a"), "once", bus.MessageID("id"))
	c.close(b)

	b = c.open(e)
	var r bus.Receipt
	c.publish(b, c.subject("a"), "once", bus.MessageID("id"), bus.WithReceipt(&r))
	if !r.Duplicate {
		c.Errorf("what was published under an ID before Close isn't told as a duplicate after Open")
	}
	c.checkStored(b, c.subject("a"), "once")
}

func messageIDOutlives(c *C) {
	e := c.env()
	b := c.open(e)
	for root, cfg := range smallStreams {
		c.ensure(b, c.smallStream(root, cfg))
		c.publish(b, c.subject(root), "discarded", bus.MessageID("id"))
		c.discard(b, root)
	}
	c.close(b)

	b = c.open(e)
	for root := range smallStreams {
		var r bus.Receipt
		c.publish(b, c.subject(root), "discarded", bus.MessageID("id"), bus.WithReceipt(&r))
		if !r.Duplicate {
			c.Errorf("%s: after Open a second publish under the ID of a discarded message isn't told as a duplicate", root)
		}
		c.onlySecond(b, root)
	}
}

func cursorGrows(c *C) {
	e := c.env()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}, MaxMsgs: 3})
	var last bus.Cursor
	for round := range 3 {
		for _, text := range sequence(fmt.Sprint("r", round), 1, 5) {
			cursor := c.store(b, c.subject("a"), text)
			if order, same := cursor.Compare(last); !last.IsZero() && (!same || order <= 0) {
				c.Errorf("round %d: cursor %s came after cursor %s", round, cursor, last)
			}
			last = cursor
		}
		c.close(b)
		b = c.open(e)
	}
}

func secondOpen(c *C) {
	e := c.env()
	first := c.open(e)
	second, err := c.h.Open(&Env{Dir: e.Dir, Options: e.Options, ctx: c.ctx})
	if !errors.Is(err, bus.ErrLocked) {
		c.Errorf("a second Open: want ErrLocked, have %v", err)
	}
	if err == nil {
		c.close(second)
	}
	h := c.subscribe(first, c.subject("a"))
	c.publish(first, c.subject("a"), "unharmed")
	c.awaitText(h, "unharmed")
	c.close(first)
	c.open(e)
}

func filesClosed(c *C) {
	e := c.env()
	dir, err := filepath.EvalSymlinks(e.Dir)
	if err != nil {
		c.Fatalf("the directory of the check: %v", err)
	}
	if _, err := openFiles(dir); err != nil {
		c.NotClaimed("what a process has open can't be told here: %v", err)
	}
	for round := range 3 {
		b := c.open(e)
		if c.h.claims(Locking) {
			if _, err := c.h.Open(&Env{Dir: e.Dir, Options: e.Options, ctx: c.ctx}); !errors.Is(err, bus.ErrLocked) {
				c.Errorf("a second Open: want ErrLocked, have %v", err)
			}
		}
		c.kinds(b, func(root string) {
			c.publish(b, c.subject(root+".a"), "x")
			h := c.subscribe(b, c.subject(root+".a"))
			c.publish(b, c.subject(root+".a"), "y")
			c.awaitText(h, "y")
		})
		c.subscribe(b, c.subject("held.>"), bus.All())
		c.close(b)
		left, err := openFiles(dir)
		if err != nil || len(left) > 0 {
			c.Errorf("after Close %d of 3 these are open: %v (%v)", round+1, left, err)
		}
	}
}

// openFiles lists the files below dir that this process has open, where the system says that.
func openFiles(dir string) (open []string, err error) {
	const self = "/proc/self/fd"
	entries, err := os.ReadDir(self)
	for _, entry := range entries {
		// One that can't be read has been closed meanwhile.
		if name, err := os.Readlink(filepath.Join(self, entry.Name())); err == nil && strings.HasPrefix(name+"/", dir+"/") {
			open = append(open, strings.TrimPrefix(name, dir))
		}
	}
	return open, err
}
