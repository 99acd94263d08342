package compare

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/jitney-go/jitney/internal/arguments"
	"github.com/jitney-go/jitney/internal/terminal"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1 // a bus couldn't be measured to the end, or lost or repeated messages while it ran; or a signal
	exitNothing = 2 // wrong usage, or a bus can't be opened, or the picture not be written: nothing was measured
)

// Main runs the subcommand with the arguments that follow its name, which it has in its messages. It returns the exit
// status: 0 when all buses were measured, 1 when one couldn't be or has lost or repeated messages while it
// ran, or when a signal (interrupt or SIGTERM) came before the end, 2 when nothing was measured.
//
// A second signal kills the process. Each bus is measured in one that is this program, started again with the same arguments.
func Main(name string, args []string) int {
	if os.Getenv(asChild) != "" {
		return runChild(os.Stdin, os.Stdout)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	cmd := command{name: name, stdout: os.Stdout, stderr: os.Stderr}
	status, err := cmd.run(ctx, args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
	return status
}

type command struct {
	name           string
	stdout, stderr io.Writer

	urls []string
	json bool
	svg  string
	load load
}

func (cmd *command) parse(args []string) (help bool, err error) {
	l := &cmd.load
	flags := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	flags.Func("bus", "measure the bus at `URL`, once for each -bus (default mem:?tick=100ms and nats:)", func(url string) error {
		cmd.urls = append(cmd.urls, url)
		return nil
	})
	flags.DurationVar(&l.Conversation, "d", 3*time.Second, "let the conversation last `DURATION`, the burst and the flood a third of it each")
	flags.BoolVar(&cmd.json, "json", false, "write one JSON object instead of the table")
	flags.Float64Var(&l.Rate, "rate", 100, "publish `N` messages per second in the conversation, ten times as many in the burst")
	flags.DurationVar(&l.Render, "render", time.Millisecond, "let rendering a page cost `DURATION` of CPU time in the burst")
	flags.IntVar(&l.Rooms, "rooms", 5, "let there be `N` rooms")
	flags.StringVar(&cmd.svg, "svg", "", "write a picture of the latencies to `FILE`")
	flags.IntVar(&l.Tabs, "tabs", 50, "let `N` pages look at the rooms, each at one")
	if help, err := arguments.Parse(flags, args, usage, cmd.stdout); help || err != nil {
		return help, err
	}
	if len(cmd.urls) == 0 {
		cmd.urls = []string{"mem:?tick=100ms", "nats:"}
	}
	return false, l.check()
}

const usage = `Usage: %s [-bus URL]... [flags]

Gives the same chat to several buses, one after the other, each in a process of its own, and
shows side by side what it comes to: a conversation at -rate; a burst in which everybody speaks
at once and a page is expensive to render; a flood, as fast as publishes are acknowledged; and
a kill, after which what was acknowledged is looked for. Pages are rendered as by package ui:
the newest state, at once when the page was idle, at the most every 10 ms.

The table ends with what the figures say, also on when a ticker is better. A ticker saves what
is done once for several messages, such as rendering; handlers are called for each of them.

A URL is that of bus.Open, such as mem:, mem:?tick=100ms, nats:./data/x, nats://host:4222. A store
is made in a temporary directory; where the URL has a path, in a directory made there, or where
{dir} stands in it. On a server elsewhere, streams are made and removed, and a kill is that of
the client.

Exit status: 1 if a bus couldn't be measured to the end, or lost or repeated messages while it ran,
2 if nothing was measured.

`

func (cmd *command) run(ctx context.Context, args []string) (status int, err error) {
	if help, err := cmd.parse(args); help {
		return exitDone, nil
	} else if err != nil {
		return exitNothing, err
	}
	picture, err := openPicture(cmd.svg)
	if err != nil {
		return exitNothing, fmt.Errorf("-svg %s: %w", cmd.svg, err)
	}
	defer func() { err = errors.Join(err, picture.abandon()) }()
	r, status, err := cmd.measure(ctx)
	if r == nil {
		return status, err
	}
	r.judge()
	// What stays on a bus is told, and so are the figures.
	if err := errors.Join(err, r.write(cmd), picture.write(r)); err != nil {
		return exitFailed, err
	}
	if !r.sound() {
		return exitFailed, nil
	}
	return exitDone, nil
}

// measure gives each bus its load, and leaves nothing of it. The report is nil when there is nothing to tell; with
// one, the error is what stays.
func (cmd *command) measure(ctx context.Context) (r *report, status int, err error) {
	defer cmd.clearProgress()
	var trials []*trial
	defer func() {
		for _, t := range trials {
			err = errors.Join(err, t.clean(ctx))
		}
	}()
	for _, url := range cmd.urls {
		t := newTrial(url)
		trials = append(trials, t)
		cmd.progress(t.name(), "opening it")
		if err := t.prepare(ctx); err != nil {
			return nil, exitNothing, err
		}
	}
	cmd.load.fill()
	cmd.load.Effort = calibrate(cmd.load.Render)
	r = &report{System: thisSystem(), Load: cmd.load}
	for _, t := range trials {
		r.Buses = append(r.Buses, t.measure(ctx, cmd))
		if ctx.Err() != nil {
			return nil, exitFailed, errors.New("ended by a signal: nothing is compared")
		}
	}
	return r, exitDone, nil
}

// progress says what is being done, where a person looks on.
func (cmd *command) progress(bus, what string) {
	if terminal.Overwrites(cmd.stderr) {
		fmt.Fprint(cmd.stderr, terminal.Line(cmd.stderr, bus+": "+what))
	}
}

func (cmd *command) clearProgress() {
	if terminal.Overwrites(cmd.stderr) {
		fmt.Fprint(cmd.stderr, terminal.ClearLine)
	}
}

// report is all that is told.
type report struct {
	System  system     `json:"system"`
	Load    load       `json:"load"`
	Buses   []*figures `json:"buses"`
	Verdict []string   `json:"verdict"`
	Waiting []string   `json:"waiting"`
}

// system is where it was measured.
type system struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

func thisSystem() system {
	return system{runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), runtime.Version()}
}

// sound reports whether each bus was measured to the end and kept what it promises.
func (r *report) sound() bool {
	for _, f := range r.Buses {
		if f.Error != "" || f.astray() > 0 {
			return false
		}
	}
	return true
}

func (r *report) write(cmd *command) error {
	if !cmd.json {
		_, err := io.WriteString(cmd.stdout, r.text())
		return err
	}
	e := json.NewEncoder(cmd.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
