package bus

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Message is what a handler receives. It is shared between subscriptions and must not
// be modified; Clone gives a private one.
type Message struct {
	Subject string
	Data    []byte    // its capacity is its length: appending copies
	Header  Header    // nil when there is none
	Cursor  Cursor    // where it stands; zero when no stream holds it
	Time    time.Time // when the stream stored it; zero when no stream holds it

	// Replayed tells that a stream held the message before the call of Subscribe.
	Replayed bool

	// Attempt counts the deliveries in a durable group, from 1; it is 0 elsewhere.
	Attempt int
}

// Clone returns a copy of m that shares nothing with it.
func (m *Message) Clone() *Message {
	c := *m
	c.Data = slices.Clone(m.Data)
	c.Header = m.Header.Clone()
	return &c
}

// Header holds the values of each key. Keys are HTTP tokens whose case is kept; those
// that start with "Nats-" are reserved. Values hold no CR, LF, NUL or outer white space.
type Header map[string][]string

// Value returns the first value of key, or "".
func (h Header) Value(key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Clone returns a copy of h that shares nothing with it.
func (h Header) Clone() Header {
	if h == nil {
		return nil // most messages have none, and iterating over nothing takes time, too
	}
	c := maps.Clone(h)
	for k, v := range c {
		c[k] = slices.Clone(v)
	}
	return c
}

// Cursor says where a message stands in its stream: the stream's epoch and the
// message's sequence within it. Sequences grow with the stream's order and may skip
// numbers. An epoch ends when the stream is deleted, recreated or loses its end.
//
// Without an epoch a reader that had seen message 90 of a stream that was since deleted
// and filled again would ask for "after 90" and silently miss the first ninety new ones.
//
// Cursors are comparable. The zero Cursor is no place at all. Programs treat it as
// opaque and store its text (String, MarshalText).
type Cursor struct {
	epoch    string
	sequence uint64
}

// NewCursor is for backends: the place of a sequence (from 1) in an epoch, which is made of ASCII
// letters, digits, '-' and '_'.
func NewCursor(epoch string, sequence uint64) Cursor {
	return Cursor{epoch: epoch, sequence: sequence}
}

// ParseCursor reads what String has written.
func ParseCursor(s string) (Cursor, error) {
	var c Cursor
	err := c.UnmarshalText([]byte(s))
	return c, err
}

// IsZero reports whether c is no place at all.
func (c Cursor) IsZero() bool { return c == Cursor{} }

// Epoch is for backends.
func (c Cursor) Epoch() string { return c.epoch }

// Sequence is for backends.
func (c Cursor) Sequence() uint64 { return c.sequence }

// Compare returns -1, 0 or +1 as c is before, at or behind d in their stream; ok is
// false when they are of different epochs, which have no order.
func (c Cursor) Compare(d Cursor) (order int, ok bool) {
	return cmp.Compare(c.sequence, d.sequence), c.epoch == d.epoch
}

// String is the text of c: "" for the zero Cursor.
func (c Cursor) String() string {
	if c.IsZero() {
		return ""
	}
	return c.epoch + "." + strconv.FormatUint(c.sequence, 10)
}

// MarshalText implements encoding.TextMarshaler.
func (c Cursor) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cursor) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*c = Cursor{}
		return nil
	}
	epoch, digits, ok := strings.Cut(string(text), ".")
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || n == 0 || strconv.FormatUint(n, 10) != digits || !isEpoch(epoch) {
		return fmt.Errorf("bus: cursor %.80q: %w", text, errCursor)
	}
	*c = Cursor{epoch: epoch, sequence: n}
	return nil
}

var errCursor = errors.New("not a cursor (want EPOCH.SEQUENCE, as String writes it)")

func isEpoch(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}
