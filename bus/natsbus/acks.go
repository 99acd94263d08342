package natsbus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	// ackTimeout bounds the wait for an acknowledgement: a server whose disk is full never answers.
	ackTimeout = 10 * time.Second
	sweepEvery = time.Second
)

// acks is where streams say what has become of what was published: one subscription for all who wait. A request of the
// client library's own would cost each of them a context and a timer.
type acks struct {
	b      *backend
	prefix string // of the subjects to answer on; a token follows
	sub    *nats.Subscription

	answers []answer // only the subscription's goroutine uses it

	mu      sync.Mutex
	token   uint64 // the last one
	waiting map[uint64]*waiter
	sweeps  int
	sweep   *time.Timer // nil while nobody has waited for a while
}

// waiter is a publish that waits for its stream.
type waiter struct {
	subject string
	until   int // sweeps
	told    chan answer
	then    func(x answer) // instead, for one that doesn't wait; it doesn't block, and not use acks
	commit  *commit        // that counts on it; nil: none, or it has its answer
}

// answer is what became of a publish.
type answer struct {
	token  uint64
	stream string
	ack    driver.Ack
	err    error
}

var waiters = sync.Pool{New: func() any { return &waiter{told: make(chan answer, 1)} }}

// listen subscribes to the answers.
func (a *acks) listen(b *backend) (err error) {
	a.b, a.prefix, a.waiting = b, b.nc.NewInbox()+".", map[uint64]*waiter{}
	if a.sub, err = b.nc.Subscribe(a.prefix+"*", a.receive); err != nil {
		return err
	}
	return a.sub.SetPendingLimits(-1, -1)
}

// begin makes a waiter and returns where its stream is to answer.
func (a *acks) begin(w *waiter, patience time.Duration) (token uint64, reply string) {
	a.mu.Lock()
	a.token++
	token = a.token
	w.until = a.sweeps + int(patience/sweepEvery)
	a.waiting[token] = w
	if a.sweep == nil {
		a.sweep = time.AfterFunc(sweepEvery, a.expire)
	}
	a.mu.Unlock()
	return token, string(strconv.AppendUint(append(make([]byte, 0, 48), a.prefix...), token, 36))
}

// forget reports whether nobody has answered, and then nobody will.
func (a *acks) forget(token uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, unanswered := a.waiting[token]
	if unanswered {
		w.arrive()
	}
	delete(a.waiting, token)
	return unanswered
}

// receive takes an answer. Those that have arrived together are given on together, so that one mark serves them all.
func (a *acks) receive(m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[len(a.prefix):], 36, 64)
	if err == nil {
		x := parseAnswer(m)
		x.token = token
		a.answers = append(a.answers, x)
	}
	if len(a.answers) < maxTogether && more(m) {
		return
	}
	high := uint64(0)
	for i, x := range a.answers {
		high = max(high, x.ack.Sequence)
		if i+1 == len(a.answers) || a.answers[i+1].stream != x.stream {
			a.b.reached(x.stream, high)
			high = 0
		}
	}
	a.store(a.answers)
	clear(a.answers)
	a.answers = a.answers[:0]
}

// store has those who are told of a message wait for the disk, if the level says so, and settles the others.
func (a *acks) store(answers []answer) {
	commits := a.b.commits()
	if commits == nil {
		a.settle(answers)
		return
	}
	a.mu.Lock()
	for _, x := range answers {
		if w := a.waiting[x.token]; w != nil {
			w.arrive()
		}
	}
	a.mu.Unlock()
	for i, x := range answers {
		if x.err == nil {
			commits.of(x.stream).add(x)
		} else {
			a.settle(answers[i : i+1])
		}
	}
}

// settle tells the waiters of answers, as far as they still wait.
func (a *acks) settle(answers []answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range answers {
		if w := a.waiting[x.token]; w != nil {
			delete(a.waiting, x.token)
			w.arrive()
			w.tell(x)
		}
	}
}

// wait returns the answer, or that the outcome is unknown when ctx ends first. w isn't used any more.
func (a *acks) wait(ctx context.Context, token uint64, w *waiter) (x answer) {
	select {
	case x = <-w.told:
	case <-ctx.Done():
		if a.forget(token) {
			x.err = unknown(ctx.Err())
		} else {
			x = <-w.told // it was just being told
		}
	}
	waiters.Put(w)
	return x
}

