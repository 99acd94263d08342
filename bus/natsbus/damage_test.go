package natsbus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// block returns the only block of the stream that stored has made, and where its records begin.
func block(t *testing.T, dir string) (path string, data []byte, records []int) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "S", "msgs", "*.blk"))
	require.NoError(t, err)
	require.Len(t, blocks, 1)
	data, err = os.ReadFile(blocks[0])
	require.NoError(t, err)
	for at := 0; at < len(data); at += int(binary.LittleEndian.Uint32(data[at:]) &^ (1 << 31)) {
		records = append(records, at)
	}
	return blocks[0], data, records
}

// The server walks from one sequence to the next, and while it does, neither its start nor anything else ends.
func TestOpen_saysWhereASequenceIsDamaged(t *testing.T) {
	for bit := range 62 {
		dir := t.TempDir()
		stored(t, dir, 10)
		path, data, records := block(t, dir)
		data[records[4]+4+bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		b, err := natsbus.Open(t.Context(), dir)
		if bit < 24 {
			require.NoError(t, err, "bit %d", bit)
			require.NoError(t, b.Close(context.Background()))
			continue
		}
		require.ErrorIs(t, err, bus.ErrUnavailable, "bit %d", bit)
		require.ErrorContains(t, err, path+" is damaged at byte")
	}
}

// No checksum of the server's covers the length of a header, so that it gives out a part of the data as header, or the other way round.
func TestOpen_skipsAMessageWhoseHeaderDoesNotEndWhereItShould(t *testing.T) {
	for bit := range 32 {
		dir := t.TempDir()
		stored(t, dir, 10, bus.WithHeader("K", "v"))
		path, data, records := block(t, dir)
		at := bytes.Index(data[records[4]:], []byte("NATS/1.0")) - 4
		require.Positive(t, at)
		data[records[4]+at+bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		b, err := natsbus.Open(t.Context(), dir)
		require.NoError(t, err)
		var got collector
		_, err = b.Subscribe(t.Context(), "a", got.handle, bus.All())
		require.NoError(t, err)
		require.Len(t, got.texts(), 9, "bit %d", bit)
		for _, text := range got.texts() {
			require.Equal(t, "x", text)
		}
		require.NoError(t, b.Close(context.Background()))
	}
}
