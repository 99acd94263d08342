package natsbus

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus/driver"
)

// The consumer of a tail lives on one server of a cluster, and with it or with the connections between them it ends. A
// new one is made by the leader of the cluster, who may have to be elected at first. Until then the tail reads
// what the stream holds, from whichever replica is near.
const (
	readOnEvery = 100 * time.Millisecond
	readOnBatch = 512
	readOnBytes = 256 << 10
	// quiet is how long a consumer may say nothing before the tail looks for itself, and quietBehind where something is
	// known to be stored that it hasn't given. As long as it gives anything nothing is read twice.
	quiet       = heartbeat + heartbeat/2
	quietBehind = heartbeat / 2
)

// readOn gives the sink what the stream holds behind what was delivered. Errors are for the next time.
func (t *tail) readOn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastQuestion)
	defer cancel()
	for {
		t.mu.Lock()
		after := t.after
		t.mu.Unlock()
		request := getRequest{Seq: after + 1, Next: ">", Batch: readOnBatch, MaxBytes: readOnBytes}
		known := t.b.knownOf(t.stream.Config.Name).Load()
		r, err := t.b.getThrough(ctx, t.stream.Config.Name, request, known)
		if err != nil {
			return
		}
		if len(r.messages) == 0 {
			t.mu.Lock()
			t.looked = max(t.looked, known) // nothing is there up to it
			t.mu.Unlock()
			return
		}
		// What was read may be another life's.
		if t.b.sameEpoch(ctx, t.stream) != nil {
			return
		}
		stamp(r.messages, t.stream.Epoch)
		t.mu.Lock()
		for _, m := range r.messages {
			if seq := m.Cursor.Sequence(); seq > t.after && ctx.Err() == nil {
				t.after, t.at = seq, m.Time.UnixNano()
				t.b.reached(t.stream.Config.Name, seq)
				t.sink.Deliver(driver.Entry{Prev: seq - 1, Message: m})
			}
		}
		t.mu.Unlock()
		if r.pending == 0 {
			return
		}
	}
}

// anew makes another consumer, and reads on meanwhile.
func (t *tail) anew(ctx context.Context) error {
	name := t.removeHere()
	if !t.b.elects {
		t.removeThere(name)
		return t.start(ctx)
	}
	t.removing.Go(func() { t.removeThere(name) }) // whoever is asked for it may be gone
	made := make(chan error, 1)
	go func() { made <- t.start(ctx) }()
	tick := time.NewTicker(readOnEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-made:
			return err
		case <-tick.C:
			t.readOn(ctx)
		}
	}
}

// start makes a consumer behind what was delivered. In a cluster the server on which it is to stand may be without its store since a moment:
// if there is no answer another one is asked for, which may stand elsewhere.
func (t *tail) start(ctx context.Context) error {
	b := t.b
	ctx, cancel := b.inTime(ctx)
	defer cancel()
	var said error // what was said last, apart from nothing
	sent := false
	for wait := firstConsumer; ; wait = min(2*wait, slowQuestion) {
		err := t.begin(ctx, wait)
		if !b.elects || err == nil {
			return err
		}
		sent = sent || errors.Is(err, errNoAnswer) && !errors.Is(err, nats.ErrNoResponders)
		if b.again(err) {
			b.trouble.Store(&err)
		}
		if ctx.Err() == nil || said == nil {
			said = err
		}
		again := b.again(err) || sent && errors.Is(err, errInterrupted)
		if !again || !sleep(ctx, electionPause) {
			return said
		}
	}
}

// lags reports whether the consumer is silent for longer than one that has nothing to give, or gives nothing although
// something is known to be stored: the replica that it stands on may not have it.
func (t *tail) lags() bool {
	known := t.b.knownOf(t.stream.Config.Name).Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.heard) > quiet || time.Since(t.given) > quietBehind && known > max(t.after, t.looked)
}

// knownOf is a sequence that a stream has stored, at least.
func (b *backend) knownOf(stream string) *atomic.Uint64 {
	known, _ := b.known.LoadOrStore(stream, new(atomic.Uint64))
	return known.(*atomic.Uint64)
}
