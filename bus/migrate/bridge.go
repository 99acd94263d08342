package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// BridgeConfig says what a Bridge copies and whom it tells.
type BridgeConfig struct {
	// Streams are the names of the streams to copy; none means all that the source has when the Bridge begins.
	Streams []string

	// SkipTooLarge leaves out what is too large for the destination (bus.ErrTooLarge): each such message is told to OnError and
	// counted as Summary.TooLarge, and both ends will differ by them. Otherwise the first one ends the call.
	SkipTooLarge bool

	// OnProgress is told how far a stream is, at most every 100 ms and at the end of each part. It is called while
	// the Bridge copies and compares, so it is quick.
	OnProgress func(Progress)

	// OnError is told what doesn't end the Bridge: warnings about limits, an end that is unavailable for the
	// moment, gaps. It runs on a goroutine of its own. nil: it is logged to slog.Default().
	OnError bus.ErrorHook
}

// Progress is how far the copy of a stream is, or its comparison.
type Progress struct {
	Stream    string
	Comparing bool       // reading both ends, not copying
	Done      uint64     // messages of the source looked at since this part began
	Total     uint64     // an estimate of what this part has; Done at its end
	At        bus.Cursor // of the source, up to which it is copied
}

// Bridge copies streams from one bus to another, message by message in each stream's order. Both must be
// bus.StreamListers. A Bridge doesn't own its buses: close them afterwards.
//
// Streams that the destination lacks are created with the source's config, a limit of bytes with room for what copies are
// larger. One that exists there must capture the same subjects and end with a copy from this source, or with what the
// source itself has as copies from there: so a Bridge in the other direction goes back, and what has come from its
// destination is dropped as a loop. Anything else is refused with bus.ErrConflict before a message is copied. Nobody else may
// publish to the stream until CutOver.
//
// # Exactly once
//
// Each copy has two more headers: Bridge-Source, the cursors that the message has had on its way, and Bridge-Time, when
// the first bus stored it (see [Original]). The newest Bridge-Source at the destination is where a Bridge
// goes on, so there is no file to lose and no moment between a copy and its stamp. Copies are stored only where the destination
// ends as it must: by bus.Appender many at once, elsewhere one by one if the subject's last message is the one that it must
// follow. So a Bridge that is killed at any moment, or runs twice, loses nothing and doubles nothing.
//
// A Bridge holds a few megabytes, however much it copies; without a bus.Appender at the destination also a cursor for each of
// 131,072 subjects. While an end is unavailable (bus.ErrUnavailable, bus.ErrUnknownOutcome, no answer in 10 s) it tries again until its
// context ends. Other errors end the call, naming the message's cursor; the next call goes on there.
//
// # What is different at the destination
//
// Cursors are the destination's. A cursor of the source that is handed to the destination (bus.After) is told as one
// bus.ErrGap, and the stream follows from its start. MaxAge counts from the time of copying, MaxBytes the two
// headers as well. Message IDs and positions of durable groups are not copied. What the source discards before
// its turn is in the Summary as a gap.
//
// Its methods are safe for concurrent use; they run one after the other.
type Bridge struct {
	from, to bus.Bus
	cfg      BridgeConfig
	problems *problems

	running chan struct{} // holds a value while a method works; what follows is that method's
	lanes   []*lane       // nil before the first one
	cut     bool
	outage  *outage         // in which calls are made; nil: each has its own
	calls   context.Context // of publishes that have begun while CutOver ends Follow; nil: the method's

	mu      sync.Mutex
	cutting chan struct{} // closed when CutOver waits for Follow to end
}

// NewBridge returns a Bridge that has done nothing yet.
func NewBridge(from, to bus.Bus, cfg BridgeConfig) *Bridge {
	return &Bridge{from: from, to: to, cfg: cfg, problems: newProblems(cfg.OnError), running: make(chan struct{}, 1), cutting: make(chan struct{})}
}

// Copy copies what the streams hold when it is called and isn't copied yet.
func (b *Bridge) Copy(ctx context.Context) error {
	return b.exclusively(ctx, "copy", func() error {
		_, err := b.round(ctx)
		return err
	})
}

// Follow copies what the streams hold and what is published to them, until ctx ends or CutOver is called, and
// then returns nil. Each message is copied soon after it was stored.
func (b *Bridge) Follow(ctx context.Context) error {
	err := b.follow(ctx)
	if errors.Is(err, errCut) {
		return nil
	}
	return ended(ctx, err)
}

