//go:build unix

package natsbus

import "syscall"

// diskFaults are what the system says of a disk that is full or out of order, whoever writes to it.
var diskFaults = []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO}
