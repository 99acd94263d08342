// Package conformance is the conformance suite as a command.
//
// Command jitney has it as a subcommand, for the backends of this module. The author of
// another one has it in a main.go of a few lines:
//
//	package main
//
//	import (
//		"os"
//
//		"github.com/jitney-go/jitney/bustest/conformance"
//		_ "example.com/mine/minebus" // registers its scheme
//	)
//
//	func main() { os.Exit(conformance.Main("mine", os.Args[1:])) }
//
// The suite as a test, with a harness that says what the backend promises, is bustest.Run;
// here the abilities are found out by trying, as bustest.Probe does.
//
// # Where the buses live
//
// In the URL, {dir} stands for a fresh directory of each check's own. A URL without it whose
// scheme is followed by a path, such as nats:./data/x, is a directory in which they are made
// (another store in it isn't touched). All others, such as mem: and nats://host:4222, are
// opened as they are: there, each check has subjects and streams of its own, and what it has
// created is removed through bus.Remover, or named at the end if that fails.
//
// # The JSON lines
//
// With -json, each line on standard output is an object with the field "event":
//
//	start   bus, seed, count, checks (how many run in each round), claims, max_payload,
//	        tick_ms, findings (ability, has, why)
//	result  round (from 1), seed, check (name, rule, and if not empty needs, lacks, origin),
//	        status (passed, failed, not claimed, not run), reason (if it hasn't passed), duration_ns,
//	        left (streams that couldn't be removed; not there if empty)
//	end     passed, failed, skipped (not claimed and not run), interrupted, duration_ns,
//	        left (of all results)
//
// A run that can't begin writes nothing there, but an error to standard error.
package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest"
	"github.com/jitney-go/jitney/internal/arguments"
	"github.com/jitney-go/jitney/internal/place"
	"github.com/jitney-go/jitney/internal/terminal"
)

// Exit statuses.
const (
	exitPassed  = 0
	exitFailed  = 1 // a check has failed or, after a signal, wasn't run
	exitNothing = 2 // wrong usage, or the bus can't be opened: nothing was checked
)

// Main runs the command with the arguments that follow its name, which it has in its
// messages. It returns the exit status: 0 when no check has failed, 1 when one has or a
// signal (interrupt or SIGTERM) came before the end, 2 when nothing could be checked. A
// second signal kills the process.
//
// The checks that kill a process start this program again with the same arguments, so a
// program must do nothing else before Main that disturbs.
func Main(name string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
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

	url     string
	json    bool
	match   string
	count   int
	seed    uint64
	verbose bool
	claim   string
}

const usage = `Usage: %s -bus URL [flags]

Checks a bus against the contract of package bus, and exits with 1 if it breaks it.

`

func (cmd *command) parse(args []string) (help bool, err error) {
	flags := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	flags.Func("bus", "check the bus at `URL`: mem:, nats:./data/x, nats://127.0.0.1:4222;\n"+
		"{dir} in it is a fresh directory for each check", func(url string) error {
		if cmd.url != "" {
			return errors.New("it is there twice, and one bus is checked")
		}
		cmd.url = url
		return nil
	})
	flags.StringVar(&cmd.claim, "claim", "", "check these `ABILITIES`, too, even if the bus seems to lack them, such as\nTotalOrder,Durable; or all")
	flags.IntVar(&cmd.count, "count", 1, "run everything `N` times, each with another seed")
	flags.BoolVar(&cmd.json, "json", false, "write a JSON object per line instead of text")
	flags.StringVar(&cmd.match, "run", "", "run the checks whose name matches `REGEXP`")
	flags.Uint64Var(&cmd.seed, "seed", 0, "repeat the random choices of `SEED`, which a failure prints (default a new one)")
	flags.BoolVar(&cmd.verbose, "v", false, "show rules, durations, and reasons in full")
	if help, err := arguments.Parse(flags, args, usage, cmd.stdout); help || err != nil {
		return help, err
	}
	switch {
	case cmd.url == "":
		return false, errors.New("no bus: want -bus URL, such as -bus mem: or -bus nats:{dir}")
	case cmd.count < 1:
		return false, fmt.Errorf("-count %d: want 1 or more", cmd.count)
	}
	return false, nil
}

