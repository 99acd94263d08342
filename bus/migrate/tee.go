package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// TeeConfig says how much a Tee gives to its new bus. The zero value is a good one.
type TeeConfig struct {
	// OnError is told what the new bus didn't take: Problem.Subject and Problem.Cursor are those of the old
	// one's message. It runs on a goroutine of its own. nil: it is logged to slog.Default().
	OnError bus.ErrorHook

	// MaxMsgs and MaxBytes bound what waits for the new bus, in memory: 4,096 messages and 16 MiB if zero. A
	// message that finds no room isn't written there.
	MaxMsgs  int
	MaxBytes int64

	// Wait is how long a Publish waits for room while the new bus is slower than the old one: 1 s if
	// zero, not at all if negative. While calls of the new bus fail nobody waits.
	Wait time.Duration

	// Timeout bounds each call of the new bus, after which it counts as failing, and what Close waits for it:
	// 5 s if zero.
	Timeout time.Duration
}

// TeeStats counts what became of the messages that the old bus has accepted.
type TeeStats struct {
	Written uint64 // accepted by the new bus, too
	Lost    uint64 // not written to the new bus, or with unknown outcome: told to OnError
	Waiting uint64 // for the new bus
}

// Tee is a bus that writes to two and reads the old one. What it returns is the old one's; what goes wrong at
// the new one is told to the hook and counted, and harms nobody. It is safe for concurrent use.
//
// Publish returns when the old bus has accepted the message. It is then written to the new one from a bounded
// queue: in the old stream's order (on uncaptured subjects in each publisher's), and again and again while the new
// bus is unavailable, under a message ID, so that it is stored once. Streams and their removal take the same
// way. Whatever the new bus does, a Publish takes at most TeeConfig.Wait longer than the old one's.
//
// Options are the old bus' decision, and the new one repeats it:
//
//   - headers go to both, and so does the trace of the publisher's context;
//   - a message ID goes to both, and also a duplicate does, so that the new bus gets what it has missed;
//   - an expected cursor is compared by the old bus alone: a conflict reaches nobody, what it accepts is
//     written to the new one without the condition. Cursors mean nothing on another bus;
//   - a receipt holds the old bus' cursor;
//   - start positions and groups, also durable ones, are those of the old bus. The new one has no groups until
//     somebody subscribes to it.
//
// What the old bus refuses isn't written to the new one, nor is what it answers with bus.ErrUnknownOutcome, unless
// the caller publishes it again. Streams that are created at the old bus behind the Tee's back don't exist at
// the new one, whose failures tell so.
//
// A Tee begins with what is published from now on; what is stored already is a [Bridge]'s. One stream is
// written by one of them: a Bridge refuses a stream that others write to.
type Tee struct {
	old, new bus.Bus
	timeout  time.Duration
	wait     time.Duration
	relay    *relay
	problems *problems
	captured atomic.Pointer[[]string] // patterns that streams of the old bus capture

	closing atomic.Bool
	closed  chan struct{}
}

var _ interface {
	bus.Bus
	bus.StreamLister
	bus.Remover
	bus.HealthChecker
} = (*Tee)(nil)

const (
	closeTimeout = 5 * time.Second
	// hookGrace is how long Close lets the hook take what it has been told last.
	hookGrace = 100 * time.Millisecond
	// renewTimeout bounds a look at the old bus' streams.
	renewTimeout = time.Second
)

// NewTee returns a bus that writes to old and new, and reads old. It asks old for its streams, if it can list
// them, within ctx. The buses are the Tee's from then on: use them by it, and Close closes both.
func NewTee(ctx context.Context, old, new bus.Bus, cfg TeeConfig) (*Tee, error) {
	t := &Tee{old: old, new: new, timeout: cfg.Timeout, wait: cfg.Wait, problems: newProblems(cfg.OnError), closed: make(chan struct{})}
	if t.timeout <= 0 {
		t.timeout = 5 * time.Second
	}
	if t.wait == 0 {
		t.wait = time.Second
	}
	msgs, bytes := cfg.MaxMsgs, cfg.MaxBytes
	if msgs <= 0 {
		msgs = 4096
	}
	if bytes <= 0 {
		bytes = 16 << 20
	}
	t.captured.Store(&[]string{})
	if err := t.renew(ctx); err != nil && !errors.Is(err, bus.ErrUnsupported) {
		return nil, fmt.Errorf("migrate: tee: list the old bus' streams: %w", err)
	}
	t.relay = newRelay(msgs, bytes)
	go t.write()
	return t, nil
}

