package natsbus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// small is a stream whose limit makes the server's files small (dynBlkSize in its filestore.go), so that a few
// messages fill several. It holds all of them.
var small = bus.StreamConfig{Name: "SMALL", Subjects: []string{"small.*"}, MaxBytes: 127_000}

const smallMsgs = 720 // in four files

func smallText(n int) string { return fmt.Sprintf("%d %s", n, strings.Repeat("x", 100)) }

// filled makes a store of which the message of sequence n says n, half of them with a header, and returns a cursor for each.
func filled(t *testing.T, dir string) (cursors []bus.Cursor) {
	t.Helper()
	b, err := natsbus.Open(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), small))
	for n := 1; n <= smallMsgs; n++ {
		var r bus.Receipt
		options := []bus.PublishOption{bus.WithReceipt(&r)}
		if n%2 == 0 {
			options = append(options, bus.WithHeader("Number", strconv.Itoa(n)))
		}
		require.NoError(t, b.Publish(t.Context(), fmt.Sprint("small.", n%3), []byte(smallText(n)), options...))
		cursors = append(cursors, r.Cursor)
	}
	require.NoError(t, b.Close(context.Background()))
	return cursors
}

// blockFiles returns the files of messages of the small stream, in their order.
func blockFiles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(smallDir(dir), "msgs", "*.blk"))
	require.NoError(t, err)
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })
	require.Len(t, found, 4)
	return found
}

func smallDir(dir string) string { return filepath.Join(dir, "jetstream", "$G", "streams", "SMALL") }

func edit(t *testing.T, path string, change func(text []byte) []byte) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, change(text), 0o600))
}

// recordsOf returns where the records of a file begin.
func recordsOf(text []byte) (starts []int) {
	for at := 0; at < len(text); at += int(binary.LittleEndian.Uint32(text[at:]) &^ (1 << 31)) {
		starts = append(starts, at)
	}
	return starts
}

// flip changes a bit in the middle of a file's middle record: it is in the data.
func flip(text []byte) []byte {
	starts := recordsOf(text)
	text[starts[len(starts)/2]+80] ^= 4
	return text
}

// told is what a subscription was given, and told in between.
type told struct {
	collector
	gaps   []int // how many messages had come when a gap was told
	mended bool  // the store may be mended meanwhile
}

func (c *told) hook(p bus.Problem) {
	c.collector.hook(p)
	if !errors.Is(p.Err, bus.ErrGap) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gaps = append(c.gaps, len(c.messages))
}

// judge requires that what comes behind a cursor (zero: from the start) is what was stored there, in order, and that where
// anything is missing a gap was told before the next message. It returns how many of the stored messages came.
func (c *told) judge(t *testing.T, behind bus.Cursor) (came int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.problems {
		if !c.mended || !errors.Is(p.Err, bus.ErrUnavailable) {
			require.ErrorIs(t, p.Err, bus.ErrGap)
		}
	}
	last := behind
	for i, m := range c.messages {
		if m.Cursor.Epoch() != last.Epoch() && i+1 > 1 || m.Cursor.Sequence() != last.Sequence()+1 {
			if !last.IsZero() {
				require.Contains(t, c.gaps, i, "a gap before %s, behind %s", m.Cursor, last)
			}
		}
		last = m.Cursor
		if bytes.HasPrefix(m.Data, []byte("new")) {
			continue
		}
		came++
		number, _, _ := strings.Cut(string(m.Data), " ")
		n, err := strconv.Atoi(number)
		require.NoError(t, err)
		require.Equal(t, m.Cursor.Sequence(), uint64(n))
		require.Equal(t, smallText(n), string(m.Data))
		require.Equal(t, fmt.Sprint("small.", n%3), m.Subject)
		if n%2 == 0 {
			require.Equal(t, []string{number}, m.Header["Number"])
		}
	}
	return came
}

