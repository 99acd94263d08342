package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/internal/share"
)

// askTimeout bounds questions to the backend that several callers share.
const askTimeout = 10 * time.Second

// newTries is how often New asks a backend that doesn't answer in time.
const newTries = 3

// Bus is a backend made into a bus.Bus.
type Bus struct {
	backend  Backend
	gate     func(pattern string, release func()) (ready, leave func())
	sole     bool
	volatile bool
	log      *slog.Logger
	hooks    *hookQueue
	limits   Limits
	traces   bus.Propagator // nil: not carried
	metrics  bus.Metrics    // nil: nobody is told
	crew     crew

	table   atomic.Pointer[table]
	acked   atomic.Pointer[map[life]*atomic.Uint64] // the last own acknowledgement; replaced under mu
	calls   atomic.Int64                            // running calls from outside handlers
	closing atomic.Bool                             // set under mu
	async   async
	refresh share.Call[*table]
	stale   atomic.Bool   // what captures what may have changed since install began the last time
	sending sync.RWMutex  // read: a Send; write: EnsureStreams changes what is captured
	ensure  chan struct{} // holds one token: one EnsureStreams at a time

	mu        sync.Mutex
	subs      set[*subscription] // an ended one until its handler has returned
	feeds     map[string]*feed
	listeners map[listenKey]*listener
	groups    map[groupKey]*group
	moving    bool            // an own EnsureStreams is changing what captures what
	moved     []*subscription // whose pattern it concerns
	settled   chan struct{}   // closed when it is through
	reported  map[string]bool // where messages broke the grammar, which is told once
	idle      chan struct{}   // not nil while Close waits for calls to be 0
	over      bool            // feeds are being ended: none is begun any more
	ending    sync.WaitGroup  // what Close waits for: feeds that are being stopped or begun, questions to the backend

	outside    context.Context // ends when blocked calls from outside handlers are to end
	endOutside context.CancelCauseFunc
	life       context.Context // ends when nothing is to be delivered any more
	endLife    context.CancelCauseFunc
	closed     chan struct{} // closed when Close is through
	closeErr   error
}

// New makes a bus of a backend, which belongs to it from then on, also when New fails.
func New(ctx context.Context, backend Backend, cfg Config) (*Bus, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	b := &Bus{
		backend:   backend,
		gate:      cfg.Gate,
		sole:      cfg.Sole,
		volatile:  cfg.Volatile,
		log:       cfg.Logger,
		hooks:     newHookQueue(cfg.ErrorHook, cfg.Logger),
		limits:    backend.Limits(),
		traces:    cfg.Propagator,
		metrics:   cfg.Metrics,
		ensure:    make(chan struct{}, 1),
		feeds:     map[string]*feed{},
		listeners: map[listenKey]*listener{},
		groups:    map[groupKey]*group{},
		reported:  map[string]bool{},
		closed:    make(chan struct{}),
	}
	b.life, b.endLife = context.WithCancelCause(context.Background())
	b.outside, b.endOutside = context.WithCancelCause(b.life)
	b.refresh.Ask = b.install
	b.table.Store(newTable(nil, nil))
	b.acked.Store(&map[life]*atomic.Uint64{})
	for try := 1; ; try++ {
		_, err := b.refresh.Get(ctx)
		switch {
		case err == nil:
			return b, nil
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && try < newTries: // servers may be choosing a leader
		default:
			b.endLife(err)
			return nil, errors.Join(err, backend.Close())
		}
	}
}

// Changed is called by the backend when what captures what may have changed elsewhere. It doesn't wait.
func (b *Bus) Changed() {
	if b.stale.Swap(true) {
		return // the next install looks, and says what keeps it from it
	}
	go func() {
		if _, err := b.refresh.Get(b.life); err != nil && b.life.Err() == nil {
			b.log.Warn("bus: can't learn what the streams capture", "error", err)
		}
	}()
}

// Report tells the error hook of the bus. It doesn't wait.
func (b *Bus) Report(p bus.Problem) { b.hooks.report(p) }

// firstReport reports whether something is to be told about a source of messages for the first time.
func (b *Bus) firstReport(source string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.reported[source]
	b.reported[source] = true
	return first
}

