package membus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

type rooms = membus.Rooms[int, string]

const tick = 100 * time.Millisecond

// teller is a member that notes what it is told, and when.
type teller struct {
	sync func() // nil: nothing more

	mu    sync.Mutex
	times []time.Duration
	began time.Time
}

func newTeller(do func()) *teller { return &teller{sync: do, began: time.Now()} }

func (m *teller) Sync() {
	m.mu.Lock()
	m.times = append(m.times, time.Since(m.began))
	m.mu.Unlock()
	if m.sync != nil {
		m.sync()
	}
}

func (m *teller) told() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]time.Duration(nil), m.times...)
}

func room(t *testing.T, rs *rooms, name string) *membus.Room[int, string] {
	r, ok := rs.Get(name)
	require.True(t, ok)
	return r
}

func increment(n *int) { *n++ }

func TestRooms_tellMembersOfDirtyRoomsOncePerTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a", "b")
		rs.Start()
		defer rs.Stop()
		inA, inB := newTeller(nil), newTeller(nil)
		room(t, rs, "a").Join(t.Context(), "x", inA)
		room(t, rs, "b").Join(t.Context(), "x", inB)
		time.Sleep(tick / 4)
		for range 1000 {
			room(t, rs, "a").UpdateData(increment)
		}
		require.Equal(t, 1000, room(t, rs, "a").GetData(), "data doesn't wait for a tick")
		time.Sleep(2 * tick)
		room(t, rs, "a").UpdateData(increment)
		time.Sleep(10 * tick)
		require.Equal(t, []time.Duration{tick, 3 * tick}, inA.told())
		require.Empty(t, inB.told())
	})
}

func TestRooms_haveTicksOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "hundred")
		rs.Start()
		defer rs.Stop()
		time.Sleep(tick / 2)
		rs.Add(time.Millisecond, "one", "hundred")
		rs.Add(3*time.Second, "seconds")
		rs.Add(0, "none")
		members := map[string]*teller{}
		var names []string
		rs.Visit(func(name string) { names = append(names, name) })
		require.Equal(t, []string{"hundred", "one", "seconds", "none"}, names)
		for _, name := range names {
			members[name] = &teller{began: time.Now()}
			room(t, rs, name).Join(t.Context(), name, members[name])
		}
		time.Sleep(tick/4 + 100*time.Microsecond)
		for _, name := range names {
			room(t, rs, name).UpdateData(increment)
		}
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{tick/4 + 100*time.Microsecond}, members["none"].told())
		require.Equal(t, []time.Duration{tick/4 + time.Millisecond}, members["one"].told())
		require.Equal(t, []time.Duration{tick / 2}, members["hundred"].told())
		require.Equal(t, []time.Duration{3*time.Second - tick/2}, members["seconds"].told(), "clocks have a common start")
	})
}

func TestRooms_aBlockedMemberStopsNobody(t *testing.T) {
	for _, tick := range []time.Duration{0, tick} {
		t.Run(tick.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rs := membus.NewRooms[int, string](tick, "a", "b")
				rs.Start()
				r := room(t, rs, "a")
				release := make(chan struct{})
				blocked, fast, elsewhere := newTeller(func() { <-release }), newTeller(nil), newTeller(nil)
				r.Join(t.Context(), "blocked", blocked)
				r.Join(t.Context(), "fast", fast)
				room(t, rs, "b").Join(t.Context(), "elsewhere", elsewhere)
				for range 3 {
					r.UpdateData(increment)
					room(t, rs, "b").UpdateData(increment)
					time.Sleep(10 * time.Second)
				}
				require.Len(t, blocked.told(), 1)
				require.Len(t, fast.told(), 3)
				require.Len(t, elsewhere.told(), 3)

				late := newTeller(nil)
				r.Join(t.Context(), "late", late)
				r.Leave(fast)
				require.Equal(t, []string{"blocked", "late"}, r.Members())
				release <- struct{}{}
				time.Sleep(time.Second)
				require.Len(t, blocked.told(), 2, "what changed twice meanwhile is told once")
				rs.Stop() // doesn't wait either
				r.Leave(blocked)
				close(release)
			})
		})
	}
}

