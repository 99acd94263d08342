package compare

import (
	"fmt"
	"syscall"
	"time"
)

// cpu is the time that this process has used, by user and system.
func cpu() (time.Duration, error) {
	self, err := syscall.GetCurrentProcess()
	var created, ended, kernel, user syscall.Filetime
	if err == nil {
		err = syscall.GetProcessTimes(self, &created, &ended, &kernel, &user)
	}
	if err != nil {
		return 0, fmt.Errorf("the CPU time of the process: %w", err)
	}
	return length(kernel) + length(user), nil
}

// length is a Filetime that is a length, in units of 100 ns.
func length(t syscall.Filetime) time.Duration {
	return time.Duration(uint64(t.HighDateTime)<<32|uint64(t.LowDateTime)) * 100
}
