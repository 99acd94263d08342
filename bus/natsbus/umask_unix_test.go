//go:build unix

package natsbus_test

import (
	"syscall"
	"testing"
)

// allowAll has the process take no permission away from what it creates.
func allowAll(t *testing.T) {
	t.Helper()
	before := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(before) })
}
