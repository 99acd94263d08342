package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

const (
	earlyEnd = 100 // messages that an early image has
	lateEnd  = 110
	afterEnd = 40 // messages that are stored after the crash
)

// crash is what the disks of three members may hold after a crash of their machines: each file as of one of two moments.
type crash struct {
	configs     []natsbus.Config
	early, late string     // directories of images, by member
	last        bus.Cursor // of what was delivered before
}

// crashAll has three members store messages, with an image of each at two moments, and closes them. A durable group has had
// all of them, another one those behind the first image.
func crashAll(t *testing.T) *crash {
	t.Helper()
	c := &crash{configs: memberConfigs(t), early: t.TempDir(), late: t.TempDir()}
	ctx := t.Context()
	buses := openMembers(t, func(i int, config *natsbus.Config) { *config = c.configs[i] })
	require.NoError(t, buses[0].EnsureStreams(ctx, chat))
	requireHealthy(t, buses...)
	publish := func(from, through int) {
		for i := from; i <= through; i++ {
			require.NoError(t, buses[0].Publish(ctx, "chat.Go", fmt.Appendf(nil, "before %d", i)))
		}
	}
	image := func(to, last string) {
		requireHealthy(t, buses...)
		c.awaitLast(t, last) // the servers write in the background
		c.image(t, to)
	}
	var all, late collector
	_, err := buses[0].Subscribe(ctx, "chat.*", all.handle, bus.DurableGroup("all"), bus.Attempts(0))
	require.NoError(t, err)
	publish(1, earlyEnd)
	eventually(t, func() bool { return len(all.texts()) == earlyEnd }, "the group to have the first ones")
	image(c.early, fmt.Sprint("before ", earlyEnd))
	publish(earlyEnd+1, lateEnd-5)
	_, err = buses[1].Subscribe(ctx, "chat.*", late.handle, bus.DurableGroup("late"), bus.Attempts(0))
	require.NoError(t, err)
	publish(lateEnd-4, lateEnd)
	eventually(t, func() bool { return len(all.texts()) == lateEnd && len(late.texts()) == 5 }, "the groups to have all")
	image(c.late, fmt.Sprint("before ", lateEnd))
	c.last = all.messages[lateEnd-1].Cursor
	closeAll(t, buses...)
	return c
}

// image copies what the disks of members that run hold.
func (c *crash) image(t *testing.T, to string) {
	t.Helper()
	for i, config := range c.configs {
		copyDir(t, filepath.Join(to, names[i]), config.Dir)
	}
}

// copyDir copies a directory in which files are renamed meanwhile.
func copyDir(t *testing.T, to, from string) {
	t.Helper()
	err := os.CopyFS(to, os.DirFS(from))
	for errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, os.RemoveAll(to))
		err = os.CopyFS(to, os.DirFS(from))
	}
	require.NoError(t, err)
}

// epochOf is the one of the stream.
func epochOf(t *testing.T, b bus.Bus) string {
	t.Helper()
	streams, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.Len(t, streams, 1)
	return streams[0].Last.Epoch()
}

func closeAll(t *testing.T, buses ...bus.Bus) {
	t.Helper()
	var closing sync.WaitGroup
	for _, b := range buses {
		closing.Go(func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
}

// What the disk of a member's machine has written of two images.
const (
	early   = 'e' // all as it was early
	late    = 'l' // all as it was late
	logBack = 'b' // late, but the log of the stream
	logLate = 'o' // late, but the messages of the stream, which its log adds
	ends    = 's' // late, but the stream and its log: groups are further
	intact  = 'i' // late, and the machine hasn't crashed
)

// restore puts back what the disks of a crash have.
func (c *crash) restore(t *testing.T, disks string) {
	t.Helper()
	for i, disk := range disks {
		c.restoreOne(t, i, disk)
	}
}

func (c *crash) restoreOne(t *testing.T, i int, disk rune) {
	t.Helper()
	dir, from := c.configs[i].Dir, c.late
	if disk == early {
		from = c.early
	}
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(from, names[i]))))
	back := func(pattern string) {
		t.Helper()
		paths, err := filepath.Glob(filepath.Join(c.early, names[i], "jetstream", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		for _, path := range paths {
			rest, err := filepath.Rel(filepath.Join(c.early, names[i]), path)
			require.NoError(t, err)
			require.NoError(t, os.RemoveAll(filepath.Join(dir, rest)))
			require.NoError(t, os.CopyFS(filepath.Join(dir, rest), os.DirFS(path)))
		}
	}
	switch disk {
	case logBack:
		back("$SYS/_js_/S-*")
	case logLate:
		back("$G/streams/" + chat.Name + "/msgs")
	case ends:
		back("$SYS/_js_/S-*")
		back("$G/streams/" + chat.Name + "/msgs")
	}
	if disk == intact {
		require.NoError(t, os.Remove(filepath.Join(dir, "jitney.boot")))
	} else {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "jitney.boot"), []byte("another start"), 0o600))
	}
}

