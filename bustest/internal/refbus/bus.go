// Package refbus is the bus that bustest tests itself with: small, in memory (or in one
// log file), and correct, unless Config.Bug names a way in which it isn't.
//
// A subscription is a position in each stream that it touches, and a queue for the rest.
// Everything is behind one mutex.
package refbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Config says what kind of bus Open returns. The oddities conform to the contract.
type Config struct {
	Dir        string // holds the log of a durable bus; empty: in memory
	Addr       string // of a Link; empty: it has no server
	Bug        string // the one thing that is broken
	MaxPayload int    // bytes of data; 0: no limit

	Tick  time.Duration // odd: live messages are handed over together
	Gaps  bool          // odd: sequences skip numbers
	Delay bool          // odd: some deliveries take a while
	Yield bool          // odd: every step lets others go first
	Wrap  bool          // odd: errors are wrapped three deep

	Several bool // those that are open on one Dir are one system, as processes on one server

	NoHeaders, NoStreams, NoGroups, NoDurableGroups bool // what it lacks
}

const (
	defaultMsgs, defaultBytes = 1024, 1 << 20
	defaultDuplicates         = 30 * time.Second
)

// Bus is the reference bus.
type Bus struct {
	cfg  Config
	o    bus.OpenOptions
	hook chan bus.Problem
	done chan struct{} // closed when Close is done
	ends chan struct{} // closed when Close begins

	fan    sync.Mutex     // of the bug serialFanout
	racy   map[string]int // of the bug racyMap
	leaked []any          //  of bugs that keep what has ended

	mu       sync.Mutex
	streams  []*stream
	subs     []*subscription
	closing  bool
	closed   bool
	closeErr error
	waiting  map[*subscription]struct{} // for the tick
	groups   map[string]*group          // durable ones
	kept     map[string]*place          // of the bug groupRemembers
	created  int                        // subscriptions
	log      *log
	locked   net.Listener
	link     *Link // nil: there is no server
}

// Open opens a bus.
func Open(cfg Config, opts ...bus.OpenOption) (bus.Bus, error) {
	if cfg.Several {
		return openProcess(cfg, opts)
	}
	b, err := openBus(cfg, opts)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func openBus(cfg Config, opts []bus.OpenOption) (*Bus, error) {
	b := &Bus{
		cfg: cfg, o: bus.NewOpenOptions(opts), done: make(chan struct{}), hook: make(chan bus.Problem, 1024),
		ends: make(chan struct{}), racy: map[string]int{},
		groups: map[string]*group{}, kept: map[string]*place{}, waiting: map[*subscription]struct{}{},
	}
	if cfg.Dir != "" {
		if err := b.load(); err != nil {
			return nil, fmt.Errorf("refbus: open %s: %w", cfg.Dir, err)
		}
	}
	if err := b.attach(); err != nil {
		b.unload()
		return nil, err
	}
	go b.tellHook()
	return b, nil
}

// tellHook tells the hook of the bus, on a new goroutine when it has ended its own.
func (b *Bus) tellHook() {
	finished := false
	defer func() {
		if !finished && !b.bug("hookSilenced") {
			go b.tellHook()
		}
	}()
	for p := range b.hook {
		if b.bug("hookHoldsLock") {
			b.mu.Lock()
			tell(b.o.ErrorHook, p)
			b.mu.Unlock()
			continue
		}
		tell(b.o.ErrorHook, p)
		if b.bug("hookTwice") {
			tell(b.o.ErrorHook, p)
		}
	}
	finished = true
}

func (b *Bus) bug(name string) bool { return b.cfg.Bug == name }

// tell calls a hook, which may panic.
func tell(hook bus.ErrorHook, p bus.Problem) {
	defer func() { _ = recover() }() // a hook harms nobody
	if hook != nil {
		hook(p)
	}
}

// wrap names the operation and what it was about.
func (b *Bus) wrap(op, what string, err error, payload []byte) error {
	switch {
	case err == nil:
		return nil
	case b.bug("bareErr") && errors.Is(err, bus.ErrClosed):
		return fmt.Errorf("refbus: %s %q: %v", op, what, err)
	case b.bug("bareText"):
		return err
	case b.bug("payloadInErr"):
		return fmt.Errorf("refbus: %s %q (%s): %w", op, what, payload, err)
	}
	if b.cfg.Wrap {
		err = fmt.Errorf("it seems: %w", fmt.Errorf("odd: %w", err))
	}
	return fmt.Errorf("refbus: %s %q: %w", op, what, err)
}

type handlerKey struct{ b *Bus }

func (b *Bus) inHandler(ctx context.Context) bool { return ctx.Value(handlerKey{b}) != nil }

// refuse is what every call checks first. b.mu is held. Handlers go on until the end.
func (b *Bus) refuse(ctx context.Context) error {
	if b.closed || b.closing && (!b.inHandler(ctx) || b.bug("closeRefusesHandlers")) {
		return bus.ErrClosed
	}
	if b.bug("precancelOK") {
		return nil
	}
	return ctx.Err()
}

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	b.pause()
	o := bus.NewPublishOptions(opts)
	var late func()
	if b.link != nil {
		copied := o
		copied.Receipt = nil
		if b.bug("retryDoubles") {
			copied.MessageID = ""
		}
		data := bytes.Clone(data)
		late = func() { _ = b.publish(context.WithoutCancel(ctx), subject, data, copied) } // nobody waits for it any more
	}
	return b.wrap("publish", subject, b.over(ctx, late, func() error { return b.publish(ctx, subject, data, o) }), data)
}

