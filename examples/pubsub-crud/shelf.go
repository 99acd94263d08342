package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
)

const (
	longestTitle = 200  // characters
	longestURL   = 2000 // bytes
	longestQuote = 40   // characters of a title in a notice

	// was is the header in which a deletion, which has no data, keeps what it deleted.
	was = "Bookmark-Was"
)

// Bookmark is the data of a message.
type Bookmark struct {
	Title string
	URL   string
	Added time.Time
}

// entry is a bookmark and where it stands in the stream.
type entry struct {
	Bookmark
	id      string
	cursor  bus.Cursor
	deleted bool

	once string // what this tab's user did to make it so,
	made string // the same, when the bus has brought it back
}

// subject is where the bookmark of an id is kept.
func subject(id string) string { return "bookmarks." + id }

// shelf holds the last message of each bookmark, by id.
type shelf map[string]entry

// take notes a message and returns what it says that was not known here, in words.
func (s shelf) take(m bus.Message) (news string) {
	id := strings.TrimPrefix(m.Subject, subject(""))
	old, known := s[id]
	if known && old.cursor == m.Cursor { // this page has put it there itself
		old.made = old.once
		s[id] = old
		return ""
	}
	e := entry{id: id, cursor: m.Cursor, deleted: len(m.Data) == 0}
	data := m.Data
	if e.deleted {
		data = []byte(m.Header.Value(was))
	}
	if err := json.Unmarshal(data, &e.Bookmark); err != nil {
		if !e.deleted {
			return fmt.Sprintf("What was put on %s is no bookmark.", m.Subject)
		}
		e.Bookmark = old.Bookmark
	}
	s[id] = e
	switch {
	case e.deleted && !old.deleted && known:
		return quote(e.Title) + " was deleted."
	case e.deleted:
		return ""
	case !known:
		return quote(e.Title) + " was added."
	case old.deleted:
		return quote(e.Title) + " is back."
	case old.Title != e.Title:
		return quote(old.Title) + " is " + quote(e.Title) + " now."
	}
	return quote(e.Title) + " was changed."
}

// quote is a title in a sentence, its beginning if it is long.
func quote(title string) string {
	if letters := []rune(title); len(letters) > longestQuote {
		title = strings.TrimRight(string(letters[:longestQuote-1]), " ") + "…"
	}
	return "“" + title + "”"
}

// put stores e, if the last message of its subject is the expected one.
func (p *page) put(e entry, expected bus.PublishOption) error {
	data, err := json.Marshal(e.Bookmark)
	if err != nil {
		return err
	}
	m := bus.Message{Data: data}
	if e.deleted {
		m = bus.Message{Header: bus.Header{was: {string(data)}}}
	}
	var stored bus.Receipt
	if err := ui.Publish(p.c, subject(e.id), m, expected, bus.WithReceipt(&stored)); err != nil {
		return err
	}
	if !stored.Duplicate {
		e.cursor, e.once, e.made = stored.Cursor, p.c.Once(), ""
		p.shelf[e.id] = e // its user needn't wait until it comes back
	}
	return nil
}

// putAt stores e in place of what its user saw when the button was shown.
func (p *page) putAt(e entry) error {
	seen, err := bus.ParseCursor(p.at.String())
	if err != nil {
		return err
	}
	if err = p.put(e, bus.ExpectLast(seen)); errors.Is(err, bus.ErrConflict) {
		return errors.New("somebody else has just changed it; see what it is now")
	}
	return err
}

// check returns the bookmark that stands in two fields, or says next to each what is wrong with it.
func (p *page) check(titleID string, title *ui.Signal, urlID string, address *ui.Signal) (Bookmark, error) {
	b := Bookmark{Title: strings.Join(strings.Fields(title.String()), " "), URL: strings.TrimSpace(address.String())}
	p.wrong = map[string]string{}
	switch n := utf8.RuneCountInString(b.Title); {
	case n == 0:
		p.wrong[titleID] = "Give it a title."
	case n > longestTitle:
		p.wrong[titleID] = fmt.Sprintf("This has %d characters, and %d is the limit.", n, longestTitle)
	}
	switch {
	case b.URL == "":
		p.wrong[urlID] = "Give it an address."
	case len(b.URL) > longestURL:
		p.wrong[urlID] = fmt.Sprintf("This has %d bytes, and %d is the limit.", len(b.URL), longestURL)
	case !web(b.URL):
		p.wrong[urlID] = "This must be an address that begins with https:// or http://."
	}
	for _, id := range []string{titleID, urlID} {
		if p.wrong[id] != "" {
			p.c.Focus(id)
			return b, errors.New("nothing was saved: look at the marked field")
		}
	}
	return b, nil
}

// web reports whether a link may lead to address. Others may have put it into the stream.
func web(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

// list returns the bookmarks that are shown, newest first. One that is being edited stays, whatever others do to it.
func (p *page) list() []entry {
	var list []entry
	query := strings.ToLower(p.query)
	for id, e := range p.shelf {
		found := strings.Contains(strings.ToLower(e.Title+"\n"+e.URL), query)
		if found && !e.deleted || id == p.editing.String() {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b entry) int {
		if order := b.Added.Compare(a.Added); order != 0 {
			return order
		}
		return strings.Compare(a.id, b.id)
	})
	return list
}

// neighbour returns what is to have the focus when the row of id is gone.
func (p *page) neighbour(id string) string {
	list := p.list()
	at := slices.IndexFunc(list, func(e entry) bool { return e.id == id })
	for _, i := range []int{at + 1, at - 1} {
		if i >= 0 && i < len(list) && at >= 0 {
			return "open-" + list[i].id
		}
	}
	return "new-title"
}
