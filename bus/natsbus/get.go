package natsbus

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
)

// getRequest asks a stream for messages, past any consumer.
type getRequest struct {
	Seq       uint64     `json:"seq,omitempty"`
	Next      string     `json:"next_by_subj,omitempty"`
	Last      []string   `json:"multi_last,omitempty"`
	UpTo      uint64     `json:"up_to_seq,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
}

// getResult is what came back.
type getResult struct {
	messages []*bus.Message // without an epoch: see stamp
	ids      map[uint64]string
	total    uint64 // how many matched when the server began to read; 0: it isn't known
	pending  uint64 // how many more match
	through  uint64 // up to where it was read, if the last messages were dropped
	guessed  bool   // pending only says whether to ask again
	call     string // of the last message: see callHeader
}

var headerEnd = []byte("\r\n\r\n")

var (
	errTooMany    = errors.New("more subjects than the server lists at once")
	errUnreadable = errors.New("the header of a message can't be read")
	errUnread     = errors.New("the last message of a subject can't be read")
	errReply      = fmt.Errorf("%w: the server's answer to a read can't be understood", bus.ErrUnavailable)
)

// get asks whoever holds the stream and may answer directly.
func (b *backend) get(ctx context.Context, stream string, r getRequest) (*getResult, error) {
	result, err := b.gets.ask(ctx, stream, r)
	if errors.Is(err, nats.ErrNoResponders) {
		// The stream doesn't allow it, or isn't there.
		if len(r.Last) > 0 {
			return nil, errTooMany
		}
		return b.getOne(ctx, stream, r)
	}
	return result, err
}

// gets is where the answers to direct reads arrive: one subscription for all of them.
type gets struct {
	b      *backend
	prefix string // of the subjects to answer on; a token follows

	mu      sync.Mutex
	token   uint64 // the last one
	running map[uint64]*getting
}

// getting is a read that is being answered, message by message.
type getting struct {
	stream string
	last   bool // the last message of each subject was asked for
	result getResult
	done   chan error // has room for one
}

// listen subscribes to the answers.
func (g *gets) listen(b *backend) error {
	g.b, g.prefix, g.running = b, b.rc.NewInbox()+".", map[uint64]*getting{}
	sub, err := b.rc.Subscribe(g.prefix+"*", g.receive)
	if err != nil {
		return err
	}
	return sub.SetPendingLimits(-1, -1) // what is asked for is bounded
}

// ask is nats.ErrNoResponders where nobody may answer.
func (g *gets) ask(ctx context.Context, stream string, r getRequest) (*getResult, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	subject := g.b.call("$JS.API.DIRECT.GET." + stream)
	linked, unlink := g.b.link.context(ctx, subject)
	defer unlink()
	x := &getting{stream: stream, last: len(r.Last) > 0, done: make(chan error, 1)}
	g.mu.Lock()
	g.token++
	token := g.token
	g.running[token] = x
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.running, token)
		g.mu.Unlock()
	}()
	if err := g.b.rc.PublishRequest(subject, g.prefix+strconv.FormatUint(token, 36), body); err != nil {
		return nil, connectionError(ctx, err)
	}
	select {
	case err := <-x.done:
		switch {
		case errors.Is(err, errUnreadable):
			return g.b.pastUnreadable(ctx, stream, r, &x.result)
		case errors.Is(err, errUnread):
			return &x.result, err
		case err != nil:
			return nil, err
		}
		return &x.result, nil
	case <-linked.Done():
		if ctx.Err() == nil {
			return nil, context.Cause(linked)
		}
		return nil, connectionError(ctx, ctx.Err())
	}
}

func (g *gets) receive(m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[len(g.prefix):], 36, 64)
	if err != nil {
		return
	}
	g.mu.Lock()
	x := g.running[token]
	g.mu.Unlock()
	if x == nil {
		return // nobody waits any more
	}
	over, err := g.take(x, m)
	if err == nil && !over {
		return
	}
	g.mu.Lock()
	delete(g.running, token)
	g.mu.Unlock()
	x.done <- err
}

// take adds what came to an answer and reports whether it is over.
func (g *gets) take(x *getting, m *nats.Msg) (over bool, err error) {
	r := &x.result
	if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 && m.Header.Get("Nats-Sequence") == "" {
		switch status {
		case "503":
			return true, nats.ErrNoResponders
		case "404":
			if x.last && m.Header.Get("Description") == "Message Not Found" { // getDirectMulti in the server's stream.go
				return true, errUnread
			}
			return true, nil
		case "413":
			return true, errTooMany
		case "204":
			r.pending, err = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			if err != nil || m.Header.Get("Nats-Last-Sequence") != strconv.FormatUint(r.last(), 10) {
				return true, errReply
			}
			return true, nil
		}
		return true, fmt.Errorf("%w: read: %s %s", bus.ErrUnavailable, status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(said(m, "Nats-Sequence"), 10, 64)
	at, err2 := time.Parse(time.RFC3339Nano, said(m, "Nats-Time-Stamp"))
	if err != nil || err2 != nil {
		return true, errUnreadable
	}
	if previous := said(m, "Nats-Last-Sequence"); previous != "" && previous != strconv.FormatUint(r.last(), 10) {
		return true, errReply // one has got lost between two servers
	}
	if len(r.messages) == 0 {
		if more, err := strconv.ParseUint(said(m, "Nats-Num-Pending"), 10, 64); err == nil {
			r.total = more + 1
		}
	}
	r.add(said(m, "Nats-Subject"), seq, at, m.Data, m.Header)
	return false, nil
}

// said is what the server says of a message. It puts that behind the header that is stored, in which the same names may
// stand already: of a message that was republished, or that a foreign client has made up.
func said(m *nats.Msg, key string) string {
	if values := m.Header[key]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// pastUnreadable ends an answer before a message whose header can't be read, and with it the place where it stands.
func (b *backend) pastUnreadable(ctx context.Context, stream string, r getRequest, before *getResult) (*getResult, error) {
	switch {
	case len(r.Last) > 0:
		return nil, errTooMany // one that reads everything comes past it
	case len(before.messages) == 0:
		return b.getOne(ctx, stream, r)
	}
	before.pending, before.guessed = 1, true
	return before, nil
}

// getOne reads one message through the stream's leader.
func (b *backend) getOne(ctx context.Context, stream string, r getRequest) (*getResult, error) {
	r.Batch, r.MaxBytes = 0, 0
	var answer struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  string    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	result := &getResult{}
	err := b.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, r, &answer)
	var refused *apiError
	if errors.As(err, &refused) && refused.Code == codeNoSuchMessage {
		return result, nil
	}
	if err != nil {
		return nil, err
	}
	m := &answer.Message
	raw, err := base64.StdEncoding.DecodeString(m.Header)
	if err != nil {
		return nil, errReply
	}
	var h nats.Header
	if len(raw) > 0 {
		// What stands behind its end was once data.
		if h, err = nats.DecodeHeadersMsg(raw); err != nil || bytes.Index(raw, headerEnd) != len(raw)-len(headerEnd) {
			h = unreadable
		}
	}
	result.add(m.Subject, m.Seq, m.Time, m.Data, h)
	result.pending, result.guessed = 1, true
	return result, nil
}

func (r *getResult) add(subject string, seq uint64, at time.Time, data []byte, h nats.Header) {
	if id := h.Get(nats.MsgIdHdr); id != "" {
		if r.ids == nil {
			r.ids = map[uint64]string{}
		}
		r.ids[seq] = id
		r.call = h.Get(callHeader)
	}
	r.messages = append(r.messages, &bus.Message{
		Subject: subject, Data: data[:len(data):len(data)], Header: header(h), Time: at, Cursor: bus.NewCursor("-", seq),
	})
}

// stamp gives messages their epoch.
func stamp(messages []*bus.Message, epoch string) {
	for _, m := range messages {
		m.Cursor = bus.NewCursor(epoch, m.Cursor.Sequence())
	}
}
