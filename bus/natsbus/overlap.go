package natsbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// The server looks whether a new stream overlaps another one, but not at those that other clients create in the same
// moment (nats-server 2.15, addStreamWithAssignment): both are told that all is well. So a stream that several processes
// may create is marked at first, and its maker looks again. Of two that are marked the later one gives way; one whose
// mark is gone stays. Who finds a mark waits.
const (
	undecidedKey = "jitney-undecided"
	// decidePause lies between two looks. A mark that is older than decideWithin is of a process that has died.
	decidePause  = 20 * time.Millisecond
	decideWithin = 5 * time.Second
)

// errUndecided: look again.
var errUndecided = errors.New("another process is about to decide about a stream")

func (i *streamInfo) undecided() bool {
	return i.Config.Metadata[undecidedKey] != "" && i.Now.Sub(i.Created) < decideWithin
}

// decide keeps the stream that was just made here, or gives way to another one.
func (b *backend) decide(ctx context.Context, name string) error {
	pause := time.NewTicker(decidePause)
	defer pause.Stop()
	for {
		made, raw, err := b.rawInfo(ctx, name)
		if errors.Is(err, driver.ErrNotCaptured) {
			return errUndecided // somebody has removed it
		}
		if err != nil {
			return err
		}
		other, err := b.overlapping(ctx, b.stream(made).Config)
		switch {
		case err != nil:
			return err
		case other == nil:
			if err := b.unmark(ctx, name, raw); !errors.Is(err, bus.ErrStreamOverlap) {
				return err
			}
			// The server looks again: another one has come to light.
		case !other.undecided(), made.Created.After(other.Created), made.Created.Equal(other.Created) && name > other.Config.Name:
			return b.giveWay(ctx, made, other.Config.Name)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// overlapping finds another stream that captures what cfg captures.
func (b *backend) overlapping(ctx context.Context, cfg bus.StreamConfig) (*streamInfo, error) {
	for _, subject := range cfg.Subjects {
		names, err := b.Find(ctx, subject)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if name == cfg.Name {
				continue
			}
			info, err := b.info(ctx, name)
			if !errors.Is(err, driver.ErrNotCaptured) {
				return info, err
			}
		}
	}
	return nil, nil
}

// unmark says that a stream stays.
func (b *backend) unmark(ctx context.Context, name string, raw json.RawMessage) error {
	config, err := decodeConfig(raw)
	if err != nil {
		return err
	}
	if metadata, ok := config["metadata"].(map[string]any); ok {
		delete(metadata, undecidedKey)
	}
	return b.ask(ctx, "$JS.API.STREAM.UPDATE."+name, config, nil)
}

// giveWay takes the stream away again, as long as it is empty.
func (b *backend) giveWay(ctx context.Context, made *streamInfo, other string) error {
	refused := fmt.Errorf("%w with stream %q, which was created in the same moment", bus.ErrStreamOverlap, other)
	if made.State.Last > 0 {
		return fmt.Errorf("%w; both hold messages now, so remove one of them", refused)
	}
	if err := b.Remove(ctx, made.Config.Name); err != nil && !errors.Is(err, driver.ErrNotCaptured) {
		return errors.Join(refused, err)
	}
	return refused
}

// decodeConfig reads a stream's config whole, with an operator's numbers as they were.
func decodeConfig(raw json.RawMessage) (map[string]any, error) {
	config := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	return config, decoder.Decode(&config)
}
