package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	// healEvery is how often a store that couldn't be written to is tried.
	healEvery = 500 * time.Millisecond
	// steady is how long a member's store must have worked for the next failure to be a new one. Until then it is tried less
	// and less often, as the others elect leaders each time.
	steady    = time.Minute
	mostPause = 10 * time.Minute
	// mostPreparing is the same for what they don't notice.
	mostPreparing = 30 * time.Second
	// healRoom is how many bytes must find room before the store is opened again.
	healRoom = 4 << 20
	// memberRoom is the same for a member, in whose store files of up to 8 MiB are written anew (defaultLargeBlockSize of nats-server).
	memberRoom = 16 << 20
	// streamRoom is how many must before a stream is made.
	streamRoom = 64 << 10
)

// isWriteFailure reports whether the server says that its store is out of order: it leaves publishers without an
// answer from then on, also when there is room again (handleOutOfSpace and setWriteErr of nats-server).
func isWriteFailure(text string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc([]string{"critical write error", "resources, will be disabled", "permission denied while writing"}, func(sign string) bool {
		return strings.Contains(text, sign)
	})
}

// watch says whom a store that can't be written to concerns.
func (e *embedded) watch(interrupt func(reason error), renew func(), tell func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.interrupt, e.renew, e.tell = interrupt, renew, tell
	if e.critical != "" {
		e.healLocked()
	}
}

// broken has those who wait told, and the store opened again when that is possible. It doesn't wait.
func (e *embedded) broken(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if strings.Contains(why, "error: sync ") { // of the server's own
		e.setRefusedLocked()
	}
	e.failed = true
	e.brokenLocked(why)
}

// damaged does it for a file in which damage was seen; what else was written since the store was opened isn't in doubt.
func (e *embedded) damaged(path string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubtful = append(e.doubtful, path)
	e.brokenLocked(path + " is damaged and is being mended")
}

func (e *embedded) brokenLocked(why string) {
	first := e.critical == ""
	if first {
		e.brokenAt = time.Now()
	}
	if first || e.cfg.Cluster == nil { // of a member the first reason stays: what is said later comes of it
		e.critical = why
	}
	if first && e.interrupt != nil {
		e.healLocked()
	} else {
		e.brokenAgain = true
	}
}

func (e *embedded) healLocked() {
	if e.cfg.Cluster != nil && !e.restarts {
		return
	}
	select {
	case <-e.stopping:
	default:
		e.healing.Go(e.heal)
	}
}

// heal opens the store again when there is room.
func (e *embedded) heal() {
	e.interrupt(e.failure()) // before anything that could wait for the disk
	defer e.pinRefused()()
	e.noteRefused()
	ctx, cancel := e.untilStopped()
	defer cancel()
	tick := time.NewTicker(healEvery)
	defer tick.Stop()
	e.mu.Lock()
	if time.Since(e.healedAt) > max(steady, e.paused) {
		e.paused = 0
	}
	e.mu.Unlock()
	said := "" // of what is in the way
	for {
		select {
		case <-e.stopping:
			return
		case <-tick.C:
		}
		e.noteRefused()
		e.change.Lock()
		e.relay(ctx)
		e.change.Unlock()
		if e.tryRoom(e.roomNeeded()) != nil {
			e.inTheWay("")
			continue
		}
		if e.cfg.Cluster != nil && !e.due() {
			continue
		}
		e.mu.Lock()
		e.brokenAgain = false
		e.mu.Unlock()
		var err error
		if e.cfg.Cluster != nil {
			err = e.restart(ctx, e.rewrite)
		} else {
			err = e.reopen(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e.inTheWay(err.Error())
			if err.Error() != said {
				said = err.Error()
				e.log.Warn("natsbus: the store can't be opened again yet", "dir", e.dir, "error", err)
			}
			continue
		}
		if e.commits != nil {
			e.commits.forget()
		}
		e.mu.Lock()
		again, failed := e.brokenAgain, e.failed
		e.healedAt = time.Now()
		if !again {
			e.critical, e.obstacle, e.fatal, e.failed, e.brokenAt = "", "", "", false, time.Time{}
		}
		e.mu.Unlock()
		if again {
			continue
		}
		if failed {
			e.log.Info("natsbus: the store can be written to again", "dir", e.dir)
		} else {
			e.log.Info("natsbus: the store is mended", "dir", e.dir)
		}
		e.tell()
		e.renew()
		return
	}
}

// roomNeeded is how many bytes must find room before the store is opened again.
func (e *embedded) roomNeeded() int {
	if e.cfg.Cluster != nil {
		return memberRoom
	}
	return healRoom
}

// inTheWay notes what keeps the store from being opened although there is room.
func (e *embedded) inTheWay(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.obstacle = what
}

// due reports whether a member's store is to be tried now.
func (e *embedded) due() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Since(e.tried) < e.paused {
		return false
	}
	e.tried, e.paused = time.Now(), min(max(2*e.paused, healEvery), mostPause)
	return true
}

