package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// held is how many messages the stream of a store holds.
func held(t *testing.T, url string) int {
	t.Helper()
	b := openBus(t, url)
	streams, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.Close(context.Background()))
	for _, s := range streams {
		if s.Config.Name == "CHAT" {
			return int(s.Msgs)
		}
	}
	return 0
}

func TestBridge_backsUpARunningStoreFromWhichItIsRestored(t *testing.T) {
	jitney := build(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	dir, backup := filepath.Join(t.TempDir(), "chat"), filepath.Join(t.TempDir(), "backup")
	b := openBus(t, "nats:"+dir+"?listen="+addr)
	require.NoError(t, b.EnsureStreams(t.Context(), chatStream))
	say(t, b, 1, 500)

	stop, stopped := make(chan struct{}), make(chan int, 1)
	go func() { // the program goes on meanwhile
		n := 500
		defer func() { stopped <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := b.Publish(context.Background(), fmt.Sprintf("chat.%d", (n+1)%5), fmt.Append(nil, n+1)); err != nil {
				t.Errorf("publish: %v", err)
				return
			}
			n++
		}
	}()
	for before := 499; ; { // once, and then the rest
		status, out, stderr := bridge(t, jitney, "-from", "nats://"+addr, "-to", "nats:"+backup)
		require.Contains(t, out, "the same at both ends", stderr)
		if status != 0 { // it can't have what has come since
			require.Equal(t, 1, status)
			require.Contains(t, stderr, "more has been published to -from since")
		}
		after := held(t, "nats:"+backup)
		require.Greater(t, after, before, out)
		said(t, "nats:"+backup, after)
		if before > 499 {
			break
		}
		before = after
	}
	close(stop)
	n := <-stopped
	saved := held(t, "nats:"+backup)
	require.LessOrEqual(t, saved, n)
	require.NoError(t, b.Close(context.Background()))

	require.NoError(t, os.RemoveAll(dir)) // the disk is lost
	require.NoError(t, os.CopyFS(dir, os.DirFS(backup)))
	said(t, "nats:"+dir, saved)
	again := openBus(t, "nats:"+dir)
	require.NoError(t, again.EnsureStreams(t.Context(), chatStream))
	say(t, again, saved+1, saved+10)
	require.NoError(t, again.Close(context.Background()))
	said(t, "nats:"+dir, saved+10)
}
