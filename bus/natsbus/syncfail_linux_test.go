package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jitney-go/jitney/bus"
)

// thinDisk is a disk that has room, by its own account, for what the memory below it then can't take: writing
// succeeds and syncing fails, as on a thin volume, or where a disk is dying.
type thinDisk struct{ file, dir, ballast string }

func newThinDisk(t *testing.T) *thinDisk {
	t.Helper()
	memory := smallDisk(t, diskSize+8<<20)
	d := &thinDisk{file: filepath.Join(memory, "disk"), ballast: filepath.Join(memory, "ballast")}
	require.NoError(t, os.WriteFile(d.file, nil, 0o600))
	require.NoError(t, os.Truncate(d.file, diskSize))
	run(t, "mkfs.ext4", "-q", "-F", d.file)
	text, err := os.ReadFile(d.file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(d.file, text, 0o600)) // has room for all of it, the journal included
	d.dir = mountImage(t, d.file)
	run(t, "fstrim", d.dir) // what the file system hasn't in use is given back to the memory
	return d
}

// fill leaves the memory with room for so many bytes.
func (d *thinDisk) fill(t *testing.T, room int64) {
	t.Helper()
	f, err := os.Create(d.ballast)
	require.NoError(t, err)
	defer f.Close()
	size := int64(0)
	for chunk := make([]byte, 64<<10); err == nil; {
		var n int
		n, err = f.Write(chunk)
		size += int64(n)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Truncate(size-room))
}

func (d *thinDisk) free(t *testing.T) {
	t.Helper()
	require.NoError(t, os.Remove(d.ballast))
}

// cut opens the store that a power cut would leave now. An image is of one moment if nothing has changed while it was taken.
func (d *thinDisk) cut(t *testing.T) bus.Bus {
	t.Helper()
	left := filepath.Join(smallDisk(t, diskSize+8<<20), "left")
	image := func() []byte {
		text, err := os.ReadFile(d.file)
		require.NoError(t, err)
		return text
	}
	one, other := image(), image()
	for tries := 0; !bytes.Equal(one, other); tries++ {
		require.Less(t, tries, 100, "the disk isn't at rest")
		one, other = other, image()
	}
	require.NoError(t, os.WriteFile(left, one, 0o600))
	b, err := bus.Open(t.Context(), "nats:"+filepath.Join(mountImage(t, left), "store"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

// acknowledged publishes messages of a subject that begin with a number, until one isn't accepted.
type acknowledged struct {
	next  int
	acked []int
}

func (p *acknowledged) publish(t *testing.T, b bus.Bus, subject string) error {
	t.Helper()
	began := time.Now()
	err := b.Publish(t.Context(), subject, fmt.Appendf(nil, "%d %s", p.next, strings.Repeat("x", 32<<10)))
	require.Less(t, time.Since(began), 9*time.Second, "it is said, not waited for")
	if err == nil {
		p.acked = append(p.acked, p.next)
	}
	p.next++
	return err
}

func (p *acknowledged) untilRefused(t *testing.T, b bus.Bus, subject string) (err error) {
	t.Helper()
	for err == nil {
		require.Less(t, len(p.acked), 1<<15, "the disk takes no end")
		err = p.publish(t, b, subject)
	}
	return err
}

// requireHeld requires that all that was acknowledged is there, once.
func (p *acknowledged) requireHeld(t *testing.T, b bus.Bus, subject string) {
	t.Helper()
	var all collector
	_, err := b.Subscribe(t.Context(), subject, all.handle, bus.All(), bus.OnError(all.hook))
	require.NoError(t, err)
	count := map[int]int{}
	for _, text := range all.texts() {
		number, _, _ := strings.Cut(text, " ")
		n, err := strconv.Atoi(number)
		require.NoError(t, err)
		count[n]++
	}
	require.NotEmpty(t, p.acked)
	var wrong []string
	for _, n := range p.acked {
		if count[n] != 1 {
			wrong = append(wrong, fmt.Sprintf("%d: %d times", n, count[n]))
		}
	}
	require.Empty(t, wrong, "of %d that were acknowledged and are to be there once", len(p.acked))
}

// dropClean has the system drop from its memory what it takes to be on the disk, as where it is short of it.
func dropClean(t *testing.T, store string) {
	t.Helper()
	eventually(t, func() bool {
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		_, locked, _ := strings.Cut(string(status), "VmLck:")
		return !strings.HasPrefix(strings.TrimSpace(locked), "0 kB")
	}, "what the disk refused to be kept in memory")
	drop(t, blockFilesOf(t, store))
}

func drop(t *testing.T, paths []string) {
	t.Helper()
	for _, path := range paths {
		f, err := os.Open(path)
		require.NoError(t, err)
		require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		require.NoError(t, f.Close())
	}
}

func blockFilesOf(t *testing.T, store string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(store, "jetstream", "$G", "streams", "*", "msgs", "*.blk"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	return paths
}

func TestSyncFailure_isSaidAndWhatIsAcknowledgedSurvivesAPowerCut(t *testing.T) {
	for _, level := range []string{"always", "100ms"} {
		t.Run(level, func(t *testing.T) {
			d := newThinDisk(t)
			store := filepath.Join(d.dir, "store")
			b, err := bus.Open(t.Context(), "nats:"+store+"?sync="+level)
			require.NoError(t, err)
			closed := false
			defer func() {
				if !closed {
					_ = b.Close(context.Background()) // the test has failed
				}
			}()
			require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}}))
			d.fill(t, 3<<20)
			var p acknowledged
			refused := p.untilRefused(t, b, "a")
			require.ErrorIs(t, refused, bus.ErrUnavailable)
			require.ErrorContains(t, refused, "sync ")
			diskError := func(err error) { // which of the two ext4 says is a matter of where it notices
				require.Regexp(t, "(no space left on device|input/output error)$", err.Error())
			}
			diskError(refused)
			health := b.(bus.HealthChecker).Health(t.Context())
			require.ErrorIs(t, health, bus.ErrUnavailable)
			require.ErrorContains(t, health, "the store in "+store+" can't be written to")
			diskError(health)
			err = p.publish(t, b, "a")
			require.ErrorIs(t, err, bus.ErrUnavailable)
			require.False(t, errors.Is(err, bus.ErrUnknownOutcome), "it wasn't even tried: %v", err)
			if level == "always" {
				// Of the last one a loop device may have said that it is written when the memory had taken its beginning (lo_complete_rq).
				before := acknowledged{acked: p.acked[:len(p.acked)-1]}
				before.requireHeld(t, d.cut(t), "a")
			}

			dropClean(t, store)
			d.free(t)
			eventually(t, healthy(b), "service again")
			p.requireHeld(t, d.cut(t), "a")
			for range 20 {
				require.NoError(t, p.publish(t, b, "a"))
			}
			p.requireHeld(t, b, "a")
			if level == "always" {
				p.requireHeld(t, d.cut(t), "a")
			}
			require.NoError(t, b.Close(context.Background()))
			closed = true
			p.requireHeld(t, d.cut(t), "a")
		})
	}
}

