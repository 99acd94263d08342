package natsbus

import (
	"os"

	"golang.org/x/sys/unix"
)

// pin keeps files in memory until they are released, so many bytes of them at most. It is of no harm where it can't: a process may
// lock only so much (RLIMIT_MEMLOCK), and what isn't pinned is left to the system.
func pin(paths []string, most int64) (release func()) {
	var pinned [][]byte
	for _, path := range paths {
		if pages := pinFile(path, most); pages != nil {
			pinned = append(pinned, pages)
			most -= int64(len(pages))
		}
	}
	return func() {
		for _, pages := range pinned {
			_ = unix.Munmap(pages) // it was mapped
		}
	}
}

// pinFile returns the pages of a file, or nil if they can't be pinned.
func pinFile(path string, most int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 || info.Size() > most {
		return nil
	}
	pages, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	if unix.Mlock(pages) != nil {
		_ = unix.Munmap(pages) // it was mapped
		return nil
	}
	return pages
}
