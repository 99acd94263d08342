package driver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	defaultCloseTimeout = 5 * time.Second
	// callGrace is how long Close lets calls that are under way come to their own end.
	callGrace = 250 * time.Millisecond
	// cancelGrace is how long handlers have after their context was cancelled.
	cancelGrace = 100 * time.Millisecond
)

// Close implements bus.Bus.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closing.Swap(true)
	b.mu.Unlock()
	if b.inside(ctx) {
		if first {
			// The handler must return for the rest to end, and its context ends with it.
			go func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), remaining(ctx))
				defer cancel()
				b.shutDown(ctx)
			}()
		}
		return nil
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultCloseTimeout)
		defer cancel()
	}
	if first {
		b.shutDown(ctx)
	}
	select {
	case <-b.closed:
	default:
		select {
		case <-b.closed:
		case <-ctx.Done():
			return fmt.Errorf("bus: close: %w", ctx.Err())
		}
	}
	if b.closeErr != nil {
		return fmt.Errorf("bus: close: %w", b.closeErr)
	}
	return nil
}

// remaining is the time until ctx's deadline.
func remaining(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultCloseTimeout
	}
	return time.Until(deadline)
}

// shutDown is the one run of Close.
func (b *Bus) shutDown(ctx context.Context) {
	b.endCalls(ctx)
	subs := b.drain(ctx)
	running := b.endSubscriptions(ctx, subs)
	b.backend.Interrupt()
	b.endLife(bus.ErrClosed)
	b.endGroups()
	b.endFeeds()
	b.ending.Wait()
	err := b.backend.Close()
	b.hooks.wait(ctx)
	if len(running) > 0 {
		err = fmt.Errorf("%w: %s", bus.ErrHandlersRunning, strings.Join(running, ", "))
	}
	b.closeErr = err
	close(b.closed)
}

// endCalls waits for the calls that are under way, and ends those that are blocked.
func (b *Bus) endCalls(ctx context.Context) {
	grace := time.NewTimer(min(callGrace, max(0, remaining(ctx)/2)))
	defer grace.Stop()
	for ended := false; ; ended = true {
		b.mu.Lock()
		if b.calls.Load() == 0 {
			b.mu.Unlock()
			break
		}
		if b.idle == nil {
			b.idle = make(chan struct{})
		}
		idle := b.idle
		b.mu.Unlock()
		if !ended {
			select {
			case <-idle:
			case <-grace.C:
			}
			b.endOutside(bus.ErrClosed)
			b.backend.Interrupt()
			continue
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return
		}
	}
	b.endOutside(bus.ErrClosed)
}

// drain tells every subscription to hand over what was accepted here so far and to end.
func (b *Bus) drain(ctx context.Context) []*subscription {
	// What was sent must have come back; what was stored, have come through the feed.
	if err := b.backend.Flush(ctx); err != nil {
		b.log.Warn("bus: close: what was published last may not be delivered", "error", err)
	}
	b.mu.Lock()
	feeds := make(map[string]*feed, len(b.feeds))
	for name, f := range b.feeds {
		feeds[name] = f
	}
	subs := slices.Clone(b.subs.all)
	b.mu.Unlock()
	for _, f := range feeds {
		if f.wait(ctx) != nil {
			continue
		}
		s := *f.config.Load()
		if err := f.reach(ctx, s.Epoch, b.ackedOf(s).Load()); err != nil {
			b.log.Warn("bus: close: what was stored last may not be delivered", "stream", f.name, "error", err)
		}
	}
	// What would still come for a group, another process is to have.
	var stopped sync.WaitGroup
	for _, s := range subs {
		if s.fills.shared() {
			stopped.Go(s.stopListening)
		}
	}
	stopped.Wait()
	for _, s := range subs {
		s.drain()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.groups {
		b.ending.Go(func() { g.drain(ctx) })
	}
	return subs
}

// drain makes the subscription end when it has handed over what it holds.
func (s *subscription) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.settleLocked()
	for _, l := range s.legs {
		if l.feed == nil {
			l.drainTo = uint64(l.queue.len)
		} else {
			l.drainTo = s.b.ackedOf(*l.feed.config.Load()).Load()
		}
	}
	s.draining = true
	s.startLocked()
}

// endSubscriptions waits for subs to end and returns the patterns of those whose handlers didn't.
func (b *Bus) endSubscriptions(ctx context.Context, subs []*subscription) []string {
	for _, s := range subs {
		select {
		case <-s.done.channel():
		case <-ctx.Done():
		}
	}
	// Those that came or stayed meanwhile.
	known := make(map[*subscription]bool, len(subs))
	for _, s := range subs {
		known[s] = true
	}
	b.mu.Lock()
	for _, s := range b.subs.all {
		if !known[s] {
			subs = append(subs, s)
		}
	}
	b.mu.Unlock()
	for _, s := range subs {
		s.end(bus.ErrClosed)
	}
	grace := time.NewTimer(cancelGrace)
	defer grace.Stop()
	var running []string
	expired := false
	for _, s := range subs {
		if !expired {
			select {
			case <-s.done.channel():
				continue
			case <-grace.C:
				expired = true
			}
		}
		if !s.done.fired() {
			running = append(running, fmt.Sprintf("%q", s.pattern))
		}
	}
	slices.Sort(running)
	return slices.Compact(running)
}

// spawn runs f on a goroutine that Close waits for, unless Close has got so far that nothing is begun any more.
func (b *Bus) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return false
	}
	b.ending.Go(f)
	return true
}

// begin has Close wait for a call of the backend until ending.Done, unless it has got so far that none is begun any more.
func (b *Bus) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return false
	}
	b.ending.Add(1)
	return true
}

// endFeeds stops everything that receives.
func (b *Bus) endFeeds() {
	b.mu.Lock()
	b.over = true
	feeds, listeners := b.feeds, b.listeners
	b.feeds, b.listeners = map[string]*feed{}, map[listenKey]*listener{}
	for _, f := range feeds {
		if f.expiry != nil {
			f.expiry.Stop()
		}
	}
	b.mu.Unlock()
	var ended sync.WaitGroup
	for _, f := range feeds {
		ended.Go(f.end)
	}
	for _, n := range listeners {
		ended.Go(n.end)
	}
	ended.Wait()
}
