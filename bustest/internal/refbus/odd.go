package refbus

import (
	"context"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/jitney-go/jitney/bus"
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

// parcel is an uncaptured message on its way to those for whom it was published.
type parcel struct {
	m    *bus.Message
	to   []*subscription
	gone chan struct{} // nil, or closed when all that was sent before it has arrived
}

// carry is the transport of the odd bus Tiny.
func (b *Bus) carry() {
	for {
		select {
		case p := <-b.wire:
			b.mu.Lock()
			_ = b.hand(context.Background(), p.m, p.to) // only a mutant fails
			b.mu.Unlock()
			if p.gone != nil {
				close(p.gone)
			}
		case <-b.done:
			return
		}
	}
}

// flush returns when what was sent has arrived.
func (b *Bus) flush() {
	if b.cfg.Tiny {
		gone := make(chan struct{})
		b.wire <- parcel{gone: gone}
		<-gone
	}
}

// tick lets what waits for a subscription through at the next tick. b.mu is held.
func (b *Bus) tick(s *subscription) {
	if b.cfg.Tick == 0 {
		return
	}
	ticking := len(b.waiting) > 0
	b.waiting[s] = struct{}{}
	if ticking {
		return
	}
	time.AfterFunc(b.cfg.Tick, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for s := range b.waiting {
			s.allow()
			s.pokeAll()
		}
		clear(b.waiting)
	})
}
