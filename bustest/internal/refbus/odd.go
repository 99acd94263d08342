package refbus

import (
	"context"
	"math/rand/v2"
	"runtime"
	"time"
)

// pause makes the odd buses odd.
func (b *Bus) pause() {
	if b.cfg.Yield {
		for range rand.IntN(4) {
			runtime.Gosched()
		}
	}
	if b.cfg.Delay && rand.IntN(100) == 0 {
		_ = pauseUntil(context.Background(), time.Duration(rand.IntN(int(3*time.Millisecond)))) // its only error is a context's, and this one never ends
	}
}

func pauseUntil(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tick lets everything that waits through at the next tick. b.mu is held.
func (b *Bus) tick() {
	if b.cfg.Tick == 0 || b.ticking {
		return
	}
	b.ticking = true
	time.AfterFunc(b.cfg.Tick, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ticking = false
		for _, s := range b.subs {
			s.allow()
			s.poke()
		}
	})
}
