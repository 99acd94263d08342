package filebus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// lock is the file that whoever has a directory open holds. What it says meanwhile tells the next one
// how the process before it ended; Close empties it.
type lock struct{ f *os.File }

// ending says how the process before this one left the files.
type ending int

const (
	closed ending = iota // all is there
	killed               // all is there that was accepted, but the last record may be incomplete
	lost                 // a power cut may have taken the last messages
)

// flushed is what the lock says while each record is flushed before it counts, so that a power cut
// is nothing else than a kill. Otherwise it names the start of the machine.
const flushed = "flushed"

// lockDir takes the directory's lock.
func lockDir(dir string) (*lock, ending, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	ok, err := tryLock(f)
	if err == nil && !ok {
		err = bus.ErrLocked
	}
	var mark []byte
	if err == nil {
		mark, err = os.ReadFile(f.Name())
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	switch start := machineStart(); {
	case len(mark) == 0:
		return &lock{f}, closed, nil
	case string(mark) == flushed || string(mark) == start && start != unknownStart:
		return &lock{f}, killed, nil
	}
	return &lock{f}, lost, nil
}

// mark writes how what this process leaves is to be taken if it doesn't come to clear it.
func (l *lock) mark(sync bool) error {
	if sync {
		return l.write(flushed)
	}
	return l.write(machineStart())
}

func (l *lock) clear() error { return l.write("") }

func (l *lock) write(mark string) error {
	if _, err := l.f.WriteAt([]byte(mark), 0); err != nil {
		return err
	}
	return errors.Join(l.f.Truncate(int64(len(mark))), l.f.Sync())
}

// release gives the directory to others.
func (l *lock) release() error { return errors.Join(unlock(l.f), l.f.Close()) }

const unknownStart = "unknown"

// machineStart differs after each start of the machine: what the system's memory held of its
// files is gone then.
func machineStart() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return unknownStart
	}
	return strings.TrimSpace(string(id))
}