// reopen opens a store that stands alone again. The connections to its server stay, unless others use it, too: while a server opens its
// store it says that it has no streams, so that they would take what it captures for uncaptured, publish it as such and lose it. For them another
// one takes its place, which has its streams before it lets anybody in, and they connect again, as this process does.
func (e *embedded) reopen(ctx context.Context) error {
	e.change.Lock()
	defer e.change.Unlock()
	if e.cfg.listens() {
		e.server.Load().end()
	} else if err := e.server.Load().ShutdownJetStream(); err != nil {
		return err
	}
	e.mu.Lock()
	e.fatal, e.brokenAgain = "", false // what was said until now is mended here
	since, failed := e.opened, e.failed
	if !failed {
		since = e.brokenAt.Add(-unsynced)
	}
	e.mu.Unlock()
	if failed {
		if err := e.rewrite(ctx); err != nil {
			return err
		}
		e.lives.written()
	}
	if err := e.mend(ctx, since, true); err != nil {
		return err
	}
	if e.cfg.listens() {
		return e.run(ctx, true, e.compareLives)
	}
	config := *e.config
	config.StoreDir = e.dir // the server puts its own directory below
	if err := e.server.Load().EnableJetStream(&config); err != nil {
		return err
	}
	return e.compareLives(e.server.Load())
}

// restart has another server in the place of a member's, whose store is opened as at the start: a JetStream that is enabled again in a
// cluster meets what is left of the one before. Until it runs a server without a store has the place, so that the program reaches
// the others. between is called when nothing uses the store.
func (e *embedded) restart(ctx context.Context, between func(ctx context.Context) error) error {
	e.change.Lock()
	defer e.change.Unlock()
	e.mu.Lock()
	restarts := e.restarts
	e.mu.Unlock()
	if !restarts {
		return errors.New("what is left of the server before can't be told: restart this member")
	}
	if e.left == nil { // the server that runs has the store
		e.left = e.server.Load()
		e.left.end()
	}
	e.relay(ctx)
	if err := e.prepare(ctx, between); err != nil {
		e.mu.Lock()
		e.paused = min(e.paused, mostPreparing)
		e.mu.Unlock()
		return err
	}
	e.server.Load().end()
	err := e.runAnew(ctx, true)
	if err == nil {
		e.left = nil
		return nil
	}
	e.relay(ctx)
	return err
}

// relay starts a server without a store if there is none. e.change is held.
func (e *embedded) relay(ctx context.Context) {
	if e.left == nil || e.server.Load().Running() {
		return
	}
	if err := e.runAnew(ctx, false); err != nil && ctx.Err() == nil {
		e.log.Warn("natsbus: this member can't reach the others; trying again", "error", err)
	}
}

func (e *embedded) runAnew(ctx context.Context, store bool) error {
	e.mu.Lock()
	e.fatal, e.brokenAgain = "", false // what the last one has said
	e.mu.Unlock()
	return e.run(ctx, store, nil)
}

// prepare has the store of a member ready for another server.
func (e *embedded) prepare(ctx context.Context, between func(ctx context.Context) error) error {
	if err := e.fence(ctx, e.left); err != nil {
		return err
	}
	if err := between(ctx); err != nil {
		return err
	}
	return e.inspect(ctx)
}

// syncFailed is told that the disk hasn't taken what the server has written.
func (e *embedded) syncFailed(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setRefusedLocked()
	e.failed = true
	e.brokenLocked(fmt.Sprintf("the store in %s can't be written to: %s", e.dir, err))
}

// setRefusedLocked says that a sync has failed.
func (e *embedded) setRefusedLocked() {
	if !e.refused {
		e.refused, e.noted = true, false
	}
}

// syncAll returns when the disk has all that was written before.
func (e *embedded) syncAll(ctx context.Context) error {
	err := e.disk.sync(ctx)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: the store in %s can't be written to: %w", bus.ErrUnavailable, e.dir, err)
	}
	return err
}

// unsynced is how long the server takes at most to sync a file, beside its interval.
const unsynced = time.Minute

// rewrite has the disk take what was written since a sync has succeeded: what it refused is clean to the system, which
// reads it from memory and never writes it again.
func (e *embedded) rewrite(ctx context.Context) error {
	_ = e.disk.sync(ctx) // tells what failed before
	e.noteRefused()
	paths, err := e.refusedFiles()
	for _, path := range paths {
		if err = cmp.Or(err, ctx.Err()); err == nil {
			err = e.rewriteFile(path)
		}
	}
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.refused, e.brokenAgain = false, false // unless this fails
	e.mu.Unlock()
	return e.disk.sync(ctx)
}

