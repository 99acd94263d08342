package bustest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest"
)

// A bus from scratch: a channel for each subscription, in place of package driver. It has no
// streams, headers or groups, claims nothing, and says so to whoever asks for one.
func ExampleExamine_fromScratch() {
	report := bustest.Examine(context.Background(), bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) {
			return &channels{options: bus.NewOpenOptions(e.Options), members: map[*member]bool{}, closing: make(chan struct{})}, nil
		},
	})
	fmt.Println("failures:", report.Err())
	for _, name := range []string{"Fence", "NoStreams", "Receipt"} {
		r, _ := report.Result(name)
		fmt.Printf("%s: %s\n", name, r.Status)
	}
	// Output:
	// failures: <nil>
	// Fence: passed
	// NoStreams: passed
	// Receipt: not claimed
}

type channels struct {
	options bus.OpenOptions
	mu      sync.RWMutex // read: a publish
	members map[*member]bool
	closing chan struct{} // closed when Close is called
	closed  bool          // Close was called
	over    bool          // it waits for nobody any more
}

// member is a subscription.
type member struct {
	bus.SubscribeOptions
	b        *channels
	pattern  string
	handler  bus.Handler
	messages chan *bus.Message
	bytes    atomic.Int64 // of the data in messages
	room     sync.Mutex   // one publisher at a time makes room
	ctx      context.Context
	cancel   context.CancelCauseFunc
	done     chan struct{}
	dropped  atomic.Uint64
	told     uint64 // of dropped
}

// refusal says why a call can't be served. Handlers may publish while Close waits for them.
func (b *channels) refusal(ctx context.Context, subject string, check func(string) error) error {
	if b.over || b.closed && (!b.inside(ctx) || ctx.Err() != nil) {
		return bus.ErrClosed
	}
	return first(ctx.Err(), check(subject))
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *channels) inside(ctx context.Context) bool { return ctx.Value(b) != nil }

func (b *channels) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	err := b.refusal(ctx, subject, bus.CheckSubject)
	if o := bus.NewPublishOptions(opts); err == nil && (o.Header != nil || o.MessageID != "" || o.Expect || o.Receipt != nil) {
		err = fmt.Errorf("%w: headers and streams", bus.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("channels: publish %.80q: %w", subject, err)
	}
	m := &bus.Message{Subject: subject, Data: bytes.Clone(data)}
	m.Data = m.Data[:len(m.Data):len(m.Data)] // who appends to it copies it
	for s := range b.members {
		if !b.closed && bus.Match(s.pattern, subject) {
			s.send(m)
		}
	}
	return nil
}

// send queues m; where there is no room, the oldest message goes. One always fits.
func (s *member) send(m *bus.Message) {
	s.room.Lock()
	defer s.room.Unlock()
	size := int64(len(m.Data))
	for {
		waiting := s.bytes.Add(size) - size
		if waiting == 0 || waiting+size <= int64(s.MaxBytes) {
			select {
			case s.messages <- m:
				return
			default:
			}
		}
		s.bytes.Add(-size)
		select {
		case oldest := <-s.messages:
			s.bytes.Add(-int64(len(oldest.Data)))
			s.dropped.Add(1)
		default: // it is being taken
		}
	}
}

func (b *channels) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &member{SubscribeOptions: bus.NewSubscribeOptions(opts), b: b, pattern: pattern, handler: handler, done: make(chan struct{})}
	if s.Until == nil {
		s.Until = context.Background()
	}
	if s.MaxMsgs == 0 {
		s.MaxMsgs, s.MaxBytes = 1024, 1<<20
	}
	err := first(b.refusal(ctx, pattern, bus.CheckPattern), s.Until.Err())
	switch {
	case err != nil:
	case handler == nil || s.MaxMsgs < 0 || s.MaxBytes < 0 || s.Start.N < 0:
		err = errors.New("want a handler and no negative numbers")
	case s.Group != "" || s.Start != (bus.Start{}) && s.Start != (bus.Start{Kind: bus.StartLast}):
		err = fmt.Errorf("%w: groups and start positions", bus.ErrUnsupported)
	case b.closed:
		err = bus.ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("channels: subscribe %.80q: %w", pattern, err)
	}
	s.messages = make(chan *bus.Message, s.MaxMsgs)
	s.ctx, s.cancel = context.WithCancelCause(context.WithValue(s.Until, b, true))
	b.members[s] = true
	go s.run()
	return s, nil
}

