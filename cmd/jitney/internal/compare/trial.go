package compare

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/internal/place"
)

const (
	probeTimeout = 20 * time.Second // of opening a bus for the first time
	cleanTimeout = 10 * time.Second
)

// trial is one bus that is compared.
type trial struct {
	url   string
	place *place.Place
	id    string   // of its streams and subjects
	root  string   // of its directories; empty: it has none
	made  []string // streams that may be on the bus
}

func newTrial(url string) *trial {
	own := url
	// Alone, it stands for ./data/nats, which may be somebody's.
	if url == "nats:" || strings.HasPrefix(url, "nats:?") {
		own = "nats:" + place.Dir + strings.TrimPrefix(url, "nats:")
	}
	return &trial{url: url, place: place.Of(own), id: strings.ToLower(rand.Text()[:8])}
}

// name is the bus as it is shown.
func (t *trial) name() string { return bus.Redacted(t.url) }

// part is the task of one part of the load, which has a stream, and where the bus has one a directory, of its own.
func (t *trial) part(do, part string, l load) task {
	return task{
		Do: do, URL: t.place.In(filepath.Join(t.root, part)), Load: l,
		Stream: "COMPARE_" + t.id + "_" + part, Prefix: "compare." + t.id + "." + part,
	}
}

// The parts of a trial.
const (
	probing  = "probe"
	loading  = "load"
	crashing = "kill"
)

// prepare makes the directories and finds out whether the bus can be opened and has streams.
func (t *trial) prepare(ctx context.Context) error {
	if err := t.place.Make(); err != nil {
		return err
	}
	if t.place.InDir() {
		root, err := os.MkdirTemp(t.place.Parent(), "jitney-compare-")
		if err != nil {
			return err
		}
		t.root = root
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p := t.part("", probing, load{})
	b, err := bus.Open(ctx, p.URL)
	if err != nil {
		return err
	}
	err = b.EnsureStreams(ctx, stream(p.Stream, p.Prefix))
	if err == nil {
		t.made = append(t.made, p.Stream)
	}
	return errors.Join(err, b.Close(ctx))
}

// measure gives the bus its load.
func (t *trial) measure(ctx context.Context, cmd *command) *figures {
	f := &figures{}
	t.made = append(t.made, t.part("", loading, load{}).Stream, t.part("", crashing, load{}).Stream)
	result, err := cmd.do(ctx, t.part(doLoad, loading, cmd.load), func(phase string) { cmd.progress(t.name(), phase) })
	if err == nil {
		f = result.Figures
		cmd.progress(t.name(), "kill")
		f.Kill, err = t.kill(ctx, cmd)
	}
	f.Bus, f.Elsewhere = t.name(), t.place.Elsewhere()
	if err != nil {
		f.Error = err.Error()
	}
	return f
}

// kill has a process publish, kills it, and has another one look for what was acknowledged.
func (t *trial) kill(ctx context.Context, cmd *command) (*kill, error) {
	p, err := cmd.start(ctx, t.part(doKill, crashing, cmd.load))
	if err != nil {
		return nil, err
	}
	count := t.part(doCount, crashing, cmd.load)
	count.Acked = make([]int, killed)
	var k kill
	for {
		s, err := p.next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(err, p.end())
		}
		if k.Acknowledged == 0 {
			end := time.AfterFunc(cmd.load.killAfter(), p.kill)
			defer end.Stop()
		}
		k.Acknowledged++
		count.Acked[s.Acked.Robot] = s.Acked.N + 1
	}
	ended := p.end()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case k.Acknowledged == 0:
		return nil, errors.Join(errors.New("the process that was to be killed has ended early"), ended)
	}
	result, err := cmd.do(ctx, count, func(string) {})
	if err != nil {
		return nil, fmt.Errorf("after the kill: %w", err)
	}
	k.Lost = k.Acknowledged - *result.Present
	return &k, nil
}

// clean takes away what the trial has made. Its error says what stays.
func (t *trial) clean(ctx context.Context) error {
	var errs []error
	switch {
	case t.root != "":
		errs = append(errs, os.RemoveAll(t.root))
	case len(t.made) > 0:
		errs = append(errs, t.removeStreams(ctx))
	}
	return errors.Join(append(errs, t.place.Remove())...)
}

func (t *trial) removeStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	b, err := bus.Open(ctx, t.place.In(""))
	if err != nil {
		return fmt.Errorf("these streams stay: %s: %w", strings.Join(t.made, ", "), err)
	}
	var errs []error
	for _, name := range t.made {
		err := fmt.Errorf("remove a stream: %w", bus.ErrUnsupported)
		if remover, ok := b.(bus.Remover); ok {
			err = remover.RemoveStream(ctx, name)
		}
		if err != nil && !errors.Is(err, bus.ErrNoStream) {
			errs = append(errs, fmt.Errorf("the stream %s stays on %s: %w", name, t.name(), err))
		}
	}
	return errors.Join(append(errs, b.Close(ctx))...)
}
