package migrate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// copied is what the new bus is still to be given.
type copied struct {
	what    string // for errors
	subject string // empty: no message
	cursor  bus.Cursor
	size    int64
	do      func(ctx context.Context) error
	values  context.Context // whose values, such as a trace, do is given; nil: none
	again   bool            // publishing it twice stores it once
	flushed chan struct{}   // of a marker, which is nothing else: closed when all before it has been given

	mark uint64 // the last ticket given when its call of the old bus had ended
}

// relay is the queue from the calls of the old bus to the new one.
//
// Concurrent publishers of one stream end their calls in another order than the stream has. So a message waits until
// every call has ended that had begun before its own ended: only those can stand before it. Then it goes, and with
// it what stands before it, in the order of the old bus' cursors.
type relay struct {
	maxMsgs  int
	maxBytes int64

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something may go on
	tickets uint64        // given to calls of the old bus that have begun
	running []uint64      // of those that haven't ended, ascending
	ended   []*copied     // waits for its place in the order
	queue   []*copied     // in order
	msgs    int           // reserved
	bytes   int64
	failing bool // calls of the new bus fail
	closing bool
	over    bool            // the writer has ended
	life    context.Context // as long as the new bus is given what waits; ends with Close
	giveUp  context.CancelFunc
	done    chan struct{} // closed when the writer has ended

	written, lost uint64
}

func newRelay(msgs int, bytes int64) *relay {
	r := &relay{maxMsgs: msgs, maxBytes: bytes, changed: make(chan struct{}), done: make(chan struct{})}
	r.life, r.giveUp = context.WithCancel(context.Background())
	return r
}

func (r *relay) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// reserve waits for room, if that makes sense, and says whether there is any.
func (r *relay) reserve(ctx context.Context, size int64, wait time.Duration) bool {
	var timeout <-chan time.Time
	for {
		r.mu.Lock()
		if r.msgs < r.maxMsgs && (r.bytes+size <= r.maxBytes || r.msgs == 0) {
			r.msgs++
			r.bytes += size
			r.mu.Unlock()
			return true
		}
		changed, hopeless := r.changed, r.failing || r.closing || wait <= 0
		r.mu.Unlock()
		if hopeless {
			return false
		}
		if timeout == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// free gives back what was reserved.
func (r *relay) free(size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.msgs--
	r.bytes -= size
	r.wake()
}

// begin returns the ticket of a call of the old bus that begins.
func (r *relay) begin() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tickets++
	r.running = append(r.running, r.tickets)
	return r.tickets
}

// end is told that the call has ended, and what the new bus is to be given for it. It reports whether that is
// possible: not any more when the Tee is closed.
func (r *relay) end(ticket uint64, c *copied) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearch(r.running, ticket)
	r.running = slices.Delete(r.running, i, i+1)
	if c != nil {
		if r.over {
			return false
		}
		c.mark = r.tickets
		if c.cursor.IsZero() {
			r.queue = append(r.queue, c)
		} else {
			r.ended = append(r.ended, c)
		}
	}
	if len(r.ended) > 0 {
		r.release()
	}
	r.wake()
	return true
}

// put queues what has no place in a stream.
func (r *relay) put(c *copied) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.msgs++
	r.queue = append(r.queue, c)
	r.wake()
}

// release queues what has found its place in the order.
func (r *relay) release() {
	if len(r.running) > 0 && r.running[0] <= r.ended[0].mark {
		return // marks grow
	}
	settled := func(c *copied) bool { return len(r.running) == 0 || r.running[0] > c.mark }
	// What stands before a settled message is settled by it.
	last := map[string]uint64{}
	for _, c := range r.ended {
		if settled(c) {
			last[c.cursor.Epoch()] = max(last[c.cursor.Epoch()], c.cursor.Sequence())
		}
	}
	var ready []*copied
	r.ended = slices.DeleteFunc(r.ended, func(c *copied) bool {
		upTo, ok := last[c.cursor.Epoch()]
		if ok = ok && c.cursor.Sequence() <= upTo; ok {
			ready = append(ready, c)
		}
		return ok
	})
	slices.SortStableFunc(ready, func(a, b *copied) int {
		return cmp.Or(cmp.Compare(a.cursor.Epoch(), b.cursor.Epoch()), cmp.Compare(a.cursor.Sequence(), b.cursor.Sequence()))
	})
	r.queue = append(r.queue, ready...)
}

// next returns the oldest of the queue, which stays there, or nil when the relay is closed and has nothing. It calls
// idle before it waits.
func (r *relay) next(idle func()) *copied {
	for {
		r.mu.Lock()
		if len(r.queue) > 0 {
			c := r.queue[0]
			r.mu.Unlock()
			return c
		}
		// A call of the old bus that hangs mustn't hang the end.
		end := r.closing && (len(r.running)+len(r.ended) == 0 || r.life.Err() != nil)
		r.over = end
		changed := r.changed
		r.mu.Unlock()
		if end {
			return nil
		}
		idle()
		select {
		case <-changed:
		case <-r.life.Done():
		}
	}
}

// settle takes the oldest out of the queue.
func (r *relay) settle(c *copied, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue[0] = nil
	r.queue = r.queue[1:]
	if c.flushed != nil {
		close(c.flushed)
		return
	}
	r.msgs--
	r.bytes -= c.size
	switch {
	case c.subject == "":
	case err != nil:
		r.lost++
	default:
		r.written++
	}
	r.wake()
}

