package driver

import (
	"sync"
	"sync/atomic"
)

const (
	// maxTurns is after how many subscriptions a goroutine of a crew makes room for a new one.
	maxTurns = 1000
	// maxIdle is how many goroutines of a crew stay when there is nothing to do: to make one and to grow its stack takes longer than
	// many a handler.
	maxIdle = 4
)

// crew hands over what is ready, with as few goroutines as it takes. Nobody can see whether a handler blocks; but
// whoever calls one leaves a spare goroutine to be run, if anything else is ready. The spare begins when a
// processor is free, which is when a handler blocks; while handlers return quickly, a few goroutines do everything.
type crew struct {
	takers atomic.Int32 // how many goroutines are about to take what is ready, and wait for mu at the most

	mu    sync.Mutex
	ready []*subscription // a ring
	first int
	len   int
	spare bool // a goroutine was started or woken that hasn't begun
	idle  int  // how many wait to be woken
	wake  chan struct{}
	over  bool // nobody waits any more
}

// add has subscriptions run. It doesn't block.
func (c *crew) add(ready ...*subscription) {
	if len(ready) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range ready {
		if c.len == len(c.ready) {
			grown := make([]*subscription, max(16, 2*c.len))
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
	switch {
	case c.spare || c.takers.Load() > 0:
		return
	case c.idle > 0:
		c.idle--
		c.wake <- struct{}{} // which has room for each that is idle
	default:
		go c.work()
	}
	c.spare = true
}

// work is one goroutine of the crew.
func (c *crew) work() {
	for {
		c.mu.Lock()
		c.spare = false
		c.mu.Unlock()
		for turn := 0; ; turn++ {
			s := c.next(turn < maxTurns)
			if s == nil {
				break
			}
			s.run()
		}
		if !c.rest() {
			return
		}
	}
}

// rest returns when there is something to do again; false: somebody else is to do it.
func (c *crew) rest() bool {
	c.mu.Lock()
	if c.over || c.len > 0 || c.idle == maxIdle {
		c.mu.Unlock()
		return false
	}
	if c.wake == nil {
		c.wake = make(chan struct{}, maxIdle)
	}
	c.idle++
	wake := c.wake
	c.mu.Unlock()
	_, woken := <-wake
	return woken
}

// end ends the goroutines that wait. What is added later is done all the same.
func (c *crew) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.idle = true, 0
	if c.wake != nil {
		close(c.wake)
	}
}

// next takes what is ready, unless the spare goroutine is to go on.
func (c *crew) next(more bool) *subscription {
	c.takers.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takers.Add(-1)
	if c.len == 0 {
		c.ready, c.first = nil, 0 // give the memory of a crowd back
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
