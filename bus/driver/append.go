package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Append implements bus.Appender.
func (b *Bus) Append(ctx context.Context, stream string, after bus.Cursor, messages ...*bus.Message) ([]bus.Cursor, error) {
	began := time.Now()
	cursors, err := b.appendAll(ctx, stream, after, messages)
	if err != nil {
		err = fmt.Errorf("bus: append to stream %.80q: %w", stream, err)
	}
	if b.metrics != nil {
		for i, m := range messages {
			if i < len(cursors) {
				b.metrics.Published(stream, len(m.Data), time.Since(began), nil)
			} else if i == len(cursors) {
				b.metrics.Published(stream, len(m.Data), time.Since(began), err)
			}
		}
	}
	return cursors, err
}

func (b *Bus) appendAll(ctx context.Context, name string, after bus.Cursor, messages []*bus.Message) ([]bus.Cursor, error) {
	counted, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer b.leave(counted)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	appender, ok := b.backend.(Appender)
	if !ok {
		return nil, bus.ErrUnsupported
	}
	for attempt := 0; ; attempt++ {
		t, err := b.known(ctx, b.table.Load(), name)
		if err != nil {
			return nil, err
		}
		s, there := t.streams[name]
		if there && (after.IsZero() || after.Epoch() == s.Epoch) {
			cursors, err := b.appendTo(ctx, appender, s, after.Sequence(), messages)
			if !errors.Is(err, ErrNotCaptured) || len(cursors) > 0 || attempt == 3 {
				return cursors, publicError(err)
			}
		} else if attempt > 0 && there {
			return nil, fmt.Errorf("%w: it is of epoch %s, not %s", bus.ErrConflict, s.Epoch, after.Epoch())
		} else if attempt > 0 {
			return nil, bus.ErrNoStream
		}
		if _, err := b.lookAgain(ctx); err != nil {
			return nil, err
		}
	}
}

// publicError is what a caller is told of a stream that still doesn't take what it was asked to.
func publicError(err error) error {
	if errors.Is(err, ErrNotCaptured) {
		return bus.ErrNoStream
	}
	return err
}

// appendTo stores those of the messages that come before the first one that can't be.
func (b *Bus) appendTo(ctx context.Context, appender Appender, s Stream, after uint64, messages []*bus.Message) ([]bus.Cursor, error) {
	ps := make([]Publication, 0, len(messages))
	var refused error
	for _, m := range messages {
		p := Publication{Subject: m.Subject, Header: m.Header, Data: m.Data}
		if refused = b.acceptable(s, &p); refused != nil {
			break
		}
		ps = append(ps, p)
	}
	var sequences []uint64
	var err error
	if len(ps) > 0 {
		sequences, err = appender.AppendAll(ctx, s, after, ps)
	}
	cursors := make([]bus.Cursor, len(sequences))
	for i, sequence := range sequences {
		cursors[i] = bus.NewCursor(s.Epoch, sequence)
	}
	if n := len(sequences); n > 0 {
		raise(b.ackedOf(s), sequences[n-1])
	}
	if err == nil {
		err = refused
	}
	if err != nil && len(cursors) < len(messages) {
		err = fmt.Errorf("%.80q: %w", messages[len(cursors)].Subject, err)
	}
	return cursors, err
}

// acceptable checks what can be said of a message for a stream without asking the backend.
func (b *Bus) acceptable(s Stream, p *Publication) error {
	if err := b.wellFormed(p); err != nil {
		return err
	}
	if by, captured := b.table.Load().captures(p.Subject); !captured || by.Config.Name != s.Config.Name {
		return fmt.Errorf("%w: not this one", bus.ErrNoStream)
	}
	return b.fits(s, p)
}
