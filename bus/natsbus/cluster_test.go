package natsbus_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// openMembers opens three members of a cluster in this process, changed as the caller likes.
func openMembers(t *testing.T, change func(i int, c *natsbus.Config)) []bus.Bus {
	t.Helper()
	configs := memberConfigs(t)
	buses := make([]bus.Bus, len(configs))
	errs := make([]error, len(configs))
	log := slog.New(slog.NewTextHandler(shownOnFailure(t), nil))
	var opening sync.WaitGroup
	for i := range configs {
		if change != nil {
			change(i, &configs[i])
		}
		opening.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
			defer cancel()
			buses[i], errs[i] = configs[i].Open(ctx, bus.WithLogger(log.With("member", names[i])))
		})
	}
	opening.Wait()
	t.Cleanup(func() {
		var closing sync.WaitGroup
		for _, b := range buses {
			if b != nil {
				closing.Go(func() { _ = b.Close(context.Background()) }) // the test may have
			}
		}
		closing.Wait()
	})
	require.NoError(t, errors.Join(errs...))
	return buses
}

// memberConfigs are those of n1, n2 and n3 at free ports.
func memberConfigs(t *testing.T) []natsbus.Config {
	t.Helper()
	dir := t.TempDir()
	var routes []string
	for range names {
		routes = append(routes, fmt.Sprint("127.0.0.1:", freePort(t)))
	}
	var configs []natsbus.Config
	for i, name := range names {
		configs = append(configs, natsbus.Config{
			Dir:     filepath.Join(dir, name),
			Cluster: &natsbus.Cluster{Name: "chat", Member: name, Secret: "geheim", Listen: routes[i], Routes: routes},
		})
	}
	return configs
}

// quietly keeps what servers say while others come and go out of the output, unless the test fails.
func quietly(t *testing.T) bus.OpenOption {
	return bus.WithLogger(slog.New(slog.NewTextHandler(shownOnFailure(t), nil)))
}

func TestCluster_isOneBus(t *testing.T) {
	t.Parallel() // most of it waits
	buses := openMembers(t, nil)
	ctx := t.Context()
	var got [3]collector
	require.NoError(t, buses[0].EnsureStreams(ctx, chat))
	for i, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, chat), "that it is there already")
		_, err := b.Subscribe(ctx, "chat.*", got[i].handle)
		require.NoError(t, err)
	}
	for i := range 30 {
		require.NoError(t, buses[i%3].Publish(ctx, "chat.Go", []byte(numberedTexts(30)[i])))
	}
	for i := range buses {
		eventually(t, func() bool { return len(got[i].texts()) == 30 }, "everything on each member")
		require.Equal(t, numberedTexts(30), got[i].texts())
		streams, err := buses[i].(bus.StreamLister).Streams(ctx)
		require.NoError(t, err)
		require.Equal(t, uint64(30), streams[0].Msgs)
	}
	requireHealthy(t, buses...)
	// A repetition is one anywhere.
	var receipts [3]bus.Receipt
	for i, b := range buses {
		require.NoError(t, b.Publish(ctx, "chat.once", nil, bus.MessageID("once"), bus.WithReceipt(&receipts[i])))
		require.Equal(t, i > 0, receipts[i].Duplicate)
		require.Equal(t, receipts[0].Cursor, receipts[i].Cursor)
	}
	require.ErrorIs(t, buses[1].Publish(ctx, "chat.once", nil, bus.ExpectNone()), bus.ErrConflict)
	require.NoError(t, buses[2].Publish(ctx, "chat.once", nil, bus.ExpectLast(receipts[0].Cursor)))
}