// insideKey marks the contexts of a bus's handlers.
type insideKey struct{ *Bus }

// inside reports whether ctx is that of a handler of this bus.
func (b *Bus) inside(ctx context.Context) bool { return ctx.Value(insideKey{b}) != nil }

// enter lets a call in, unless the bus is closing; from inside a handler it may still.
// Each success is followed by leave.
func (b *Bus) enter(ctx context.Context) (counted bool, err error) {
	b.calls.Add(1) // before it looks: Close looks after it has said that it closes
	if !b.closing.Load() {
		return true, nil
	}
	b.leave(true)
	if b.inside(ctx) && b.life.Err() == nil {
		return false, nil
	}
	return false, bus.ErrClosed
}

func (b *Bus) leave(counted bool) {
	if !counted || b.calls.Add(-1) > 0 || !b.closing.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle != nil && b.calls.Load() == 0 {
		close(b.idle)
		b.idle = nil
	}
}

// cause is the error of a call whose context may have ended because the bus closed.
func cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), bus.ErrClosed) && !errors.Is(err, bus.ErrClosed) {
		return bus.ErrClosed
	}
	return err
}

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if b.metrics == nil {
		return wrapPublish(subject, b.publish(ctx, subject, data, opts))
	}
	began := time.Now()
	err := wrapPublish(subject, b.publish(ctx, subject, data, opts))
	b.measurePublish(subject, len(data), began, err)
	return err
}

// measurePublish tells how a publish went that began at a time.
func (b *Bus) measurePublish(subject string, bytes int, began time.Time, err error) {
	stream := ""
	if s, captured := b.table.Load().captures(subject); captured {
		stream = s.Config.Name
	}
	b.metrics.Published(stream, bytes, time.Since(began), err)
}

func wrapPublish(subject string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("bus: publish %.80q: %w", subject, err)
}

func (b *Bus) publish(ctx context.Context, subject string, data []byte, opts []bus.PublishOption) error {
	counted, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer b.leave(counted)
	p, o, err := b.publication(ctx, subject, data, opts)
	if err != nil {
		return err
	}
	return b.dispatch(ctx, &p, &o)
}

// publication is a message that can be published, as far as that doesn't depend on a stream.
func (b *Bus) publication(ctx context.Context, subject string, data []byte, opts []bus.PublishOption) (p Publication, o bus.PublishOptions, err error) {
	if err := ctx.Err(); err != nil {
		return p, o, err
	}
	o = bus.NewPublishOptions(opts)
	if b.traces != nil {
		if o.Header == nil {
			o.Header = bus.Header{}
		}
		b.traces.Inject(ctx, o.Header)
		if len(o.Header) == 0 {
			o.Header = nil
		}
	}
	p = Publication{Subject: subject, Header: o.Header, Data: data, ID: o.MessageID}
	return p, o, b.wellFormed(&p)
}

// wellFormed checks what doesn't depend on a stream.
func (b *Bus) wellFormed(p *Publication) error {
	if err := bus.CheckSubject(p.Subject); err != nil {
		return err
	}
	if err := checkHeader(p.Header); err != nil {
		return err
	}
	if !isHeaderValue(p.ID) {
		return fmt.Errorf("%w: the message ID holds CR, LF, NUL or outer white space", bus.ErrBadHeader)
	}
	if size := len(p.Data) + HeaderSize(p.Header); size > b.limits.MaxPayload {
		return fmt.Errorf("%w (%d bytes with its header, limit %d)", bus.ErrTooLarge, size, b.limits.MaxPayload)
	}
	return nil
}

// fits checks that a stream's bytes limit could hold p.
func (b *Bus) fits(s Stream, p *Publication) error {
	if limit := s.Config.MaxBytes; limit > 0 {
		if size := b.limits.StoredSize(p.Subject, p.Header, p.Data); size > limit {
			return fmt.Errorf("%w (stored it takes %d bytes, stream %s holds %d)", bus.ErrTooLarge, size, s.Config.Name, limit)
		}
	}
	return nil
}

