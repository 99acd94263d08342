package ui

import (
	"html"
	"strconv"
	"strings"
)

// The fields of a form that was posted by a browser without script, beside those of signals. Of
// several fields of one name the first counts, so that a button's comes before its form's.
const (
	actField  = "jitney-act"  // "a1", or "a1 JSON" with the signals of Set
	onceField = "jitney-once" // random, different for each form of each document
)

// forms returns a view's text as a document has it: forms that call actions can be sent by a
// browser that runs no script, fields have the values of their signals, and the element that is
// to have the focus gets it. Frames don't carry any of this, and the first one takes it away.
func forms(view string, signals map[string]signalValue, focus, once string) string {
	if focus == "" && !strings.Contains(view, " data-bind=") && !strings.Contains(view, " data-on-submit=") {
		return view
	}
	f := formWriter{signals: signals, focus: focus, once: once}
	f.out.Grow(len(view) + len(view)/8)
	f.write(view)
	return f.out.String()
}

type formWriter struct {
	out     strings.Builder
	signals map[string]signalValue
	focus   string
	once    string

	count   int
	open    bool     // a form that calls an action is open,
	hidden  []string // these are names and values for its end
	choice  string   // the value of the select that is open,
	choices bool     // if it is bound
}

func (f *formWriter) write(view string) {
	for {
		at := strings.IndexByte(view, '<')
		if at < 0 {
			f.out.WriteString(view)
			return
		}
		f.out.WriteString(view[:at])
		view = view[at:]
		switch {
		case strings.HasPrefix(view, "<!--"):
			view = f.pass(view, "-->")
		case strings.HasPrefix(view, "</"):
			switch tagName(view[2:]) {
			case "form":
				f.close()
			case "select":
				f.choices = false
			}
			view = f.pass(view, ">")
		case tagName(view[1:]) == "":
			f.out.WriteByte('<')
			view = view[1:]
		default:
			t, rest := parseTag(view)
			t.source = view[:len(view)-len(rest)]
			view = f.tag(t, rest)
		}
	}
}

// pass copies view up to and with end, and returns what follows.
func (f *formWriter) pass(view, end string) string {
	n := len(view)
	if at := strings.Index(view, end); at >= 0 {
		n = at + len(end)
	}
	f.out.WriteString(view[:n])
	return view[n:]
}

// tag writes a start tag, and what of its content isn't markup; it returns what follows.
func (f *formWriter) tag(t *startTag, rest string) string {
	if f.focus != "" {
		t.remove("autofocus")
		if t.value("id") == f.focus {
			t.set("autofocus", "")
		}
	}
	signal, bound := f.signals[t.value("data-bind")]
	bound = bound && t.has("data-bind")
	value := ""
	if bound {
		value = signal.text()
	}
	switch t.name {
	case "form":
		f.form(t)
	case "button":
		if kind := t.value("type"); f.open && t.has("data-on-click") && (kind == "" || kind == "submit") {
			t.set("name", actField)
			t.set("value", call(t.value("data-on-click"), t.value("data-set")))
		}
	case "input":
		if bound {
			f.input(t, value)
		}
	case "select":
		if f.choice, f.choices = value, bound; bound {
			f.name(t)
		}
	case "option":
		if f.choices {
			own := t.value("value")
			if !t.has("value") {
				text, _, _ := strings.Cut(rest, "<")
				own = strings.Join(strings.Fields(html.UnescapeString(text)), " ")
			}
			t.flag("selected", own == f.choice)
		}
	case "textarea", "script", "style", "title":
		at := strings.Index(rest, "</"+t.name)
		if at < 0 {
			at = len(rest)
		}
		content := rest[:at]
		if t.name == "textarea" && bound {
			f.name(t)
			content = "\n" + html.EscapeString(value) // a parser drops the first line break
		}
		t.render(&f.out)
		f.out.WriteString(content)
		return rest[at:]
	}
	t.render(&f.out)
	return rest
}

// form makes a form that calls an action one that can be sent. One that has a method of its own keeps it.
func (f *formWriter) form(t *startTag) {
	if f.open = t.has("data-on-submit") && !t.has("method"); !f.open {
		return
	}
	t.set("method", "post")
	f.count++
	f.hidden = []string{
		actField, call(t.value("data-on-submit"), t.value("data-set")),
		onceField, f.once + "-" + strconv.Itoa(f.count),
	}
}

// close writes the form's hidden fields. They are the last ones: so nothing has to move when they go.
func (f *formWriter) close() {
	if !f.open {
		return
	}
	f.open = false
	for i := 0; i < len(f.hidden); i += 2 {
		input := startTag{name: "input"}
		input.set("type", "hidden")
		input.set("name", f.hidden[i])
		input.set("value", f.hidden[i+1])
		input.render(&f.out)
	}
}

