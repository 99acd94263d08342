package migrate

import (
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// The headers of a copy. Each bridge adds a value to the first one, so that it is the way that a message has
// come; the second one is that of the first bridge.
const (
	headerSource = "Bridge-Source"
	headerTime   = "Bridge-Time"
)

// Original returns when the first bus stored m, if a [Bridge] has copied it, and otherwise m.Time.
func Original(m *bus.Message) time.Time {
	if at, ok := stampedTime(m); ok {
		return at
	}
	return m.Time
}

func stampedTime(m *bus.Message) (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339Nano, m.Header.Value(headerTime))
	return at, err == nil
}

// stamped is the header of m's copy.
func stamped(m *bus.Message) bus.Header {
	h := m.Header.Clone()
	if h == nil {
		h = bus.Header{}
	}
	h[headerSource] = append(h[headerSource], m.Cursor.String())
	if _, ok := stampedTime(m); !ok && !m.Time.IsZero() {
		h[headerTime] = []string{m.Time.UTC().Format(time.RFC3339Nano)}
	}
	return h
}

// copyFrom returns the sequence at the source that m is the copy of; 0 if it is no copy from there.
func copyFrom(m *bus.Message, epoch string) uint64 {
	way := m.Header[headerSource]
	if len(way) == 0 {
		return 0
	}
	if c, err := bus.ParseCursor(way[len(way)-1]); err == nil && c.Epoch() == epoch {
		return c.Sequence()
	}
	return 0
}

// cameBy returns the sequence that m had in a stream of that epoch on its way; 0 if it didn't come by there.
func cameBy(m *bus.Message, epoch string) uint64 {
	for _, at := range m.Header[headerSource] {
		if c, err := bus.ParseCursor(at); err == nil && epoch != "" && c.Epoch() == epoch {
			return c.Sequence()
		}
	}
	return 0
}

// digest adds a message to a checksum: where it stood at the source, and all that a handler is given of it.
func digest(sum hash.Hash, at uint64, subject string, header bus.Header, data []byte) {
	var buf []byte
	text := func(s string) { buf = append(binary.AppendUvarint(buf, uint64(len(s))), s...) }
	buf = binary.AppendUvarint(buf, at)
	text(subject)
	for _, key := range slices.Sorted(maps.Keys(header)) {
		text(key)
		buf = binary.AppendUvarint(buf, uint64(len(header[key])))
		for _, value := range header[key] {
			text(value)
		}
	}
	buf = binary.AppendUvarint(append(buf, 0), uint64(len(data))) // no key is empty
	sum.Write(buf)                                                // never fails
	sum.Write(data)
}