func (r *relay) fails(failing bool) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed = r.failing != failing
	r.failing = failing
	r.wake()
	return changed
}

func (r *relay) lose(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost += n
}

func (r *relay) stats() TeeStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := TeeStats{Written: r.written, Lost: r.lost}
	for _, list := range [][]*copied{r.queue, r.ended} {
		for _, c := range list {
			if c.subject != "" {
				s.Waiting++
			}
		}
	}
	return s
}

// whenEmpty closes done when what is queued now has been given to the new bus. It reports whether it ever will be.
func (r *relay) whenEmpty(done chan struct{}) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	// It takes part in the order: behind all calls that have begun.
	marker := &copied{flushed: done}
	if len(r.running) == 0 && len(r.ended) == 0 {
		r.queue = append(r.queue, marker)
		r.wake()
		return true
	}
	mark := r.tickets
	go func() {
		for {
			r.mu.Lock()
			waits := slices.ContainsFunc(r.ended, func(c *copied) bool { return c.mark <= mark }) ||
				len(r.running) > 0 && r.running[0] <= mark
			if !waits || r.closing {
				r.queue = append(r.queue, marker)
				r.wake()
				r.mu.Unlock()
				return
			}
			changed := r.changed
			r.mu.Unlock()
			<-changed
		}
	}()
	return true
}

// close gives the new bus what waits until ctx ends, and returns how many messages were left then.
func (r *relay) close(ctx context.Context) (left uint64) {
	r.mu.Lock()
	r.closing = true
	r.wake()
	r.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
		r.giveUp()
		<-r.done
	}
	r.giveUp()
	left = r.stats().Waiting
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost += left
	r.queue, r.ended = nil, nil
	return left
}

// write gives the new bus what the relay has for it, one after the other.
func (t *Tee) write() {
	defer close(t.relay.done)
	renewed := time.Now()
	for {
		c := t.relay.next(t.problems.caughtUp)
		if c == nil {
			return
		}
		err, given := t.give(c)
		if !given {
			t.relay.mu.Lock()
			t.relay.over = true
			t.relay.mu.Unlock()
			return
		}
		t.relay.settle(c, err)
		if c.subject != "" && c.cursor.IsZero() && time.Since(renewed) > time.Second {
			// A stream that others have created may capture it by now.
			ctx, cancel := context.WithTimeout(t.relay.life, renewTimeout)
			_ = t.renew(ctx) // until the next time the order is that in which calls end
			cancel()
			renewed = time.Now()
		}
	}
}

const (
	firstPause   = 50 * time.Millisecond
	longestPause = time.Second
)

// give calls the new bus until it has answered, or given is false as the Tee is closed and out of time.
func (t *Tee) give(c *copied) (err error, given bool) {
	if c.flushed != nil {
		return nil, true
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if t.relay.life.Err() != nil {
			return nil, false
		}
		err := t.call(c)
		if err == nil {
			t.relay.fails(false)
			return nil, true
		}
		err = fmt.Errorf("migrate: tee: %s at the new bus: %w", c.what, err)
		passes := mayPass(err)
		began := t.relay.fails(passes)
		if !passes || errors.Is(err, bus.ErrUnknownOutcome) && !c.again {
			t.problems.report(bus.Problem{Err: err, Subject: c.subject, Cursor: c.cursor})
			return err, true
		}
		if began {
			t.problems.report(bus.Problem{Err: fmt.Errorf("%w (it is tried again)", err), Subject: c.subject, Cursor: c.cursor})
		}
		select {
		case <-time.After(pause):
		case <-t.relay.life.Done():
		}
	}
}

// call calls the new bus once.
func (t *Tee) call(c *copied) error {
	ctx := context.Background()
	if c.values != nil {
		ctx = context.WithoutCancel(c.values) // its publisher may be through
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	defer context.AfterFunc(t.relay.life, cancel)()
	return c.do(ctx)
}

// mayPass reports whether a failure is one that the same call may not have later.
func mayPass(err error) bool {
	return !errors.Is(err, bus.ErrClosed) &&
		(errors.Is(err, bus.ErrUnknownOutcome) || errors.Is(err, bus.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded))
}

// copyOf is how the new bus is given a message.
func (t *Tee) copyOf(ctx context.Context, subject string, data []byte, o bus.PublishOptions, cursor bus.Cursor, size int64) *copied {
	data = bytes.Clone(data) // it is the caller's again
	var opts []bus.PublishOption
	for key, values := range o.Header {
		opts = append(opts, bus.WithHeader(key, values...))
	}
	id := o.MessageID
	if id == "" && !cursor.IsZero() {
		id = "tee." + cursor.String()
	}
	if id != "" {
		opts = append(opts, bus.MessageID(id))
	}
	return &copied{
		what: fmt.Sprintf("publish %q", subject), subject: subject, cursor: cursor, size: size, values: ctx, again: id != "",
		do: func(ctx context.Context) error { return t.new.Publish(ctx, subject, data, opts...) },
	}
}

func messageSize(subject string, header bus.Header, data []byte) int64 {
	n := len(subject) + len(data)
	for key, values := range header {
		n += len(key)
		for _, v := range values {
			n += len(v)
		}
	}
	return int64(n)
}
