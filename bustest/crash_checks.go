package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// Each of these runs its check again as a child that works on the store, and kills it.
var crashChecks = []Check{
	{
		Name: "Kill", Run: kill, Needs: []Ability{CrashSafe}, process: true, rounds: 4,
		Rule: "processes that are killed again and again lose no message that Publish has accepted, none appears twice or out of order, " +
			"and streams, limits and message IDs survive",
		Origin: "10 of 15 killed processes lost messages that were flushed to core NATS; nats-server#6888",
	},
	{
		Name: "KillResume", Run: killResume, Needs: []Ability{CrashSafe}, process: true, rounds: 3,
		Rule:   "a subscription of a process that is killed resumes after its last cursor in the next one, with no gap and no repeat",
		Origin: "kurrent-io/KurrentDB#1075, #1301: a restart repeats the event of the checkpoint, or skips events",
	},
	{
		Name: "LockedElsewhere", Run: lockedElsewhere, Needs: []Ability{Locking}, process: true,
		Rule:   "a store that another process has open is ErrLocked, naming it, and can be opened when that process was killed",
		Origin: "two NATS servers on one directory lost 43 % of what they acknowledged",
	},
}

// The publishers of Kill: four on one subject, and one on a subject whose stream is small.
var killPublishers = []string{"A", "B", "C", "D", "few"}

const killFew = 20

func (c *C) killStreams() []bus.StreamConfig {
	return []bus.StreamConfig{
		{Name: c.stream("ALL"), Subjects: []string{c.subject("all")}},
		{Name: c.stream("FEW"), Subjects: []string{c.subject("few")}, MaxMsgs: killFew},
	}
}

func (c *C) killSubject(publisher string) string {
	if publisher == "few" {
		return c.subject("few")
	}
	return c.subject("all")
}

func kill(c *C) {
	if e, role, arg := c.inChild(); role != "" {
		c.publishUntilKilled(e, arg)
		return
	}
	e := c.env()
	last := make([]int, len(killPublishers)) // what each publisher has published
	var seen []event                         // what was verified after each kill
	var after bus.Cursor
	for round := range c.rounds() {
		acks := 1 + c.rand.IntN(400)
		if round%4 == 3 {
			acks = 0 // before it has opened the store, or while it does
		}
		acked := c.killOne(e, last, acks)

		b := c.open(e)
		opts := []bus.SubscribeOption{bus.All()}
		if !after.IsZero() {
			opts[0] = bus.After(after)
		}
		c.checkAcked(b, acked, opts...)
		for i, publisher := range killPublishers {
			// What was acknowledged isn't stored again, and what was in doubt can be published again.
			if last[i] > 0 {
				c.retry(b, publisher, last[i], acked, true)
			}
			last[i]++
			c.retry(b, publisher, last[i], acked, false)
		}
		h := c.subscribe(b, c.subject("all"), opts...)
		h.name = fmt.Sprintf("what is stored after kill %d", round+1)
		c.judge(h, unique, ordered, inStreamOrder, quiet)
		seen = append(seen, h.all()...)
		if len(seen) > 0 {
			after = seen[len(seen)-1].cursor
		}
		c.checkAllPublished(&history{name: h.name, events: seen}, last)
		n := last[len(last)-1]
		c.checkStored(b, c.subject("few"), sequence("few", max(1, n-killFew+1), n)...)
		c.close(b)
		if c.Failed() {
			return
		}
	}

	b := c.open(e)
	h := c.subscribe(b, c.subject("all"), bus.All())
	h.name = "what is stored in the end"
	c.judge(h, inStreamOrder, quiet)
	c.checkAllPublished(h, last)
	if order, same := c.store(b, c.subject("all"), "end").Compare(after); !same || order <= 0 {
		c.Errorf("the next message stands before %s", after)
	}
	c.awaitText(h, "end")
}

