package natsbus_test

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// What docs/operate.md says that a message takes, by the stream's own count and on the disk.
func TestSize_aMessageTakesItsBytesAndThirtyOnTheDisk(t *testing.T) {
	t.Parallel()
	const n = 10_000
	for _, c := range []struct {
		what    string
		data    int
		options []bus.PublishOption
		more    int // bytes of a header
	}{
		{"100 bytes", 100, nil, 0},
		{"1,000 bytes", 1000, nil, 0},
		// NATS/1.0, a line of its own, and two line ends more
		{"100 bytes with a header", 100, []bus.PublishOption{bus.WithHeader("Kind", "line")}, 4 + len("NATS/1.0\r\nKind: line\r\n\r\n")},
	} {
		dir := t.TempDir()
		b, err := natsbus.Open(t.Context(), dir)
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"room.one"}}))
		data := []byte(strings.Repeat("x", c.data))
		async := b.(bus.AsyncPublisher)
		for range n {
			async.PublishAsync(t.Context(), "room.one", data, nil, c.options...)
		}
		require.NoError(t, b.Publish(t.Context(), "room.one", data, c.options...)) // all before it are stored
		streams, err := b.(bus.StreamLister).Streams(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.Close(context.Background()))
		require.Equal(t, uint64(n+1), streams[0].Msgs)
		each := len("room.one") + c.data + 30 + c.more
		require.Equal(t, uint64(each*(n+1)), streams[0].Bytes)
		disk := int64(0)
		require.NoError(t, filepath.WalkDir(filepath.Join(dir, "jetstream"), func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			disk += info.Size()
			return err
		}))
		require.InEpsilon(t, each*n, disk, 0.01, "nothing else is of a size")
		t.Logf("%s: %d bytes by the stream's count, %.1f on the disk", c.what, each, float64(disk)/(n+1))
	}
}
