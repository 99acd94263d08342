package chat

import (
	"strconv"
	"time"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/examples/look"
	"github.com/jitney-go/jitney/presence"
	"github.com/jitney-go/jitney/ui"
)

const (
	most  = 9  // unread messages that are counted
	names = 12 // of those who are here that are shown

	breath = 5 * time.Minute // what somebody says within it needs no name of its own
)

// page is the state of one tab.
type page struct {
	c          *ui.Context
	here       *presence.Rooms
	busURL     string
	me         presence.Member
	room, text *ui.Signal
	enter, say *ui.Action

	listening *ui.Subscription
	visit     *presence.Visit
	log       []Message
	unread    map[string]int // by room
}

func (p *page) view() g.Node {
	room := p.room.String()
	you := h.P(g.Text("You are "), h.Strong(h.Class("who"), g.Text(p.me.Info+" "+p.me.Name)))
	return look.TallPage("Chatroom", you, look.Corner(p.busURL, "message"),
		h.Nav(h.Aria("label", "Rooms"), h.Ul(g.Map(rooms, p.door))),
		p.present(),
		h.Main(
			h.Div(h.Class("talk card"),
				g.If(len(p.log) == 0, h.P(h.Class("empty"),
					g.Text("Nobody has said anything in "+room+" today."), h.Br(), g.Text("Say hello, and you have begun."))),
				// Another room is another log, which begins at its end.
				h.Div(h.ID("log-"+room), h.Class("log"), h.Role("log"), h.Aria("label", "Messages in "+room), h.TabIndex("0"), ui.Pin(),
					p.rows()),
				ui.Unseen("log-"+room, "1 new message", "# new messages"),
			),
			h.Form(p.say.OnSubmit(ui.Clear(p.text)),
				ui.Echo("log-"+room, p.echo()),
				h.Label(h.Class("spoken"), h.For("text"), g.Text("Message to "+room)),
				h.Input(h.ID("text"), h.Name("text"), h.Type("text"), p.text.Bind(), h.AutoFocus(), h.Required(),
					h.Pattern(`.*\S.*`), h.Title("a message with at least one letter"),
					h.AutoComplete("off"), g.Attr("enterkeyhint", "send"), h.Placeholder("Message to "+room)),
				h.Button(h.Class("primary"), h.Type("submit"), g.Text("Send")),
			),
		),
	)
}

// door is the button of a room.
func (p *page) door(room string) g.Node {
	unread := g.Node(nil)
	if n := p.unread[room]; n > 0 {
		text := strconv.Itoa(n)
		if n > most {
			text = strconv.Itoa(most) + "+"
		}
		unread = g.Group{look.Spoken(", unread: "), h.Span(h.Class("unread"), g.Text(text))}
	}
	return h.Li(h.Button(h.Type("button"), h.ID("room-"+room), p.enter.OnClick(ui.Set(p.room, room)),
		g.If(room == p.room.String(), h.Aria("current", "page")), g.Text(room), unread))
}

// present lists who is in the room.
func (p *page) present() g.Node {
	members := p.visit.List()
	shown := members[:min(len(members), names)]
	return h.Section(h.Class("here"), h.Aria("label", "Who is here"),
		h.H2(g.Textf("%d here", len(members))),
		h.Ul(
			g.Map(shown, func(m presence.Member) g.Node {
				return h.Li(h.ID("here-"+m.ID), g.If(m.ID == p.me.ID, h.Class("me")), g.Text(m.Info+" "+m.Name))
			}),
			g.If(len(members) > names, h.Li(g.Textf("and %d more", len(members)-len(shown)))),
		),
	)
}

func (p *page) rows() g.Node {
	rows := make(g.Group, len(p.log))
	for i, m := range p.log {
		rows[i] = p.row(m, i > 0 && again(p.log[i-1], m.By, m.Time))
	}
	return rows
}

// again reports whether somebody has just said something else.
func again(last Message, by string, at time.Time) bool {
	return last.By == by && at.Sub(last.Time) < breath
}

// row shows a message. It is the same for all but who said it, and rendered once for all of them.
func (p *page) row(m Message, again bool) g.Node {
	mine := m.By == p.me.ID
	type key struct {
		Message
		mine, again bool
	}
	return ui.Once(key{m, mine, again}, func() g.Node {
		return h.Article(h.ID("m-"+m.ID), ui.Made(m.ID), class(mine, again),
			line(m.Emoji, m.Name, m.Time, g.Text(m.Text)))
	})
}

// echo is the row of what its user is saying, before the server has heard of it.
func (p *page) echo() g.Node {
	said := len(p.log) > 0 && again(p.log[len(p.log)-1], p.me.ID, time.Now())
	return h.Article(class(true, said), line(p.me.Info, p.me.Name, time.Time{}, ui.EchoOf(p.text)),
		h.P(h.Class("state"), ui.EchoIf("sending"), g.Text("sending…")),
		h.P(h.Class("state wrong"), ui.EchoIf("refused"), g.Text("Not sent. "),
			h.Button(h.Type("button"), ui.EchoRetry(), g.Text("Retry")),
			h.Button(h.Type("button"), ui.EchoEdit(), g.Text("Edit"))),
	)
}

func class(mine, again bool) g.Node {
	switch {
	case mine && again:
		return h.Class("mine again")
	case mine:
		return h.Class("mine")
	}
	return g.If(again, h.Class("again"))
}

func line(emoji, name string, at time.Time, text g.Node) g.Node {
	return g.Group{
		h.Span(h.Class("emoji"), h.Aria("hidden", "true"), g.Text(emoji)),
		h.Div(h.Class("line"),
			h.P(h.Class("by"), h.Span(h.Class("name"), g.Text(name)), g.Text(" "), ui.LocalTime(at)),
			h.P(h.Class("text"), text),
		),
	}
}
