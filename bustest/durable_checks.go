package bustest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var durableChecks = []Check{
	{
		Name: "Reopen", Run: reopen, Needs: []Ability{Durable},
		Rule: "streams, their limits and their messages survive Close and Open, and cursors from before still hold",
	},
	{
		Name: "CursorGrows", Run: cursorGrows, Needs: []Ability{Durable},
		Rule: "sequences never go back, also across Close and Open",
	},
	{
		Name: "SecondOpen", Run: secondOpen, Needs: []Ability{Locking},
		Rule:   "opening a store that is open is ErrLocked, and works when it is closed",
		Origin: "two embedded NATS servers open one directory without an error",
	},
	{
		Name: "Kill", Run: kill, Needs: []Ability{CrashSafe}, process: true,
		Rule:   "a process that is killed loses no message that Publish has accepted, and none appears twice or out of order",
		Origin: "10 of 15 killed processes lost messages that were flushed to core NATS",
	},
}

func (c *C) close(b bus.Bus) {
	if err := b.Close(c.ctx); err != nil {
		c.Fatalf("Close: %v", err)
	}
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

// The child of Kill is this program, started again with these variables set; it gets to
// the same check by its name.
const (
	childDir    = "BUSTEST_CHILD_DIR"
	childPrefix = "BUSTEST_CHILD_PREFIX"
	childRound  = "BUSTEST_CHILD_ROUND"
	ackedLine   = "bustest-acked "
	faultLine   = "bustest-fault "
)

const killPublishers = 4

func kill(c *C) {
	if dir := os.Getenv(childDir); dir != "" {
		c.prefix = os.Getenv(childPrefix)
		c.publishUntilKilled(dir, os.Getenv(childRound))
		return
	}
	e := c.env()
	config := bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a")}}
	b := c.open(e)
	c.ensure(b, config)
	c.close(b)
	var acked []string
	for round := range 2 {
		acked = append(acked, c.killOne(e.Dir, fmt.Sprint("r", round), 100+c.rand.IntN(400))...)
	}

	b = c.open(e)
	h := c.subscribe(b, c.subject("a"), bus.All())
	h.name = "what is stored after two kills"
	c.judge(h, complete(acked...), unique, ordered, inStreamOrder)
	last := h.all()[len(h.all())-1].cursor
	if order, same := c.store(b, c.subject("a"), "end").Compare(last); !same || order <= 0 {
		c.Errorf("the next message stands before %s", last)
	}
	c.awaitText(h, "end")
}

// killOne starts a child that publishes, kills it after a number of acknowledgements, and
// returns all of them.
func (c *C) killOne(dir, round string, after int) (acked []string) {
	cmd := c.child(childDir+"="+dir, childPrefix+"="+c.prefix, childRound+"="+round)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatalf("the child's output: %v", err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		c.Fatalf("start the child: %v", err)
	}
	// A child that publishes nothing is killed, too.
	late := time.AfterFunc(c.h.Patience, func() { _ = cmd.Process.Kill() }) // it may have ended
	defer late.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), ackedLine); ok {
			if acked = append(acked, text); len(acked) == after {
				if err := cmd.Process.Kill(); err != nil {
					c.Errorf("kill the child: %v", err)
				}
			}
		} else {
			said.WriteString(lines.Text() + "\n")
		}
	}
	err = cmd.Wait()
	if len(acked) < after {
		c.Fatalf("the child published %d of %d messages and ended with %v:\n%s", len(acked), after, err, said.String())
	}
	return acked
}

// publishUntilKilled is what the child does.
func (c *C) publishUntilKilled(dir, round string) {
	ctx, cancel := context.WithTimeout(c.ctx, c.h.Patience) // if nobody kills it
	defer cancel()
	b, err := c.h.Open(&Env{Dir: dir, ctx: ctx})
	if err != nil {
		fmt.Println(faultLine, err)
		return
	}
	var wg sync.WaitGroup
	for p := range killPublishers {
		wg.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				text := numbered(round+string(rune('A'+p)), n)
				if err := b.Publish(ctx, c.subject("a"), []byte(text)); err != nil {
					fmt.Println(faultLine, err)
					return
				}
				fmt.Println(ackedLine + text) // one write each
			}
		})
	}
	wg.Wait()
}
