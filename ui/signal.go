package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	g "maragu.dev/gomponents"
)

// kind is the type of a signal's value in the browser.
type kind byte

const (
	kindText   kind = 's'
	kindBool   kind = 'b'
	kindNumber kind = 'n'
)

// Signal is a value that the browser shows and changes, such as the text of a field. The
// browser owns it: the server has what the browser sent with its last action. It is used on
// its tab's thread only.
type Signal struct {
	id    string
	kind  kind
	value string
	rev   uint64 // the browser's revision that the value is based on

	theirs  bool   // the value is the browser's
	changed bool   // set here since the browser was told
	sentAt  uint64 // the version that told the browser last
}

// String returns the value as text.
func (s *Signal) String() string { return s.value }

// Int returns the value as an integer, 0 if it isn't one.
func (s *Signal) Int() int {
	n, err := strconv.Atoi(strings.TrimSpace(s.value))
	if err != nil {
		return 0 // what a user typed needn't be a number; String has it
	}
	return n
}

// Bool returns whether the value is true: a ticked checkbox.
func (s *Signal) Bool() bool { return s.value == "true" }

// Set changes the value to v, a string, bool or integer. The browser shows it with the next
// view, unless its user has changed the field meanwhile.
func (s *Signal) Set(v any) {
	// Also an equal value is sent: the browser may have emptied the field meanwhile.
	s.value, s.theirs, s.changed = s.format(v), false, true
}

// Bind ties a field (input, textarea or select) to the signal: the field shows its value, and what the
// user enters is sent with the next action. A patch never writes to the field. In a form with
// [Action.OnSubmit], a document names the field after the signal.
func (s *Signal) Bind() g.Node { return g.Attr("data-bind", s.id) }

func (s *Signal) format(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case fmt.Stringer:
		return v.String()
	}
	return fmt.Sprint(v)
}

// wire is the value as the browser has it: text, true, or 7.
func (s *Signal) wire() any {
	switch s.kind {
	case kindBool:
		return s.Bool()
	case kindNumber:
		if n, err := strconv.ParseFloat(s.value, 64); err == nil && !math.IsInf(n, 0) && !math.IsNaN(n) {
			return json.Number(strconv.FormatFloat(n, 'f', -1, 64))
		}
	}
	return strings.ToValidUTF8(s.value, "\uFFFD")
}

// take accepts the browser's value.
func (s *Signal) take(v signalValue) {
	s.value, s.rev, s.theirs, s.changed = v.text(), v.rev, true, false
}

// newSignal returns a signal of initial's type.
func newSignal(id string, initial any) *Signal {
	s := &Signal{id: id, kind: kindText}
	switch initial.(type) {
	case string:
	case bool:
		s.kind = kindBool
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, float32, float64:
		s.kind = kindNumber
	default:
		panic(fmt.Sprintf("ui: Context.Signal(%T): want a string, a bool or a number", initial))
	}
	s.value = s.format(initial)
	return s
}

// signalValue is a signal on the wire: [value, revision].
type signalValue struct {
	value any // string, bool or json.Number
	rev   uint64
}

// MarshalJSON writes [value, rev].
func (v signalValue) MarshalJSON() ([]byte, error) { return marshal([]any{v.value, v.rev}) }

// UnmarshalJSON reads [value, rev].
func (v *signalValue) UnmarshalJSON(data []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("a signal is [value, rev], not %d things", len(pair))
	}
	dec := json.NewDecoder(bytes.NewReader(pair[0]))
	dec.UseNumber()
	if err := dec.Decode(&v.value); err != nil {
		return err
	}
	switch v.value.(type) {
	case string, bool, json.Number:
	default:
		return fmt.Errorf("a signal's value is text, a bool or a number")
	}
	return json.Unmarshal(pair[1], &v.rev)
}

func (v signalValue) text() string { return fmt.Sprint(v.value) }

// fullError is why a browser's signals aren't taken.
type fullError struct{ size, limit int }

func (e *fullError) Error() string {
	return fmt.Sprintf("This is too large: %d KB of text, and the fields of this page take %d KB in all. Shorten it, and send it again.",
		(e.size+1023)>>10, e.limit>>10)
}

func isFull(err error) bool {
	_, full := errors.AsType[*fullError](err)
	return full
}

// fit says whether a tab can hold so many bytes.
func (v *App) fit(size int) error {
	if size > v.limits.signals {
		return &fullError{size, v.limits.signals}
	}
	return nil
}

// sizeOf counts the bytes of what was posted.
func sizeOf(values map[string]signalValue) int {
	size := 0
	for id, v := range values {
		size += len(id) + len(v.text())
	}
	return size
}

// takeSignals accepts the browser's values: all of them or, if the tab would hold too much, none. The
// caller holds the thread.
func (t *tab) takeSignals(values map[string]signalValue) error {
	size := 0
	for _, s := range t.signals {
		if v, ok := values[s.id]; ok {
			size += len(v.text())
		} else if s.theirs {
			size += len(s.value)
		}
	}
	if err := t.app.fit(size); err != nil {
		return err
	}
	for _, s := range t.signals {
		if v, ok := values[s.id]; ok {
			s.take(v)
		}
	}
	return nil
}

// allSignals returns all values. The caller holds the thread.
func (t *tab) allSignals() map[string]signalValue {
	values := make(map[string]signalValue, len(t.signals))
	for _, s := range t.signals {
		values[s.id] = signalValue{s.wire(), s.rev}
	}
	return values
}

// signalsSince returns what a browser that has version have must be told. The caller holds the thread.
func (t *tab) signalsSince(have uint64) map[string]signalValue {
	var values map[string]signalValue
	for _, s := range t.signals {
		if s.changed || s.sentAt > have {
			if values == nil {
				values = map[string]signalValue{}
			}
			values[s.id] = signalValue{s.wire(), s.rev}
		}
	}
	return values
}
