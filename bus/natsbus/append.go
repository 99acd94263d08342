package natsbus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// The headers of an atomic batch, which nats-server knows since 2.12 (ADR-50): all of its messages are stored or none.
const (
	headerStreamEnd   = "Nats-Expected-Last-Sequence"
	headerBatch       = "Nats-Batch-Id"
	headerBatchPlace  = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
	maxAtomicBatch    = 1000 // by default more is refused
)

// AppendAll implements driver.Appender, by batches where the server has them.
func (b *backend) AppendAll(ctx context.Context, s driver.Stream, after uint64, ps []driver.Publication) ([]uint64, error) {
	a := &appending{b: b, s: s, end: after}
	var err error
	for err == nil && len(ps) > 0 {
		n := min(len(ps), maxAtomicBatch)
		err = a.append(ctx, ps[:n])
		ps = ps[n:]
	}
	if b.elects && errors.Is(err, driver.ErrNotCaptured) {
		err = fmt.Errorf("%w: the stream has no leader now", bus.ErrUnavailable)
	}
	sequences := make([]uint64, 0, a.end-after)
	for sequence := after + 1; sequence <= a.end; sequence++ {
		sequences = append(sequences, sequence)
	}
	return sequences, err
}

// appending is one AppendAll.
type appending struct {
	b   *backend
	s   driver.Stream
	end uint64 // what is stored of it
}

// append stores what fits into one batch.
func (a *appending) append(ctx context.Context, ps []driver.Publication) error {
	id := rand.Text()
	headers := make([]nats.Header, 0, len(ps))
	var tooLarge error
	for i := range ps {
		h := make(nats.Header, len(ps[i].Header)+5)
		maps.Copy(h, nats.Header(ps[i].Header))
		h[headerStream] = []string{a.s.Config.Name}
		h[headerBatch] = []string{id}
		h[headerBatchPlace] = []string{strconv.Itoa(i + 1)}
		if tooLarge = fits(a.s, &ps[i], h); tooLarge != nil {
			break
		}
		headers = append(headers, h)
	}
	ps = ps[:len(headers)]
	err := a.together(ctx, ps, headers)
	if errors.Is(err, errOneByOne) {
		err = a.oneByOne(ctx, ps, headers)
	}
	if err == nil {
		err = tooLarge
	}
	return err
}

// errOneByOne: the server doesn't take these messages as a batch, whichever of them it is that it doesn't like.
var errOneByOne = errors.New("not as a batch")

// together stores messages as an atomic batch, and waits once.
func (a *appending) together(ctx context.Context, ps []driver.Publication, headers []nats.Header) error {
	if len(ps) < 2 {
		return errOneByOne
	}
	if can, err := a.b.batches(ctx, a.s); err != nil || !can {
		return errors.Join(err, errOneByOne)
	}
	last := len(ps) - 1
	headers[0][headerStreamEnd] = []string{strconv.FormatUint(a.end, 10)}
	headers[last][headerBatchCommit] = []string{"1"}
	for i := range last {
		if err := a.b.send(&ps[i], "", headers[i]); err != nil {
			return err // without a commit nothing is stored
		}
	}
	x := a.b.publish(ctx, a.s.Config.Name, &ps[last], headers[last], ackTimeout)
	var refused *apiError
	switch {
	case x.err == nil && x.ack.Sequence == a.end+uint64(len(ps)):
		a.end = x.ack.Sequence
		return nil
	case x.err == nil:
		return unknown(fmt.Errorf("%w: a batch of %d behind %d ended at %d", bus.ErrUnavailable, len(ps), a.end, x.ack.Sequence))
	case errors.As(x.err, &refused) && refused.Unwrap() == nil, errors.Is(x.err, bus.ErrTooLarge), errors.Is(x.err, bus.ErrForbidden):
		return errOneByOne
	}
	return x.err
}

func (a *appending) oneByOne(ctx context.Context, ps []driver.Publication, headers []nats.Header) error {
	for i, h := range headers {
		for _, key := range []string{headerBatch, headerBatchPlace, headerBatchCommit} {
			delete(h, key)
		}
		h[headerStreamEnd] = []string{strconv.FormatUint(a.end, 10)}
		if a.end == 0 {
			h[headerExpected] = []string{"0"} // older servers take the other zero for none
		}
		x := a.b.publish(ctx, a.s.Config.Name, &ps[i], h, ackTimeout)
		if x.err != nil {
			return x.err
		}
		a.end = x.ack.Sequence
	}
	return nil
}

// batches reports whether a stream takes atomic batches, and lets it if the server can. Servers that can't would take the
// messages of a batch for ordinary ones.
func (b *backend) batches(ctx context.Context, s driver.Stream) (can bool, err error) {
	key := s.Config.Name + "." + s.Epoch
	if known, ok := b.atomic.Load(key); ok {
		return known.(bool), nil
	}
	info, raw, err := b.rawInfo(ctx, s.Config.Name)
	if err != nil {
		return false, err
	}
	if can = info.Config.AllowAtomic; !can {
		config, err := decodeConfig(raw)
		if err != nil {
			return false, err
		}
		config["allow_atomic"] = true
		var updated streamInfo
		var refused *apiError
		err = b.ask(ctx, "$JS.API.STREAM.UPDATE."+s.Config.Name, config, &updated)
		if err != nil && !errors.As(err, &refused) && !errors.Is(err, bus.ErrForbidden) {
			return false, err
		}
		can = updated.Config.AllowAtomic // not if it was refused
	}
	b.atomic.Store(key, can)
	return can, nil
}