func TestCluster_keepsWhatAnOperatorHasSet(t *testing.T) {
	t.Parallel() // most of it waits
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	buses := openMembers(t, func(i int, c *natsbus.Config) {
		if i == 0 {
			c.Listen, c.Token = addr, "geheim"
		}
	})
	ctx := t.Context()
	_, js := raw(t, "nats://geheim@"+addr)
	for _, s := range []jetstream.StreamConfig{{Name: "ONE", Subjects: []string{"one"}, Replicas: 1}, {Name: "CHAT", Subjects: []string{"chat.>"}, Replicas: 3, Description: "theirs"}} {
		_, err := js.CreateStream(ctx, s)
		require.NoError(t, err)
	}
	require.NoError(t, buses[1].EnsureStreams(ctx, chat, bus.StreamConfig{Name: "ONE", Subjects: []string{"one", "two"}}, bus.StreamConfig{Name: "OURS", Subjects: []string{"ours"}}))
	for name, replicas := range map[string]int{"ONE": 1, "CHAT": 3, "OURS": 3} {
		stream, err := js.Stream(ctx, name)
		require.NoError(t, err)
		require.Equal(t, replicas, stream.CachedInfo().Config.Replicas, name)
	}
}

func TestCluster_letsNobodyInWithoutTheSecretAndACertificate(t *testing.T) {
	t.Parallel() // most of it waits
	ours, theirs := newAuthority(t), newAuthority(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("geheim\n"), 0o600))
	dir := t.TempDir()
	var routes []string
	for range names {
		routes = append(routes, fmt.Sprint("127.0.0.1:", freePort(t)))
	}
	url := func(member, listen string, more string) string {
		all := routes
		if !slices.Contains(routes, listen) {
			all = append(slices.Clone(routes), listen)
		}
		return "nats:" + filepath.Join(dir, member) + "?cluster=chat&member=" + member + "&route-listen=" + listen + "&routes=" + strings.Join(all, ",") + more
	}
	open := func(ctx context.Context, url string) (bus.Bus, error) { return bus.Open(ctx, url, quietly(t)) }
	buses := make([]bus.Bus, 3)
	var opening sync.WaitGroup
	for i, name := range names {
		member := url(name, routes[i], "&secret-file="+secret+ours.issue(t, name).params())
		opening.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
			defer cancel()
			var err error
			buses[i], err = open(ctx, member)
			if err != nil {
				t.Error(err)
			}
		})
	}
	opening.Wait()
	t.Cleanup(func() {
		for _, b := range buses {
			if b != nil {
				require.NoError(t, b.Close(context.Background()))
			}
		}
	})
	require.False(t, t.Failed())
	require.NoError(t, buses[0].EnsureStreams(t.Context(), chat))
	require.NoError(t, buses[1].Publish(t.Context(), "chat.Go", []byte("in secret")))

	// A peer without a certificate isn't even told who is there.
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	conn, err := tls.Dial("tcp", routes[0], &tls.Config{RootCAs: pool})
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, conn.Close())
	}
	require.ErrorContains(t, err, "certificate required")

	var trying sync.WaitGroup
	for member, more := range map[string]string{
		"wrong-secret": "&secret=falsch" + ours.issue(t, "x").params(),
		"plain":        "&secret=geheim",
		"foreign":      "&secret=geheim" + theirs.issue(t, "x").params(),
		"half":         "&secret=geheim&tls-ca=" + ours.file + strings.TrimSuffix(theirs.issue(t, "y").params(), "&tls-ca="+theirs.file),
	} {
		listen := fmt.Sprint("127.0.0.1:", freePort(t))
		trying.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			b, err := open(ctx, url(member, listen, more))
			if err == nil {
				t.Errorf("%s has got in", member)
				_ = b.Close(context.Background()) // it has failed already
				return
			}
			if !errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "connected to this member: none") ||
				strings.Contains(err.Error(), "falsch") || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%s: %v", member, err)
			}
			t.Logf("%s: %v", member, err)
		})
	}
	trying.Wait()
	require.NoError(t, buses[2].Publish(t.Context(), "chat.Go", []byte("goes on")))
}

func TestCluster_findsItsMembersByAFunction(t *testing.T) {
	t.Parallel() // most of it waits
	var mu sync.Mutex
	known := false
	asked := 0
	nowhere := fmt.Sprint("127.0.0.1:", freePort(t))
	buses := openMembers(t, func(i int, c *natsbus.Config) {
		routes := c.Cluster.Routes
		c.Cluster.Routes = nil
		c.Cluster.Peers = func(context.Context) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			switch asked++; {
			case asked < 5:
				return nil, errors.New("no answer from the directory")
			case asked < 10:
				return routes[:1], nil // more come later
			case !known && asked > 20:
				known = true
			case !known: // old addresses
				return []string{routes[i], nowhere, "127.0.0.1:1"}, nil
			}
			return routes, nil
		}
	})
	require.NoError(t, buses[0].EnsureStreams(t.Context(), chat))
	require.NoError(t, buses[1].Publish(t.Context(), "chat.Go", nil))
}

