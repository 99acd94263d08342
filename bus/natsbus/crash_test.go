package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
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

func TestCrash_ofMostMembersLeavesNoReplicaThatDiffersAndNobodyPassesOverAnything(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, disks := range []string{"lee", "ele", "bee", "ebe", "lle", "sss", "bes", "iee", "eoe"} {
		t.Run(disks, func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			c.restore(t, disks)
			ctx := t.Context()
			for i := range c.configs {
				c.configs[i].Listen, c.configs[i].Token = fmt.Sprint("127.0.0.1:", freePort(t)), "geheim"
			}
			var told, problems [3]collector
			opened := make(chan []bus.Bus, 1)
			go func() { opened <- c.open(t, &told, 0, 1, 2) }()
			clients := make([]bus.Bus, 3) // they needn't wait
			var readers [3]collector
			var all, late collector
			for i := range clients {
				require.Eventually(t, func() (ok bool) {
					var err error
					clients[i], err = bus.Open(ctx, "nats://"+c.configs[i].Listen+"?token=geheim", bus.OnError(problems[i].hook), quietly())
					return err == nil
				}, clusterPatience, 10*time.Millisecond)
				require.NoError(t, clients[i].EnsureStreams(ctx, chat))
				_, err := clients[i].Subscribe(ctx, "chat.*", readers[i].handle, bus.After(c.last))
				require.NoError(t, err)
			}
			for i, b := range clients[:2] {
				group, got := []string{"all", "late"}[i], []*collector{&all, &late}[i]
				_, err := b.Subscribe(ctx, "chat.*", got.handle, bus.DurableGroup(group), bus.Attempts(0))
				require.NoError(t, err)
			}
			after := publishAfter(t, clients...)
			require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond, "replicas to be compared")
			buses := <-opened
			require.False(t, t.Failed())
			requireHealthy(t, buses...)
			last := "the last one"
			require.NoError(t, clients[0].Publish(ctx, "chat.Go", []byte(last)))
			for who, got := range map[string]*collector{"n1": &readers[0], "n2": &readers[1], "n3": &readers[2], "group all": &all, "group late": &late} {
				eventually(t, func() bool { return slices.Contains(got.texts(), last) }, who+" to have the last one")
				eventually(t, func() bool { return containsAll(got.texts(), after) }, who+" to have what was stored after the crash")
			}
			for i := range clients {
				eventually(t, func() bool { return problems[i].told(bus.ErrGap) > 0 }, names[i]+" to be told that there is a gap")
			}
			c.awaitLast(t, last)
			closeAll(t, clients...)
			closeAll(t, buses...)
			c.requireSame(t, last)
		})
	}
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

// open opens some of the members together. The others are nil. What fails is an error of the test.
func (c *crash) open(t *testing.T, problems *[3]collector, which ...int) []bus.Bus {
	t.Helper()
	var said noted
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(said.String())
		}
	})
	buses := make([]bus.Bus, len(c.configs))
	var opening sync.WaitGroup
	for _, i := range which {
		opening.Go(func() {
			var err error
			log := slog.New(slog.NewTextHandler(&said, nil)).With("member", names[i])
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
		for _, b := range buses {
			if b != nil {
				_ = b.Close(context.Background()) // the test may have
			}
		}
	})
	return buses
}

// publishAfter has members store what comes after the crash, by turns.
func publishAfter(t *testing.T, by ...bus.Bus) (texts []string) {
	t.Helper()
	for i := range afterEnd {
		text := fmt.Sprint("after ", i)
		b := by[i%len(by)]
		err := b.Publish(t.Context(), "chat.Go", []byte(text))
		for errors.Is(err, bus.ErrUnavailable) && t.Context().Err() == nil { // while servers start anew; an unknown outcome is sent again
			err = b.Publish(t.Context(), "chat.Go", []byte(text))
		}
		require.NoError(t, err)
		texts = append(texts, text)
		time.Sleep(50 * time.Millisecond)
	}
	return texts
}

func containsAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(text string) bool { return !slices.Contains(have, text) })
}

