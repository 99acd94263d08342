// Package bridge is the command jitney bridge: it copies streams from one bus to another, as migrate.Bridge does, and tells
// whether both hold the same.
package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
	"github.com/jitney-go/jitney/internal/arguments"
)

const (
	same      = 0
	different = 1 // or it couldn't be found out
	unable    = 2 // nothing was copied
)

// Main runs the command and returns its exit status.
func Main(name string, args []string) int {
	cmd := command{name: name, stdout: os.Stdout, stderr: os.Stderr}
	help, err := cmd.parse(args)
	switch {
	case help:
		return same
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return unable
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	status, err := cmd.run(signals)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, plain(err))
	}
	return status
}

// plain is an error without the name of the package, which this command's stands for.
func plain(err error) string { return strings.TrimPrefix(err.Error(), "migrate: bridge: ") }

type command struct {
	name           string
	stdout, stderr io.Writer

	from, to string
	streams  []string
	follow   bool
	skip     bool
	json     bool
}

func (cmd *command) parse(args []string) (help bool, err error) {
	flags := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	flags.StringVar(&cmd.from, "from", "", "copy from the bus at `URL`: a stopped program's nats:DIR, or nats://HOST:PORT")
	flags.StringVar(&cmd.to, "to", "", "copy to the bus at `URL`")
	streams := flags.String("streams", "", "copy the streams of these `NAMES`, separated by commas (default all)")
	flags.BoolVar(&cmd.follow, "follow", false, "copy also what is published meanwhile, until Ctrl-C or SIGTERM, and then cut over")
	flags.BoolVar(&cmd.skip, "skip-too-large", false, "leave out messages that are too large for -to, instead of stopping at the first")
	flags.BoolVar(&cmd.json, "json", false, "write the summary as one JSON object")
	if help, err := arguments.Parse(flags, args, usage, cmd.stdout); help || err != nil {
		return help, err
	}
	if cmd.from == "" || cmd.to == "" {
		return false, errors.New("want both -from URL and -to URL; -h shows how")
	}
	for name := range strings.SplitSeq(*streams, ",") {
		if name = strings.TrimSpace(name); name != "" {
			cmd.streams = append(cmd.streams, name)
		}
	}
	return false, cmd.check()
}

// check finds out what is wrong before anything is opened: that would make a directory.
func (cmd *command) check() error {
	switch {
	case strings.HasPrefix(cmd.from, "mem:"):
		return errors.New("-from mem: what is in memory only its own program can read: run migrate.Bridge in it (go doc github.com/jitney-go/jitney/bus/migrate.Bridge)")
	case strings.HasPrefix(cmd.to, "mem:"):
		return errors.New("-to mem: what is copied into memory is gone when this command ends: run migrate.Bridge in the program that is to have it")
	}
	from, isDir := storeDir(cmd.from)
	if to, ok := storeDir(cmd.to); ok && isDir && from == to || cmd.from == cmd.to {
		return errors.New("-from and -to are the same")
	}
	if !isDir {
		return nil
	}
	if cmd.follow && !strings.Contains(cmd.from, "listen=") {
		return fmt.Errorf("-follow: nobody else can publish to %s while this command has it open: leave -follow out, or follow the running program's server (-from nats://HOST:PORT)", from)
	}
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("-from: there is no store: %w", err)
	}
	// Where a NATS server keeps its streams. Opening another directory would make a store of it.
	if _, err := os.Stat(filepath.Join(from, "jetstream")); err != nil || !info.IsDir() {
		return fmt.Errorf("-from: %s is no store: it holds no streams (want the directory of the program's nats:DIR)", from)
	}
	return nil
}

// storeDir is the directory of nats:DIR.
func storeDir(url string) (dir string, ok bool) {
	rest, found := strings.CutPrefix(url, "nats:")
	if !found || strings.HasPrefix(rest, "//") {
		return "", false
	}
	if dir, _, _ = strings.Cut(rest, "?"); dir == "" {
		return "", false
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return dir, true
}

const openTimeout = 30 * time.Second

func (cmd *command) run(signals <-chan os.Signal) (status int, err error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	show := newShow(cmd.stderr, cmd.name)
	from, err := cmd.open(ctx, "-from", cmd.from, show)
	if err != nil {
		return unable, err
	}
	if err := cmd.checkStreams(ctx, from); err != nil { // before -to is made
		return unable, errors.Join(err, closeBus(from))
	}
	to, err := cmd.open(ctx, "-to", cmd.to, show)
	if err != nil {
		return unable, errors.Join(err, closeBus(from))
	}
	report, err := cmd.copy(ctx, cancel, from, to, signals, show)
	show.end()
	// Only what was closed is on the disk for sure.
	if closeErr := errors.Join(closeBus(to), closeBus(from)); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close: %w", closeErr))
	}
	report.From, report.To = bus.Redacted(cmd.from), bus.Redacted(cmd.to)
	if report.Same = err == nil; err != nil {
		report.Error = err.Error()
	}
	if writeErr := report.write(cmd.stdout, cmd.json); writeErr != nil {
		return different, errors.Join(err, writeErr)
	}
	if err != nil {
		return different, err
	}
	return same, nil
}