func TestStore_ofSomebodyElseIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	configs := memberConfigs(t)
	alone := natsbus.Config{Dir: filepath.Join(t.TempDir(), "alone")}
	b, err := alone.Open(ctx)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(ctx, chat))
	require.NoError(t, b.Publish(ctx, "chat.Go", []byte("precious")))
	require.NoError(t, b.Close(ctx))

	member := configs[0]
	member.Dir = alone.Dir
	refused := func() {
		_, err = member.Open(ctx)
		require.ErrorContains(t, err, "is a standalone one, whose streams the cluster would delete")
		require.ErrorContains(t, err, alone.Dir)
	}
	refused()
	require.NoError(t, os.Remove(filepath.Join(alone.Dir, "jitney.store")))
	refused() // a store that nobody has marked is known by what is in it
	b, err = alone.Open(ctx)
	require.NoError(t, err)
	var got collector
	_, err = b.Subscribe(ctx, "chat.*", got.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, []string{"precious"}, got.texts(), "nothing has been touched")
	require.NoError(t, b.Close(ctx))
}

func TestStore_ofAMemberIsItsOwn(t *testing.T) {
	t.Parallel() // most of it waits
	var configs []natsbus.Config
	buses := openMembers(t, func(_ int, c *natsbus.Config) { configs = append(configs, *c) })
	require.NoError(t, buses[0].EnsureStreams(t.Context(), chat))
	require.NoError(t, buses[0].Close(t.Context()))
	other := *configs[0].Cluster
	other.Member = "n4"
	renamed := *configs[0].Cluster
	renamed.Name = "other"
	for want, c := range map[string]natsbus.Config{
		"is that of a member n1 of cluster chat: open it with the same parameters": {Dir: configs[0].Dir},
		"is that of a member n1 of cluster chat, not of a member n4":               {Dir: configs[0].Dir, Cluster: &other},
		"not of a member n1 of cluster other":                                      {Dir: configs[0].Dir, Cluster: &renamed},
	} {
		_, err := c.Open(t.Context())
		require.ErrorContains(t, err, want)
	}
	mark := filepath.Join(configs[0].Dir, "jitney.store")
	require.NoError(t, os.Remove(mark))
	for want, c := range map[string]natsbus.Config{
		"is that of a member of a cluster that isn't known here":                        {Dir: configs[0].Dir},
		"is that of a member of a cluster that isn't known here, not of a member n4 of": {Dir: configs[0].Dir, Cluster: &other},
	} {
		_, err := c.Open(t.Context())
		require.ErrorContains(t, err, want)
	}
	require.NoError(t, os.WriteFile(mark, nil, 0o600))
	_, err := configs[0].Open(t.Context())
	require.ErrorContains(t, err, "nobody knows whom")
}

func TestCluster_takesOverAStoreThatStoodAlone(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	alone, err := natsbus.Open(ctx, t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, alone.Close(context.Background())) })
	require.NoError(t, alone.EnsureStreams(ctx, chat))
	for i := range 500 {
		require.NoError(t, alone.Publish(ctx, fmt.Sprint("chat.", i%7), []byte(numberedTexts(500)[i]), bus.WithHeader("Number", fmt.Sprint(i))))
	}
	buses := openMembers(t, nil)
	bridge := migrate.NewBridge(alone, buses[1], migrate.BridgeConfig{})
	require.NoError(t, bridge.Copy(ctx))
	require.NoError(t, alone.Publish(ctx, "chat.late", []byte("while it copied")))
	summaries, err := bridge.CutOver(ctx)
	require.NoError(t, err)
	for _, s := range summaries {
		require.NoError(t, s.Err())
		require.Equal(t, uint64(501), s.Destination.Messages)
	}
	var got collector
	_, err = buses[2].Subscribe(ctx, "chat.>", got.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, append(numberedTexts(500), "while it copied"), got.texts())
	require.NoError(t, buses[0].Publish(ctx, "chat.new", []byte("goes on here")))
}

