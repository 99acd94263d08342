package membus

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// compactFrom is how many entries a log has before tombstones are worth removing.
const compactFrom = 1024

// epochs tells the lives of streams of one process apart.
var epochs atomic.Uint64

// stream is an ordered log with limits.
type stream struct {
	epoch string

	mu       sync.Mutex
	cfg      bus.StreamConfig
	log      []entry // by sequence; with tombstones where a limit per subject took something
	held     int     // entries that aren't tombstones
	bytes    int64
	last     uint64
	trimmed  uint64              // everything up to here is gone, oldest first
	subjects map[string][]uint64 // the sequences that are held, by subject
	ids      map[string]identity
	recent   []identity // by time
	tails    map[*tail]struct{}
	expiry   *time.Timer // not nil while something will expire
	closed   bool
	removed  bool
}

type entry struct {
	seq uint64
	at  time.Time
	m   *bus.Message // nil: a tombstone
}

type identity struct {
	id  string
	seq uint64
	at  time.Time
}

type tail struct{ sink driver.Sink }

func newStream(cfg bus.StreamConfig) *stream {
	return &stream{
		epoch:    strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.FormatUint(epochs.Add(1), 36),
		cfg:      cfg,
		subjects: map[string][]uint64{},
		ids:      map[string]identity{},
		tails:    map[*tail]struct{}{},
	}
}

func (s *stream) update(cfg bus.StreamConfig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg = cfg
	if limit := cfg.MaxMsgsPerSubject; limit > 0 {
		for _, seqs := range s.subjects {
			for _, seq := range slices.Clone(seqs[:max(0, int64(len(seqs))-limit)]) {
				s.remove(s.find(seq))
			}
		}
	}
	s.limit(time.Now())
}

func (s *stream) state() driver.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(time.Now())
	st := driver.State{Epoch: s.epoch, First: s.last + 1, Last: s.last, Msgs: uint64(s.held), Bytes: uint64(s.bytes)}
	if s.held > 0 {
		st.First = s.log[0].seq
	}
	st.Dense = st.Msgs == st.Last+1-st.First
	return st
}

func (s *stream) append(p *driver.Publication) (driver.Ack, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return driver.Ack{}, driver.ErrNotCaptured
	}
	if s.closed {
		return driver.Ack{}, bus.ErrClosed
	}
	now := time.Now()
	s.limit(now)
	if !slices.ContainsFunc(s.cfg.Subjects, func(pattern string) bool { return bus.Match(pattern, p.Subject) }) {
		return driver.Ack{}, driver.ErrNotCaptured
	}
	if p.ID != "" {
		s.forget(now)
		if known, ok := s.ids[p.ID]; ok {
			return driver.Ack{Sequence: known.seq, Duplicate: true}, nil
		}
	}
	if p.Expect {
		var last uint64
		if seqs := s.subjects[p.Subject]; len(seqs) > 0 {
			last = seqs[len(seqs)-1]
		}
		if last != p.ExpectLast {
			return driver.Ack{}, fmt.Errorf("%w: the last message of the subject is not the expected one", bus.ErrConflict)
		}
	}
	s.last++
	m := newMessage(p)
	m.Cursor, m.Time = bus.NewCursor(s.epoch, s.last), now
	s.log = append(s.log, entry{s.last, now, m})
	s.held++
	s.bytes += storedSize(m.Subject, m.Header, m.Data)
	s.subjects[m.Subject] = append(s.subjects[m.Subject], s.last)
	if p.ID != "" {
		known := identity{p.ID, s.last, now}
		s.ids[p.ID] = known
		s.recent = append(s.recent, known)
	}
	if limit := s.cfg.MaxMsgsPerSubject; limit > 0 && int64(len(s.subjects[m.Subject])) > limit {
		s.remove(s.find(s.subjects[m.Subject][0]))
	}
	s.limit(now)
	for t := range s.tails {
		t.sink.Deliver(driver.Entry{Message: m, Prev: s.last - 1})
	}
	return driver.Ack{Sequence: s.last}, nil
}

// forget drops the IDs whose window is over.
func (s *stream) forget(now time.Time) {
	n := 0
	for n < len(s.recent) && now.Sub(s.recent[n].at) >= s.cfg.Duplicates {
		delete(s.ids, s.recent[n].id)
		n++
	}
	s.recent = s.recent[n:]
}

