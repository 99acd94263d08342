package filebus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

func open(t *testing.T, dir string, opts ...bus.OpenOption) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), "file:"+dir, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

func ensure(t *testing.T, b bus.Bus, cfg bus.StreamConfig) {
	t.Helper()
	cfg.Name, cfg.Subjects = "S", []string{"s.>"}
	require.NoError(t, b.EnsureStreams(t.Context(), cfg))
}

// store publishes texts and returns the cursor of the last.
func store(t *testing.T, b bus.Bus, texts ...string) bus.Cursor {
	t.Helper()
	var r bus.Receipt
	for _, text := range texts {
		require.NoError(t, b.Publish(t.Context(), "s.a", []byte(text), bus.WithReceipt(&r)))
	}
	return r.Cursor
}

// stored returns what a subscription is given from a start on, holes as "gap".
func stored(t *testing.T, b bus.Bus, start bus.SubscribeOption) (texts []string) {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), "s.>", func(_ context.Context, m *bus.Message) error {
		texts = append(texts, string(m.Data))
		return nil
	}, start, bus.OnError(func(p bus.Problem) {
		require.ErrorIs(t, p.Err, bus.ErrGap)
		texts = append(texts, "gap")
	}))
	require.NoError(t, err)
	require.NoError(t, sub.Unsubscribe(t.Context()))
	return texts
}

// copyDir returns a copy of a store, as a power cut would leave it.
func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

func quietly() bus.OpenOption { return bus.WithLogger(slog.New(slog.DiscardHandler)) }

func TestOpen_refusesWhatItDoesNotKnowByName(t *testing.T) {
	for url, want := range map[string]string{
		"file:":                  "directory",
		"file://host/data":       "directory",
		"file:./data?snyc=1":     `"snyc"`,
		"file:./data?sync=often": `"sync"`,
	} {
		_, err := bus.Open(t.Context(), url)
		require.ErrorContains(t, err, want, url)
	}
}

func TestOpen_cutsOffATornRecord(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ensure(t, b, bus.StreamConfig{})
	first := store(t, b, "one")
	size := fileSize(t, dir)
	last := store(t, b, "two")
	require.NoError(t, b.Close(t.Context()))
	for end := size; end <= fileSize(t, dir); end++ {
		torn := copyDir(t, dir)
		require.NoError(t, os.Truncate(filepath.Join(torn, "S.log"), end))
		var log bytes.Buffer
		b := open(t, torn, bus.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		switch end {
		case fileSize(t, dir):
			require.Equal(t, []string{"two"}, stored(t, b, bus.After(first)))
		case size: // exactly between two records it can't be seen
			require.Equal(t, []string{"one"}, stored(t, b, bus.All()))
		default:
			require.Contains(t, log.String(), fmt.Sprintf("byte=%d", size))
			require.Equal(t, []string{"gap", "one"}, stored(t, b, bus.After(last)))
			store(t, b, "again")
			require.Equal(t, []string{"gap", "one", "again"}, stored(t, b, bus.After(first)))
		}
		require.NoError(t, b.Close(t.Context()))
	}
}

func TestOpen_keepsTheEpochWhenAKillHasTornARecord(t *testing.T) {
	for _, mark := range []string{"", "flushed"} {
		dir := t.TempDir()
		b := open(t, dir)
		ensure(t, b, bus.StreamConfig{})
		first := store(t, b, "one")
		store(t, b, "two")
		killed := copyDir(t, dir)
		require.NoError(t, os.Truncate(filepath.Join(killed, "S.log"), fileSize(t, dir)-1))
		if mark != "" {
			require.NoError(t, os.WriteFile(filepath.Join(killed, "lock"), []byte(mark), 0o600))
		} else if !tellsItsStart() {
			continue
		}
		b = open(t, killed, quietly())
		require.Empty(t, stored(t, b, bus.After(first)))
		store(t, b, "again")
		require.Equal(t, []string{"again"}, stored(t, b, bus.After(first)))
	}
}

// tellsItsStart reports whether the system says when it was started.
func tellsItsStart() bool {
	_, err := os.Stat("/proc/sys/kernel/random/boot_id")
	return err == nil
}

func fileSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "S.log"))
	require.NoError(t, err)
	return info.Size()
}

func TestOpen_saysWhereAFileIsDamaged(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ensure(t, b, bus.StreamConfig{})
	store(t, b, "one")
	size := fileSize(t, dir)
	store(t, b, "two")
	require.NoError(t, b.Close(t.Context()))
	whole, err := os.ReadFile(filepath.Join(dir, "S.log"))
	require.NoError(t, err)
	for i := range whole {
		damaged := copyDir(t, dir)
		data := bytes.Clone(whole)
		data[i] ^= 0x40
		require.NoError(t, os.WriteFile(filepath.Join(damaged, "S.log"), data, 0o600))
		b, err := bus.Open(t.Context(), "file:"+damaged, quietly())
		if err == nil { // only what stands last may be what was never finished
			require.GreaterOrEqual(t, int64(i), size)
			require.Equal(t, []string{"one"}, stored(t, b, bus.All()))
			require.NoError(t, b.Close(t.Context()))
			continue
		}
		require.ErrorContains(t, err, "S.log at byte")
		require.ErrorContains(t, err, "damaged")
		require.NotContains(t, err.Error(), "one")
	}
}

