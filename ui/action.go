package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"html/template"

	g "maragu.dev/gomponents"
)

// Action is a function of a page that its browser may call.
type Action struct{ id string }

// OnClick calls the action when the element is clicked.
func (a *Action) OnClick(opts ...EventOption) g.Node { return a.on("click", opts) }

// OnSubmit calls the action when the form is submitted. In a browser without JavaScript, too, unless the form has
// a method of its own: see the package comment.
func (a *Action) OnSubmit(opts ...EventOption) g.Node { return a.on("submit", opts) }

// OnInput calls the action when the value of the field changes, with each key. See [Debounce].
func (a *Action) OnInput(opts ...EventOption) g.Node { return a.on("input", opts) }

// OnChange calls the action when the user has changed the field and leaves it, or picks another choice.
func (a *Action) OnChange(opts ...EventOption) g.Node { return a.on("change", opts) }

// EventOption changes what the browser does when an event calls an action. The options of all
// events of an element are one set: an element with two events has them for both.
type EventOption struct {
	set      *Signal
	value    any
	clear    []*Signal
	debounce time.Duration
}

// Set gives a signal a value in the browser before the action is called: the row that was
// clicked, the room that was picked.
func Set(s *Signal, value any) EventOption { return EventOption{set: s, value: value} }

// Clear empties signals, and the fields that are bound to them, in the browser once their values are on the way. So
// the next line can be typed at once.
func Clear(signals ...*Signal) EventOption { return EventOption{clear: signals} }

// Debounce waits until the events have paused for d, and calls the action once.
func Debounce(d time.Duration) EventOption { return EventOption{debounce: d} }

// Pin keeps a scrolling element at its end while it is at its end, as a log wants it.
func Pin() g.Node { return g.Attr("data-pin") }

// Ignore leaves the children of an element to the browser: patches don't touch them.
func Ignore() g.Node { return g.Attr("data-ignore") }

// attributes is a node of several attributes.
type attributes []string // name, value, name, value

// Render writes the attributes.
func (a attributes) Render(w io.Writer) error {
	var b strings.Builder
	for i := 0; i+1 < len(a); i += 2 {
		b.WriteByte(' ')
		b.WriteString(a[i])
		b.WriteString(`="`)
		b.WriteString(template.HTMLEscapeString(a[i+1]))
		b.WriteByte('"')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Type tells gomponents that these are attributes.
func (attributes) Type() g.NodeType { return g.AttributeType }

func (a *Action) on(event string, opts []EventOption) g.Node {
	attrs := attributes{"data-on-" + event, a.id}
	set := map[string]any{}
	var clear []string
	var debounce time.Duration
	for _, o := range opts {
		if o.set != nil {
			value := Signal{kind: o.set.kind, value: o.set.format(o.value)}
			set[o.set.id] = value.wire()
		}
		for _, s := range o.clear {
			clear = append(clear, s.id)
		}
		debounce = max(debounce, o.debounce)
	}
	if len(set) > 0 {
		data, err := json.Marshal(set)
		if err != nil {
			panic(fmt.Sprintf("ui: Set: %v", err)) // wire leaves nothing that doesn't encode
		}
		attrs = append(attrs, "data-set", string(data))
	}
	if len(clear) > 0 {
		attrs = append(attrs, "data-clear", strings.Join(clear, " "))
	}
	if debounce > 0 {
		attrs = append(attrs, "data-debounce", strconv.FormatInt(debounce.Milliseconds(), 10))
	}
	return attrs
}
