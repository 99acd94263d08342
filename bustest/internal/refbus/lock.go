package refbus

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// openDirs locks directories within the process.
var openDirs sync.Map

// lock takes the directory. Against other processes it listens on a socket there: a process
// that has ended, however, doesn't answer any more.
func (b *Bus) lock() error {
	if _, taken := openDirs.LoadOrStore(b.cfg.Dir, true); taken && !b.bug("noLock") {
		return bus.ErrLocked
	}
	if b.bug("lockInProcess") || b.bug("noLock") {
		return nil
	}
	path := filepath.Join(b.cfg.Dir, "lock")
	if conn, err := net.Dial("unix", path); err == nil {
		openDirs.Delete(b.cfg.Dir)
		return errors.Join(bus.ErrLocked, conn.Close())
	}
	err := os.Remove(path)
	if err == nil || os.IsNotExist(err) {
		b.locked, err = net.Listen("unix", path)
	}
	if err != nil {
		openDirs.Delete(b.cfg.Dir)
	}
	return err
}

// unlock gives the directory back.
func (b *Bus) unlock() {
	if b.locked != nil {
		if err := b.locked.Close(); err != nil {
			b.o.Logger.Error("refbus: unlock", "error", err)
		}
	}
	openDirs.Delete(b.cfg.Dir)
}
