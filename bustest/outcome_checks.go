package bustest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

var outcomeChecks = []Check{
	{
		Name: "FaultOutcomes", Run: faultOutcomes, Needs: []Ability{Durable, Faults}, rounds: 3,
		Rule:   "what Publish says under faults is so: nil has published the message, ErrUnknownOutcome holds its reason, and any other error has published nothing",
		Origin: "stan.js#130: an error without a reason, of messages that the server has stored; oleksiyk/kafka#212: no connection, and they are stored",
	},
}

// faultOutcomes publishes each message once, and compares what Publish said of it with what came of it.
func faultOutcomes(c *C) {
	e, s := c.serve()
	b := c.open(e)
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	held, free := c.subscribe(b, c.subject("a.>")), c.subscribe(b, c.subject("free"))
	var stop atomic.Bool
	var mu sync.Mutex
	var accepted []string
	refused := map[string]error{}
	var done []<-chan struct{}
	for _, who := range []string{"A", "B", "C", "free"} {
		done = append(done, c.start(func() {
			pause := time.NewTicker(200 * time.Microsecond)
			defer pause.Stop()
			for n := 1; !stop.Load() && c.ctx.Err() == nil; n++ {
				text, subject := numbered(who, n), c.subject("a."+who)
				var opts []bus.PublishOption
				if who == "free" {
					subject = c.subject("free")
				} else if n%2 == 0 { // under which a backend may try again by itself
					opts = append(opts, bus.MessageID(text))
				}
				ctx, cancel := context.WithTimeout(c.ctx, c.h.Patience/20)
				err := b.Publish(ctx, subject, []byte(text), opts...)
				cancel()
				c.excuse("Publish of "+text, err)
				mu.Lock()
				if err == nil && who != "free" { // what is on its way to a server that goes is lost there
					accepted = append(accepted, text)
				} else if err != nil && !errors.Is(err, bus.ErrUnknownOutcome) {
					refused[text] = err
				}
				mu.Unlock()
				<-pause.C
			}
		}))
	}
	for round := range c.rounds() {
		c.awaitMore(held, 30)
		if round%2 == 0 {
			c.do("cut", s.Cut())
		} else {
			c.do("kill", s.Kill())
			c.do("start", s.Start())
		}
		c.awaitSlow(free, round+1) // what is published now arrives
	}
	c.awaitMore(held, 30)
	stop.Store(true)
	for _, d := range done {
		receive(c, d, "the last publish to return")
	}
	for _, subject := range []string{"a.end", "free"} {
		c.persist("Publish", func(ctx context.Context) error { return b.Publish(ctx, c.subject(subject), []byte("end")) })
	}
	for _, h := range []*history{held, free} {
		c.awaitText(h, "end")
		c.judge(h, notRefused(refused))
	}
	stored := c.subscribe(b, c.subject("a.>"), bus.All())
	for _, h := range []*history{held, stored} {
		c.judge(h, complete(accepted...), unique, notRefused(refused), inStreamOrder)
	}
}