func TestCrash_ofOneMemberIsNoGapToAnybody(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, disks := range []string{"eii", "lii", "ibi"} {
		t.Run(disks, func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			c.restore(t, disks)
			ctx := t.Context()
			var problems [3]collector
			buses := c.open(t, &problems, 0, 1, 2)
			var reader, group collector
			_, err := buses[0].Subscribe(ctx, "chat.*", reader.handle, bus.After(c.last))
			require.NoError(t, err)
			_, err = buses[1].Subscribe(ctx, "chat.*", group.handle, bus.DurableGroup("all"), bus.Attempts(0))
			require.NoError(t, err)
			after := publishAfter(t, buses...)
			require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond, "replicas to be compared")
			requireHealthy(t, buses...)
			for who, got := range map[string]*collector{"reader": &reader, "group": &group} {
				eventually(t, func() bool { return containsAll(got.texts(), after) }, who+" to have all")
				require.Len(t, got.texts(), afterEnd, who)
			}
			for i := range problems {
				require.Zero(t, problems[i].told(bus.ErrGap), names[i])
			}
			c.awaitLast(t, after[afterEnd-1])
			closeAll(t, buses...)
			c.requireSame(t, after...)
		})
	}
}

func TestCrash_aReplicaIsTakenAwayWithItsOwnGroupsAlone(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	buses := openMembers(t, nil)
	for _, stream := range []bus.StreamConfig{chat, work} {
		require.NoError(t, buses[0].EnsureStreams(ctx, stream))
	}
	for i, b := range buses { // each tail is a consumer, too
		require.NoError(t, b.EnsureStreams(ctx, chat, work))
		_, err := b.Subscribe(ctx, "chat.*", new(collector).handle)
		require.NoError(t, err)
		_, err = b.Subscribe(ctx, "work.*", new(collector).handle, bus.DurableGroup(fmt.Sprint("d", i)), bus.Attempts(0))
		require.NoError(t, err)
	}
	_, err := buses[0].Subscribe(ctx, "chat.*", new(collector).handle, bus.DurableGroup("all"), bus.Attempts(0))
	require.NoError(t, err)
	for _, b := range buses {
		var groups []string
		replicated := func(group string) bool {
			return strings.HasPrefix(group, "S-R3F-") || strings.HasPrefix(group, "C-R3F-")
		}
		require.Eventually(t, func() bool {
			groups = natsbus.GroupsOf(t, b, chat.Name)
			n := 0
			for _, group := range groups {
				if replicated(group) {
					n++
				}
			}
			return n == 2 // of the stream and of the durable group
		}, clusterPatience, 50*time.Millisecond)
		for _, group := range groups {
			require.Regexp(t, "^[SC]-R[13][FM]-", group)
			require.NotContains(t, natsbus.GroupsOf(t, b, work.Name), group)
		}
	}
}

func TestCrash_ofTheOnlyMemberThatHoldsAStreamIsAnotherEpoch(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	c := &crash{configs: memberConfigs(t)}
	for i := range c.configs {
		c.configs[i].Cluster.Replicas = 1
	}
	var problems [3]collector
	buses := c.open(t, &problems, 0, 1, 2)
	for _, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, chat))
	}
	var before, after collector
	_, err := buses[0].Subscribe(ctx, "chat.*", before.handle)
	require.NoError(t, err)
	require.NoError(t, buses[0].Publish(ctx, "chat.Go", []byte("before")))
	eventually(t, func() bool { return len(before.texts()) == 1 }, "the message")
	closeAll(t, buses...)
	crashed := 0
	for _, config := range c.configs {
		if storedIn(t, config.Dir, chat.Name) > 0 {
			crashed++
			require.NoError(t, os.WriteFile(filepath.Join(config.Dir, "jitney.boot"), []byte("another start"), 0o600))
		}
	}
	require.Equal(t, 1, crashed)
	buses = c.open(t, &problems, 0, 1, 2)
	_, err = buses[0].Subscribe(ctx, "chat.*", after.handle, bus.After(before.messages[0].Cursor))
	require.NoError(t, err)
	require.Eventually(t, c.settled, clusterPatience, 100*time.Millisecond)
	eventually(t, func() bool { return problems[0].told(bus.ErrGap) == 1 && slices.Contains(after.texts(), "before") }, "a gap, and all that there is")
}

