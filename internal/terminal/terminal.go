// Package terminal is about lines of progress that a command overwrites.
package terminal

import (
	"io"
	"os"
)

// ClearLine, in front of a line without a line break, takes the place of what is on the line.
const ClearLine = "\r\x1b[K"

// Width is how long a line that is overwritten may be: a longer one would break.
const Width = 79

// Overwrites reports whether w is a terminal that understands ClearLine.
func Overwrites(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