// settled reports whether no member suspects a replica.
func (c *crash) settled() bool { return settled(c.configs) }

func settled(members []natsbus.Config) bool {
	for _, config := range members {
		if _, err := os.Stat(filepath.Join(config.Dir, "jitney.crash")); err == nil {
			return false
		}
	}
	return true
}

// awaitLast returns when all have stored what was published last.
func (c *crash) awaitLast(t *testing.T, text string) {
	t.Helper()
	for i := range c.configs {
		require.Eventually(t, func() bool { return strings.HasSuffix(strings.Join(c.stored(t, i), "\n"), " "+text) }, clusterPatience, 100*time.Millisecond, names[i])
	}
}

// requireSame checks that closed members have the same messages of the stream, and some of them.
func (c *crash) requireSame(t *testing.T, after ...string) {
	t.Helper()
	var first []string
	for i := range c.configs {
		have := c.stored(t, i)
		if i == 0 {
			first = have
		}
		require.Equal(t, first, have, names[i])
	}
	for _, text := range after {
		n := 0
		for _, line := range first {
			if _, have, _ := strings.Cut(line, " "); have == text {
				n++
			}
		}
		require.Positive(t, n, text)
	}
}

// stored is what a member's directory has of the stream.
func (c *crash) stored(t *testing.T, i int) []string {
	t.Helper()
	return natsbus.Stored(t, filepath.Join(c.configs[i].Dir, "jetstream", "$G", "streams", chat.Name))
}

// noted keeps what is written.
type noted struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *noted) Write(text []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(text)
}

func (n *noted) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// shownOnFailure keeps what is written, and shows it at the end of a test that has failed.
func shownOnFailure(t *testing.T) *noted {
	n := &noted{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n)
		}
	})
	return n
}

// open opens some of the members together. The others are nil. What fails is an error of the test.
func (c *crash) open(t *testing.T, problems *[3]collector, which ...int) []bus.Bus {
	t.Helper()
	said := slog.New(slog.NewTextHandler(shownOnFailure(t), nil))
	buses := make([]bus.Bus, len(c.configs))
	var opening sync.WaitGroup
	for _, i := range which {
		opening.Go(func() {
			var err error
			log := said.With("member", names[i])
			hook := func(p bus.Problem) {
				log.Info("told", "error", p.Err, "subscription", p.Pattern)
				problems[i].hook(p)
			}
			if buses[i], err = c.configs[i].Open(t.Context(), bus.WithLogger(log), bus.OnError(hook)); err != nil {
				t.Error(err)
			}
		})
	}
	opening.Wait()
	t.Cleanup(func() {
		for i, b := range buses {
			if b != nil && t.Failed() {
				t.Logf("consumers of %s: %s", names[i], strings.Join(natsbus.Consumers(b), "\n"))
			}
		}
		for _, b := range buses {
			if b != nil {
				_ = b.Close(context.Background()) // the test may have
			}
		}
	})
	return buses
}

// whileServersStart does something that fails while servers are started anew. An unknown outcome is done again.
func whileServersStart(t *testing.T, do func() error) {
	t.Helper()
	err := do()
	for errors.Is(err, bus.ErrUnavailable) && t.Context().Err() == nil {
		err = do()
	}
	require.NoError(t, err)
}

// readWhileServersStart subscribes to the chat.
func readWhileServersStart(t *testing.T, b bus.Bus, by *collector, opts ...bus.SubscribeOption) {
	t.Helper()
	whileServersStart(t, func() error {
		_, err := b.Subscribe(t.Context(), "chat.*", by.handle, opts...)
		return err
	})
}

// publishAfter has members store what comes after the crash, by turns.
func publishAfter(t *testing.T, by ...bus.Bus) (texts []string) {
	t.Helper()
	for i := range afterEnd {
		text := fmt.Sprint("after ", i)
		b := by[i%len(by)]
		whileServersStart(t, func() error { return b.Publish(t.Context(), "chat.Go", []byte(text)) })
		texts = append(texts, text)
		time.Sleep(50 * time.Millisecond)
	}
	return texts
}

func containsAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(text string) bool { return !slices.Contains(have, text) })
}

// elsewhere is the same crash of members with directories of their own.
func (c *crash) elsewhere(t *testing.T) *crash {
	t.Helper()
	return &crash{configs: memberConfigs(t), early: c.early, late: c.late, last: c.last}
}
