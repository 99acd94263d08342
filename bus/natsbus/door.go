package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	storeDir   = "jetstream" // the server's, in the directory that it is given
	doorPrefix = "jitney.door-"
	openFiles  = "/proc/self/fd" // of this process, on Linux
	// fenceTime is how long it is waited for what is left of a server before that is said, and fenceLook how often it is looked for.
	fenceTime = 2 * time.Second
	fenceLook = 50 * time.Millisecond
)

// openDoor makes a way to the store for one server of a member: a directory with a link to the store in it. nats-server doesn't say
// when all that writes to a member's store has ended; but once its way is gone nothing gets to a file of the store by it any more, and
// the system knows which are open still. Where it doesn't tell, or has no links, there is no door, and the server is given
// the store itself.
func (e *embedded) openDoor() (door string, err error) {
	defer func() {
		if err == nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.restarts = door != ""
		}
	}()
	if err := e.removeDoors(); err != nil { // also that of a process that was killed
		return "", err
	}
	switch open, err := openBelow(filepath.Join(e.dir, lockFile)); {
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
		return "", err
	case open == "": // it doesn't tell, as it is open
		return "", nil
	}
	if err := os.MkdirAll(filepath.Join(e.dir, storeDir), 0o700); err != nil {
		return "", err
	}
	if door, err = os.MkdirTemp(e.dir, doorPrefix); err != nil {
		return "", err
	}
	err = os.Symlink(filepath.Join("..", storeDir), filepath.Join(door, storeDir))
	switch {
	case err == nil:
		return door, nil
	case errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission):
		return "", os.Remove(door)
	}
	return "", errors.Join(err, os.Remove(door))
}

func (e *embedded) removeDoors() error {
	entries, err := os.ReadDir(e.dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), doorPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(e.dir, entry.Name())))
		}
	}
	return err
}

// fence returns when nothing of a server that has ended can write to the store any more.
func (e *embedded) fence(ctx context.Context, s *instance) error {
	if err := e.removeDoors(); err != nil {
		return err
	}
	for end, free := time.Now().Add(fenceTime), 0; free < 2; { // what was being opened when the door went is open at the second look
		open, err := openBelow(filepath.Join(e.dir, storeDir))
		if err != nil {
			return err
		}
		switch {
		case open == "" && s.stoppings.Load() == 0:
			free++
		case time.Now().After(end):
			return fmt.Errorf("the server has ended, and %s is open still; if it stays so, restart this member", cmp.Or(open, "its JetStream"))
		default:
			free = 0
		}
		if !sleep(ctx, fenceLook) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// openBelow returns a file that this process has open: the one of a path, or one below it. Empty: there is none.
func openBelow(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", err
	}
	fds, err := os.ReadDir(openFiles)
	if err != nil {
		return "", err
	}
	for _, fd := range fds {
		file, err := os.Readlink(filepath.Join(openFiles, fd.Name()))
		if err == nil && (file == path || strings.HasPrefix(file, path+string(filepath.Separator)) && !strings.HasSuffix(file, " (deleted)")) {
			return file, nil
		}
	}
	return "", nil
}
