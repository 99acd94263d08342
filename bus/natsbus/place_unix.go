//go:build unix

package natsbus

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// placeOf tells a file from a copy of it, and when it was changed, which no copy keeps.
func placeOf(f *os.File) (place string, changed time.Time) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", changed
	}
	return fmt.Sprintf("%d.%d", st.Dev, st.Ino), time.Unix(st.Ctim.Unix())
}