func TestRooms_joinAndLeaveBeforeStartAndAfterStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a")
		r := room(t, rs, "a")
		rs.Stop()
		rs.Stop()
		var members []*teller
		for i := range 100 {
			members = append(members, newTeller(nil))
			r.Join(t.Context(), strconv.Itoa(i), members[i])
			r.UpdateData(increment)
		}
		for _, m := range members[1:] {
			r.Leave(m)
		}
		time.Sleep(time.Second)
		require.Empty(t, members[0].told())
		rs.Start()
		rs.Start()
		time.Sleep(time.Second)
		require.Len(t, members[0].told(), 1, "Start tells what has changed before")

		rs.Stop()
		r.UpdateData(increment)
		for _, m := range members {
			r.Join(t.Context(), "again", m)
			r.Leave(m)
		}
		r.Join(t.Context(), "last", members[0])
		rs.Stop()
		time.Sleep(time.Second)
		require.Len(t, members[0].told(), 1)
		require.Equal(t, 101, r.GetData())
		rs.Start()
		time.Sleep(time.Second)
		require.Len(t, members[0].told(), 2)
		rs.Stop()
	})
}

func TestRooms_whoIsToldAtTheMomentOfStopIsToldAfterStart(t *testing.T) {
	for _, tick := range []time.Duration{0, tick} {
		t.Run(tick.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rs := membus.NewRooms[int, string](tick, "a")
				rs.Start()
				r := room(t, rs, "a")
				release := make(chan struct{})
				m := newTeller(func() { <-release })
				r.Join(t.Context(), "x", m)
				for range 2 { // one call runs, another one is due
					r.UpdateData(increment)
					time.Sleep(time.Second)
				}
				rs.Stop()
				close(release)
				time.Sleep(time.Second)
				require.Len(t, m.told(), 1)
				rs.Start()
				time.Sleep(time.Second)
				require.Len(t, m.told(), 2)
				rs.Stop()
			})
		})
	}
}

func TestRooms_namesakesAreTwoMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a")
		rs.Start()
		defer rs.Stop()
		r := room(t, rs, "a")
		one, other := newTeller(nil), newTeller(nil)
		r.Join(t.Context(), "Fox", one)
		r.Join(t.Context(), "Fox", other)
		require.Equal(t, []string{"Fox", "Fox"}, r.Members())
		r.Leave(one)
		r.Leave(one)
		r.UpdateData(increment)
		time.Sleep(time.Second)
		require.Empty(t, one.told())
		require.Len(t, other.told(), 1)
	})
}

func TestRooms_whoLeavesAndJoinsWhileSyncRunsIsToldOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](0, "a")
		rs.Start()
		defer rs.Stop()
		r := room(t, rs, "a")
		release := make(chan struct{})
		m := newTeller(func() { <-release })
		r.Join(t.Context(), "first", m)
		r.UpdateData(increment)
		synctest.Wait()
		r.Leave(m)
		require.Empty(t, r.Members())
		r.Leave(m)
		r.Join(t.Context(), "again", m)
		require.Equal(t, []string{"again"}, r.Members())
		r.UpdateData(increment)
		synctest.Wait()
		require.Len(t, m.told(), 1)
		release <- struct{}{}
		synctest.Wait()
		require.Len(t, m.told(), 2)
		r.Leave(m)
		release <- struct{}{}
		synctest.Wait()
		r.UpdateData(increment)
		synctest.Wait()
		require.Len(t, m.told(), 2)
	})
}

func TestRooms_aMembershipEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a")
		rs.Start()
		defer rs.Stop()
		r := room(t, rs, "a")
		tab, closeTab := context.WithCancel(t.Context())
		gone, again, back := newTeller(nil), newTeller(nil), newTeller(nil)
		r.Join(tab, "gone", gone)
		r.Join(tab, "again", again)
		r.Join(t.Context(), "stays", again) // the last context counts
		r.Join(tab, "back", back)
		r.Leave(back)
		r.Join(t.Context(), "back", back)
		closeTab()
		synctest.Wait()
		require.Equal(t, []string{"stays", "back"}, r.Members())
		r.Join(tab, "dead", gone)
		synctest.Wait()
		require.Equal(t, []string{"stays", "back"}, r.Members())
		r.UpdateData(increment)
		time.Sleep(time.Second)
		require.Empty(t, gone.told())
		require.Len(t, again.told(), 1)
		require.Len(t, back.told(), 1)
	})
}