// use opens the store, as a program does, and judges what a reader from the start, one that resumes in the middle, one that
// resumes at the end and one of a single subject are given, and that publishing works. It returns how many messages are left, and what
// Health said.
func use(t *testing.T, dir string, cursors []bus.Cursor, opts ...bus.OpenOption) (left int, health error) {
	t.Helper()
	b, err := natsbus.Open(t.Context(), dir, opts...)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	require.NoError(t, b.EnsureStreams(t.Context(), small))
	health = b.(bus.HealthChecker).Health(t.Context())
	middle, end := cursors[100], cursors[len(cursors)-1]
	var all, resumed, atEnd, one told
	for _, r := range []struct {
		c       *told
		pattern string
		start   bus.SubscribeOption
	}{
		{&all, "small.*", bus.All()}, {&resumed, "small.*", bus.After(middle)}, {&atEnd, "small.*", bus.After(end)}, {&one, "small.1", bus.All()},
	} {
		_, err := b.Subscribe(t.Context(), r.pattern, r.c.handle, r.start, bus.OnError(r.c.hook))
		require.NoError(t, err)
	}
	require.NoError(t, b.Publish(t.Context(), "small.1", []byte("new")))
	for _, c := range []*told{&all, &resumed, &atEnd, &one} {
		eventually(t, func() bool { texts := c.texts(); return len(texts) > 0 && texts[len(texts)-1] == "new" }, "what is published then")
	}
	left = all.judge(t, bus.Cursor{})
	resumed.judge(t, middle)
	atEnd.judge(t, end)
	if len(all.gaps) > 0 {
		require.NotEmpty(t, one.gaps, "nobody knows of which subject the missing ones were")
	}
	return left, health
}