func (b *Bus) publish(ctx context.Context, subject string, data []byte, o bus.PublishOptions) error {
	if b.bug("racyMap") {
		for range 5000 { // so that two meet
			b.racy[subject]++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refuse(ctx); err != nil && !(b.bug("pubAfterClose") && errors.Is(err, bus.ErrClosed)) {
		return err
	}
	if b.bug("closeSendsOnClosed") {
		b.mu.Unlock()
		_ = pauseUntil(ctx, 20*time.Millisecond) // so that Close comes in between, also on a busy machine
		b.mu.Lock()
		if b.closing {
			b.mu.Unlock()
			<-b.done
			b.mu.Lock()
		}
		if b.closed {
			panic("send on closed channel")
		}
	}
	if err := bus.CheckSubject(subject); err != nil {
		pattern := bus.CheckPattern(subject) == nil
		reserved := strings.HasPrefix(subject, "$") || strings.HasPrefix(subject, "_")
		switch {
		case pattern && b.bug("wildcardOK"), reserved && b.bug("reservedOK"), !pattern && !reserved && b.bug("noValidate"):
		default:
			return err
		}
	}
	tooLarge := b.cfg.MaxPayload > 0 && size(data, o.Header, !b.bug("headersUncounted")) > b.cfg.MaxPayload && !b.bug("bigOK")
	if tooLarge && b.bug("sizeFirst") {
		return bus.ErrTooLarge
	}
	if b.o.Propagator != nil && !b.bug("noTrace") && !b.cfg.NoHeaders {
		o.Header = o.Header.Clone()
		if o.Header == nil {
			o.Header = bus.Header{}
		}
		b.o.Propagator.Inject(ctx, o.Header)
	}
	if b.cfg.NoHeaders && o.Header != nil && !b.bug("headersIgnored") {
		return fmt.Errorf("headers are %w", bus.ErrUnsupported)
	}
	if err := checkHeader(o.Header); err != nil && !b.bug("badHeaderOK") {
		return err
	}
	if strings.ContainsAny(o.MessageID, "\r\n\x00") || strings.TrimSpace(o.MessageID) != o.MessageID {
		return fmt.Errorf("%w: the message ID", bus.ErrBadHeader)
	}
	if tooLarge {
		return fmt.Errorf("%w: %d bytes, limit %d", bus.ErrTooLarge, len(data), b.cfg.MaxPayload)
	}
	if b.bug("leakSubjects") {
		b.leaked = append(b.leaked, subject)
	}
	m := b.message(subject, data, o.Header)
	if st := b.capturing(subject); st != nil {
		return b.append(st, m, o)
	}
	if (o.MessageID != "" || o.Expect || o.Receipt != nil) && !b.bug("optionsIgnored") {
		return bus.ErrNoStream
	}
	if b.bug("slowNoStream") && len(b.streams) > 0 {
		b.mu.Unlock()
		_ = pauseUntil(ctx, 50*time.Millisecond) // as one that waits for a stream to answer
		b.mu.Lock()
	}
	return b.send(ctx, m)
}

// size is what a limit counts.
func size(data []byte, header bus.Header, counted bool) int {
	n := len(data)
	for k, values := range header {
		for _, v := range values {
			if counted {
				n += len(k) + len(v)
			}
		}
	}
	return n
}

// message makes the message that subscriptions share.
func (b *Bus) message(subject string, data []byte, header bus.Header) *bus.Message {
	m := &bus.Message{Subject: subject, Data: slices.Clip(bytes.Clone(data)), Header: header.Clone()}
	switch b.cfg.Bug {
	case "attemptEverywhere":
		m.Attempt = 1
	case "corrupt":
		m.Data = []byte(strings.ToValidUTF8(string(m.Data), "?"))
	case "wrongSubject":
		m.Subject = strings.ToLower(subject)
	case "aliasPub":
		m.Data = data
	case "roomToAppend":
		m.Data = append(make([]byte, 0, len(data)+64), data...)
	case "noHeaders":
		m.Header = nil
	}
	return m
}

// send hands an uncaptured message to the queues. b.mu is held.
func (b *Bus) send(ctx context.Context, m *bus.Message) error {
	if len(m.Data) == 0 && (b.bug("nilDropped") || m.Header.Value("Status") != "" && b.bug("statusDropped")) {
		return nil
	}
	var matching []*subscription // one of each place
	places := map[*place]bool{}
	for _, s := range b.subs {
		if s.matches(m.Subject) && !s.early && !places[s.place] && !(b.bug("strangers") && s.stranger(ctx)) {
			matching = append(matching, s)
			places[s.place] = true
		}
	}
	if len(matching) == 0 && b.bug("errNoSubs") {
		return bus.ErrUnavailable
	}
	if len(matching) > 1 && b.bug("onlyFirst") {
		matching = matching[:1]
	}
	if b.bug("leakMessages") {
		b.leaked = append(b.leaked, m)
	}
	for _, s := range matching {
		if b.bug("causeLater") && s.number%2 == 0 {
			// Behind the next one that a handler publishes.
			if s.held = append(s.held, m); !b.inHandler(ctx) {
				continue
			}
			for i := range s.held {
				s.push(s.held[len(s.held)-1-i])
			}
			s.held = nil
			continue
		}
		for s.full(m) && b.bug("blockPub") {
			b.mu.Unlock()
			err := pauseUntil(ctx, time.Millisecond)
			b.mu.Lock()
			if err != nil {
				return err
			}
		}
		times := 1
		if len(matching) > 1 && b.bug("dupMatch") {
			times = len(matching)
		}
		for range times {
			s.push(m)
		}
	}
	return nil
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	b.pause()
	var s *subscription
	err := b.over(ctx, nil, func() (err error) {
		s, err = b.subscribe(ctx, pattern, handler, bus.NewSubscribeOptions(opts))
		return err
	})
	if err != nil {
		return nil, b.wrap("subscribe", pattern, err, nil)
	}
	return s, nil
}

func (b *Bus) subscribe(ctx context.Context, pattern string, handler bus.Handler, o bus.SubscribeOptions) (*subscription, error) {
	b.mu.Lock()
	if err := b.refuse(ctx); err != nil && !(b.bug("subAfterClose") && errors.Is(err, bus.ErrClosed)) {
		b.mu.Unlock()
		return nil, err
	}
	if b.bug("quadraticSub") {
		slices.SortFunc(slices.Clone(b.subs), func(s, t *subscription) int { return strings.Compare(t.pattern, s.pattern) })
	}
	s, err := b.position(pattern, handler, o)
	if err != nil {
		b.mu.Unlock()
		return nil, err
	}
	s.process = caller(ctx)
	b.subs = append(b.subs, s)
	if o.Until != nil {
		s.stopUntil = context.AfterFunc(o.Until, func() {
			if !b.bug("ignoreUntil") && !(s.inGroup() && b.bug("groupIgnoresUntil")) {
				s.end(o.Until.Err())
			}
		})
	}
	if o.Start.Kind != bus.StartNew || s.inGroup() {
		s.poke()
	}
	b.mu.Unlock()
	if b.bug("idleTimeout") && o.Start.Kind != bus.StartNew && !s.hasPast() {
		_ = pauseUntil(ctx, 50*time.Millisecond) // whether something comes after all
	}
	if b.bug("leakGo") {
		go func() { select {} }()
	}
	if o.Background && !b.bug("backgroundIgnored") || b.inHandler(ctx) || b.bug("earlyReturn") {
		return s, nil
	}
	ends := b.ends
	if b.bug("hangClose") {
		ends = nil
	}
	select {
	case <-s.caughtUp:
		return s, nil
	case <-ends:
		s.end(bus.ErrClosed)
		return nil, bus.ErrClosed
	case <-s.done:
		return nil, cmpErr(s.Err(), bus.ErrClosed)
	case <-ctx.Done():
		if !b.bug("keptAfterCancel") {
			s.end(nil)
		}
		return nil, ctx.Err()
	}
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// Health implements bus.HealthChecker.
func (b *Bus) Health(ctx context.Context) error {
	return b.wrap("health", "", b.over(ctx, nil, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		err := b.refuse(ctx)
		if err == nil && b.bug("healthLies") {
			err = bus.ErrUnavailable
		}
		return err
	}), nil)
}

// Residue is how much the bus keeps for its subscriptions.
func (b *Bus) Residue() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bug("leakConsumer") {
		return b.created
	}
	return len(b.subs)
}

// report gives a problem to the bus' own hook. b.mu is held.
func (b *Bus) report(p bus.Problem) {
	if b.closed {
		return
	}
	select {
	case b.hook <- p:
	default:
	}
}

func checkHeader(h bus.Header) error {
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for k, values := range h {
		if k == "" || strings.Trim(k, token) != "" || strings.HasPrefix(strings.ToLower(k), "nats-") {
			return fmt.Errorf("%w: key %q", bus.ErrBadHeader, k)
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") || strings.TrimSpace(v) != v {
				return fmt.Errorf("%w: the value of %s", bus.ErrBadHeader, k)
			}
		}
	}
	return nil
}

// sameFunc is how a bus goes wrong that removes a subscription by its handler.
func sameFunc(a, b bus.Handler) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}
