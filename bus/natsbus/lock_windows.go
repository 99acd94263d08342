package natsbus

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// tryLock takes an exclusive lock that ends with the file's last handle, also at a kill.
// It covers a byte behind what is written, so that others can read who holds it.
func tryLock(f *os.File) (bool, error) {
	place := &windows.Overlapped{OffsetHigh: 1}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, place)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// unlock has nothing to do: no child has the handle.
func unlock(*os.File) error { return nil }