func TestRooms_aSyncThatPanicsIsToldAndHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a")
		problems := make(chan bus.Problem, 10)
		rs.OnError = func(p bus.Problem) {
			problems <- p
			panic("the hook, too")
		}
		rs.Start()
		defer rs.Stop()
		r := room(t, rs, "a")
		bad, gone, good := newTeller(func() { panic("no view") }), newTeller(runtime.Goexit), newTeller(nil)
		for _, m := range []*teller{bad, gone, good} {
			r.Join(t.Context(), "x", m)
		}
		for range 3 {
			r.UpdateData(increment)
			time.Sleep(time.Second)
		}
		for _, m := range []*teller{bad, gone, good} {
			require.Len(t, m.told(), 3)
		}
		require.Len(t, problems, 6)
		told := ""
		for range 6 {
			p := <-problems
			require.ErrorIs(t, p.Err, bus.ErrPanic)
			require.ErrorContains(t, p.Err, `room "a"`)
			require.Contains(t, string(p.Stack), "rooms_test.go")
			told += p.Err.Error()
		}
		require.Equal(t, 3, strings.Count(told, "no view"))
		require.Equal(t, 3, strings.Count(told, "it has ended its goroutine"))
	})
}

func TestRooms_anUpdateThatPanicsLeavesTheRoomUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a")
		rs.Start()
		defer rs.Stop()
		r := room(t, rs, "a")
		m := newTeller(nil)
		r.Join(t.Context(), "x", m)
		require.Panics(t, func() { r.UpdateData(func(n *int) { *n = 7; panic("half done") }) })
		require.Panics(t, func() { r.GetData(func(*int) int { panic("no subset") }) })
		r.UpdateData(increment)
		require.Equal(t, 8, r.GetData(nil))
		require.Equal(t, 16, r.GetData(func(n *int) int { *n *= 2; return *n }), "the argument is a copy")
		require.Equal(t, 8, r.GetData())
		time.Sleep(time.Second)
		require.Len(t, m.told(), 1)
	})
}

type bySlice []int

func (bySlice) Sync() {}

func TestRooms_refuseWhatCanNotWork(t *testing.T) {
	rs := membus.NewRooms[int, string](tick, "a")
	r := room(t, rs, "a")
	require.PanicsWithValue(t, "membus: rooms: a tick is 0 or at least 1ms, not 1µs", func() { membus.NewRooms[int, string](time.Microsecond) })
	require.Panics(t, func() { rs.Add(-time.Second, "b") })
	require.Panics(t, func() { r.Join(t.Context(), "x", bySlice{1}) })
	require.Panics(t, func() { r.Join(t.Context(), "x", nil) })
	r.Leave(bySlice{1})
	r.Leave(nil)
	require.Empty(t, r.Members())
	_, ok := rs.Get("b")
	require.False(t, ok)
}

// watcher is a member that keeps what it saw last.
type watcher struct {
	room  *membus.Room[int, string]
	calls atomic.Int64 // that run
	last  atomic.Int64
}

func (w *watcher) Sync() {
	if w.calls.Add(1) > 1 {
		panic("Sync is called while it runs")
	}
	w.last.Store(int64(w.room.GetData()))
	w.calls.Add(-1)
}

func TestRooms_everybodySeesTheLastUpdateInAnyWeather(t *testing.T) {
	for _, tick := range []time.Duration{0, time.Millisecond} {
		t.Run(tick.String(), func(t *testing.T) {
			rs := membus.NewRooms[int, string](tick, "a", "b")
			rs.OnError = func(p bus.Problem) { t.Error(p.Err) }
			rs.Start()
			var wg sync.WaitGroup
			var stay []*watcher
			for range 50 {
				w := &watcher{room: room(t, rs, []string{"a", "b"}[rand.N(2)])}
				w.room.Join(t.Context(), "stays", w)
				stay = append(stay, w)
			}
			over := make(chan struct{})
			for range 4 { // tabs come, go and change rooms
				wg.Go(func() {
					for {
						select {
						case <-over:
							return
						default:
						}
						ctx, cancel := context.WithCancel(t.Context())
						for _, name := range []string{"a", "b"} {
							w := &watcher{room: room(t, rs, name)}
							w.room.Join(ctx, "comes", w)
							w.room.Members()
							w.room.Leave(w)
							w.room.Join(ctx, "stays until its tab ends", w)
						}
						cancel()
					}
				})
			}
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-over:
						return
					default:
						rs.Stop()
						rs.Add(tick, "c"+strconv.Itoa(i%100))
						rs.Start()
					}
				}
			})
			var updates sync.WaitGroup
			for _, name := range []string{"a", "b"} {
				for range 2 {
					updates.Go(func() {
						for range 2000 {
							room(t, rs, name).UpdateData(increment)
						}
					})
				}
			}
			updates.Wait()
			close(over)
			wg.Wait()
			rs.Start()
			require.Eventually(t, func() bool {
				for _, w := range stay {
					if w.last.Load() != 4000 {
						return false
					}
				}
				return true
			}, 30*time.Second, time.Millisecond)
			rs.Stop()
			for _, name := range []string{"a", "b"} {
				require.Eventually(t, func() bool {
					for _, user := range room(t, rs, name).Members() {
						if user != "stays" {
							return false
						}
					}
					return true
				}, 30*time.Second, time.Millisecond)
			}
		})
	}
}

