// Command step0 is a chat as such programs begin: a struct of rooms, a mutex, a dirty flag and a ticker (rooms.go).
// docs/migrate.md starts here.
package main

import (
	"flag"
	"log"
	"net/http"
	"slices"

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

type ChatRoom = Room[Chat, string]

// Tab is a page in a browser.
type Tab struct{ changed chan struct{} }

func NewTab() *Tab { return &Tab{changed: make(chan struct{}, 1)} }

// Sync has the page rendered again.
func (t *Tab) Sync() {
	select {
	case t.changed <- struct{}{}:
	default: // it is going to be
	}
}

func main() {
	addr := flag.String("addr", "localhost:7331", "listen on `HOST:PORT`")
	flag.Parse()
	if err := serve(*addr); err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	rooms := NewRooms[Chat, string]("Go", "Rust", "Python")
	rooms.Start()
	defer rooms.Stop()

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
		who, tab := r.FormValue("who"), NewTab()
		room.Join(who, tab)
		defer room.Leave(who)
		page.Stream(w, r, tab.changed, func() any { return room.GetData(last) })
	}))
	mux.HandleFunc("POST /say", in(func(w http.ResponseWriter, r *http.Request, room *ChatRoom) {
		line := Line{r.FormValue("who"), r.FormValue("text")}
		room.UpdateData(func(c *Chat) { c.Lines = append(c.Lines, line) })
	}))
	mux.HandleFunc("POST /topic", in(func(w http.ResponseWriter, r *http.Request, room *ChatRoom) {
		room.UpdateData(func(c *Chat) { c.Topic = r.FormValue("text") })
	}))
	return page.Serve(addr, mux)
}
