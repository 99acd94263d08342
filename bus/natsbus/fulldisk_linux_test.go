package natsbus_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// tightDisk is a disk in memory that something else fills, and a bus whose store is on it.
func tightDisk(t *testing.T, room int64, streams ...bus.StreamConfig) (d *thinDisk, b bus.Bus) {
	t.Helper()
	dir := smallDisk(t, 48<<20)
	d = &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	b, err := bus.Open(t.Context(), "nats:"+d.store())
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) }) // the tests close it, unless they fail
	require.NoError(t, b.EnsureStreams(t.Context(), streams...))
	d.fill(t, room)
	return d, b
}

func (d *thinDisk) store() string { return filepath.Join(d.dir, "store") }

// soon runs something that must not hang.
func soon(t *testing.T, what func() error) error {
	t.Helper()
	began := time.Now()
	err := what()
	require.Less(t, time.Since(began), 15*time.Second)
	return err
}

func TestFullDisk_aDurableGroupGoesOnWhenThereIsRoom(t *testing.T) {
	d, b := tightDisk(t, 4<<20, task)
	var done collector
	_, err := b.Subscribe(t.Context(), "task", done.handle, bus.DurableGroup("workers"), bus.Attempts(0))
	require.NoError(t, err)
	var p acknowledged
	require.ErrorIs(t, p.untilRefused(t, b, "task"), bus.ErrUnavailable)
	require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "no space left")
	d.free(t)
	eventually(t, healthy(b), "service again")
	for range 10 {
		require.NoError(t, p.publish(t, b, "task"))
	}
	eventually(t, func() bool {
		handled := map[int]bool{}
		for _, text := range done.texts() {
			var n int
			_, err := fmt.Sscan(text, &n)
			require.NoError(t, err)
			handled[n] = true
		}
		for _, n := range p.acked {
			if !handled[n] {
				return false
			}
		}
		return true
	}, "all that was acknowledged, handled")
	require.NoError(t, b.Close(t.Context()))
}

func TestFullDisk_isWhatEnsureStreamsSays(t *testing.T) {
	d, b := tightDisk(t, 0, task)
	other := bus.StreamConfig{Name: "OTHER", Subjects: []string{"other"}}
	err := soon(t, func() error { return b.EnsureStreams(t.Context(), other) })
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.ErrorContains(t, err, "OTHER")
	require.ErrorContains(t, err, "no space left")
	require.EqualError(t, b.EnsureStreams(t.Context(), other), err.Error(), "the text stays the same")
	d.free(t)
	eventually(t, healthy(b), "service")
	require.NoError(t, b.EnsureStreams(t.Context(), other))
	require.NoError(t, b.Publish(t.Context(), "other", []byte("x")))
	require.NoError(t, b.Publish(t.Context(), "task", []byte("x")))
	require.NoError(t, b.Close(t.Context()))
}

func TestFullDisk_doesntHoldUpCloseNorLoseWhatWasAcknowledged(t *testing.T) {
	d, b := tightDisk(t, 4<<20, task)
	var p acknowledged
	require.ErrorIs(t, p.untilRefused(t, b, "task"), bus.ErrUnavailable)
	rest := &thinDisk{ballast: filepath.Join(d.dir, "rest")}
	rest.fill(t, 0)
	err := soon(t, func() error { return b.Close(t.Context()) })
	require.ErrorIs(t, err, syscall.ENOSPC, "the record of a clean stop has no room")
	d.free(t)
	rest.free(t)
	again, err := bus.Open(t.Context(), "nats:"+d.store())
	require.NoError(t, err)
	require.NoError(t, again.(bus.HealthChecker).Health(t.Context()))
	p.requireHeld(t, again, "task")
	require.NoError(t, again.Close(t.Context()))
}

