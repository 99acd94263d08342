package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// EnsureStreams implements bus.Bus.
func (b *Bus) EnsureStreams(ctx context.Context, streams ...bus.StreamConfig) error {
	if err := b.ensureStreams(ctx, streams); err != nil {
		return fmt.Errorf("bus: ensure streams: %w", err)
	}
	return nil
}

func (b *Bus) ensureStreams(ctx context.Context, streams []bus.StreamConfig) error {
	counted, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer b.leave(counted)
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := b.changing(ctx)
	defer cancel()
	select {
	case b.ensure <- struct{}{}:
		defer func() { <-b.ensure }()
	case <-ctx.Done():
		return cause(ctx, ctx.Err())
	}
	names := make([]string, len(streams))
	for i, cfg := range streams {
		if _, err := checkStream(cfg); err != nil {
			return err // before anything is waited for
		}
		names[i] = cfg.Name
	}
	t, err := b.refresh.Get(ctx)
	if err == nil && len(names) > 0 {
		t, err = b.known(ctx, t, names...)
	}
	if err != nil {
		return cause(ctx, err)
	}
	configs, err := b.checkStreams(t, streams)
	if err != nil {
		return err
	}
	for _, cfg := range configs {
		if have, exists := t.streams[cfg.Name]; exists && sameConfig(have.Config, cfg) {
			continue
		}
		if err := b.ensureStream(ctx, cfg); err != nil {
			return fmt.Errorf("stream %q: %w", cfg.Name, cause(ctx, err))
		}
	}
	return nil
}

// checkStreams checks all configs against each other and what exists, before any is applied.
func (b *Bus) checkStreams(t *table, streams []bus.StreamConfig) ([]bus.StreamConfig, error) {
	// What will be there when the call is through: with the streams that it changes as they will be.
	after := map[string]Stream{}
	for name, s := range t.streams {
		after[name] = s
	}
	configs := make([]bus.StreamConfig, 0, len(streams))
	for _, cfg := range streams {
		cfg, err := checkStream(cfg)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(configs, func(c bus.StreamConfig) bool { return c.Name == cfg.Name }) {
			return nil, fmt.Errorf("stream %q: %w: it is given twice", cfg.Name, bus.ErrBadStream)
		}
		configs = append(configs, cfg)
		after[cfg.Name] = Stream{Config: cfg}
	}
	for _, cfg := range configs {
		if name, theirs, ours := (&table{streams: after}).overlapping(cfg); name != "" {
			return nil, fmt.Errorf("stream %q: %w: its subject %q and %q of stream %q", cfg.Name, bus.ErrStreamOverlap, ours, theirs, name)
		}
	}
	return configs, nil
}

func (b *Bus) ensureStream(ctx context.Context, cfg bus.StreamConfig) error {
	before, err := b.backend.State(ctx, cfg.Name) // another process may have created it this moment
	exists := !errors.Is(err, ErrNotCaptured)
	if exists && err != nil {
		return err
	}
	if err := b.move(ctx, cfg, before.Last); err != nil || !exists {
		return err
	}
	// A publish in between hides as many; what is logged is at least right about its direction.
	if after, err := b.backend.State(ctx, cfg.Name); err == nil && after.Epoch == before.Epoch && after.Msgs < before.Msgs {
		b.log.Warn("bus: new limits discarded messages", "stream", cfg.Name, "count", before.Msgs-after.Msgs)
	}
	return nil
}

