// Package client is what a browser does with a page and its event stream, for tests without a browser. It was written from the
// protocol (docs/decisions/0002-wire.md) and shares no code with the server; the stream is read by a client that
// others wrote.
package client

import "encoding/json"

// Value is a signal's value, and the browser's revision that it is based on.
type Value struct {
	V   any // a string, a bool or a float64
	Rev uint64
}

// MarshalJSON writes [value, rev].
func (v Value) MarshalJSON() ([]byte, error) { return json.Marshal([]any{v.V, v.Rev}) }

// UnmarshalJSON reads [value, rev].
func (v *Value) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&v.V, &v.Rev})
}

// Signals are values by the ids of their signals.
type Signals map[string]Value

// Event is any event of a stream.
type Event struct {
	Tab, HTML, Title, Focus, Error string
	V                              json.RawMessage // a version, or the versions of a heartbeat
	Base                           *uint64
	Edits                          [][3]any
	Len                            int
	Sum                            uint32
	Signals                        Signals
	Done                           uint64
	Gone, Left, HB                 bool
	S                              uint64
	Later                          int
	Raw                            string `json:"-"` // the whole event
}

// ParseEvent reads an event. What is no event has an Error that says so.
func ParseEvent(data []byte) Event {
	e := Event{}
	if err := json.Unmarshal(data, &e); err != nil {
		e.Error = "the event is not JSON: " + err.Error()
	}
	e.Raw = string(data)
	return e
}

// IsFrame reports whether e changes a view.
func (e Event) IsFrame() bool { return e.V != nil && !e.HB }
