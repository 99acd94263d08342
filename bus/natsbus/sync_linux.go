package natsbus

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncStore returns when all that was written to the directory's file system is on the disk. It
// covers files that the server hasn't open any more, and the directories themselves.
func syncStore(dir *os.File) error { return unix.Syncfs(int(dir.Fd())) }
