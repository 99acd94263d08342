package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	headerStream   = "Nats-Expected-Stream"
	headerExpected = "Nats-Expected-Last-Subject-Sequence"
	// ackTimeout bounds the wait for an acknowledgement whose caller set no deadline: a
	// server whose disk is full never answers.
	ackTimeout = 10 * time.Second
)

// Append implements driver.Backend.
func (b *backend) Append(ctx context.Context, s driver.Stream, p *driver.Publication) (driver.Ack, error) {
	m := &nats.Msg{Subject: p.Subject, Data: p.Data, Header: make(nats.Header, len(p.Header)+3)}
	for key, values := range p.Header {
		m.Header[key] = values
	}
	m.Header[headerStream] = []string{s.Config.Name}
	if p.ID != "" {
		m.Header[nats.MsgIdHdr] = []string{p.ID}
	}
	if p.Expect {
		m.Header[headerExpected] = []string{strconv.FormatUint(p.ExpectLast, 10)}
	}
	// The stream stores our own headers, too.
	if limit := s.Config.MaxBytes; limit > 0 {
		if size := storedSize(m.Subject, bus.Header(m.Header), m.Data); size > limit {
			return driver.Ack{}, fmt.Errorf("%w (stored it takes %d bytes, stream %s holds %d)", bus.ErrTooLarge, size, s.Config.Name, limit)
		}
	}
	ack, err := b.request(ctx, m)
	if errors.Is(err, bus.ErrConflict) && p.ID != "" {
		// The server looks at the expected sequence first: this may be a repetition of what has succeeded.
		if seq, found := b.findID(ctx, s, p); found {
			ack, err = driver.Ack{Sequence: seq, Duplicate: true}, nil
		}
	}
	if err == nil {
		b.reached(s.Config.Name, ack.Sequence)
		err = b.synced(ctx)
	}
	return ack, err
}

// reached marks that somebody knows a sequence.
func (b *backend) reached(stream string, sequence uint64) {
	if b.server == nil {
		return
	}
	if err := b.server.lives.reached(stream, sequence); err != nil {
		b.log.Warn("natsbus: the end of a stream can't be marked", "stream", stream, "error", err)
	}
}

// request publishes m and waits for what the stream says.
func (b *backend) request(ctx context.Context, m *nats.Msg) (driver.Ack, error) {
	b.mu.Lock()
	calls := b.calls
	b.mu.Unlock()
	if err := b.storeFailure(); err != nil {
		return driver.Ack{}, err // it wouldn't answer
	}
	bounded, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	defer context.AfterFunc(calls, cancel)()
	w := &waiting{subject: m.Subject, cancel: cancel}
	b.wait(w, true)
	defer b.wait(w, false)
	answer, err := b.nc.RequestMsgWithContext(bounded, m)
	switch {
	case err == nil:
	case errors.Is(err, nats.ErrNoResponders):
		return driver.Ack{}, driver.ErrNotCaptured
	case errors.Is(err, nats.ErrMaxPayload):
		return driver.Ack{}, fmt.Errorf("%w: with the message ID it exceeds the server's limit of %d bytes", bus.ErrTooLarge, b.nc.MaxPayload())
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return driver.Ack{}, fmt.Errorf("%w: no connection to the server", bus.ErrUnavailable)
	case errors.Is(err, nats.ErrConnectionClosed):
		return driver.Ack{}, unknown(bus.ErrClosed)
	case w.forbidden.Load():
		return driver.Ack{}, fmt.Errorf("%w: this user may not publish on it", bus.ErrForbidden)
	case ctx.Err() != nil:
		return driver.Ack{}, unknown(ctx.Err())
	case calls.Err() != nil:
		return driver.Ack{}, unknown(context.Cause(calls))
	default:
		return driver.Ack{}, unknown(fmt.Errorf("%w: no acknowledgement: %w", bus.ErrUnavailable, err))
	}
	var ack struct {
		Stream    string    `json:"stream"`
		Sequence  uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
		Error     *apiError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil || ack.Error == nil && ack.Stream == "" {
		// Somebody else has answered in the stream's place.
		return driver.Ack{}, unknown(fmt.Errorf("%w: the answer is no acknowledgement", bus.ErrUnavailable))
	}
	if ack.Error != nil {
		return driver.Ack{}, ack.Error
	}
	return driver.Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// waiting is a publish that waits for its acknowledgement.
type waiting struct {
	subject   string
	cancel    context.CancelFunc
	forbidden atomic.Bool
}

func (b *backend) wait(w *waiting, begin bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if begin {
		b.waitings[w] = struct{}{}
	} else {
		delete(b.waitings, w)
	}
}

// forbidden is told of what the server refuses to a user, which it says apart from any
// answer and only as text (Permissions Violation for Publish to "SUBJECT").
func (b *backend) forbidden(err error) {
	_, rest, ok := strings.Cut(err.Error(), `Publish to "`)
	subject, _, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	found := false
	for w := range b.waitings {
		if w.subject == subject {
			found = true
			w.forbidden.Store(true)
			w.cancel()
		}
	}
	if !found && b.report != nil {
		b.report(bus.Problem{Err: fmt.Errorf("%w: what was published has been refused by the server", bus.ErrForbidden), Subject: subject})
	}
}

func unknown(err error) error { return fmt.Errorf("%w: %w", bus.ErrUnknownOutcome, err) }

// findID looks for a message of the same ID among all that the stream has stored within
// the window: IDs are the stream's, whatever the subject.
func (b *backend) findID(ctx context.Context, s driver.Stream, p *driver.Publication) (seq uint64, found bool) {
	oldest := time.Now().Add(-s.Config.Duplicates)
	next := getRequest{StartTime: &oldest, Next: ">", Batch: 256}
	for {
		r, err := b.get(ctx, s.Config.Name, next)
		if err != nil || len(r.messages) == 0 {
			return 0, false
		}
		for _, m := range r.messages {
			seq = m.Cursor.Sequence()
			if r.ids[seq] == p.ID {
				return seq, true
			}
		}
		if r.pending == 0 {
			return 0, false
		}
		next = getRequest{Seq: seq + 1, Next: ">", Batch: 256}
	}
}

// Send implements driver.Backend.
func (b *backend) Send(_ context.Context, p *driver.Publication) error {
	m := &nats.Msg{Subject: p.Subject, Data: p.Data}
	if len(p.Header) > 0 {
		m.Header = nats.Header(p.Header)
	}
	err := b.nc.PublishMsg(m)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrConnectionClosed):
		return bus.ErrClosed
	}
	return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
}
