//go:build unix

package natsbus

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes an exclusive lock that ends with the file's last handle, also at a kill.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// unlock gives the lock back, before the last handle is closed: a child that was being started this moment has another one until it
// runs its own program.
func unlock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
