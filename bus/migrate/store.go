package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-go/jitney/bus"
)

// store stores copies at the destination, in order and once. What has come from there isn't copied.
func (l *lane) store(ctx context.Context, batch []*bus.Message) error {
	var o outage
	stuck := 0
	for len(batch) > 0 {
		if batch[0].Cursor.Sequence() <= l.at { // another one has copied it
			batch = batch[1:]
			continue
		}
		if cameBy(batch[0], l.end.Epoch()) > 0 {
			l.passed(batch[0])
			continue
		}
		if ctx.Err() != nil {
			return l.cantCopy(batch, context.Cause(ctx))
		}
		at := l.at
		err := l.put(ctx, batch)
		if errors.Is(err, bus.ErrTooLarge) && l.b.cfg.SkipTooLarge {
			err = l.skip(batch)
		}
		if l.at > at {
			o = outage{} // the one before is over
		}
		switch {
		case err == nil:
			l.most = min(2*l.most, batchMsgs)
		case !errors.Is(err, bus.ErrConflict) && !mayPass(err), errors.Is(err, errElse), errors.Is(err, errAnew):
			return l.cantCopy(batch, err)
		default:
			if errors.Is(err, context.DeadlineExceeded) {
				l.most = max(1, l.most/2) // perhaps it is too much at once
			}
			if mayPass(err) {
				if err := l.b.await(ctx, &o, "publish to the destination", err); err != nil {
					return l.cantCopy(batch, err)
				}
			}
			l.b.outage = &o // what was told isn't told again
			err := l.resync(ctx)
			l.b.outage = nil
			if err != nil {
				return l.cantCopy(batch, err)
			}
		}
		if l.at > at || mayPass(err) {
			stuck = 0
		} else if stuck++; stuck == maxStuck {
			return l.cantCopy(batch, fmt.Errorf("%w: the destination's last message changes all the time; is another bridge running?", bus.ErrConflict))
		}
	}
	return nil
}

// maxStuck is how often a conflict is looked into without getting on.
const maxStuck = 5

// cantCopy names the message that couldn't be copied, the first behind what is.
func (l *lane) cantCopy(batch []*bus.Message, err error) error {
	for _, m := range batch {
		if m.Cursor.Sequence() > l.at {
			return fmt.Errorf("copy %q at %s: %w", m.Subject, m.Cursor, err)
		}
	}
	return err
}

// skip leaves out the first message that isn't copied.
func (l *lane) skip(batch []*bus.Message) error {
	for _, m := range batch {
		if m.Cursor.Sequence() > l.at {
			l.tooLarge++
			l.b.problems.report(bus.Problem{Subject: m.Subject, Cursor: m.Cursor,
				Err: fmt.Errorf("migrate: bridge: stream %s: left out, as it is too large for the destination: %w", l.name, bus.ErrTooLarge)})
			l.passed(m)
			break
		}
	}
	return nil
}

// put gives the destination what it is given at once, up to the first message that isn't to be copied.
func (l *lane) put(ctx context.Context, batch []*bus.Message) error {
	n := 1
	for n < min(len(batch), l.most) && cameBy(batch[n], l.end.Epoch()) == 0 {
		n++
	}
	if batch = batch[:n]; l.appender == nil {
		return l.publish(ctx, batch)
	}
	copies := make([]*bus.Message, n)
	for i, m := range batch {
		copies[i] = &bus.Message{Subject: m.Subject, Header: stamped(m), Data: m.Data}
	}
	call, cancel := l.call(ctx)
	defer cancel()
	cursors, err := l.appender.Append(call, l.name, l.end, copies...)
	if errors.Is(err, bus.ErrUnsupported) {
		l.appender = nil
		return l.publish(ctx, batch)
	}
	for i, c := range cursors {
		l.end = c
		l.copied++
		l.passed(batch[i])
	}
	return err
}

// call is the context of one publish, whose outcome is worth waiting for.
func (l *lane) call(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.b.calls != nil {
		ctx = l.b.calls
	}
	return context.WithTimeout(ctx, callTimeout)
}

