//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package filebus

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes a lock that ends with f, also when the process is killed.
func tryLock(f *os.File) (ok bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// unlock gives the lock back, before the last handle is closed: a child that was being started this moment has another one until it
// runs its own program.
func unlock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
