package filebus

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// slack is how much of a file may be dead beyond the half of it.
const slack = 1 << 20

// head says what a stream is from here on.
type head struct {
	Epoch   string
	Config  bus.StreamConfig
	At      time.Time // the limits before it hold until then
	Last    uint64
	Trimmed uint64
}

func (s *stream) head(at time.Time) *head {
	return &head{Epoch: s.epoch, Config: s.cfg, At: at, Last: s.last, Trimmed: s.trimmed}
}

func (h *head) frame() ([]byte, error) {
	text, err := json.Marshal(h)
	return seal(append(newFrame(headRecord), text...)), err
}

// newEpoch is a name that no life of a stream has had.
func newEpoch() string { return rand.Text()[:12] }

// createStream makes a new file.
func createStream(o *options, cfg bus.StreamConfig) (*stream, error) {
	s := newStream(o, cfg.Name)
	// On a file system that doesn't tell upper from lower case it may be another stream's.
	if _, err := os.Lstat(o.path(s.name)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: its file %s is there already", bus.ErrBadStream, o.path(s.name))
	}
	s.epoch, s.cfg = newEpoch(), cfg
	f, _, err := s.write()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	s.file = f
	return s, nil
}

// loadStream reads a stream from its file.
func loadStream(o *options, name string, before ending) (*stream, error) {
	f, err := os.OpenFile(o.path(name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s := newStream(o, name)
	s.file = &file{File: f, path: f.Name()}
	if err := s.load(before); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *stream) load(before ending) error {
	torn, err := s.file.each(s.replay)
	if err != nil {
		return err
	}
	if s.cfg.Name != s.name {
		return fmt.Errorf("%s holds stream %q", s.file.path, s.cfg.Name)
	}
	if torn {
		s.log.Warn("filebus: the end of a file is no record and is cut off", "file", s.file.path, "byte", s.file.size)
		if err := s.file.Truncate(s.file.size); err != nil {
			return err
		}
	}
	if torn && before != killed || before == lost {
		// Messages that somebody has seen may be gone. Under the same epoch he would take what comes for them.
		h := s.head(s.clock())
		h.Epoch = newEpoch()
		return s.change(h)
	}
	return s.file.Sync() // what has been read must stay
}

// replay does with a record of the file what was done when it was stored, so that both come to the same.
func (s *stream) replay(body []byte, off int64, n int) error {
	if body[0] == headRecord {
		var h head
		if err := json.Unmarshal(body[1:], &h); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		s.become(&h)
		return nil
	}
	if off == 0 {
		return fmt.Errorf("%w: it should say what the stream is", errDamaged)
	}
	r, err := parseRecord(body)
	switch {
	case err != nil:
		return err
	case body[0] == idRecord:
		s.identify(r)
	case len(s.index) > 0 && r.seq <= s.index[len(s.index)-1].seq:
		return fmt.Errorf("%w: sequence %d is behind a later one", errDamaged, r.seq)
	default:
		s.limit(r.at)
		s.add(r, off, n)
	}
	return nil
}

// update gives the stream another config.
func (s *stream) update(cfg bus.StreamConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.head(s.clock())
	h.Config = cfg
	err := s.change(h)
	s.tidy()
	return err
}

// change writes a head and lets it hold.
func (s *stream) change(h *head) error {
	frame, err := h.frame()
	if err != nil {
		return err
	}
	if err := s.file.append(frame, true); err != nil {
		return err
	}
	s.become(h)
	return nil
}

// become lets a head hold.
func (s *stream) become(h *head) {
	s.limit(h.At)
	s.epoch, s.cfg = h.Epoch, h.Config
	s.advance(h.At)
	s.last, s.trimmed = max(s.last, h.Last), max(s.trimmed, h.Trimmed)
	for subject := range s.subjects {
		s.limitSubject(subject)
	}
	s.limit(h.At)
}

// tidy writes the file anew when more than half of it is dead.
func (s *stream) tidy() {
	if s.file.size <= max(2*s.live+slack, s.rewrites) || s.file.broken != nil {
		return
	}
	f, index, err := s.write()
	if err != nil {
		s.rewrites = 2 * s.file.size
		s.log.Warn("filebus: can't write a file anew; it grows", "file", s.file.path, "error", err)
		return
	}
	if err := s.file.Close(); err != nil {
		s.log.Warn("filebus: close what was written anew", "file", s.file.path, "error", err)
	}
	s.file, s.index, s.rewrites = f, index, 0
}

// write writes the stream as it is into a new file, which replaces the one that is there.
func (s *stream) write() (*file, []place, error) {
	w, err := newWriter(s.path(s.name))
	if err != nil {
		return nil, nil, err
	}
	index, err := s.copyTo(w)
	if err != nil {
		return nil, nil, w.abandon(err)
	}
	f, err := w.replace(s.path(s.name))
	if err != nil {
		return nil, nil, w.abandon(err)
	}
	return f, index, nil
}

// copyTo writes a head, what is held, and the IDs that outlive their messages.
func (s *stream) copyTo(w *writer) ([]place, error) {
	frame, err := s.head(s.now).frame()
	if err != nil {
		return nil, err
	}
	w.write(frame)
	s.forget(s.now)
	ids := s.recent
	index := make([]place, 0, s.held)
	for _, p := range s.index {
		if p.n == 0 {
			continue
		}
		for len(ids) > 0 && ids[0].seq <= p.seq {
			if ids[0].seq < p.seq { // otherwise the message has it
				w.writeID(ids[0])
			}
			ids = ids[1:]
		}
		if frame, err = s.file.frame(p.off, p.n); err != nil {
			return nil, err
		}
		p.off = w.size
		w.write(frame)
		index = append(index, p)
	}
	for _, known := range ids {
		w.writeID(known)
	}
	return index, nil
}

// remove deletes the stream with its file.
func (s *stream) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(s.path(s.name)); err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	s.removed = true
	for t := range s.tails {
		t.sink.End(driver.ErrNotCaptured)
	}
	return errors.Join(syncDir(s.dir), s.file.Close())
}

// close flushes the file and closes it.
func (s *stream) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return errors.Join(s.file.broken, s.file.Sync(), s.file.Close())
}
