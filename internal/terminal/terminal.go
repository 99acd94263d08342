// Package terminal is about lines of progress that a command overwrites.
package terminal

import (
	"io"
	"os"
)

// ClearLine, in front of a line without a line break, takes the place of what is on the line.
const ClearLine = "\r\x1b[K"

// Width is how long a line that is overwritten may be: a longer one would break, and only its last part be overwritten. A
// window changes, so this is asked for each line.
func Width(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n := columns(f); n > 1 {
			return n - 1 // the last column makes some terminals break the line
		}
	}
	return 79
}

// Line takes the place of what is on the line of w. Text that is too long is cut.
func Line(w io.Writer, text string) string {
	width := Width(w)
	if runes := []rune(text); len(runes) > width {
		text = string(runes[:width-1]) + "…"
	}
	return ClearLine + text
}

// Overwrites reports whether w is a terminal that understands ClearLine.
func Overwrites(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
