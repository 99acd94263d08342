package natsbus_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// copyDisk copies the file of a disk, most of which is empty.
func copyDisk(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	require.NoError(t, err)
	defer dst.Close()
	require.NoError(t, dst.Truncate(diskSize))
	block, empty := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < diskSize; at += int64(len(block)) {
		_, err := src.ReadAt(block, at)
		require.NoError(t, err)
		if !bytes.Equal(block, empty) {
			_, err := dst.WriteAt(block, at)
			require.NoError(t, err)
		}
	}
}

// mountImage mounts a disk that is in a file until the test ends.
func mountImage(t *testing.T, file string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", "-o", "loop", file, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// machine is a child process with a disk of its own. The power can be cut again and again: an image of the
// disk, taken while the process stands still, is what a cut would leave.
type machine struct {
	memory    string // where the disk is, and what is left of it
	disk, log string
	dir       string // of the store
	cuts      int
	child     *exec.Cmd
	read      int64 // of log
	record    record
}

const diskSize = 128 << 20

// newMachine makes the disk in memory: how long it takes to sync is then its own affair.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{memory: smallDisk(t, 8*diskSize), log: filepath.Join(t.TempDir(), "log"), record: newRecord()}
	m.disk = filepath.Join(m.memory, "disk")
	require.NoError(t, os.WriteFile(m.disk, nil, 0o600))
	require.NoError(t, os.Truncate(m.disk, diskSize))
	run(t, "mkfs.ext4", "-q", "-F", m.disk)
	m.dir = filepath.Join(mountImage(t, m.disk), "store")
	return m
}

// start starts the child with a task.
func (m *machine) start(t *testing.T, level, task string) {
	t.Helper()
	m.child = exec.Command(os.Args[0])
	m.child.Env = append(os.Environ(), writeURL+"=nats:"+m.dir+"?sync="+level, writeLog+"="+m.log, writeTask+"="+task)
	m.child.Stderr = os.Stderr
	m.record.done = false
	require.NoError(t, m.child.Start())
	t.Cleanup(func() { m.kill(t) })
}

func (m *machine) kill(t *testing.T) {
	t.Helper()
	if m.child == nil {
		return
	}
	require.NoError(t, m.child.Process.Kill())
	require.ErrorContains(t, m.child.Wait(), "killed")
	m.child = nil
}

// told returns what children have recorded until now.
func (m *machine) told(t *testing.T) *record {
	t.Helper()
	log, err := os.Open(m.log)
	if os.IsNotExist(err) {
		return &m.record
	}
	require.NoError(t, err)
	defer log.Close()
	_, err = log.Seek(m.read, io.SeekStart)
	require.NoError(t, err)
	text, err := io.ReadAll(log)
	require.NoError(t, err)
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the rest is being written
	m.read += int64(len(text))
	for line := range strings.Lines(string(text)) {
		m.record.add(t, line)
	}
	return &m.record
}

