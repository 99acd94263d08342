package driver

import (
	"sync"
	"sync/atomic"
)

// maxTurns is after how many subscriptions a goroutine of a crew makes room for a new one.
const maxTurns = 1000

// leastReady is how many subscriptions a crew always has place for.
const leastReady = 64

// crew hands over what is ready, with as few goroutines as it takes. Nobody can see whether a handler blocks; but
// whoever calls one leaves a spare goroutine to be run, if anything else is ready. The spare begins when a
// processor is free, which is when a handler blocks; while handlers return quickly, a few goroutines do everything.
type crew struct {
	takers atomic.Int32 // how many goroutines are about to take what is ready, and wait for mu at the most

	mu    sync.Mutex
	ready []*subscription // a ring
	first int
	len   int
	spare bool // a goroutine was started that hasn't begun
}

// add has subscriptions run. It doesn't block.
func (c *crew) add(ready ...*subscription) {
	if len(ready) == 0 {
		return
	}
	lockSoon(&c.mu)
	defer c.mu.Unlock()
	for _, s := range ready {
		if c.len == len(c.ready) {
			grown := make([]*subscription, max(leastReady, 2*c.len))
			n := copy(grown, c.ready[c.first:])
			copy(grown[n:], c.ready[:c.first])
			c.ready, c.first = grown, 0
		}
		c.ready[(c.first+c.len)%len(c.ready)] = s
		c.len++
	}
	c.spareLocked()
}

func (c *crew) spareLocked() {
	if !c.spare && c.takers.Load() == 0 {
		c.spare = true
		go c.work()
	}
}

// work is one goroutine of the crew.
func (c *crew) work() {
	lockSoon(&c.mu)
	c.spare = false
	c.mu.Unlock()
	for turn := range maxTurns + 1 {
		s := c.next(turn < maxTurns)
		if s == nil {
			return
		}
		s.run()
	}
}

// next takes what is ready, unless the spare goroutine is to go on.
func (c *crew) next(more bool) *subscription {
	c.takers.Add(1)
	lockSoon(&c.mu)
	defer c.mu.Unlock()
	c.takers.Add(-1)
	if c.len == 0 {
		if len(c.ready) > leastReady {
			c.ready, c.first = nil, 0 // give the memory of a crowd back
		}
		return nil
	}
	var s *subscription
	if more {
		s = c.ready[c.first]
		c.ready[c.first] = nil
		c.first = (c.first + 1) % len(c.ready)
		c.len--
	}
	if c.len > 0 {
		c.spareLocked()
	}
	return s
}
