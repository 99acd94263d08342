package natsbus_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

func TestLives_whatClientsCantBeToldIsLoggedAndToldAtTheNextOpening(t *testing.T) {
	disk := &thinDisk{dir: smallDisk(t, 64<<20)}
	disk.ballast = filepath.Join(disk.dir, "ballast")
	s := serveStore(t, disk.dir)
	c := s.lose(t)
	disk.fill(t, 48<<10) // for what the store itself writes when it is opened
	var log noted
	s.start(t, bus.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.Contains(t, log.String(), "clients can't be told yet that streams have lost their end")
	require.Contains(t, log.String(), "no space left")
	disk.free(t)
	s.stop(t)
	s.start(t)
	require.NotEqual(t, c.Epoch(), requireAgreed(t, s.open, s.client(t)))
	s.end(t)
}

// ext4 gives the numbers of files that were removed to the next ones.
func TestLives_aCopyThatIsPutBackIsKnownWhereNumbersOfFilesAreGivenAgain(t *testing.T) {
	memory := smallDisk(t, 80<<20)
	image := filepath.Join(memory, "disk")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 64<<20))
	run(t, "mkfs.ext4", "-q", "-F", "-I", "256", image)
	disk := mountImage(t, image)
	dir, backup := filepath.Join(disk, "store"), filepath.Join(t.TempDir(), "backup")
	number := func() uint64 {
		info, err := os.Stat(filepath.Join(dir, "jitney.marks"))
		require.NoError(t, err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	stored(t, dir, 10)
	run(t, "cp", "-a", dir, backup)
	before, again := number(), false
	for range 10 {
		c := stored(t, dir, 5)
		require.NoError(t, os.RemoveAll(dir))
		run(t, "cp", "-a", backup, dir)
		again = again || number() == before
		stored(t, dir, 10) // more than were lost
		require.Equal(t, 1, resumed(t, dir, c).told(bus.ErrGap))
		require.NoError(t, os.RemoveAll(dir))
		run(t, "cp", "-a", backup, dir)
	}
	t.Log("the same number again:", again)
}
