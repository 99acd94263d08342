package filebus

import (
	"bytes"
	"context"
	"sync"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// local hands uncaptured messages to those in this process who listen.
type local struct {
	mu        sync.Mutex
	listeners driver.Index[*listener]
	found     []*listener // used again by the next Send
}

type listener struct{ sink driver.Sink }

func (l *local) Send(_ context.Context, p *driver.Publication) error {
	m := &bus.Message{Subject: p.Subject, Header: p.Header, Data: bytes.Clone(p.Data)}
	m.Data = m.Data[:len(m.Data):len(m.Data)]
	l.mu.Lock() // until all have it, so that all have it in the same order
	defer l.mu.Unlock()
	l.found = l.listeners.Match(p.Subject, l.found[:0])
	for _, to := range l.found {
		to.sink.Deliver(driver.Entry{Message: m})
	}
	return nil
}

// Flush has nothing to wait for: when Send returns, the sinks have the message.
func (l *local) Flush(context.Context) error { return nil }

func (l *local) Listen(_ context.Context, pattern string, sink driver.Sink) (stop func(), err error) {
	who := &listener{sink}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners.Add(pattern, who)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.listeners.Remove(pattern, who)
	}, nil
}
