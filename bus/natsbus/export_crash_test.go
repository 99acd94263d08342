package natsbus

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
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

// Assets are the streams that a member holds and their replicated consumers, each with its consensus group. They are nil while it can't tell.
func Assets(b bus.Bus) (lines []string) {
	info, err := b.(*natsBus).backend.node.server.Load().Jsz(&server.JSzOptions{Account: server.DEFAULT_GLOBAL_ACCOUNT, Streams: true, Consumer: true, RaftGroups: true})
	if err != nil {
		return nil
	}
	for _, account := range info.AccountDetails {
		for _, s := range account.Streams {
			lines = append(lines, fmt.Sprint(s.Name, " in ", s.RaftGroup))
			for _, c := range s.ConsumerRaftGroups {
				if strings.HasPrefix(c.RaftGroup, "C-R3") {
					lines = append(lines, fmt.Sprint(s.Name, " ", c.Name, " in ", c.RaftGroup))
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// Consumers says how a member sees its consumers.
func Consumers(b bus.Bus) (lines []string) {
	info, err := b.(*natsBus).backend.node.server.Load().Jsz(&server.JSzOptions{Account: server.DEFAULT_GLOBAL_ACCOUNT, Streams: true, Consumer: true, RaftGroups: true, Config: true})
	if err != nil {
		return []string{err.Error()}
	}
	for _, account := range info.AccountDetails {
		for _, s := range account.Streams {
			for _, c := range s.Consumer {
				text, err := json.Marshal(c)
				lines = append(lines, fmt.Sprint(s.Name, " ", string(text), " ", err))
			}
		}
	}
	return lines
}

// ClusterState is how a member's server stands to the cluster's log.
func ClusterState(b bus.Bus) *server.RaftzGroup { return b.(*natsBus).backend.node.clusterState() }

// ClusterLog is what a member knows of the cluster's log.
type ClusterLog struct{ log *clusterLog }

// BeginLog reads what a member's directory has of it.
func BeginLog(t *testing.T, dir string) *ClusterLog {
	t.Helper()
	l, err := (&embedded{dir: dir}).beginLog()
	require.NoError(t, err)
	return &ClusterLog{l}
}

// See takes note of a server's state.
func (l *ClusterLog) See(t *testing.T, g server.RaftzGroup) {
	t.Helper()
	require.NoError(t, l.log.see(&g))
}

// Claims are what it claims, as TERM:END.
func (l *ClusterLog) Claims() (claims []string) {
	for _, c := range l.log.claims() {
		claims = append(claims, fmt.Sprint(c.Term, ":", c.End))
	}
	return claims
}

// Contradicts reports whether more was applied than is claimed.
func (l *ClusterLog) Contradicts(term, end uint64) bool {
	return l.log.contradicts(claim{Term: term, End: end})
}

// Created is when the streams that a member's cluster has were created.
func Created(t *testing.T, b bus.Bus) map[string]time.Time {
	t.Helper()
	created, err := b.(*natsBus).backend.created(t.Context(), "$JS.API.STREAM.LIST")
	require.NoError(t, err)
	return created
}

// LostIn names the directories below dir of what isn't known, or was created at another time.
func LostIn(t *testing.T, dir string, known map[string]time.Time) []string {
	t.Helper()
	lost, err := lostIn(dir, known)
	require.NoError(t, err)
	return lost
}

// Check notes that members have compared a claim.
func (l *ClusterLog) Check(t *testing.T, term uint64, by, members []string) {
	t.Helper()
	require.NoError(t, l.log.check(term, by, members))
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

// Lives is what a store of one stream knows of it.
type Lives struct {
	of     *lives
	stream server.StreamDetail
}

// BeginLives opens the record of a new store, in dir.
func BeginLives(t *testing.T, dir string) *Lives {
	t.Helper()
	of, err := openLives(dir, true)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, of.close(true)) })
	l := &Lives{of, server.StreamDetail{Name: "S", Created: time.Now()}}
	_, err = of.begin([]server.StreamDetail{l.stream})
	require.NoError(t, err)
	return l
}

// Reached notes that somebody has been given a sequence.
func (l *Lives) Reached(sequence uint64) error { return l.of.reached(l.stream.Name, sequence) }

// Compare says whether the stream, whose last sequence this is, has lost its end.
func (l *Lives) Compare(last uint64) (lost bool, err error) {
	l.stream.State.LastSeq = last
	streams, err := l.of.compare([]server.StreamDetail{l.stream}, false)
	return len(streams) > 0, err
}
