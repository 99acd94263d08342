// Package refbus is the bus that bustest tests itself with: small, in memory (or in one
// log file), and correct, unless Config.Bug names a way in which it isn't.
//
// A subscription is a position in each stream that it touches, and a queue for the rest.
// Everything is behind one mutex.
package refbus

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	Tiny  bool          // odd: uncaptured messages go through a channel that has room for one

	Volatile bool // nothing outlives it

	Several bool // those that are open on one Dir are one system, as processes on one server

	NoHeaders, NoStreams, NoGroups, NoDurableGroups, NoRemoval bool // what it lacks
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

	async  async
	fan    sync.Mutex     // of the bug serialFanout
	racy   map[string]int // of the bug racyMap
	leaked []any          //  of bugs that keep what has ended

	mu       sync.Mutex
	streams  []*stream
	subs     []*subscription
	leaving  []*subscription // ended ones whose handlers haven't returned
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
	wire     chan parcel
	pool     chan struct{} // of the bug handlerPool
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
		wire: make(chan parcel, 1), pool: make(chan struct{}, 64),
	}
	b.async.idle = sync.NewCond(&b.async.mu)
	if cfg.Dir != "" && !cfg.Volatile {
		if err := b.load(); err != nil {
			return nil, fmt.Errorf("refbus: open %s: %w", cfg.Dir, err)
		}
	}
	if err := b.attach(); err != nil {
		b.unload()
		return nil, err
	}
	go b.tellHook()
	if cfg.Tiny {
		go b.carry()
	}
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
		if b.bug("busHookKill") && b.o.ErrorHook != nil {
			b.o.ErrorHook(p)
			continue
		}
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

// heeded is a context that a call with a bug ignores.
func (b *Bus) heeded(ctx context.Context, bug string) context.Context {
	if b.bug(bug) {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// refuse is what every call checks first. b.mu is held. Handlers go on until the end.
func (b *Bus) refuse(ctx context.Context) error {
	if b.inHandler(ctx) && b.bug("stuckGoesOn") {
		return nil
	}
	if b.closed || b.closing && (!b.inHandler(ctx) || b.bug("closeRefusesHandlers")) {
		return bus.ErrClosed
	}
	if b.bug("precancelOK") {
		return nil
	}
	return ctx.Err()
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
	if n := time.Duration(len(b.subs) / 100); b.bug("quadraticSub") {
		time.Sleep(n * n * 300 * time.Millisecond) // work would keep the mutants beside it waiting
	}
	s, err := b.position(ctx, pattern, handler, o)
	if err != nil {
		b.mu.Unlock()
		return nil, err
	}
	s.process = caller(ctx)
	if b.bug("fatSub") {
		s.ballast = make([]byte, 64<<10)
	}
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
	if b.bug("tickedReplay") && o.Start.Kind != bus.StartNew {
		_ = pauseUntil(ctx, b.cfg.Tick) // the bug: it returns after a tick, whatever has been replayed
	}
	if b.bug("idleTimeout") && o.Start.Kind != bus.StartNew && !s.hasPast() {
		_ = pauseUntil(ctx, 50*time.Millisecond) // whether something comes after all
	}
	if b.bug("leakGo") {
		go func() { select {} }()
	}
	if o.Background && !b.bug("backgroundIgnored") || b.inHandler(ctx) && !b.bug("inHandlerWaits") || b.bug("earlyReturn") {
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

// lacks names what the bus can't do.
func (b *Bus) lacks(what string) error {
	if b.bug("unsupportedUnnamed") {
		return bus.ErrUnsupported
	}
	return fmt.Errorf("%s: %w", what, bus.ErrUnsupported)
}

// Health implements bus.HealthChecker.
func (b *Bus) Health(ctx context.Context) error {
	ctx = b.heeded(ctx, "healthHeedsNothing")
	switch err := b.linked(); {
	case err != nil && b.bug("healthBlind"):
		return nil
	case err != nil && b.bug("healthWaits"):
		for b.linked() != nil && ctx.Err() == nil {
			_ = pauseUntil(ctx, time.Millisecond) // the loop looks at the context
		}
	}
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

// Residue is how many feeds the bus keeps for its subscriptions: one for each stream and each uncaptured pattern.
func (b *Bus) Residue() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bug("leakConsumer") {
		return b.created
	}
	if b.bug("feedEach") {
		return len(b.subs)
	}
	feeds := map[string]bool{}
	for _, s := range b.subs {
		for _, l := range s.legs {
			feeds["stream "+l.st.cfg.Name] = true
		}
		if len(s.legs) == 0 {
			feeds["pattern "+s.pattern] = true
		}
	}
	return len(feeds)
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
