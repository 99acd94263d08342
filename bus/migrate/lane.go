package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// lane is one stream of a Bridge.
type lane struct {
	b        *Bridge
	name     string
	patterns []string

	epoch string     // of the source; "" while it has never held a message
	at    uint64     // the source is copied up to here
	end   bus.Cursor // of the destination; zero while it has never held a message

	appender bus.Appender          // nil: the destination is given one message after the other
	most     int                   // how many it is given at once
	lasts    map[string]bus.Cursor // without an appender: of subjects at the destination

	copied   uint64
	tooLarge uint64
	gaps     []Gap
	warnings []string
	progress Progress
	shown    time.Time // when progress was told last
	told     Progress
}

const (
	// What the destination is given at once, at most. One message always fits.
	batchMsgs  = 1000
	batchBytes = 1 << 20
	// maxLasts bounds what is remembered of subjects; the others are asked for.
	maxLasts = 1 << 17
	// stampRoom is how much larger a copy may be than its message, with what a backend adds to it.
	stampRoom = 400
)

func newLane(b *Bridge, source *bus.StreamInfo) *lane {
	l := &lane{
		b: b, name: source.Config.Name, patterns: source.Config.Subjects, epoch: source.Last.Epoch(),
		most: batchMsgs, lasts: map[string]bus.Cursor{},
	}
	l.appender, _ = b.to.(bus.Appender)
	return l
}

// prepare finds out where to go on, or creates the stream at the destination.
func (l *lane) prepare(ctx context.Context, source, destination *bus.StreamInfo) error {
	if len(l.patterns) == 0 {
		return fmt.Errorf("it captures no subject that a bus can reach, so leave it out: name the streams to copy: %w", bus.ErrUnsupported)
	}
	if destination == nil {
		cfg := l.roomy(source)
		return l.b.persist(ctx, "create it at the destination", func(ctx context.Context) error {
			return l.b.to.EnsureStreams(ctx, cfg)
		})
	}
	l.end = destination.Last
	if l.epoch != "" && l.epoch == l.end.Epoch() {
		return fmt.Errorf("source and destination are the same: %w", bus.ErrConflict)
	}
	have, want := slices.Sorted(slices.Values(destination.Config.Subjects)), slices.Sorted(slices.Values(l.patterns))
	if !slices.Equal(have, want) {
		return fmt.Errorf("at the destination it captures %v, not %v: change or remove it there: %w", have, want, bus.ErrConflict)
	}
	l.warn(source, destination.Config)
	return l.resume(ctx, source, destination)
}

// roomy is the source's config, with room for the stamps in a limit of bytes: otherwise a full stream would lose its oldest
// messages on the way.
func (l *lane) roomy(source *bus.StreamInfo) bus.StreamConfig {
	cfg := source.Config
	if cfg.MaxBytes == 0 {
		return cfg
	}
	mean := uint64(128) // of a stream that is empty, a guess
	if source.Msgs > 0 {
		mean = max(1, source.Bytes/source.Msgs)
	}
	cfg.MaxBytes += int64(uint64(cfg.MaxBytes)/mean+1) * stampRoom
	l.warning("it is created with a limit of %d bytes instead of %d, as copies are larger by their stamps; EnsureStreams sets what you want",
		cfg.MaxBytes, source.Config.MaxBytes)
	return cfg
}

// warn tells what the destination will keep less of.
func (l *lane) warn(source *bus.StreamInfo, to bus.StreamConfig) {
	smaller := func(limit string, there, here int64, text func(int64) string) {
		if there > 0 && (here == 0 || there < here) {
			as := "none"
			if here > 0 {
				as = text(here)
			}
			l.warning("the destination's limit of %s is smaller: %s, at the source %s; it discards the oldest", limit, text(there), as)
		}
	}
	number := func(n int64) string { return fmt.Sprint(n) }
	from := source.Config
	smaller("messages", to.MaxMsgs, from.MaxMsgs, number)
	smaller("bytes", to.MaxBytes, from.MaxBytes, number)
	smaller("age", int64(to.MaxAge), int64(from.MaxAge), func(n int64) string { return time.Duration(n).String() })
	smaller("messages per subject", to.MaxMsgsPerSubject, from.MaxMsgsPerSubject, number)
	const stamp = 200 // about
	if need := int64(source.Bytes + stamp*source.Msgs); to.MaxBytes > 0 && (from.MaxBytes == 0 || to.MaxBytes >= from.MaxBytes) && need > to.MaxBytes {
		l.warning("the copies need about %d bytes with their stamps, the destination's limit is %d: it may discard the oldest; "+
			"give the stream a larger one there until it is cut over", need, to.MaxBytes)
	}
}