// The server syncs by itself what others have it store.
func TestSyncFailure_ofAServerThatOthersUseLosesNothingOfTheirs(t *testing.T) {
	d := newThinDisk(t)
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	b, err := bus.Open(t.Context(), "nats:"+filepath.Join(d.dir, "store")+"?sync=always&listen="+addr, quietly(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) }) // the test closes it, unless it fails
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}}))
	other := openURL(t, "nats://"+addr)
	d.fill(t, 3<<20)
	var p acknowledged
	for healthy(b)() { // it leaves them without an answer
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := other.Publish(ctx, "a", fmt.Appendf(nil, "%d %s", p.next, strings.Repeat("x", 32<<10))); err == nil {
			p.acked = append(p.acked, p.next)
		}
		cancel()
		p.next++
	}
	require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "can't be written to")
	before := acknowledged{acked: p.acked[:len(p.acked)-1]} // as above
	before.requireHeld(t, d.cut(t), "a")
	d.free(t)
	eventually(t, healthy(b), "service again")
	eventually(t, healthy(other), "for others, who connect again")
	require.NoError(t, p.publish(t, other, "a"))
	p.requireHeld(t, other, "a")
	p.requireHeld(t, d.cut(t), "a")
	require.NoError(t, other.Close(t.Context()))
	require.NoError(t, b.Close(t.Context()))
}

func TestSyncFailure_isSaidToAllWhoWaitTogether(t *testing.T) {
	d := newThinDisk(t)
	b, err := bus.Open(t.Context(), "nats:"+filepath.Join(d.dir, "store")+"?sync=always")
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) }) // the test closes it, unless it fails
	subject := func(i int) string { return fmt.Sprint("a.", i) }
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a.*"}}))
	d.fill(t, 10<<20)
	publishers, refused := make([]acknowledged, 32), make([]error, 32)
	var all sync.WaitGroup
	for i := range publishers {
		p := &publishers[i]
		all.Go(func() {
			for refused[i] == nil {
				refused[i] = b.Publish(context.Background(), subject(i), fmt.Appendf(nil, "%d %s", p.next, strings.Repeat("x", 8<<10)))
				if refused[i] == nil {
					p.acked = append(p.acked, p.next)
				}
				p.next++
			}
		})
	}
	all.Wait()
	for _, err := range refused {
		require.ErrorIs(t, err, bus.ErrUnavailable)
	}
	d.free(t)
	eventually(t, healthy(b), "service again")
	left := d.cut(t)
	for i := range publishers {
		publishers[i].requireHeld(t, left, subject(i))
		require.NoError(t, publishers[i].publish(t, b, subject(i)))
		publishers[i].requireHeld(t, b, subject(i))
	}
	require.NoError(t, b.Close(t.Context()))
}