func (w *waiter) tell(x answer) {
	if w.then != nil {
		w.then(x)
	} else {
		w.told <- x
	}
}

// arrive says that the commit needn't count on w any more.
func (w *waiter) arrive() {
	if w.commit != nil {
		w.commit.coming.Add(-1)
		w.commit = nil
	}
}

// everyone who waits.
func everyone(*waiter) bool { return true }

// fail tells those of whom about says so that they failed.
func (a *acks) fail(err error, about func(w *waiter) bool) (found bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for token, w := range a.waiting {
		if about(w) {
			found = true
			delete(a.waiting, token)
			w.arrive()
			w.tell(answer{err: err})
		}
	}
	return found
}

// expire ends the wait of those who have waited for too long.
func (a *acks) expire() {
	a.mu.Lock()
	a.sweeps++
	now := a.sweeps
	if len(a.waiting) > 0 {
		a.sweep.Reset(sweepEvery)
	} else {
		a.sweep = nil
	}
	a.mu.Unlock()
	a.fail(unknown(fmt.Errorf("%w: no acknowledgement: %w", bus.ErrUnavailable, context.DeadlineExceeded)),
		func(w *waiter) bool { return w.until < now })
}

// parseAnswer reads what a stream, or the server in its place, says to a publish.
func parseAnswer(m *nats.Msg) answer {
	if stream, sequence, ok := parseAck(m.Data); ok {
		return answer{stream: stream, ack: driver.Ack{Sequence: sequence}}
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" { // nobody listens
		return answer{err: driver.ErrNotCaptured}
	}
	var ack struct {
		Stream    string    `json:"stream"`
		Sequence  uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
		Error     *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Error == nil && ack.Stream == "" {
		// Somebody else has answered in the stream's place.
		return answer{err: unknown(fmt.Errorf("%w: the answer is no acknowledgement", bus.ErrUnavailable))}
	}
	if ack.Error != nil {
		return answer{err: ack.Error}
	}
	return answer{stream: ack.Stream, ack: driver.Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}}
}

// parseAck reads the usual acknowledgement, {"stream":"NAME","seq":1}, as a server outside any domain writes it.
func parseAck(data []byte) (stream string, sequence uint64, ok bool) {
	rest, ok1 := bytes.CutPrefix(data, []byte(`{"stream":"`))
	name, rest, ok2 := bytes.Cut(rest, []byte(`"`)) // no name of a stream needs escaping
	rest, ok3 := bytes.CutPrefix(rest, []byte(`,"seq":`))
	digits, ok4 := bytes.CutSuffix(rest, []byte("}"))
	if !ok1 || !ok2 || !ok3 || !ok4 || bytes.IndexByte(name, '\\') >= 0 {
		return "", 0, false
	}
	sequence, err := strconv.ParseUint(string(digits), 10, 64)
	return string(name), sequence, err == nil
}

// forbidden is told of what the server refuses to a user, which it says apart from any
// answer and only as text (Permissions Violation for Publish to "SUBJECT", or Subscription to).
func (b *backend) forbidden(err error) {
	before, rest, _ := strings.Cut(err.Error(), `"`)
	subject, _, _ := strings.Cut(rest, `"`)
	needs := fmt.Errorf("%w: this user may not do what JetStream needs: publish on %s> and subscribe to _INBOX.>", bus.ErrForbidden, b.api)
	switch {
	case strings.HasSuffix(before, "Subscription to "):
		if strings.HasPrefix(subject, nats.InboxPrefix) && strings.HasSuffix(subject, ".*") { // answers come there
			b.link.end(needs, func(string) bool { return true })
		}
		return
	case !strings.HasSuffix(before, "Publish to "), b.link.end(needs, func(asked string) bool { return asked == subject }):
		return
	}
	refused := fmt.Errorf("%w: this user may not publish on it", bus.ErrForbidden)
	if b.acks.fail(refused, func(w *waiter) bool { return w.subject == subject }) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.report != nil {
		b.report(bus.Problem{Err: fmt.Errorf("%w: what was published has been refused by the server", bus.ErrForbidden), Subject: subject})
	}
}

func unknown(err error) error { return fmt.Errorf("%w: %w", bus.ErrUnknownOutcome, err) }