// A disk may have written what came later and not what came before it.
func TestCrash_ofOneMemberThatLeavesAHoleInAReplica(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	c.restore(t, "ili")
	dir := filepath.Join(c.configs[1].Dir, "jetstream", "$G", "streams", chat.Name, "msgs")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "index.db"))) // it would tell of more
	natsbus.CutRecord(t, filepath.Join(dir, "1.blk"), 50)
	var problems [3]collector
	buses := c.open(t, &problems, 0, 1, 2)
	var reader collector
	_, err := buses[1].Subscribe(t.Context(), "chat.*", reader.handle, bus.All())
	require.NoError(t, err)
	after := publishAfter(t, buses...)
	require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond, "replicas to be compared")
	requireHealthy(t, buses...)
	eventually(t, func() bool { return slices.Contains(reader.texts(), "before 50") && containsAll(reader.texts(), after) }, "all")
	c.awaitLast(t, after[afterEnd-1])
	closeAll(t, buses...)
	c.requireSame(t, append(after, "before 50")...)
}

func TestCrash_aMemberThatComesBackLateIsComparedThen(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, row := range []struct {
		disks string
		again bool // that there is a gap is told again
	}{
		{"eel", true},
		{"eee", false},
		{"eei", true}, // what the others have lost it has still
	} {
		t.Run(row.disks, func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			c.restore(t, row.disks)
			ctx := t.Context()
			var problems, late [3]collector
			buses := c.open(t, &problems, 0, 1)
			var reader, group collector
			_, err := buses[0].Subscribe(ctx, "chat.*", reader.handle, bus.All())
			require.NoError(t, err)
			_, err = buses[1].Subscribe(ctx, "chat.*", group.handle, bus.DurableGroup("all"), bus.Attempts(0))
			require.NoError(t, err)
			after := publishAfter(t, buses[:2]...)
			require.Eventually(t, func() bool { return settled(c.configs[:2]) }, clusterPatience, 100*time.Millisecond, "the first ones to be compared")
			before := epochOf(t, buses[0])
			buses[2] = c.open(t, &late, 2)[2]
			require.Eventually(t, func() bool { return c.settled() && (epochOf(t, buses[0]) != before) == row.again },
				2*clusterPatience, 100*time.Millisecond, "the one that is late to be compared")
			requireHealthy(t, buses...)
			last := "the last one"
			require.NoError(t, buses[2].Publish(ctx, "chat.Go", []byte(last)))
			eventually(t, func() bool { return slices.Contains(reader.texts(), last) && containsAll(reader.texts(), after) }, "the reader to have all")
			eventually(t, func() bool { return slices.Contains(group.texts(), last) && containsAll(group.texts(), after) }, "the group to have all")
			c.awaitLast(t, last)
			closeAll(t, buses...)
			c.requireSame(t, last)
		})
	}
}

