// Package faulty wraps any bus with a fault, so that bustest can show that its checks bite on
// real backends and their timings, not only on the reference bus.
package faulty

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Fault is what a wrapped bus does wrong.
type Fault string

// The faults of a wrapped bus.
const (
	None      Fault = ""
	Duplicate Fault = "duplicate" // some messages are handled twice
	Drop      Fault = "drop"      // some messages are not handled
	Reorder   Fault = "reorder"   // some messages are handled behind the next one
	Late      Fault = "late"      // Unsubscribe returns before the subscription ends
	Unready   Fault = "unready"   // Subscribe returns before the subscription stands, which misses two messages
	Room      Fault = "room"      // handlers can append to data that others share
	Alias     Fault = "alias"     // data is read after Publish has returned
)

// lag is how late what is late is: later than a busy machine gets to look.
const lag = 200 * time.Millisecond

// Wrap gives b the fault. What b offers beyond bus.Bus is hidden.
func Wrap(b bus.Bus, f Fault) bus.Bus { return &wrapped{Bus: b, fault: f} }

type wrapped struct {
	bus.Bus
	fault   Fault
	pending sync.WaitGroup // what comes late
}

// Publish implements bus.Bus.
func (w *wrapped) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if w.fault != Alias || len(data) == 0 {
		return w.Bus.Publish(ctx, subject, data, opts...)
	}
	w.pending.Go(func() {
		pause(lag)
		_ = w.Bus.Publish(ctx, subject, look(data), opts...) // nobody waits for it any more
	})
	return nil
}

// look copies data that its owner may be changing. It is the fault itself, so the race detector isn't to fail
// the test that shows what the checks say of it.
//
//go:norace
func look(data []byte) []byte {
	seen := make([]byte, len(data))
	for i := range seen {
		seen[i] = data[i]
	}
	return seen
}

// Subscribe implements bus.Bus.
func (w *wrapped) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	n := 0 // a subscription's handler is called serially
	var held *bus.Message
	sub, err := w.Bus.Subscribe(ctx, pattern, func(ctx context.Context, m *bus.Message) error {
		n++
		switch {
		case w.fault == Duplicate && n%3 == 0:
			if err := handler(ctx, m); err != nil {
				return err
			}
		case w.fault == Drop && n%5 == 2, w.fault == Unready && n <= 2:
			return nil
		case w.fault == Reorder && n%4 == 1:
			held = m
			return nil
		case w.fault == Reorder && held != nil:
			err := handler(ctx, m)
			m, held = held, nil
			if err != nil {
				return err
			}
		case w.fault == Room:
			room := *m
			room.Data = append(make([]byte, 0, len(m.Data)+64), bytes.Clone(m.Data)...)
			m = &room
		}
		return handler(ctx, m)
	}, opts...)
	if err != nil || w.fault != Late {
		return sub, err
	}
	return &late{Subscription: sub, w: w}, nil
}

// Close implements bus.Bus.
func (w *wrapped) Close(ctx context.Context) error {
	w.pending.Wait()
	return w.Bus.Close(ctx)
}

// late is a subscription that ends after its end.
type late struct {
	bus.Subscription
	w *wrapped
}

// Unsubscribe implements bus.Subscription.
func (l *late) Unsubscribe(ctx context.Context) error {
	l.w.pending.Go(func() {
		pause(lag)
		_ = l.Subscription.Unsubscribe(ctx) // nobody waits for it any more
	})
	return nil
}

func pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
