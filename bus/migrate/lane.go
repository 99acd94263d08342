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

	epoch   string // of the source; "" while it has never held a message
	at      uint64 // the source is copied up to here
	toEpoch string // of the destination; "" while it has never held a message
	lasts   map[string]bus.Cursor

	copied   uint64
	gaps     []Gap
	warnings []string
	shown    time.Time // when progress was told last
	told     Progress
}

// prepare finds out where to go on, or creates the stream at the destination.
func (l *lane) prepare(ctx context.Context, source, destination *bus.StreamInfo) error {
	l.epoch = source.Last.Epoch()
	if len(l.patterns) == 0 {
		return fmt.Errorf("it captures no subject that a bus can reach: %w", bus.ErrUnsupported)
	}
	if destination == nil {
		l.warn(source, source.Config)
		return l.b.persist(ctx, "create it at the destination", func(ctx context.Context) error {
			return l.b.to.EnsureStreams(ctx, source.Config)
		})
	}
	l.toEpoch = destination.Last.Epoch()
	if l.epoch != "" && l.epoch == l.toEpoch {
		return fmt.Errorf("source and destination are the same: %w", bus.ErrConflict)
	}
	have, want := slices.Sorted(slices.Values(destination.Config.Subjects)), slices.Sorted(slices.Values(l.patterns))
	if !slices.Equal(have, want) {
		return fmt.Errorf("at the destination it captures %v, not %v: change or remove it there: %w", have, want, bus.ErrConflict)
	}
	l.warn(source, destination.Config)
	return l.resume(ctx, source, destination)
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
	const stamp = 110 // about
	if need := int64(source.Bytes + stamp*source.Msgs); to.MaxBytes > 0 && to.MaxBytes >= from.MaxBytes && need > to.MaxBytes {
		l.warning("the copies need about %d bytes with their stamps, the destination's limit is %d: it discards the oldest; "+
			"create the stream there with a larger one", need, to.MaxBytes)
	}
}

func (l *lane) warning(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.warnings = append(l.warnings, text)
	l.b.problems.report(bus.Problem{Err: fmt.Errorf("migrate: bridge: stream %s: %s", l.name, text)})
}

// resume looks for the last copy at the destination, and that all there are copies.
func (l *lane) resume(ctx context.Context, source, destination *bus.StreamInfo) error {
	if destination.Last.IsZero() {
		return nil
	}
	if destination.Msgs == 0 {
		return fmt.Errorf("the destination's stream held messages and is empty now, so that nobody knows where to go on: "+
			"remove it there: %w", bus.ErrConflict)
	}
	foreign, lastForeign := 0, uint64(0)
	for _, pattern := range l.patterns {
		err := l.lastPerSubject(ctx, pattern, func(m *bus.Message) {
			l.lasts[m.Subject] = m.Cursor
			if at := copyFrom(m, l.epoch); at > 0 {
				l.at = max(l.at, at)
				return
			}
			foreign++
			lastForeign = max(lastForeign, m.Cursor.Sequence())
		})
		if err != nil {
			return err
		}
	}
	if foreign == 0 {
		return nil
	}
	return l.resumeBetween(ctx, source, destination, foreign, lastForeign)
}

