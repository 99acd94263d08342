package natsbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	// resendAfter is how long an acknowledgement is waited for in a cluster before the message is sent again, and then
	// twice that, as a server may only be busy. It is found out sooner when a connection between the servers has ended.
	resendAfter    = 2 * time.Second
	inProcessPause = 20 * time.Millisecond
	// releaseTimeout bounds the question whether it is still to be sent.
	releaseTimeout = time.Second
	// callHeader tells the attempts of one call from those of another one with the same message ID.
	callHeader = "Nats-Jitney-Call"
)

// deliver publishes p until a leader of the stream has taken it, within the time of ctx. In a cluster the one who was to
// acknowledge may die and nobody says so; then the message is sent again under the same ID, so that it is stored once.
func (b *backend) deliver(ctx context.Context, s driver.Stream, p *driver.Publication, h nats.Header) answer {
	if !b.elects {
		return b.publish(ctx, s.Config.Name, p, h, ackTimeout)
	}
	call := b.ids + strconv.FormatUint(b.nextCall.Add(1), 36)
	own := p.ID == ""
	if own || len(h) == len(p.Header) {
		h = maps.Clone(h)
	}
	if h == nil {
		h = nats.Header{}
	}
	if own {
		h[nats.MsgIdHdr] = []string{call}
	} else {
		h[callHeader] = []string{call}
	}
	if err := fits(s, p, h); err != nil {
		return answer{err: err}
	}
	id := h[nats.MsgIdHdr][0]
	began, interrupts := time.Now(), b.interrupts.Load()
	stored := false // perhaps
	for attempt := 0; ; attempt++ {
		if b.interrupts.Load() != interrupts { // while nothing was waited for that it ends
			if stored {
				return answer{err: unknown(bus.ErrClosed)}
			}
			return answer{err: bus.ErrClosed}
		}
		x := b.publish(ctx, s.Config.Name, p, h, resendAfter*time.Duration(min(attempt+1, 2)))
		var wait time.Duration
		switch {
		case x.err == nil:
			if x.ack.Duplicate && attempt > 0 { // of ourselves?
				x.ack.Duplicate = !own && b.callOf(ctx, x.stream, x.ack.Sequence) != call
			}
			return x
		case errors.Is(x.err, driver.ErrNotCaptured):
			wait = electionPause
			if gone := b.stillCaptures(ctx, s, p.Subject); gone != nil {
				if stored {
					gone = unknown(fmt.Errorf("%w: stream %s is gone", bus.ErrUnavailable, s.Config.Name))
				}
				return answer{err: gone}
			}
		case errors.Is(x.err, bus.ErrClosed):
			if stored {
				x.err = unknown(x.err)
			}
			return x
		case errors.Is(x.err, bus.ErrUnknownOutcome):
			stored = true
			// Whoever listens to the subject of a stream that is gone would be given it each time. All who wait share the first
			// question.
			captors := b.names.Get
			if attempt > 0 {
				captors = func(ctx context.Context) ([]string, error) { return b.Find(ctx, p.Subject) }
			}
			if releasedBy(ctx, s.Config.Name, captors) {
				return x
			}
		case isCode(x.err, codeNoQuorum), errors.Is(x.err, errInterrupted):
			wait = electionPause
		case isCode(x.err, codeInProcess), // the same ID, by an earlier attempt or by somebody else
			isCode(x.err, codeSubjectInProcess): // another message of the subject, perhaps one that was just acknowledged
			wait = inProcessPause
		case stored && errors.Is(x.err, bus.ErrConflict):
			// A stream without replicas looks at what is expected first: what stands there may be this message.
			seq, found, err := b.findID(ctx, s, id)
			if !found { // it may have stood there, and been replaced or discarded since
				text := fmt.Sprint(errors.Join(x.err, err))
				return answer{err: unknown(fmt.Errorf("%w: an acknowledgement is missing, and what was sent again was refused: %s", bus.ErrUnavailable, text))}
			}
			dup := !own && b.callOf(ctx, s.Config.Name, seq) != call
			return answer{stream: s.Config.Name, ack: driver.Ack{Sequence: seq, Duplicate: dup}}
		default:
			if stored {
				x.err = unknown(x.err)
			}
			return x
		}
		took := time.Since(began)
		_, bounded := ctx.Deadline()
		// Beyond the window the stream would store it twice.
		late := stored && took+resendAfter > s.Config.Duplicates || !bounded && took > electionTimeout
		if !late && sleep(ctx, wait) {
			continue
		}
		err := fmt.Errorf("%w: stream %s has not taken it: its leader, or the connection to it, is gone", bus.ErrUnavailable, s.Config.Name)
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", err, ctx.Err())
		}
		if stored {
			err = unknown(err)
		}
		return answer{err: err}
	}
}

// releasedBy reports whether the server says in time which streams capture something, and doesn't name one.
func releasedBy(ctx context.Context, stream string, captors func(ctx context.Context) ([]string, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	names, err := captors(ctx)
	return err == nil && !slices.Contains(names, stream)
}

// callOf is the call by which a stored message came, if it had an ID of its user's; "" where that isn't known.
func (b *backend) callOf(ctx context.Context, stream string, sequence uint64) string {
	r, err := b.getOne(ctx, stream, getRequest{Seq: sequence})
	if err != nil || len(r.messages) == 0 {
		return ""
	}
	return r.call
}

// sleep returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// rerouted ends the attempts that may wait in vain.
func (b *backend) rerouted() {
	b.acks.fail(unknown(fmt.Errorf("%w: a connection between the servers was lost before an acknowledgement came", bus.ErrUnavailable)), everyone)
}

// stillCaptures returns driver.ErrNotCaptured when the stream that captured a subject is another one now, or none.
func (b *backend) stillCaptures(ctx context.Context, s driver.Stream, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, lastQuestion)
	defer cancel()
	info, err := b.info(ctx, s.Config.Name)
	switch {
	case errors.Is(err, driver.ErrNotCaptured):
		return err
	case err != nil:
		return nil // nobody knows
	case b.epoch(info) != s.Epoch:
		return driver.ErrNotCaptured
	}
	for _, pattern := range info.Config.Subjects {
		if bus.Match(pattern, subject) {
			return nil
		}
	}
	return driver.ErrNotCaptured
}