// Publish implements bus.Bus: the result is the old bus'.
func (t *Tee) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	o := bus.NewPublishOptions(opts)
	size := messageSize(subject, o.Header, data)
	room := t.relay.reserve(ctx, size, t.wait)
	ticket := t.relay.begin()
	receipt, err := t.publishOld(ctx, subject, data, opts, o)
	switch {
	case err != nil:
		t.relay.end(ticket, nil)
		if room {
			t.relay.free(size)
		}
	case !room:
		t.relay.end(ticket, nil)
		t.relay.lose(1)
		t.problems.full(subject, receipt.Cursor)
	default:
		if !t.relay.end(ticket, t.copyOf(ctx, subject, data, o, receipt.Cursor, size)) {
			t.relay.lose(1)
			t.problems.report(bus.Problem{Subject: subject, Cursor: receipt.Cursor,
				Err: fmt.Errorf("migrate: tee: publish %q at the new bus: %w", subject, bus.ErrClosed)})
		}
	}
	return err
}

// publishOld publishes to the old bus and learns where it stands there.
func (t *Tee) publishOld(ctx context.Context, subject string, data []byte, opts []bus.PublishOption, o bus.PublishOptions) (bus.Receipt, error) {
	var receipt bus.Receipt
	stored := o.Receipt != nil || o.MessageID != "" || o.Expect
	if !stored && !t.isCaptured(subject) {
		return receipt, t.old.Publish(ctx, subject, data, opts...)
	}
	err := t.old.Publish(ctx, subject, data, append(opts[:len(opts):len(opts)], bus.WithReceipt(&receipt))...)
	if !stored && errors.Is(err, bus.ErrNoStream) {
		// The stream is gone, and nothing was published. The caller has asked for nothing that needs one.
		receipt = bus.Receipt{}
		err = t.old.Publish(ctx, subject, data, opts...)
	}
	if err == nil && o.Receipt != nil {
		*o.Receipt = receipt
	}
	return receipt, err
}

// Subscribe implements bus.Bus: it reads the old bus.
func (t *Tee) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	if handler == nil {
		return t.old.Subscribe(ctx, pattern, nil, opts...)
	}
	return t.old.Subscribe(ctx, pattern, func(ctx context.Context, m *bus.Message) error {
		return handler(context.WithValue(ctx, insideKey{}, t), m)
	}, opts...)
}

// insideKey marks the contexts of handlers with their Tee.
type insideKey struct{}

// EnsureStreams implements bus.Bus: the result is the old bus', and the new one follows.
func (t *Tee) EnsureStreams(ctx context.Context, streams ...bus.StreamConfig) error {
	err := t.old.EnsureStreams(ctx, streams...)
	if err != nil {
		return err
	}
	known := append([]string{}, *t.captured.Load()...)
	for _, s := range streams {
		known = append(known, s.Subjects...)
	}
	t.captured.Store(&known)
	streams = slices.Clone(streams)
	for i := range streams {
		streams[i].Subjects = slices.Clone(streams[i].Subjects)
	}
	t.relay.put(&copied{what: "ensure streams", again: true, do: func(ctx context.Context) error {
		return t.new.EnsureStreams(ctx, streams...)
	}})
	t.renewOrTell(ctx)
	return nil
}

// Streams implements bus.StreamLister: the old bus' streams.
func (t *Tee) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	if lister, ok := t.old.(bus.StreamLister); ok {
		return lister.Streams(ctx)
	}
	return nil, fmt.Errorf("migrate: tee: the old bus can't list its streams: %w", bus.ErrUnsupported)
}

// RemoveStream implements bus.Remover, at both.
func (t *Tee) RemoveStream(ctx context.Context, name string) error {
	return t.remove(ctx, "remove stream "+name, func(ctx context.Context, r bus.Remover) error { return r.RemoveStream(ctx, name) })
}

// RemoveGroup implements bus.Remover, at both.
func (t *Tee) RemoveGroup(ctx context.Context, name string) error {
	return t.remove(ctx, "remove group "+name, func(ctx context.Context, r bus.Remover) error { return r.RemoveGroup(ctx, name) })
}

