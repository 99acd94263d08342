package natsbus_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus/natsbus"
)

// A child has all files of this process until it runs its own program.
func TestClose_givesTheLockBackWhileAChildIsBeingStarted(t *testing.T) {
	dir := t.TempDir()
	b, err := natsbus.Open(t.Context(), dir)
	require.NoError(t, err)
	var copies []int
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, entry := range open {
		path, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err != nil || path != filepath.Join(dir, "jitney.lock") {
			continue // it has been closed since, or is another one
		}
		fd, err := strconv.Atoi(entry.Name())
		require.NoError(t, err)
		copied, err := syscall.Dup(fd)
		require.NoError(t, err)
		copies = append(copies, copied)
	}
	require.Len(t, copies, 1)
	require.NoError(t, b.Close(context.Background()))
	b, err = natsbus.Open(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, b.Close(context.Background()))
	require.NoError(t, syscall.Close(copies[0]))
}
