package natsbus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// task is a stream of one subject.
var task = bus.StreamConfig{Name: "TASK", Subjects: []string{"task"}}

func TestSync_whatIsAnsweredWhileTheStoreIsBeingHealedIsRefusedAndNothingBehindIt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the server syncs each message")
	}
	b, err := bus.Open(t.Context(), "nats:"+t.TempDir()+"?sync=always")
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	require.NoError(t, b.EnsureStreams(t.Context(), task))
	require.NoError(t, b.Publish(t.Context(), "task", nil))
	mended := natsbus.Fail(b)
	natsbus.AnswerLate(t, b, "TASK")
	mended()
	require.NoError(t, b.(bus.HealthChecker).Health(t.Context()))
	require.NoError(t, b.Publish(t.Context(), "task", nil))
}

func TestSync_ofARemovedStreamKeepsNoFileOpen(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("the system doesn't tell which files are open")
	}
	dir := t.TempDir()
	b, err := bus.Open(t.Context(), "nats:"+dir+"?sync=always")
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	for i := range 5 {
		name := fmt.Sprint("S", i)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: name, Subjects: []string{name}}))
		require.NoError(t, b.Publish(t.Context(), name, nil))
		require.NoError(t, b.Publish(t.Context(), name, nil))
		require.NoError(t, b.(bus.Remover).RemoveStream(t.Context(), name))
	}
	streams := filepath.Join(dir, "jetstream", "$G", "streams")
	eventually(t, func() bool { // the server closes its own behind its answer
		left := 0
		files, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		for _, f := range files {
			path, err := os.Readlink(filepath.Join("/proc/self/fd", f.Name()))
			if below, _ := filepath.Rel(streams, path); err == nil && filepath.IsLocal(below) {
				left++
			}
		}
		return left == 0
	}, "all files closed")
}

func TestClose_ofAMemberWhoseStoreIsBrokenIsNoCleanStop(t *testing.T) {
	t.Parallel() // most of it waits
	var dirs []string
	buses := openMembers(t, func(_ int, c *natsbus.Config) { dirs = append(dirs, c.Dir) })
	natsbus.Fail(buses[0])
	for i, b := range buses {
		require.NoError(t, b.Close(context.Background()))
		_, err := os.Stat(filepath.Join(dirs[i], "jitney.boot"))
		if i == 0 {
			require.NoError(t, err, "what it had acknowledged may not be on its disk")
		} else {
			require.ErrorIs(t, err, os.ErrNotExist)
		}
	}
}

func TestOpen_removesWhatAKilledProcessHasTriedForRoom(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"room-123", "room-plan"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 1000), 0o600))
	}
	b, err := natsbus.Open(t.Context(), dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	_, err = os.Stat(filepath.Join(dir, "room-123"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = os.Stat(filepath.Join(dir, "room-plan"))
	require.NoError(t, err, "it is none of its own")
}
