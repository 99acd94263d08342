package natsbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// A server elsewhere may lose the end of its streams in a crash, or be started on an older copy of its store. It gives their sequences a second
// time then and says nothing of it (nats-server 2.15). Who has had the first ones can tell, and begins the next life of the stream for all. Where
// one server holds a stream its answer is all that there is; where several do, it may be that of one that is behind, and nothing follows from it.

const (
	// lossTimeout bounds each question about a stream that may have lost its end.
	lossTimeout = 2 * time.Second
	// lossPause is how long a server of ours has to say it by itself (epoch.go, sound.go).
	lossPause = time.Second
)

// given is what this bus was given last of a stream before each interruption, by the stream's epochs.
type given map[string][]mark

// add takes another one; of those whose time isn't known the highest says it all.
func (g given) add(epoch string, m mark) {
	if m.Seq > 0 && !slices.ContainsFunc(g[epoch], func(have mark) bool { return have == m || m.Time == 0 && have.Seq >= m.Seq }) {
		g[epoch] = append(g[epoch], m)
	}
}

// suspect has a stream looked at whose server, or the connection to it, was interrupted; "" is each that somebody receives from. It doesn't wait.
func (b *backend) suspect(stream string) {
	if b.server != nil || b.isMember() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	concerns := func(s driver.Stream) bool { return stream == "" || stream == s.Config.Name }
	add := func(s driver.Stream, epoch string, m mark) {
		name := s.Config.Name
		if b.suspects[name] == nil {
			b.suspects[name] = given{}
		}
		b.suspects[name].add(epoch, m)
	}
	for t := range b.tails {
		if concerns(t.stream) {
			t.mu.Lock()
			m := mark{t.after, t.at}
			t.mu.Unlock()
			add(t.stream, t.stream.Epoch, m)
		}
	}
	for p := range b.shares {
		if concerns(p.stream) {
			p.mu.Lock()
			epoch, m := p.epoch, p.last
			p.mu.Unlock()
			add(p.stream, epoch, m)
		}
	}
}

// keepLooking looks at the streams that are suspected until the bus is closed.
func (b *backend) keepLooking() {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if b.rc.IsConnected() {
				b.lookForLosses()
			}
		case <-b.stopPoll:
			return
		}
	}
}

// lookForLosses looks at the streams that are suspected, if there are any.
func (b *backend) lookForLosses() {
	b.mu.Lock()
	suspects := maps.Clone(b.suspects)
	clear(b.suspects)
	b.mu.Unlock()
	lost := map[string]given{}
	for name, last := range suspects {
		if b.lookForLoss(name, last) != nil {
			lost[name] = last
		}
	}
	if len(lost) == 0 {
		return
	}
	select {
	case <-b.stopPoll:
		return
	case <-time.After(lossPause):
	}
	for name, last := range lost {
		if info := b.lookForLoss(name, last); info != nil && !b.beginAnew(info) {
			b.suspectStill(name, last)
		}
	}
	b.changed()
}

// lookForLoss returns a suspected stream if it has lost its end, and otherwise nil. Without an answer it stays suspected.
func (b *backend) lookForLoss(name string, last given) (lost *streamInfo) {
	ctx, cancel := b.untilClosed(lossTimeout)
	defer cancel()
	info, err := b.info(ctx, name)
	is := false
	if err == nil && info.Config.Replicas <= 1 {
		is, err = b.lacksGiven(ctx, info, last[b.epoch(info)])
	}
	switch {
	case err == nil && is:
		return info
	case err != nil && !errors.Is(err, driver.ErrNotCaptured) && !errors.Is(err, bus.ErrForbidden):
		b.suspectStill(name, last)
	}
	return nil
}

func (b *backend) suspectStill(name string, last given) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for epoch, marks := range b.suspects[name] { // since
		for _, m := range marks {
			last.add(epoch, m)
		}
	}
	b.suspects[name] = last
}

// lacksGiven reports whether a stream ends before what was given of it, or has another message in its place.
func (b *backend) lacksGiven(ctx context.Context, info *streamInfo, marks []mark) (bool, error) {
	for _, m := range marks {
		if m.Seq > info.State.Last {
			return true, nil
		}
		if m.Time == 0 {
			continue
		}
		if there, err := b.has(ctx, &view{name: info.Config.Name, info: info}, m); err != nil || !there {
			return err == nil, err
		}
	}
	return false, nil
}

// beginAnew begins the next life of a stream that has lost its end. It reports whether there was an answer. What the server refuses is told.
func (b *backend) beginAnew(info *streamInfo) bool {
	name, before := info.Config.Name, info.Config.Metadata[lifeKey]
	life := newLife(before)
	ctx, cancel := b.untilClosed(askTimeout)
	defer cancel()
	err := b.changeMetadata(ctx, name, func(m map[string]string) {
		if m[lifeKey] == before {
			m[lifeKey] = life
		}
	})
	var refused *apiError
	switch {
	case err == nil:
		b.log.Warn("natsbus: a stream of a server elsewhere has lost its end; its cursors of before are gaps now", "stream", name, "last", info.State.Last)
	case errors.Is(err, driver.ErrNotCaptured): // it was removed
	case errors.As(err, &refused), errors.Is(err, bus.ErrForbidden), errors.Is(err, errContended):
		b.report(bus.Problem{Err: fmt.Errorf("%w: stream %s has lost its end, and its next epoch can't be begun: who resumes may miss messages in silence: %w", bus.ErrGap, name, err)})
	default:
		return false
	}
	return true
}

// untilClosed is a context that ends after a while, or when the bus is being closed.
func (b *backend) untilClosed(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	go func() {
		defer cancel()
		select {
		case <-b.stopPoll:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