func (f *formWriter) input(t *startTag, value string) {
	f.name(t)
	switch t.value("type") {
	case "checkbox":
		t.flag("checked", value == "true")
		if f.open {
			t.set("value", "true")
			f.hidden = append(f.hidden, t.value("data-bind"), "false") // a box that isn't ticked isn't sent
		}
	case "radio":
		t.flag("checked", t.value("value") == value)
	case "password", "file", "image", "submit", "reset", "button":
		// The value is a secret, or isn't the field's to show.
	default:
		t.set("value", value)
	}
}

// name names a field of a form that calls an action after its signal.
func (f *formWriter) name(t *startTag) {
	if f.open || t.has("form") {
		t.set("name", t.value("data-bind"))
	}
}

// call is the text that calls an action.
func call(action, set string) string {
	if set == "" {
		return action
	}
	return action + " " + set
}

// startTag is a start tag. Its values are as they stand in the markup.
type startTag struct {
	name   string // in lower case
	attrs  []attr
	slash  bool   // <br/>
	source string // the tag as it was, empty when it has changed
}

type attr struct {
	name, value string
	bare        bool // it has no value
}

func (t *startTag) find(name string) *attr {
	for i := range t.attrs {
		if t.attrs[i].name == name {
			return &t.attrs[i]
		}
	}
	return nil
}

func (t *startTag) has(name string) bool { return t.find(name) != nil }

func (t *startTag) value(name string) string {
	if a := t.find(name); a != nil {
		return html.UnescapeString(a.value)
	}
	return ""
}

func (t *startTag) set(name, value string) {
	value, t.source = html.EscapeString(value), ""
	if a := t.find(name); a != nil {
		a.value, a.bare = value, false
		return
	}
	t.attrs = append(t.attrs, attr{name: name, value: value})
}

func (t *startTag) remove(name string) {
	for i := range t.attrs {
		if t.attrs[i].name == name {
			t.attrs, t.source = append(t.attrs[:i], t.attrs[i+1:]...), ""
			return
		}
	}
}

func (t *startTag) flag(name string, on bool) {
	t.remove(name)
	if on {
		t.attrs, t.source = append(t.attrs, attr{name: name, bare: true}), ""
	}
}

func (t *startTag) render(out *strings.Builder) {
	if t.source != "" {
		out.WriteString(t.source)
		return
	}
	out.WriteString("<" + t.name)
	for _, a := range t.attrs {
		out.WriteString(" " + a.name)
		if !a.bare {
			out.WriteString(`="` + a.value + `"`)
		}
	}
	if t.slash {
		out.WriteByte('/')
	}
	out.WriteByte('>')
}

// tagName returns the name of a tag that s begins with, in lower case, or "".
func tagName(s string) string {
	n := 0
	for n < len(s) && (isLetter(s[n]) || n > 0 && strings.IndexByte(space+"/>", s[n]) < 0) {
		n++
	}
	return lower(s[:n])
}

// lower makes the ASCII letters of s small.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] |= 0x20
		}
	}
	return string(b)
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

const space = " \t\r\n\f"

// parseTag reads the start tag that s begins with, as browsers do, and returns what follows it. Of several attributes
// of one name the first counts.
func parseTag(s string) (*startTag, string) {
	t := &startTag{name: tagName(s[1:])}
	s = s[1+len(t.name):]
	for {
		s = strings.TrimLeft(s, space)
		switch {
		case s == "":
			return t, ""
		case s[0] == '>':
			return t, s[1:]
		case s[0] == '/':
			t.slash = strings.HasPrefix(s, "/>")
			s = s[1:]
			continue
		}
		n := 1
		for n < len(s) && strings.IndexByte(space+"/>=", s[n]) < 0 {
			n++
		}
		a := attr{name: lower(s[:n]), bare: true}
		s = strings.TrimLeft(s[n:], space)
		if strings.HasPrefix(s, "=") {
			s = strings.TrimLeft(s[1:], space)
			a.bare = false
			a.value, s = parseValue(s)
		}
		if !t.has(a.name) {
			t.attrs = append(t.attrs, a)
		}
	}
}

// parseValue reads an attribute's value in one that can stand between double quotes.
func parseValue(s string) (value, rest string) {
	if s == "" || s[0] == '>' {
		return "", s
	}
	if s[0] == '"' || s[0] == '\'' {
		value, rest, _ = strings.Cut(s[1:], s[:1])
		return strings.ReplaceAll(value, `"`, "&#34;"), rest
	}
	n := strings.IndexAny(s, space+">")
	if n < 0 {
		n = len(s)
	}
	return strings.ReplaceAll(s[:n], `"`, "&#34;"), s[n:]
}
