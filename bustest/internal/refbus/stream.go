package refbus

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
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

	ageless bool // of the bug neverExpire
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
	if st.cfg.MaxBytes > 0 && int64(len(m.Data)) > st.cfg.MaxBytes && !b.bug("bigAccepted") {
		return bus.ErrTooLarge
	}
	if known, ok := st.ids[o.MessageID]; ok && o.MessageID != "" && time.Now().Before(known.until) && !b.bug("noDedup") {
		if o.Receipt != nil {
			*o.Receipt = bus.Receipt{Cursor: known.cursor, Duplicate: !b.bug("untoldDuplicate")}
		}
		return nil
	}
	if o.Expect {
		st.expire()
		var last bus.Cursor
		for _, other := range st.msgs {
			if other.Subject == m.Subject {
				last = other.Cursor
			}
		}
		if last != o.ExpectLast && !b.bug("expectIgnored") {
			if b.bug("conflictStores") {
				return errors.Join(bus.ErrConflict, b.keep(st, m))
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
			_ = b.keep(st, m) // a mutant's
		})
	} else if err := b.keep(st, m); err != nil {
		return err
	}
	if b.bug("spanTwice") {
		return b.send(context.Background(), m)
	}
	if o.MessageID != "" {
		window := st.cfg.Duplicates
		if window == 0 {
			window = defaultDuplicates
		}
		st.ids[o.MessageID] = remembered{m.Cursor, time.Now().Add(window)}
	}
	if o.Receipt != nil {
		*o.Receipt = bus.Receipt{Cursor: m.Cursor}
	}
	return nil
}

// keep gives a message its place and lets the subscriptions see it.
func (b *Bus) keep(st *stream, m *bus.Message) error {
	st.seq++
	if b.cfg.Gaps {
		st.seq += rand.Uint64N(5)
	}
	m.Cursor, m.Time = st.cursor(st.seq), time.Now()
	if b.log != nil {
		if err := b.log.write(line{Stream: st.cfg.Name, Message: m, Seq: st.seq}); err != nil {
			return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
		}
	}
	st.msgs = append(st.msgs, m)
	st.trim(b)
	for _, s := range b.subs {
		for _, l := range s.legs {
			if l.st == st {
				b.tick()
				s.poke()
			}
		}
	}
	return nil
}