// checkAcked fails the check unless each acknowledged message is stored where it was said to be.
func (c *C) checkAcked(b bus.Bus, acked map[string]bus.Cursor, opts ...bus.SubscribeOption) {
	h := c.subscribe(b, c.subject("all"), opts...)
	h.name = "what is stored after a kill"
	want := slices.DeleteFunc(slices.Collect(maps.Keys(acked)), func(text string) bool { return strings.HasPrefix(text, "few") })
	c.judge(h, complete(want...))
	for at, e := range h.all() {
		if cursor, ok := acked[e.text]; ok && cursor != e.cursor {
			c.Errorf("%s was acknowledged at %s\n%s", e.text, cursor, around(h.all(), at))
		}
	}
}

// checkAllPublished fails the check unless each publisher's messages are there, once and in order.
func (c *C) checkAllPublished(h *history, last []int) {
	for i, publisher := range killPublishers[:len(killPublishers)-1] {
		own := &history{name: h.name + ", of publisher " + publisher}
		for _, e := range h.all() {
			if of, _, ok := number(e.text); ok && of == publisher {
				own.events = append(own.events, e)
			}
		}
		c.judge(own, complete(sequence(publisher, 1, last[i])...), exactly(sequence(publisher, 1, last[i])...))
	}
}

// retry publishes a message of a child again, under its ID.
func (c *C) retry(b bus.Bus, publisher string, n int, acked map[string]bus.Cursor, stored bool) {
	text := numbered(publisher, n)
	var r bus.Receipt
	c.publish(b, c.killSubject(publisher), text, bus.MessageID(text), bus.WithReceipt(&r))
	if stored && !r.Duplicate {
		c.Errorf("%s, which was acknowledged before, was stored again at %s", text, r.Cursor)
	}
	if cursor := acked[text]; stored && !cursor.IsZero() && !r.Cursor.IsZero() && r.Cursor != cursor {
		c.Errorf("%s was acknowledged at %s, and again at %s", text, cursor, r.Cursor)
	}
}

// killOne starts a child that publishes on from the given numbers, kills it after a number of
// acknowledgements, raises the numbers and returns where the acknowledged messages stand.
func (c *C) killOne(e *Env, last []int, acks int) map[string]bus.Cursor {
	p := c.spawn(e, "publisher", strings.Trim(fmt.Sprint(last), "[]"))
	p.expect("opening")
	acked := map[string]bus.Cursor{}
	if acks == 0 {
		p.kill()
	}
	for {
		words, ok := p.next()
		if !ok {
			break
		}
		if words[0] == "fault" {
			p.kill()
			c.Fatalf("the child says: %s", strings.Join(words[1:], " "))
		}
		if words[0] != "acked" {
			continue
		}
		publisher, n, _ := number(words[1])
		last[slices.Index(killPublishers, publisher)] = n
		cursor, err := bus.ParseCursor(words[2])
		if err != nil {
			c.Errorf("%v", err)
		}
		if acked[words[1]] = cursor; len(acked) == acks {
			p.kill()
		}
	}
	if len(acked) < acks {
		c.Fatalf("the child published %d of %d messages:\n%s", len(acked), acks, p.said())
	}
	return acked
}

// publishUntilKilled is what the child of Kill does.
func (c *C) publishUntilKilled(e *Env, arg string) {
	c.say("opening")
	ctx, cancel := context.WithTimeout(c.ctx, childPatience) // if nobody kills it
	defer cancel()
	b, err := c.h.Open(e)
	if err == nil {
		err = b.EnsureStreams(ctx, c.killStreams()...)
	}
	if err != nil {
		c.say("fault", err)
		return
	}
	last := make([]int, len(killPublishers))
	for i, digits := range strings.Fields(arg) {
		if _, err := fmt.Sscan(digits, &last[i]); err != nil {
			c.say("fault", err)
		}
	}
	var wg sync.WaitGroup
	for i, publisher := range killPublishers {
		wg.Go(func() {
			for n := last[i] + 1; ctx.Err() == nil; n++ {
				text := numbered(publisher, n)
				var r bus.Receipt
				err := b.Publish(ctx, c.killSubject(publisher), []byte(text), bus.MessageID(text), bus.WithReceipt(&r))
				if err != nil {
					c.say("fault", err)
					return
				}
				c.say("acked", text, r.Cursor)
			}
		})
	}
	wg.Wait()
}

