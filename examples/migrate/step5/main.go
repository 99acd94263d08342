// Command step5 is the chat on NATS alone. See docs/migrate.md.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net/http"
	"slices"
	"sync"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/examples/migrate/page"
)

// Chat is what a room holds.
type Chat struct {
	Topic string
	Lines []Line
}

// Line is what somebody said.
type Line struct{ Who, Text string }

// last is what a page shows of a room.
func last(c *Chat) Chat {
	return Chat{c.Topic, slices.Clone(c.Lines[max(0, len(c.Lines)-50):])}
}

// Tab is a page in a browser.
type Tab struct {
	changed chan struct{}

	mu   sync.Mutex
	chat Chat
}

func NewTab() *Tab { return &Tab{changed: make(chan struct{}, 1)} }

// Sync has the page rendered again.
func (t *Tab) Sync() {
	select {
	case t.changed <- struct{}{}:
	default: // it is going to be
	}
}

// Update changes what the page shows.
func (t *Tab) Update(fn func(c *Chat)) {
	t.mu.Lock()
	fn(&t.chat)
	t.chat = last(&t.chat)
	t.mu.Unlock()
	t.Sync()
}

// Chat returns what the page shows.
func (t *Tab) Chat() Chat {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.chat
}

func main() {
	addr := flag.String("addr", "localhost:7331", "listen on `HOST:PORT`")
	data := flag.String("data", "./data/migrate", "let NATS store in `DIR`")
	flag.Parse()
	if err := serve(*addr, *data); err != nil {
		log.Fatal(err)
	}
}

func serve(addr, data string) (err error) {
	ctx := context.Background()
	b, err := natsbus.Open(ctx, data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(ctx)) }()
	err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.*"}, MaxMsgs: 10_000},
		bus.StreamConfig{Name: "TOPICS", Subjects: []string{"topic.*"}, MaxMsgsPerSubject: 1})
	if err != nil {
		return err
	}

	// in gives a handler the room that is asked for.
	in := func(handle func(w http.ResponseWriter, r *http.Request, room string)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if room := r.FormValue("room"); slices.Contains([]string{"Go", "Rust", "Python"}, room) {
				handle(w, r, room)
			} else {
				http.NotFound(w, r)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", in(func(w http.ResponseWriter, r *http.Request, room string) {
		tab := NewTab()
		_, err := bus.Subscribe(r.Context(), b, "chat."+room, func(_ context.Context, line Line) error {
			tab.Update(func(c *Chat) { c.Lines = append(c.Lines, line) })
			return nil
		}, bus.Last(50), bus.Until(r.Context()))
		if err == nil {
			_, err = bus.Subscribe(r.Context(), b, "topic."+room, func(_ context.Context, topic string) error {
				tab.Update(func(c *Chat) { c.Topic = topic })
				return nil
			}, bus.Last(1), bus.Until(r.Context()))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		page.Stream(w, r, tab.changed, func() any { return tab.Chat() })
	}))
	mux.HandleFunc("POST /say", in(func(w http.ResponseWriter, r *http.Request, room string) {
		line := Line{r.FormValue("who"), r.FormValue("text")}
		if err := bus.Publish(r.Context(), b, "chat."+room, line); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	mux.HandleFunc("POST /topic", in(func(w http.ResponseWriter, r *http.Request, room string) {
		if err := bus.Publish(r.Context(), b, "topic."+room, r.FormValue("text")); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	return page.Serve(addr, mux)
}
