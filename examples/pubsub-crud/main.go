// Command pubsub-crud keeps bookmarks that everybody can add, change and delete, live in every
// tab. There is no database: the stream is it, with one message for each bookmark.
//
//	pubsub-crud                            # http://localhost:7331, stores in ./data/pubsub-crud
//	pubsub-crud -bus 'mem:?tick=100ms'     # in memory; everybody is told every 100 ms
//	pubsub-crud -bus nats://box.lan:4222   # several of these share one NATS server
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/examples/look"
	"github.com/jitney-go/jitney/ui"
)

//go:embed crud.css
var style []byte

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "pubsub-crud:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("pubsub-crud", flag.ContinueOnError)
	addr := flags.String("addr", "localhost:7331", "listen on `HOST:PORT`; :7331 opens it to the network")
	data := flags.String("data", "./data/pubsub-crud", "store the bookmarks in `DIR`")
	busURL := flags.String("bus", "nats:", "use the bus at `URL`, such as mem:?tick=100ms; nats: alone stores in the directory of -data")
	flags.SetOutput(io.Discard) // a wrong flag is one line, below
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		flags.Usage()
		return err
	case err != nil:
		return fmt.Errorf("%w; -h shows the flags", err)
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected %q; -h shows the flags", flags.Arg(0))
	case *busURL == "nats:":
		*busURL += *data
	}
	v := ui.New()
	v.Config(ui.Options{
		DocumentTitle: "Bookmarks",
		ServerAddress: *addr,
		BusURL:        *busURL,
		Streams:       []ui.StreamConfig{{Name: "BOOKMARKS", Subjects: []string{subject("*")}, MaxMsgsPerSubject: 1}},
	})
	look.Style(v)
	v.Asset("crud.css", style)
	v.Page("/", func(c *ui.Context) { bookmarks(c, *busURL) })
	return v.Start()
}

// bookmarks is the page. What it shows comes from the stream, and what its user is at from the
// address (a link, a form without JavaScript) and then from signals.
func bookmarks(c *ui.Context, busURL string) {
	asked := c.Request().URL.Query()
	p := &page{c: c, busURL: busURL, shelf: shelf{}, query: strings.TrimSpace(asked.Get("q"))}
	ui.Subscribe(c, subject("*"), func(m bus.Message) {
		if news := p.shelf.take(m); news != "" && !m.Replayed {
			p.tell(news)
		}
		c.Sync()
	}, bus.LastPerSubject())

	begun := p.shelf[asked.Get("edit")]
	if begun.deleted {
		begun = entry{}
	}
	p.newTitle, p.newURL = c.Signal(""), c.Signal("")
	p.editing, p.base = c.Signal(begun.id), c.Signal(begun.cursor.String())
	p.title, p.url = c.Signal(begun.Title), c.Signal(begun.URL)
	p.row, p.at = c.Signal(""), c.Signal("")
	p.undoable = c.Signal(asked.Get("undo"))

	p.create, p.edit, p.theirs = c.Action(p.onCreate), c.Action(p.onEdit), c.Action(p.onEdit)
	p.save, p.cancel = c.Action(p.onSave), c.Action(p.onCancel)
	p.remove, p.undo, p.dismiss = c.Action(p.onRemove), c.Action(p.onUndo), c.Action(p.onDismiss)
	if p.query != "" {
		c.Title(p.query + " – Bookmarks")
	}
	c.View(p.view)
}

func (p *page) onCreate() error {
	b, err := p.check("new-title", p.newTitle, "new-url", p.newURL)
	if err != nil {
		return err
	}
	b.Added = time.Now().UTC()
	// The name is that of what the user did: if that is done again, it is no second bookmark.
	if err := p.put(entry{Bookmark: b, id: p.c.Once()}, bus.ExpectNone()); err != nil {
		return fmt.Errorf("the bookmark was not added: %w", err)
	}
	p.newTitle.Set("")
	p.newURL.Set("")
	return nil // the focus stays where it is: who types fast is in the next title already
}

// onEdit begins an edit, or begins it again with what others have saved meanwhile.
func (p *page) onEdit() error {
	p.wrong = nil
	e, ok := p.shelf[p.editing.String()]
	if !ok || e.deleted {
		p.editing.Set("")
		return errors.New("somebody else has deleted this bookmark")
	}
	p.title.Set(e.Title)
	p.url.Set(e.URL)
	p.base.Set(e.cursor.String())
	p.c.Focus("title")
	return nil
}

func (p *page) onSave() error {
	e, ok := p.shelf[p.editing.String()]
	if !ok {
		return errors.New("there is no such bookmark")
	}
	b, err := p.check("title", p.title, "url", p.url)
	if err != nil {
		return err
	}
	base, err := bus.ParseCursor(p.base.String())
	if err != nil {
		return fmt.Errorf("the edit began from nowhere; cancel it, and begin again: %w", err)
	}
	b.Added = e.Added
	switch err := p.put(entry{Bookmark: b, id: e.id}, bus.ExpectLast(base)); {
	case errors.Is(err, bus.ErrConflict):
		p.c.Focus("title")
		return errors.New("somebody else has saved this bookmark since you began: see what they wrote, and choose")
	case err != nil:
		return fmt.Errorf("the bookmark was not saved: %w", err)
	}
	p.editing.Set("")
	p.c.Focus("edit-" + e.id)
	return nil
}

func (p *page) onCancel() error {
	p.wrong = nil
	p.c.Focus("edit-" + p.editing.String())
	p.editing.Set("")
	return nil
}

func (p *page) onRemove() error {
	e, ok := p.shelf[p.row.String()]
	if !ok || e.deleted {
		return errors.New("somebody else has deleted this bookmark")
	}
	next := p.neighbour(e.id)
	e.deleted = true
	if err := p.putAt(e); err != nil {
		return fmt.Errorf("%q was not deleted: %w", e.Title, err)
	}
	p.undoable.Set(e.id)
	p.c.Focus(next)
	return nil
}

func (p *page) onUndo() error {
	e, ok := p.shelf[p.row.String()]
	if !ok || !e.deleted || e.Title == "" {
		return errors.New("there is nothing to undo")
	}
	e.deleted = false
	if err := p.putAt(e); err != nil {
		return fmt.Errorf("%q did not come back: %w", e.Title, err)
	}
	p.undoable.Set("")
	p.c.Focus("open-" + e.id)
	return nil
}

func (p *page) onDismiss() error {
	p.undoable.Set("")
	p.c.Focus("new-title")
	return nil
}
