package filebus

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// stream is a file and what is known of it without reading it.
type stream struct {
	*options
	name string

	mu       sync.Mutex
	file     *file
	closed   bool
	removed  bool
	epoch    string
	cfg      bus.StreamConfig
	last     uint64    // the last sequence that was given
	trimmed  uint64    // up to here limits have taken everything
	now      time.Time // doesn't go back
	index    []place   // by sequence, beginning with one that is held
	held     int
	bytes    int64 // of what is held, as storedSize counts
	live     int64 // of the file, for what is held
	subjects map[string][]uint64
	ids      map[string]uint64
	recent   []identity // by time
	tails    map[*tail]struct{}
	rewrites int64 // the file isn't written anew before it has this size
}

// place says where a message stands.
type place struct {
	seq     uint64
	at      time.Time
	off     int64
	n       int // bytes of the file; 0: something newer of its subject has taken its place
	size    int64
	subject string
}

type identity struct {
	id  string
	seq uint64
	at  time.Time
}

type tail struct{ sink driver.Sink }

func newStream(o *options, name string) *stream {
	return &stream{
		options: o, name: name,
		subjects: map[string][]uint64{}, ids: map[string]uint64{}, tails: map[*tail]struct{}{},
	}
}

func (s *stream) describe() driver.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return driver.Stream{Config: s.cfg, Epoch: s.epoch}
}

func (s *stream) state() driver.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(s.clock())
	st := driver.State{Epoch: s.epoch, First: s.last + 1, Last: s.last, Msgs: uint64(s.held), Bytes: uint64(s.bytes)}
	if s.held > 0 {
		st.First = s.index[0].seq
	}
	st.Dense = st.Msgs == st.Last+1-st.First
	return st
}

// clock is the time as files hold it.
func (s *stream) clock() time.Time {
	s.advance(time.Unix(0, time.Now().UnixNano()))
	return s.now
}

func (s *stream) advance(to time.Time) {
	if to.After(s.now) {
		s.now = to
	}
}

func (s *stream) append(p *driver.Publication) (driver.Ack, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return driver.Ack{}, bus.ErrClosed
	}
	now := s.clock()
	s.limit(now)
	if s.removed || !slices.ContainsFunc(s.cfg.Subjects, func(pattern string) bool { return bus.Match(pattern, p.Subject) }) {
		return driver.Ack{}, driver.ErrNotCaptured
	}
	if p.ID != "" {
		s.forget(now)
		if seq, known := s.ids[p.ID]; known {
			return driver.Ack{Sequence: seq, Duplicate: true}, nil
		}
	}
	if p.Expect && s.newest(p.Subject) != p.ExpectLast {
		return driver.Ack{}, fmt.Errorf("%w: the last message of the subject is not the expected one", bus.ErrConflict)
	}
	r := &record{seq: s.last + 1, at: now, id: p.ID, subject: p.Subject, header: p.Header, data: p.Data}
	frame := r.messageFrame()
	off := s.file.size
	if err := s.file.append(frame, s.sync); err != nil {
		return driver.Ack{}, err
	}
	s.add(r, off, len(frame))
	r.data = frame[len(frame)-len(p.Data) : len(frame) : len(frame)] // p.Data is the caller's
	for t := range s.tails {
		t.sink.Deliver(driver.Entry{Message: r.message(s.epoch), Prev: r.seq - 1})
	}
	s.tidy()
	return driver.Ack{Sequence: r.seq}, nil
}

// newest is the sequence of the newest message of a subject, or 0.
func (s *stream) newest(subject string) uint64 {
	if seqs := s.subjects[subject]; len(seqs) > 0 {
		return seqs[len(seqs)-1]
	}
	return 0
}

// add takes a message that the file holds into the index and lets the limits act.
func (s *stream) add(r *record, off int64, n int) {
	size := storedSize(r.subject, r.header, r.data)
	s.index = append(s.index, place{r.seq, r.at, off, n, size, r.subject})
	s.held++
	s.bytes += size
	s.live += int64(n)
	s.last = max(s.last, r.seq)
	s.advance(r.at)
	s.subjects[r.subject] = append(s.subjects[r.subject], r.seq)
	s.identify(r)
	s.limitSubject(r.subject)
	s.limit(r.at)
}

// identify remembers the ID of a message.
func (s *stream) identify(r *record) {
	if r.id != "" {
		s.forget(r.at)
		s.ids[r.id] = r.seq
		s.recent = append(s.recent, identity{r.id, r.seq, r.at})
	}
}

// forget drops the IDs whose window is over.
func (s *stream) forget(now time.Time) {
	for len(s.recent) > 0 && now.Sub(s.recent[0].at) >= s.cfg.Duplicates {
		if old := s.recent[0]; s.ids[old.id] == old.seq {
			delete(s.ids, old.id)
		}
		s.recent = s.recent[1:]
	}
}

