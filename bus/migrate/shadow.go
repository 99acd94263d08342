package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// ShadowConfig says what a Shadow compares.
type ShadowConfig struct {
	// Patterns are what is subscribed to on both buses, at least one. Order is compared within each.
	Patterns []string

	// Publisher names the publisher of a message, such as by a header: the messages of one must keep their order. nil: all
	// of a subject must, which holds on captured subjects; on others with several publishers only their own order is promised.
	Publisher func(m *bus.Message) string

	// Late is how much later than the old bus the new one may deliver: 1 s if zero. If the old one delivers
	// at ticks, its deliveries are the later ones.
	Late time.Duration

	// Window is how long a message is waited for on the other bus until it counts as missing or extra: 10 s if zero.
	Window time.Duration

	// Examples is how many differences of each kind a Report keeps, the first ones: 5 if zero.
	Examples int

	// OnDifference is told each difference, for metrics. It is called while messages are on their way, from several
	// goroutines: it is quick and safe for concurrent use. A message that comes after it was counted
	// as missing is told as missing and then as late.
	OnDifference func(Difference)

	// OnError is told what makes the comparison incomplete (see Report.Blind). It runs on a goroutine of its own. nil: it is
	// logged to slog.Default().
	OnError bus.ErrorHook
}

// Kind says how deliveries differ.
type Kind string

// The kinds of differences.
const (
	Missing   Kind = "missing"   // on the new bus
	Extra     Kind = "extra"     // on the new bus: never on the old one, or more often there
	Late      Kind = "late"      // on the new bus, by more than ShadowConfig.Late
	Reordered Kind = "reordered" // on the new bus it came behind one that came later on the old bus
)

// Difference is a message that subscribers of the two buses don't get alike.
type Difference struct {
	Kind      Kind
	Subject   string
	Publisher string     // the subject, without ShadowConfig.Publisher
	Old, New  bus.Cursor // on each bus; zero if it didn't come there or no stream holds it
	At        time.Time  // when it came on the bus where it came first
	Lag       time.Duration
}

// Shadow subscribes to two buses and compares what subscribers get. It publishes nothing: something else writes to both,
// such as a [Tee] or a [Bridge]. Two messages are the same if subject, header and data are; the headers of a Bridge
// don't count, nor do cursors and times.
//
// Its methods are safe for concurrent use. Buses stay open when it is closed.
type Shadow struct {
	cfg      ShadowConfig
	problems *problems
	life     context.Context
	end      context.CancelFunc
	watching sync.WaitGroup

	mu    sync.Mutex
	state comparing
}

// NewShadow begins to compare what is published from now on. ctx bounds the call.
func NewShadow(ctx context.Context, old, new bus.Bus, cfg ShadowConfig) (*Shadow, error) {
	if len(cfg.Patterns) == 0 {
		return nil, errors.New("migrate: shadow: no pattern to compare: want ShadowConfig.Patterns")
	}
	if cfg.Publisher == nil {
		cfg.Publisher = func(m *bus.Message) string { return m.Subject }
	}
	if cfg.Late <= 0 {
		cfg.Late = time.Second
	}
	if cfg.Window <= 0 {
		cfg.Window = 10 * time.Second
	}
	if cfg.Examples <= 0 {
		cfg.Examples = 5
	}
	s := &Shadow{cfg: cfg, problems: newProblems(cfg.OnError)}
	s.life, s.end = context.WithCancel(context.Background())
	s.state = newComparing(&s.cfg)
	for i, pattern := range cfg.Patterns {
		for side, b := range [2]bus.Bus{old, new} {
			sub, err := s.subscribe(ctx, b, i, side)
			if err != nil {
				s.stop()
				return nil, fmt.Errorf("migrate: shadow: subscribe %q to the %s bus: %w", pattern, sideNames[side], err)
			}
			s.watching.Go(func() { s.watch(b, i, side, sub) })
		}
	}
	s.mu.Lock()
	s.state.settled = time.Now().Add(cfg.Late)
	s.mu.Unlock()
	s.watching.Go(s.sweep)
	return s, nil
}

const (
	oldSide = 0
	newSide = 1
)

var sideNames = [2]string{"old", "new"}

func (s *Shadow) subscribe(ctx context.Context, b bus.Bus, pattern, side int) (bus.Subscription, error) {
	return b.Subscribe(ctx, s.cfg.Patterns[pattern], func(_ context.Context, m *bus.Message) error {
		s.compare(func(c *comparing) { c.came(pattern, side, m, time.Now()) })
		return nil
	}, bus.Until(s.life), bus.Buffer(1<<16, 64<<20), bus.OnError(func(p bus.Problem) {
		s.blind(fmt.Errorf("migrate: shadow: the %s bus: %w", sideNames[side], p.Err), p)
	}))
}

// compare calls f and then tells what it has found.
func (s *Shadow) compare(f func(*comparing)) {
	s.mu.Lock()
	f(&s.state)
	found := s.state.found
	s.state.found = nil
	s.mu.Unlock()
	if s.cfg.OnDifference == nil {
		return
	}
	for _, d := range found {
		s.tell(d)
	}
}

func (s *Shadow) tell(d Difference) {
	defer func() {
		if r := recover(); r != nil {
			slog.Error("migrate: shadow: OnDifference panicked", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	s.cfg.OnDifference(d)
}

// blind counts what the comparison itself has missed.
func (s *Shadow) blind(err error, p bus.Problem) {
	s.mu.Lock()
	s.state.report.Blind++
	s.mu.Unlock()
	p.Err = err
	s.problems.report(p)
}

// watch subscribes again when a subscription has ended.
func (s *Shadow) watch(b bus.Bus, pattern, side int, sub bus.Subscription) {
	for {
		<-sub.Done()
		if s.life.Err() != nil {
			return
		}
		err := sub.Err()
		s.blind(fmt.Errorf("migrate: shadow: the %s bus isn't compared for the moment: %w", sideNames[side], err), bus.Problem{Pattern: s.cfg.Patterns[pattern]})
		for pause := firstPause; ; pause = min(2*pause, longestPause) {
			if errors.Is(err, bus.ErrClosed) {
				return
			}
			if sub, err = s.subscribe(s.life, b, pattern, side); err == nil {
				break
			}
			select {
			case <-time.After(pause):
			case <-s.life.Done():
				return
			}
		}
	}
}

// sweep decides what has been waited for long enough.
func (s *Shadow) sweep() {
	tick := time.NewTicker(max(s.cfg.Window/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.compare(func(c *comparing) { c.expire(time.Now()) })
		case <-s.life.Done():
			return
		}
	}
}

// Report returns what has been found so far.
func (s *Shadow) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.snapshot()
}

// Close ends the comparison when nothing comes any more and what has come on one bus has come on the other one or has had
// its window; at the latest after two windows, or when ctx is done. It returns what Report returns from then on. Stop
// the publishers before.
func (s *Shadow) Close(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Window)
	defer cancel()
	poll := time.NewTicker(max(s.cfg.Late/5, time.Millisecond))
	defer poll.Stop()
	last := s.Report()
	for quiet := false; !quiet && ctx.Err() == nil && s.life.Err() == nil; {
		select {
		case <-poll.C:
			r := s.Report()
			quiet = r.Waiting == 0 && r.Old == last.Old && r.New == last.New
			last = r
		case <-ctx.Done():
		}
	}
	s.stop()
	return s.Report()
}

func (s *Shadow) stop() {
	s.end()
	s.watching.Wait() // also for the handlers: Done of each subscription
}
