package refbus

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// stream is an ordered log in memory. Its fields are behind the bus' mutex.
type stream struct {
	cfg   bus.StreamConfig
	epoch string
	seq   uint64 // of the newest message
	lost  uint64 // the limits have discarded what is up to here
	msgs  []*bus.Message
	ids   map[string]remembered

	ageless  bool                  // of the bug neverExpire
	bug      string                // those of an age
	restored bool                  // of the bug resumeRepeats
	ever     map[string]bus.Cursor // of the bug expectEver
}

type remembered struct {
	cursor bus.Cursor
	until  time.Time
}

func (st *stream) cursor(seq uint64) bus.Cursor { return bus.NewCursor(st.epoch, seq) }

// after is what is stored behind a sequence.
func (st *stream) after(seq uint64) []*bus.Message {
	i := sort.Search(len(st.msgs), func(i int) bool { return st.msgs[i].Cursor.Sequence() > seq })
	return st.msgs[i:]
}

func (b *Bus) capturing(subject string) *stream {
	for _, st := range b.streams {
		for _, pattern := range st.cfg.Subjects {
			if bus.Match(pattern, subject) {
				return st
			}
		}
	}
	return nil
}

// append stores a message. b.mu is held.
func (b *Bus) append(st *stream, m *bus.Message, o bus.PublishOptions) error {
	stored := int64(size(m.Data, m.Header, !b.bug("headersUncounted")))
	if st.cfg.MaxBytes > 0 && stored > st.cfg.MaxBytes && !b.bug("bigAccepted") {
		return bus.ErrTooLarge
	}
	if known, ok := st.known(b, o.MessageID); ok && o.MessageID != "" && time.Now().Before(known.until) && !b.bug("noDedup") {
		if b.bug("duplicateAtEnd") {
			known.cursor = st.cursor(st.seq)
		}
		if o.Receipt != nil {
			*o.Receipt = bus.Receipt{Cursor: known.cursor, Duplicate: !b.bug("untoldDuplicate")}
		}
		return nil
	}
	if b.bug("idOfRefused") && o.MessageID != "" {
		st.ids[o.MessageID] = remembered{until: time.Now().Add(st.cfg.Duplicates)}
	}
	if b.bug("dedupRace") && o.MessageID != "" {
		b.yield()
	}
	if o.Expect {
		st.expire()
		var last bus.Cursor
		for _, other := range st.msgs {
			if other.Subject == m.Subject {
				last = other.Cursor
			}
		}
		if last.IsZero() && b.bug("expectEver") {
			last = st.ever[m.Subject]
		}
		if b.bug("expectRace") {
			b.yield()
		}
		if last != o.ExpectLast && !b.bug("expectIgnored") {
			if b.bug("conflictStores") {
				return errors.Join(bus.ErrConflict, b.keep(st, m, ""))
			}
			if b.bug("refusedDelivered") {
				return errors.Join(bus.ErrConflict, b.send(context.Background(), m))
			}
			return bus.ErrConflict
		}
	}
	if b.bug("asyncStore") {
		time.AfterFunc(2*time.Millisecond, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			_ = b.keep(st, m, o.MessageID) // a mutant's
		})
	} else if err := b.keep(st, m, o.MessageID); err != nil {
		return err
	}
	if b.bug("spanTwice") {
		return b.send(context.Background(), m)
	}
	st.rememberID(b, o.MessageID, m)
	if o.Receipt != nil {
		*o.Receipt = bus.Receipt{Cursor: m.Cursor}
	}
	return nil
}

// rememberID keeps a message from being stored again under its ID.
func (st *stream) rememberID(b *Bus, id string, m *bus.Message) {
	window := st.cfg.Duplicates
	if window == 0 {
		window = defaultDuplicates
	}
	if b.bug("windowForever") {
		window = time.Hour
	}
	if b.bug("windowShort") {
		window /= 4
	}
	if id != "" {
		st.ids[id] = remembered{m.Cursor, m.Time.Add(window)}
	}
}

// known looks a message ID up.
func (st *stream) known(b *Bus, id string) (remembered, bool) {
	if b.bug("idShared") {
		for _, other := range b.streams {
			if r, ok := other.ids[id]; ok {
				return r, true
			}
		}
	}
	r, ok := st.ids[id]
	if ok && b.bug("idOfDiscarded") {
		ok = slices.ContainsFunc(st.msgs, func(m *bus.Message) bool { return m.Cursor == r.cursor })
	}
	return r, ok
}

// yield lets others in where nobody may come in, of bugs. b.mu is held.
func (b *Bus) yield() {
	b.mu.Unlock()
	_ = pauseUntil(context.Background(), time.Millisecond) // its only error is a context's, and this one never ends
	b.mu.Lock()
}

