package refbus

import (
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// leg is the place of a subscription in one stream.
type leg struct {
	st   *stream
	pos  uint64 // everything up to here was handed over
	past uint64 // what is up to here was stored at the call
	open uint64 // the tick has let through what is up to here
	only map[uint64]bool
	live uint64 // of the bug liveFirst
}

// hasPast reports whether something is stored that the subscription is to be given.
func (s *subscription) hasPast() bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	for _, l := range s.legs {
		for _, m := range l.st.msgs {
			if s.matches(m.Subject) {
				return true
			}
		}
	}
	return false
}

// seek moves a leg to a start position.
func (l *leg) seek(s *subscription, start bus.Start) {
	st := l.st
	st.expire()
	if start.Kind == bus.StartLast && start.N <= 0 {
		return
	}
	var matching []uint64
	last := map[string]uint64{}
	for _, m := range st.msgs {
		if s.matches(m.Subject) {
			matching = append(matching, m.Cursor.Sequence())
			last[m.Subject] = m.Cursor.Sequence()
		}
	}
	n := start.N
	if s.b.bug("offByOne") {
		n++
	}
	switch start.Kind {
	case bus.StartLast:
		if i := len(matching) - n; i >= 0 && i < len(matching) {
			l.pos = matching[i] - 1
		} else if len(matching) > 0 {
			l.pos = matching[0] - 1
		}
	case bus.StartAll:
		l.pos = st.lost
	case bus.StartAfter:
		l.pos = start.Cursor.Sequence()
		if s.b.bug("inclusive") || s.b.bug("resumeRepeats") && st.restored {
			l.pos--
		}
		if len(st.msgs) == 0 && s.b.bug("emptyGapSilent") {
			l.pos = max(l.pos, st.lost)
		}
		if start.Cursor.Epoch() != st.epoch && !s.b.bug("epochIgnored") {
			l.pos = 0
			st.lost = max(st.lost, 1) // sequences start behind it, so that a hole is told
		}
	case bus.StartSince:
		if start.Time.IsZero() && s.b.bug("zeroTimeIsNow") {
			return
		}
		for _, m := range st.msgs {
			if !m.Time.Before(start.Time) {
				l.pos = m.Cursor.Sequence() - 1
				if s.b.bug("sinceAll") {
					l.pos = 0
				}
				break
			}
		}
	case bus.StartLastPerSubject:
		l.pos = st.lost
		l.only = map[uint64]bool{}
		for _, seq := range last {
			l.only[seq] = true
		}
		if s.b.bug("allPerSubject") {
			l.only = nil
		}
	}
}

// takeFrom takes the next message of a stream.
func (s *subscription) takeFrom(l *leg) (*bus.Message, *bus.Problem) {
	st := l.st
	st.expire()
	if s.swap != nil {
		m := s.swap
		s.swap = nil
		return m, nil
	}
	if st.lost > l.pos {
		silent := l.pos < l.past &&
			(st.cfg.MaxAge > 0 && s.b.bug("ageSilentInReplay") || st.cfg.MaxBytes > 0 && s.b.bug("bytesSilentInReplay"))
		gap := &bus.GapError{Stream: st.cfg.Name, Before: st.cursor(st.lost + 1)}
		if l.pos > 0 {
			gap.After = st.cursor(l.pos)
		}
		if s.b.bug("trimMiddle") && len(st.msgs) > 2 {
			l.pos = st.msgs[1].Cursor.Sequence()
		} else {
			l.pos = st.lost
		}
		if s.b.bug("lastBecomesAll") {
			l.only = nil
		}
		s.goneAwaited = s.b.bug("waitsForGone")
		if !s.b.bug("silentGap") && !silent {
			return nil, &bus.Problem{Err: gap, Pattern: s.pattern}
		}
	}
	if s.b.bug("liveFirst") && l.pos < l.past && st.seq > max(l.past, l.live) {
		for _, m := range st.after(max(l.past, l.live)) {
			l.live = m.Cursor.Sequence()
			if s.matches(m.Subject) {
				return m, nil
			}
		}
	}
	if limit, _ := s.limits(); (s.b.bug("dropsCaptured") || s.b.bug("spanDropsCaptured") && len(s.legs) > 1) && len(st.after(l.pos)) > 4*limit {
		l.pos = st.seq - uint64(limit)
	}
	if s.b.bug("newestSkipped") && st.cfg.MaxMsgsPerSubject > 0 && st.seq > l.pos+50 {
		l.pos = st.seq
	}
	for _, m := range st.after(l.pos) {
		seq := m.Cursor.Sequence()
		if seq > l.past && s.b.cfg.Tick > 0 && seq > l.open && !s.b.closing && !s.b.bug("earlyTick") {
			return nil, nil
		}
		before := l.pos
		l.pos = seq
		if seq <= l.live || seq <= l.past && l.only != nil && !l.only[seq] {
			continue
		}
		if !s.matches(m.Subject) && !(s.b.bug("replayAllSubjects") && seq <= l.past) {
			continue
		}
		if s.b.bug("dupJoin") && seq == l.past && st.seq > l.past {
			l.pos, l.past = before, 0
		}
		apart := s.b.bug("orderApart") && s.process != nil && s.process.number%2 == 1
		if s.b.bug("perSubShuffle") && s.number%2 == 1 || s.reorder || apart {
			if after := st.after(seq); len(after) > 0 && after[0].Subject != m.Subject && s.matches(after[0].Subject) {
				s.swap, m = m, after[0]
				l.pos = m.Cursor.Sequence()
			}
		}
		if seq <= l.past && !s.b.bug("replayUnmarked") {
			if s.b.bug("readMarks") {
				m.Replayed = true // of the message that others keep
			}
			m = &bus.Message{Subject: m.Subject, Data: m.Data, Header: m.Header, Cursor: m.Cursor, Time: m.Time, Replayed: true}
			if s.b.bug("timeOfDelivery") {
				m.Time = time.Now()
			}
			if s.b.bug("trunc") {
				m.Data = slices.Clip(m.Data[:min(len(m.Data), 1000)])
			}
			if s.b.bug("roomyReplay") {
				m.Data = append(make([]byte, 0, 2*len(m.Data)), m.Data...)
			}
		} else if s.b.bug("aliasStore") {
			m = m.Clone()
			m.Data = slices.Clip(m.Data)
		}
		return m, nil
	}
	return nil, nil
}
