package natsbus

import (
	"bytes"
	"context"
	"sync"

	"github.com/jitney-go/jitney/bus/driver"
)

// AppendAsync implements driver.Pipeliner.
func (b *backend) AppendAsync(s driver.Stream, p *driver.Publication, done func(driver.Ack, error)) {
	if b.elects { // what is sent again would come behind what has been sent since
		b.laneOf(s.Config.Name).add(b, s, p, done)
		return
	}
	h, err := ownHeader(s, p)
	if err == nil {
		_, err = b.begin(&waiter{subject: p.Subject, then: func(x answer) {
			if final(s, p, x) {
				done(x.ack, x.err)
				return
			}
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
				defer cancel()
				done(b.finish(ctx, s, p, x))
			}()
		}}, s.Config.Name, p, h, ackTimeout)
	}
	if err != nil {
		done(driver.Ack{}, err)
	}
}

// lane is what is to be appended to a stream, one after the other.
type lane struct {
	mu      sync.Mutex
	waiting []waitingAppend
	running bool
}

type waitingAppend struct {
	stream driver.Stream
	p      *driver.Publication
	done   func(driver.Ack, error)
}

func (b *backend) laneOf(stream string) *lane {
	l, _ := b.lanes.LoadOrStore(stream, new(lane))
	return l.(*lane)
}

func (l *lane) add(b *backend, s driver.Stream, p *driver.Publication, done func(driver.Ack, error)) {
	own := *p
	own.Data = bytes.Clone(p.Data)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, waitingAppend{s, &own, done})
	if !l.running {
		l.running = true
		go l.run(b)
	}
}

// run exists only while something waits.
func (l *lane) run(b *backend) {
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.running, l.waiting = false, nil
			l.mu.Unlock()
			return
		}
		x := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.mu.Unlock()
		x.done(b.Append(context.Background(), x.stream, x.p))
	}
}

// fail tells those whose turn hasn't come that it won't.
func (l *lane) fail(reason error) {
	l.mu.Lock()
	waiting := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, x := range waiting {
		x.done(driver.Ack{}, reason)
	}
}
