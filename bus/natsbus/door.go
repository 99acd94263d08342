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
	openFiles  = "/proc/self/fd"
	shutTime   = 2 * time.Second
	shutLook   = 50 * time.Millisecond
)

// openDoor makes a way to the store for one server: a directory with a link to the store in it. nats-server doesn't say
// when all that writes to a member's store has ended; but once its way is gone nothing opens a file by it any more, and the system
// knows which are open still. Where it doesn't tell, or has no links, there is no door, and the server is given the store itself.
func (e *embedded) openDoor() (door string, err error) {
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.door = door; err == nil {
			e.restarts = door != ""
		}
	}()
	if err := e.removeDoors(); err != nil { // also that of a process that was killed
		return "", err
	}
	if _, err := os.ReadDir(openFiles); err != nil {
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
	doors, err := glob(e.dir, doorPrefix+"*")
	for _, door := range doors {
		err = errors.Join(err, os.RemoveAll(door))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.door = ""
	return err
}

// shut ends a member's server, and returns when nothing of it can write to the store any more.
func (e *embedded) shut(ctx context.Context) error {
	s := e.server.Load()
	s.Shutdown()
	s.WaitForShutdown()
	if err := e.removeDoors(); err != nil {
		return err
	}
	open := ""
	for end, free := time.Now().Add(shutTime), 0; free < 2; { // what was being opened when the door went is open at the second look
		var err error
		if open, err = e.openFile(); err != nil {
			return err
		}
		switch {
		case open == "" && e.stoppings.Load() == 0:
			free++
		case time.Now().After(end):
			return fmt.Errorf("the server has ended, and %s is open still", cmp.Or(open, "its JetStream"))
		default:
			free = 0
		}
		if !sleep(ctx, shutLook) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// openFile returns a file of the store that this process has open; "": there is none.
func (e *embedded) openFile() (string, error) {
	store, err := filepath.EvalSymlinks(filepath.Join(e.dir, storeDir))
	if err == nil {
		store, err = filepath.Abs(store)
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
		if err == nil && strings.HasPrefix(file, store+string(filepath.Separator)) && !strings.HasSuffix(file, " (deleted)") {
			return file, nil
		}
	}
	return "", nil
}