func (s *member) run() {
	over := false
	defer func() {
		if !over {
			go s.run() // a handler has ended its goroutine, not its subscription
			return
		}
		s.b.mu.Lock()
		delete(s.b.members, s)
		s.b.mu.Unlock()
		close(s.done)
	}()
	for s.ctx.Err() == nil {
		select {
		case <-s.ctx.Done():
		case m, more := <-s.messages:
			if !more {
				s.cancel(bus.ErrClosed)
				break
			}
			s.bytes.Add(-int64(len(m.Data)))
			if s.ctx.Err() == nil {
				s.call(m)
			}
		}
	}
	over = true
}

func (s *member) call(m *bus.Message) {
	returned := false
	defer func() {
		if r := recover(); !returned {
			s.report(bus.Problem{Err: fmt.Errorf("%w: %v", bus.ErrPanic, r), Subject: m.Subject, Stack: debug.Stack()})
		}
	}()
	if n := s.dropped.Load() - s.told; n > 0 {
		s.told += n
		s.report(bus.Problem{Err: &bus.SlowError{Dropped: n}})
	}
	err := s.handler(s.ctx, m)
	returned = true
	if err != nil {
		s.report(bus.Problem{Err: err, Subject: m.Subject})
	}
}

// report tells the subscription's hook in turn, or else that of the bus, which may be slow.
func (s *member) report(p bus.Problem) {
	p.Pattern = s.pattern
	tell := func(hook bus.ErrorHook) {
		defer func() { _ = recover() }() // a hook that panics harms nobody
		hook(p)
	}
	if s.ErrorHook != nil {
		tell(s.ErrorHook)
	} else if s.b.options.ErrorHook != nil {
		go tell(s.b.options.ErrorHook)
	}
}

var errUnsubscribed = errors.New("unsubscribed")

func (s *member) Unsubscribe(ctx context.Context) error {
	s.cancel(errUnsubscribed)
	if s.b.inside(ctx) {
		return nil
	}
	err := s.wait(ctx, s.b.closing)
	if err != nil {
		err = fmt.Errorf("channels: unsubscribe %.80q: the handler is running: %w", s.pattern, err)
	}
	return err
}

func (s *member) wait(ctx context.Context, closing <-chan struct{}) error {
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closing:
	}
	select {
	case <-s.done:
		return nil
	default:
		return bus.ErrClosed
	}
}

func (s *member) Err() error {
	if err := context.Cause(s.ctx); err != errUnsubscribed {
		return err
	}
	return nil
}

func (s *member) CaughtUp() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}
func (s *member) Done() <-chan struct{} { return s.done }
func (s *member) Dropped() uint64       { return s.dropped.Load() }

func (b *channels) EnsureStreams(ctx context.Context, _ ...bus.StreamConfig) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	err := first(b.refusal(ctx, "", func(string) error { return nil }), bus.ErrUnsupported)
	return fmt.Errorf("channels: ensure streams: %w", err)
}

func (b *channels) Close(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
	}
	b.mu.Lock()
	var last []*member
	for s := range b.members {
		if last = append(last, s); !b.closed {
			close(s.messages) // what is in it is still handed over
		}
	}
	if !b.closed {
		close(b.closing)
	}
	b.closed = true
	b.mu.Unlock()
	if b.inside(ctx) {
		return nil
	}
	for _, s := range last {
		_ = s.wait(ctx, nil) // asked again below
	}
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
	var late []string
	for _, s := range last {
		s.cancel(bus.ErrClosed)
		grace, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if s.wait(grace, nil) != nil {
			late = append(late, s.pattern)
		}
		cancel()
	}
	if late != nil {
		return fmt.Errorf("channels: close: %w: %q", bus.ErrHandlersRunning, late)
	}
	return nil
}