func TestRooms_doNothingWhileNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		rs := membus.NewRooms[int, string](time.Millisecond, "last")
		for i := range 10_000 {
			name := strconv.Itoa(i)
			rs.Add(time.Millisecond, name)
			room(t, rs, name).Join(t.Context(), name, newTeller(nil))
		}
		rs.Start()
		defer rs.Stop()
		m := newTeller(nil)
		room(t, rs, "last").Join(t.Context(), "x", m)
		room(t, rs, "last").UpdateData(increment)
		time.Sleep(24 * time.Hour) // with a ticker for each room this test wouldn't end
		require.Len(t, m.told(), 1)
		for range 1000 { // the runtime's own, which runs finalizers, is counted while it does
			if runtime.NumGoroutine() <= before {
				break
			}
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, runtime.NumGoroutine(), before)
	})
}

func TestRooms_theirBusTicksWithThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := membus.NewRooms[int, string](tick, "a")
		rs.Start()
		time.Sleep(tick / 3)
		b, err := rs.OpenBus()
		require.NoError(t, err)
		page := newTeller(nil)
		room(t, rs, "a").Join(t.Context(), "x", page)
		_, err = b.Subscribe(t.Context(), "a.*", func(context.Context, *bus.Message) error {
			require.Equal(t, 1, room(t, rs, "a").GetData())
			page.Sync()
			return nil
		})
		require.NoError(t, err)
		time.Sleep(tick / 3)
		room(t, rs, "a").UpdateData(increment)
		require.NoError(t, b.Publish(t.Context(), "a.line", nil))
		time.Sleep(time.Second)
		at := tick - 2*(tick/3)
		require.Equal(t, []time.Duration{at + tick/3, at + tick/3}, page.told())

		rs.Stop() // the bus goes on
		require.NoError(t, b.Publish(t.Context(), "a.line", nil))
		time.Sleep(time.Second)
		require.Len(t, page.told(), 3)
		require.NoError(t, b.Close(t.Context()))
		require.ErrorIs(t, b.Publish(t.Context(), "a.line", nil), bus.ErrClosed)

		other, err := rs.OpenBus()
		require.NoError(t, err, "a bus leaves the rooms as they were")
		require.NoError(t, other.Close(t.Context()))
		rs.Start()
		room(t, rs, "a").UpdateData(increment)
		time.Sleep(time.Second)
		require.Len(t, page.told(), 4)
		rs.Stop()
	})
}

func TestRooms_theirBusPassesItsOptionsOn(t *testing.T) {
	rs := membus.NewRooms[int, string](0, "a")
	problems := make(chan bus.Problem, 1)
	b, err := rs.OpenBus(bus.OnError(func(p bus.Problem) { problems <- p }))
	require.NoError(t, err)
	broken := errors.New("broken")
	_, err = b.Subscribe(t.Context(), "a", func(context.Context, *bus.Message) error { return broken })
	require.NoError(t, err)
	require.NoError(t, b.Publish(t.Context(), "a", nil))
	require.ErrorIs(t, (<-problems).Err, broken)
	require.NoError(t, b.Close(t.Context()))
}

func TestRooms_readersAndWritersOfDataDontRace(t *testing.T) {
	type lines struct{ all []string }
	rs := membus.NewRooms[lines, string](0, "a")
	r, _ := rs.Get("a")
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			for i := range 500 {
				r.UpdateData(func(l *lines) { l.all = append(l.all, fmt.Sprint(p, ".", i)) })
			}
		})
		wg.Go(func() {
			for range 500 {
				some := r.GetData(func(l *lines) lines { return lines{l.all[max(0, len(l.all)-50):]} })
				for _, line := range some.all { // lines that are only added to need no clone
					require.NotEmpty(t, line)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, r.GetData().all, 2000)
}
