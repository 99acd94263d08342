package presence_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
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

func TestLeave_withoutGraceIsToldAtOnce(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x, y := open(t, b, presence.Grace(0)), open(t, b)
		w := watch(t, y, "Go", nil)
		v := join(t, x, "Go", "a")
		time.Sleep(settled)
		require.Equal(t, []string{"a"}, ids(w))
		v.Leave()
		require.Eventually(t, func() bool { return len(ids(w)) == 0 }, settled, time.Millisecond)
	})
}

func TestMembers_areOneHoweverOftenTheyAreHere(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x, y := open(t, b), open(t, b)
		w := watch(t, open(t, b), "Go", nil)
		tabs := []*presence.Visit{join(t, x, "Go", "a"), join(t, x, "Go", "a"), join(t, y, "Go", "a")}
		for i, tab := range tabs {
			time.Sleep(10 * time.Second)
			require.Equal(t, []string{"a"}, ids(w))
			require.Equal(t, []string{"a"}, ids(tabs[2]), i)
			tab.Leave()
		}
		time.Sleep(3*time.Second + settled)
		require.Empty(t, ids(w))
	})
}

func TestMembers_haveTheNameOfTheLatestJoin(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x, y := open(t, b), open(t, b)
		named := func(rs *presence.Rooms, name string) *presence.Visit {
			v, err := rs.Join(t.Context(), "Go", presence.Member{ID: "a", Name: name, Info: "🦊"}, nil)
			require.NoError(t, err)
			time.Sleep(settled)
			return v
		}
		first := named(x, "Zoe")
		second := named(y, "Ann")
		for _, v := range []*presence.Visit{first, second} {
			require.Equal(t, []presence.Member{{ID: "a", Name: "Ann", Info: "🦊"}}, v.List())
		}
		third := named(x, "Mia")
		require.Equal(t, "Mia", second.List()[0].Name)
		third.Leave()
		time.Sleep(settled)
		require.Equal(t, "Ann", first.List()[0].Name, "another visit's name holds at once")
		second.Leave()
		time.Sleep(4 * time.Second)
		require.Equal(t, "Zoe", second.List()[0].Name)
	})
}

func TestReconnect_isQuiet(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x, y := open(t, b), open(t, b)
		var told atomic.Int64
		w := watch(t, open(t, b), "Go", func() { told.Add(1) })
		v := join(t, x, "Go", "a")
		join(t, x, "Go", "b")
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{"a", "b"}, ids(w))
		told.Store(0)
		heard := listen(t, b, "here.Go")
		for range 10 { // reloads
			v.Leave()
			time.Sleep(2 * time.Second)
			v = join(t, x, "Go", "a")
			time.Sleep(5 * time.Second)
		}
		for _, m := range heard() {
			require.Contains(t, m, `"op":"beat"`)
		}
		for _, rs := range []*presence.Rooms{y, x, y} { // another process takes over
			v.Leave()
			time.Sleep(2 * time.Second)
			v = join(t, rs, "Go", "a")
			time.Sleep(5 * time.Second)
		}
		require.Equal(t, []string{"a", "b"}, ids(w))
		require.Zero(t, told.Load(), "nothing has changed")
	})
}

func TestCrash_isNoticedWithinSeconds(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		dead := &fault{Bus: b}
		w := watch(t, open(t, b), "Go", nil)
		join(t, open(t, dead), "Go", "a")
		join(t, open(t, b), "Go", "b")
		time.Sleep(time.Minute)
		require.Equal(t, []string{"a", "b"}, ids(w))
		dead.set(func(string, func() error) error { return nil }) // says nothing more, not even goodbye
		time.Sleep(4 * time.Second)
		require.Equal(t, []string{"a", "b"}, ids(w), "two missed messages are forgiven")
		time.Sleep(2700 * time.Millisecond)
		require.Equal(t, []string{"b"}, ids(w))
		dead.set(nil)
		time.Sleep(2*time.Second + settled)
		require.Equal(t, []string{"a", "b"}, ids(w), "it was only away")
	})
}

func TestClose_saysGoodbyeUnderTheGrace(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		var told atomic.Int64
		w := watch(t, open(t, b), "Go", func() { told.Add(1) })
		x := open(t, b)
		join(t, x, "Go", "a")
		join(t, x, "Go", "b")
		time.Sleep(time.Second)
		told.Store(0)
		require.NoError(t, x.Close(t.Context()))
		require.NoError(t, x.Close(t.Context()))
		_, err := x.Join(t.Context(), "Go", presence.Member{ID: "c"}, nil)
		require.ErrorIs(t, err, presence.ErrClosed)
		_, err = x.Watch(t.Context(), "Go", nil)
		require.ErrorIs(t, err, presence.ErrClosed)
		time.Sleep(time.Second)
		join(t, open(t, b), "Go", "a") // the browser has found the new process
		time.Sleep(time.Second)
		require.Equal(t, []string{"a", "b"}, ids(w))
		require.Zero(t, told.Load())
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, []string{"a"}, ids(w))
		require.EqualValues(t, 1, told.Load())
	})
}