// harness is what the flags say about the bus, before it is probed.
func (cmd *command) harness(ctx context.Context, p *place.Place) (bustest.Harness, error) {
	h := bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) { return bus.Open(e.Context(), p.In(e.Dir), e.Options...) },
		// One that a signal reaches late is killed with the program.
		Child: func(check string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, os.Args[0], os.Args[1:]...)
			if self, err := os.Executable(); err == nil {
				cmd.Path = self
			}
			return cmd
		},
		TempDir: p.Parent(),
	}
	if cmd.match != "" {
		match, err := regexp.Compile(cmd.match)
		if err != nil {
			return h, fmt.Errorf("-run %q: %w", cmd.match, err)
		}
		if !slices.ContainsFunc(bustest.Checks(), func(c bustest.Check) bool { return match.MatchString(c.Name) }) {
			return h, fmt.Errorf("-run %q matches no check", cmd.match)
		}
		h.Match = match
	}
	switch cmd.claim {
	case "":
	case "all":
		h.Claims = bustest.Abilities()
	default:
		for a := range strings.SplitSeq(cmd.claim, ",") {
			ability := bustest.Ability(strings.TrimSpace(a))
			if !slices.Contains(bustest.Abilities(), ability) {
				return h, fmt.Errorf("-claim %q: want some of %v, with commas, or all; the rest is found out by trying", a, bustest.Abilities())
			}
			h.Claims = append(h.Claims, ability)
		}
	}
	return h, nil
}

// explain adds to the error of Open what has been opened and how else it can be said.
func explain(err error, p *place.Place) error {
	switch {
	case p.Parent() != "":
		return fmt.Errorf("%w (each check has a directory of its own in %s; with %s in the URL you say where it goes)", err, p.Parent(), place.Dir)
	case errors.Is(err, bus.ErrLocked):
		return fmt.Errorf("%w; in a URL, %s is a fresh directory for each check", err, place.Dir)
	}
	return err
}

// childOf is set in the environment of a process that a check has started: its name and
// the abilities that have been found out.
const childOf = "JITNEY_CONFORMANCE_CHILD"

func (cmd *command) run(ctx context.Context, args []string) (status int, err error) {
	if help, err := cmd.parse(args); help {
		return exitPassed, nil
	} else if err != nil {
		return exitNothing, err
	}
	p := place.Of(cmd.url)
	h, err := cmd.harness(ctx, p)
	if err != nil {
		return exitNothing, err
	}
	if task := os.Getenv(childOf); task != "" {
		runChild(ctx, h, task)
		return exitPassed, nil
	}
	if err := p.Make(); err != nil {
		return exitNothing, fmt.Errorf("-bus %s: %w", bus.Redacted(cmd.url), err)
	}
	defer func() {
		if left := p.Remove(); left != nil {
			err = errors.Join(err, left)
		}
	}()
	insisted := h.Claims
	trial, err := bustest.Probe(ctx, h)
	if err != nil {
		if len(trial.Left) > 0 {
			err = fmt.Errorf("%w; these streams stay on the bus: %s", err, strings.Join(trial.Left, "; "))
		}
		if errors.Is(err, bus.ErrUnknownScheme) {
			_, err = bus.Open(ctx, cmd.url) // says it of the URL as it was given, and opens nothing
			return exitNothing, err
		}
		return exitNothing, explain(err, p)
	}
	return cmd.examine(ctx, trial, insisted), nil
}

// runChild does the part of a check that is done by a process of its own.
func runChild(ctx context.Context, h bustest.Harness, task string) {
	name, claims, _ := strings.Cut(task, " ")
	h.Match, h.Claims = regexp.MustCompile("^"+regexp.QuoteMeta(name)+"$"), nil
	for a := range strings.FieldsSeq(claims) {
		h.Claims = append(h.Claims, bustest.Ability(a))
	}
	// Whoever has started this process reads what the check prints.
	bustest.Examine(ctx, h)
}

// examine runs the suite as often as was asked for.
func (cmd *command) examine(ctx context.Context, trial bustest.Trial, insisted []bustest.Ability) int {
	began := time.Now()
	h := trial.Harness
	start := h.Child
	var claims []string
	for _, a := range h.Claims {
		claims = append(claims, string(a))
	}
	h.Child = func(check string) *exec.Cmd {
		child := start(check)
		child.Env = append(child.Environ(), childOf+"="+check+" "+strings.Join(claims, " "))
		return child
	}
	seed := cmd.seed
	if seed == 0 {
		seed = uint64(began.UnixNano()) >> 8 // short enough to be typed
	}
	var out output = &text{cmd: cmd, w: cmd.stdout, overwrites: terminal.Overwrites(cmd.stdout)}
	if cmd.json {
		out = &lines{w: cmd.stdout}
	}
	s := summary{bus: bus.Redacted(cmd.url), seed: seed, count: cmd.count, trial: trial, insisted: insisted}
	out.start(s)
	for round := 1; round <= cmd.count && ctx.Err() == nil; round++ {
		h.Seed = seed + uint64(round-1)
		h.Before = func(c bustest.Check) { out.check(round, c) }
		h.After = func(r bustest.Result) { out.result(round, h.Seed, r) }
		s.reports = append(s.reports, bustest.Examine(ctx, h))
	}
	s.took, s.interrupted = time.Since(began), ctx.Err() != nil
	out.end(s)
	if s.interrupted || s.total(bustest.Failed) > 0 {
		return exitFailed
	}
	return exitPassed
}
