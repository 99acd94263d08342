package filebus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// A file is a sequence of frames: how long the body is, the checksum of the body, the checksum of
// these two, the body. The last one is there so that a damaged length isn't taken for the end of
// the file.
const frameHeader = 12

// The first byte of a body says what it is.
const (
	headRecord    = 'h' // the stream as it is from here on; the first record of each file
	messageRecord = 'm'
	idRecord      = 'i' // the ID of a message that is gone
)

var checksums = crc32.MakeTable(crc32.Castagnoli)

var (
	errTorn    = errors.New("the last record is incomplete")
	errDamaged = errors.New("a record is damaged")
)

// record is a message as a file holds it, or what is left of it.
type record struct {
	seq     uint64
	at      time.Time
	id      string
	subject string
	header  bus.Header
	data    []byte
}

// newFrame returns a frame without its body, to which that is appended; seal completes it.
func newFrame(kind byte) []byte { return append(make([]byte, frameHeader, 256), kind) }

func seal(frame []byte) []byte {
	body := frame[frameHeader:]
	binary.LittleEndian.PutUint32(frame, uint32(len(body)))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(body, checksums))
	binary.LittleEndian.PutUint32(frame[8:], crc32.Checksum(frame[:8], checksums))
	return frame
}

// unsealed returns nil if a frame is whole.
func unsealed(frame []byte) error {
	body := frame[frameHeader:]
	if len(body) == 0 || binary.LittleEndian.Uint32(frame[8:]) != crc32.Checksum(frame[:8], checksums) ||
		int64(binary.LittleEndian.Uint32(frame)) != int64(len(body)) || binary.LittleEndian.Uint32(frame[4:]) != crc32.Checksum(body, checksums) {
		return errDamaged
	}
	return nil
}

func (r *record) messageFrame() []byte {
	b := r.appendPlace(newFrame(messageRecord))
	b = appendText(b, r.subject)
	b = binary.AppendUvarint(b, uint64(len(r.header)))
	for key, values := range r.header {
		b = appendText(b, key)
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, v := range values {
			b = appendText(b, v)
		}
	}
	return seal(append(b, r.data...))
}

func (r *record) idFrame() []byte { return seal(r.appendPlace(newFrame(idRecord))) }

func (r *record) appendPlace(b []byte) []byte {
	b = binary.AppendUvarint(b, r.seq)
	b = binary.AppendVarint(b, r.at.UnixNano())
	return appendText(b, r.id)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// parseRecord reads the body of a message or an ID. The data is part of body.
func parseRecord(body []byte) (*record, error) {
	p := parser{rest: body[1:]}
	r := &record{seq: p.uvarint(), at: time.Unix(0, p.varint()), id: p.text()}
	if body[0] == messageRecord {
		r.subject = p.text()
		if n := p.count(); n > 0 {
			r.header = make(bus.Header, n)
			for range n {
				key := p.text()
				values := make([]string, p.count())
				for i := range values {
					values[i] = p.text()
				}
				r.header[key] = values
			}
		}
		r.data = p.rest[:len(p.rest):len(p.rest)]
	}
	if p.bad || r.seq == 0 || body[0] != messageRecord && (body[0] != idRecord || len(p.rest) > 0) {
		return nil, errDamaged
	}
	return r, nil
}

// message makes what handlers are given.
func (r *record) message(epoch string) *bus.Message {
	return &bus.Message{
		Subject: r.subject, Data: r.data, Header: r.header,
		Cursor: bus.NewCursor(epoch, r.seq), Time: r.at,
	}
}

// parser takes values off the front of rest, until something is bad.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.rest)
	if n <= 0 {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

// count is a number of things that take at least a byte each.
func (p *parser) count() int {
	n := p.uvarint()
	if n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return 0
	}
	return int(n)
}

func (p *parser) text() string {
	n := p.count()
	s := string(p.rest[:n])
	p.rest = p.rest[n:]
	return s
}

// scanner reads a file from its start.
type scanner struct {
	r         *bufio.Reader
	off, size int64 // of the next frame, of the file
}

// next returns the body of the next frame, io.EOF behind the last one, errTorn when the file
// ends in the middle of something, and errDamaged.
func (s *scanner) next() (body []byte, err error) {
	header := make([]byte, frameHeader)
	switch n, err := io.ReadFull(s.r, header); {
	case n == 0 && errors.Is(err, io.EOF):
		return nil, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errTorn
	case err != nil:
		return nil, err
	}
	if binary.LittleEndian.Uint32(header[8:]) != crc32.Checksum(header[:8], checksums) {
		return nil, s.unwritten(header)
	}
	end := s.off + frameHeader + int64(binary.LittleEndian.Uint32(header))
	if end > s.size {
		return nil, errTorn
	}
	frame := append(header, make([]byte, end-s.off-frameHeader)...)
	if _, err := io.ReadFull(s.r, frame[frameHeader:]); err != nil {
		return nil, err
	}
	if err := unsealed(frame); err != nil {
		if end == s.size {
			err = errTorn
		}
		return nil, err
	}
	s.off = end
	return frame[frameHeader:], nil
}

// unwritten tells a tail of zeros, which is what a power cut leaves of a file that had grown,
// from damage.
func (s *scanner) unwritten(header []byte) error {
	for _, c := range header {
		if c != 0 {
			return errDamaged
		}
	}
	for {
		c, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return errTorn
		}
		if err != nil {
			return err
		}
		if c != 0 {
			return errDamaged
		}
	}
}
