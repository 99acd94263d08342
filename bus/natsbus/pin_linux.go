package natsbus

import (
	"os"

	"golang.org/x/sys/unix"
)

// pin keeps files in memory until they are released. It is of no harm where it can't: a process may lock only so much
// (RLIMIT_MEMLOCK), and what isn't pinned is left to the system.
func pin(paths []string, most int64) (release func()) {
	var pinned [][]byte
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		if err == nil && info.Size() > 0 && info.Size() <= most {
			var pages []byte
			if pages, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED); err == nil {
				pinned = append(pinned, pages)
				if unix.Mlock(pages) == nil {
					most -= info.Size()
				}
			}
		}
		_ = f.Close() // nothing was written through it
	}
	return func() {
		for _, pages := range pinned {
			_ = unix.Munmap(pages) // it was mapped
		}
	}
}
