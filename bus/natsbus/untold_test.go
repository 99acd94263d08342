package natsbus_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// inTheWay makes a file of messages that can't be read, until it is removed.
func inTheWay(t *testing.T, dir string) (remove func()) {
	t.Helper()
	path := filepath.Join(smallDir(dir), "msgs", "99.blk")
	require.NoError(t, os.Mkdir(path, 0o700))
	later := time.Now().Add(time.Hour)
	require.NoError(t, os.Chtimes(path, later, later))
	return func() { require.NoError(t, os.Remove(path)) }
}

// What is mended isn't found a second time.
func TestDamage_isToldByTheNextStartWhereTheFirstOneFails(t *testing.T) {
	for _, perSubject := range []bool{false, true} { // where a limit takes messages out as well, nothing else tells of those that are gone
		dir := t.TempDir()
		cursors := filled(t, dir)
		if perSubject {
			limited := small
			limited.MaxMsgsPerSubject = smallMsgs
			b, err := bus.Open(t.Context(), "nats:"+dir)
			require.NoError(t, err)
			require.NoError(t, b.EnsureStreams(t.Context(), limited))
			require.NoError(t, b.Close(context.Background()))
		}
		harmWhileOpen(t, dir, 100)
		later := time.Now().Add(time.Hour)
		require.NoError(t, os.Chtimes(blockFiles(t, dir)[0], later, later), "otherwise it is for the rounds")
		remove := inTheWay(t, dir)
		for range 2 {
			_, err := bus.Open(t.Context(), "nats:"+dir, quietly(t))
			require.ErrorIs(t, err, bus.ErrUnavailable)
			require.ErrorContains(t, err, "99.blk")
		}
		remove()
		for open := range 2 {
			var problems, got collector
			b, err := bus.Open(t.Context(), "nats:"+dir, bus.OnError(problems.hook), quietly(t))
			require.NoError(t, err)
			health := b.(bus.HealthChecker).Health(t.Context())
			if open == 0 {
				require.Equal(t, 1, problems.told(bus.ErrGap), "the hook of the bus")
				require.ErrorContains(t, health, "SMALL")
			} else {
				require.Zero(t, problems.told(bus.ErrGap), "once")
				require.NoError(t, health)
			}
			_, err = b.Subscribe(t.Context(), "small.*", got.handle, bus.After(cursors[0]), bus.OnError(got.hook))
			require.NoError(t, err)
			require.Len(t, got.texts(), smallMsgs-2)
			require.Equal(t, 1, got.told(bus.ErrGap), "who reads there")
			require.NoError(t, b.Close(context.Background()))
		}
	}
}

func TestDamage_isToldWhenTheStoreIsOpenAgainHoweverOftenThatFails(t *testing.T) {
	t.Parallel() // most of it waits
	dir := t.TempDir()
	filled(t, dir)
	var problems collector
	b, err := bus.Open(t.Context(), "nats:"+dir+"?scrub=1s", bus.OnError(problems.hook), quietly(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	harmWhileOpen(t, dir, 100)
	remove := inTheWay(t, dir)
	health := b.(bus.HealthChecker).Health
	eventually(t, func() bool {
		err := health(t.Context())
		return err != nil && strings.Contains(err.Error(), "can't be opened again yet")
	}, "what is in the way")
	require.Zero(t, problems.told(bus.ErrGap))
	remove()
	eventually(t, func() bool { return problems.told(bus.ErrGap) == 1 }, "the hook of the bus")
	require.ErrorContains(t, health(t.Context()), "SMALL")
	var got collector
	_, err = b.Subscribe(t.Context(), "small.*", got.handle, bus.All(), bus.OnError(got.hook))
	require.NoError(t, err)
	require.Len(t, got.texts(), smallMsgs-1)
	require.Equal(t, 1, got.told(bus.ErrGap), "who reads there")
}

// A start that fails before the streams are compared has nothing to record.
func TestLives_aStartThatFailsRecordsNoCleanStop(t *testing.T) {
	dir := t.TempDir()
	last := stored(t, dir, 10)
	lives := filepath.Join(dir, "jitney.lives")
	text, err := os.ReadFile(lives)
	require.NoError(t, err)
	crashed := strings.NewReplacer(`"open":false`, `"open":true`, `"boot":"`, `"boot":"another `).Replace(string(text))
	require.NoError(t, os.WriteFile(lives, []byte(crashed), 0o600))
	block := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs", "99.blk")
	require.NoError(t, os.Mkdir(block, 0o700))
	_, err = bus.Open(t.Context(), "nats:"+dir, quietly(t))
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.NoError(t, os.Remove(block))
	require.Equal(t, 1, resumed(t, dir, last).told(bus.ErrGap), "the machine has crashed since the last clean stop")
}
