// Command chatroom is a chat with a few rooms. It is how such a program begins: rooms in memory,
// and everybody is told what is new at the next tick.
//
//	chatroom                       # http://localhost:7331
//	chatroom -bus mem:             # without a ticker: at once
//	chatroom -bus nats:./data/chat # what is said survives a restart, in the same binary
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
		fmt.Fprintln(os.Stderr, "chatroom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("chatroom", flag.ContinueOnError)
	addr := flags.String("addr", "localhost:7331", "listen on `HOST:PORT`; :7331 opens it to the network")
	busURL := flags.String("bus", "mem:?tick=100ms", "use the bus at `URL`")
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