func (cmd *command) open(ctx context.Context, flag, url string, show *show) (bus.Bus, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	b, err := bus.Open(ctx, url, bus.WithLogger(show.logger()), bus.OnError(show.problem))
	if errors.Is(err, bus.ErrLocked) {
		return nil, fmt.Errorf("%s: %w. Either that program is stopped first, or it is started with ?listen=127.0.0.1:4222 behind its "+
			"directory and reached as nats://127.0.0.1:4222", flag, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return b, nil
}

func closeBus(b bus.Bus) error {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	return b.Close(ctx)
}

// checkStreams says which of the streams -from doesn't have.
func (cmd *command) checkStreams(ctx context.Context, from bus.Bus) error {
	streams, err := list(ctx, from)
	if err != nil {
		return err
	}
	var there []string
	for _, s := range streams {
		there = append(there, s.Config.Name)
	}
	if len(there) == 0 {
		return fmt.Errorf("-from: %s holds no streams: is it the right one?", bus.Redacted(cmd.from))
	}
	for _, name := range cmd.streams {
		if !slices.Contains(there, name) {
			return fmt.Errorf("-streams: -from has no stream %q, but %s", name, strings.Join(there, ", "))
		}
	}
	return nil
}

func list(ctx context.Context, from bus.Bus) ([]bus.StreamInfo, error) {
	lister, ok := from.(bus.StreamLister)
	if !ok {
		return nil, fmt.Errorf("-from: it can't list its streams: %w", bus.ErrUnsupported)
	}
	streams, err := lister.Streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("-from: %w", err)
	}
	return streams, nil
}

var errInterrupted = errors.New("interrupted; nothing is lost: the same command goes on from here")

// copy copies until both ends hold the same, or says why they don't.
func (cmd *command) copy(ctx context.Context, cancel context.CancelCauseFunc, from, to bus.Bus, signals <-chan os.Signal, show *show) (r report, err error) {
	b := migrate.NewBridge(from, to, migrate.BridgeConfig{
		Streams: cmd.streams, SkipTooLarge: cmd.skip, OnProgress: show.progress, OnError: show.problem,
	})
	if cmd.follow {
		r.Streams, err = cmd.followAndCutOver(ctx, cancel, b, signals, show)
		return r, err
	}
	defer endedBy(signals, cancel)()
	if err := b.Copy(ctx); err != nil {
		return r, err
	}
	if r.Streams, err = b.Verify(ctx); err != nil {
		return r, err
	}
	return r, errors.Join(differences(r.Streams), moved(ctx, from, r.Streams))
}

// endedBy cancels at the next signal, until stop.
func endedBy(signals <-chan os.Signal, cancel context.CancelCauseFunc) (stop func()) {
	var watching sync.WaitGroup
	through := make(chan struct{})
	watching.Go(func() {
		select {
		case <-signals:
			cancel(errInterrupted)
		case <-through:
		}
	})
	return func() {
		close(through)
		watching.Wait()
	}
}

func differences(summaries []migrate.Summary) error {
	var all []error
	for i := range summaries {
		all = append(all, summaries[i].Err())
	}
	return errors.Join(all...)
}

// moved says that the source has got more since it was copied.
func moved(ctx context.Context, from bus.Bus, summaries []migrate.Summary) error {
	streams, err := list(ctx, from)
	if err != nil {
		return err
	}
	for _, s := range streams {
		for i := range summaries {
			if summaries[i].Stream == s.Config.Name && s.Last != summaries[i].At {
				return fmt.Errorf("stream %s: more has been published to -from since: stop the publishers and run this again, or use -follow", s.Config.Name)
			}
		}
	}
	return nil
}

// followAndCutOver copies until the first signal, and then what is left; the second one ends it.
func (cmd *command) followAndCutOver(ctx context.Context, cancel context.CancelCauseFunc, b *migrate.Bridge, signals <-chan os.Signal, show *show) ([]migrate.Summary, error) {
	followed := make(chan error, 1)
	go func() { followed <- b.Follow(ctx) }()
	show.line("following; when it has caught up, stop the publishers, and then press Ctrl-C to cut over")
	select {
	case err := <-followed:
		return nil, err
	case <-signals:
	}
	show.line("cutting over: it waits until nothing more is published to -from; a second Ctrl-C gives up")
	stop := endedBy(signals, cancel)
	summaries, err := b.CutOver(ctx)
	stop()
	if err != nil {
		cancel(err) // Follow may go on otherwise
	}
	return summaries, errors.Join(err, <-followed)
}

// report is what it has come to.
type report struct {
	From    string            `json:"from"`
	To      string            `json:"to"`
	Same    bool              `json:"same"`
	Error   string            `json:"error,omitempty"`
	Streams []migrate.Summary `json:"streams"`
}

func (r *report) write(w io.Writer, asJSON bool) error {
	if asJSON {
		if r.Streams == nil {
			r.Streams = []migrate.Summary{}
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	var b strings.Builder
	for i := range r.Streams {
		s := &r.Streams[i]
		if s.Err() == nil {
			fmt.Fprintf(&b, "%s: %s, the same at both ends (sum %s), %d copied now\n", s.Stream, messages(s.Destination.Messages), s.Destination.Sum, s.Copied)
		} else {
			fmt.Fprintf(&b, "%s: DIFFERENT: %d messages to copy at -from (sum %s), %d copies at -to (sum %s), %d copied now\n",
				s.Stream, s.Source.Messages, s.Source.Sum, s.Destination.Messages, s.Destination.Sum, s.Copied)
		}
		if s.Loops > 0 {
			fmt.Fprintf(&b, "  %d messages of -from came from -to and are there already\n", s.Loops)
		}
		for _, g := range s.Gaps {
			fmt.Fprintf(&b, "  the limits of -from discarded messages before they were copied: after %q, before %q\n", g.After, g.Before)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func messages(n uint64) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}
