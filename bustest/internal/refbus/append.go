package refbus

import (
	"context"
	"errors"
	"slices"

	"github.com/jitney-go/jitney/bus"
)

// Append implements bus.Appender.
func (b *Bus) Append(ctx context.Context, stream string, after bus.Cursor, messages ...*bus.Message) (cursors []bus.Cursor, err error) {
	b.pause()
	err = b.over(ctx, nil, func() error {
		cursors, err = b.appendAll(ctx, stream, after, messages)
		return err
	})
	return cursors, b.wrap("append to", stream, err, nil)
}

func (b *Bus) appendAll(ctx context.Context, name string, after bus.Cursor, messages []*bus.Message) ([]bus.Cursor, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refuse(ctx); err != nil && !(b.bug("appendAfterClose") && errors.Is(err, bus.ErrClosed)) {
		return nil, err
	}
	if b.cfg.NoStreams {
		return nil, bus.ErrUnsupported
	}
	i := slices.IndexFunc(b.streams, func(st *stream) bool { return st.cfg.Name == name })
	if i < 0 {
		return nil, bus.ErrNoStream
	}
	st := b.streams[i]
	if st.end() != after && !b.bug("appendAnywhere") {
		return nil, bus.ErrConflict
	}
	if b.bug("appendRace") {
		b.yield()
	}
	var cursors []bus.Cursor
	var failed error
	for _, m := range messages {
		m, err := b.appendOne(st, m)
		if err == nil {
			cursors = append(cursors, m.Cursor)
			continue
		}
		if failed = errors.Join(failed, err); !b.bug("appendGoesOn") {
			break
		}
	}
	return cursors, failed
}

func (b *Bus) appendOne(st *stream, m *bus.Message) (*bus.Message, error) {
	if err := bus.CheckSubject(m.Subject); err != nil {
		return nil, err
	}
	if err := checkHeader(m.Header); err != nil {
		return nil, err
	}
	if b.cfg.MaxPayload > 0 && size(m.Data, m.Header, true) > b.cfg.MaxPayload {
		return nil, bus.ErrTooLarge
	}
	if b.capturing(m.Subject) != st && !b.bug("appendUncaptured") {
		return nil, bus.ErrNoStream
	}
	var o bus.PublishOptions
	if b.bug("appendForgetsHeaders") {
		m = &bus.Message{Subject: m.Subject, Data: m.Data}
	}
	m = b.message(m.Subject, m.Data, m.Header)
	return m, b.append(st, m, o)
}

// end is the cursor of the newest message that the stream was ever given.
func (st *stream) end() bus.Cursor {
	if st.seq <= 1 {
		return bus.Cursor{}
	}
	return st.cursor(st.seq)
}