// trim applies the limits; the oldest go first.
func (st *stream) trim(b *Bus) {
	st.expire()
	size := int64(0)
	for _, m := range st.msgs {
		size += int64(len(m.Data))
		if b.bug("overheadForgotten") {
			size += int64(len(m.Subject)) // which append doesn't count
		}
	}
	if b.bug("bytesIgnored") {
		size = 0
	}
	for st.cfg.MaxMsgs > 0 && int64(len(st.msgs)) > st.cfg.MaxMsgs || st.cfg.MaxBytes > 0 && size > st.cfg.MaxBytes {
		if b.bug("evictNew") {
			st.msgs = st.msgs[:len(st.msgs)-1]
			return
		}
		if b.bug("slowSpared") && b.waitedFor(st, st.msgs[0]) {
			return
		}
		size -= int64(len(st.msgs[0].Data))
		st.discardFirst()
	}
	if limit := st.cfg.MaxMsgsPerSubject; limit > 0 && len(st.msgs) > 0 {
		newest := st.msgs[len(st.msgs)-1].Subject
		n := int64(0)
		for i := len(st.msgs) - 1; i >= 0; i-- {
			if st.msgs[i].Subject != newest {
				continue
			}
			if n++; n > limit && !b.bug("subjectLimitIgnored") {
				st.msgs = slices.Delete(st.msgs, i, i+1)
			}
		}
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

// expire discards what is too old.
func (st *stream) expire() {
	for st.cfg.MaxAge > 0 && !st.ageless && len(st.msgs) > 0 && time.Since(st.msgs[0].Time) > st.cfg.MaxAge {
		st.discardFirst()
	}
}

// EnsureStreams implements bus.Bus.
func (b *Bus) EnsureStreams(ctx context.Context, configs ...bus.StreamConfig) error {
	b.mu.Lock()
	before := map[*subscription]string{}
	for _, s := range b.subs {
		before[s] = b.touched(s.pattern)
	}
	err := b.ensureAll(ctx, configs)
	var changed []*subscription
	for s, touched := range before {
		if b.touched(s.pattern) != touched && !b.bug("deafWhenCaptured") {
			changed = append(changed, s)
		}
	}
	b.mu.Unlock()
	for _, s := range changed {
		if b.bug("capturedTwice") {
			s.follow()
			continue
		}
		s.end(bus.ErrStreamChanged)
	}
	return err
}

// touched says which streams a pattern touches and which captures it as a whole.
func (b *Bus) touched(pattern string) string {
	var names []string
	for _, st := range b.streams {
		for _, captured := range st.cfg.Subjects {
			if contains(captured, pattern) {
				names = append(names, st.cfg.Name+" as a whole")
			} else if overlap(captured, pattern) {
				names = append(names, st.cfg.Name)
			}
		}
	}
	return strings.Join(names, ", ")
}

// ensureAll checks all configs before the first is applied. b.mu is held.
func (b *Bus) ensureAll(ctx context.Context, configs []bus.StreamConfig) error {
	if err := b.refuse(ctx); err != nil {
		return b.wrap("ensure", "streams", err, nil)
	}
	if b.cfg.NoStreams {
		if b.bug("streamsIgnored") {
			return nil
		}
		return b.wrap("ensure", "streams", bus.ErrUnsupported, nil)
	}
	planned := map[string][]string{}
	for _, st := range b.streams {
		planned[st.cfg.Name] = st.cfg.Subjects
	}
	for _, cfg := range configs {
		if err := checkConfig(cfg); err != nil && !b.bug("negOK") && !(b.bug("noValidate") && errors.Is(err, bus.ErrBadSubject)) {
			return b.wrap("ensure", cfg.Name, err, nil)
		}
		planned[cfg.Name] = cfg.Subjects
	}
	for _, cfg := range configs {
		for name, subjects := range planned {
			for i, p := range cfg.Subjects {
				for k, q := range subjects {
					if (name != cfg.Name || i != k) && overlap(p, q) && !b.bug("overlapOK") {
						return b.wrap("ensure", cfg.Name, fmt.Errorf("%w with %s: %s, %s", bus.ErrStreamOverlap, name, p, q), nil)
					}
				}
			}
		}
	}
	for _, cfg := range configs {
		if err := b.ensure(cfg); err != nil {
			return b.wrap("ensure", cfg.Name, fmt.Errorf("%w: %w", bus.ErrUnavailable, err), nil)
		}
	}
	return nil
}

func (b *Bus) ensure(cfg bus.StreamConfig) error {
	cfg.Subjects = slices.Clone(cfg.Subjects)
	i := slices.IndexFunc(b.streams, func(st *stream) bool { return st.cfg.Name == cfg.Name })
	if i < 0 || b.bug("recreate") {
		st := &stream{ageless: b.bug("neverExpire"), cfg: cfg, epoch: fmt.Sprintf("e%x", rand.Uint64()), seq: 1, lost: 1, ids: map[string]remembered{}}
		if i < 0 {
			b.streams = append(b.streams, st)
		} else {
			b.streams[i] = st
		}
		if b.log != nil {
			return b.log.write(line{Config: &cfg, Epoch: st.epoch})
		}
		return nil
	}
	st := b.streams[i]
	if b.bug("noUpdate") {
		return nil
	}
	st.cfg = cfg
	st.trim(b)
	if b.log != nil {
		return b.log.write(line{Config: &cfg, Epoch: st.epoch})
	}
	return nil
}

// Streams implements bus.StreamLister.
func (b *Bus) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refuse(ctx); err != nil {
		return nil, b.wrap("list", "streams", err, nil)
	}
	var infos []bus.StreamInfo
	for _, st := range b.streams {
		info := bus.StreamInfo{Config: st.cfg, Msgs: uint64(len(st.msgs))}
		if len(st.msgs) > 0 {
			info.First, info.Last = st.msgs[0].Cursor, st.cursor(st.seq)
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, c bus.StreamInfo) int { return strings.Compare(a.Config.Name, c.Config.Name) })
	return infos, nil
}

func checkConfig(cfg bus.StreamConfig) error {
	const letters = "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	bad := cfg.Name == "" || len(cfg.Name) > 64 || strings.Trim(cfg.Name, letters) != "" || len(cfg.Subjects) == 0 ||
		cfg.MaxMsgs < 0 || cfg.MaxBytes < 0 || cfg.MaxMsgsPerSubject < 0 || cfg.MaxAge < 0 || cfg.Duplicates < 0 ||
		cfg.MaxAge > 0 && cfg.MaxAge < time.Second || cfg.Duplicates > 0 && cfg.Duplicates < 100*time.Millisecond ||
		cfg.MaxAge > 0 && cfg.Duplicates > cfg.MaxAge
	if bad {
		return bus.ErrBadStream
	}
	for _, pattern := range cfg.Subjects {
		if err := bus.CheckPattern(pattern); err != nil {
			return fmt.Errorf("%w: %w", bus.ErrBadStream, err)
		}
	}
	return nil
}

// overlap reports whether a subject can match both patterns.
func overlap(p, q string) bool {
	ps, qs := strings.Split(p, "."), strings.Split(q, ".")
	for i := 0; ; i++ {
		if i == len(ps) || i == len(qs) {
			return len(ps) == len(qs)
		}
		if ps[i] == ">" || qs[i] == ">" {
			return true
		}
		if ps[i] != qs[i] && ps[i] != "*" && qs[i] != "*" {
			return false
		}
	}
}

// contains reports whether every subject that q matches is matched by p.
func contains(p, q string) bool {
	ps, qs := strings.Split(p, "."), strings.Split(q, ".")
	for i := 0; ; i++ {
		if i == len(ps) || i == len(qs) {
			return len(ps) == len(qs)
		}
		switch {
		case ps[i] == ">":
			return true
		case qs[i] == ">", ps[i] != "*" && ps[i] != qs[i]:
			return false
		}
	}
}

// log is the store of a durable bus: a line for each stream and message.
type log struct {
	file *os.File
	w    io.Writer
}

type line struct {
	Config  *bus.StreamConfig `json:",omitempty"`
	Epoch   string            `json:",omitempty"`
	Stream  string            `json:",omitempty"`
	Seq     uint64            `json:",omitempty"`
	Message *bus.Message      `json:",omitempty"`
}

func (l *log) write(v line) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = l.w.Write(append(text, '\n'))
	return err
}