// limit discards the oldest messages until the limits hold.
func (s *stream) limit(now time.Time) {
	for s.held > 0 {
		over := s.cfg.MaxMsgs > 0 && int64(s.held) > s.cfg.MaxMsgs ||
			s.cfg.MaxBytes > 0 && s.bytes > s.cfg.MaxBytes ||
			s.cfg.MaxAge > 0 && now.Sub(s.log[0].m.Time) >= s.cfg.MaxAge
		if !over {
			break
		}
		s.trimmed = s.log[0].seq
		s.remove(0)
	}
	// Memory is given back also when nobody asks.
	if s.cfg.MaxAge > 0 && s.held > 0 && s.expiry == nil && !s.closed {
		s.expiry = time.AfterFunc(s.cfg.MaxAge-now.Sub(s.log[0].m.Time), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.expiry = nil
			s.limit(time.Now())
		})
	}
}

// find returns the place in the log of the first sequence from seq on.
func (s *stream) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(s.log, seq, func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) })
	return i
}

// remove discards the message at a place in the log. The log never starts with a tombstone.
func (s *stream) remove(i int) {
	m := s.log[i].m
	s.log[i].m = nil
	s.held--
	s.bytes -= storedSize(m.Subject, m.Header, m.Data)
	if seqs := s.subjects[m.Subject][1:]; len(seqs) > 0 { // its oldest is the first to go in every case
		s.subjects[m.Subject] = seqs
	} else {
		delete(s.subjects, m.Subject)
	}
	n := 0
	for n < len(s.log) && s.log[n].m == nil {
		n++
	}
	s.log = s.log[n:]
	if len(s.log) > compactFrom && s.held < len(s.log)/2 {
		kept := make([]entry, 0, s.held)
		for _, e := range s.log {
			if e.m != nil {
				kept = append(kept, e)
			}
		}
		s.log = kept
	}
}

func (s *stream) tail(after uint64, sink driver.Sink) (stop func()) {
	t := &tail{sink}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tails[t] = struct{}{}
	for _, e := range s.log[s.find(after+1):] {
		if e.m != nil {
			sink.Deliver(driver.Entry{Message: e.m, Prev: e.seq - 1})
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tails, t)
	}
}

func (s *stream) read(q driver.Query) driver.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(time.Now())
	batch := driver.Batch{Through: q.UpTo}
	if q.After < s.trimmed {
		before := s.trimmed + 1
		batch.Holes = []driver.Hole{{After: q.After, Before: before}}
		batch.Through = max(q.UpTo, s.trimmed)
	}
	size := 0
	for _, e := range s.log[s.find(q.After+1):] {
		if e.seq > q.UpTo {
			break
		}
		if e.m == nil || !bus.Match(q.Pattern, e.m.Subject) {
			continue
		}
		size += int(storedSize(e.m.Subject, e.m.Header, e.m.Data))
		if n := len(batch.Messages); n > 0 && (n == q.MaxMsgs || size > q.MaxBytes) {
			batch.Through = batch.Messages[n-1].Cursor.Sequence()
			break
		}
		m := *e.m // the reader's own; what it points to is shared
		batch.Messages = append(batch.Messages, &m)
	}
	return batch
}

func (s *stream) seek(q driver.Query) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(time.Now())
	if !q.Since.IsZero() {
		i, _ := slices.BinarySearchFunc(s.log, q.Since, func(e entry, t time.Time) int { return e.at.Compare(t) })
		if i == len(s.log) || s.log[i].seq > q.UpTo {
			return q.UpTo
		}
		return s.log[i].seq - 1
	}
	n := q.N
	for i := s.find(q.UpTo+1) - 1; i >= 0; i-- {
		if e := s.log[i]; e.m != nil && bus.Match(q.Pattern, e.m.Subject) {
			if n--; n == 0 {
				return e.seq - 1
			}
		}
	}
	return 0
}

func (s *stream) lastPerSubject(q driver.Query) []*bus.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(time.Now())
	var last []*bus.Message
	for subject, seqs := range s.subjects {
		if !bus.Match(q.Pattern, subject) {
			continue
		}
		i, found := slices.BinarySearch(seqs, q.UpTo)
		if !found {
			i--
		}
		if i >= 0 {
			m := *s.log[s.find(seqs[i])].m
			last = append(last, &m)
		}
	}
	slices.SortFunc(last, func(x, y *bus.Message) int {
		return cmp.Or(cmp.Compare(x.Cursor.Sequence(), y.Cursor.Sequence()), strings.Compare(x.Subject, y.Subject))
	})
	return last
}

// end ends the stream's life while the bus goes on.
func (s *stream) end() {
	s.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = true
	for t := range s.tails {
		t.sink.End(driver.ErrNotCaptured)
	}
	clear(s.tails)
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.log, s.held, s.bytes, s.subjects, s.ids, s.recent = nil, 0, 0, nil, nil, nil
}