func (l *lane) warning(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.warnings = append(l.warnings, text)
	l.b.problems.report(bus.Problem{Err: fmt.Errorf("migrate: bridge: stream %s: %s", l.name, text)})
}

// resume looks for the last copy at the destination.
func (l *lane) resume(ctx context.Context, source, destination *bus.StreamInfo) error {
	if destination.Last.IsZero() {
		return nil
	}
	last, err := l.newest(ctx)
	if err != nil {
		return err
	}
	if last == nil {
		return fmt.Errorf("the destination's stream held messages and is empty now, so that nobody knows where to go on: "+
			"remove it there: %w", bus.ErrConflict)
	}
	l.reach(last.Cursor)
	if l.at = copyFrom(last, l.epoch); l.at > 0 {
		return nil // and so are those before it
	}
	return l.resumeBetween(ctx, source, destination)
}

// resumeBetween goes on where the destination ends with messages of its own, all of which the source has got from there.
func (l *lane) resumeBetween(ctx context.Context, source, destination *bus.StreamInfo) error {
	lastCopy, known, lastLoop := uint64(0), uint64(0), uint64(0)
	foreign, lastForeign := 0, uint64(0)
	err := l.readAll(ctx, l.b.to, "destination", destination.Last, func(m *bus.Message) {
		if at := copyFrom(m, l.epoch); at > 0 {
			lastCopy = max(lastCopy, at)
			return
		}
		foreign++
		lastForeign = m.Cursor.Sequence()
	})
	if err != nil {
		return err
	}
	if !source.Last.IsZero() {
		err = l.readAll(ctx, l.b.from, "source", source.Last, func(m *bus.Message) {
			if at := cameBy(m, l.end.Epoch()); at > 0 {
				known, lastLoop = max(known, at), m.Cursor.Sequence()
			}
		})
		if err != nil {
			return err
		}
	}
	if lastForeign > known {
		return fmt.Errorf("at the destination it holds what isn't a copy from this source (%d messages, up to cursor %s): "+
			"remove it there, or copy to another place: %w", foreign, bus.NewCursor(l.end.Epoch(), lastForeign), bus.ErrConflict)
	}
	l.at = lastCopy
	if lastCopy == 0 {
		l.at = lastLoop // what came before was there before it came back
	}
	return nil
}

// readAll calls f with all that an end holds of the stream.
func (l *lane) readAll(ctx context.Context, end bus.Bus, name string, upTo bus.Cursor, f func(*bus.Message)) error {
	r, err := l.reader(ctx, end, name, 0, upTo)
	if err != nil {
		return err
	}
	defer r.close()
	for {
		m, err := r.next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the %s: %w", name, err)
		}
		f(m)
	}
}

// reader opens a reader that tells when its end is unavailable.
func (l *lane) reader(ctx context.Context, end bus.Bus, name string, after uint64, upTo bus.Cursor) (r *reader, err error) {
	err = l.b.persist(ctx, "read the "+name, func(ctx context.Context) error {
		r, err = openReader(ctx, end, l.patterns, after, upTo)
		return err
	})
	if err != nil {
		return nil, err
	}
	told := false
	r.fails = func(err error) {
		if !told {
			told = true
			l.b.problems.report(bus.Problem{Err: fmt.Errorf("migrate: bridge: stream %s: waiting for the %s: %w", l.name, name, err)})
		}
	}
	r.idle = func() {
		if checker, ok := end.(bus.HealthChecker); ok && !told {
			if err := checker.Health(ctx); err != nil {
				r.fails(err)
			}
		}
	}
	return r, nil
}

