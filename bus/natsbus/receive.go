package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	heartbeat = time.Second
	// inactive is when the server removes a consumer whose process is gone.
	inactive = 30 * time.Second
	// removeTimeout is how long the end of a tail waits for the server to remove its consumer.
	removeTimeout = 500 * time.Millisecond
	// pause lies between attempts to tail a stream again.
	pause = 100 * time.Millisecond
	// maxTogether is how many messages that have arrived are delivered together.
	maxTogether = 256
)

// more reports whether another message of m's subscription has arrived already, whose callback comes after this one's.
func more(m *nats.Msg) bool {
	pending, _, err := m.Sub.Pending() // m is still counted
	return err == nil && pending > 1
}

// header returns what a handler sees of a message's header: not what is NATS's own.
func header(h nats.Header) bus.Header {
	var out bus.Header
	for key, values := range h {
		if len(key) >= 5 && strings.EqualFold(key[:5], "Nats-") {
			continue
		}
		if out == nil {
			out = make(bus.Header, len(h))
		}
		out[key] = values
	}
	return out
}

// unreadable is the header of a message of which nats.go could make none. It breaks the grammar, so the message is
// skipped, and that is reported.
var unreadable = nats.Header{"": {""}}

// readable returns the header of m. Of one that nats.go couldn't read it leaves nothing but the size.
func readable(m *nats.Msg) nats.Header {
	if m.Header == nil && m.Size() > len(m.Subject)+len(m.Reply)+len(m.Data) {
		return unreadable
	}
	return m.Header
}

// listen is a subscription to uncaptured messages.
type listen struct {
	sink    driver.Sink
	sub     *nats.Subscription
	handled atomic.Int64

	// Of the subscription's goroutine: what is delivered next, and how many messages that comes of.
	entries []driver.Entry
	taken   int64
}

// Listen implements driver.Backend.
func (b *backend) Listen(ctx context.Context, pattern string, sink driver.Sink) (stop func(), err error) {
	l := &listen{sink: sink}
	if err := b.listen(ctx, l, pattern, ""); err != nil {
		return nil, err
	}
	return func() {
		b.mu.Lock()
		delete(b.listens, l)
		b.mu.Unlock()
		if err := l.sub.Unsubscribe(); err != nil && !b.nc.IsClosed() {
			b.log.Warn("natsbus: unsubscribe", "pattern", pattern, "error", err)
		}
	}, nil
}

func (b *backend) listen(ctx context.Context, l *listen, pattern, queue string) (err error) {
	l.sub, err = b.nc.QueueSubscribe(pattern, queue, l.receive)
	if err != nil {
		return connectionError(ctx, err)
	}
	// The sink never blocks, so what is pending is on its way.
	err = l.sub.SetPendingLimits(-1, -1)
	if err == nil {
		err = b.ping(ctx) // the server knows when it has answered
	}
	if last := b.nc.LastError(); err == nil && errors.Is(last, nats.ErrPermissionViolation) && strings.Contains(last.Error(), strconv.Quote(pattern)) {
		err = last
	}
	if err != nil {
		return errors.Join(connectionError(ctx, err), l.sub.Unsubscribe())
	}
	b.mu.Lock()
	b.listens[l] = struct{}{}
	b.mu.Unlock()
	return nil
}

func (l *listen) receive(m *nats.Msg) {
	subject := m.Subject
	if passed := m.Header.Get(passedSubject); passed != "" {
		subject = passed
	}
	// A wildcard also sees what is reserved: $JS, _INBOX.
	if subject[0] != '$' && subject[0] != '_' {
		l.entries = append(l.entries, driver.Entry{Message: &bus.Message{
			Subject: subject, Data: m.Data[:len(m.Data):len(m.Data)], Header: header(readable(m)),
		}})
	}
	l.taken++
	if len(l.entries) < maxTogether && more(m) {
		return
	}
	l.sink.Deliver(l.entries...)
	l.handled.Add(l.taken)
	clear(l.entries)
	l.entries, l.taken = l.entries[:0], 0
}

// Flush implements driver.Backend.
func (b *backend) Flush(ctx context.Context) error {
	if err := b.ping(ctx); err != nil {
		return connectionError(ctx, err)
	}
	// Everything has arrived; now the client library's goroutines must have handed it over.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !b.handedOver() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ping returns when the server has answered, after all that was sent before.
func (b *backend) ping(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	return b.nc.FlushWithContext(ctx)
}

func (b *backend) handedOver() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listens {
		pending, _, err := l.sub.Pending()
		delivered, err2 := l.sub.Delivered()
		if err == nil && err2 == nil && (pending > 0 || l.handled.Load() < delivered) {
			return false
		}
	}
	return true
}

