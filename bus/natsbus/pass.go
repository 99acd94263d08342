package natsbus

import (
	"context"
	"maps"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// passedSubject is the header that keeps the subject of a message which is passed on. It is one of
// those that users can't set and handlers don't see.
const passedSubject = "Nats-Jitney-Subject"

// passing is where the processes of a group hear what one that leaves passes on. queue is their queue group:
// the server takes queue groups of one name for one, whatever their subjects.
func passing(pattern, group string) (subject, queue string) {
	queue = consumerName(driver.Group{Name: group, Pattern: pattern})
	return "_INBOX.jitney-pass." + queue, queue
}

// ListenGroup implements driver.Grouper.
func (b *backend) ListenGroup(ctx context.Context, pattern, group string, sink driver.Sink) (stop func(), err error) {
	subject, queue := passing(pattern, group)
	passed, sent := &listen{sink: sink}, &listen{sink: sink}
	if err := b.listen(ctx, passed, subject, queue); err != nil {
		return nil, err
	}
	if err := b.listen(ctx, sent, pattern, queue); err != nil {
		b.drain(passed)
		return nil, err
	}
	return func() { b.drain(sent, passed) }, nil
}

// drain stops listening, and returns when all that the server has sent until then has come to the sinks.
func (b *backend) drain(listens ...*listen) {
	timeout := time.NewTimer(leaveTimeout)
	defer timeout.Stop()
	var drained []chan struct{}
	for _, l := range listens {
		done := make(chan struct{})
		l.sub.SetClosedHandler(func(string) { close(done) })
		leave := l.sub.Drain
		if !b.nc.IsConnected() {
			leave = l.sub.Unsubscribe // nothing is on its way
		}
		if err := leave(); err != nil {
			if !b.nc.IsClosed() {
				b.log.Warn("natsbus: unsubscribe", "pattern", l.sub.Subject, "error", err)
			}
			continue
		}
		drained = append(drained, done)
	}
	for _, done := range drained {
		select {
		case <-done:
		case <-timeout.C:
			b.log.Warn("natsbus: the server doesn't answer one who leaves a group")
			timeout.Reset(0)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range listens {
		delete(b.listens, l)
	}
}

// Pass implements driver.Grouper.
func (b *backend) Pass(pattern, group string, m *bus.Message) error {
	subject, _ := passing(pattern, group)
	header := nats.Header{}
	maps.Copy(header, nats.Header(m.Header))
	header[passedSubject] = []string{m.Subject}
	if err := b.nc.PublishMsg(&nats.Msg{Subject: subject, Header: header, Data: m.Data}); err != nil {
		return connectionError(context.Background(), err)
	}
	return nil
}