func TestDamage_isMendedOrToldAndNeverPassedOverInSilence(t *testing.T) {
	t.Parallel()
	noIndex := func(t *testing.T, dir string) {
		require.NoError(t, os.Remove(filepath.Join(smallDir(dir), "msgs", "index.db")))
	}
	file := func(i int, change func(text []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { edit(t, blockFiles(t, dir)[i], change) }
	}
	remove := func(i int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { require.NoError(t, os.Remove(blockFiles(t, dir)[i])) }
	}
	both := func(harms ...func(t *testing.T, dir string)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, harm := range harms {
				harm(t, dir)
			}
		}
	}
	short := func(text []byte) []byte { return text[:len(text)*2/3] }
	empty := func([]byte) []byte { return nil }
	zeros := func(text []byte) []byte { return make([]byte, len(text)) }
	garbage := func(text []byte) []byte {
		for i := range text {
			text[i] = byte(i*7 + i/256)
		}
		return text
	}
	config := func(name string, change func(text []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { edit(t, filepath.Join(smallDir(dir), name), change) }
	}
	for _, row := range []struct {
		name string
		harm func(t *testing.T, dir string)
		lost int    // messages, at most
		says string // Health
	}{
		{"nothing", func(*testing.T, string) {}, 0, ""},
		{"no index", noIndex, 0, ""},
		{"index garbage", func(t *testing.T, dir string) { edit(t, filepath.Join(smallDir(dir), "msgs", "index.db"), garbage) }, 0, ""},
		{"bit in an old file", file(1, flip), 1, "SMALL"},
		{"bit in the first file", file(0, flip), 1, "SMALL"},
		{"bit in the last file", file(3, flip), 1, "SMALL"},
		{"bit in an old file, no index", both(file(1, flip), noIndex), 1, "SMALL"},
		{"bit in the last file, no index", both(file(3, flip), noIndex), 1, "SMALL"},
		{"bits in all files", both(file(0, flip), file(1, flip), file(2, flip), file(3, flip)), 4, "SMALL"},
		{"old file shortened", file(1, short), smallMsgs / 4, "SMALL"},
		{"last file shortened", file(3, short), smallMsgs / 4, "SMALL"},
		{"last file shortened, no index", both(file(3, short), noIndex), smallMsgs / 4, "SMALL"},
		{"old file garbage", file(1, garbage), smallMsgs / 3, "SMALL"},
		{"old file garbage, no index", both(file(1, garbage), noIndex), smallMsgs / 3, "SMALL"},
		{"last file garbage", file(3, garbage), smallMsgs / 3, "SMALL"},
		{"last file zeros", file(3, zeros), smallMsgs / 3, "SMALL"},
		{"first file zeros", file(0, zeros), smallMsgs / 3, "SMALL"},
		{"old file empty", file(1, empty), smallMsgs / 3, ""},
		{"last file empty", file(3, empty), smallMsgs / 3, ""},
		{"first file gone", remove(0), smallMsgs / 3, ""},
		{"old file gone", remove(1), smallMsgs / 3, ""},
		{"old file gone, no index", both(remove(1), noIndex), smallMsgs / 3, ""},
		{"last file gone", remove(3), smallMsgs / 3, ""},
		{"last file gone, no index", both(remove(3), noIndex), smallMsgs / 3, ""},
		{"all files gone", both(remove(3), func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(smallDir(dir), "msgs")))
		}), smallMsgs, ""},
		{"config gone", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(smallDir(dir), "meta.inf")))
		}, 0, ""},
		{"config empty", config("meta.inf", empty), 0, ""},
		{"bit in the config", config("meta.inf", func(text []byte) []byte { text[len(text)/2] ^= 1; return text }), 0, ""},
		{"hash of the config gone", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(smallDir(dir), "meta.sum")))
		}, 0, ""},
		{"bit in the hash of the config", config("meta.sum", func(text []byte) []byte { text[3] ^= 1; return text }), 0, ""},
		{"stream gone", func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(smallDir(dir))) }, smallMsgs, ""},
		{"all gone but the record", func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "jetstream"))) }, smallMsgs, ""},
	} {
		for _, stop := range []string{"closed", "killed"} {
			t.Run(row.name+", "+stop, func(t *testing.T) {
				dir := t.TempDir()
				cursors := filled(t, dir)
				if stop == "killed" { // as far as the record says
					edit(t, filepath.Join(dir, "jitney.lives"), func(text []byte) []byte {
						return bytes.Replace(text, []byte(`"open":false`), []byte(`"open":true`), 1)
					})
				}
				row.harm(t, dir)
				var problems collector
				left, health := use(t, dir, cursors, bus.OnError(problems.hook), bus.WithLogger(slog.New(slog.DiscardHandler)))
				require.GreaterOrEqual(t, left, smallMsgs-row.lost, "messages that are left")
				torn := stop == "killed" && strings.HasPrefix(row.name, "last file")
				if row.says == "" || torn {
					require.NoError(t, health)
				} else {
					require.ErrorContains(t, health, row.says)
					require.Positive(t, problems.told(bus.ErrGap), "the hook of the bus")
					kept, err := os.ReadDir(filepath.Join(dir, "damaged"))
					require.NoError(t, err)
					require.NotEmpty(t, kept, "the file as it was")
				}
				again, health := use(t, dir, cursors)
				require.Equal(t, left, again, "nothing more is lost when it is opened again")
				require.NoError(t, health)
			})
		}
	}
}

