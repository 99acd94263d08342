package compare

import "syscall"

// peak is the most that this process has had resident, in bytes; 0 if it isn't known.
func peak() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Maxrss
}
