package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	unknownPause = 100 * time.Millisecond
	// unknownTimeout is how long a call whose context has no deadline waits for a stream to be known.
	unknownTimeout = 20 * time.Second
)

// routed returns a table that says what captures a pattern: t, or a later one if a stream of which t doesn't know what it
// captures touches the pattern.
func (b *Bus) routed(ctx context.Context, t *table, pattern string) (*table, error) {
	if len(t.unknown) == 0 || t.route(pattern).captured {
		return t, nil
	}
	finder, ok := b.backend.(Finder)
	if !ok {
		return b.known(ctx, t, func(context.Context) ([]string, error) { return t.unknown, nil })
	}
	return b.known(ctx, t, func(ctx context.Context) ([]string, error) { return finder.Find(ctx, pattern) })
}

// known waits until it is known what each of the streams captures, and returns the table that says so.
func (b *Bus) known(ctx context.Context, t *table, streams func(ctx context.Context) ([]string, error)) (*table, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if _, bounded := ctx.Deadline(); !bounded {
		ctx, cancel = context.WithTimeout(ctx, unknownTimeout)
		defer cancel()
	}
	var pause *time.Ticker
	for len(t.unknown) > 0 {
		names, err := streams(ctx)
		if err != nil {
			return nil, cause(ctx, err)
		}
		i := slices.IndexFunc(names, func(name string) bool { return slices.Contains(t.unknown, name) })
		if i < 0 {
			break
		}
		if pause == nil {
			pause = time.NewTicker(unknownPause)
			defer pause.Stop()
		}
		select {
		case <-pause.C:
			t, err = b.refresh.Get(ctx)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err = cause(ctx, err); err != nil && !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, bus.ErrClosed) {
			err = fmt.Errorf("%w: what stream %s captures isn't known yet: nobody who has it answers: %w", bus.ErrUnavailable, names[i], err)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}