// Each byte of a record in turn: the length of the record, the sequence (for which the server would ask for all memory of the
// machine), the time, subject, header, data and hash. The one that nothing covers is the length of a subject where there is no header.
func TestDamage_ofAnyByteTakesAtMostItsMessage(t *testing.T) {
	t.Parallel()
	quiet := bus.WithLogger(slog.New(slog.DiscardHandler))
	for _, header := range []bool{false, true} {
		whole := t.TempDir()
		b, err := natsbus.Open(t.Context(), whole)
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"a"}}))
		for n := 1; n <= 10; n++ {
			var options []bus.PublishOption
			if header {
				options = append(options, bus.WithHeader("Key", "value"))
			}
			require.NoError(t, b.Publish(t.Context(), "a", fmt.Append(nil, n), options...))
		}
		require.NoError(t, b.Close(context.Background()))
		name := filepath.Join("jetstream", "$G", "streams", "S", "msgs", "1.blk")
		text, err := os.ReadFile(filepath.Join(whole, name))
		require.NoError(t, err)
		starts := recordsOf(text)
		require.Len(t, starts, 10)
		for at := starts[4]; at < starts[5]; at++ {
			offset := at - starts[4]
			if !header && (offset == 20 || offset == 21) {
				continue
			}
			dir := filepath.Join(t.TempDir(), "store")
			require.NoError(t, os.CopyFS(dir, os.DirFS(whole)))
			harmed := bytes.Clone(text)
			harmed[at] ^= 1 << (offset % 8)
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), harmed, 0o600))
			b, err := natsbus.Open(t.Context(), dir, quiet)
			require.NoError(t, err)
			var got collector
			_, err = b.Subscribe(t.Context(), "a", got.handle, bus.All(), bus.OnError(got.hook))
			require.NoError(t, err)
			texts := got.texts()
			if len(texts) == 9 {
				texts = slices.Insert(texts, 4, "5")
				require.Equal(t, 1, got.told(bus.ErrGap), "byte %d", offset)
				require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "stream S from 5 to 5")
			}
			require.Equal(t, []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}, texts, "byte %d", offset)
			for _, m := range got.messages {
				if header {
					require.Equal(t, bus.Header{"Key": {"value"}}, m.Header)
				}
			}
			if offset < 4 || header && offset >= 23 && offset < 27 {
				require.Len(t, got.messages, 10, "a length, byte %d, can be told from the rest", offset)
			}
			require.NoError(t, b.Close(context.Background()))
		}
	}
}

func TestDamage_thatComesWhileTheStoreIsOpenIsToldAndMendedInPlace(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"small.*", "small.1"} {
		dir := t.TempDir()
		filled(t, dir)
		var problems collector
		b, err := natsbus.Open(t.Context(), dir, bus.OnError(problems.hook))
		require.NoError(t, err)
		defer b.Close(context.Background())
		text, err := os.ReadFile(blockFiles(t, dir)[0])
		require.NoError(t, err)
		starts := recordsOf(text)
		at := starts[len(starts)/2/3*3] + 80 // of subject small.1, since sequences begin at 1
		text[at] ^= 4
		before, err := os.Stat(blockFiles(t, dir)[0])
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(blockFiles(t, dir)[0], text, 0o600))
		require.NoError(t, os.Chtimes(blockFiles(t, dir)[0], before.ModTime(), before.ModTime()), "a disk changes no time")
		// The server may still have the file in memory.
		var reader told
		require.Eventually(t, func() bool {
			reader = told{mended: true}
			sub, err := b.Subscribe(t.Context(), pattern, reader.handle, bus.All(), bus.OnError(reader.hook))
			if errors.Is(err, bus.ErrUnavailable) {
				return false // it is being mended
			}
			require.NoError(t, err, "it doesn't hang")
			require.NoError(t, sub.Unsubscribe(t.Context()))
			return len(reader.gaps) > 0
		}, time.Minute, 10*time.Millisecond, "the gap")
		if pattern == "small.*" {
			require.Equal(t, smallMsgs-1, reader.judge(t, bus.Cursor{}))
		}
		health := b.(bus.HealthChecker).Health
		eventually(t, func() bool { return problems.told(bus.ErrGap) == 1 }, "the hook of the bus")
		require.ErrorContains(t, health(t.Context()), "SMALL")
		require.NoError(t, b.Publish(t.Context(), "small.1", []byte("new")))
		for range 2 {
			var again told
			_, err = b.Subscribe(t.Context(), pattern, again.handle, bus.All(), bus.OnError(again.hook))
			require.NoError(t, err)
			require.NotEmpty(t, again.gaps)
			texts := again.texts()
			require.Equal(t, "new", texts[len(texts)-1])
		}
	}
}

