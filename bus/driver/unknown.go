package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	unknownPause = 100 * time.Millisecond
	// unknownTimeout is how long a call whose context has no deadline waits for a stream to be known.
	unknownTimeout = 20 * time.Second
	// staleTimeout bounds the question whether a stream has come to capture more since it was known. Who can't be asked, as
	// in a minority, goes on with what it knows.
	staleTimeout = 500 * time.Millisecond
)

// routed returns a table that says what captures a pattern: t, or a later one if a stream of which t doesn't know what it
// captures may touch the pattern.
func (b *Bus) routed(ctx context.Context, t *table, pattern string) (*table, error) {
	if len(t.unknown)+len(t.stale) == 0 || t.route(pattern).captured || t.isApart(pattern) {
		return t, nil
	}
	waits := "" // the stream for which it has come to wait
	return b.untilKnown(ctx, t, func(ctx context.Context, t *table) (string, error) {
		if t.route(pattern).captured || t.isApart(pattern) {
			return "", nil
		}
		finder, ok := b.backend.(Finder)
		if !ok {
			return t.anyUnknown(), nil
		}
		asking, cancel := ctx, context.CancelFunc(func() {})
		optional := len(t.unknown) == 0 && waits == ""
		if optional {
			asking, cancel = context.WithTimeout(ctx, min(staleTimeout, remaining(ctx)/2))
		}
		names, err := finder.Find(asking, pattern)
		cancel()
		if err != nil && optional && ctx.Err() == nil {
			if remaining(ctx) > staleTimeout { // the next one needn't wait as long
				t.setDeaf()
			}
			return "", nil
		}
		name := t.unknownOf(names)
		if name == "" {
			name = t.staleOf(names, pattern)
		}
		if err == nil && name == "" {
			t.setApart(pattern)
		}
		waits = name
		return name, err
	})
}

// known returns t, or a later table that says what some streams capture, or all if none is named.
func (b *Bus) known(ctx context.Context, t *table, names ...string) (*table, error) {
	return b.untilKnown(ctx, t, func(_ context.Context, t *table) (string, error) {
		if len(names) == 0 {
			return t.anyUnknown(), nil
		}
		return t.unknownOf(names), nil
	})
}

// unknownOf returns the first of some streams of which only the name is known, or "".
func (t *table) unknownOf(names []string) string {
	for _, name := range names {
		if _, unknown := t.unknown[name]; unknown {
			return name
		}
	}
	return ""
}

// staleOf returns the first of some streams that touch a pattern and, as they were known, didn't, or "".
func (t *table) staleOf(names []string, pattern string) string {
	r := t.route(pattern)
	for _, name := range names {
		if _, stale := t.stale[name]; stale && !slices.Contains(r.streams, name) {
			return name
		}
	}
	return ""
}

// anyUnknown is unknownOf of all.
func (t *table) anyUnknown() string {
	return first(t.unknown)
}

// first returns the lowest key, or "".
func first(m map[string]string) string {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		return key
	}
	return ""
}

// untilKnown waits until unknown names no stream of which a table doesn't know what it captures, and returns that table.
func (b *Bus) untilKnown(ctx context.Context, t *table, unknown func(ctx context.Context, t *table) (string, error)) (*table, error) {
	if len(t.unknown)+len(t.stale) == 0 {
		return t, nil
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if _, bounded := ctx.Deadline(); !bounded {
		ctx, cancel = context.WithTimeout(ctx, unknownTimeout)
		defer cancel()
	}
	pause := time.NewTicker(unknownPause)
	defer pause.Stop()
	for len(t.unknown)+len(t.stale) > 0 {
		name, err := unknown(ctx, t)
		if err == nil && name == "" {
			break
		}
		if name == "" { // it can't be said that it isn't this one
			name = cmp.Or(t.anyUnknown(), first(t.stale))
		}
		why := t.unknown[name] + t.stale[name]
		if err == nil {
			select {
			case <-pause.C:
				t, err = b.refresh.Get(ctx)
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		if err = cause(ctx, err); errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, bus.ErrUnavailable) {
			return nil, fmt.Errorf("%w: what stream %s captures isn't known: %s: %w", bus.ErrUnavailable, name, why, err)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}
