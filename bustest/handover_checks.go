package bustest

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jitney-go/jitney/bus"
)

var handoverChecks = []Check{
	{
		Name: "HandoverNoGap", Run: handoverNoGap, Needs: []Ability{Streams},
		Rule:   "replay goes over into live with no gap, no repeat and no reordering, whatever is published meanwhile",
		Origin: "history and then a core subscription lost 41,236 of 90,000 messages",
	},
	{
		Name: "HandoverHistoryFirst", Run: handoverHistoryFirst, Needs: []Ability{Streams},
		Rule: "no live message comes before an older stored one",
	},
}

func handoverNoGap(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}})
	const publishers, stored, meanwhile = 4, 20, 15
	for round := range 20 {
		subject := c.subject(fmt.Sprintf("a.%d", round))
		for _, text := range sequence("stored", 1, stored) {
			c.publish(b, subject, text)
		}
		h := &history{name: fmt.Sprintf("round %d", round)}
		published := make(chan struct{})
		// In every other round all is published during the replay, in the rest whenever.
		inReplay := round%2 == 1
		begin, begun := c.gate()
		var calls atomic.Int32
		fire := c.start(func() {
			if inReplay {
				<-begin
			}
			c.together(publishers, "Publish", func(p int) {
				for _, text := range sequence(string(rune('A'+p)), 1, meanwhile) {
					if err := b.Publish(c.ctx, subject, []byte(text)); err != nil {
						c.Errorf("Publish: %v", err)
					}
				}
			})
			close(published)
		})
		_, err := b.Subscribe(c.ctx, subject, func(_ context.Context, m *bus.Message) error {
			h.message(m)
			if inReplay && calls.Add(1) == stored/2 {
				begun()
				select {
				case <-published:
				case <-c.ctx.Done():
				}
			}
			return nil
		}, bus.All(), bus.OnError(h.hook()))
		if err != nil {
			c.Fatalf("Subscribe: %v", err)
		}
		receive(c, fire, "Publish to return")
		c.publish(b, subject, "end")
		c.awaitText(h, "end")
		c.judge(h, ordered, unique, inStreamOrder, replayedFirst, quiet, complete(sequence("stored", 1, stored)...))
		for p := range publishers {
			c.judge(h, complete(sequence(string(rune('A'+p)), 1, meanwhile)...))
		}
		if c.Failed() {
			return
		}
	}
}

func handoverHistoryFirst(c *C) {
	b, _ := c.filled(20)
	h := &history{name: "a.>"}
	gate, open := c.gate()
	inside := make(chan struct{}, 1)
	sub := c.subscribeFunc(b, c.subject("a.>"), func(_ context.Context, m *bus.Message) error {
		h.message(m)
		if string(m.Data) == numbered("p", 1) {
			inside <- struct{}{}
			<-gate
		}
		return nil
	}, bus.All(), bus.Background(), bus.OnError(h.hook()))
	receive(c, inside, "the replay to begin")
	for _, text := range sequence("p", 21, 40) {
		c.publish(b, c.subject("a.x"), text)
	}
	open()
	receive(c, sub.CaughtUp(), "CaughtUp to close")
	c.awaitText(h, numbered("p", 40))
	c.judge(h, exactly(sequence("p", 1, 40)...), inStreamOrder, replayedFirst, quiet)
}
