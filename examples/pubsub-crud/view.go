package main

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/examples/look"
	"github.com/jitney-go/jitney/ui"
)

// page is the state of one tab.
type page struct {
	c      *ui.Context
	busURL string
	query  string
	shelf  shelf
	wrong  map[string]string // by the id of the field
	toasts []toast
	told   int

	newTitle, newURL *ui.Signal
	editing, base    *ui.Signal // the id of the row, and the cursor that the edit began from
	title, url       *ui.Signal
	row, at          *ui.Signal // the row whose button it was, and its cursor
	undoable         *ui.Signal // the id of what was deleted last

	create, edit, theirs, save, cancel, remove, undo, dismiss *ui.Action
}

// toast says for a while what somebody else did.
type toast struct {
	id    string
	text  string
	until time.Time
}

const (
	toastTime = 10 * time.Second
	maxToasts = 3
)

func (p *page) tell(text string) {
	p.told++
	p.toasts = append(p.toasts, toast{"toast-" + strconv.Itoa(p.told), text, time.Now().Add(toastTime)})
	if len(p.toasts) > maxToasts {
		p.toasts = p.toasts[1:]
	}
	time.AfterFunc(toastTime, p.c.Sync) // the view leaves out those whose time is over
}

// here is the address of the page with the search and one more parameter, for those who come without JavaScript.
func (p *page) here(pairs ...string) string {
	params := url.Values{}
	if p.query != "" {
		params.Set("q", p.query)
	}
	for i := 0; i < len(pairs); i += 2 {
		params.Set(pairs[i], pairs[i+1])
	}
	return "./?" + params.Encode()
}

func (p *page) view() g.Node {
	list := p.list()
	return look.Page("Bookmarks", p.search(), look.Corner(p.busURL, "change"),
		h.Main(
			g.If(strings.HasPrefix(p.busURL, "mem:"), h.P(h.Class("note"), g.Text("These bookmarks are in memory only: when the server stops, they are gone."))),
			h.Section(h.Class("card"), h.Aria("labelledby", "add"),
				h.H2(h.ID("add"), g.Text("Add a bookmark")),
				h.Form(h.Class("fields"), h.Action(p.here()), g.Attr("novalidate"), p.create.OnSubmit(ui.Clear(p.newTitle, p.newURL)),
					p.field("new-title", "Title", "text", p.newTitle),
					p.field("new-url", "Address", "url", p.newURL, h.Placeholder("https://")),
					h.Button(h.ID("create"), h.Type("submit"), h.Class("primary"), g.Text("Add")),
				),
			),
			h.Section(h.Class("card"), h.Aria("labelledby", "list"),
				h.H2(h.ID("list"), g.Text(p.count(len(list)))),
				g.If(len(list) == 0, p.empty()),
				h.Ul(g.Map(list, func(e entry) g.Node {
					if e.id == p.editing.String() {
						return p.editor(e)
					}
					return p.line(e)
				})),
			),
		),
		h.Div(h.ID("notices"), h.Role("status"), p.undoNotice(), p.news()),
	)
}

func (p *page) count(n int) string {
	text := strconv.Itoa(n) + " bookmarks"
	if n == 1 {
		text = "1 bookmark"
	}
	if p.query != "" {
		text += " for “" + p.query + "”"
	}
	return text
}

func (p *page) search() g.Node {
	return h.Form(h.Class("search"), h.Method("get"), h.Action("./"), h.Role("search"),
		h.Label(h.For("q"), h.Class("spoken"), g.Text("Search")),
		h.Input(h.ID("q"), h.Name("q"), h.Type("search"), h.Value(p.query), h.Placeholder("Search"), h.AutoComplete("off")),
		h.Button(h.Type("submit"), g.Text("Search")),
	)
}

func (p *page) empty() g.Node {
	if p.query != "" {
		return h.P(h.Class("empty"), g.Text("Nothing is found. "), h.A(h.Class("button"), h.Href("./"), g.Text("Show all")))
	}
	return h.P(h.Class("empty"), g.Text("There is nothing here yet. What you add above appears in every tab."))
}

// field is a labelled field, with what is wrong with it.
func (p *page) field(id, label, kind string, s *ui.Signal, more ...g.Node) g.Node {
	wrong := p.wrong[id]
	return h.Div(h.Class("field"),
		h.Label(h.For(id), g.Text(label)),
		h.Input(h.ID(id), h.Type(kind), s.Bind(), h.AutoComplete("off"), h.Required(), g.Group(more),
			g.If(wrong != "", g.Group{h.Aria("invalid", "true"), h.Aria("describedby", id+"-wrong")})),
		g.If(wrong != "", h.P(h.ID(id+"-wrong"), h.Class("wrong"), g.Text(wrong))),
	)
}

