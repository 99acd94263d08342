// Command nats-chatroom is a chat with a few rooms. What is said goes over the bus and is
// kept there: an embedded NATS server by default, so that the history survives a restart.
//
//	nats-chatroom                            # http://localhost:7331, stores in ./data/nats-chatroom
//	nats-chatroom -bus 'mem:?tick=100ms'     # nothing is stored; everybody is told every 100 ms
//	nats-chatroom -bus nats://chat.lan:4222  # several of these share one NATS server
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
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
	Name  string
	Emoji string
	Text  string
	Time  time.Time
}

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "nats-chatroom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("nats-chatroom", flag.ContinueOnError)
	addr := flags.String("addr", "localhost:7331", "listen on `HOST:PORT`; :7331 opens it to the network")
	data := flags.String("data", "./data/nats-chatroom", "store the messages in `DIR`")
	busURL := flags.String("bus", "", "use the bus at `URL`, such as mem:?tick=100ms (default nats: in the directory of -data)")
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
	case *busURL == "":
		*busURL = "nats:" + *data
	}
	v := ui.New()
	v.Config(ui.Options{
		DocumentTitle: "Chatroom",
		ServerAddress: *addr,
		BusURL:        *busURL,
		Streams: []ui.StreamConfig{{
			Name:     "CHAT",
			Subjects: []string{"chat.>"},
			MaxMsgs:  1000,
			MaxAge:   24 * time.Hour,
		}},
	})
	v.Asset("chat.css", style)
	v.Page("/", chat)
	return v.Start()
}

// chat is the page. The browser keeps what it needs to go on after a restart: who its user is, and
// the room. The lines of the room come from the bus.
func chat(c *ui.Context) {
	emoji, name := somebody()
	p := &page{
		name:  c.Signal(name),
		emoji: c.Signal(emoji),
		room:  c.Signal(rooms[0]),
		text:  c.Signal(""),
	}
	var listening *ui.Subscription
	enter := func() {
		if listening != nil {
			listening.Unsubscribe()
		}
		p.log = nil
		p.mend()
		c.Title(p.room.String() + " – Chatroom")
		listening = ui.Subscribe(c, subject(p.room.String()), func(m Message) {
			p.log = append(p.log, m)
			if len(p.log) > history {
				p.log = p.log[1:]
			}
			c.Sync()
		}, bus.Last(history))
	}
	p.enter = c.Action(func() error {
		enter()
		return nil
	})
	p.say = c.Action(func() error {
		p.mend()
		text := strings.TrimSpace(p.text.String())
		if text == "" {
			return nil
		}
		if n := utf8.RuneCountInString(text); n > longest {
			return fmt.Errorf("this message has %d characters, and %d is the limit: shorten it, or send it in parts", n, longest)
		}
		m := Message{ID: c.Once(), Name: p.name.String(), Emoji: p.emoji.String(), Text: text, Time: time.Now().UTC()}
		if err := ui.Publish(c, subject(p.room.String()), m); err != nil {
			return fmt.Errorf("the message was not sent: %w", err)
		}
		return nil
	})
	enter()
	c.View(p.view)
}

func subject(room string) string { return "chat.room." + room }

// mend replaces signals that this page didn't make: they are input like any other.
func (p *page) mend() {
	if utf8.RuneCountInString(p.name.String()) > 40 || utf8.RuneCountInString(p.emoji.String()) > 8 {
		emoji, name := somebody()
		p.emoji.Set(emoji)
		p.name.Set(name)
	}
	if !slices.Contains(rooms, p.room.String()) {
		p.room.Set(rooms[0])
	}
}

// somebody makes up a visitor.
func somebody() (emoji, name string) {
	animals := []string{"🦊 Fox", "🦉 Owl", "🐝 Bee", "🦦 Otter", "🐢 Turtle", "🐙 Octopus", "🦔 Hedgehog", "🐿️ Squirrel", "🦜 Parrot", "🐌 Snail"}
	kinds := []string{"Brisk", "Calm", "Clever", "Curious", "Gentle", "Jolly", "Lucky", "Quiet", "Sunny", "Witty"}
	emoji, animal, _ := strings.Cut(animals[rand.N(len(animals))], " ")
	return emoji, kinds[rand.N(len(kinds))] + " " + animal
}
