package natsbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/internal/share"
)

// Levels of Config.Sync beside an interval from 10ms to 2m, at which all files are synced.
const (
	// SyncAlways has a publish return when the disk has the message; one sync serves all that wait, except in a cluster, where others
	// can reach the server, and on Windows: there the server syncs each message by itself.
	SyncAlways time.Duration = -1
	// SyncFast leaves it to the system when the disk gets what was written, two minutes at most: JetStream's default.
	SyncFast = 2 * time.Minute
)

// canGroupCommit says that this package syncs for those who wait, many at a time. Windows doesn't let the server
// replace a file that somebody else has open: there it syncs each message by itself.
const canGroupCommit = runtime.GOOS != "windows"

// groupCommits reports whether this package syncs for those who wait, with SyncAlways: it sees what is acknowledged to this process,
// and nothing else of what the server does.
func (c *Config) groupCommits() bool { return canGroupCommit && c.Cluster == nil && !c.listens() }

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
	dir    *os.File
	call   share.Call[struct{}]
	failed func(err error) // told of each sync that has

	mu     sync.Mutex // while it syncs, so that dir stays open
	closed bool
}

func openDisk(path string, failed func(err error)) (*disk, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d := &disk{dir: dir, failed: failed}
	d.call.Ask = func() (struct{}, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed {
			return struct{}{}, bus.ErrClosed // who asked has gone
		}
		return struct{}{}, d.trySync()
	}
	return d, nil
}

func (d *disk) trySync() error {
	err := syncStore(d.dir)
	if err != nil {
		d.failed(err) // whoever asked may have gone
	}
	return err
}

// close syncs a last time.
func (d *disk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return errors.Join(d.trySync(), d.dir.Close())
}

// sync returns when all that was written before the call is on the disk.
func (d *disk) sync(ctx context.Context) error {
	_, err := d.call.Get(ctx)
	return err
}

// commits is where publishes wait for the disk; nil if the level says that they needn't.
func (b *backend) commits() *commits {
	if b.server == nil {
		return nil
	}
	return b.server.commits
}

// synced returns x when the disk has what its stream holds, if the level says so.
func (b *backend) synced(ctx context.Context, x answer) answer {
	commits := b.commits()
	if commits == nil {
		return x
	}
	w := waiters.Get().(*waiter)
	x.token, _ = b.acks.begin(w, ackTimeout)
	commits.of(x.stream).add(x)
	return b.acks.wait(ctx, x.token, w)
}
