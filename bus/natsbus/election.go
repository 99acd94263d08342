package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
)

// What holds in a cluster while its servers choose a leader: of a stream, or of the cluster itself, whom the API asks.
const (
	// electionTimeout bounds what has no deadline of its own. An election begins 4 to 9 s after a leader has died
	// without a word (minElectionTimeout in nats-server's raft.go) and may take a second round.
	electionTimeout = 20 * time.Second
	// firstQuestion is how long an answer is waited for before the question is put again: whoever was to answer may be
	// dead, and nobody says so. Each time it is twice as long, up to lastQuestion.
	firstQuestion = 250 * time.Millisecond
	lastQuestion  = 2 * time.Second
	// firstList is the same for a list of streams. Who makes it waits 4 s for a leader that wasn't there when it began
	// (jsClusteredStreamListRequest in nats-server), so it may be quicker to ask again.
	firstList    = 500 * time.Millisecond
	slowQuestion = 5 * time.Second // of changes, and of the last lists
	// firstConsumer is the same for a tail's consumer. It stands on one server alone.
	firstConsumer = 2 * time.Second
	electionPause = 100 * time.Millisecond
	// lease is how long a leader is one by itself. A member that has heard from its leader votes for no other one for
	// at least minElectionTimeout.
	lease = 3500 * time.Millisecond
)

// errNoLeader is also a bus.ErrUnavailable.
var errNoLeader = fmt.Errorf("%w: there is no leader now: more than half of the cluster's members must run and reach each other", bus.ErrUnavailable)

// clusterInfo is how a stream's leader sees its replicas; nil where the server isn't in a cluster.
type clusterInfo struct {
	Leader      string    `json:"leader"`
	LeaderSince time.Time `json:"leader_since"`
	Replicas    []struct {
		Name    string        `json:"name"`
		ID      string        `json:"peer"`
		Offline bool          `json:"offline"`
		Active  time.Duration `json:"active"` // since it was heard; 0: never
	} `json:"replicas"`
}

// doubtful is an answer that may be wrong.
type doubtful interface{ doubt() error }

// doubt implements doubtful. A stream's replica answers, too, when it knows of no leader, and one that was the leader
// may be the last to learn that another one is.
func (i *streamInfo) doubt() error {
	c := i.Cluster
	if c == nil {
		return nil
	}
	heard := 1
	for _, r := range c.Replicas {
		if r.Name == c.Leader {
			// A leader isn't among its own replicas. For ten seconds the server also has another one answer: who was to lead
			// the stream when it was made (jsStreamInfoRequest).
			return errNoLeader
		}
		if r.Active > 0 && r.Active < lease {
			heard++
		}
	}
	if c.Leader == "" || heard <= (len(c.Replicas)+1)/2 {
		return errNoLeader
	}
	return nil
}

// ask asks JetStream's API on the connection for questions. While there is no leader to answer it asks again, until ctx
// ends, or for a time where it has no deadline.
func (b *backend) ask(ctx context.Context, subject string, request, answer any) error {
	ctx, cancel := b.inTime(ctx)
	defer cancel()
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	var said error // what was said last, apart from nothing
	sent := false  // and not answered
	for attempt := 0; ; attempt++ {
		err := b.question(ctx, subject, body, answer, questionTime(subject, attempt))
		if sent && isGone(err) && strings.Contains(subject, ".DELETE.") {
			err = nil // an earlier one has removed it
		}
		sent = sent || errors.Is(err, errNoAnswer) && !errors.Is(err, nats.ErrNoResponders)
		b.trouble.Store(nil)
		if b.again(err) {
			b.trouble.Store(&err)
		}
		if ctx.Err() == nil || said == nil {
			said = err
		}
		again := b.again(err) || sent && b.elects && errors.Is(err, errInterrupted)
		if !again || ctx.Err() != nil {
			return said
		}
		pause := time.NewTimer(electionPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return said
		}
	}
}

// explained says why a call had to wait until its context ended: several wait for one answer, and don't see its errors.
func (b *backend) explained(err error) error {
	if trouble := b.trouble.Load(); trouble != nil && errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, bus.ErrUnavailable) {
		return fmt.Errorf("%w: %w", err, *trouble)
	}
	return err
}

// inTime bounds ctx if nobody has.
func (b *backend) inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	if b.elects {
		return context.WithTimeout(ctx, electionTimeout)
	}
	return context.WithTimeout(ctx, askTimeout)
}

// again reports whether a question is to be put again.
func (b *backend) again(err error) bool {
	if isCode(err, codeNoQuorum) || errors.Is(err, errNoLeader) {
		return true
	}
	// In a cluster a server may not know of the others yet.
	return b.elects && (isCode(err, codeNoPeers) || errors.Is(err, errNoAnswer))
}

// errNoAnswer is also a bus.ErrUnavailable.
var errNoAnswer = fmt.Errorf("%w: no answer from JetStream: is it enabled on the servers, and can they be reached?", bus.ErrUnavailable)

// questionTime is how long the answer to a question is waited for.
func questionTime(subject string, attempt int) time.Duration {
	for _, quick := range []string{".INFO", ".NAMES", ".MSG.GET"} {
		if strings.Contains(subject, quick) {
			return min(firstQuestion<<min(attempt, 8), lastQuestion)
		}
	}
	if strings.Contains(subject, ".LIST") && attempt < 2 {
		return firstList << attempt
	}
	return slowQuestion
}

// question asks once, and in a cluster waits so long for an answer.
func (b *backend) question(ctx context.Context, subject string, body []byte, answer any, wait time.Duration) error {
	if err := b.storeFailure(); err != nil {
		return err
	}
	try, cancel := ctx, context.CancelFunc(func() {})
	if b.elects {
		try, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	try, unlink := b.link.context(try, b.call(subject))
	defer unlink()
	m, err := b.rc.RequestWithContext(try, b.call(subject), body)
	if cause := context.Cause(try); err != nil && errors.Is(cause, bus.ErrForbidden) {
		return cause
	}
	if err != nil && context.Cause(try) == errCut {
		if b.elects {
			return fmt.Errorf("%w: %w", errNoAnswer, errCut) // another one may know
		}
		return errCut
	}
	if err != nil && ctx.Err() == nil && (errors.Is(err, nats.ErrNoResponders) || b.elects && try.Err() != nil) {
		return fmt.Errorf("%w (on %s>): %w", errNoAnswer, b.api, err)
	}
	if err != nil {
		return connectionError(ctx, err)
	}
	if err := b.storeFailure(); err != nil {
		return err // while the store is opened again its streams seem to be gone
	}
	var failure struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failure); err != nil {
		return fmt.Errorf("the server's answer to %s can't be read: %w", subject, err)
	}
	if failure.Error != nil {
		if failure.Error.Code == codeNoQuorum {
			return errors.Join(errNoLeader, failure.Error)
		}
		return failure.Error
	}
	if answer == nil {
		return nil
	}
	reflect.ValueOf(answer).Elem().SetZero() // what this answer leaves out would stay of an earlier one that was doubted
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return err
	}
	if d, ok := answer.(doubtful); ok {
		return d.doubt()
	}
	return nil
}
