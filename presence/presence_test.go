package presence_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/presence"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		beChild(url)
		return
	}
	goleak.VerifyTestMain(m)
}

func openBus(t *testing.T, url string, opts ...bus.OpenOption) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), url, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

// open stands for a process of its own.
func open(t *testing.T, b bus.Bus, opts ...presence.Option) *presence.Rooms {
	t.Helper()
	rs, err := presence.Open(t.Context(), b, "here", opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rs.Close(context.Background())) })
	return rs
}

func join(t *testing.T, rs *presence.Rooms, room, id string, changed ...func()) *presence.Visit {
	t.Helper()
	v, err := rs.Join(context.Background(), room, presence.Member{ID: id, Name: "N" + id}, slices.Concat(changed, []func(){nil})[0])
	require.NoError(t, err)
	return v
}

func watch(t *testing.T, rs *presence.Rooms, room string, changed func()) *presence.Visit {
	t.Helper()
	v, err := rs.Watch(context.Background(), room, changed)
	require.NoError(t, err)
	return v
}

func ids(v *presence.Visit) []string {
	list := []string{}
	for _, m := range v.List() {
		list = append(list, m.ID)
	}
	return list
}

// onMem runs a test on both kinds of bus in memory, with a clock that costs nothing.
func onMem(t *testing.T, test func(t *testing.T, url string)) {
	for _, url := range []string{"mem:", "mem:?tick=100ms"} {
		t.Run(url, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, url) })
		})
	}
}

// settled is longer than anything takes that isn't meant to wait.
const settled = 500 * time.Millisecond

func TestJoin_isSeenByEverybody(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x, y := open(t, b), open(t, b)
		a := join(t, x, "Go", "a")
		require.Equal(t, []string{"a"}, ids(a), "at once")
		time.Sleep(settled)
		c := join(t, y, "Go", "c")
		other := join(t, y, "Rust", "r")
		time.Sleep(settled)
		require.Equal(t, []string{"a", "c"}, ids(a))
		require.Equal(t, []string{"a", "c"}, ids(c), "who opens a room is answered at once")
		require.Equal(t, []string{"r"}, ids(other))
		join(t, x, "Go", "b")
		time.Sleep(settled)
		require.Equal(t, []string{"a", "b", "c"}, ids(c))
		w := watch(t, open(t, b), "Go", nil)
		time.Sleep(settled)
		require.Equal(t, []string{"a", "b", "c"}, ids(w))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"a", "b", "c"}, ids(w), "nobody expires who is there")
		require.Equal(t, []string{"a", "b", "c"}, ids(a))
	})
}

func TestLeave_isSeenByEverybodyAfterTheGrace(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x, y := open(t, b), open(t, b)
		w := watch(t, y, "Go", nil)
		join(t, x, "Go", "a")
		v := join(t, x, "Go", "b")
		tab, closeTab := context.WithCancel(t.Context())
		_, err := x.Join(tab, "Go", presence.Member{ID: "c"}, nil)
		require.NoError(t, err)
		time.Sleep(settled)
		require.Equal(t, []string{"c", "a", "b"}, ids(w))
		v.Leave()
		v.Leave()
		closeTab()
		time.Sleep(2900 * time.Millisecond)
		require.Equal(t, []string{"c", "a", "b"}, ids(w))
		time.Sleep(settled)
		require.Equal(t, []string{"a"}, ids(w))
	})
}