// harmWhileOpen changes a bit of messages of the small stream, by their sequences, as a disk does: no time changes.
func harmWhileOpen(t *testing.T, dir string, sequences ...uint64) {
	t.Helper()
	for _, path := range blockFiles(t, dir) {
		before, err := os.Stat(path)
		require.NoError(t, err)
		edit(t, path, func(text []byte) []byte {
			for _, at := range recordsOf(text) {
				if slices.Contains(sequences, binary.LittleEndian.Uint64(text[at+4:])) {
					text[at+80] ^= 4
				}
			}
			return text
		})
		require.NoError(t, os.Chtimes(path, before.ModTime(), before.ModTime()))
	}
}

func TestDamage_thatComesWhileTheStoreIsOpenIsToldWhereNothingElseIsFound(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(cursors []bus.Cursor) bus.SubscribeOption{
		"behind a cursor": func(cursors []bus.Cursor) bus.SubscribeOption { return bus.After(cursors[709-1]) },
		"of each subject": func([]bus.Cursor) bus.SubscribeOption { return bus.LastPerSubject() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cursors := filled(t, dir)
			var problems collector
			b, err := natsbus.Open(t.Context(), dir, bus.OnError(problems.hook), bus.WithLogger(slog.New(slog.DiscardHandler)))
			require.NoError(t, err)
			defer func() { require.NoError(t, b.Close(context.Background())) }()
			harmWhileOpen(t, dir, 712, 715, 718)
			var reader told
			pattern := "small.1"
			if name == "of each subject" {
				pattern = "small.*"
			}
			whileServersStart(t, func() error { // it may be mended before all is read
				_, err := b.Subscribe(t.Context(), pattern, reader.handle, start(cursors), bus.OnError(reader.hook))
				return err
			})
			if pattern == "small.1" {
				require.Equal(t, []int{0, 0, 0}, reader.gaps, "one for each, before the next message")
			} else {
				require.Equal(t, []string{smallText(709), smallText(719), smallText(720)}, reader.texts(), "the last that can be read")
			}
			eventually(t, func() bool { return problems.told(bus.ErrGap) > 0 }, "the hook of the bus")
			require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "SMALL")
		})
	}
}

func TestDamage_isSeenWhateverTheDirectoryIsCalled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "chat[1]")
	cursors := filled(t, dir)
	edit(t, filepath.Join(smallDir(dir), "msgs", "1.blk"), flip)
	var problems collector
	left, health := use(t, dir, cursors, bus.OnError(problems.hook), bus.WithLogger(slog.New(slog.DiscardHandler)))
	require.Equal(t, smallMsgs-1, left)
	require.ErrorContains(t, health, "SMALL")
	require.Equal(t, 1, problems.told(bus.ErrGap))
}

// The server passes over what it can't read, and of a part of the subjects nobody knows how many there were.
func TestScrub_findsDamageThatNobodyReads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	filled(t, dir)
	var problems collector
	b, err := bus.Open(t.Context(), "nats:"+dir+"?scrub=1s", bus.OnError(problems.hook), bus.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	harmWhileOpen(t, dir, 100, 400, 718)
	eventually(t, func() bool { return problems.told(bus.ErrGap) == 3 }, "the hook of the bus, of all three")
	require.ErrorContains(t, b.(bus.HealthChecker).Health(t.Context()), "SMALL")
	for _, pattern := range []string{"small.*", "small.1"} {
		var reader told
		_, err = b.Subscribe(t.Context(), pattern, reader.handle, bus.All(), bus.Buffer(16, 1<<20), bus.OnError(reader.hook))
		require.NoError(t, err)
		require.Len(t, reader.gaps, 3, pattern)
	}
}