// limit discards the oldest messages until the limits hold.
func (s *stream) limit(now time.Time) {
	for s.held > 0 {
		oldest := s.index[0]
		if (s.cfg.MaxMsgs == 0 || int64(s.held) <= s.cfg.MaxMsgs) &&
			(s.cfg.MaxBytes == 0 || s.bytes <= s.cfg.MaxBytes) &&
			(s.cfg.MaxAge == 0 || now.Sub(oldest.at) < s.cfg.MaxAge) {
			return
		}
		s.trimmed = oldest.seq
		s.discard(0)
	}
}

// limitSubject discards the oldest messages of a subject until its limit holds.
func (s *stream) limitSubject(subject string) {
	for s.cfg.MaxMsgsPerSubject > 0 && int64(len(s.subjects[subject])) > s.cfg.MaxMsgsPerSubject {
		s.discard(s.find(s.subjects[subject][0]))
	}
}

// discard takes the message at index i out, which is the oldest of its subject whichever limit it was.
func (s *stream) discard(i int) {
	p := &s.index[i]
	s.held--
	s.bytes -= p.size
	s.live -= int64(p.n)
	if rest := s.subjects[p.subject][1:]; len(rest) > 0 {
		s.subjects[p.subject] = rest
	} else {
		delete(s.subjects, p.subject)
	}
	p.n, p.subject = 0, ""
	for len(s.index) > 0 && s.index[0].n == 0 {
		s.index = s.index[1:]
	}
}

// find returns the index of the first message from seq on.
func (s *stream) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(s.index, seq, func(p place, seq uint64) int { return cmp.Compare(p.seq, seq) })
	return i
}

// message reads a message from the file.
func (s *stream) message(p place) (*bus.Message, error) {
	if s.removed {
		return nil, driver.ErrNotCaptured
	}
	frame, err := s.file.frame(p.off, p.n)
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(frame[frameHeader:])
	if err != nil {
		return nil, fmt.Errorf("%w: %s at byte %d: %w", bus.ErrUnavailable, s.file.path, p.off, err)
	}
	return r.message(s.epoch), nil
}

func (s *stream) tail(after uint64, sink driver.Sink) (stop func(), err error) {
	s.mu.Lock() // nothing is stored between what is read here and what append delivers
	defer s.mu.Unlock()
	for _, p := range s.index[s.find(after+1):] {
		if p.n == 0 {
			continue
		}
		m, err := s.message(p)
		if err != nil {
			return nil, err
		}
		sink.Deliver(driver.Entry{Message: m, Prev: p.seq - 1})
	}
	t := &tail{sink}
	s.tails[t] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tails, t)
	}, nil
}

func (s *stream) read(q driver.Query) (driver.Batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(s.clock())
	batch := driver.Batch{Through: q.UpTo}
	if q.After < s.trimmed {
		batch.Holes = []driver.Hole{{After: q.After, Before: s.trimmed + 1}}
		batch.Through = max(q.UpTo, s.trimmed)
	}
	room := int64(q.MaxBytes)
	for _, p := range s.index[s.find(q.After+1):] {
		if p.seq > q.UpTo {
			break
		}
		if p.n == 0 || !bus.Match(q.Pattern, p.subject) {
			continue
		}
		room -= p.size
		if n := len(batch.Messages); n > 0 && (n == q.MaxMsgs || room < 0) {
			batch.Through = batch.Messages[n-1].Cursor.Sequence()
			break
		}
		m, err := s.message(p)
		if err != nil {
			return driver.Batch{}, err
		}
		batch.Messages = append(batch.Messages, m)
	}
	return batch, nil
}

func (s *stream) seek(q driver.Query) (after uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(s.clock())
	if !q.Since.IsZero() {
		i, _ := slices.BinarySearchFunc(s.index, q.Since, func(p place, t time.Time) int { return p.at.Compare(t) })
		if i == len(s.index) || s.index[i].seq > q.UpTo {
			return q.UpTo
		}
		return s.index[i].seq - 1
	}
	n := 0
	for _, p := range slices.Backward(s.index[:s.find(q.UpTo+1)]) {
		if p.n == 0 || !bus.Match(q.Pattern, p.subject) {
			continue
		}
		if n++; n == q.N {
			return p.seq - 1
		}
	}
	return 0
}

func (s *stream) lastPerSubject(q driver.Query) ([]*bus.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit(s.clock())
	var newest []uint64
	for subject, seqs := range s.subjects {
		if !bus.Match(q.Pattern, subject) {
			continue
		}
		n, _ := slices.BinarySearch(seqs, q.UpTo+1)
		if n > 0 {
			newest = append(newest, seqs[n-1])
		}
	}
	slices.Sort(newest)
	messages := make([]*bus.Message, len(newest))
	for i, seq := range newest {
		m, err := s.message(s.index[s.find(seq)])
		if err != nil {
			return nil, err
		}
		messages[i] = m
	}
	return messages, nil
}