func (t *Tee) remove(ctx context.Context, what string, do func(context.Context, bus.Remover) error) error {
	remover, ok := t.old.(bus.Remover)
	if !ok {
		return fmt.Errorf("migrate: tee: %s: the old bus can't: %w", what, bus.ErrUnsupported)
	}
	if err := do(ctx, remover); err != nil {
		return err
	}
	t.relay.put(&copied{what: what, again: true, do: func(ctx context.Context) error {
		if remover, ok := t.new.(bus.Remover); ok {
			return do(ctx, remover)
		}
		return bus.ErrUnsupported
	}})
	t.renewOrTell(ctx)
	return nil
}

// Health implements bus.HealthChecker: the old bus', if it is one.
func (t *Tee) Health(ctx context.Context) error {
	if checker, ok := t.old.(bus.HealthChecker); ok {
		return checker.Health(ctx)
	}
	if t.closing.Load() {
		return fmt.Errorf("migrate: tee: health: %w", bus.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("migrate: tee: health: %w", err)
	}
	return nil
}

// Stats returns the counts so far.
func (t *Tee) Stats() TeeStats { return t.relay.stats() }

// Flush waits until the new bus has been given everything that was published before, or ctx is done. It doesn't
// tell whether the new bus has taken it: Stats does.
func (t *Tee) Flush(ctx context.Context) error {
	done := make(chan struct{})
	if !t.relay.whenEmpty(done) {
		return fmt.Errorf("migrate: tee: flush: %w", bus.ErrClosed)
	}
	select {
	case <-done:
		return nil
	case <-t.relay.done:
		return fmt.Errorf("migrate: tee: flush: %w", bus.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("migrate: tee: flush: %w", context.Cause(ctx))
	}
}

// Close implements bus.Bus. It closes the old bus, whose error it returns, gives what waits to the new one (until ctx
// ends, at most for TeeConfig.Timeout), tells the hook what is left, and closes the new one.
func (t *Tee) Close(ctx context.Context) error {
	if ctx.Value(insideKey{}) == t {
		err := t.old.Close(ctx) // doesn't wait either
		if !t.closing.Swap(true) {
			bounded, cancel := bound(context.WithoutCancel(ctx), ctx)
			go func() {
				defer cancel()
				// A context of no handler, so that it waits for the end.
				_ = t.old.Close(detached{bounded}) // its result is that of the call above
				t.shutDown(bounded)
			}()
		}
		return err
	}
	err := t.old.Close(ctx)
	if !t.closing.Swap(true) {
		bounded, cancel := bound(ctx, ctx)
		defer cancel()
		t.shutDown(bounded)
	}
	select {
	case <-t.closed:
	case <-ctx.Done():
		select {
		case <-t.closed:
		default:
			if err == nil {
				err = fmt.Errorf("migrate: tee: close: %w", context.Cause(ctx))
			}
		}
	}
	return err
}

// detached is a context without values: with the deadline, but inside no handler and without a trace.
type detached struct{ context.Context }

func (detached) Value(any) any { return nil }

// bound gives base the deadline of ctx, or that of Close.
func bound(base, ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(base, deadline)
	}
	return context.WithTimeout(base, closeTimeout)
}

// shutDown ends what belongs to the new bus.
func (t *Tee) shutDown(ctx context.Context) {
	defer close(t.closed)
	give, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	if left := t.relay.close(give); left > 0 {
		t.problems.report(bus.Problem{Err: fmt.Errorf("migrate: tee: close: %d messages were not written to the new bus in time", left)})
	}
	if err := t.new.Close(detached{ctx}); err != nil {
		t.problems.report(bus.Problem{Err: fmt.Errorf("migrate: tee: close the new bus: %w", err)})
	}
	told, cancelTold := context.WithTimeout(context.WithoutCancel(ctx), hookGrace)
	defer cancelTold()
	t.problems.wait(told)
}

// renew learns what the old bus' streams capture.
func (t *Tee) renew(ctx context.Context) error {
	streams, err := t.Streams(ctx)
	if err != nil {
		return err
	}
	patterns := []string{}
	for _, s := range streams {
		patterns = append(patterns, s.Config.Subjects...)
	}
	t.captured.Store(&patterns)
	return nil
}

// renewOrTell is renew where there is no error to return: what has changed is done.
func (t *Tee) renewOrTell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if err := t.renew(ctx); err != nil && !errors.Is(err, bus.ErrUnsupported) {
		t.problems.report(bus.Problem{Err: fmt.Errorf("migrate: tee: list the old bus' streams: %w", err)})
	}
}

func (t *Tee) isCaptured(subject string) bool {
	for _, pattern := range *t.captured.Load() {
		if bus.Match(pattern, subject) {
			return true
		}
	}
	return false
}