func (b *Bridge) follow(ctx context.Context) error {
	return b.exclusively(ctx, "follow", func() error {
		b.calls = ctx
		defer func() { b.calls = nil }()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		b.mu.Lock()
		cutting := b.cutting
		b.mu.Unlock()
		defer afterClosed(cutting, cancel)()
		if _, err := b.round(ctx); err != nil {
			return ended(ctx, err)
		}
		news, stop := b.listen(ctx)
		defer stop()
		poll := time.NewTicker(pollEvery)
		defer poll.Stop()
		for {
			if _, err := b.round(ctx); err != nil {
				return ended(ctx, err)
			}
			select {
			case <-news:
			case <-poll.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// pollEvery is how often the source is asked for news that no subscription has told.
const pollEvery = time.Second

// afterClosed calls f when c is closed, unless stop is called before.
func afterClosed(c <-chan struct{}, f func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-c:
			f()
		case <-done:
		}
	}()
	return func() { close(done) }
}

// errCut: there is nothing left to do.
var errCut = fmt.Errorf("%w: it has cut over", bus.ErrClosed)

// ended is nil when err is due to the end of ctx.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listen tells when something is published to the streams.
func (b *Bridge) listen(ctx context.Context) (news chan struct{}, stop func()) {
	news = make(chan struct{}, 1)
	var subs []bus.Subscription
	for _, l := range b.lanes {
		for _, pattern := range l.patterns {
			sub, err := b.from.Subscribe(ctx, pattern, func(context.Context, *bus.Message) error {
				select {
				case news <- struct{}{}:
				default:
				}
				return nil
			})
			if err != nil {
				continue // it is asked every pollEvery, which tells what is wrong
			}
			subs = append(subs, sub)
		}
	}
	return news, func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe(context.Background()) // its handler doesn't block
		}
	}
}

// CutOver ends Follow, copies the rest, and compares both ends by reading them. The source's publishers must have
// stopped: it goes on until nothing more has come, or ctx ends. When it returns nil, both ends
// hold the same, and publishers and subscribers may begin on the destination, which the Bridge doesn't write to any more.
//
// Subscribers that resume there after a cursor of the source are told one bus.ErrGap.
func (b *Bridge) CutOver(ctx context.Context) ([]Summary, error) {
	b.mu.Lock()
	select {
	case <-b.cutting:
	default:
		close(b.cutting)
	}
	b.mu.Unlock()
	var summaries []Summary
	err := b.exclusively(ctx, "cut over", func() error {
		for {
			if err := b.settle(ctx); err != nil {
				return err
			}
			var err error
			if summaries, err = b.verify(ctx); err != nil {
				return err
			}
			if still, err := b.behind(ctx); err != nil || still {
				if err != nil {
					return err
				}
				continue // somebody still publishes
			}
			if err := problemsOf(summaries); err != nil {
				return err
			}
			b.cut = true
			return nil
		}
	})
	if err != nil {
		b.mu.Lock()
		b.cutting = make(chan struct{}) // Follow may go on
		b.mu.Unlock()
	}
	return summaries, err
}

// settle copies until nothing more has come.
func (b *Bridge) settle(ctx context.Context) error {
	for {
		copied, err := b.round(ctx)
		if err != nil || !copied {
			return err
		}
	}
}

// Verify reads what the Bridge has copied from both ends, and compares it. Differences are in the Summaries
// (see Summary.Err), an error says that it couldn't be read.
func (b *Bridge) Verify(ctx context.Context) (summaries []Summary, err error) {
	err = b.exclusively(ctx, "verify", func() error {
		summaries, err = b.verify(ctx)
		return err
	})
	return summaries, err
}

func (b *Bridge) verify(ctx context.Context) ([]Summary, error) {
	var summaries []Summary
	for _, l := range b.lanes {
		s, err := l.verify(ctx)
		if err != nil {
			return summaries, fmt.Errorf("stream %s: compare: %w", l.name, err)
		}
		summaries = append(summaries, s)
	}
	return summaries, nil
}

// exclusively runs one method at a time, on lanes that are ready.
func (b *Bridge) exclusively(ctx context.Context, what string, f func() error) error {
	select {
	case b.running <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("migrate: bridge: %s: %w", what, context.Cause(ctx))
	}
	defer func() { <-b.running }()
	if b.cut {
		return fmt.Errorf("migrate: bridge: %s: %w", what, errCut)
	}
	err := b.prepare(ctx)
	if err == nil {
		err = f()
	}
	if stopped := ctx.Err(); stopped != nil && errors.Is(err, stopped) && !errors.Is(err, context.Cause(ctx)) {
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx)) // a bus needn't tell it
	}
	if err != nil {
		return fmt.Errorf("migrate: bridge: %s: %w", what, err)
	}
	return nil
}

