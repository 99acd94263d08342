package ui

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// frame is an event that takes a browser from one version of a view to the next. The field
// order is the one in which people read it.
type frame struct {
	Tab     string                 `json:"tab"`
	Version uint64                 `json:"v"`
	Base    *uint64                `json:"base,omitempty"`
	HTML    *string                `json:"html,omitempty"`
	Edits   []edit                 `json:"edits,omitempty"`
	Len     *int                   `json:"len,omitempty"`
	Sum     *uint32                `json:"sum,omitempty"`
	Signals map[string]signalValue `json:"signals,omitempty"`
	Title   string                 `json:"title,omitempty"`
	Focus   string                 `json:"focus,omitempty"`
}

// The other events of a stream.
type (
	doneEvent struct {
		Tab   string `json:"tab"`
		Done  uint64 `json:"done"`
		Error string `json:"error,omitempty"`
	}
	errorEvent struct {
		Tab   string `json:"tab"`
		Error string `json:"error"`
	}
	goneEvent struct {
		Tab  string `json:"tab"`
		Gone bool   `json:"gone"`
	}
	leftEvent struct {
		Tab  string `json:"tab"`
		Left bool   `json:"left"`
		S    uint64 `json:"s"`
	}
	heartbeatEvent struct {
		Heartbeat bool              `json:"hb"`
		Versions  map[string]uint64 `json:"v"`
	}
	laterEvent struct {
		Later int64 `json:"later"` // milliseconds
	}
)

// edit replaces the part of a text that begins at At and is Remove long, in UTF-16 units.
type edit struct {
	At, Remove int
	Insert     string
}

// MarshalJSON writes [at, remove, "insert"].
func (e edit) MarshalJSON() ([]byte, error) {
	return marshal([]any{e.At, e.Remove, e.Insert})
}

// marshal is json.Marshal that leaves <, > and & as they are: in a view they are every third character.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// encode writes an event as server-sent events have it. JSON holds no line breaks, so that no
// text can be taken for a field.
func encode(event any) []byte {
	b := bytes.NewBufferString("data: ")
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(event); err != nil {
		panic("ui: an event doesn't encode: " + err.Error()) // its types leave no room for that
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// units returns the length of s in UTF-16 units, as browsers count. s is valid UTF-8.
func units(s string) int {
	n := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < utf8.RuneSelf || c >= 0xC0 && c < 0xF0:
			n++
		case c >= 0xF0:
			n += 2
		}
	}
	return n
}

// checksum returns the length of s in UTF-16 units and FNV-1a (32 bit) over them, low byte first.
func checksum(s string) (length int, sum uint32) {
	const prime = 16777619
	sum = 2166136261
	for _, r := range s {
		if r < 0x10000 {
			sum = (sum ^ uint32(r&0xFF)) * prime
			sum = (sum ^ uint32(r>>8)) * prime
			length++
			continue
		}
		r -= 0x10000
		for _, unit := range [2]uint32{0xD800 + uint32(r>>10), 0xDC00 + uint32(r&0x3FF)} {
			sum = (sum ^ unit&0xFF) * prime
			sum = (sum ^ unit>>8) * prime
		}
		length += 2
	}
	return length, sum
}