// publish stores one message after the other, each only if its subject's last one at the destination is the one that it
// must follow.
func (l *lane) publish(ctx context.Context, batch []*bus.Message) error {
	for _, m := range batch {
		if err := l.publishOne(ctx, m); err != nil {
			return err
		}
		l.passed(m)
	}
	return nil
}

func (l *lane) publishOne(ctx context.Context, m *bus.Message) error {
	opts := []bus.PublishOption{bus.MessageID("bridge." + m.Cursor.String())}
	for key, values := range stamped(m) {
		opts = append(opts, bus.WithHeader(key, values...))
	}
	for range maxStuck {
		var receipt bus.Receipt
		expected := l.lasts[m.Subject]
		call, cancel := l.call(ctx)
		err := l.b.to.Publish(detached{call}, m.Subject, m.Data, append(opts[:len(opts):len(opts)], bus.ExpectLast(expected), bus.WithReceipt(&receipt))...)
		cancel()
		switch {
		case err == nil && !receipt.Duplicate:
			if !l.end.IsZero() && receipt.Cursor.Epoch() != l.end.Epoch() {
				return errAnew
			}
			l.remember(m.Subject, receipt.Cursor)
			l.reach(receipt.Cursor)
			l.copied++
			return nil
		case err == nil, errors.Is(err, bus.ErrConflict):
			// It was there already, or what it must follow isn't the last one.
			if there, err := l.look(ctx, m, expected); there || receipt.Duplicate || err != nil {
				return err
			}
		default:
			return err
		}
	}
	return fmt.Errorf("%w: the subject's last message changes all the time; is another bridge running?", bus.ErrConflict)
}

// look finds out what the subject's last message at the destination is, and whether m's copy is there.
func (l *lane) look(ctx context.Context, m *bus.Message, expected bus.Cursor) (there bool, err error) {
	last, err := l.last(ctx, m.Subject)
	switch {
	case err != nil:
		return false, err
	case last == nil:
		delete(l.lasts, m.Subject) // limits have taken it
		return false, nil
	}
	at := copyFrom(last, l.epoch)
	if at == 0 && last.Cursor != expected && (!expected.IsZero() || last.Cursor.Sequence() > l.end.Sequence()) {
		return false, somebodyElse(last)
	}
	l.remember(m.Subject, last.Cursor)
	return at >= m.Cursor.Sequence(), nil
}

// remember keeps where a subject's last message stands at the destination.
func (l *lane) remember(subject string, c bus.Cursor) {
	if len(l.lasts) >= maxLasts {
		clear(l.lasts)
	}
	l.lasts[subject] = c
}

// resync finds out how far the destination has got, after an answer that doesn't tell.
func (l *lane) resync(ctx context.Context) error {
	info, err := l.info(ctx, l.b.to, "destination") // first, so that what it tells of is read, too, unless it is gone
	if err != nil {
		return err
	}
	last, err := l.newest(ctx)
	if err != nil {
		return err
	}
	known := l.end
	if !known.IsZero() && info.Last.Epoch() != known.Epoch() || last != nil && !info.Last.IsZero() && last.Cursor.Epoch() != info.Last.Epoch() {
		return errAnew
	}
	l.reach(info.Last)
	if last == nil {
		return nil
	}
	l.reach(last.Cursor)
	switch at := copyFrom(last, l.epoch); {
	case at > l.at:
		l.at = at
	case at == 0 && last.Cursor.Sequence() > known.Sequence():
		return somebodyElse(last)
	}
	return nil
}

var (
	errAnew = fmt.Errorf("%w: the destination's stream was made anew: remove it there and begin again", bus.ErrConflict)
	errElse = fmt.Errorf("%w: somebody else publishes to the destination", bus.ErrConflict)
)

func somebodyElse(m *bus.Message) error {
	return fmt.Errorf("%w (its cursor %s); stop that until the streams are cut over", errElse, m.Cursor)
}
