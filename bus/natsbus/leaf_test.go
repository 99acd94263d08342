package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// startHub starts a NATS server elsewhere that has leaves, with the domain "hub", and returns where it listens for them.
func startHub(t *testing.T, o server.Options) (s *server.Server, leaves string) {
	t.Helper()
	if o.Port == 0 {
		o.Port = -1
	}
	if o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	if o.LeafNode.Port == 0 {
		o.LeafNode.Port = freePort(t)
	}
	o.JetStreamDomain, o.LeafNode.Host = "hub", "127.0.0.1"
	return startServerWith(t, o), fmt.Sprint("127.0.0.1:", o.LeafNode.Port)
}

func openLeaf(t *testing.T, hub, more string, opts ...bus.OpenOption) bus.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
	defer cancel()
	b, err := bus.Open(ctx, "nats:?leaf="+hub+more, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

func TestLeaf_isOfTheHubsOneLog(t *testing.T) {
	hub, leaves := startHub(t, server.Options{})
	ctx := t.Context()
	buses := []bus.Bus{openURL(t, hub.ClientURL()), openLeaf(t, leaves, "&domain=hub"), openLeaf(t, leaves, "&domain=hub")}
	require.NoError(t, buses[1].EnsureStreams(ctx, chat))
	require.Equal(t, 1, jszStreams(t, hub), "the stream is at the hub")
	for _, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, chat), "and is seen from everywhere")
		streams, err := b.(bus.StreamLister).Streams(ctx)
		require.NoError(t, err)
		require.Len(t, streams, 1)
	}
	var captured, others [3]collector
	for i, b := range buses {
		_, err := b.Subscribe(ctx, "chat.*", captured[i].handle, bus.All())
		require.NoError(t, err)
		_, err = b.Subscribe(ctx, "note.*", others[i].handle)
		require.NoError(t, err)
	}
	texts := numberedTexts(300)
	for i, text := range texts {
		require.NoError(t, buses[i%3].Publish(ctx, "chat.Go", []byte(text)))
	}
	for i := range buses {
		eventually(t, func() bool { return len(captured[i].texts()) == 300 }, "everything that was captured")
		require.Equal(t, texts, captured[i].texts())
		eventually(t, func() bool { // interest spreads
			require.NoError(t, buses[i].Publish(ctx, "note.a", fmt.Append(nil, "from ", i)))
			for j := range others {
				if !slices.Contains(others[j].texts(), fmt.Sprint("from ", i)) {
					return false
				}
			}
			return true
		}, "what isn't captured crosses")
	}
	var receipt bus.Receipt
	require.NoError(t, buses[1].Publish(ctx, "chat.once", nil, bus.MessageID("once")))
	require.NoError(t, buses[2].Publish(ctx, "chat.once", nil, bus.MessageID("once"), bus.WithReceipt(&receipt)))
	require.True(t, receipt.Duplicate)
	require.ErrorIs(t, buses[1].Publish(ctx, "chat.once", nil, bus.ExpectNone()), bus.ErrConflict)
	require.NoError(t, buses[1].(bus.HealthChecker).Health(ctx))

	// More than flow control lets through at once.
	var large [3]collector
	for i, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, bus.StreamConfig{Name: "LARGE", Subjects: []string{"large"}}))
		_, err := b.Subscribe(ctx, "large", large[i].handle)
		require.NoError(t, err)
	}
	data := []byte(strings.Repeat("x", 256<<10))
	for range 40 {
		require.NoError(t, buses[1].Publish(ctx, "large", data))
	}
	for i := range buses {
		eventually(t, func() bool { return len(large[i].texts()) == 40 }, "all that is large")
	}
}

func jszStreams(t *testing.T, s *server.Server) int {
	t.Helper()
	info, err := s.Jsz(nil)
	require.NoError(t, err)
	return info.Streams
}

func TestLeaf_sharesGroupsWithTheOthers(t *testing.T) {
	_, leaves := startHub(t, server.Options{})
	ctx := t.Context()
	a, b := openLeaf(t, leaves, "&domain=hub"), openLeaf(t, leaves, "&domain=hub")
	require.NoError(t, a.EnsureStreams(ctx, work))
	var onA, onB collector
	for sub, got := range map[bus.Bus]*collector{a: &onA, b: &onB} {
		_, err := sub.Subscribe(ctx, "work.*", got.handle, bus.DurableGroup("d"), bus.Attempts(0))
		require.NoError(t, err)
	}
	want := numberedTexts(200)
	for _, text := range want {
		require.NoError(t, a.Publish(ctx, "work.a", []byte(text)))
	}
	eventually(t, func() bool { return once(want, &onA, &onB) }, "each message once")
}