func TestWriteProtected_isSaidAndHealsWhenFilesCanBeWritten(t *testing.T) {
	d, b := tightDisk(t, 20<<20, task)
	var p acknowledged
	for range 10 {
		require.NoError(t, p.publish(t, b, "task"))
	}
	run(t, "chattr", "-R", "+i", d.store()) // chmod means nothing to root
	protected := true
	defer func() {
		if protected {
			run(t, "chattr", "-R", "-i", d.store())
		}
	}()
	err := p.untilRefused(t, b, "task")
	require.ErrorIs(t, err, bus.ErrUnavailable)
	health := b.(bus.HealthChecker).Health(t.Context())
	require.ErrorContains(t, health, d.store())
	require.ErrorContains(t, health, "operation not permitted")
	require.ErrorIs(t, soon(t, func() error { return b.EnsureStreams(t.Context(), task) }), bus.ErrUnavailable)
	run(t, "chattr", "-R", "-i", d.store())
	protected = false
	eventually(t, healthy(b), "service again")
	for range 10 {
		require.NoError(t, p.publish(t, b, "task"))
	}
	p.requireHeld(t, b, "task")
	require.NoError(t, b.Close(t.Context()))
	_, err = os.Stat(filepath.Join(d.store(), "damaged"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A file system that meets an error and can't trust its disk any more turns read-only under the program, as ext4 does with
// errors=remount-ro. That doesn't heal: it takes a check of the disk and a start.
func TestReadOnly_underARunningProgramIsSaidAndLosesNothing(t *testing.T) {
	for _, level := range []string{"always", "100ms"} {
		t.Run(level, func(t *testing.T) {
			memory := smallDisk(t, diskSize+8<<20)
			image := filepath.Join(memory, "disk")
			require.NoError(t, os.WriteFile(image, nil, 0o600))
			require.NoError(t, os.Truncate(image, diskSize))
			run(t, "mkfs.ext4", "-q", "-F", "-e", "remount-ro", image)
			dir := t.TempDir()
			run(t, "mount", "-o", "loop", image, dir)
			mounted := true
			t.Cleanup(func() {
				if mounted {
					run(t, "umount", dir)
				}
			})
			store := filepath.Join(dir, "store")
			b, err := bus.Open(t.Context(), "nats:"+store+"?sync="+level)
			require.NoError(t, err)
			closed := false
			defer func() {
				if !closed {
					_ = b.Close(context.Background()) // the test has failed
				}
			}()
			require.NoError(t, b.EnsureStreams(t.Context(), task))
			var live collector
			_, err = b.Subscribe(t.Context(), "task", live.handle)
			require.NoError(t, err)
			var p acknowledged
			for range 10 {
				require.NoError(t, p.publish(t, b, "task"))
			}
			eventually(t, func() bool { return len(live.texts()) == 10 }, "what was published")
			last := live.messages[9].Cursor
			if level != "always" {
				run(t, "sync", "-f", dir)
			}
			synced := p
			require.NoError(t, os.WriteFile(filepath.Join("/sys/fs/ext4", loopOf(t, image), "trigger_fs_error"), []byte("1"), 0))
			refused := p.untilRefused(t, b, "task")
			require.ErrorIs(t, refused, bus.ErrUnavailable)
			eventually(t, func() bool { return !healthy(b)() }, "Health")
			health := b.(bus.HealthChecker).Health(t.Context())
			require.ErrorContains(t, health, "the store in "+store+" can't be written to")
			require.ErrorContains(t, health, "read-only file system")
			require.ErrorIs(t, soon(t, func() error { return p.publish(t, b, "task") }), bus.ErrUnavailable)
			require.ErrorIs(t, soon(t, func() error { return b.EnsureStreams(t.Context(), task) }), bus.ErrUnavailable)
			require.ErrorContains(t, soon(t, func() error { return b.Close(context.Background()) }), "read-only file system")
			closed = true

			run(t, "umount", dir)
			mounted = false
			check := exec.Command("fsck.ext4", "-p", image)
			if out, err := check.CombinedOutput(); err != nil {
				require.LessOrEqual(t, check.ProcessState.ExitCode(), 1, "%s", out) // 1: it has mended something
			}
			again, err := bus.Open(t.Context(), "nats:"+filepath.Join(mountImage(t, image), "store"))
			require.NoError(t, err)
			defer again.Close(context.Background())
			if level == "always" {
				p.requireHeld(t, again, "task")
			} else {
				synced.requireHeld(t, again, "task")
			}
			require.NoError(t, again.Publish(t.Context(), "task", []byte("-1 again")))
			var resumed collector
			_, err = again.Subscribe(t.Context(), "task", resumed.handle, bus.After(last), bus.OnError(resumed.hook))
			require.NoError(t, err)
			require.Equal(t, 1, resumed.told(bus.ErrGap), "some may be lost behind it, and their sequences given again")
		})
	}
}

// loopOf returns the name of the loop device of a file.
func loopOf(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "-j", file, "-n", "-O", "NAME").Output()
	require.NoError(t, err)
	return filepath.Base(strings.TrimSpace(string(out)))
}

func TestFullDisk_ofAServerThatOthersUseHealsForThem(t *testing.T) {
	dir := smallDisk(t, 48<<20)
	d := &thinDisk{dir: dir, ballast: filepath.Join(dir, "ballast")}
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	for _, level := range []string{"100ms", "always"} {
		b, err := bus.Open(t.Context(), "nats:"+d.store()+"?listen="+addr+"&sync="+level, quietly(t))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
		require.NoError(t, b.EnsureStreams(t.Context(), task))
		other := openURL(t, "nats://"+addr)
		var live collector
		sub, err := other.Subscribe(t.Context(), "task", live.handle)
		require.NoError(t, err)
		d.fill(t, 4<<20)
		var p acknowledged
		require.ErrorIs(t, p.untilRefused(t, b, "task"), bus.ErrUnavailable)
		require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "no space left")
		d.free(t)
		eventually(t, healthy(b), "service again")
		eventually(t, healthy(other), "for others, who connect again")
		require.NoError(t, other.Publish(t.Context(), "task", []byte("-1")))
		p.requireHeld(t, b, "task")
		p.requireHeld(t, other, "task")
		eventually(t, func() bool { return len(live.texts()) > len(p.acked) }, "what was stored, to who was subscribed there")
		require.NoError(t, sub.Err())
		require.NoError(t, other.Close(t.Context()))
		require.NoError(t, b.Close(t.Context()))
		require.NoError(t, os.RemoveAll(d.store()))
	}
}
