package compare

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	patience       = time.Minute // for what was published to arrive
	publishTimeout = 10 * time.Second
)

// run is a phase that is under way.
type run struct {
	chat   *chat
	number int

	mu        sync.Mutex
	published []int     // by room: how many numbers have been given
	acked     []numbers // by room
	messages  int       // acknowledged
	refused   int
	failure   error // the first one

	expected   atomic.Int64 // deliveries, once it is known
	delivered  atomic.Int64
	unrendered atomic.Int64
	ended      atomic.Int64  // tabs that know that everything has been published
	settled    chan struct{} // gets a token when there is nothing to wait for
}

// measure has robots speak, and waits until everything has arrived and is rendered.
func (c *chat) measure(ctx context.Context, rooms, effort int, speak func(ctx context.Context, r *run)) (*phase, error) {
	c.phase++
	c.effort.Store(int64(effort))
	r := &run{chat: c, number: c.phase, published: make([]int, rooms), acked: make([]numbers, rooms), settled: make(chan struct{}, 1)}
	r.expected.Store(math.MaxInt64)
	for _, t := range c.tabs {
		t.thread.Lock()
		t.fresh, t.tally = nil, &tally{run: r}
		t.thread.Unlock()
	}
	runtime.GC()
	before, err := cpu()
	if err != nil {
		return nil, err
	}
	began := c.now()
	speak(ctx, r)
	settled := r.settle(ctx)
	after, err := cpu()
	if err != nil {
		return nil, err
	}
	p := r.sum(began)
	p.use(after - before)
	if !settled {
		return nil, fmt.Errorf("of %d deliveries, %d haven't come within %s; %s", p.Deliveries+p.Missing, p.Missing, patience, p.problem())
	}
	return p, nil
}

// openLoop publishes at the times of a schedule, whether or not what was said before is acknowledged, so that a
// bus that is slow isn't spared.
func openLoop(list []utterance) func(ctx context.Context, r *run) {
	return func(ctx context.Context, r *run) {
		var publishing sync.WaitGroup
		defer publishing.Wait()
		began := time.Now()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for _, u := range list {
			timer.Reset(time.Until(began.Add(u.at)))
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			publishing.Go(func() { r.publish(ctx, u.room) })
		}
	}
}

// closedLoop publishes as fast as robots are acknowledged.
func closedLoop(robots, most int, length time.Duration) func(ctx context.Context, r *run) {
	return func(ctx context.Context, r *run) {
		var left atomic.Int64
		left.Store(int64(most))
		began := time.Now()
		var publishing sync.WaitGroup
		for robot := range robots {
			publishing.Go(func() {
				for i := robot; time.Since(began) < length && left.Add(-1) >= 0 && ctx.Err() == nil; i++ {
					if !r.publish(ctx, i%len(r.published)) {
						return
					}
				}
			})
		}
		publishing.Wait()
	}
}

// publish has a robot say something, and reports whether it was acknowledged.
func (r *run) publish(ctx context.Context, room int) bool {
	r.mu.Lock()
	n := r.published[room]
	r.published[room]++
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	err := r.chat.say(ctx, room, n)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.refused++
		if r.failure == nil {
			r.failure = err
		}
		return false
	}
	r.messages++
	r.acked[room].add(n)
	return true
}

// settle waits until all tabs have got and rendered what was acknowledged. A tab gets messages in
// order: when it has something that was published last, what isn't there won't come. It is false when
// that isn't known after a while, either.
func (r *run) settle(ctx context.Context) bool {
	if r.refused == 0 { // what was refused may have been published, so that the number isn't known
		expected := 0
		for _, t := range r.chat.tabs {
			expected += r.published[t.room]
		}
		r.expected.Store(int64(expected))
		r.check()
	}
	again := time.NewTicker(time.Second)
	defer again.Stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		select {
		case <-r.settled:
			return true
		case <-ctx.Done():
			return false
		case <-again.C:
			for room := range r.published {
				// A failure is made good by the next time.
				_ = r.chat.say(ctx, room, last)
			}
		}
	}
}

// check looks whether there is nothing to wait for any more.
func (r *run) check() {
	all := r.delivered.Load() >= r.expected.Load() || r.ended.Load() == int64(len(r.chat.tabs))
	if !all || r.unrendered.Load() > 0 {
		return
	}
	select {
	case r.settled <- struct{}{}:
	default: // it is known
	}
}

// sum takes what the tabs got.
func (r *run) sum(began time.Duration) *phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &phase{Messages: r.messages, Refused: r.refused, failure: r.failure}
	var handled, rendered []time.Duration
	newest := began
	for _, tab := range r.chat.tabs {
		tab.thread.Lock()
		t := tab.tally
		tab.tally = nil
		tab.thread.Unlock()
		handled, rendered = append(handled, t.handled...), append(rendered, t.rendered...)
		p.Renders += t.renders
		p.Repeated += t.repeated
		newest = max(newest, t.newest)
		for n := range r.published[tab.room] {
			if r.acked[tab.room].has(n) && !t.seen.has(n) {
				p.Missing++
			}
		}
	}
	p.Deliveries, p.Took = len(handled), newest-began
	slices.Sort(handled)
	slices.Sort(rendered)
	p.Handled, p.Rendered = distribute(handled), distribute(rendered)
	return p
}

// problem says what was refused.
func (p *phase) problem() string {
	if p.failure == nil {
		return "no publish failed"
	}
	return fmt.Sprintf("%d publishes failed; the first: %v", p.Refused, p.failure)
}
