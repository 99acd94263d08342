// Command nats-chatroom is a chat with a few rooms. What is said goes over the bus and is
// kept there: an embedded NATS server by default, so that the history survives a restart.
//
//	nats-chatroom                            # http://localhost:7331, stores in ./data/nats-chatroom
//	nats-chatroom -bus 'mem:?tick=100ms'     # nothing is stored; everybody is told every 100 ms
//	nats-chatroom -bus nats://chat.lan:4222  # several of these share one NATS server
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/examples/chat"
	"github.com/jitney-go/jitney/presence"
	"github.com/jitney-go/jitney/ui"
)

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
	busURL := flags.String("bus", "nats:", "use the bus at `URL`, such as mem:?tick=100ms; nats: alone stores in the directory of -data")
	load := flags.Int("load", 0, "let `N` robots chat")
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
	case *load < 0 || *load > 1000:
		return fmt.Errorf("-load %d: want 0 to 1000", *load)
	case *busURL == "nats:":
		*busURL += *data
	}
	return serve(*addr, *busURL, *load)
}

// serve serves the chat until the program is told to end.
func serve(addr, busURL string, load int) (err error) {
	ctx := context.Background()
	b, err := bus.Open(ctx, busURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(ctx)) }()
	here, err := presence.Open(ctx, b, "here")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, here.Close(ctx)) }()
	v := ui.New()
	v.Config(ui.Options{
		DocumentTitle: "Chatroom",
		ServerAddress: addr,
		Bus:           b,
		TabTTL:        10 * time.Second, // who closes a tab has left after that; who comes back goes on as before
		Streams: []ui.StreamConfig{{
			Name:     "CHAT",
			Subjects: []string{"chat.>"},
			MaxMsgs:  1000,
			MaxAge:   24 * time.Hour,
		}},
	})
	chat.Serve(v, here, busURL)
	defer chat.Robots(v, b, here, load)()
	return v.Start()
}