// dispatch hands p to its stream or to the transport, looking again at what captures it where that may have changed.
func (b *Bus) dispatch(ctx context.Context, p *Publication, o *bus.PublishOptions) error {
	needsStream := o.MessageID != "" || o.Expect || o.Receipt != nil
	t := b.table.Load()
	for attempt := 0; ; attempt++ {
		var err error
		if t, err = b.routed(ctx, t, p.Subject); err != nil {
			return err
		}
		s, captured := t.captures(p.Subject)
		if captured {
			err := b.append(ctx, s, p, o)
			if !errors.Is(err, ErrNotCaptured) {
				return err
			}
			if attempt == 3 {
				return fmt.Errorf("%w: stream %s does not take it", bus.ErrUnavailable, s.Config.Name)
			}
		} else if !needsStream {
			sent, err := b.send(ctx, p)
			if sent || err != nil {
				return err
			}
		} else if attempt > 0 {
			return bus.ErrNoStream
		}
		if t, err = b.lookAgain(ctx); err != nil {
			return err
		}
	}
}

// lookAgain renews the table.
func (b *Bus) lookAgain(ctx context.Context) (*table, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	t, err := b.refresh.Get(ctx)
	return t, cause(ctx, err)
}

// send hands p to the transport, unless an EnsureStreams has made its subject a captured one meanwhile.
func (b *Bus) send(ctx context.Context, p *Publication) (sent bool, err error) {
	for !b.sending.TryRLock() {
		b.mu.Lock()
		settled := b.settled
		b.mu.Unlock()
		if settled == nil {
			runtime.Gosched() // it is just beginning or just over
			continue
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return false, ctx.Err()
		case <-b.life.Done():
			return false, bus.ErrClosed
		}
	}
	defer b.sending.RUnlock()
	if _, captured := b.table.Load().captures(p.Subject); captured {
		return false, nil
	}
	return true, b.backend.Send(ctx, p)
}

func (b *Bus) append(ctx context.Context, s Stream, p *Publication, o *bus.PublishOptions) error {
	if err := b.expect(s, p, o); err != nil {
		return err
	}
	ack, err := b.backend.Append(ctx, s, p)
	if err != nil {
		return err
	}
	b.acknowledged(s, ack, o)
	return nil
}

// expect says in the words of a backend what is expected of a stream, unless p is too large for it.
func (b *Bus) expect(s Stream, p *Publication, o *bus.PublishOptions) error {
	if err := b.fits(s, p); err != nil {
		return err
	}
	if o.Expect {
		p.Expect, p.ExpectLast = true, o.ExpectLast.Sequence()
		if !o.ExpectLast.IsZero() && o.ExpectLast.Epoch() != s.Epoch {
			// No message stands there: an ID is still looked at first, then it is a conflict.
			p.ExpectLast = math.MaxInt64
		}
	}
	return nil
}

// acknowledged keeps where a message was stored.
func (b *Bus) acknowledged(s Stream, ack Ack, o *bus.PublishOptions) {
	if ack.Stream != nil {
		s = *ack.Stream
		b.Changed()
	}
	if ack.Sequence > 0 {
		raise(b.ackedOf(s), ack.Sequence)
	}
	if o.Receipt != nil {
		*o.Receipt = bus.Receipt{Duplicate: ack.Duplicate}
		if ack.Sequence > 0 {
			o.Receipt.Cursor = bus.NewCursor(s.Epoch, ack.Sequence)
		}
	}
}

// life is one life of a stream, by name and epoch.
type life struct{ stream, epoch string }

// ackedOf is the last sequence of s that this bus knows to be stored.
func (b *Bus) ackedOf(s Stream) *atomic.Uint64 {
	key := life{s.Config.Name, s.Epoch}
	if a := (*b.acked.Load())[key]; a != nil {
		return a
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	known := *b.acked.Load()
	if known[key] == nil {
		more := maps.Clone(known)
		more[key] = new(atomic.Uint64)
		b.acked.Store(&more)
		known = more
	}
	return known[key]
}

func raise(a *atomic.Uint64, to uint64) {
	for {
		old := a.Load()
		if old >= to || a.CompareAndSwap(old, to) {
			return
		}
	}
}
