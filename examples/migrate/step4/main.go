// Command step4 is the chat that reads NATS, and writes to its rooms' bus, too. See docs/migrate.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
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

type ChatRoom = membus.Room[Chat, string]

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
	rooms := membus.NewRooms[Chat, string](100*time.Millisecond, "Go", "Rust", "Python")
	rooms.Start()
	defer rooms.Stop()

	ctx := context.Background()
	old, err := rooms.OpenBus()
	if err != nil {
		return err
	}
	fresh, err := natsbus.Open(ctx, data)
	if err != nil {
		return errors.Join(err, old.Close(ctx))
	}
	b, err := migrate.NewTee(ctx, fresh, old, migrate.TeeConfig{})
	if err != nil {
		return errors.Join(err, old.Close(ctx), fresh.Close(ctx))
	}
	defer func() { err = errors.Join(err, b.Close(ctx)) }()
	err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.*"}, MaxMsgs: 10_000})
	if err = errors.Join(err, b.Flush(ctx)); err != nil {
		return err
	}
	shadow, err := migrate.NewShadow(ctx, fresh, old, migrate.ShadowConfig{Patterns: []string{"chat.*"}})
	if err != nil {
		return err
	}
	defer func() { fmt.Print(shadow.Close(ctx)) }()

	// in gives a handler the room that is asked for.
	in := func(handle func(w http.ResponseWriter, r *http.Request, room *ChatRoom)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if room, ok := rooms.Get(r.FormValue("room")); ok {
				handle(w, r, room)
			} else {
				http.NotFound(w, r)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", in(func(w http.ResponseWriter, r *http.Request, room *ChatRoom) {
		tab := NewTab()
		room.Join(r.Context(), r.FormValue("who"), tab)
		_, err := bus.Subscribe(r.Context(), b, "chat."+room.Name, func(_ context.Context, line Line) error {
			tab.Update(func(c *Chat) { c.Lines = append(c.Lines, line) })
			return nil
		}, bus.Last(50), bus.Until(r.Context()))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		page.Stream(w, r, tab.changed, func() any {
			chat := tab.Chat()
			chat.Topic = room.GetData().Topic
			return chat
		})
	}))
	mux.HandleFunc("POST /say", in(func(w http.ResponseWriter, r *http.Request, room *ChatRoom) {
		line := Line{r.FormValue("who"), r.FormValue("text")}
		if err := bus.Publish(r.Context(), b, "chat."+room.Name, line); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	mux.HandleFunc("POST /topic", in(func(w http.ResponseWriter, r *http.Request, room *ChatRoom) {
		room.UpdateData(func(c *Chat) { c.Topic = r.FormValue("text") })
	}))
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s%+v\n", shadow.Report(), b.Stats())
	})
	return page.Serve(addr, mux)
}
