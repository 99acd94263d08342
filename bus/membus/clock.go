package membus

import (
	"fmt"
	"sync"
	"time"
)

// clock publishes what is dirty at its next tick. Its timer runs only while something is.
type clock struct {
	tick  time.Duration // 0: at once
	start time.Time

	mu    sync.Mutex
	dirty []*members
	timer *time.Timer // not nil while a tick is due
}

// checkTick returns an error that says what a tick can be.
func checkTick(tick time.Duration) error {
	if tick < 0 || tick > 0 && tick < time.Millisecond {
		return fmt.Errorf("a tick is 0 or at least 1ms, not %s", tick)
	}
	return nil
}

// newClock returns a clock that ticks when whole ticks have passed since start.
func newClock(tick time.Duration, start time.Time) *clock { return &clock{tick: tick, start: start} }

// add has ms published at the next tick.
func (c *clock) add(ms *members) {
	if c.tick == 0 {
		ms.publish()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = append(c.dirty, ms)
	if c.timer == nil {
		c.timer = time.AfterFunc(c.tick-time.Since(c.start)%c.tick, c.publish)
	}
}

// publish is one turn of the publish loop.
func (c *clock) publish() {
	c.mu.Lock()
	dirty := c.dirty
	c.dirty, c.timer = nil, nil
	c.mu.Unlock()
	for _, ms := range dirty {
		ms.publish()
	}
}
