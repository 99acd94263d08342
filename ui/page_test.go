package ui_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
)

type message struct{ Text string }

// chat is the page that most programs begin with.
func chat(v *ui.App) {
	v.Page("/", func(c *ui.Context) {
		text := c.Signal("")
		var log []message
		ui.Subscribe(c, "chat.room.Go", func(m message) { log = append(log, m); c.Sync() }, bus.Last(50))
		say := c.Action(func() error {
			if text.String() == "" {
				return errors.New("say something")
			}
			return ui.Publish(c, "chat.room.Go", message{Text: text.String()})
		})
		c.View(func() g.Node {
			return h.Main(
				h.Ol(g.Map(log, func(m message) g.Node { return h.Li(g.Text(m.Text)) })),
				h.Form(say.OnSubmit(ui.Clear(text)), h.Input(text.Bind())),
			)
		})
	})
}

func TestChat_messageReachesOtherBrowser(t *testing.T) {
	s := serve(t, ui.Options{DocumentTitle: "Chat"}, ui.Shorten{}, chat)
	ann, bob := s.browser().open("/"), s.browser().open("/")
	ann.connect("worker-ann", 1, ann)
	bob.connect("worker-bob", 1, bob)
	require.Equal(t, "Chat", ann.Title)
	require.Equal(t, "done", ann.act("a1", signals{"s1": {V: "hello", Rev: 1}}).Status)
	ann.shows("<li>hello</li>")
	bob.shows("<li>hello</li>")
	require.Equal(t, "say something", bob.act("a1", signals{"s1": {V: "", Rev: 1}}).Error)
	late := s.browser().open("/")
	require.Contains(t, late.HTML, "<li>hello</li>")
}
