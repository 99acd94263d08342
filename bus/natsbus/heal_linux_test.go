package natsbus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting a file system needs root")
		}
		t.Skip("mounting a file system needs root")
	}
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

func TestFullDisk_isSaidAndHealsWhenThereIsRoom(t *testing.T) {
	dir := smallDisk(t, 40<<20)
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 20<<20), 0o600))
	b, err := natsbus.Open(t.Context(), filepath.Join(dir, "store"))
	require.NoError(t, err)
	defer b.Close(context.Background())
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}}))
	var live collector
	_, err = b.Subscribe(t.Context(), "a", live.handle)
	require.NoError(t, err)

	data := make([]byte, 64<<10)
	acked := 0
	var failure error
	for failure == nil && acked < 1000 {
		began := time.Now()
		if failure = b.Publish(t.Context(), "a", fmt.Appendf(data[:0:0], "%d %s", acked, data)); failure == nil {
			acked++
		}
		require.Less(t, time.Since(began), 5*time.Second, "it is said, not waited for")
	}
	require.ErrorIs(t, failure, bus.ErrUnavailable)
	require.ErrorIs(t, b.Publish(t.Context(), "a", data), bus.ErrUnavailable)
	require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "no space left")

	require.NoError(t, os.Remove(ballast))
	eventually(t, func() bool { return b.(bus.HealthChecker).Health(t.Context()) == nil }, "service again")
	require.NoError(t, b.Publish(t.Context(), "a", fmt.Append(nil, acked, " last")))
	var all collector
	_, err = b.Subscribe(t.Context(), "a", all.handle, bus.All())
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, text := range all.texts() {
		var n int
		_, err := fmt.Sscan(text, &n)
		require.NoError(t, err)
		seen[fmt.Sprint(n)] = true
	}
	for n := range acked + 1 {
		require.True(t, seen[fmt.Sprint(n)], "acknowledged and lost: %d of %d", n, acked)
	}
	eventually(t, func() bool { return len(live.texts()) >= len(all.texts()) }, "what was stored, live")
}

func TestOpen_saysThatAStoreIsReadOnly(t *testing.T) {
	dir := smallDisk(t, 16<<20)
	store := filepath.Join(dir, "store")
	stored(t, store, 10)
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	_, err := natsbus.Open(t.Context(), store)
	require.ErrorContains(t, err, store)
	require.ErrorContains(t, err, "read-only file system")
	requireFault(t, err)
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""))
	require.Equal(t, 10, len(held(t, store)), "it was left as it was")
}

func TestOpen_saysThatADiskIsFull(t *testing.T) {
	dir := smallDisk(t, 16<<20)
	d := &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	d.fill(t, 0)
	_, err := natsbus.Open(t.Context(), d.store()) // a new one
	requireFault(t, err)
	d.free(t)
	stored(t, d.store(), 10)
	d.fill(t, 0)
	_, err = natsbus.Open(t.Context(), d.store())
	requireFault(t, err)
	require.ErrorContains(t, err, d.store())
	require.ErrorContains(t, err, "no space left on device")
	d.free(t)
	require.Equal(t, 10, len(held(t, d.store())), "it was left as it was")
}

// requireFault requires of an error that it is one of the disk, and not of the user's.
func requireFault(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.ErrorContains(t, err, "make room or mend the disk")
	require.NotContains(t, err.Error(), "this user")
}

// held is what a stream holds.
func held(t *testing.T, dir string) []string {
	t.Helper()
	b, err := natsbus.Open(t.Context(), dir)
	require.NoError(t, err)
	defer b.Close(context.Background())
	var got collector
	_, err = b.Subscribe(t.Context(), "a", got.handle, bus.All())
	require.NoError(t, err)
	return got.texts()
}
