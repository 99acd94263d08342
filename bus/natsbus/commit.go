package natsbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// gatherTime is how long those who could be synced wait for others at most.
const gatherTime = 500 * time.Microsecond

// commits is the group commit: whoever waits for the disk waits together with the others of the stream.
type commits struct {
	dir    string                // of the streams, each in a directory of its own
	all    func() error          // syncs the whole store
	settle func(stored []answer) // tells those who wait
	failed func(err error)       // is told that a sync has failed
	broken func() error          // why the store doesn't work, if it doesn't

	mu      sync.RWMutex
	streams map[string]*commit
}

// groupCommit has publishes wait together for the disk; settle tells them.
func (e *embedded) groupCommit(settle func(stored []answer)) {
	if !e.level.always || !e.cfg.groupCommits() {
		return
	}
	e.commits = &commits{
		dir:    e.streamsDir(),
		all:    func() error { return e.disk.sync(context.Background()) },
		settle: settle, failed: e.syncFailed, broken: e.failure, streams: map[string]*commit{},
	}
}

// of returns where the publishes of a stream wait.
func (c *commits) of(stream string) *commit {
	c.mu.RLock()
	one := c.streams[stream]
	c.mu.RUnlock()
	if one != nil {
		return one
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if one = c.streams[stream]; one == nil {
		path := filepath.Join(c.dir, stream, "msgs")
		one = &commit{of: c, blocks: blocks{path: path, all: c.all}, enough: make(chan struct{}, 1)}
		c.streams[stream] = one
	}
	return one
}

// forget has the whole store synced before single streams are again. It returns when no sync runs any more.
func (c *commits) forget() {
	c.mu.Lock()
	forgotten := c.streams
	c.streams = map[string]*commit{}
	c.mu.Unlock()
	for _, one := range forgotten {
		one.close()
	}
}

// remove ends the commit of a stream that is gone, whose files would stay on the disk while they are open.
func (c *commits) remove(stream string) {
	c.mu.Lock()
	one := c.streams[stream]
	delete(c.streams, stream)
	c.mu.Unlock()
	if one != nil {
		one.close()
	}
}

// commit is where the publishes of one stream wait for the disk: one sync serves all whose messages the server has written
// before it. It begins when half of those who are on their way have come: they then take turns, some being
// published while the others are synced, and there are fewer syncs, which take time of the processor, too.
type commit struct {
	of     *commits
	blocks blocks
	coming atomic.Int64 // publishes that haven't got here
	err    error        // of the first sync that failed: a second one would succeed, whose pages the system has given up. Of run

	mu      sync.Mutex
	stored  []answer // that wait
	enough  chan struct{}
	running sync.WaitGroup
	busy    bool
	closed  bool
}

// add has x told when the disk has its message. It doesn't wait.
func (c *commit) add(x answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		x.err = unknown(fmt.Errorf("%w: the store has been closed since", bus.ErrUnavailable))
		go c.of.settle([]answer{x})
		return
	}
	c.stored = append(c.stored, x)
	if !c.busy {
		c.busy = true
		c.running.Go(c.run)
		return
	}
	select {
	case c.enough <- struct{}{}:
	default:
	}
}

func (c *commit) run() {
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	var batch []answer
	for {
		c.gather(timer)
		c.mu.Lock()
		batch, c.stored = c.stored, batch[:0]
		c.busy = len(batch) > 0
		c.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		if err := c.sync(); err != nil {
			for i := range batch {
				batch[i].err = unknown(err)
			}
		}
		c.of.settle(batch)
	}
}

// sync is the last one when it fails: healing begins another commit.
func (c *commit) sync() error {
	if c.err == nil {
		if err := c.blocks.sync(); err != nil {
			c.err = fmt.Errorf("%w: the disk didn't take it: %w", bus.ErrUnavailable, err)
			c.of.failed(err)
		}
	}
	if c.err != nil {
		return c.err
	}
	return c.of.broken() // the server was told in our place; healing ends that without another commit where this one has begun meanwhile
}

