package presence

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	askAgain = 2 * time.Second // after a question that wasn't answered
	remember = time.Minute     // a process that is gone, so that what is late of it is known to be late
	slumber  = 500 * time.Millisecond
)

// peer is another process in the room.
type peer struct {
	id      string
	n       uint64 // of the last message
	version uint64 // of its members that we have; 0: none
	members map[string]struct{}
	pages   *pages    // of a state that is arriving
	expires time.Time // its members, unless it says more; zero: it has none
	forget  time.Time
	asked   time.Time
}

// pages is a state of which not all pages have arrived.
type pages struct {
	version  uint64
	of, next int
	members  []claim
}

// handle is the handler of the subscription.
func (r *room) handle(_ context.Context, m *bus.Message) error {
	if !m.Cursor.IsZero() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.captured = true
		r.poke()
		return nil
	}
	if bytes.HasPrefix(m.Data, r.rs.mark) {
		return nil // our own
	}
	msg, err := decode(m.Data)
	if err != nil {
		r.rs.warn("a message that isn't one of presence is ignored", "subject", r.subject, "error", err)
		return nil
	}
	if msg.P == r.rs.id {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if msg.Op == opAsk {
		r.hearQuestion(msg, now)
		return nil
	}
	p := r.peer(msg.P, now)
	if p == nil {
		r.rs.warn("too many processes in the room: one is ignored", "subject", r.subject)
		return nil
	}
	if msg.N <= p.n {
		return nil // late
	}
	p.n = msg.N
	ttl := time.Duration(msg.T) * time.Millisecond
	p.expires = now.Add(ttl)
	p.forget = p.expires.Add(remember)
	switch msg.Op {
	case opState:
		r.hearPage(p, msg)
	case opChange:
		p.pages = nil
		if p.version == msg.B {
			r.hearChange(p, msg)
		}
	case opBeat:
		p.pages = nil
	}
	if p.version != msg.V && p.pages == nil && now.Sub(p.asked) >= askAgain {
		r.ask(p.id, now)
	}
	if r.expectedAt.IsZero() || p.expires.Before(r.expectedAt) {
		r.poke() // run doesn't know that it has to look so soon
	}
	return nil
}

func (r *room) hearQuestion(msg *message, now time.Time) {
	r.asked(msg.Q, now)
	me := len(msg.Q) == 0 || slices.Contains(msg.Q, r.rs.id)
	if me && r.answerAt.IsZero() && (len(r.here) > 0 || r.version != 0) {
		r.answerAt = now.Add(jitter(r.spread()))
		r.poke()
	}
}

// hearPage collects the pages of a state; the last one makes it the truth.
func (r *room) hearPage(p *peer, msg *message) {
	if msg.K == 0 {
		p.pages = &pages{version: msg.V, of: msg.Of}
	}
	s := p.pages
	if s == nil || s.version != msg.V || s.of != msg.Of || s.next != msg.K || len(s.members)+len(msg.M) > maxMembers {
		p.pages = nil
		return
	}
	s.members = append(s.members, msg.M...)
	s.next++
	if s.next < s.of {
		return
	}
	gone := p.members
	p.members = make(map[string]struct{}, len(s.members))
	for _, c := range s.members {
		delete(gone, c.ID)
		r.putPeer(p, c)
	}
	for id := range gone {
		r.remove(p, id)
	}
	p.version, p.pages = s.version, nil
}

func (r *room) hearChange(p *peer, msg *message) {
	for _, id := range msg.D {
		delete(p.members, id)
		r.remove(p, id)
	}
	for _, c := range msg.M {
		r.putPeer(p, c)
	}
	p.version = msg.V
}

func (r *room) putPeer(p *peer, c claim) {
	if !r.put(p, c) {
		r.rs.warn("the room is full: not all members are shown", "subject", r.subject)
		return
	}
	p.members[c.ID] = struct{}{}
}

// peer returns another process, also one that was unknown; nil if there are too many.
func (r *room) peer(id string, now time.Time) *peer {
	p := r.peers[id]
	if p != nil {
		return p
	}
	if len(r.peers) >= maxPeers {
		for id, old := range r.peers {
			if old.expires.IsZero() {
				delete(r.peers, id)
				break
			}
		}
		if len(r.peers) >= maxPeers {
			return nil
		}
	}
	p = &peer{id: id, members: map[string]struct{}{}, asked: r.askedAll}
	r.peers[id] = p
	return p
}

// expire removes what other processes have said too long ago.
func (r *room) expire(now time.Time, late time.Duration, soon func(time.Time)) {
	for id, p := range r.peers {
		if late > slumber && !p.expires.IsZero() {
			// It was this process that slept: what they have said meanwhile may be waiting.
			p.expires = p.expires.Add(late)
			p.forget = p.expires.Add(remember)
		}
		switch {
		case !p.expires.IsZero() && !now.Before(p.expires):
			for id := range p.members {
				r.remove(p, id)
			}
			clear(p.members)
			p.version, p.pages, p.expires = 0, nil, time.Time{}
			soon(p.forget)
		case !p.expires.IsZero():
			soon(p.expires)
		case !now.Before(p.forget):
			delete(r.peers, id)
		default:
			soon(p.forget)
		}
	}
}
