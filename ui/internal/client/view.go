package client

import (
	"encoding/json"
	"fmt"
	"unicode/utf16"
)

// View is a page as its user sees it.
type View struct {
	Version uint64
	Text    *string // as the stream sent it last; nil until then
	HTML    string
	Title   string
	Signals Signals
}

// Apply makes of a view what a frame says. Its error is a fault of the server's.
func (v *View) Apply(e Event) error {
	var version uint64
	err := json.Unmarshal(e.V, &version)
	switch {
	case err != nil:
	case e.Edits != nil:
		switch {
		case v.Text == nil:
			err = fmt.Errorf("edits without a text")
		case *e.Base != v.Version:
			err = fmt.Errorf("edits against %d, not %d", *e.Base, v.Version)
		default:
			*v.Text, err = Splice(*v.Text, e.Edits, e.Len, e.Sum)
		}
	case e.Base != nil:
		if *e.Base != v.Version {
			err = fmt.Errorf("signals against %d, not %d", *e.Base, v.Version)
		}
	default:
		v.Text = &e.HTML
	}
	if v.Text != nil {
		v.HTML = *v.Text
	}
	v.Version = version
	for id, s := range e.Signals {
		if s.Rev >= v.Signals[id].Rev {
			v.Signals[id] = s
		}
	}
	if e.Title != "" {
		v.Title = e.Title
	}
	if err != nil {
		return fmt.Errorf("%w in %s", err, e.Raw)
	}
	return nil
}

// Splice applies edits in UTF-16 units, as JavaScript would, and checks the length and sum of what comes out.
func Splice(text string, edits [][3]any, length int, sum uint32) (string, error) {
	old := utf16.Encode([]rune(text))
	var out []uint16
	from := 0
	for _, e := range edits {
		at, remove := int(e[0].(float64)), int(e[1].(float64))
		if at < from || at+remove > len(old) {
			return "", fmt.Errorf("edit at %d..%d of %d, after %d", at, at+remove, len(old), from)
		}
		out = append(out, old[from:at]...)
		out = append(out, utf16.Encode([]rune(e[2].(string)))...)
		from = at + remove
	}
	out = append(out, old[from:]...)
	hash := uint32(2166136261)
	for _, unit := range out {
		for _, half := range []uint16{unit & 0xFF, unit >> 8} {
			hash ^= uint32(half)
			hash *= 16777619
		}
	}
	if len(out) != length || hash != sum {
		return "", fmt.Errorf("length %d and sum %d, want %d and %d", len(out), hash, length, sum)
	}
	return string(utf16.Decode(out)), nil
}