// tail is the one consumer of a stream: unfiltered, in order, made anew when something was missed.
type tail struct {
	b      *backend
	stream driver.Stream
	sink   driver.Sink
	wake   chan struct{}   // something was missed
	ctx    context.Context // ends with the tail
	done   chan struct{}

	removing sync.WaitGroup // of earlier consumers

	mu       sync.Mutex
	run      int    // what an earlier consumer still delivers is dropped
	after    uint64 // everything up to here has been delivered
	at       int64  // when that was stored, ns; 0: it isn't known
	consumed uint64 // the consumer's own count
	heard    time.Time
	given    time.Time // when the consumer gave a message, or was made
	looked   uint64    // up to here the stream was asked for what it hasn't given
	sub      *nats.Subscription
	name     string
	entries  []driver.Entry // what is delivered next
}

// Tail implements driver.Backend.
func (b *backend) Tail(ctx context.Context, s driver.Stream, after uint64, sink driver.Sink) (stop func(), err error) {
	life, quit := context.WithCancel(context.Background())
	t := &tail{
		b: b, stream: s, sink: sink, after: after,
		wake: make(chan struct{}, 1), ctx: life, done: make(chan struct{}),
	}
	if err := t.start(ctx); err != nil {
		quit()
		t.removing.Wait()
		return nil, err
	}
	b.mu.Lock()
	b.tails[t] = struct{}{}
	b.mu.Unlock()
	go t.keep()
	return func() {
		b.mu.Lock()
		delete(b.tails, t)
		b.mu.Unlock()
		quit()
		<-t.done
		t.remove()
		t.removing.Wait()
	}, nil
}

// again asks for a new consumer. It doesn't wait.
func (t *tail) again() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// keep replaces the consumer when it was told to or has heard nothing for too long.
func (t *tail) keep() {
	defer close(t.done)
	every := heartbeat
	if t.b.elects {
		every = readOnEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.wake:
		case <-tick.C:
			t.mu.Lock()
			silent := time.Since(t.heard) > 3*heartbeat
			t.mu.Unlock()
			if t.b.elects && t.lags() {
				t.b.suspect(t.stream.Config.Name)
				t.readOn(t.ctx)
			}
			if !silent || !t.b.nc.IsConnected() {
				continue
			}
		}
		t.b.suspect(t.stream.Config.Name)
		ctx, cancel := context.WithTimeout(t.ctx, askTimeout)
		err := t.anew(ctx)
		cancel()
		switch {
		case err == nil:
		case t.ctx.Err() != nil:
			return
		case errors.Is(err, driver.ErrEpoch), errors.Is(err, driver.ErrNotCaptured):
			t.sink.End(err)
			return
		default:
			t.b.log.Warn("natsbus: can't follow the stream; trying again", "stream", t.stream.Config.Name, "error", err)
			timer := time.NewTimer(pause)
			select {
			case <-t.ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
				t.again()
			}
		}
	}
}

// begin makes a consumer. The stream is asked before and after, since a consumer says nothing of its stream's epoch. In a cluster the answer is
// waited for so long.
func (t *tail) begin(ctx context.Context, wait time.Duration) error {
	name := t.stream.Config.Name
	if err := t.b.sameEpoch(ctx, t.stream); err != nil {
		return err
	}
	inbox := t.b.nc.NewInbox()
	t.mu.Lock()
	t.run++
	run := t.run
	// An inbox is unique, and so is a name that is made of it.
	t.entries = nil // they come again
	now := time.Now()
	t.consumed, t.heard, t.given, t.name = 0, now, now, "jitney-"+strings.NewReplacer("_INBOX.", "", ".", "-").Replace(inbox)
	after, consumer := t.after, t.name
	t.mu.Unlock()
	sub, err := t.b.nc.Subscribe(inbox, func(m *nats.Msg) { t.receive(run, m) })
	if err != nil {
		return connectionError(ctx, err)
	}
	t.mu.Lock()
	t.sub = sub
	t.mu.Unlock()
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	config := map[string]any{
		"name": consumer, "deliver_subject": inbox, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1,
		"ack_policy": "none", "replay_policy": "instant", "max_deliver": 1, "idle_heartbeat": heartbeat, "flow_control": true,
		"inactive_threshold": inactive, "num_replicas": 1, "mem_storage": true,
	}
	body, err := json.Marshal(map[string]any{"stream_name": name, "config": config})
	if err == nil {
		err = t.b.question(ctx, "$JS.API.CONSUMER.CREATE."+name+"."+consumer, body, nil, wait)
	}
	if err == nil {
		err = t.b.sameEpoch(ctx, t.stream)
	}
	switch {
	case err == nil:
	case t.b.elects: // whoever is asked for it may be gone
		gone := t.removeHere()
		t.removing.Go(func() { t.removeThere(gone) })
	default:
		t.remove()
	}
	return err
}

