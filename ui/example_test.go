package ui_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/ui"
)

// A chat in one room. A program would end with v.Start(); the example serves until it has
// looked at its own page.
func Example() {
	type Message struct{ Text string }

	v := ui.New()
	v.Config(ui.Options{
		BusURL:        "mem:", // the default is an embedded NATS server
		ServerAddress: "127.0.0.1:0",
		DocumentTitle: "Chat",
		Streams:       []ui.StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 1000}},
		Logger:        slog.New(slog.DiscardHandler),
	})
	v.Page("/", func(c *ui.Context) {
		text := c.Signal("")
		var messages []Message
		ui.Subscribe(c, "chat.room.Go", func(m Message) { messages = append(messages, m); c.Sync() }, bus.Last(50))
		say := c.Action(func() error {
			return ui.Publish(c, "chat.room.Go", Message{Text: text.String()})
		})
		c.View(func() g.Node {
			return h.Main(
				h.Ol(g.Map(messages, func(m Message) g.Node { return h.Li(g.Text(m.Text)) })),
				h.Form(say.OnSubmit(ui.Clear(text)), h.Input(text.Bind(), h.Aria("label", "Message")), h.Button(g.Text("Send"))),
			)
		})
	})

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- v.Serve(ctx) }()
	res, err := http.Get("http://" + v.Addr() + "/")
	if err != nil {
		log.Fatal(err)
	}
	page, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	_ = res.Body.Close() // it was read to its end
	_, form, _ := strings.Cut(string(page), "</ol>")
	form, _, _ = strings.Cut(form, `<input type="hidden"`) // what follows is for browsers without script
	fmt.Println(form)
	cancel()
	http.DefaultClient.CloseIdleConnections()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	// Output:
	// <form data-on-submit="a1" data-clear="s1" method="post"><input data-bind="s1" aria-label="Message" name="s1" value=""><button>Send</button>
}