func TestLeaf_saysSoWhileTheHubIsAway(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	hub, leaves := startHub(t, server.Options{StoreDir: dir, LeafNode: server.LeafNodeOpts{Port: port}})
	ctx := t.Context()
	var problems collector
	b := openLeaf(t, leaves, "&domain=hub", bus.OnError(problems.hook))
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var captured, local collector
	_, err := b.Subscribe(ctx, "chat.*", captured.handle, bus.All())
	require.NoError(t, err)
	_, err = b.Subscribe(ctx, "note", local.handle)
	require.NoError(t, err)
	require.NoError(t, b.Publish(ctx, "chat.Go", []byte("before")))

	hub.Shutdown()
	hub.WaitForShutdown()
	eventually(t, func() bool { return errors.Is(b.(bus.HealthChecker).Health(ctx), bus.ErrUnavailable) }, "Health says so")
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err = b.Publish(short, "chat.Go", []byte("during"))
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.NotErrorIs(t, err, bus.ErrUnknownOutcome, "nobody was there to take it")
	short, cancel = context.WithTimeout(ctx, time.Second) // Publish may have taken all of the first one
	defer cancel()
	_, err = b.Subscribe(short, "chat.*", captured.handle, bus.All())
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.NoError(t, b.Publish(ctx, "note", []byte("among ourselves")))
	eventually(t, func() bool { return slices.Contains(local.texts(), "among ourselves") }, "what isn't captured goes on")
	eventually(t, func() bool { return problems.told(bus.ErrSlow) == 1 }, "to be told that what others sent may be lost")

	waiting := make(chan error, 1)
	go func() { waiting <- b.Publish(ctx, "chat.Go", []byte("waits for the hub")) }()
	startHub(t, server.Options{StoreDir: dir, LeafNode: server.LeafNodeOpts{Port: port}})
	require.NoError(t, <-waiting)
	require.NoError(t, b.Publish(ctx, "chat.Go", []byte("after")))
	eventually(t, func() bool { return len(captured.texts()) == 3 }, "everything")
	require.Equal(t, []string{"before", "waits for the hub", "after"}, captured.texts())
	require.Zero(t, problems.told(bus.ErrGap))
	require.NoError(t, b.Close(ctx), "before the hub, which would be waited for")
}

func TestLeaf_saysWhoItIs(t *testing.T) {
	user := newNkey(t, ofUser)
	ours := newAuthority(t)
	for name, c := range map[string]struct {
		hub          server.Options
		right, wrong string
		why          string
	}{
		"user":   {server.Options{LeafNode: server.LeafNodeOpts{Username: "edge", Password: "geheim"}}, "&leaf-user=edge&leaf-password-file=" + secretFile(t, "geheim"), "&leaf-user=edge&leaf-password=falsch", "Authorization Violation"},
		"token":  {server.Options{Authorization: "geheim"}, "&leaf-token=geheim", "&leaf-token=falsch", "Authorization Violation"},
		"nkey":   {server.Options{Nkeys: []*server.NkeyUser{{Nkey: user.public()}}}, "&leaf-nkey=" + secretFile(t, user.seed()), "&leaf-nkey=" + secretFile(t, newNkey(t, ofUser).seed()), "Authorization Violation"},
		"TLS":    {server.Options{LeafNode: server.LeafNodeOpts{TLSConfig: serverTLS(t, ours), TLSTimeout: 5}}, "&tls-ca=" + ours.file, "&tls-ca=" + newAuthority(t).file, "unknown authority"},
		"no TLS": {server.Options{}, "", "&tls-ca=" + ours.file, "TLS Handshake Failure"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it waits
			_, leaves := startHub(t, c.hub)
			useOf(t, openLeaf(t, leaves, "&domain=hub"+c.right))
			for wrong, why := range map[string]string{"&domain=hub" + c.wrong: c.why, "&domain=other" + c.right: "JetStream of domain other"} {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := bus.Open(ctx, "nats:?leaf="+leaves+wrong, quietly(t))
				require.ErrorIs(t, err, bus.ErrUnavailable)
				require.ErrorContains(t, err, "doesn't answer by the hub "+leaves)
				require.ErrorContains(t, err, why)
				require.NotContains(t, err.Error(), "geheim")
				require.NotContains(t, err.Error(), "falsch")
			}
		})
	}
}

func TestLeaf_ofAClusterFindsAnotherMember(t *testing.T) {
	t.Parallel() // most of it waits
	var listens []string
	buses := openMembers(t, func(_ int, c *natsbus.Config) {
		c.LeafListen, c.Token = fmt.Sprint("127.0.0.1:", freePort(t)), "geheim"
		listens = append(listens, c.LeafListen)
	})
	ctx := t.Context()
	b := openLeaf(t, strings.Join(listens[:2], ","), "&domain=chat&leaf-token=geheim&replicas=3")
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var got, there collector
	_, err := b.Subscribe(ctx, "chat.*", got.handle)
	require.NoError(t, err)
	require.NoError(t, buses[2].EnsureStreams(ctx, chat)) // what others have made counts within a second
	_, err = buses[2].Subscribe(ctx, "chat.*", there.handle)
	require.NoError(t, err)
	texts := numberedTexts(40)
	for i, text := range texts {
		if i == 20 {
			require.NoError(t, buses[0].Close(ctx))
		}
		require.NoError(t, b.Publish(ctx, "chat.Go", []byte(text)))
	}
	require.Eventually(t, func() bool { return len(got.texts()) == 40 && len(there.texts()) == 40 }, clusterPatience, 10*time.Millisecond, "everything")
	require.Equal(t, texts, got.texts())
	require.Equal(t, texts, there.texts())
}
