package main

import (
	"time"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/ui"
)

// page is the state of one tab.
type page struct {
	name, emoji, room, text *ui.Signal
	enter, say              *ui.Action
	log                     []Message
}

func (p *page) view() g.Node {
	room := p.room.String()
	return h.Div(h.Class("chat"),
		h.Header(
			h.H1(g.Text("Chatroom")),
			h.P(h.Class("you"), g.Text("You are "), h.Span(h.Class("who"), g.Text(p.emoji.String()+" "+p.name.String()))),
		),
		h.Nav(h.Aria("label", "Rooms"),
			h.Ul(g.Map(rooms, func(r string) g.Node {
				return h.Li(h.Button(h.Type("button"), h.ID("room-"+r), p.enter.OnClick(ui.Set(p.room, r)),
					g.If(r == room, h.Aria("current", "page")), g.Text(r)))
			})),
		),
		h.Main(
			g.If(len(p.log) == 0, h.P(h.Class("empty"),
				g.Text("Nobody has said anything in "+room+" today."), h.Br(), g.Text("Say hello, and you have begun."))),
			// Another room is another log, which begins at its end.
			h.Ol(h.ID("log-"+room), h.Class("log"), h.Role("log"), h.Aria("label", "Messages in "+room), h.TabIndex("0"), ui.Pin(),
				g.Map(p.log, p.row)),
		),
		h.Form(p.say.OnSubmit(ui.Clear(p.text)),
			h.Label(h.For("text"), g.Text("Message to "+room)),
			h.Input(h.ID("text"), h.Name("text"), h.Type("text"), p.text.Bind(), h.AutoFocus(), h.Required(),
				h.Pattern(`.*\S.*`), h.Title("a message with at least one letter"),
				h.AutoComplete("off"), g.Attr("enterkeyhint", "send"), h.Placeholder("Message to "+room)),
			h.Button(h.Type("submit"), g.Text("Send")),
		),
	)
}

func (p *page) row(m Message) g.Node {
	mine := m.Name == p.name.String() && m.Emoji == p.emoji.String()
	return h.Li(h.ID("m-"+m.ID), g.If(mine, h.Class("mine")),
		h.Span(h.Class("emoji"), h.Aria("hidden", "true"), g.Text(m.Emoji)),
		h.Div(h.Class("line"),
			h.P(h.Class("by"), h.Span(h.Class("name"), g.Text(m.Name)), g.Text(" "),
				h.Time(h.DateTime(m.Time.Format(time.RFC3339)), g.Text(m.Time.Local().Format("15:04")))),
			h.P(h.Class("text"), g.Text(m.Text)),
		),
	)
}
