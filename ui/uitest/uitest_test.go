package uitest_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
	"github.com/jitney-go/jitney/ui/uitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type message struct{ Text string }

// pages are a chat, and a page with one of everything.
func pages(v *ui.App) {
	v.Page("/", func(c *ui.Context) {
		text := c.Signal("")
		var log []message
		ui.Subscribe(c, "chat.room.Go", func(m message) { log = append(log, m); c.Sync() }, bus.Last(50))
		say := c.Action(func() error {
			if text.String() == "" {
				return errors.New("say something")
			}
			return ui.Publish(c, "chat.room.Go", message{text.String()})
		})
		c.Title("Chat")
		c.View(func() g.Node {
			return h.Main(
				h.Ol(g.Map(log, func(m message) g.Node { return h.Li(h.B(g.Text("new")), g.Text(": "+m.Text)) })),
				h.Form(say.OnSubmit(ui.Clear(text)), h.Label(h.For("text"), g.Text("Message")), h.Input(h.ID("text"), text.Bind()), h.Button(g.Text("Send"))),
				h.A(h.Href("./things?of=ann"), g.Text("Things")), h.A(h.Href("https://example.com/"), g.Text("Elsewhere")),
			)
		})
	})
	v.Page("/things", func(c *ui.Context) {
		of := c.Request().URL.Query().Get("of")
		size, colour, loud, tone, row := c.Signal(1), c.Signal("red"), c.Signal(false), c.Signal("kind"), c.Signal("")
		seen, typed := "", 0
		look := c.Action(func() error {
			seen = fmt.Sprint(size.Int()+1, colour, loud.Bool(), tone, row)
			return nil
		})
		count := c.Action(func() error { typed++; return nil })
		slow := c.Action(func() error { time.Sleep(3 * time.Second); return errors.New("too slow") })
		bad := c.Action(func() error { panic("no") })
		c.View(func() g.Node {
			return h.Div(h.P(g.Text("of "+of)),
				h.Label(g.Text("Size"), h.Input(h.Type("number"), size.Bind(), count.OnInput())),
				h.Select(h.Aria("label", "Colour"), colour.Bind(), h.Option(g.Text("red")), h.Option(h.Value("b"), g.Text("dark blue"))),
				h.Label(h.Input(h.Type("checkbox"), loud.Bind()), g.Text("Loud")),
				h.Label(h.Input(h.Type("radio"), h.Value("kind"), tone.Bind()), g.Text("Kind")),
				h.Label(h.Input(h.Type("radio"), h.Value("rude"), tone.Bind()), g.Text("Rude")),
				h.Button(h.Type("button"), look.OnClick(ui.Set(row, "7")), g.Text("Look "), h.Span(g.Text("now"))),
				h.Button(h.Type("button"), slow.OnClick(), h.Aria("label", "Slow"), g.Text("…")),
				h.Button(h.Type("button"), bad.OnClick(), g.Text("Bad")),
				h.Button(h.Type("button"), g.Text("Twice")), h.Button(h.Type("button"), g.Text("Twice")),
				h.Template(h.P(g.Text("nobody sees this"))), h.P(g.Attr("hidden"), g.Text("nor this")),
				h.P(g.Text("seen: "+seen)), h.P(g.Textf("typed: %d", typed)))
		})
	})
}

func serve(t testing.TB) *uitest.Site {
	return uitest.Serve(t, ui.Options{Streams: []ui.StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}}}}, pages)
}

func TestPage_whatOnePersonSaysOthersRead(t *testing.T) {
	site := serve(t)
	ann, bob := site.Open("/"), site.Open("/")
	require.Equal(t, "Chat", ann.Title())
	ann.Fill("Message", "hello")
	require.Equal(t, "hello", ann.Value("#text"))
	ann.Click("Send")
	require.Empty(t, ann.Value("Message"))
	bob.WaitText("new: hello")
	second := ann.Open("/")
	require.Contains(t, second.Text(), "new: hello")
	require.Contains(t, second.HTML(), "<b>new</b>: hello")
	ann.Click("Send")
	require.Contains(t, ann.Text(), "say something")
	ann.Fill("Message", "again")
	ann.Click("Send")
	ann.WaitNoText("say something")
	second.WaitText("new: again")
}

func TestPage_aRefusedTextIsGivenBack(t *testing.T) {
	p := uitest.Serve(t, ui.Options{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			text := c.Signal("")
			say := c.Action(func() error { return errors.New("no") })
			c.View(func() g.Node {
				return h.Form(say.OnSubmit(ui.Clear(text)), h.Input(text.Bind(), h.Placeholder("Text")), h.Input(h.Type("submit"), h.Value("Go")))
			})
		})
	}).Open("/")
	p.Fill("Text", "mine")
	p.Click("Go")
	require.Equal(t, "mine", p.Value("Text"))
}

func TestPage_fieldsAreOfAnyKind(t *testing.T) {
	p := serve(t).Open("/")
	p.Click("Things")
	require.Contains(t, p.Text(), "of ann")
	require.NotContains(t, p.Text(), "sees this")
	require.NotContains(t, p.Text(), "nor this")
	require.NotContains(t, p.Text(), "dark blue")
	p.Fill("Size", "41")
	p.WaitText("typed: 1")
	p.Fill("Colour", "dark blue")
	p.Tick("Loud", true)
	p.Tick("Rude", true)
	p.Click("Look now")
	p.WaitText("seen: 42 b true rude 7")
	require.Equal(t, "true", p.Value("Loud"))
	p.Tick("Loud", false)
	p.Click("Look now")
	p.WaitText("seen: 42 b false rude 7")
}

func TestPage_anActionThatTakesLongIsWaitedFor(t *testing.T) {
	p := serve(t).Open("/things")
	p.Click("Slow") // longer than the server makes a browser wait for an answer
	require.Contains(t, p.Text(), "too slow")
	p.Click("Bad")
	require.Contains(t, p.Text(), "failed unexpectedly")
}

// failing is a test that is expected to fail.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fails returns what a test that does something says when it fails.
func fails(t *testing.T, do func(p *uitest.Page)) string {
	t.Helper()
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(serve(f).Open("/things"))
	}()
	<-done
	require.NotEmpty(t, f.said)
	return f.said
}

func TestPage_saysWhatIsThereWhenSomethingIsNot(t *testing.T) {
	for want, do := range map[string]func(p *uitest.Page){
		`0 buttons and links are called "Sned"; there are:` + "\n  Look now\n  Slow, or …": func(p *uitest.Page) { p.Click("Sned") },
		`2 buttons and links are called "Twice"`:                                           func(p *uitest.Page) { p.Click("Twice") },
		`0 fields are called "Seize"; there are:` + "\n  Size\n  Colour\n  Loud":           func(p *uitest.Page) { p.Fill("Seize", "1") },
		`"Colour" has no choice "green"`:                                                   func(p *uitest.Page) { p.Fill("Colour", "green") },
		`"Size" can't be ticked`:                                                           func(p *uitest.Page) { p.Tick("Size", true) },
		`"Elsewhere" leads elsewhere: https://example.com/`:                                func(p *uitest.Page) { p.Open("/").Click("Elsewhere") },
		`status 404`: func(p *uitest.Page) { p.Open("/nowhere") },
	} {
		said := fails(t, do)
		require.Contains(t, said, want)
		require.True(t, strings.HasPrefix(said, "uitest: "), said)
	}
}
