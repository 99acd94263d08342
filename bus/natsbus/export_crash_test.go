package natsbus

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// GroupsOf are the consensus groups that a member would take away with its replica.
func GroupsOf(t *testing.T, b bus.Bus, stream string) []string {
	t.Helper()
	groups, err := b.(*natsBus).backend.node.groupsOf(stream)
	require.NoError(t, err)
	return groups
}

// Stored reads the messages in a stream's directory.
func Stored(t *testing.T, dir string) (lines []string) {
	t.Helper()
	paths, err := glob(dir, messageFiles)
	require.NoError(t, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		number := filepath.Base(path)
		b, err := newBlock(filepath.Base(dir), number[:len(number)-4], text)
		require.NoError(t, err)
		b.messages(func(seq uint64, _ int64, data []byte) { lines = append(lines, fmt.Sprintf("%d %s", seq, data)) })
	}
	return lines
}

// CutRecord takes the record of a message out of a file.
func CutRecord(t *testing.T, path string, sequence uint64) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	b, err := newBlock(filepath.Base(filepath.Dir(filepath.Dir(path))), "1", text)
	require.NoError(t, err)
	for at := 0; at < len(text); {
		n := b.record(text[at:])
		require.Positive(t, n)
		if binary.LittleEndian.Uint64(text[at+4:]) == sequence {
			require.NoError(t, os.WriteFile(path, slices.Delete(text, at, at+n), 0o600))
			return
		}
		at += n
	}
	t.Fatal("it isn't there")
}
