package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// freeLocked says that a member has nothing to do.
func (g *group) freeLocked(l *leg) {
	if _, member := g.members[l]; member {
		g.idle = append(g.idle, l)
		g.flowLocked()
	}
}

// flowLocked gives what waits to those who are idle, and asks for as much as the others can take.
func (g *group) flowLocked() {
	for len(g.idle) > 0 && len(g.waiting) > 0 {
		l := g.idle[0]
		g.idle = g.idle[1:]
		if l.give(g.waiting[0]) {
			g.waiting = g.waiting[1:]
			g.busy++
		}
	}
	if len(g.held) >= maxHeld {
		return
	}
	for _, src := range g.sources {
		if n := len(g.idle) - src.asked; n > 0 {
			src.asked += n
			src.share.Ask(n)
		}
	}
}

// give hands a member its next message, unless it has ended.
func (l *leg) give(d *Delivery) bool {
	s := l.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	l.taken = d
	l.queue.push(item{m: d.Message})
	s.startLocked()
	return true
}

// leave ends a member; back, if not nil, it hasn't begun with.
func (g *group) leave(l *leg, back *Delivery) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.members, l)
	g.idle = slices.DeleteFunc(g.idle, func(other *leg) bool { return other == l })
	if back != nil {
		g.busy--
		g.waiting = append([]*Delivery{back}, g.waiting...)
	}
	g.flowLocked()
	g.stopUnusedLocked()
}

// unsaidDeliveries is how many deliveries more than its attempts a message has at least before it is given up on without a call of the handler: the
// backend counts also those that a Close has interrupted.
const unsaidDeliveries = 10

// callMember runs the handler of a member of a group.
func (s *subscription) callMember(l *leg, d *Delivery) {
	err := errGoexit // unless the handler returns
	defer func() { l.group.finished(l, d, err) }()
	if s.attempts > 0 && d.Attempt > s.attempts+max(s.attempts, unsaidDeliveries) {
		err = fmt.Errorf("it was delivered %d times, and the handlers' processes ended before they could say how it went", d.Attempt-1)
		return
	}
	err = s.call(d.Message)
}

// finished decides what becomes of a message that a handler has had.
func (g *group) finished(l *leg, d *Delivery, failure error) {
	s := l.sub
	switch {
	case failure == nil || !g.durable:
		d.from.share.Done(d)
		d = nil
	case s.ctx.Err() != nil: // the end of its subscription is no fault of the message
	case s.attempts == 0 || d.Attempt < s.attempts:
	case g.bury(s, d, failure):
		d.from.share.Done(d)
		d = nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy--
	if d != nil {
		g.againLocked(d, s)
	}
	g.freeLocked(l)
	g.stopUnusedLocked()
}

// againLocked has a message delivered again: at once if its handler was told to end, or else when it has waited.
func (g *group) againLocked(d *Delivery, s *subscription) {
	if s.ctx.Err() != nil {
		g.waiting = append(g.waiting, d)
		g.flowLocked()
		return
	}
	wait := s.waits[min(d.Attempt, len(s.waits))-1]
	d.Attempt++
	m := *d.Message // a handler may have kept it
	m.Attempt = d.Attempt
	d.Message = &m
	g.held[d] = time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if _, still := g.held[d]; still {
			delete(g.held, d)
			g.waiting = append(g.waiting, d)
			g.flowLocked()
		}
	})
}

// bury publishes a dead letter and reports whether it is stored.
func (g *group) bury(s *subscription, d *Delivery, failure error) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), deadTimeout)
	defer cancel()
	m := d.Message
	subject := deadSubject(g.name, m.Subject)
	// A second funeral of the same message is none.
	opts := []bus.PublishOption{bus.MessageID("dead-" + g.name + "-" + m.Cursor.String())}
	for key, values := range m.Header {
		if key != deadError {
			opts = append(opts, bus.WithHeader(key, values...))
		}
	}
	text := strings.Join(strings.Fields(strings.ToValidUTF8(strings.ReplaceAll(failure.Error(), "\x00", ""), "")), " ")
	err := g.b.Publish(ctx, subject, m.Data, append(opts, bus.WithHeader(deadError, strings.TrimSpace(text[:min(len(text), errorText)])))...)
	if errors.Is(err, bus.ErrTooLarge) {
		err = g.b.Publish(ctx, subject, m.Data, opts...)
	}
	if err != nil {
		s.report(bus.Problem{Err: fmt.Errorf("a dead letter can't be stored, so the message is tried again: %w", err), Subject: m.Subject, Cursor: m.Cursor})
		return false
	}
	g.b.log.Warn("bus: a message is dead", "group", g.name, "subject", m.Subject, "cursor", m.Cursor.String(), "attempts", d.Attempt, "error", failure)
	return true
}