// last returns the last message that the destination holds of a pattern, without its data, or nil.
func (l *lane) last(ctx context.Context, pattern string) (last *bus.Message, err error) {
	err = l.b.persist(ctx, "read the destination's last message", func(ctx context.Context) error {
		last = nil
		sub, err := l.b.to.Subscribe(ctx, pattern, func(_ context.Context, m *bus.Message) error {
			if m.Replayed {
				last = &bus.Message{Subject: m.Subject, Header: m.Header, Cursor: m.Cursor}
			}
			return nil
		}, bus.Last(1))
		if err != nil {
			return err
		}
		return sub.Unsubscribe(ctx)
	})
	return last, err
}

// newest returns the last message of all that the destination holds, without its data, or nil.
func (l *lane) newest(ctx context.Context) (*bus.Message, error) {
	var newest *bus.Message
	for _, pattern := range l.patterns {
		last, err := l.last(ctx, pattern)
		if err != nil {
			return nil, err
		}
		if last != nil && (newest == nil || last.Cursor.Sequence() > newest.Cursor.Sequence()) {
			newest = last
		}
	}
	return newest, nil
}

// reach is told how far the destination goes.
func (l *lane) reach(c bus.Cursor) {
	if c.Sequence() > l.end.Sequence() {
		l.end = c
	}
}

// copy copies what the source holds and isn't copied, and reports whether there was anything.
func (l *lane) copy(ctx context.Context, source *bus.StreamInfo) (bool, error) {
	upTo := source.Last
	if upTo.IsZero() || upTo.Epoch() == l.epoch && upTo.Sequence() <= l.at {
		return false, nil
	}
	if l.epoch == "" {
		l.epoch = upTo.Epoch()
	}
	if upTo.Epoch() != l.epoch {
		return false, fmt.Errorf("the source's stream was made anew, or has lost its end: what was copied is of its epoch %s, not %s; "+
			"remove it at the destination and begin again: %w", l.epoch, upTo.Epoch(), bus.ErrConflict)
	}
	r, err := l.reader(ctx, l.b.from, "source", l.at, upTo)
	if err != nil {
		return false, err
	}
	defer r.close()
	r.gap = l.gap
	l.progress = Progress{Stream: l.name, Total: min(upTo.Sequence()-l.at, source.Msgs)}
	for {
		batch, err := l.gather(ctx, r)
		if storeErr := l.store(ctx, batch); storeErr != nil {
			return true, storeErr
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return true, fmt.Errorf("read the source behind %s: %w", bus.NewCursor(l.epoch, max(1, l.at)), err)
		}
	}
	l.at = upTo.Sequence()
	l.progress.Total = l.progress.Done
	l.show(true)
	return true, nil
}

// gather reads as much as the destination is given at once.
func (l *lane) gather(ctx context.Context, r *reader) ([]*bus.Message, error) {
	var batch []*bus.Message
	for size := int64(0); len(batch) < batchMsgs && size < batchBytes; {
		m, err := r.next(ctx)
		if err != nil {
			return batch, err
		}
		batch = append(batch, m)
		size += messageSize(m.Subject, m.Header, m.Data)
	}
	return batch, nil
}

// passed is told that a message is dealt with.
func (l *lane) passed(m *bus.Message) {
	l.at = m.Cursor.Sequence()
	l.progress.Done++
	l.show(false)
}

const progressEvery = 100 * time.Millisecond

func (l *lane) show(end bool) {
	if l.b.cfg.OnProgress == nil || !end && time.Since(l.shown) < progressEvery {
		return
	}
	p := &l.progress
	p.Total = max(p.Total, p.Done)
	if p.At = (bus.Cursor{}); l.at > 0 {
		p.At = bus.NewCursor(l.epoch, l.at)
	}
	if *p == l.told {
		return
	}
	l.shown, l.told = time.Now(), *p
	l.b.cfg.OnProgress(*p)
}

// gap remembers what the source has discarded. Each of several patterns tells it.
func (l *lane) gap(e *bus.GapError) {
	g := Gap{After: e.After, Before: e.Before, Missed: e.Missed}
	if i := len(l.gaps) - 1; i >= 0 && g.After.Sequence() < l.gaps[i].Before.Sequence() {
		last := &l.gaps[i]
		if g.Before.Sequence() > last.Before.Sequence() {
			last.Before = g.Before
		}
		last.Missed = max(last.Missed, g.Missed)
		return
	}
	l.gaps = append(l.gaps, g)
	l.b.problems.report(bus.Problem{Err: fmt.Errorf("migrate: bridge: the source discarded what wasn't copied yet: %w", e)})
}