// takeOver has the disk take what a process that was killed has left to the system: to the server it isn't dirty.
func (e *embedded) takeOver(ctx context.Context) error {
	if e.lives.clean {
		return nil
	}
	at := e.lives.since.Add(-SyncFast) // perhaps as soon as its record was written, at whatever level
	if e.lives.failed > 0 {
		at = time.Unix(0, e.lives.failed)
	}
	err := e.disk.sync(ctx)
	e.mu.Lock()
	refused := e.refused || e.lives.failed > 0
	e.brokenAt = at // also if it fails when ctx has ended
	e.mu.Unlock()
	if refused {
		e.lives.crashed = true
		err = e.rewrite(ctx)
	}
	if err == nil {
		e.mu.Lock()
		e.critical, e.failed, e.brokenAt = "", false, time.Time{}
		e.mu.Unlock()
	}
	if isDiskFault(err) || err != nil && ctx.Err() == nil {
		return storeError(e.dir, err)
	}
	return err
}

// refusedFiles lists those that may have what the disk refused.
func (e *embedded) refusedFiles() (paths []string, err error) {
	e.mu.Lock()
	since := e.brokenAt.Add(-e.level.interval - unsynced)
	e.mu.Unlock()
	err = filepath.WalkDir(filepath.Join(e.dir, storeDir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil && !info.ModTime().Before(since) {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}

// mostPinned is how many bytes of files are pinned at most.
const mostPinned = 64 << 20

// pinRefused keeps in memory what a sync has failed to write: to the system it is clean, so that it could drop it long before there is room.
func (e *embedded) pinRefused() (release func()) {
	e.mu.Lock()
	failed := e.failed
	e.mu.Unlock()
	if !failed || e.cfg.Cluster != nil { // what a member lacks the others have
		return func() {}
	}
	paths, _ := e.refusedFiles() // those that could be listed
	return pin(paths, mostPinned)
}

// noteRefused has the next process know what this one doesn't come to, if it is killed: to write anew what a sync has failed to write.
func (e *embedded) noteRefused() {
	e.mu.Lock()
	at, pending := e.brokenAt, e.refused && !e.noted
	e.mu.Unlock()
	if !pending || e.lives == nil {
		return
	}
	if at.IsZero() {
		at = time.Now()
	}
	err := e.lives.refused(at.Add(-e.level.interval))
	e.mu.Lock()
	said := e.unnoted
	e.noted, e.unnoted = err == nil, ""
	if err != nil {
		e.unnoted = err.Error()
	}
	e.mu.Unlock()
	if err != nil && err.Error() != said { // a file system that has turned read-only tells it by being mounted anew
		e.log.Warn("natsbus: that the disk has refused what was written can't be recorded yet", "dir", e.dir, "error", err)
	}
}

// rewriteFile puts a copy in a file's place. Written once more where it is, ext4 would still take the places that the disk refused for
// ones that were never written.
func (e *embedded) rewriteFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(e.dir, roomPrefix)
	if err != nil {
		return e.noRoom(err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(info.Mode()), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("write %s anew: %w", path, withoutPath(err)), os.Remove(f.Name()))
	}
	return err
}

// compareLives looks whether a stream has lost its end, and records what is known if so, or if there is more to record.
func (e *embedded) compareLives(s *instance) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	lost, err := e.lives.compare(streams, false)
	if err != nil || len(lost) == 0 && !e.lives.unsaved() {
		return err
	}
	e.tellLost(lost)
	return e.lives.save(true)
}

// untilStopped is a context that ends when the server is stopped.
func (e *embedded) untilStopped() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		select {
		case <-e.stopping:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// roomPrefix is how files begin that only try whether there is room, or take the place of another one as soon as they are written.
const roomPrefix = "room-"

// removeRooms removes those that a killed process has left.
func (e *embedded) removeRooms() error {
	left, err := glob(e.dir, roomPrefix+"*")
	for _, path := range left {
		if _, number := strconv.ParseUint(strings.TrimPrefix(filepath.Base(path), roomPrefix), 10, 64); number == nil {
			err = errors.Join(err, os.Remove(path))
		}
	}
	if err != nil {
		return storeError(e.dir, err)
	}
	return nil
}

// tryRoom finds out whether so many bytes can be written, and from healRoom on, whether the disk takes them.
func (e *embedded) tryRoom(room int) error {
	f, err := os.CreateTemp(e.dir, roomPrefix)
	if err != nil {
		return e.noRoom(err)
	}
	_, err = f.Write(make([]byte, room))
	if err == nil && room >= healRoom {
		err = f.Sync()
	}
	return e.noRoom(cmp.Or(err, f.Close(), os.Remove(f.Name())))
}

// noRoom leaves out the name of the file that was tried, so that the text stays the same.
func (e *embedded) noRoom(err error) error {
	if err != nil {
		return fmt.Errorf("no room in %s: %w", e.dir, withoutPath(err))
	}
	return nil
}
