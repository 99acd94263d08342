// Package chat is the page that chatroom and nats-chatroom serve: rooms in which people talk. What is said
// goes over the bus, and so does who is here; the page knows nothing of the backend.
package chat

import (
	_ "embed"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/examples/look"
	"github.com/jitney-go/jitney/presence"
	"github.com/jitney-go/jitney/ui"
)

//go:embed chat.css
var style []byte

const (
	history = 50   // messages that a room shows
	longest = 4000 // characters of a message
)

var rooms = []string{"Go", "Rust", "Python", "JavaScript", "Clojure"}

// Message is what somebody said.
type Message struct {
	ID    string // names the row that shows it
	By    string // the ID of who said it
	Name  string
	Emoji string
	Text  string
	Time  time.Time
}

// Serve adds the page to v. The page shows busURL, without what is secret in it.
func Serve(v *ui.App, here *presence.Rooms, busURL string) {
	look.Style(v)
	v.Asset("chat.css", style)
	v.Page("/", func(c *ui.Context) { open(c, here, busURL) })
}

func subject(room string) string { return "chat.room." + room }

// open runs for each tab. The browser keeps what the page needs to go on after a restart: who its user is,
// and the room. The lines of the room come from the bus.
func open(c *ui.Context, here *presence.Rooms, busURL string) {
	p := &page{
		c:      c,
		here:   here,
		busURL: busURL,
		me:     somebody(c.Visitor()),
		room:   c.Signal(rooms[0]),
		text:   c.Signal(""),
		unread: map[string]int{},
	}
	p.enter = c.Action(p.onEnter)
	p.say = c.Action(p.onSay)
	if err := p.onEnter(); err != nil {
		slog.Warn("chat: enter", "error", err)
	}
	// Of the other rooms it is enough to know that something is said: nothing is replayed or decoded.
	ui.Subscribe(c, subject("*"), func(m bus.Message) {
		room := strings.TrimPrefix(m.Subject, subject(""))
		if room == p.room.String() || p.unread[room] > most {
			return
		}
		p.unread[room]++
		c.Sync()
	})
	c.View(p.view)
}

// onEnter leaves the room that the tab is in, and enters the one that its user has picked.
func (p *page) onEnter() error {
	if p.listening != nil {
		p.listening.Unsubscribe()
		p.visit.Leave()
	}
	if !slices.Contains(rooms, p.room.String()) { // a signal is input like any other
		p.room.Set(rooms[0])
	}
	room := p.room.String()
	p.log = nil
	delete(p.unread, room)
	p.c.Title(room + " – Chatroom")
	p.listening = ui.Subscribe(p.c, subject(room), func(m Message) {
		p.log = append(p.log, m)
		if len(p.log) > history {
			p.log = p.log[1:]
		}
		p.c.Sync()
	}, bus.Last(history))
	var err error
	p.visit, err = p.here.Join(p.c.Context(), room, p.me, p.c.Sync)
	return err
}

// onSay publishes what the user has written.
func (p *page) onSay() error {
	text := strings.TrimSpace(p.text.String())
	if text == "" {
		return nil
	}
	if n := utf8.RuneCountInString(text); n > longest {
		return fmt.Errorf("this message has %d characters, and %d is the limit: shorten it, or send it in parts", n, longest)
	}
	if !slices.Contains(rooms, p.room.String()) {
		return fmt.Errorf("there is no room %q", p.room)
	}
	m := Message{ID: p.c.Once(), By: p.me.ID, Name: p.me.Name, Emoji: p.me.Info, Text: text, Time: time.Now().UTC()}
	if err := ui.Publish(p.c, subject(p.room.String()), m); err != nil {
		return fmt.Errorf("the message was not sent: %w", err)
	}
	return nil
}

// somebody makes up a name for a visitor, always the same.
func somebody(visitor string) presence.Member {
	animals := []string{
		"🦊 Fox", "🦉 Owl", "🐝 Bee", "🦦 Otter", "🐢 Turtle", "🐙 Octopus", "🦔 Hedgehog", "🐿️ Squirrel", "🦜 Parrot", "🐌 Snail",
		"🐧 Penguin", "🦩 Flamingo", "🐬 Dolphin", "🦘 Kangaroo", "🐘 Elephant", "🦒 Giraffe", "🐼 Panda", "🦥 Sloth", "🐞 Ladybird",
	}
	kinds := []string{
		"Brisk", "Calm", "Clever", "Curious", "Gentle", "Jolly", "Lucky", "Quiet", "Sunny", "Witty",
		"Bold", "Busy", "Cheerful", "Dreamy", "Eager", "Fancy", "Happy", "Merry", "Nimble", "Proud",
	}
	sum := fnv.New32a()
	sum.Write([]byte(visitor))
	n := int(sum.Sum32() >> 1)
	emoji, animal, _ := strings.Cut(animals[n%len(animals)], " ")
	return presence.Member{ID: visitor, Name: kinds[n/len(animals)%len(kinds)] + " " + animal, Info: emoji}
}
