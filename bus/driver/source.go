package driver

import (
	"context"
	"time"
)

// source is where messages of a group come from. It is the sink of its share.
type source struct {
	g      *group
	share  Share
	stream Stream // none of a local share
	last   uint64 // of the stream when this bus joined

	// Under g.mu.
	asked int
	over  bool // the group has stopped: what still comes goes back
}

// Deliver implements ShareSink.
func (src *source) Deliver(d *Delivery) {
	g := src.g
	d.from = src
	m := d.Message
	keeps := g.b.keepsGrammar(m, "group "+g.name, g.pattern)
	if !keeps {
		src.share.Done(d)
	}
	if g.durable {
		m.Attempt = d.Attempt
	}
	m.Replayed = m.Replayed || !m.Cursor.IsZero() && m.Cursor.Sequence() <= src.last
	g.mu.Lock()
	over := src.over
	src.asked = max(0, src.asked-1)
	if !over && keeps {
		g.waiting = append(g.waiting, d)
	}
	g.flowLocked()
	g.mu.Unlock()
	if over && keeps {
		src.share.Release(d)
	}
}

// Notice implements ShareSink.
func (src *source) Notice(err error) { src.g.notice(err) }

func (g *group) notice(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for l := range g.members {
		l.notice(err)
		return
	}
}

// End implements ShareSink.
func (src *source) End(err error) { go src.g.end(err) }

// drained returns when the source has given what was stored here so far.
func (src *source) drained(ctx context.Context) bool {
	upTo := src.g.b.ackedOf(src.stream).Load()
	tick := time.NewTicker(drainPause)
	defer tick.Stop()
	for {
		through, err := src.share.Through(ctx, upTo)
		if err != nil || through {
			return err == nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
