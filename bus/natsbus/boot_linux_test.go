package natsbus_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jitney-go/jitney/bus"
)

// neverClosed has the record of a store that was closed say what a kill leaves.
func neverClosed(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "jitney.lives")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	open := strings.Replace(string(text), `"open":false`, `"open":true`, 1)
	require.NotEqual(t, string(text), open)
	require.NoError(t, os.WriteFile(path, []byte(open), 0o600))
}

// A file system that has turned read-only, or whose disk was away, has lost what the disk hadn't when it is mounted anew. A container that
// is started again after a kill has a mount of its own of the file system that was there all the time.
func TestLives_aFileSystemThatIsMountedAnewMayHaveLostTheEnd(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			if _, err := exec.LookPath("mkfs." + kind); err != nil && kind != "ext4" {
				t.Skip("mkfs." + kind + " isn't installed; the two others and ext4 are told by the same rule")
			}
			image := filepath.Join(smallDisk(t, 400<<20), "disk")
			require.NoError(t, os.WriteFile(image, nil, 0o600))
			require.NoError(t, os.Truncate(image, 320<<20)) // the least that they all make do with
			run(t, "mkfs."+kind, "-q", image)
			dir, container := t.TempDir(), t.TempDir()
			store := filepath.Join(dir, "store")

			run(t, "mount", "-o", "loop", image, dir)
			c := stored(t, store, 10)
			neverClosed(t, store)
			run(t, "mount", "--bind", dir, container)
			got := resumed(t, filepath.Join(container, "store"), c)
			require.Zero(t, got.told(bus.ErrGap))
			run(t, "umount", container)
			neverClosed(t, store)
			run(t, "umount", dir)

			store = filepath.Join(mountImage(t, image), "store")
			require.Equal(t, 1, resumed(t, store, c).told(bus.ErrGap))
		})
	}
}

// keep holds files in memory until the test ends.
func keep(t *testing.T, paths []string) {
	t.Helper()
	for _, path := range paths {
		f, err := os.Open(path)
		require.NoError(t, err)
		info, err := f.Stat()
		require.NoError(t, err)
		pages, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.NoError(t, unix.Mlock(pages))
		t.Cleanup(func() { require.NoError(t, unix.Munmap(pages)) })
	}
}

// The next process finds in the system's memory what the disk has refused, if that is there still; to the system it is clean.
func TestSyncFailure_thatAKillFollowsIsKnownToTheNextProcess(t *testing.T) {
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprint(kept), func(t *testing.T) {
			d := newThinDisk(t)
			m := &machine{dir: d.store(), log: filepath.Join(t.TempDir(), "log"), record: newRecord()}
			m.start(t, "100ms", "fill")
			m.wait(t, func(r *record) bool { return r.all > 10 })
			d.fill(t, 3<<20)
			m.wait(t, func(r *record) bool { return r.done })
			lives := filepath.Join(d.store(), "jitney.lives")
			eventually(t, func() bool {
				text, err := os.ReadFile(lives)
				return err == nil && strings.Contains(string(text), `"failed":`)
			}, "the record of it")
			if kept {
				keep(t, blockFilesOf(t, d.store()))
			}
			m.kill(t)
			d.free(t)
			if !kept {
				drop(t, append(blockFilesOf(t, d.store()), lives))
			}

			b, err := bus.Open(t.Context(), "nats:"+d.store())
			require.NoError(t, err)
			t.Cleanup(func() { _ = b.Close(context.Background()) }) // the test closes it, unless it fails
			var got collector
			var last entry
			for _, e := range m.record.published["PLAIN"] {
				if e.cursor.Sequence() > last.cursor.Sequence() {
					last = e
				}
			}
			_, err = b.Subscribe(t.Context(), "plain.*", got.handle, bus.After(last.cursor), bus.OnError(got.hook))
			require.NoError(t, err)
			require.NotZero(t, got.told(bus.ErrGap))
			if kept {
				held := heldBy(t, d.cut(t), "PLAIN")
				for _, e := range m.record.published["PLAIN"] {
					require.Equal(t, e.n, number(t, held[e.cursor.Sequence()]))
				}
			}
			require.NoError(t, b.Close(t.Context()))
		})
	}
}