func TestCluster_aMemberSaysThatItsMachineHasCrashed(t *testing.T) {
	t.Parallel() // most of it waits
	for _, row := range []struct {
		name  string
		sync  time.Duration
		boot  string // as noted; "": the member was closed
		warns bool
	}{
		{"closed", 0, "", false},
		{"crashed", 0, "another start", true},
		{"crashed with all on the disk", natsbus.SyncAlways, "another start\nalways\n", false},
		{"crashed, and opened with another level", natsbus.SyncAlways, "another start\n", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			configs := memberConfigs(t)
			var said bytes.Buffer
			var opening sync.WaitGroup
			buses := make([]bus.Bus, len(configs))
			open := func(log io.Writer) {
				for i, c := range configs {
					c.Sync = row.sync
					opening.Go(func() {
						logger := slog.New(slog.DiscardHandler)
						if i == 0 {
							logger = slog.New(slog.NewTextHandler(log, nil))
						}
						var err error
						if buses[i], err = c.Open(t.Context(), bus.WithLogger(logger)); err != nil {
							t.Error(err)
						}
					})
				}
				opening.Wait()
				require.False(t, t.Failed())
			}
			closeAll := func() {
				for _, b := range buses {
					opening.Go(func() {
						if err := b.Close(context.Background()); err != nil {
							t.Error(err)
						}
					})
				}
				opening.Wait()
			}
			open(io.Discard)
			noted := filepath.Join(configs[0].Dir, "jitney.boot")
			require.FileExists(t, noted)
			closeAll()
			require.NoFileExists(t, noted)
			if row.boot != "" {
				require.NoError(t, os.WriteFile(noted, []byte(row.boot), 0o600))
			}
			open(&said)
			closeAll()
			require.Equal(t, row.warns, strings.Contains(said.String(), "the machine or the file system has crashed under this member"), said.String())
		})
	}
}

// What docs/operate.md says to do when the replicas of the members may differ.
func TestCluster_startedTogetherTheOneThatHasAStoreFillsTheEmptyOnes(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	var configs [3]natsbus.Config
	buses := openMembers(t, func(i int, c *natsbus.Config) { configs[i] = *c })
	require.NoError(t, buses[0].EnsureStreams(ctx, chat))
	group := func(b bus.Bus) (done *collector) {
		done = &collector{}
		_, err := b.Subscribe(ctx, "chat.*", done.handle, bus.DurableGroup("workers"), bus.Attempts(0))
		require.NoError(t, err)
		return done
	}
	before := group(buses[0])
	for _, text := range numberedTexts(100) {
		require.NoError(t, buses[0].Publish(ctx, "chat.Go", []byte(text)))
	}
	eventually(t, func() bool { return len(before.texts()) == 100 }, "the group to have all")
	requireHealthy(t, buses...)
	for _, b := range buses {
		require.NoError(t, b.Close(ctx))
	}
	kept := storedIn(t, configs[1].Dir, chat.Name)
	require.Positive(t, kept)
	for _, i := range []int{0, 2} {
		require.NoError(t, os.RemoveAll(configs[i].Dir))
	}
	buses = openMembers(t, func(i int, c *natsbus.Config) { *c = configs[i] })
	requireHealthy(t, buses...)
	want := numberedTexts(100)
	for i, b := range buses {
		require.Equal(t, kept, storedIn(t, configs[i].Dir, chat.Name), names[i])
		require.NoError(t, b.EnsureStreams(ctx, chat))
		want = append(want, "by "+names[i])
	}
	for i, b := range buses {
		require.NoError(t, b.Publish(ctx, "chat.Go", []byte(want[100+i])))
	}
	requireHealthy(t, buses...)
	for i, b := range buses {
		var got collector
		_, err := b.Subscribe(ctx, "chat.*", got.handle, bus.All())
		require.NoError(t, err)
		require.Equal(t, want, got.texts(), names[i])
	}
	after := group(buses[2])
	require.Eventually(t, func() bool { return len(after.texts()) >= 3 }, clusterPatience, 10*time.Millisecond)
	require.Equal(t, want[100:], after.texts(), "the group goes on")
}
