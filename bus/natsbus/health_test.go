package natsbus_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// reopen opens a member again that the test has closed.
func reopen(t *testing.T, c natsbus.Config) bus.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
	defer cancel()
	b, err := c.Open(ctx, quietly(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close(context.Background()) }) // the test may have
	return b
}

func healthy(b bus.Bus) func() bool {
	return func() bool { return b.(bus.HealthChecker).Health(context.Background()) == nil }
}

// requireHealthy waits for the members: under load an election, or what a member has missed, takes its time.
func requireHealthy(t *testing.T, buses ...bus.Bus) {
	t.Helper()
	for i, b := range buses {
		require.EventuallyWithT(t, func(c *assert.CollectT) { require.NoError(c, b.(bus.HealthChecker).Health(t.Context())) },
			clusterPatience, 20*time.Millisecond, "member %d of %d to be healthy", i+1, len(buses))
	}
}

// storedIn is how many bytes of messages of a stream a member's directory has.
func storedIn(t *testing.T, dir, stream string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".blk" {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return bytes
}

func TestHealth_ofAMemberIsNilOnlyWhenItHasWhatTheOthersHave(t *testing.T) {
	t.Parallel() // most of it waits
	configs := map[int]natsbus.Config{}
	buses := openMembers(t, func(i int, c *natsbus.Config) { configs[i] = *c })
	require.NoError(t, buses[0].EnsureStreams(t.Context(), bus.StreamConfig{Name: "LARGE", Subjects: []string{"large"}}))
	const messages, size = 400, 64 << 10
	text := []byte(strings.Repeat("x", size))
	for range messages {
		require.NoError(t, buses[0].Publish(t.Context(), "large", text))
	}
	requireHealthy(t, buses...)
	require.NoError(t, buses[2].Close(t.Context()))
	require.NoError(t, os.RemoveAll(configs[2].Dir))
	began := time.Now()
	again := reopen(t, configs[2])
	t.Logf("open after %s, with %d MB", time.Since(began).Round(time.Millisecond), storedIn(t, configs[2].Dir, "LARGE")>>20)
	requireHealthy(t, again)
	t.Logf("healthy after %s, with %d MB", time.Since(began).Round(time.Millisecond), storedIn(t, configs[2].Dir, "LARGE")>>20)
	// What the server has just stored may be on its way to the file.
	require.Greater(t, storedIn(t, configs[2].Dir, "LARGE"), int64(messages*size*9/10))
}

func TestHealth_namesAStreamThatHasNoLeader(t *testing.T) {
	t.Parallel() // most of it waits
	ctx := t.Context()
	configs := map[int]natsbus.Config{}
	buses := openMembers(t, func(i int, c *natsbus.Config) {
		c.Cluster.Replicas = 1
		c.Listen, c.Token = fmt.Sprint("127.0.0.1:", freePort(t)), "geheim"
		configs[i] = *c
	})
	require.NoError(t, buses[0].EnsureStreams(ctx, chat))
	require.NoError(t, buses[0].Publish(ctx, "chat.Go", []byte("of one")))
	requireHealthy(t, buses...)
	var others []bus.Bus
	var holder natsbus.Config
	url := ""
	for i, b := range buses {
		if storedIn(t, configs[i].Dir, chat.Name) == 0 {
			others = append(others, b)
			url = "nats://geheim@" + configs[i].Listen
			continue
		}
		holder = configs[i]
		require.NoError(t, b.Close(ctx))
	}
	require.Len(t, others, 2)
	var stranger bus.Bus
	whileServersStart(t, func() (err error) { // the one that is closed may have led the others
		stranger, err = bus.Open(ctx, url, quietly(t))
		return err
	})
	defer stranger.Close(context.Background())
	for _, b := range others {
		var err error
		require.Eventually(t, func() bool {
			err = b.(bus.HealthChecker).Health(ctx)
			return err != nil && strings.Contains(err.Error(), "no leader now of CHAT")
		}, clusterPatience, 20*time.Millisecond)
		require.ErrorIs(t, err, bus.ErrUnavailable)
	}
	require.NoError(t, stranger.(bus.HealthChecker).Health(ctx), "it doesn't use the stream")
	requireHealthy(t, append(others, reopen(t, holder))...)
	require.NoError(t, others[0].Publish(ctx, "chat.Go", []byte("goes on")))
}
