//go:build unix

package terminal

import (
	"os"

	"golang.org/x/sys/unix"
)

// columns is how wide the terminal's window is, or 0.
func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0 // it is none, or doesn't say
	}
	return int(size.Col)
}
