package natsbus_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
				t.Skip("mkfs." + kind + " isn't installed")
			}
			image := filepath.Join(smallDisk(t, 400<<20), "disk")
			require.NoError(t, os.WriteFile(image, nil, 0o600))
			require.NoError(t, os.Truncate(image, 320<<20)) // the least that they all make do with
			run(t, "mkfs."+kind, "-q", image)
			out, err := exec.Command("losetup", "--find", "--show", image).Output()
			require.NoError(t, err)
			device := strings.TrimSpace(string(out)) // the same each time, so that files keep their place
			t.Cleanup(func() { run(t, "losetup", "-d", device) })
			dir, container := t.TempDir(), t.TempDir()
			store := filepath.Join(dir, "store")

			run(t, "mount", device, dir)
			c := stored(t, store, 10)
			neverClosed(t, store)
			run(t, "mount", "--bind", dir, container)
			require.Zero(t, resumed(t, filepath.Join(container, "store"), c).told(bus.ErrGap))
			run(t, "umount", container)
			neverClosed(t, store)
			forgetMount(t, store)
			require.Zero(t, resumed(t, store, c).told(bus.ErrGap))
			neverClosed(t, store)
			run(t, "umount", dir)

			run(t, "mount", device, dir)
			t.Cleanup(func() { run(t, "umount", dir) })
			require.Equal(t, 1, resumed(t, store, c).told(bus.ErrGap))
		})
	}
}

// forgetMount leaves in the record what is known where the system doesn't tell mounts apart.
func forgetMount(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "jitney.lives")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	known := regexp.MustCompile(`"boot":"([^ "]+) \d+"`)
	require.Regexp(t, known, string(text))
	require.NoError(t, os.WriteFile(path, known.ReplaceAll(text, []byte(`"boot":"$1\n"`)), 0o600))
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
	for _, row := range []struct {
		name        string
		kept, noted bool
	}{{"kept in memory", true, true}, {"kept, and killed before it was noted", true, false}, {"dropped", false, true}} {
		t.Run(row.name, func(t *testing.T) {
			d := newThinDisk(t)
			m := &machine{dir: d.store(), log: filepath.Join(t.TempDir(), "log"), record: newRecord()}
			m.start(t, "100ms", "fill")
			m.wait(t, func(r *record) bool { return r.all > 10 })
			d.fill(t, 3<<20)
			m.wait(t, func(r *record) bool { return r.done })
			lives, failed := filepath.Join(d.store(), "jitney.lives"), regexp.MustCompile(`"failed":\d+,`)
			var text []byte
			eventually(t, func() (noted bool) {
				var err error
				text, err = os.ReadFile(lives)
				return err == nil && failed.Match(text)
			}, "the record of it")
			if row.kept {
				keep(t, blockFilesOf(t, d.store()))
			}
			m.kill(t)
			d.free(t)
			if !row.kept {
				drop(t, append(blockFilesOf(t, d.store()), lives))
			}
			if !row.noted {
				require.NoError(t, os.WriteFile(lives, failed.ReplaceAll(text, nil), 0o600))
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
			if row.kept {
				held := heldBy(t, d.cut(t), "PLAIN")
				for _, e := range m.record.published["PLAIN"] {
					require.Equal(t, e.n, number(t, held[e.cursor.Sequence()]))
				}
			}
			require.NoError(t, b.Close(t.Context()))
			text, err = os.ReadFile(lives)
			require.NoError(t, err)
			require.NotRegexp(t, failed, string(text), "the disk has it all")
		})
	}
}