func TestOpen_takesAPowerCutForALostEnd(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ensure(t, b, bus.StreamConfig{})
	last := store(t, b, "one", "two")
	killed := copyDir(t, dir)
	require.NoError(t, b.Close(t.Context()))

	// The machine still runs: all is there.
	if tellsItsStart() {
		require.Empty(t, stored(t, open(t, copyDir(t, killed)), bus.After(last)))
	}
	// It was started again.
	require.NoError(t, os.WriteFile(filepath.Join(killed, "lock"), []byte("an earlier start"), 0o600))
	b = open(t, killed)
	require.Equal(t, []string{"gap", "one", "two"}, stored(t, b, bus.After(last)))
	next := store(t, b, "three")
	require.NoError(t, b.Close(t.Context()))
	// After Close there is nothing to fear.
	require.Equal(t, "", readFile(t, filepath.Join(killed, "lock")))
	require.Empty(t, stored(t, open(t, killed), bus.After(next)))
}

func TestOpen_withSyncTakesAPowerCutForAKill(t *testing.T) {
	dir := t.TempDir()
	b, err := bus.Open(t.Context(), "file:"+dir+"?sync=always")
	require.NoError(t, err)
	require.Equal(t, "flushed", readFile(t, filepath.Join(dir, "lock")))
	require.NoError(t, b.Close(t.Context()))
	require.Empty(t, readFile(t, filepath.Join(dir, "lock")))
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}

func TestStream_writesItsFileAnewWhenMostOfItIsDead(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ensure(t, b, bus.StreamConfig{MaxMsgs: 10})
	store(t, b, "gone, but not forgotten")
	require.NoError(t, b.Publish(t.Context(), "s.a", []byte("first"), bus.MessageID("id")))
	live, err := b.Subscribe(t.Context(), "s.a", func(context.Context, *bus.Message) error { return nil })
	require.NoError(t, err)
	var texts []string
	var cursors []bus.Cursor
	for i := range 400 {
		texts = append(texts, fmt.Sprint(i)+strings.Repeat(" ", 10_000))
		cursors = append(cursors, store(t, b, texts[i]))
	}
	require.Less(t, fileSize(t, dir), int64(1<<20+300_000))
	require.NoError(t, live.Unsubscribe(t.Context()))
	for range 2 {
		require.Equal(t, texts[390:], stored(t, b, bus.All()))
		require.Equal(t, texts[395:], stored(t, b, bus.After(cursors[394])))
		require.Equal(t, append([]string{"gap"}, texts[390:]...), stored(t, b, bus.After(cursors[10])))
		var r bus.Receipt
		require.NoError(t, b.Publish(t.Context(), "s.b", []byte("twice"), bus.MessageID("id"), bus.WithReceipt(&r)))
		require.True(t, r.Duplicate)
		require.NoError(t, b.Close(t.Context()))
		b = open(t, dir)
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2) // S.log and lock
}

func TestStream_doesNotBringBackWhatLimitsTook(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ensure(t, b, bus.StreamConfig{})
	store(t, b, "one", "two", "three", "four")
	ensure(t, b, bus.StreamConfig{MaxMsgs: 3})
	ensure(t, b, bus.StreamConfig{MaxMsgsPerSubject: 2})
	ensure(t, b, bus.StreamConfig{MaxAge: time.Hour})
	store(t, b, "five")
	require.Equal(t, []string{"three", "four", "five"}, stored(t, b, bus.All()))
	require.NoError(t, b.Close(t.Context()))
	b = open(t, dir)
	require.Equal(t, []string{"three", "four", "five"}, stored(t, b, bus.All()))
	require.ErrorIs(t, b.Publish(t.Context(), "s.a", nil, bus.ExpectNone()), bus.ErrConflict)
}

// frame makes a record of a body, with its checksums.
func frame(body []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, table))
	return append(binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, table)), body...)
}

func TestRemoveStream_deletesItsFile(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	ensure(t, b, bus.StreamConfig{})
	last := store(t, b, "one")
	require.NoError(t, b.(bus.Remover).RemoveStream(t.Context(), "S"))
	require.NoFileExists(t, filepath.Join(dir, "S.log"))
	require.ErrorIs(t, b.Publish(t.Context(), "s.a", nil, bus.ExpectNone()), bus.ErrNoStream)
	ensure(t, b, bus.StreamConfig{})
	store(t, b, "two")
	require.Equal(t, []string{"gap", "two"}, stored(t, b, bus.After(last)))
}

func FuzzOpen_neverPanics(f *testing.F) {
	dir := f.TempDir()
	b, err := bus.Open(f.Context(), "file:"+dir)
	require.NoError(f, err)
	require.NoError(f, b.EnsureStreams(f.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}}))
	require.NoError(f, b.Publish(f.Context(), "s.a", []byte("one"), bus.WithHeader("K", "v", "w"), bus.MessageID("id")))
	require.NoError(f, b.Close(f.Context()))
	data, err := os.ReadFile(filepath.Join(dir, "S.log"))
	require.NoError(f, err)
	var bodies [][]byte
	for rest := data; len(rest) > 0; {
		n := binary.LittleEndian.Uint32(rest)
		require.Equal(f, rest[:12+n], frame(rest[12:12+n]))
		bodies = append(bodies, rest[12:12+n])
		rest = rest[12+n:]
	}
	require.Len(f, bodies, 2)
	f.Add(bodies[0], bodies[1], []byte(nil))
	f.Add(bodies[0], []byte("i\x05\x02\x02id"), make([]byte, 100))
	f.Add([]byte(nil), bodies[1], data)
	f.Fuzz(func(t *testing.T, head, body, tail []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "S.log"), slices.Concat(frame(head), frame(body), tail), 0o600))
		b, err := bus.Open(t.Context(), "file:"+dir, quietly())
		if err != nil {
			return
		}
		_ = b.Publish(t.Context(), "s.a", []byte("x")) // a strange config may refuse it
		require.NoError(t, b.Close(t.Context()))
	})
}
