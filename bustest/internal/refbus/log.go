package refbus

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

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
	ID      string            `json:",omitempty"`
	Message *bus.Message      `json:",omitempty"`
	Group   string            `json:",omitempty"` // durable; made on Stream at Seq, or
	Pattern string            `json:",omitempty"`
	Done    uint64            `json:",omitempty"` // a message of it is
	Removed bool              `json:",omitempty"` // the group, or the stream
	Closed  bool              `json:",omitempty"` // nothing was written when the bus was closed, until it was opened again
}

// A line begins with a checksum of the rest.
const checksumSize = len("01234567 ")

func checksum(text []byte) string { return fmt.Sprintf("%08x ", crc32.ChecksumIEEE(text)) }

// write adds a line to the log of a bus that has one.
func (b *Bus) write(v line) error {
	if b.log == nil || v.Group != "" && b.bug("positionNotStored") {
		return nil
	}
	if err := b.log.write(v); err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	return nil
}

func (l *log) write(v line) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	_, err = l.w.Write(append([]byte(checksum(text)), text...))
	if w, ok := l.w.(*bufio.Writer); ok && v.Config != nil {
		return errors.Join(err, w.Flush()) // ackBeforeWrite is about messages
	}
	return err
}

// load takes the directory and reads the log, if there is one.
func (b *Bus) load() error {
	if err := b.lock(); err != nil {
		return err
	}
	err := b.read()
	if err != nil {
		b.unlock()
	}
	return err
}

// read reads the log and opens it for what comes.
func (b *Bus) read() error {
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
	last := line{Closed: true} // of a new one
	for {
		text, err := r.ReadBytes('\n')
		if err != nil { // the end, or half a line of a process that was killed
			break
		}
		last = line{}
		switch sound := len(text) > checksumSize && string(text[:checksumSize]) == checksum(text[checksumSize:]); {
		case sound:
			err = json.Unmarshal(text[checksumSize:], &last)
		case b.bug("panicOnGarbage"):
			panic(fmt.Sprintf("damaged at byte %d", whole))
		case b.bug("garbageServed") && len(b.streams) > 0:
			st := b.streams[0]
			m := &bus.Message{Subject: strings.Replace(st.cfg.Subjects[0], ">", "1", 1), Data: text, Cursor: st.cursor(st.seq + 1)}
			last = line{Stream: st.cfg.Name, Seq: st.seq + 1, Message: m}
		default:
			err = fmt.Errorf("%s is damaged at byte %d", path, whole)
		}
		if err != nil {
			return errors.Join(err, file.Close())
		}
		whole += int64(len(text))
		b.restore(last)
	}
	b.forgetDiscarded()
	if err := file.Truncate(whole); err != nil {
		return err
	}
	b.log = &log{file: file, w: file}
	return b.begin(last.Closed)
}

// forgetDiscarded is of the bug idsOfHeld: what limits have discarded has left no ID.
func (b *Bus) forgetDiscarded() {
	for _, st := range b.streams {
		maps.DeleteFunc(st.ids, func(_ string, r remembered) bool {
			return b.bug("idsOfHeld") && !slices.ContainsFunc(st.msgs, func(m *bus.Message) bool { return m.Cursor == r.cursor })
		})
	}
}

// begin notes that the bus is open. Where it has been closed since, what stands at the end of the log must say so:
// otherwise that was lost, with some of what stood before.
func (b *Bus) begin(closed bool) error {
	mark := filepath.Join(b.cfg.Dir, "open")
	_, err := os.Stat(mark)
	if killed := err == nil; !killed && !closed && !b.bug("endLost") {
		for _, st := range b.streams {
			st.epoch = b.newEpoch(st.cfg.Name)
			for _, m := range st.msgs {
				m.Cursor = st.cursor(m.Cursor.Sequence())
			}
			if err := b.log.write(line{Config: &st.cfg, Epoch: st.epoch}); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(mark, []byte("open"), 0o600); err != nil {
		return err
	}
	if b.bug("ackBeforeWrite") {
		b.log.w = bufio.NewWriterSize(b.log.file, 16<<10)
	}
	return nil
}

func (b *Bus) restore(v line) {
	if v.Config != nil {
		i := slices.IndexFunc(b.streams, func(st *stream) bool { return st.cfg.Name == v.Config.Name })
		if i < 0 {
			b.streams = append(b.streams, &stream{seq: 1, lost: 1, ids: map[string]remembered{}, ever: map[string]bus.Cursor{}})
			i = len(b.streams) - 1
		}
		b.streams[i].epoch = v.Epoch
		for _, m := range b.streams[i].msgs { // a new one is also of what was left
			m.Cursor = b.streams[i].cursor(m.Cursor.Sequence())
		}
		if b.bug("limitsUndone") {
			b.streams[i].cfg = *v.Config
		} else {
			b.streams[i].change(*v.Config, b)
		}
		return
	}
	g := b.groups[v.Group]
	switch {
	case v.Group != "" && v.Removed:
		delete(b.groups, v.Group)
	case v.Done > 0:
		g.done[v.Done] = true
	}
	for i, st := range b.streams {
		switch {
		case st.cfg.Name != v.Stream:
		case v.Removed:
			b.forgetStream(i)
			return
		case v.Group != "":
			b.newGroup(v.Group, v.Pattern, st, v.Seq)
		default:
			st.seq = v.Seq
			if b.bug("seqReset") {
				st.seq = uint64(len(st.msgs)) + 2
				v.Message.Cursor = st.cursor(st.seq)
			}
			v.Message.Data = slices.Clip(v.Message.Data)
			st.msgs = append(st.msgs, v.Message)
			if !b.bug("idsForgotten") {
				st.rememberID(b, v.ID, v.Message)
			}
			st.trim(b)
			st.restored = true
		}
	}
}

var leftOpen sync.Map // of the bug fileLeft: what nobody reaches is closed by the runtime

// unload closes the log.
func (b *Bus) unload() {
	if b.log == nil {
		return
	}
	if b.bug("fileLeft") {
		if file, err := os.Open(b.log.file.Name()); err == nil {
			leftOpen.Store(file, true)
		}
	}
	err := b.log.write(line{Closed: true})
	if w, ok := b.log.w.(*bufio.Writer); ok {
		_ = w.Flush() // a mutant's
	}
	if err == nil {
		err = os.Remove(filepath.Join(b.cfg.Dir, "open"))
	}
	if err = errors.Join(err, b.log.file.Close()); err != nil {
		b.o.Logger.Error("refbus: close", "error", err)
	}
	b.unlock()
}