// prepare looks at both ends and refuses what doesn't fit.
func (b *Bridge) prepare(ctx context.Context) error {
	if b.lanes != nil {
		return nil
	}
	from, err := b.streams(ctx, b.from, "source")
	if err != nil {
		return err
	}
	to, err := b.streams(ctx, b.to, "destination")
	if err != nil {
		return err
	}
	names := b.cfg.Streams
	if len(names) == 0 {
		for _, s := range from {
			names = append(names, s.Config.Name)
		}
	}
	lanes := []*lane{}
	for _, name := range names {
		source := find(from, name)
		if source == nil {
			return fmt.Errorf("stream %s: the source has none of that name, but %s: %w", name, listed(from), bus.ErrNoStream)
		}
		l := newLane(b, source)
		if err := l.prepare(ctx, source, find(to, name)); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		lanes = append(lanes, l)
	}
	b.lanes = lanes
	return nil
}

func find(streams []bus.StreamInfo, name string) *bus.StreamInfo {
	i := slices.IndexFunc(streams, func(s bus.StreamInfo) bool { return s.Config.Name == name })
	if i < 0 {
		return nil
	}
	return &streams[i]
}

func listed(streams []bus.StreamInfo) string {
	var names []string
	for _, s := range streams {
		names = append(names, s.Config.Name)
	}
	if len(names) == 0 {
		return "no stream at all"
	}
	return strings.Join(names, ", ")
}

// round copies what each stream holds now, and reports whether there was anything.
func (b *Bridge) round(ctx context.Context) (copied bool, err error) {
	from, err := b.streams(ctx, b.from, "source")
	if err != nil {
		return false, err
	}
	for _, l := range b.lanes {
		source := find(from, l.name)
		if source == nil {
			return copied, fmt.Errorf("stream %s: the source has it no more: %w", l.name, bus.ErrNoStream)
		}
		did, err := l.copy(ctx, source)
		if err != nil {
			return copied, fmt.Errorf("stream %s: %w", l.name, err)
		}
		copied = copied || did
	}
	return copied, nil
}

// behind reports whether a source holds something that isn't copied.
func (b *Bridge) behind(ctx context.Context) (bool, error) {
	from, err := b.streams(ctx, b.from, "source")
	if err != nil {
		return false, err
	}
	for _, l := range b.lanes {
		if s := find(from, l.name); s == nil || s.Last.Sequence() > l.at || l.epoch != "" && s.Last.Epoch() != l.epoch {
			return true, nil
		}
	}
	return false, nil
}

// streams lists the streams of an end.
func (b *Bridge) streams(ctx context.Context, end bus.Bus, name string) (streams []bus.StreamInfo, err error) {
	lister, ok := end.(bus.StreamLister)
	if !ok {
		return nil, fmt.Errorf("the %s can't list its streams: %w", name, bus.ErrUnsupported)
	}
	err = b.persist(ctx, "the "+name+"'s streams", func(ctx context.Context) error {
		streams, err = lister.Streams(ctx)
		return err
	})
	return streams, err
}

// callTimeout bounds each call of an end.
const callTimeout = 10 * time.Second

// persist calls f again while its end is unavailable.
func (b *Bridge) persist(ctx context.Context, what string, f func(context.Context) error) error {
	o := b.outage
	if o == nil {
		o = &outage{}
	}
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := f(call)
		cancel()
		if err == nil {
			return nil
		}
		if err := b.await(ctx, o, what, err); err != nil {
			return err
		}
	}
}

// outage is a time for which an end is unavailable.
type outage struct {
	pause time.Duration // the last one
}

// await waits until a call that has failed makes sense again, or returns why it doesn't.
func (b *Bridge) await(ctx context.Context, o *outage, what string, err error) error {
	switch {
	case ctx.Err() != nil && !errors.Is(err, bus.ErrClosed):
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case !mayPass(err):
		return fmt.Errorf("%s: %w", what, err)
	case o.pause == 0:
		o.pause = firstPause
		b.problems.report(bus.Problem{Err: fmt.Errorf("migrate: bridge: %s: %w (it is tried again)", what, err)})
	default:
		o.pause = min(2*o.pause, longestPause)
	}
	select {
	case <-time.After(o.pause):
	case <-ctx.Done():
	}
	return nil
}