func TestLateMessages_raiseNobodyFromTheDead(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		w := watch(t, open(t, b), "Go", nil)
		heard := listen(t, b, "here.Go")
		x := open(t, b)
		v := join(t, x, "Go", "a")
		join(t, x, "Go", "b")
		time.Sleep(10 * time.Second)
		again := func() {
			for _, m := range heard() {
				require.NoError(t, b.Publish(t.Context(), "here.Go", []byte(m)))
			}
			time.Sleep(settled)
		}
		v.Leave()
		time.Sleep(5 * time.Second)
		again()
		require.Equal(t, []string{"b"}, ids(w), "after a leave")
		require.NoError(t, x.Close(t.Context()))
		again()
		require.Equal(t, []string{"b"}, ids(w), "in the grace")
		time.Sleep(5 * time.Second)
		again()
		require.Empty(t, ids(w), "after a goodbye")
	})
}

func TestRooms_openWithTheFirstVisitAndCloseAfterTheLast(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := &fault{Bus: openBus(t, url)}
		x := open(t, b)
		heard := listen(t, b, "here.>")
		require.Empty(t, heard())
		v, w := join(t, x, "Go", "a"), watch(t, x, "Go", nil)
		for range 1000 {
			v2 := join(t, x, "Go", "b")
			v2.Leave()
		}
		time.Sleep(4 * time.Second)
		require.EqualValues(t, 1, b.subscribed.Load())
		v.Leave()
		time.Sleep(4 * time.Second)
		heard()
		time.Sleep(time.Minute)
		require.Empty(t, heard(), "a watcher says nothing")
		w.Leave()
		time.Sleep(settled)
		require.EqualValues(t, 1, b.unsubscribed.Load())
		v = join(t, x, "Go", "a")
		w = watch(t, open(t, b), "Go", nil)
		time.Sleep(settled)
		require.Equal(t, []string{"a"}, ids(w))
		v.Leave()
		w.Leave()
		time.Sleep(4 * time.Second)
		require.EqualValues(t, 3, b.subscribed.Load())
		require.EqualValues(t, 3, b.unsubscribed.Load())
	})
}

func TestChanged_isToldAtMostTenTimesASecond(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		var told [2]atomic.Int64
		x := open(t, b, quiet)
		near := watch(t, x, "Go", func() { told[0].Add(1) })
		far := watch(t, open(t, b), "Go", func() { told[1].Add(1) })
		watch(t, x, "Go", func() { panic("a bug") })
		for i := range 500 {
			join(t, x, "Go", fmt.Sprintf("%03d", i))
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(settled)
		require.Len(t, near.List(), 500)
		require.Equal(t, near.List(), far.List())
		for i := range told {
			require.InDelta(t, 10, told[i].Load(), 5)
		}
	})
}

func TestChanged_delaysNobodyElse(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x := open(t, b)
		stuck := make(chan struct{})
		watch(t, x, "Go", func() { <-stuck })
		defer close(stuck)
		w := watch(t, open(t, b), "Go", nil)
		a := join(t, x, "Go", "a")
		time.Sleep(time.Minute)
		join(t, x, "Go", "b")
		time.Sleep(settled)
		require.Equal(t, []string{"a", "b"}, ids(w))
		require.Equal(t, []string{"a", "b"}, ids(a))
	})
}

func TestJoin_refusesWhatItCannotShow(t *testing.T) {
	b := openBus(t, "mem:")
	x := open(t, b)
	for what, m := range map[string]presence.Member{
		"has no ID":             {Name: "nobody"},
		"its ID has 129":        {ID: strings.Repeat("i", 129)},
		"its Name has 257":      {ID: "a", Name: strings.Repeat("n", 257)},
		"its Info has 1025":     {ID: "a", Info: strings.Repeat("x", 1025)},
		"its Name is not valid": {ID: "a", Name: "\xff"},
	} {
		v, err := x.Join(t.Context(), "Go", m, nil)
		require.ErrorIs(t, err, presence.ErrBadMember)
		require.ErrorContains(t, err, what)
		require.Empty(t, v.List(), "a visit to nowhere")
		v.Leave()
	}
	_, err := x.Join(t.Context(), strings.Repeat("r", 300), presence.Member{ID: "a"}, nil)
	require.ErrorIs(t, err, bus.ErrBadSubject)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = x.Join(over, "Go", presence.Member{ID: "a"}, nil)
	require.ErrorIs(t, err, context.Canceled)
	for _, prefix := range []string{"", "a b", "a.*", "$SYS"} {
		_, err = presence.Open(t.Context(), b, prefix)
		require.ErrorIs(t, err, bus.ErrBadSubject, prefix)
	}
	for _, o := range []presence.Option{presence.Every(0), presence.Every(time.Hour), presence.Grace(-1), presence.Grace(time.Hour)} {
		_, err = presence.Open(t.Context(), b, "here", o)
		require.ErrorContains(t, err, "want")
	}
}

func TestOpen_refusesWhatAStreamWouldStore(t *testing.T) {
	b := openBus(t, "mem:")
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	_, err := presence.Open(t.Context(), b, "chat.here")
	require.ErrorIs(t, err, presence.ErrCaptured)
	streams, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.Zero(t, streams[0].Msgs)
}