// openDirs locks directories within the process, which is all that the suite needs.
var openDirs sync.Map

// load reads the log, if there is one, and opens it for what comes.
func (b *Bus) load() error {
	if _, taken := openDirs.LoadOrStore(b.cfg.Dir, true); taken && !b.bug("noLock") {
		return bus.ErrLocked
	}
	path := filepath.Join(b.cfg.Dir, "log")
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if b.bug("noPersist") {
		flags |= os.O_TRUNC
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return err
	}
	r := bufio.NewReader(file)
	whole := int64(0)
	for {
		text, err := r.ReadBytes('\n')
		if err != nil { // the end, or half a line of a process that was killed
			break
		}
		whole += int64(len(text))
		var v line
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		b.restore(v)
	}
	if err := file.Truncate(whole); err != nil {
		return err
	}
	b.log = &log{file: file, w: file}
	if b.bug("ackBeforeWrite") {
		b.log.w = bufio.NewWriterSize(file, 16<<10)
	}
	return nil
}

func (b *Bus) restore(v line) {
	if v.Config != nil {
		i := slices.IndexFunc(b.streams, func(st *stream) bool { return st.cfg.Name == v.Config.Name })
		if i < 0 {
			b.streams = append(b.streams, &stream{seq: 1, lost: 1, ids: map[string]remembered{}})
			i = len(b.streams) - 1
		}
		b.streams[i].cfg, b.streams[i].epoch = *v.Config, v.Epoch
		return
	}
	for _, st := range b.streams {
		if st.cfg.Name == v.Stream {
			st.seq = v.Seq
			if b.bug("seqReset") {
				st.seq = uint64(len(st.msgs)) + 2
				v.Message.Cursor = st.cursor(st.seq)
			}
			v.Message.Data = slices.Clip(v.Message.Data)
			st.msgs = append(st.msgs, v.Message)
			st.trim(b)
		}
	}
}

// unload closes the log.
func (b *Bus) unload() {
	if b.log == nil {
		return
	}
	if w, ok := b.log.w.(*bufio.Writer); ok {
		_ = w.Flush() // a mutant's
	}
	if err := b.log.file.Close(); err != nil {
		b.o.Logger.Error("refbus: close", "error", err)
	}
	openDirs.Delete(b.cfg.Dir)
}