// remove ends the consumer, here and at the server, which otherwise keeps it.
func (t *tail) remove() { t.removeThere(t.removeHere()) }

// removeHere returns the name that the consumer has at the server.
func (t *tail) removeHere() string {
	t.mu.Lock()
	t.run++
	sub, name := t.sub, t.name
	t.sub, t.name = nil, ""
	t.mu.Unlock()
	if sub == nil || t.b.nc.IsClosed() {
		return ""
	}
	if err := sub.Unsubscribe(); err != nil {
		t.b.log.Warn("natsbus: unsubscribe", "stream", t.stream.Config.Name, "error", err)
	}
	return name
}

func (t *tail) removeThere(name string) {
	if name != "" {
		t.b.removeConsumer(t.stream.Config.Name, name)
	}
}

// removeConsumer removes what the server otherwise keeps for a while.
func (b *backend) removeConsumer(stream, name string) {
	if !b.rc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	err := b.ask(ctx, "$JS.API.CONSUMER.DELETE."+stream+"."+name, nil, nil)
	var gone *apiError
	if err != nil && !errors.As(err, &gone) {
		b.log.Warn("natsbus: a consumer is left to the server to remove", "stream", stream, "after", inactive, "error", err)
	}
}

// receive takes a message or a word of the consumer itself.
func (t *tail) receive(run int, m *nats.Msg) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if run != t.run {
		return
	}
	t.heard = time.Now()
	if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 && !strings.HasPrefix(m.Reply, "$JS.ACK.") {
		t.deliver()
		t.control(status, m)
		return
	}
	place, ok := parsePlace(m.Reply)
	if !ok || place.consumed != t.consumed+1 {
		t.deliver()
		t.run++ // nothing more of this consumer
		t.again()
		return
	}
	t.consumed, t.given = place.consumed, t.heard
	if place.sequence > t.after {
		t.entries = append(t.entries, driver.Entry{Prev: place.sequence - 1, Message: &bus.Message{
			Subject: m.Subject, Data: m.Data[:len(m.Data):len(m.Data)], Header: header(readable(m)),
			Cursor: bus.NewCursor(t.stream.Epoch, place.sequence), Time: place.time,
		}})
	}
	if len(t.entries) == maxTogether || !more(m) {
		t.deliver()
	}
}

// deliver delivers what has been taken.
func (t *tail) deliver() {
	for len(t.entries) > 0 && t.entries[0].Message.Cursor.Sequence() <= t.after {
		t.entries = t.entries[1:] // the tail has read on meanwhile
	}
	if len(t.entries) == 0 {
		return
	}
	last := t.entries[len(t.entries)-1].Message
	t.after, t.at = last.Cursor.Sequence(), last.Time.UnixNano()
	t.b.reached(t.stream.Config.Name, t.after)
	t.sink.Deliver(t.entries...)
	clear(t.entries)
	t.entries = t.entries[:0]
}

// control answers flow control, and compares a heartbeat with what was received.
func (t *tail) control(status string, m *nats.Msg) {
	if status != "100" { // 409: the consumer is gone
		t.run++
		t.again()
		return
	}
	reply := m.Reply
	if reply == "" {
		reply = m.Header.Get("Nats-Consumer-Stalled")
	}
	if reply != "" {
		if err := t.b.nc.Publish(reply, nil); err != nil {
			t.again()
		}
	}
	if last := m.Header.Get("Nats-Last-Consumer"); last != "" && last != strconv.FormatUint(t.consumed, 10) {
		t.run++
		t.again()
	}
}

// place is what a consumer says of a message.
type place struct {
	attempt            int
	sequence, consumed uint64
	time               time.Time
	pending            uint64 // how many more match
}

// parsePlace reads the reply subject of a consumer's message: $JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMED.
// TIME.PENDING, with a domain and an account before STREAM in the longer form.
func parsePlace(reply string) (place, bool) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return place{}, false
	}
	before := 2
	if strings.Count(rest, ".") > 6 {
		before = 4
	}
	for range before {
		if _, rest, ok = strings.Cut(rest, "."); !ok {
			return place{}, false
		}
	}
	var numbers [5]uint64
	for i := range numbers {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		var err error
		if numbers[i], err = strconv.ParseUint(token, 10, 63); err != nil {
			return place{}, false
		}
	}
	p := place{attempt: int(numbers[0]), sequence: numbers[1], consumed: numbers[2], time: time.Unix(0, int64(numbers[3])), pending: numbers[4]}
	return p, p.sequence > 0
}
