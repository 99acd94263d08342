package filebus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// lock is the file that whoever has a directory open holds. While messages are stored there
// that may not be on the disk yet, it names the start of the machine; Close empties it.
type lock struct{ f *os.File }

// lockDir takes the directory's lock. lost tells that the machine has been started again
// since a process stored messages and didn't live to flush them.
func lockDir(dir string) (l *lock, lost bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	if ok, err := tryLock(f); err != nil {
		return nil, false, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	} else if !ok {
		return nil, false, errors.Join(fmt.Errorf("%w: %s", bus.ErrLocked, dir), f.Close())
	}
	mark, err := os.ReadFile(f.Name())
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return &lock{f}, len(mark) > 0 && (string(mark) != machineStart() || machineStart() == unknownStart), nil
}

// set writes the mark, and clear removes it.
func (l *lock) set() error { return l.write(machineStart()) }

func (l *lock) clear() error { return l.write("") }

func (l *lock) write(mark string) error {
	if _, err := l.f.WriteAt([]byte(mark), 0); err != nil {
		return err
	}
	return errors.Join(l.f.Truncate(int64(len(mark))), l.f.Sync())
}

// release gives the directory to others.
func (l *lock) release() error { return l.f.Close() }

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
