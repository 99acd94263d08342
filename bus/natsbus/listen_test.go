package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// While a server opens its store it has no streams, and whoever asks it then takes their subjects for ones that nothing captures.
func TestListen_nothingIsLostToOthersWhileTheStoreIsMended(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	listen, leaves := fmt.Sprint("127.0.0.1:", freePort(t)), fmt.Sprint("127.0.0.1:", freePort(t))
	var problems collector
	b, err := bus.Open(ctx, "nats:"+dir+"?token=geheim&scrub=2s&sync=fast&listen="+listen+"&leaf-listen="+leaves, bus.OnError(problems.hook), quietly(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) }) // behind those who are connected to it
	large := bus.StreamConfig{Name: "LARGE", Subjects: []string{"task", "many.*"}}
	require.NoError(t, b.EnsureStreams(ctx, large))
	for i := range 200_000 { // so that it takes a while to open the store
		b.(bus.AsyncPublisher).PublishAsync(ctx, fmt.Sprint("many.", i), nil, nil)
	}
	url := "nats://geheim@" + listen
	buses := []bus.Bus{b, openURL(t, url), openLeaf(t, leaves, "&domain=jitney&leaf-token=geheim", quietly(t))}
	var got, done [3]collector
	var subs []bus.Subscription
	for i, b := range buses {
		require.NoError(t, b.EnsureStreams(ctx, large))
		sub, err := b.Subscribe(ctx, "task", got[i].handle, bus.OnError(got[i].hook))
		require.NoError(t, err)
		group, err := b.Subscribe(ctx, "task", done[i].handle, bus.DurableGroup(fmt.Sprint("group", i)), bus.Attempts(0))
		require.NoError(t, err)
		subs = append(subs, sub, group)
	}
	block := filepath.Join(dir, "jetstream", "$G", "streams", "LARGE", "msgs", "1.blk")
	before, err := os.Stat(block)
	require.NoError(t, err)
	edit(t, block, func(text []byte) []byte {
		starts := recordsOf(text)
		text[starts[len(starts)/2]+25] ^= 4 // of the subject
		return text
	})
	require.NoError(t, os.Chtimes(block, before.ModTime(), before.ModTime()), "a disk changes no time")

	var mu sync.Mutex
	var acked []string
	publish := func(b bus.Bus, text string) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err := b.Publish(ctx, "task", []byte(text))
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			acked = append(acked, text)
		case !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("publish: %v", err)
		}
	}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	stopped := sync.OnceFunc(func() { close(stop); publishing.Wait() })
	defer stopped()
	for i := range 4 {
		publishing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond): // as a user publishes
				}
				text := fmt.Sprint(i, ".", n)
				if i < len(buses) {
					publish(buses[i], text)
					continue
				}
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				if fresh, err := bus.Open(ctx, url, quietly(t)); err == nil { // it asks what is captured
					publish(fresh, text)
					_ = fresh.Close(ctx) // it has what it wanted
				}
				cancel()
			}
		})
	}
	nc, _ := raw(t, url)
	publishing.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			answer, err := nc.Request("$JS.API.STREAM.NAMES", nil, 5*time.Millisecond)
			if err == nil && bytes.Contains(answer.Data, []byte(`"total":0`)) && !bytes.Contains(answer.Data, []byte(`"error"`)) {
				t.Error("the server has no streams")
				return
			}
		}
	})
	mended := func() bool { return problems.told(bus.ErrGap) > 0 }
	require.Eventually(t, mended, clusterPatience, 10*time.Millisecond, "damage to be mended")
	for i := range buses {
		last := fmt.Sprint("last of ", i)
		require.Eventually(t, func() bool {
			publish(buses[i], last)
			mu.Lock()
			defer mu.Unlock()
			return slices.Contains(acked, last)
		}, clusterPatience, 10*time.Millisecond, "service again")
	}
	stopped()
	require.ErrorContains(t, b.(bus.HealthChecker).Health(ctx), "LARGE", "that of the damage")
	var all collector
	_, err = b.Subscribe(ctx, "task", all.handle, bus.All())
	require.NoError(t, err)
	require.True(t, containsAll(all.texts(), acked), "acknowledged and lost")
	for i := range buses {
		require.Eventually(t, func() bool { return containsAll(got[i].texts(), acked) && containsAll(done[i].texts(), acked) }, clusterPatience, 10*time.Millisecond, "all of them, to who was subscribed")
	}
	for _, sub := range subs {
		require.NoError(t, sub.Err())
	}
	t.Logf("%d acknowledged", len(acked))
}

func TestListen_theServerIsStartedAnewOnItsPortsAndMayBeClosedAtAnyTime(t *testing.T) {
	t.Parallel() // most of it waits
	dir, addr, leaves := t.TempDir(), fmt.Sprint("127.0.0.1:", freePort(t)), fmt.Sprint("127.0.0.1:", freePort(t))
	url := "nats:" + dir + "?token=geheim&listen=" + addr + "&leaf-listen=" + leaves
	answers := func(addr string) bool {
		conn, err := net.Dial("tcp", addr)
		return err == nil && conn.Close() == nil
	}
	var want []string
	for i, until := range []func(b bus.Bus) bool{
		func(bus.Bus) bool { return true },
		func(bus.Bus) bool { return !answers(addr) },
		func(b bus.Bus) bool {
			return b.(bus.HealthChecker).Health(t.Context()) == nil && answers(addr) && answers(leaves)
		},
	} {
		b, err := bus.Open(t.Context(), url, quietly(t))
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), task))
		want = append(want, fmt.Sprint(i))
		require.NoError(t, b.Publish(t.Context(), "task", []byte(want[i])))
		natsbus.Break(b)
		require.ErrorIs(t, b.Publish(t.Context(), "task", nil), bus.ErrUnavailable)
		eventually(t, func() bool { return until(b) }, "the moment to close it")
		require.NoError(t, b.Close(context.Background()))
		require.False(t, answers(addr))
	}
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	var got collector
	_, err = b.Subscribe(t.Context(), "task", got.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, want, got.texts())
	require.NoError(t, b.Close(context.Background()))
}

// The acknowledgements of others don't pass through this process.
func TestListen_syncAlwaysHoldsForOthers(t *testing.T) {
	for _, level := range []string{"always", "100ms"} {
		for _, how := range []string{"listen", "leaf-listen", ""} {
			t.Run(level+" "+how, func(t *testing.T) {
				url, addr := "nats:"+t.TempDir()+"?sync="+level, fmt.Sprint("127.0.0.1:", freePort(t))
				if how != "" {
					url += "&token=geheim&" + how + "=" + addr
				}
				b, err := bus.Open(t.Context(), url, quietly(t))
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
				server, commits := natsbus.SyncsAlways(b)
				alone := how == "" && runtime.GOOS != "windows"
				require.Equal(t, level == "always" && !alone, server)
				require.Equal(t, level == "always" && alone, commits)
				useOf(t, b)
				switch how {
				case "listen":
					useOf(t, openURL(t, "nats://geheim@"+addr))
				case "leaf-listen":
					useOf(t, openLeaf(t, addr, "&domain=jitney&leaf-token=geheim", quietly(t)))
				}
			})
		}
	}
}