func killResume(c *C) {
	if e, role, arg := c.inChild(); role != "" {
		c.resumeUntilKilled(e, role, arg)
		return
	}
	e := c.env()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	c.store(b, c.subject("a.x"), numbered("first", 1))
	c.close(b)
	got := &history{name: "what the killed processes' subscriptions were given"}
	var cursor bus.Cursor
	for round := range c.rounds() {
		p := c.spawn(e, fmt.Sprint("reader", round), cursor.String())
		want := 1 + c.rand.IntN(300)
		for n := 0; ; {
			words, ok := p.next()
			if !ok {
				if n < want {
					c.Fatalf("the child was given %d of %d messages:\n%s", n, want, p.said())
				}
				break
			}
			if words[0] != "got" {
				p.kill()
				c.Fatalf("the child says: %s", strings.Join(words, " "))
			}
			var err error
			if cursor, err = bus.ParseCursor(words[2]); err != nil {
				c.Errorf("%v", err)
			}
			got.add(event{kind: delivered, text: words[1], cursor: cursor})
			if n++; n == want {
				p.kill()
			}
		}
	}

	b = c.open(e)
	rest := c.subscribe(b, c.subject("a.*"), bus.After(cursor))
	for _, e := range rest.all() {
		got.add(e)
	}
	stored := c.subscribe(b, c.subject("a.*"), bus.All())
	stored.name = "what is stored"
	c.judge(stored, unique, ordered, inStreamOrder, quiet)
	c.judge(got, agreesWith(stored.all()), inStreamOrder, quiet)
}

// resumeUntilKilled is what the child of KillResume does: it subscribes after the cursor that
// it was given, and publishes meanwhile.
func (c *C) resumeUntilKilled(e *Env, role, arg string) {
	ctx, cancel := context.WithTimeout(c.ctx, childPatience) // if nobody kills it
	defer cancel()
	b, err := c.h.Open(e)
	if err != nil {
		c.say("fault", err)
		return
	}
	start := bus.All()
	if cursor, err := bus.ParseCursor(arg); err == nil && !cursor.IsZero() {
		start = bus.After(cursor)
	}
	var wg sync.WaitGroup
	for p := range 2 {
		wg.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				if err := b.Publish(ctx, c.subject("a.y"), []byte(numbered(fmt.Sprint(role, "-", p), n))); err != nil {
					c.say("fault", err)
					return
				}
			}
		})
	}
	_, err = b.Subscribe(ctx, c.subject("a.*"), func(_ context.Context, m *bus.Message) error {
		c.say("got", string(m.Data), m.Cursor)
		return nil
	}, start, bus.OnError(func(p bus.Problem) { c.say("fault", p.Err) }))
	if err != nil {
		c.say("fault", err)
	}
	wg.Wait()
}

func lockedElsewhere(c *C) {
	if e, role, _ := c.inChild(); role != "" {
		if _, err := c.h.Open(e); err != nil {
			c.say("fault", err)
			return
		}
		c.say("open")
		<-c.ctx.Done() // it is killed
		return
	}
	e := c.env()
	c.close(c.open(e))
	p := c.spawn(e, "holder", "")
	p.expect("open")
	b, err := c.h.Open(e)
	if !errors.Is(err, bus.ErrLocked) {
		c.Errorf("Open of a store that another process has: want ErrLocked, have %v", err)
	} else if !strings.Contains(err.Error(), e.Dir) {
		c.Errorf("the error doesn't name %s: %v", e.Dir, err)
	}
	if err == nil {
		c.close(b)
	}
	p.kill()
	p.wait()
	b = c.open(e)
	h := c.subscribe(b, c.subject("a"))
	c.publish(b, c.subject("a"), "unlocked")
	c.awaitText(h, "unlocked")
}
