package natsbus

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bootOf tells apart the starts of the machine and, behind a space, the times that the file system of a directory was mounted: each of
// them begins with what the disk has. What isn't known is left out.
func bootOf(dir string) string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimSpace(string(id)) + " " + mountOf(dir))
}

// mountOf is the number of the directory that sysfs has for a file system as long as it is mounted, wherever that is, as in several containers:
// no other one gets it. (A mount has a number, too, and so has each container's.)
func mountOf(dir string) string {
	f, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ""
	}
	var paths []string
	if device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))); err == nil {
		paths = []string{"ext4/" + filepath.Base(device), "xfs/" + filepath.Base(device), "f2fs/" + filepath.Base(device)}
	} else if id := btrfsOf(f); id != "" {
		paths = []string{"btrfs/" + id}
	}
	for _, path := range paths {
		if err := unix.Stat("/sys/fs/"+path, &st); err == nil {
			return fmt.Sprint(st.Ino)
		}
	}
	return ""
}

// btrfsInfo is BTRFS_IOC_FS_INFO of linux/btrfs.h, as most processors have it; others say that they don't know it.
const btrfsInfo = 0x8400941f

// btrfsOf is the UUID of the btrfs that a file is on; "" if it is on none.
func btrfsOf(f *os.File) string {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || uint32(fs.Type) != unix.BTRFS_SUPER_MAGIC {
		return ""
	}
	var info struct { // btrfs_ioctl_fs_info_args
		_    [16]byte
		fsid [16]byte
		_    [992]byte
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), btrfsInfo, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return ""
	}
	id := info.fsid
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
