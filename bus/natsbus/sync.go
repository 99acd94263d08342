package natsbus

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/internal/share"
)

// Levels of Config.Sync beside an interval from 10ms to 2m, at which all files are synced.
const (
	// SyncAlways has a publish return when the disk has the message; one sync serves all that wait.
	SyncAlways time.Duration = -1
	// SyncFast leaves it to the system when the disk gets what was written, two minutes at most: JetStream's default.
	SyncFast = 2 * time.Minute
)

const leastInterval = 10 * time.Millisecond

var defaultInterval = 100 * time.Millisecond // a minute under the race detector: race.go

// syncLevel says when the disk has what is acknowledged.
type syncLevel struct {
	interval time.Duration // the files are synced so often
	always   bool          // a publish waits for the disk
}

func newSyncLevel(sync time.Duration) (syncLevel, error) {
	switch {
	case sync == 0:
		return syncLevel{interval: defaultInterval}, nil
	case sync == SyncAlways:
		return syncLevel{interval: defaultInterval, always: true}, nil
	case sync < leastInterval || sync > SyncFast:
		return syncLevel{}, badSync(sync.String())
	}
	return syncLevel{interval: sync}, nil
}

func badSync(text string) error {
	return fmt.Errorf("parameter %q is %q: want fast, always, or a duration from %s to %s, such as 100ms", "sync", text, leastInterval, SyncFast)
}

// parseSync reads a level as a URL has it.
func parseSync(text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case "fast":
		return SyncFast, nil
	case "always":
		return SyncAlways, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, badSync(text)
	}
	return d, nil
}

// disk brings what the server has written to the disk: one sync for all who wait.
type disk struct {
	dir  *os.File
	call share.Call[struct{}]
}

func openDisk(path string) (*disk, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d := &disk{dir: dir}
	d.call.Ask = func() (struct{}, error) { return struct{}{}, syncStore(dir) }
	return d, nil
}

// sync returns when all that was written before the call is on the disk.
func (d *disk) sync(ctx context.Context) error {
	_, err := d.call.Get(ctx)
	return err
}

// synced waits for the disk after an acknowledgement, if the level says so.
func (b *backend) synced(ctx context.Context) error {
	if b.server == nil || !b.server.level.always || !groupCommit {
		return nil
	}
	b.mu.Lock()
	calls := b.calls
	b.mu.Unlock()
	bounded, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(calls, func() { cancel(context.Cause(calls)) })()
	err := b.server.disk.sync(bounded)
	switch {
	case err == nil:
		return nil
	case bounded.Err() != nil:
		return unknown(context.Cause(bounded))
	}
	return unknown(fmt.Errorf("%w: the disk didn't take it: %w", bus.ErrUnavailable, err))
}
