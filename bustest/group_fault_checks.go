package bustest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var groupFaultChecks = []Check{{
	Name: "GroupResumes", Run: groupResumes, Needs: []Ability{DurableGroups, Durable, Faults}, rounds: 2,
	Rule:   "after connections are cut and the server is killed under load, a durable group goes on and loses nothing; what fails is still repeated",
	Origin: "nats.go#1370: a consumer that doesn't come back after an outage",
}, {
	Name: "GroupKill", Run: groupKill, Needs: []Ability{DurableGroups, CrashSafe}, process: true, rounds: 2,
	Rule: "when a process is killed, what a durable group's handlers hadn't done is delivered in the next one, and what was long done isn't",
	Origin: "stan.java#42: a group misses a message when a member crashes; nats-streaming-server#72: acknowledged messages came again " +
		"after a restart",
}}

// groupResumes lets each seventh message fail once, so that repetitions meet the faults, too.
func groupResumes(c *C) {
	e, s := c.serve()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}, Duplicates: 10 * time.Minute})
	all := &history{name: "the group"}
	for range 3 {
		c.subscribeFunc(b, c.subject("a.*"), func(_ context.Context, m *bus.Message) error {
			if _, n, ok := number(string(m.Data)); ok && n%7 == 0 && m.Attempt == 1 {
				return errOnPurpose
			}
			all.message(m)
			return nil
		}, bus.DurableGroup(c.group("g")), bus.Attempts(0, time.Millisecond))
	}
	l := c.load(b)
	for range c.rounds() {
		c.awaitMore(all, 30)
		c.do("cut", s.Cut())
		c.awaitMore(all, 30)
		c.do("kill", s.Kill())
		c.do("start", s.Start())
	}
	c.awaitMore(all, 30)
	c.awaitAllWithin(2*c.h.Patience, all, l.end()...) // what a fault has cut off comes again after a while
}

const (
	groupKillBatch = 50
	// groupKillRest is how long something must have been done that may not come again: what was done just before a
	// crash may.
	groupKillRest = time.Second
)

func groupKill(c *C) {
	if e, role, _ := c.inChild(); role != "" {
		c.workUntilKilled(e, role)
		return
	}
	e := c.env()
	var acked []string
	all := &history{name: "what the group's handlers were given, in all processes"}
	for round := range c.rounds() {
		p := c.spawn(e, fmt.Sprint("worker", round), "")
		want := 1 + c.rand.IntN(100)
		for n := 0; ; {
			words, ok := p.next()
			if !ok {
				if n < want {
					c.Fatalf("the child has handled %d of %d messages:\n%s", n, want, p.said())
				}
				break
			}
			switch words[0] {
			case "acked":
				acked = append(acked, words[1])
			case "handled":
				all.add(event{kind: delivered, text: words[1]})
				if strings.HasPrefix(words[1], "later") {
					n++
				}
				if n == want {
					p.kill()
				}
			case "rested":
				all.mark("rested")
			default:
				p.kill()
				c.Fatalf("the child says: %s", strings.Join(words, " "))
			}
		}
	}

	b := c.open(e)
	c.subscribeFunc(b, c.subject("held.*"), all.handler(), bus.DurableGroup(c.group("g")), bus.Attempts(0), bus.OnError(all.hook()))
	c.awaitAllWithin(2*c.h.Patience, all, acked...)
	c.judge(all, quiet, func(events []event) *fault {
		rested := slices.IndexFunc(events, func(e event) bool { return e.kind == mark })
		longDone := map[string]bool{}
		for at, e := range events {
			switch {
			case at < rested:
				longDone[e.text] = true
			case longDone[e.text]:
				return &fault{at, "it was done long before the process was killed, and came again"}
			}
		}
		return nil
	})
}

// workUntilKilled is what the child of GroupKill does. It says what it has handled on the last line of the handler.
func (c *C) workUntilKilled(e *Env, role string) {
	ctx, cancel := context.WithTimeout(c.ctx, childPatience) // if nobody kills it
	defer cancel()
	b, err := c.h.Open(e)
	if err == nil {
		err = b.EnsureStreams(ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	}
	if err != nil {
		c.say("fault", err)
		return
	}
	done := &history{name: "handled"}
	for range 3 {
		_, err := b.Subscribe(ctx, c.subject("held.*"), func(_ context.Context, m *bus.Message) error {
			if strings.HasPrefix(string(m.Data), role+"-stuck") {
				<-ctx.Done() // it is under way when the process is killed
			}
			done.message(m)
			c.say("handled", string(m.Data))
			return nil
		}, bus.DurableGroup(c.group("g")), bus.Attempts(0), bus.All())
		if err != nil {
			c.say("fault", err)
			return
		}
	}
	publish := func(text string) {
		err := b.Publish(ctx, c.subject("held.a"), []byte(text))
		if err != nil {
			c.say("fault", err)
			return
		}
		c.say("acked", text)
	}
	first := sequence(role, 1, groupKillBatch)
	for _, text := range first {
		publish(text)
	}
	c.awaitAll(done, first...)
	if role == "worker0" {
		c.wait(groupKillRest)
		c.say("rested")
	}
	publish(role + "-stuck")
	for n := 1; ctx.Err() == nil; n++ {
		text := numbered("later-"+role, n)
		publish(text)
		if n%10 == 0 { // no faster than the handlers
			c.awaitText(done, text)
		}
	}
}
