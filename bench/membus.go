package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

// sequence numbers what is published, and checks that each subscriber is given all of it in order.
type sequence struct {
	data  []byte
	last  uint64
	wrong atomic.Int64
}

func newSequence() *sequence { return &sequence{data: make([]byte, payload)} }

// next returns the data of the next message, until the next call.
func (s *sequence) next() []byte {
	s.last++
	binary.LittleEndian.PutUint64(s.data, s.last)
	return s.data
}

// checker returns what one subscriber calls with the data of each message, never concurrently with itself.
func (s *sequence) checker(count func()) func(data []byte) {
	seen := uint64(0)
	return func(data []byte) {
		if seen++; binary.LittleEndian.Uint64(data) != seen {
			seen = binary.LittleEndian.Uint64(data)
			s.wrong.Add(1)
		}
		count()
	}
}

func (s *sequence) err() error {
	if n := s.wrong.Load(); n > 0 {
		return fmt.Errorf("%d messages are missing, repeated or out of order", n)
	}
	return nil
}

// fanout is n subscribers, of whom subscribe makes one, and a publisher.
func fanout(n, rounds int, subscribe func(handle func(data []byte)) error, publish func(ctx context.Context, data []byte) error) (side, error) {
	t, s := newTally(n), newSequence()
	for range n {
		if err := subscribe(s.checker(t.counter())); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) (float64, error) {
		rate, err := t.run(ctx, rounds, func() error { return publish(ctx, s.next()) })
		return rate, errors.Join(err, s.err())
	}, nil
}

// memFanout is a bus in memory with n subscriptions of one subject.
func (e *env) memFanout(n, rounds int) (side, error) {
	b, err := membus.Open(0)
	if err != nil {
		return nil, err
	}
	e.after(func() error { return closeBus(b) })
	return fanout(n, rounds, func(handle func([]byte)) error {
		_, err := b.Subscribe(e.ctx, "fanout", func(_ context.Context, m *bus.Message) error { handle(m.Data); return nil })
		return err
	}, func(ctx context.Context, data []byte) error { return b.Publish(ctx, "fanout", data) })
}

// queues is a room as one writes it for speed: whoever publishes copies the message once, which its members then share, and appends
// it to the queue of each, under one mutex. A member has a goroutine while its queue isn't empty.
type queues struct {
	mu      sync.Mutex
	members []*member
}

type member struct {
	queue, spare [][]byte
	running      bool
	handle       func(data []byte)
}

func (q *queues) publish(data []byte) {
	data = append([]byte(nil), data...)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.members {
		m.queue = append(m.queue, data)
		if !m.running {
			m.running = true
			go q.run(m)
		}
	}
}

func (q *queues) run(m *member) {
	for {
		q.mu.Lock()
		taken := m.queue
		m.queue, m.spare = m.spare[:0], taken
		m.running = len(taken) > 0
		q.mu.Unlock()
		if len(taken) == 0 {
			return
		}
		for _, data := range taken {
			m.handle(data)
		}
	}
}

func queuesFanout(n, rounds int) (side, error) {
	q := &queues{}
	return fanout(n, rounds, func(handle func([]byte)) error {
		q.members = append(q.members, &member{handle: handle})
		return nil
	}, func(_ context.Context, data []byte) error { q.publish(data); return nil })
}

func openMemFanout(subscribers, rounds int) func(e *env) (ours, floor side, err error) {
	return func(e *env) (ours, floor side, err error) {
		n, rounds := e.size(subscribers, min(subscribers, 10)), e.size(rounds, 2)
		if ours, err = e.memFanout(n, rounds); err != nil {
			return nil, nil, err
		}
		floor, err = queuesFanout(n, rounds)
		return ours, floor, err
	}
}

// openGoChannel compares with Watermill's GoChannel. It keeps the order only if each Publish waits for the acknowledgements of all
// subscribers. The message's context is kept, since a new one for each delivery costs more, and channels are buffered.
func openGoChannel(e *env) (ours, floor side, err error) {
	n := e.size(1000, 10)
	if ours, err = e.memFanout(n, e.size(64, 2)); err != nil {
		return nil, nil, err
	}
	peer := gochannel.NewGoChannel(gochannel.Config{
		OutputChannelBuffer: blocks * block, BlockPublishUntilSubscriberAck: true, PreserveContext: true,
	}, nil)
	e.after(peer.Close)
	floor, err = fanout(n, e.size(4, 2), func(handle func([]byte)) error {
		messages, err := peer.Subscribe(e.ctx, "fanout")
		if err != nil {
			return err
		}
		go func() {
			for m := range messages {
				handle(m.Payload)
				m.Ack()
			}
		}()
		return nil
	}, func(_ context.Context, data []byte) error {
		return peer.Publish("fanout", message.NewMessage("", append([]byte(nil), data...)))
	})
	return ours, floor, err
}

const (
	pace     = 1_000_000 // messages a second
	waitings = 1 << 18   // that may wait for the member
)

// openOneMember publishes a million messages a second to one member for ten seconds, whatever the member does, and counts what
// it gets. Each must come, once and in order.
func openOneMember(e *env) (ours, floor side, err error) {
	b, err := membus.Open(0)
	if err != nil {
		return nil, nil, err
	}
	e.after(func() error { return closeBus(b) })
	var got, most atomic.Int64
	s := newSequence()
	check := s.checker(func() { got.Add(1) })
	sub, err := b.Subscribe(e.ctx, "one", func(_ context.Context, m *bus.Message) error { check(m.Data); return nil },
		bus.Buffer(waitings, 64<<20))
	if err != nil {
		return nil, nil, err
	}
	length := e.last(10 * time.Second)
	ours = func(ctx context.Context) (float64, error) {
		rate, err := paced(ctx, length, &got, func() error { return b.Publish(ctx, "one", s.next()) })
		most.Store(max(most.Load(), int64(heap()>>20)))
		e.counts = map[string]int{"lost": int(sub.Dropped()), "MiB of heap": int(most.Load())}
		return rate, errors.Join(err, s.err())
	}
	var gotByQueue atomic.Int64
	t := newSequence()
	q := &queues{members: []*member{{handle: t.checker(func() { gotByQueue.Add(1) })}}}
	floor = func(ctx context.Context) (float64, error) {
		rate, err := paced(ctx, length, &gotByQueue, func() error { q.publish(t.next()); return nil })
		return rate, errors.Join(err, t.err())
	}
	return ours, floor, nil
}

// paced publishes in steps of a millisecond, making up for what it is late by, and returns how many messages a second have arrived.
func paced(ctx context.Context, length time.Duration, got *atomic.Int64, publish func() error) (float64, error) {
	before := got.Load()
	total := int64(length.Seconds() * pace)
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for n := int64(0); n < total; {
		for due := min(total, int64(time.Since(start).Seconds()*pace)); n < due; n++ {
			if err := publish(); err != nil {
				return 0, err
			}
		}
		<-tick.C
	}
	for got.Load()-before < total {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d messages have arrived", got.Load()-before, total)
		}
	}
	return float64(total) / time.Since(start).Seconds(), nil
}

// heap is how many bytes objects take, those included that a collection would free.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