// move changes a stream while nothing is sent past it, and has the subscriptions that it
// concerns receive from it, from behind a sequence.
func (b *Bus) move(ctx context.Context, cfg bus.StreamConfig, after uint64) error {
	b.mu.Lock()
	b.settled = make(chan struct{})
	b.mu.Unlock()
	b.sending.Lock()
	defer func() {
		b.sending.Unlock()
		b.mu.Lock()
		close(b.settled)
		b.settled = nil
		b.mu.Unlock()
	}()
	// What was sent as uncaptured must arrive before it would be taken for a copy of something captured.
	if err := b.backend.Flush(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	b.moving = true
	b.mu.Unlock()
	err := b.backend.Ensure(ctx, cfg)
	var t *table
	if err == nil {
		t, err = b.refresh.Get(ctx)
	}
	if err == nil {
		t, err = b.known(ctx, t, cfg.Name)
	}
	if err != nil {
		b.Changed() // the stream may be there all the same
	}
	b.mu.Lock()
	moved := b.moved
	b.moving, b.moved = false, nil
	b.mu.Unlock()
	for _, s := range moved {
		if t == nil || s.reroute(ctx, t, cfg.Name, after) != nil {
			s.end(bus.ErrStreamChanged)
		}
	}
	return err
}

// RemoveStream implements bus.Remover.
func (b *Bus) RemoveStream(ctx context.Context, name string) error {
	if err := b.removeStream(ctx, name); err != nil {
		return fmt.Errorf("bus: remove stream %.80q: %w", name, err)
	}
	return nil
}

func (b *Bus) removeStream(ctx context.Context, name string) error {
	counted, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer b.leave(counted)
	if err := ctx.Err(); err != nil {
		return err
	}
	if !isStreamName(name) {
		return bus.ErrNoStream
	}
	ctx, cancel := b.changing(ctx)
	defer cancel()
	select {
	case b.ensure <- struct{}{}:
		defer func() { <-b.ensure }()
	case <-ctx.Done():
		return cause(ctx, ctx.Err())
	}
	remover, ok := b.backend.(Remover)
	if !ok {
		return bus.ErrUnsupported
	}
	err = remover.Remove(ctx, name)
	if errors.Is(err, ErrNotCaptured) {
		err = bus.ErrNoStream
	}
	if err != nil {
		return cause(ctx, err)
	}
	b.mu.Lock()
	var gone []*group // their positions were the stream's
	for _, g := range b.groups {
		if g.stream == name {
			gone = append(gone, g)
		}
	}
	b.mu.Unlock()
	for _, g := range gone {
		g.remove()
	}
	_, err = b.refresh.Get(ctx) // ends those that received from it
	return cause(ctx, err)
}

// Streams implements bus.StreamLister.
func (b *Bus) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	counted, err := b.enter(ctx)
	if err != nil {
		return nil, fmt.Errorf("bus: list streams: %w", err)
	}
	defer b.leave(counted)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("bus: list streams: %w", err)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	t, err := b.refresh.Get(ctx)
	if err == nil {
		t, err = b.known(ctx, t)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: list streams: %w", unanswered(cause(ctx, err)))
	}
	var infos []bus.StreamInfo
	for name, s := range t.streams {
		st, err := b.backend.State(ctx, name)
		if errors.Is(err, ErrNotCaptured) {
			continue // deleted since
		}
		if err != nil {
			return nil, fmt.Errorf("bus: list streams: stream %q: %w", name, cause(ctx, err))
		}
		info := bus.StreamInfo{Config: s.Config, Msgs: st.Msgs, Bytes: st.Bytes}
		info.Config.Subjects = slices.Clone(s.Config.Subjects)
		if st.Msgs > 0 {
			info.First = bus.NewCursor(st.Epoch, st.First)
		}
		if st.Last > 0 {
			info.Last = bus.NewCursor(st.Epoch, st.Last)
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(x, y bus.StreamInfo) int { return strings.Compare(x.Config.Name, y.Config.Name) })
	return infos, nil
}

// install asks what captures what, makes it the table, and tells those whom it concerns.
// The share runs one at a time.
func (b *Bus) install() (*table, error) {
	if !b.begin() {
		return nil, bus.ErrClosed
	}
	defer b.ending.Done()
	b.stale.Store(false)
	ctx, cancel := context.WithTimeout(b.life, askTimeout)
	defer cancel()
	streams, err := b.backend.Streams(ctx)
	if err != nil {
		return nil, cause(ctx, err)
	}
	t := newTable(streams, b.table.Load())
	b.mu.Lock()
	b.table.Store(t)
	var changed []*subscription
	for _, s := range b.subs.all {
		switch {
		case s.route.equal(t.route(s.pattern)):
		case s.ctx.Err() != nil: // it has ended, or is about to
		case b.moving && !s.grouped && s.fills == nil:
			b.moved = append(b.moved, s)
		default:
			changed = append(changed, s)
		}
	}
	feeds := make([]*feed, 0, len(b.feeds))
	for _, f := range b.feeds {
		feeds = append(feeds, f)
	}
	b.mu.Unlock()
	for _, s := range changed {
		s.end(bus.ErrStreamChanged)
	}
	for _, f := range feeds {
		if s, ok := t.streams[f.name]; ok {
			f.follow(s)
		}
	}
	return t, nil
}
