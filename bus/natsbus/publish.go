package natsbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	headerStream   = "Nats-Expected-Stream"
	headerExpected = "Nats-Expected-Last-Subject-Sequence"
)

var errInterrupted = fmt.Errorf("%w: no connection to the server", bus.ErrUnavailable)

// Append implements driver.Backend.
func (b *backend) Append(ctx context.Context, s driver.Stream, p *driver.Publication) (driver.Ack, error) {
	h, err := ownHeader(s, p)
	if err != nil {
		return driver.Ack{}, err
	}
	return b.finish(ctx, s, p, b.deliver(ctx, s, p, h))
}

// final reports whether finish has nothing to ask about an answer.
func final(s driver.Stream, p *driver.Publication, x answer) bool {
	if x.err != nil {
		return p.ID == "" || !errors.Is(x.err, bus.ErrConflict)
	}
	return x.stream == s.Config.Name
}

// finish makes an answer into what Append returns.
func (b *backend) finish(ctx context.Context, s driver.Stream, p *driver.Publication, x answer) (driver.Ack, error) {
	if errors.Is(x.err, bus.ErrConflict) && p.ID != "" {
		// The server looks at the expected sequence first: this may be a repetition of what has succeeded.
		seq, found, err := b.findID(ctx, s, p.ID)
		if err != nil {
			return driver.Ack{}, fmt.Errorf("whether it was stored before can't be looked up: %w", unknown(err))
		}
		if found {
			b.reached(s.Config.Name, seq)
			x = b.synced(ctx, answer{stream: s.Config.Name, ack: driver.Ack{Sequence: seq, Duplicate: true}})
		}
	}
	if x.err == nil && x.stream != s.Config.Name {
		x.ack.Stream, x.err = b.holder(ctx, x.stream)
	}
	return x.ack, x.err
}

// ownHeader adds what NATS has to know to a message's header.
func ownHeader(s driver.Stream, p *driver.Publication) (nats.Header, error) {
	if p.ID == "" && !p.Expect {
		return nats.Header(p.Header), nil
	}
	h := make(nats.Header, len(p.Header)+3)
	maps.Copy(h, nats.Header(p.Header))
	if p.ID != "" {
		h[nats.MsgIdHdr] = []string{p.ID}
	}
	if p.Expect { // a sequence means something in its own stream alone
		h[headerStream] = []string{s.Config.Name}
		h[headerExpected] = []string{strconv.FormatUint(p.ExpectLast, 10)}
	}
	return h, fits(s, p, h)
}

// fits says that the stream can't hold p with its header, of which it stores all.
func fits(s driver.Stream, p *driver.Publication, h nats.Header) error {
	if limit := s.Config.MaxBytes; limit > 0 {
		if size := storedSize(p.Subject, bus.Header(h), p.Data); size > limit {
			return fmt.Errorf("%w (stored it takes %d bytes, stream %s holds %d)", bus.ErrTooLarge, size, s.Config.Name, limit)
		}
	}
	return nil
}

// publish sends p and waits for what a stream says to it.
func (b *backend) publish(ctx context.Context, stream string, p *driver.Publication, h nats.Header, patience time.Duration) answer {
	w := waiters.Get().(*waiter)
	w.subject = p.Subject
	token, err := b.begin(w, stream, p, h, patience)
	if err != nil {
		waiters.Put(w)
		return answer{err: err}
	}
	return b.acks.wait(ctx, token, w)
}

// begin sends p, about which w is told then. On an error it isn't.
func (b *backend) begin(w *waiter, stream string, p *driver.Publication, h nats.Header, patience time.Duration) (token uint64, err error) {
	if commits := b.commits(); commits != nil {
		w.commit = commits.of(stream)
		w.commit.coming.Add(1)
	}
	token, reply := b.acks.begin(w, patience)
	err = b.storeFailure() // it wouldn't answer
	if err == nil {
		err = b.send(p, reply, h)
	}
	if err != nil && !b.acks.forget(token) { // w has just been told that its message may have been stored
		if w.then != nil {
			return token, nil
		}
		<-w.told
	}
	return token, err
}

// send hands p to the connection. reply, if not "", is where its stream is to answer.
func (b *backend) send(p *driver.Publication, reply string, h nats.Header) error {
	err := b.nc.PublishMsg(&nats.Msg{Subject: p.Subject, Reply: reply, Header: h, Data: p.Data})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: with its header it exceeds the server's limit of %d bytes", bus.ErrTooLarge, b.nc.MaxPayload())
	case isInterrupted(err):
		return errInterrupted
	case errors.Is(err, nats.ErrConnectionClosed):
		return bus.ErrClosed
	}
	return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
}

// holder is the stream that has stored a message which another one was to store: what captures its subject has changed.
func (b *backend) holder(ctx context.Context, name string) (*driver.Stream, error) {
	info, err := b.info(ctx, name)
	if err != nil {
		return nil, unknown(err)
	}
	s := b.stream(info)
	return &s, nil
}

// reached marks that somebody knows a sequence.
func (b *backend) reached(stream string, sequence uint64) {
	if b.server == nil {
		known := b.knownOf(stream)
		for old := known.Load(); old < sequence && !known.CompareAndSwap(old, sequence); old = known.Load() {
		}
		return
	}
	if err := b.server.lives.reached(stream, sequence); err != nil {
		b.log.Warn("natsbus: the end of a stream can't be marked", "stream", stream, "error", err)
	}
}

// findID looks for a message of an ID among all that the stream has stored within the window: IDs are the stream's,
// whatever the subject.
func (b *backend) findID(ctx context.Context, s driver.Stream, id string) (seq uint64, found bool, err error) {
	st, err := b.State(ctx, s.Config.Name)
	switch {
	case errors.Is(err, driver.ErrNotCaptured):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case st.Epoch != s.Epoch:
		return 0, false, nil
	}
	oldest := time.Now().Add(-s.Config.Duplicates)
	next := getRequest{StartTime: &oldest, Next: ">", Batch: 256}
	for {
		r, err := b.getThrough(ctx, s.Config.Name, next, st.Last)
		if err != nil {
			return 0, false, err
		}
		for _, m := range r.messages {
			seq = m.Cursor.Sequence()
			if r.ids[seq] == id {
				return seq, true, nil
			}
		}
		if len(r.messages) == 0 || r.pending == 0 {
			return 0, false, nil
		}
		next = getRequest{Seq: seq + 1, Next: ">", Batch: 256}
	}
}

// Send implements driver.Backend.
func (b *backend) Send(_ context.Context, p *driver.Publication) error {
	return b.send(p, "", nats.Header(p.Header))
}
