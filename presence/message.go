package presence

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// The operations of a message.
const (
	opBeat   = "beat"   // still here, and version V of the members holds
	opChange = "change" // from version B to V: M have joined or changed, D have left
	opState  = "state"  // page K of Of of version V: M are all members
	opAsk    = "ask"    // send your state, all or those named by Q
)

// message is what processes tell each other about a room.
type message struct {
	P  string   `json:"p"` // the process that says it; stays the first field, see Rooms.mark
	Op string   `json:"op"`
	N  uint64   `json:"n,omitempty"` // counts the process's messages; later ones have larger numbers
	T  int64    `json:"t,omitempty"` // milliseconds that it holds without another one
	V  uint64   `json:"v,omitempty"`
	B  uint64   `json:"b,omitempty"`
	K  int      `json:"k,omitempty"`
	Of int      `json:"of,omitempty"`
	M  []claim  `json:"m,omitempty"`
	D  []string `json:"d,omitempty"`
	Q  []string `json:"q,omitempty"`
}

// claim is a member as one process has it.
type claim struct {
	ID   string `json:"i"`
	Name string `json:"n,omitempty"`
	Info string `json:"x,omitempty"`
	At   int64  `json:"t"` // when it joined, in Unix milliseconds
}

func (c claim) member() Member { return Member{ID: c.ID, Name: c.Name, Info: c.Info} }

// beats reports whether c is shown rather than d. It is an order, the same in every process.
func (c claim) beats(d claim) bool {
	switch {
	case c.At != d.At:
		return c.At > d.At
	case c.Name != d.Name:
		return c.Name > d.Name
	}
	return c.Info > d.Info
}

func (c claim) size() int {
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and a number
	}
	return len(data) + 1
}

func (m *message) encode() []byte {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers
	}
	return data
}

// decode reads what anybody may have sent.
func decode(data []byte) (*message, error) {
	m := new(message)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("it is not JSON of the right shape (%d bytes)", len(data)) // the decoder's error may quote
	}
	if m.P == "" || len(m.P) > maxProcess {
		return nil, fmt.Errorf("the process's name has %d bytes, want 1 to %d", len(m.P), maxProcess)
	}
	if m.T < 0 || m.T > maxTTL.Milliseconds() {
		return nil, fmt.Errorf("it holds for %d ms, want 0 to %d", m.T, maxTTL.Milliseconds())
	}
	switch m.Op {
	case opAsk:
		return m, nil
	case opBeat:
	case opChange:
		if m.B == 0 || m.V != m.N || m.B >= m.V {
			return nil, fmt.Errorf("a change from version %d to %d in message %d", m.B, m.V, m.N)
		}
	case opState:
		if m.Of < 1 || m.Of > maxPages || m.K < 0 || m.K >= m.Of || m.V+uint64(m.K) != m.N {
			return nil, fmt.Errorf("page %d of %d of version %d in message %d", m.K, m.Of, m.V, m.N)
		}
	default:
		return nil, fmt.Errorf("unknown operation %.20q", m.Op)
	}
	if m.V == 0 || m.N < m.V {
		return nil, fmt.Errorf("version %d in message %d", m.V, m.N)
	}
	for _, c := range m.M {
		if err := c.member().check(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m Member) check() error {
	for _, f := range []struct {
		name, text string
		limit      int
	}{{"ID", m.ID, maxID}, {"Name", m.Name, maxName}, {"Info", m.Info, maxInfo}} {
		if len(f.text) > f.limit {
			return fmt.Errorf("%w: its %s has %d bytes, at most %d are allowed", ErrBadMember, f.name, len(f.text), f.limit)
		}
		if !utf8.ValidString(f.text) {
			return fmt.Errorf("%w: its %s is not valid UTF-8", ErrBadMember, f.name)
		}
	}
	if m.ID == "" {
		return fmt.Errorf("%w: it has no ID", ErrBadMember)
	}
	return nil
}