// resumeBetween goes on where the destination also holds messages of its own, all of which the source has got
// from there.
func (l *lane) resumeBetween(ctx context.Context, source, destination *bus.StreamInfo, foreign int, lastForeign uint64) error {
	lastCopy, known, lastLoop := uint64(0), uint64(0), uint64(0)
	err := l.readAll(ctx, l.b.to, "destination", destination.Last, func(m *bus.Message) {
		lastCopy = max(lastCopy, copyFrom(m, l.epoch))
	})
	if err != nil {
		return err
	}
	if !source.Last.IsZero() {
		err = l.readAll(ctx, l.b.from, "source", source.Last, func(m *bus.Message) {
			if at := cameBy(m, l.toEpoch); at > 0 {
				known, lastLoop = max(known, at), m.Cursor.Sequence()
			}
		})
		if err != nil {
			return err
		}
	}
	if lastForeign > known {
		return fmt.Errorf("at the destination it holds what isn't a copy from this source (the last messages of %d subjects, up to cursor %s): "+
			"remove it there, or copy to another place: %w", foreign, bus.NewCursor(l.toEpoch, lastForeign), bus.ErrConflict)
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
	r.idle = func() {
		checker, ok := end.(bus.HealthChecker)
		if !ok || told {
			return
		}
		if err := checker.Health(ctx); err != nil {
			told = true
			l.b.problems.report(bus.Problem{Err: fmt.Errorf("migrate: bridge: stream %s: waiting for the %s: %w", l.name, name, err)})
		}
	}
	return r, nil
}

// lastPerSubject calls f with the last message of each subject at the destination.
func (l *lane) lastPerSubject(ctx context.Context, pattern string, f func(*bus.Message)) error {
	var found []*bus.Message
	err := l.b.persist(ctx, "read the last messages of the destination", func(ctx context.Context) error {
		found = nil
		sub, err := l.b.to.Subscribe(ctx, pattern, func(_ context.Context, m *bus.Message) error {
			if m.Replayed {
				found = append(found, &bus.Message{Subject: m.Subject, Header: m.Header, Cursor: m.Cursor})
			}
			return nil
		}, bus.LastPerSubject())
		if err != nil {
			return err
		}
		return sub.Unsubscribe(ctx)
	})
	for _, m := range found {
		f(m)
	}
	return err
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
	p := Progress{Stream: l.name, Total: upTo.Sequence() - l.at}
	p.Total = min(p.Total, source.Msgs)
	for {
		m, err := r.next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return true, fmt.Errorf("read the source behind %s: %w", bus.NewCursor(l.epoch, max(1, l.at)), err)
		}
		if cameBy(m, l.toEpoch) == 0 {
			if err := l.publish(ctx, m); err != nil {
				return true, fmt.Errorf("copy %q at %s: %w", m.Subject, m.Cursor, err)
			}
		}
		l.at = m.Cursor.Sequence()
		p.Done++
		l.show(p, false)
	}
	l.at = upTo.Sequence()
	p.Total = p.Done
	l.show(p, true)
	return true, nil
}

const progressEvery = 100 * time.Millisecond

func (l *lane) show(p Progress, end bool) {
	if l.b.cfg.OnProgress == nil || !end && time.Since(l.shown) < progressEvery {
		return
	}
	p.Total = max(p.Total, p.Done)
	p.At = bus.NewCursor(l.epoch, l.at)
	if p == l.told {
		return
	}
	l.shown, l.told = time.Now(), p
	l.b.cfg.OnProgress(p)
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

// publish stores the copy of m at the destination, once.
func (l *lane) publish(ctx context.Context, m *bus.Message) error {
	header := stamped(m)
	opts := []bus.PublishOption{bus.MessageID("bridge." + m.Cursor.String())}
	for key, values := range header {
		opts = append(opts, bus.WithHeader(key, values...))
	}
	for range 5 {
		var receipt bus.Receipt
		expected := l.lasts[m.Subject]
		err := l.b.persist(ctx, "publish to the destination", func(ctx context.Context) error {
			return l.b.to.Publish(ctx, m.Subject, m.Data, append(opts[:len(opts):len(opts)], bus.ExpectLast(expected), bus.WithReceipt(&receipt))...)
		})
		switch {
		case err == nil && !receipt.Duplicate:
			l.lasts[m.Subject] = receipt.Cursor
			l.toEpoch = receipt.Cursor.Epoch()
			l.copied++
			return nil
		case err == nil, errors.Is(err, bus.ErrConflict):
			// It was there already, or what it must follow isn't the last one.
			if there, err := l.look(ctx, m, expected); there || receipt.Duplicate || err != nil {
				return err
			}
		default:
			return err
		}
	}
	return fmt.Errorf("%w: the subject's last message changes all the time; is another bridge running?", bus.ErrConflict)
}

// look finds out what the subject's last message at the destination is, and whether m's copy is there.
func (l *lane) look(ctx context.Context, m *bus.Message, expected bus.Cursor) (there bool, err error) {
	var last *bus.Message
	err = l.lastPerSubject(ctx, m.Subject, func(found *bus.Message) { last = found })
	switch {
	case err != nil:
		return false, err
	case last == nil:
		delete(l.lasts, m.Subject) // limits have taken it
		return false, nil
	}
	at := copyFrom(last, l.epoch)
	if at == 0 && last.Cursor != expected {
		return false, fmt.Errorf("%w: somebody else publishes to the destination (its cursor %s); stop that until the streams are cut over", bus.ErrConflict, last.Cursor)
	}
	l.lasts[m.Subject], l.toEpoch = last.Cursor, last.Cursor.Epoch()
	return at >= m.Cursor.Sequence(), nil
}
