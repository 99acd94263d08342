package natsbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus"
)

const (
	// healthTime bounds Health.
	healthTime = 2 * time.Second
	// behindTime is how long a member isn't current before Health says so: under load it is behind by moments again and again.
	behindTime  = 500 * time.Millisecond
	behindPause = 20 * time.Millisecond
	// leaderTime is how long the leader of a stream has to answer.
	leaderTime = time.Second
	// mostTold is how many streams Health names.
	mostTold = 10
)

// Health implements bus.HealthChecker.
func (b *natsBus) Health(ctx context.Context) error {
	if err := b.backend.health(ctx); err != nil {
		return fmt.Errorf("bus: health: %w", err)
	}
	return nil
}

// health is what is wrong now.
func (b *backend) health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	// JetStream answers all the same where a member's store has failed: by the others.
	if err := b.failure(); err != nil {
		return b.remedy(ctx, err)
	}
	err := b.wrong(ctx)
	if failure := b.failure(); failure != nil && ctx.Err() == nil { // it has come meanwhile, and is why
		return b.remedy(ctx, failure)
	}
	return err
}

// failure is what has gone wrong with the server in this process.
func (b *backend) failure() error {
	if b.node == nil || b.nc.IsClosed() {
		return nil
	}
	return b.node.failure()
}

// wrong is what is wrong beside that.
func (b *backend) wrong(ctx context.Context) error {
	if err := b.reachable(ctx); err != nil {
		return err
	}
	switch {
	case b.server != nil:
		return b.server.harm()
	case b.isMember():
		if err := b.behind(ctx); err != nil {
			return err
		}
	}
	return b.withoutLeader(ctx)
}

// reachable is whether JetStream answers.
func (b *backend) reachable(ctx context.Context) error {
	if b.nc.IsClosed() {
		return bus.ErrClosed
	}
	if !b.nc.IsConnected() || !b.rc.IsConnected() {
		return errInterrupted
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	return b.ask(ctx, "$JS.API.INFO", nil, nil)
}

// remedy says what to do about a failure of a member's store.
func (b *backend) remedy(ctx context.Context, failure error) error {
	if !b.isMember() {
		return failure
	}
	b.node.mu.Lock()
	restarts, blocked := b.node.restarts, b.node.obstacle != ""
	b.node.mu.Unlock()
	_, err := b.room.Get(ctx)
	switch {
	case err != nil && restarts:
		return fmt.Errorf("%w; %w: make room or mend the disk, and this member comes back. Until then the others go on without it", failure, err)
	case err != nil:
		return fmt.Errorf("%w; %w: make room or mend the disk, and restart this member. Until then the others go on without it", failure, err)
	case blocked:
		return fmt.Errorf("%w. Until then the others go on without it", failure)
	case restarts:
		return fmt.Errorf("%w; there is room now: this member is coming back. Until then the others go on without it", failure)
	}
	return fmt.Errorf("%w; there is room now: restart this member. Until then the others go on without it", failure)
}

// isMember reports whether the server in this process is one of a cluster.
func (b *backend) isMember() bool { return b.node != nil && b.node.cfg.Cluster != nil }

// holds reports whether a member of the cluster has a replica of the stream.
func (i *streamInfo) holds(member string) bool {
	held := i.Cluster != nil && i.Cluster.Leader == member
	if i.Cluster != nil {
		for _, r := range i.Cluster.Replicas {
			held = held || r.Name == member
		}
	}
	return held
}

// behind says what of the cluster's streams this member should have and hasn't yet.
func (b *backend) behind(ctx context.Context) error {
	for until := time.Now().Add(behindTime); ; {
		lacks, err := b.lacks.Get(ctx)
		switch {
		case err != nil:
			return connectionError(ctx, err)
		case len(lacks) == 0:
			return nil
		case errors.Is(ctx.Err(), context.Canceled):
			return ctx.Err()
		case time.Now().After(until) || !sleep(ctx, behindPause):
			return fmt.Errorf("%w: this member isn't current: %s", bus.ErrUnavailable, enumerated(lacks))
		}
	}
}

// check looks for what this member should have. What the server says itself about its health isn't all: to it a replica
// that gets nearer is a healthy one. It may wait 10 ms for each that doesn't.
func (b *backend) check() (lacks []string, err error) {
	for _, found := range b.node.server.Load().Healthz(&server.HealthzOptions{Details: true}).Errors {
		// Consumers come and go, and who uses one sees whether it delivers.
		if found.Type != server.HealthzErrorConsumer {
			lacks = append(lacks, found.Error)
		}
	}
	if b.node.suspectsLog() {
		lacks = append(lacks, "what it knows of the cluster's streams isn't what the leader knows, since the machines crashed; it is made anew")
	}
	for _, name := range b.node.differing() {
		lacks = append(lacks, fmt.Sprintf("its replica of stream %s isn't what the leader has, since the machines crashed; it is made anew", name))
	}
	if len(lacks) > 0 {
		slices.Sort(lacks)
		return lacks, nil
	}
	b.mu.Lock()
	led := b.led
	b.mu.Unlock()
	streams, err := b.node.server.Load().streams()
	if err != nil {
		return []string{err.Error()}, nil // the server isn't ready for it
	}
	have := map[string]uint64{}
	for _, s := range streams {
		have[s.Name] = s.State.LastSeq
	}
	for _, stream := range sortedKeys(led) {
		if have[stream] < led[stream] {
			lacks = append(lacks, fmt.Sprintf("it has stream %s up to %d of %d", stream, have[stream], led[stream]))
		}
	}
	return lacks, nil
}

// enumerated lists not too many.
func enumerated(names []string) string {
	if n := len(names); n > mostTold {
		names = append(names[:mostTold:mostTold], fmt.Sprintf("and %d more", n-mostTold))
	}
	return strings.Join(names, ", ")
}

// concerns reports whether Health speaks of a stream: of somebody else's servers only of those that this bus uses. b.mu is held.
func (b *backend) concerns(stream string) bool {
	_, uses := b.known.Load(stream)
	for t := range b.tails {
		uses = uses || t.stream.Config.Name == stream
	}
	return uses || b.isMember()
}

// withoutLeader names the streams that had no leader when they were listed and have none now.
func (b *backend) withoutLeader(ctx context.Context) error {
	b.mu.Lock()
	suspected := sortedKeys(b.leaderless)
	b.mu.Unlock()
	for i, stream := range suspected {
		var info streamInfo
		err := b.question(ctx, "$JS.API.STREAM.INFO."+stream, nil, &info, leaderTime)
		switch {
		case errors.Is(err, errCut), errors.Is(err, errInterrupted), ctx.Err() != nil:
			return err
		case errors.Is(err, bus.ErrUnavailable):
			perhaps := ""
			if rest := suspected[i+1:]; len(rest) > 0 {
				perhaps = ", and perhaps of " + enumerated(rest)
			}
			return fmt.Errorf("%w: no leader now of %s%s: more than half of the members that hold a stream must run and reach each other",
				bus.ErrUnavailable, stream, perhaps)
		}
	}
	return nil
}
