package natsbus

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bornOf tells a file from one that has taken its place, and whose inode may have its number: by when it was made. No copy has that,
// and nothing changes it, as a backup or a recursive chown changes the time of the last change. Empty where the file system doesn't know.
func bornOf(f *os.File) string {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 || st.Btime.Sec == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
}
