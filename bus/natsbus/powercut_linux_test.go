package natsbus_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// image is a disk in a file, mounted at dir.
func image(t *testing.T, file string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", "-o", "loop", file, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// cutPower has a child publish at a level on a disk of its own until so many are acknowledged, and returns what was, and
// a bus on what the disk had then.
func cutPower(t *testing.T, level string, enough int) (acked [writers]int, b bus.Bus) {
	needRoot(t)
	disk, left := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "left")
	require.NoError(t, os.WriteFile(disk, nil, 0o600))
	require.NoError(t, os.Truncate(disk, 64<<20))
	run(t, "mkfs.ext4", "-q", "-F", disk)
	dir := image(t, disk)

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), writeURL+"=nats:"+dir+"/store?sync="+level)
	child.Stderr = os.Stderr
	pipe, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	late := time.AfterFunc(time.Minute, func() { _ = child.Process.Kill() }) // it may have ended
	defer late.Stop()
	lines := bufio.NewScanner(pipe)
	for seen := 0; lines.Scan(); {
		var w, n int
		_, err := fmt.Sscan(lines.Text(), &w, &n)
		require.NoError(t, err, lines.Text())
		acked[w] = n
		if seen++; seen == enough {
			require.NoError(t, child.Process.Signal(syscall.SIGSTOP))
			copyFile(t, disk, left) // what the disk has now is what a power cut leaves
			require.NoError(t, child.Process.Kill())
		}
	}
	require.Error(t, child.Wait())

	b, err = bus.Open(t.Context(), "nats:"+image(t, left)+"/store")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return acked, b
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	require.NoError(t, err)
	defer dst.Close()
	_, err = io.Copy(dst, src)
	require.NoError(t, err)
}

// lost returns how many of the acknowledged messages aren't there.
func lost(t *testing.T, b bus.Bus, acked [writers]int) (lost int) {
	t.Helper()
	var got collector
	_, err := b.Subscribe(t.Context(), "a.*", got.handle, bus.All())
	require.NoError(t, err)
	var have [writers]int
	for _, m := range got.messages {
		var w, n int
		_, err := fmt.Sscanf(m.Subject+" "+string(m.Data), "a.%d %d", &w, &n)
		require.NoError(t, err)
		require.Equal(t, have[w]+1, n, "in order, once, without a hole")
		have[w] = n
	}
	for w := range writers {
		lost += max(0, acked[w]-have[w])
	}
	return lost
}

func TestPowerCut_syncAlwaysLosesNothingThatWasAcknowledged(t *testing.T) {
	acked, b := cutPower(t, "always", 2000)
	require.Zero(t, lost(t, b, acked))
}

func TestPowerCut_anIntervalKeepsANewStream(t *testing.T) {
	acked, b := cutPower(t, "100ms", 20000)
	infos, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.Len(t, infos, 1, "the stream was created a moment before")
	all := 0
	for _, n := range acked {
		all += n
	}
	t.Logf("lost %d of %d", lost(t, b, acked), all)
}