// keep gives a message its place and lets the subscriptions see it.
func (b *Bus) keep(st *stream, m *bus.Message, id string) error {
	st.seq++
	if b.cfg.Gaps {
		st.seq += rand.Uint64N(5)
	}
	m.Cursor, m.Time = st.cursor(st.seq), time.Now()
	if err := b.write(line{Stream: st.cfg.Name, Message: m, Seq: st.seq, ID: id}); err != nil {
		return err
	}
	if b.bug("aliasStore") {
		m.Data = append(make([]byte, 0, len(m.Data)+64), m.Data...)
	}
	if b.bug("expectEver") {
		st.ever[m.Subject] = m.Cursor
	}
	st.msgs = append(st.msgs, m)
	st.trim(b)
	for _, s := range b.toPoke() {
		for _, l := range s.legs {
			if l.st == st && (s.matches(m.Subject) || b.cfg.Bug != "") {
				b.tick(s)
				s.poke()
			}
		}
	}
	return nil
}

// trim applies the limits; the oldest go first.
func (st *stream) trim(b *Bus) {
	st.expire()
	sum := int64(0)
	for _, m := range st.msgs {
		if st.cfg.MaxBytes == 0 || b.bug("bytesIgnored") {
			break
		}
		sum += int64(size(m.Data, m.Header, true))
		if b.bug("overheadForgotten") {
			sum += int64(len(m.Subject)) // which append doesn't count
		}
	}
	for st.cfg.MaxMsgs > 0 && int64(len(st.msgs)) > st.cfg.MaxMsgs || st.cfg.MaxBytes > 0 && sum > st.cfg.MaxBytes {
		if b.bug("evictNew") {
			st.msgs = st.msgs[:len(st.msgs)-1]
			return
		}
		if b.bug("slowSpared") && b.waitedFor(st, st.msgs[0]) {
			return
		}
		sum -= int64(size(st.msgs[0].Data, st.msgs[0].Header, true))
		st.discardFirst()
	}
	for _, other := range b.streams {
		for b.bug("sharedLimit") && st.cfg.MaxMsgs > 0 && int64(len(other.msgs)) > st.cfg.MaxMsgs {
			other.discardFirst()
		}
	}
	if len(st.msgs) > 0 && !b.bug("subjectLimitIgnored") {
		st.trimSubject(st.msgs[len(st.msgs)-1].Subject)
	}
}

func (st *stream) trimSubject(subject string) {
	limit, n := st.cfg.MaxMsgsPerSubject, int64(0)
	for i := len(st.msgs) - 1; i >= 0 && limit > 0; i-- {
		if st.msgs[i].Subject != subject {
			continue
		}
		if n++; n > limit {
			st.msgs = slices.Delete(st.msgs, i, i+1)
		}
	}
}

// change lets another config hold.
func (st *stream) change(cfg bus.StreamConfig, b *Bus) {
	if b.bug("partUpdate") {
		cfg.MaxAge, cfg.Duplicates = st.cfg.MaxAge, st.cfg.Duplicates
	}
	st.cfg = cfg
	if b.bug("releaseDrops") {
		st.msgs = slices.DeleteFunc(st.msgs, func(m *bus.Message) bool { return b.capturing(m.Subject) != st })
	}
	st.trim(b)
	if b.bug("subjectsSpared") || b.bug("subjectLimitIgnored") {
		return
	}
	for _, m := range slices.Clone(st.msgs) {
		st.trimSubject(m.Subject)
	}
}

// waitedFor reports whether a subscription has yet to take m.
func (b *Bus) waitedFor(st *stream, m *bus.Message) bool {
	return slices.ContainsFunc(b.subs, func(s *subscription) bool {
		return slices.ContainsFunc(s.legs, func(l *leg) bool { return l.st == st && l.pos < m.Cursor.Sequence() })
	})
}

func (st *stream) discardFirst() {
	st.lost = st.msgs[0].Cursor.Sequence()
	st.msgs = st.msgs[1:]
}

// maxAge is how long a message may stand.
func (st *stream) maxAge() time.Duration {
	switch age := st.cfg.MaxAge; st.bug {
	case "ageLater":
		return age + 10*time.Second
	case "ageDouble":
		return 2 * age
	case "ageHalf":
		return age / 2
	default:
		return age
	}
}

// expire discards what is too old.
func (st *stream) expire() {
	for st.cfg.MaxAge > 0 && !st.ageless && len(st.msgs) > 0 && time.Since(st.msgs[0].Time) > st.maxAge() {
		st.discardFirst()
	}
}