func TestScrub_mendsWhatIsntLostAndFindsTheNewestMessage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	filled(t, dir)
	old, newest := blockFiles(t, dir)[0], blockFiles(t, dir)[3]
	whole, err := os.ReadFile(old)
	require.NoError(t, err)
	b, err := bus.Open(t.Context(), "nats:"+dir+"?scrub=1s", bus.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	edit(t, old, func(text []byte) []byte { text[recordsOf(text)[50]] ^= 2; return text }) // a length
	eventually(t, func() bool {
		text, err := os.ReadFile(old)
		return err == nil && bytes.Equal(text, whole)
	}, "the file as it was")
	health := b.(bus.HealthChecker).Health
	eventually(t, func() bool { return health(t.Context()) == nil }, "nothing is lost")
	edit(t, newest, func(text []byte) []byte {
		starts := recordsOf(text)
		text[starts[len(starts)-1]+80] ^= 4
		return text
	})
	eventually(t, func() bool {
		err := health(t.Context())
		return err != nil && strings.Contains(err.Error(), "stream SMALL from 720 on")
	}, "Health, which names the message")
}

// What the server writes is whole: removals, erased messages, files that are written anew, large messages, a killed process.
func TestDamage_isNotFoundInWhatTheServerWrites(t *testing.T) {
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := free.Addr().String()
	require.NoError(t, free.Close())
	b, err := natsbus.Config{Dir: dir, Listen: addr}.Open(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), small,
		bus.StreamConfig{Name: "LAST", Subjects: []string{"last.*"}, MaxMsgsPerSubject: 1},
		bus.StreamConfig{Name: "LARGE", Subjects: []string{"large"}, MaxMsgs: 10}))
	nc, js := raw(t, "nats://"+addr)
	for n := 1; n <= 2*smallMsgs; n++ {
		require.NoError(t, b.Publish(t.Context(), fmt.Sprint("small.", n%3), []byte(smallText(n)), bus.MessageID(strconv.Itoa(n))))
		require.NoError(t, b.Publish(t.Context(), fmt.Sprint("last.", n%50), bytes.Repeat([]byte("x"), 8000)))
	}
	for range 15 {
		require.NoError(t, b.Publish(t.Context(), "large", make([]byte, 900_000), bus.WithHeader("Empty-lines", "")))
	}
	stream, err := js.Stream(t.Context(), "SMALL")
	require.NoError(t, err)
	last := stream.CachedInfo().State.LastSeq
	for i := range uint64(20) {
		require.NoError(t, stream.SecureDeleteMsg(t.Context(), last-7*i))
		require.NoError(t, stream.DeleteMsg(t.Context(), last-7*i-1))
	}
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSubject("small.2")))
	m := nats.NewMsg("small.raw")
	m.Header["Odd"] = []string{"", "x"}
	_, err = js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	nc.Close()
	// As it is now, a killed process would leave it.
	killed := filepath.Join(t.TempDir(), "killed")
	require.NoError(t, os.CopyFS(killed, os.DirFS(dir)))
	require.NoError(t, b.Close(context.Background()))
	for _, left := range []string{killed, dir} {
		for range 2 {
			b, err := natsbus.Open(t.Context(), left)
			require.NoError(t, err)
			require.NoError(t, b.(bus.HealthChecker).Health(t.Context()))
			infos, err := b.(bus.StreamLister).Streams(t.Context())
			require.NoError(t, err)
			require.Len(t, infos, 3)
			for _, info := range infos {
				var all told
				_, err := b.Subscribe(t.Context(), info.Config.Subjects[0], all.handle, bus.All(), bus.OnError(all.hook))
				require.NoError(t, err)
				require.Len(t, all.texts(), int(info.Msgs), info.Config.Name)
			}
			require.NoError(t, b.Close(context.Background()))
			edit(t, filepath.Join(left, "jitney.lives"), func(text []byte) []byte { // so that all of it is looked at
				return bytes.Replace(text, []byte(`"open":false`), []byte(`"open":true`), 1)
			})
		}
		require.NoDirExists(t, filepath.Join(left, "damaged"))
	}
}
