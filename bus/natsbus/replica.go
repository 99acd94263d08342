package natsbus

import (
	"context"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// A replica that lags behind is asked again so often, with a pause in between, where a part of the answer is of no use.
const (
	lagQuestions = 50
	lagPause     = 10 * time.Millisecond
)

// last is the sequence of the last message, or 0.
func (r *getResult) last() uint64 {
	if len(r.messages) == 0 {
		return 0
	}
	return r.messages[len(r.messages)-1].Cursor.Sequence()
}

// getThrough is get for what is known to be stored up to a sequence. Where the store isn't ours, whichever replica or mirror is
// near answers a read, also one that lags behind. It holds the beginning of the stream's log, so what it gives is right
// as far as it goes; whether that is the end only the leader knows.
func (b *backend) getThrough(ctx context.Context, stream string, r getRequest, upTo uint64) (*getResult, error) {
	for lag := 0; ; lag++ {
		result, err := b.get(ctx, stream, r)
		if err != nil || b.server != nil || result.last() >= upTo {
			return result, err
		}
		if result.pending > 0 {
			if len(r.Last) > 0 {
				return nil, errTooMany // a later part might be another replica's
			}
			return result, nil
		}
		behind := r
		if last := result.last(); last > 0 {
			behind = getRequest{Seq: last + 1, Next: r.Next}
		}
		if len(r.Last) > 0 {
			behind.Next, behind.Last, behind.UpTo = r.Last[0], nil, 0
		}
		next, err := b.getOne(ctx, stream, behind)
		switch {
		case err != nil:
			return nil, err
		case next.last() == 0 || next.last() > upTo:
			return result, nil
		case len(r.Last) > 0: // any of them may not be the last one
			if lag == lagQuestions {
				return nil, errTooMany // it is read and counted then
			}
			if !sleep(ctx, lagPause) {
				return nil, connectionError(ctx, context.Cause(ctx))
			}
			continue
		case result.last() == 0:
			return next, nil
		}
		result.pending, result.guessed = 1, true
		return result, nil
	}
}

// newer drops what the stream has discarded since: a replica that lags behind still had it, or it was read ahead.
func (r *getResult) newer(first uint64) {
	r.through = r.last()
	before := len(r.messages)
	r.messages = slices.DeleteFunc(r.messages, func(m *bus.Message) bool { return m.Cursor.Sequence() < first })
	r.total -= min(r.total, uint64(before-len(r.messages)))
}