// What is acknowledged meanwhile stays.
func TestCrash_membersMayBeKilledWhileReplicasAreMadeAnew(t *testing.T) {
	t.Parallel() // most of it waits
	c := crashAll(t)
	for _, disks := range []string{"lel", "ebe"} {
		t.Run(disks, func(t *testing.T) {
			t.Parallel()
			m := newMembers(t, "")
			c := &crash{early: c.early, late: c.late}
			for _, name := range names {
				c.configs = append(c.configs, natsbus.Config{Dir: filepath.Join(m.dir, name)})
			}
			c.restore(t, disks)
			for _, name := range names {
				m.start(name)
			}
			conns := make([]*nats.Conn, 3)
			for i, name := range names {
				m.procs[name].await(t, "open", 1)
				var err error
				conns[i], err = nats.Connect(fmt.Sprint("127.0.0.1:", m.ports[name+" clients"]), nats.Token("geheim"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
				require.NoError(t, err)
				defer conns[i].Close()
			}
			var acked []string
			publish := func(text string) bool {
				for _, nc := range conns {
					answer, err := nc.Request("chat.Go", []byte(text), time.Second)
					if err == nil && bytes.Contains(answer.Data, []byte(`"seq"`)) {
						acked = append(acked, text)
						return true
					}
				}
				return false
			}
			number := 0
			for range 4 {
				for until := time.Now().Add(time.Duration(1+rand.IntN(6000)) * time.Millisecond); time.Now().Before(until); {
					publish(fmt.Sprint("after ", number))
					number++
					time.Sleep(20 * time.Millisecond)
				}
				name := names[rand.IntN(len(names))]
				m.procs[name].kill()
				m.start(name)
			}
			for _, name := range names {
				m.procs[name].await(t, "open", 1)
			}
			require.Eventually(t, c.settled, 3*clusterPatience, 100*time.Millisecond, "replicas to be compared")
			require.Eventually(t, func() bool { return publish("the last one") }, clusterPatience, 100*time.Millisecond)
			for _, name := range names {
				require.Eventually(t, func() bool { return m.procs[name].ask(t, "health", "health").Error == "" }, clusterPatience, 100*time.Millisecond, name)
			}
			c.awaitLast(t, "the last one")
			for _, name := range names {
				require.NoError(t, m.procs[name].in.Close()) // a clean stop
			}
			for _, name := range names {
				<-m.procs[name].ended
			}
			c.requireSame(t, acked...)
		})
	}
}

// A member may have applied more of the cluster's own log than those that choose the next leader.
func TestCrash_aMemberThatKnowsOfLostStreamsLearnsWhatThereIs(t *testing.T) {
	t.Parallel() // most of it waits
	c := &crash{configs: memberConfigs(t), early: t.TempDir(), late: t.TempDir()}
	ctx := t.Context()
	buses := openMembers(t, func(i int, config *natsbus.Config) { *config = c.configs[i] })
	require.NoError(t, buses[0].EnsureStreams(ctx, chat, work))
	requireHealthy(t, buses...)
	c.image(t, c.early)
	for i := range 5 {
		require.NoError(t, buses[0].EnsureStreams(ctx, bus.StreamConfig{Name: fmt.Sprint("LOST", i), Subjects: []string{fmt.Sprint("lost", i)}}))
	}
	_, err := buses[0].Subscribe(ctx, "work.*", new(collector).handle, bus.DurableGroup("late"), bus.Attempts(0))
	require.NoError(t, err)
	requireHealthy(t, buses...)
	c.image(t, c.late)
	closeAll(t, buses...)

	for member, disk := range map[int]rune{0: late, 2: intact} {
		t.Run(names[member], func(t *testing.T) {
			t.Parallel()
			c := c.elsewhere(t)
			ctx := t.Context()
			var rest []int
			for i := range c.configs {
				if i == member {
					c.restoreOne(t, i, disk)
				} else {
					c.restoreOne(t, i, early)
					rest = append(rest, i)
				}
			}
			var problems [3]collector
			buses := c.open(t, &problems, rest...)
			groups := []string{"late", "new", "newer", "newest"} // a stream can't be made while a member isn't there
			for i, group := range groups {
				_, err := buses[rest[i%2]].Subscribe(ctx, "work.*", new(collector).handle, bus.DurableGroup(group), bus.Attempts(0))
				require.NoError(t, err)
			}
			buses[member] = c.open(t, &problems, member)[member]
			require.Eventually(t, c.settled, 2*clusterPatience, 100*time.Millisecond)
			requireHealthy(t, buses...)
			requireSameAssets(t, buses, 2+len(groups)) // the server removes what is lost after half a minute
			var got collector
			_, err := buses[member].Subscribe(ctx, "work.*", got.handle, bus.DurableGroup("last"), bus.Attempts(0))
			require.NoError(t, err)
			require.NoError(t, buses[member].Publish(ctx, "work.x", []byte("x")))
			eventually(t, func() bool { return len(got.texts()) == 1 }, "a group of the member to have a message")
		})
	}
}

// requireSameAssets checks that members hold the same streams and groups, so many, but for those that are lost.
func requireSameAssets(t *testing.T, buses []bus.Bus, n int) {
	t.Helper()
	assets := func(b bus.Bus) []string {
		return slices.DeleteFunc(natsbus.Assets(b), func(line string) bool { return strings.HasPrefix(line, "LOST") })
	}
	same := func() bool {
		first := assets(buses[0])
		for _, b := range buses[1:] {
			if !slices.Equal(first, assets(b)) {
				return false
			}
		}
		return len(first) == n
	}
	if !assert.Eventually(t, same, clusterPatience, 100*time.Millisecond) {
		for i, b := range buses {
			t.Logf("%s has %q", names[i], natsbus.Assets(b))
		}
		t.FailNow()
	}
}

// elsewhere is the same crash of members with directories of their own.
func (c *crash) elsewhere(t *testing.T) *crash {
	t.Helper()
	return &crash{configs: memberConfigs(t), early: c.early, late: c.late, last: c.last}
}