func (p *page) line(e entry) g.Node {
	return h.Li(h.ID("row-"+e.id), h.Class("line"), g.If(e.made != "", ui.Made(e.made)),
		h.Div(h.Class("what"), p.link("open-"+e.id, e.Bookmark), h.Span(h.Class("url"), g.Text(e.URL))),
		h.A(h.ID("edit-"+e.id), h.Class("button"), h.Href(p.here("edit", e.id)), p.edit.OnClick(ui.Set(p.editing, e.id)),
			g.Text("Edit"), look.Spoken(" "+e.Title)),
		h.Form(h.Action(p.here("undo", e.id)), p.remove.OnSubmit(ui.Set(p.row, e.id), ui.Set(p.at, e.cursor)),
			h.Button(h.ID("delete-"+e.id), h.Type("submit"), g.Text("Delete"), look.Spoken(" "+e.Title))),
	)
}

// link leads to a bookmark, if that is an address of the web.
func (p *page) link(id string, b Bookmark) g.Node {
	if !web(b.URL) {
		return h.Span(h.ID(id), h.TabIndex("-1"), h.Class("title"), g.Text(b.Title))
	}
	return h.A(h.ID(id), h.Class("title"), h.Href(b.URL), h.Rel("noopener noreferrer"), g.Text(b.Title))
}

// editor is a row that is being edited. What others save meanwhile stands next to it, and only a button that
// was shown with it replaces it.
func (p *page) editor(e entry) g.Node {
	return h.Li(h.ID("row-"+e.id), h.Class("editor"),
		h.Form(h.Class("fields"), h.Action(p.here()), g.Attr("novalidate"), h.Aria("label", "Edit the bookmark"),
			p.save.OnSubmit(ui.Set(p.editing, e.id), ui.Set(p.base, p.base)),
			p.field("title", "Title", "text", p.title),
			p.field("url", "Address", "url", p.url),
			h.Button(h.ID("save"), h.Type("submit"), h.Class("primary"), g.Text("Save")),
			h.A(h.ID("cancel"), h.Class("button"), h.Href(p.here()), p.cancel.OnClick(), g.Text("Cancel")),
			g.If(e.cursor.String() != p.base.String(), p.conflict(e)),
		),
	)
}

func (p *page) conflict(e entry) g.Node {
	replace := p.save.OnClick(ui.Set(p.editing, e.id), ui.Set(p.base, e.cursor))
	if e.deleted {
		return h.Div(h.ID("conflict"), h.Role("group"), h.Aria("label", "Deleted meanwhile"),
			h.P(h.Role("alert"), g.Text("Somebody else has deleted this bookmark since you began.")),
			h.Button(h.ID("replace"), h.Type("submit"), replace, g.Text("Keep mine")))
	}
	return h.Div(h.ID("conflict"), h.Role("group"), h.Aria("label", "Saved meanwhile"),
		h.P(h.Role("alert"), g.Text("Somebody else has saved this bookmark since you began:")),
		h.P(h.ID("their-version"), h.Strong(g.Text(e.Title)), h.Span(h.Class("url"), g.Text(e.URL))),
		h.Button(h.ID("replace"), h.Type("submit"), replace, g.Text("Replace theirs with mine")),
		h.A(h.ID("take"), h.Class("button"), h.Href(p.here("edit", e.id)), p.theirs.OnClick(ui.Set(p.editing, e.id)), g.Text("Drop mine, take theirs")),
	)
}

func (p *page) undoNotice() g.Node {
	e, ok := p.shelf[p.undoable.String()]
	if !ok || !e.deleted || e.Title == "" {
		return nil
	}
	return h.Form(h.ID("undo-notice"), h.Class("notice"), g.If(e.made != "", ui.Made(e.made)), h.Action(p.here()),
		p.undo.OnSubmit(ui.Set(p.row, e.id), ui.Set(p.at, e.cursor)),
		h.Span(g.Text(quote(e.Title)+" is deleted.")),
		h.Button(h.ID("undo"), h.Type("submit"), g.Text("Undo")),
		h.A(h.ID("dismiss"), h.Class("button"), h.Href(p.here()), p.dismiss.OnClick(), h.Aria("label", "Dismiss"), g.Text("×")),
	)
}

func (p *page) news() g.Node {
	now := time.Now()
	return g.Map(p.toasts, func(t toast) g.Node {
		if now.After(t.until) {
			return nil
		}
		return h.P(h.ID(t.id), h.Class("notice toast"), g.Text(t.text))
	})
}
