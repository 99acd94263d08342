package refbus

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Close implements bus.Bus.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closing
	b.closing = true
	if first {
		close(b.ends)
	}
	b.mu.Unlock()
	if b.bug("doubleClosePanic") && !first {
		close(b.ends)
	}
	if first {
		cancel := func() {}
		if _, has := ctx.Deadline(); !has || b.inHandler(ctx) {
			timeout := 5 * time.Second
			if b.bug("closeWaitsLong") {
				timeout *= 2
			}
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), timeout)
		}
		finish := func() {
			defer cancel()
			b.finish(ctx)
		}
		if s, ok := ctx.Value(handlerKey{b}).(*subscription); ok && b.bug("closeDoneEarly") {
			s.doneNow()
		}
		if !b.inHandler(ctx) || b.bug("closeWaitsInHandler") {
			finish()
			return b.closeErr
		}
		go finish()
		return nil
	}
	if b.inHandler(ctx) || !first && b.bug("secondCloseEarly") {
		return nil
	}
	select {
	case <-b.done:
		return b.closeErr
	case <-ctx.Done():
		return b.wrap("close", "", ctx.Err(), nil)
	}
}

// finish drains the subscriptions, until ctx ends, and releases everything.
func (b *Bus) finish(ctx context.Context) {
	b.waitAsync()
	b.flush()
	if b.bug("closeLosesLate") || b.bug("closeRefusesStored") {
		_ = pauseUntil(ctx, 10*time.Millisecond) // so that calls meet it
	}
	b.mu.Lock()
	subs := slices.Concat(b.subs, b.leaving)
	if b.bug("endedForgotten") {
		subs = slices.Clone(b.subs)
	}
	for _, s := range subs {
		if b.bug("dropOnClose") {
			s.queue = nil
		}
		if s.inGroup() && b.bug("groupDropsOnClose") {
			s.queue = nil
			for _, l := range s.legs {
				l.pos = l.st.seq
			}
		}
		s.poke()
	}
	b.mu.Unlock()
	var stuck []string
	for _, s := range subs {
		if b.bug("noCloseFence") {
			break
		}
		if b.bug("closeWaitsForever") {
			<-s.done
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			s.end(bus.ErrClosed)
			if !s.heedsContext() {
				stuck = append(stuck, s.pattern)
			}
		}
	}
	for _, s := range subs {
		s.end(bus.ErrClosed)
	}
	b.detach(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(stuck) == 0:
	case b.bug("oneStuckNamed"):
		stuck = stuck[:1]
	case b.bug("stuckLeaks"):
		go func() { select {} }()
	}
	if len(stuck) > 0 && !b.bug("stuckUnsaid") {
		b.closeErr = b.wrap("close", strings.Join(stuck, ", "), bus.ErrHandlersRunning, nil)
	}
	b.closed = true
	if len(stuck) == 0 || !b.bug("stuckKeepsLock") {
		b.unload()
	}
	close(b.hook)
	close(b.done)
}
