package compare

import (
	"os"
	"strconv"
	"strings"
)

// peak is the most that this process has had resident, in bytes; 0 if it isn't known. Rusage has
// a figure, too, but that includes what the process's parent had when it was started.
func peak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