// wait returns when the child has recorded enough.
func (m *machine) wait(t *testing.T, enough func(r *record) bool) {
	t.Helper()
	late := time.Now().Add(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !enough(m.told(t)) {
		require.True(t, time.Now().Before(late), "the child's work")
		<-tick.C
	}
}

// cut returns what was recorded until a moment, and opens the store that a power cut would leave then. Where the machine
// is to have started again since, the record of its start says so.
func (m *machine) cut(t *testing.T, restarted bool) (*record, time.Time, bus.Bus) {
	t.Helper()
	require.NoError(t, m.child.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(m.child.Process.Pid, &status, syscall.WUNTRACED, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped())
	at := time.Now()
	r := m.told(t)
	m.cuts++
	left := filepath.Join(m.memory, fmt.Sprint("left", m.cuts))
	copyDisk(t, m.disk, left)
	require.NoError(t, m.child.Process.Signal(syscall.SIGCONT))

	dir := filepath.Join(mountImage(t, left), "store")
	if restarted {
		lives := filepath.Join(dir, "jitney.lives")
		text, err := os.ReadFile(lives)
		require.NoError(t, err)
		other := bytes.Replace(text, []byte(`"boot":"`), []byte(`"boot":"another `), 1)
		require.NotEqual(t, text, other)
		require.NoError(t, os.WriteFile(lives, other, 0o600))
	}
	b, err := bus.Open(t.Context(), "nats:"+dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return r, at, b
}

// record is what a child was told.
type record struct {
	published map[string]map[uint64]entry // by stream and sequence
	all       int
	created   map[string]time.Time
	first     map[string]bool // streams that have a message
	removed   map[string]bool // or are being removed, false
	maxMsgs   int64
	last      time.Time // of the update
	done      bool
}

func newRecord() record {
	return record{published: map[string]map[uint64]entry{}, first: map[string]bool{}, created: map[string]time.Time{}, removed: map[string]bool{}}
}

type entry struct {
	subject string
	n       int
	cursor  bus.Cursor
	at      time.Time
}

// add takes a line that writer.record has written.
func (r *record) add(t *testing.T, line string) {
	t.Helper()
	f := strings.Fields(line)
	require.GreaterOrEqual(t, len(f), 2, line)
	millis, err := strconv.ParseInt(f[0], 10, 64)
	require.NoError(t, err)
	at, verb, args := time.UnixMilli(millis), f[1], f[2:]
	switch verb {
	case "published":
		e := entry{subject: args[0], at: at}
		e.n, err = strconv.Atoi(args[1])
		require.NoError(t, err)
		e.cursor, err = bus.ParseCursor(args[2])
		kind, _, _ := strings.Cut(e.subject, ".")
		stream := strings.ToUpper(kind)
		if r.published[stream] == nil {
			r.published[stream] = map[uint64]entry{}
		}
		r.published[stream][e.cursor.Sequence()] = e
		r.all++
	case "created":
		r.created[args[0]] = at
	case "first":
		r.first[args[0]] = true
	case "removing":
		r.removed[args[0]] = false
	case "removed":
		r.removed[args[0]] = true
	case "updated":
		r.maxMsgs, err = strconv.ParseInt(args[0], 10, 64)
		r.last = at
	case "done":
		r.done = true
	}
	require.NoError(t, err)
}

// heldBy is what a stream of a bus holds, by sequence.
func heldBy(t *testing.T, b bus.Bus, stream string) map[uint64]*bus.Message {
	t.Helper()
	var got collector
	_, err := b.Subscribe(t.Context(), strings.ToLower(stream)+".*", got.handle, bus.All(), bus.OnError(got.hook))
	require.NoError(t, err)
	all := map[uint64]*bus.Message{}
	for _, m := range got.messages {
		all[m.Cursor.Sequence()] = m
	}
	require.Len(t, all, len(got.messages), "each once")
	return all
}

func number(t *testing.T, m *bus.Message) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(string(m.Data)))
	require.NoError(t, err)
	return n
}

// kept is how many messages at least the stream with few bytes keeps.
const kept = 600

// check looks whether b holds what r tells of until a moment.
func (r *record) check(t *testing.T, b bus.Bus, until time.Time) {
	t.Helper()
	infos, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	streams := map[string]bus.StreamInfo{}
	for _, info := range infos {
		streams[info.Config.Name] = info
	}
	for _, config := range written {
		info, have := streams[config.Name], heldBy(t, b, config.Name)
		require.Equal(t, config.Name, info.Config.Name)
		lastOf := map[string]int{}
		for _, m := range have {
			lastOf[m.Subject] = max(lastOf[m.Subject], number(t, m))
		}
		lost, newest := 0, uint64(0)
		for seq := range r.published[config.Name] {
			newest = max(newest, seq)
		}
		for seq, e := range r.published[config.Name] {
			if e.at.After(until) {
				continue
			}
			m := have[seq]
			switch {
			case config.MaxMsgsPerSubject > 0:
				if lastOf[e.subject] < e.n {
					lost++
				}
			case config.MaxBytes > 0 && seq+kept < newest: // the limit has taken it before
			case m == nil:
				lost++
			default:
				require.Equal(t, e.subject, m.Subject)
				require.Equal(t, e.n, number(t, m))
			}
		}
		require.Zero(t, lost, "acknowledged and lost in %s, of %d; it holds %d, from %s to %s", config.Name, len(r.published[config.Name]), len(have), info.First, info.Last)
	}
	for name, at := range r.created {
		if _, removing := r.removed[name]; !removing && at.Before(until) {
			require.Contains(t, streams, name)
			if r.first[name] {
				require.Equal(t, uint64(1), streams[name].Msgs)
			}
		}
	}
	if r.last.Before(until) {
		require.GreaterOrEqual(t, streams["PLAIN"].Config.MaxMsgs, r.maxMsgs, "an update")
	}
}

func TestPowerCut_syncAlwaysLosesNothingThatWasAcknowledged(t *testing.T) {
	m := newMachine(t)
	m.start(t, "always", "change")
	for image := range 4 {
		before := m.told(t).all
		m.wait(t, func(r *record) bool { return r.all > before+1000 && len(r.removed) > image })
		t.Run(fmt.Sprint("image ", image), func(t *testing.T) {
			r, at, b := m.cut(t, false)
			r.check(t, b, at)
			for name, removed := range r.removed {
				if removed {
					require.ErrorIs(t, b.Publish(t.Context(), strings.ToLower(name), nil, bus.ExpectNone()), bus.ErrNoStream, "a removed stream stays removed")
				}
			}
			last := map[string]entry{}
			for _, e := range r.published["CHAIN"] {
				if e.n > last[e.subject].n {
					last[e.subject] = e
				}
			}
			require.NotEmpty(t, last)
			for _, e := range last {
				var again bus.Receipt
				id := bus.MessageID(fmt.Sprint(e.subject, "/", e.n))
				require.NoError(t, b.Publish(t.Context(), e.subject, nil, id, bus.WithReceipt(&again)))
				require.True(t, again.Duplicate, "its ID is remembered")
				require.Equal(t, e.cursor.Sequence(), again.Cursor.Sequence())
			}
		})
	}
}

func TestPowerCut_anIntervalLosesWhatCameAfterTheLastSyncAndSaysSo(t *testing.T) {
	m := newMachine(t)
	m.start(t, "200ms", "run")
	began := time.Now()
	m.wait(t, func(r *record) bool { return r.all > 5000 && time.Since(began) > 4*time.Second })
	r, at, b := m.cut(t, true)
	// The server begins to count when it has synced, and on a busy disk that takes a while.
	r.check(t, b, at.Add(-200*time.Millisecond-2*time.Second))
	lost, left := 0, heldBy(t, b, "PLAIN")
	for seq := range r.published["PLAIN"] {
		if left[seq] == nil {
			lost++
		}
	}
	t.Logf("lost %d of %d messages of the last moments", lost, len(r.published["PLAIN"]))

	var newest entry
	for _, e := range r.published["PLAIN"] {
		if e.cursor.Sequence() > newest.cursor.Sequence() {
			newest = e
		}
	}
	var got collector
	_, err := b.Subscribe(t.Context(), "plain.*", got.handle, bus.After(newest.cursor), bus.OnError(got.hook))
	require.NoError(t, err)
	require.Equal(t, 1, got.told(bus.ErrGap), "whoever has a cursor of before learns that the end may have been lost")
}

func TestPowerCut_afterACleanStopNothingIsLostAtAnyLevel(t *testing.T) {
	m := newMachine(t)
	m.start(t, "fast", "stop")
	m.wait(t, func(r *record) bool { return r.done })
	r, at, b := m.cut(t, true)
	r.check(t, b, at)
	for stream, published := range r.published {
		for seq, m := range heldBy(t, b, stream) {
			require.Equal(t, published[seq].cursor, m.Cursor, "the epoch goes on")
		}
	}
}

func TestPowerCut_whatAKilledProcessHasLeftIsOnTheDiskWhenTheNextOneIsOpen(t *testing.T) {
	m := newMachine(t)
	m.start(t, "fast", "run")
	m.wait(t, func(r *record) bool { return r.all > 3000 })
	m.kill(t)
	m.start(t, "fast", "open")
	m.wait(t, func(r *record) bool { return r.done })
	r, at, b := m.cut(t, false)
	r.check(t, b, at)
}

func TestPowerCut_syncAlwaysLosesNothingOfOthersEither(t *testing.T) {
	m := newMachine(t)
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	m.start(t, "always&listen="+addr, "open")
	m.wait(t, func(r *record) bool { return r.done })
	other := openURL(t, "nats://"+addr)
	require.NoError(t, other.EnsureStreams(t.Context(), task))
	texts := numberedTexts(100)
	for _, text := range texts {
		require.NoError(t, other.Publish(t.Context(), "task", []byte(text)))
	}
	_, _, b := m.cut(t, false)
	var got collector
	_, err := b.Subscribe(t.Context(), "task", got.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, texts, got.texts())
}