// gather returns when half of those who are on their way have come, or it has waited long enough.
func (c *commit) gather(timer *time.Timer) {
	timer.Reset(gatherTime)
	for {
		c.mu.Lock()
		n := len(c.stored)
		c.mu.Unlock()
		if n == 0 || int64(n) >= c.coming.Load() {
			return
		}
		select {
		case <-c.enough:
		case <-timer.C:
			return
		}
	}
}

// close ends it when those who wait have their answer.
func (c *commit) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.running.Wait()
	c.blocks.close()
}

// blocks are the files in which the server stores a stream's messages: NUMBER.blk. It appends to the one with the highest
// number alone, so that none is dirty which was below the highest at the last sync.
type blocks struct {
	path string
	all  func() error // syncs the whole store

	dir     *os.File  // nil: nothing is known. It stays open, so that no other one is taken for it
	read    time.Time // when its names were read last
	changed time.Time // when they had last changed then
	high    int       // the highest number of a file
	file    *os.File  // of that number. It stays open: that a write has failed is told once, to all who had the file open
}

// clockTick is more than what a file system's clock may be behind.
const clockTick = 100 * time.Millisecond

// sync returns when the disk has all that was written to the files before the call.
func (b *blocks) sync() error {
	err := b.syncWhatIsNew()
	if err != nil {
		b.close()
	}
	return err
}

func (b *blocks) syncWhatIsNew() error {
	now, err := os.Stat(b.path)
	if err != nil || !isAt(b.dir, b.path) { // the stream is new to us, or gone
		return b.syncAll()
	}
	if b.file != nil && now.ModTime().Equal(b.changed) && b.read.Sub(b.changed) > clockTick {
		return b.file.Sync() // no file has come, gone or been replaced
	}
	from := b.high
	numbers, err := b.list()
	if err != nil || b.high < from { // they are numbered anew
		return b.syncAll()
	}
	for _, n := range numbers {
		if n >= from {
			err = errors.Join(err, b.syncFile(n))
		}
	}
	return errors.Join(err, b.dir.Sync())
}

// syncAll syncs the whole store, after which the directory is known, if it is there.
func (b *blocks) syncAll() (err error) {
	b.close()
	if b.dir, err = os.Open(b.path); err == nil {
		_, err = b.list()
	}
	if err != nil {
		b.close()
	}
	return b.all()
}

// list reads which files there are.
func (b *blocks) list() (numbers []int, err error) {
	b.read, b.high = time.Now(), 0
	info, err := b.dir.Stat()
	if err == nil {
		_, err = b.dir.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, err
	}
	b.changed = info.ModTime()
	names, err := b.dir.Readdirnames(-1)
	for _, name := range names {
		number, isBlock := strings.CutSuffix(name, ".blk")
		if n, err := strconv.Atoi(number); isBlock && err == nil {
			numbers = append(numbers, n)
			b.high = max(b.high, n)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// syncFile syncs the file of a number, and keeps that of the highest one open.
func (b *blocks) syncFile(n int) error {
	path := filepath.Join(b.path, strconv.Itoa(n)+".blk")
	f := b.file
	if !isAt(f, path) {
		var err error
		if f, err = os.Open(path); errors.Is(err, fs.ErrNotExist) {
			return nil // its messages are gone
		} else if err != nil {
			return err
		}
	}
	err := f.Sync()
	switch {
	case f == b.file:
	case n < b.high:
		err = errors.Join(err, f.Close())
	default:
		if b.file != nil {
			err = errors.Join(err, b.file.Close())
		}
		b.file = f
	}
	return err
}

// isAt reports whether an open file is the one of a path.
func isAt(f *os.File, path string) bool {
	if f == nil {
		return false
	}
	was, err := f.Stat()
	now, err2 := os.Stat(path)
	return err == nil && err2 == nil && os.SameFile(was, now)
}

// close forgets what is known.
func (b *blocks) close() {
	for _, f := range []*os.File{b.dir, b.file} {
		if f != nil {
			_ = f.Close() // nothing was written through it
		}
	}
	b.dir, b.file = nil, nil
}
