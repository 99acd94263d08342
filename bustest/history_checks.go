package bustest

import (
	"context"
	"fmt"

	"github.com/jitney-go/jitney/bus"
)

var historyChecks = []Check{
	{
		Name: "EmptyHistory", Run: emptyHistory, Needs: []Ability{Streams},
		Rule:   "Subscribe with a start position waits for no message where nothing is stored",
		Origin: "the chat that this project grew from took 200 ms of quiet for the end of a history",
	},
	{
		Name: "SlowReplay", Run: slowReplay, Needs: []Ability{Streams},
		Rule:   "a replay whose handler doesn't return delays no publisher, no live subscription and no other replay",
		Origin: "dunglas/mercure#200: all writes would have waited for a subscriber that reads its history",
	},
	{
		Name: "ReplayIsolation", Run: replayIsolation, Needs: []Ability{Streams},
		Rule:   "a replayed message can be kept for ever and appended to, and the next replay is unharmed",
		Origin: "watermill's GoChannel: subscriber B reads what A has written",
	},
}

func emptyHistory(c *C) {
	b, _ := c.filled(3)
	c.ensure(b, bus.StreamConfig{Name: c.stream("EMPTY"), Subjects: []string{c.subject("empty.>")}})
	const n = 50
	// A wait for quiet, however short, adds up.
	done := c.start(func() {
		for i := range n {
			for _, root := range []string{"a", "empty"} {
				opt := []bus.SubscribeOption{bus.All(), bus.Last(5), bus.LastPerSubject()}[i%3]
				h := c.subscribe(b, c.subject(fmt.Sprintf("%s.none%d", root, i)), opt)
				receive(c, h.sub.CaughtUp(), "CaughtUp to close")
			}
		}
	})
	receive(c, done, fmt.Sprintf("%d subscriptions to nothing stored to be caught up", 2*n))
	for _, root := range []string{"a", "empty"} {
		h := c.subscribe(b, c.subject(root+".x"), bus.Last(0))
		c.publish(b, c.subject(root+".x"), "live")
		c.awaitText(h, "live")
	}
}

func slowReplay(c *C) {
	b, _ := c.filled(50)
	live := c.subscribe(b, c.subject("a.>"))
	gate, open := c.gate()
	inside := make(chan struct{}, 4)
	for _, opt := range []bus.SubscribeOption{bus.All(), bus.Last(20)} {
		c.subscribeFunc(b, c.subject("a.>"), func(context.Context, *bus.Message) error {
			select {
			case inside <- struct{}{}:
			default:
			}
			<-gate
			return nil
		}, opt, bus.Background(), bus.Buffer(4, 1<<10))
		receive(c, inside, "the replay to begin")
	}
	done := c.start(func() {
		for _, text := range sequence("p", 51, 100) {
			c.publish(b, c.subject("a.x"), text)
		}
		c.awaitText(live, numbered("p", 100))
		c.judge(live, exactly(sequence("p", 51, 100)...), quiet)
		c.checkStored(b, c.subject("a.>"), sequence("p", 1, 100)...)
	})
	receive(c, done, "publishers, live subscriptions and other replays, while a replay's handler doesn't return")
	open()
}

func replayIsolation(c *C) {
	b, _ := c.filled(50)
	for round := range 3 {
		h := &history{name: fmt.Sprintf("replay %d, which appends", round+1)}
		c.subscribeFunc(b, c.subject("a.>"), func(_ context.Context, m *bus.Message) error {
			h.message(m)
			_ = append(m.Data, "appended"...) // must not reach anybody else
			return nil
		}, bus.All())
		c.judge(h, exactly(sequence("p", 1, 50)...), unchanged, func(events []event) *fault {
			for at, e := range events {
				if room := cap(e.msg.Data) - len(e.msg.Data); room > 0 {
					return &fault{at, fmt.Sprintf("the capacity of its data exceeds its length by %d", room)}
				}
			}
			return nil
		})
	}
	late := c.subscribe(b, c.subject("a.>"), bus.All())
	c.judge(late, exactly(sequence("p", 1, 50)...))
}
