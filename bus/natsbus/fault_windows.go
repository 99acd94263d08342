package natsbus

import "golang.org/x/sys/windows"

// diskFaults are what the system says of a disk that is full or out of order, whoever writes to it.
var diskFaults = []error{
	windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED, windows.ERROR_WRITE_PROTECT, windows.ERROR_IO_DEVICE,
}
