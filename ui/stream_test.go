package ui_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
)

// shuffler changes its list at random with each action.
func shuffler(v *ui.App) {
	v.Page("/", func(c *ui.Context) {
		random := rand.New(rand.NewPCG(3, 4))
		rows := []int{1, 2, 3}
		c.Action(func() error {
			for range 1 + random.IntN(5) {
				if i := random.IntN(len(rows) + 1); i < len(rows) && random.IntN(2) == 0 {
					rows = append(rows[:i], rows[i+1:]...)
				} else {
					rows = append(rows[:i], append([]int{random.IntN(1000)}, rows[i:]...)...)
				}
			}
			return nil
		})
		c.View(func() g.Node { return g.Raw(list(rows) + fmt.Sprintf("<i>%v</i>", rows)) })
	})
}

func TestFrames_areEditsThatGiveTheView(t *testing.T) {
	s := serve(t, ui.Options{ActionsPerSecond: 10_000}, ui.Shorten{}, shuffler)
	d := s.browser().open("/")
	first := d.HTML
	st := d.connect("worker-1", 1, d)
	for i := range 60 {
		if i%20 == 19 { // a stream that is cut goes on where it was
			st.close()
			st = d.connect("worker-1", i, d)
		}
		before := d.view()
		d.act("a1", nil)
		s.eventually(func() bool { return d.view() != before }, "the view changes")
	}
	d.mu.Lock()
	require.NoError(t, d.bad)
	edited := 0
	for _, f := range d.frames {
		if f.Edits != nil {
			edited++
		}
	}
	last := d.HTML
	d.mu.Unlock()
	require.NotEqual(t, first, last)
	require.Greater(t, edited, 30)

	// The whole view, asked for anew, is what the edits gave.
	st.close()
	anew := func(number int) {
		t.Helper()
		d.Version, d.Text = 0, nil
		st = d.connect("worker-1", number, d)
		s.eventually(func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.Text != nil }, "the whole view")
		require.NoError(t, d.bad)
		st.close()
	}
	anew(100)
	require.Equal(t, last, d.view())
	// It is whole also when it has changed since.
	d.act("a1", nil)
	anew(101)
	require.NotEqual(t, last, d.view())
}

func TestFrames_holdNoLineBreaksAndNoInvalidText(t *testing.T) {
	const odd = "a\nb\r\ndata: {}\n\n\u2028\x00\xff😀 <script>alert(1)</script>"
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			text, rows := "", 0
			c.Action(func() error { text = odd; return nil })
			c.Action(func() error { rows++; return nil })
			c.View(func() g.Node { return h.Div(h.P(g.Text(text)), g.Raw(list(make([]int, rows)))) })
		})
	})
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	d.act("a1", nil)
	d.shows("a\nb\r\ndata: {}\n\n\u2028\uFFFD\uFFFD😀 &lt;script&gt;alert(1)&lt;/script&gt;")
	for n := range 10 {
		d.act("a2", nil)
		s.eventually(func() bool { return strings.Count(d.view(), "<li") == n+1 }, "one row more")
	}
	require.Contains(t, d.all(), `"edits"`)
	d.shows("😀")
}

func TestStream_lowerNumberNeverTakesOver(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	b := s.browser()
	d := b.open("/")
	newer := b.connect("worker-1", 5, d)
	older := b.connect("worker-1", 4, d)
	e := older.got("left", func(e event) bool { return e.Left })
	require.EqualValues(t, 5, e.S)
	<-older.ended
	d.act("a1", nil)
	d.shows("clicked 1 times")

	// Not even when the newer one has ended.
	newer.close()
	s.eventually(func() bool { return s.app.Streams() == 0 }, "the newer stream has ended")
	late := b.connect("worker-1", 4, d)
	e = late.got("left", func(e event) bool { return e.Left })
	require.EqualValues(t, 5, e.S)
}

func TestStream_ofAnotherWorkerTakesOverForGood(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	b := s.browser()
	d := b.open("/")
	old := b.connect("worker-1", 50, d)
	b.connect("worker-2", 1, d)
	e := old.got("left", func(e event) bool { return e.Left && e.Tab == d.Tab })
	require.Greater(t, e.S, uint64(50))
	d.act("a1", nil)
	d.shows("clicked 1 times")
}

func TestStream_newListReplacesTheOldStream(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	b := s.browser()
	one, two := b.open("/"), b.open("/")
	first := b.connect("worker-1", 1, one)
	b.connect("worker-1", 2, one, two)
	<-first.ended
	one.act("a1", nil)
	two.act("a1", nil)
	one.shows("clicked 1 times")
	two.shows("clicked 1 times")
	require.Equal(t, 1, s.app.Streams())
}

func TestStream_tellsStrangersThatTheTabIsGone(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	b := s.browser()
	d := b.open("/")
	b.connect("worker-1", 1, d)
	gone := func(st *stream) {
		t.Helper()
		require.Equal(t, d.Tab, st.got("gone", func(e event) bool { return e.Gone }).Tab)
	}
	// Another session that knows the id and the key.
	stranger := s.browser()
	gone(stranger.connect("worker-2", 9, d))
	stolen := stranger.doc(d.Tab, d.key)
	require.Equal(t, "gone", stolen.act("a1", nil).Status)
	// The same session with another key: a duplicated document.
	copied := b.doc(d.Tab, newKey())
	copied.Version = d.Version
	gone(b.connect("worker-3", 9, copied))
	require.Equal(t, "gone", copied.act("a1", nil).Status)
	// Nobody knows this one.
	unknown := b.doc("UNKNOWN", newKey())
	b.connect("worker-4", 1, unknown).got("gone", func(e event) bool { return e.Gone && e.Tab == "UNKNOWN" })
	require.Equal(t, "gone", unknown.act("a1", nil).Status)

	require.Equal(t, "done", d.act("a1", nil).Status)
	d.shows("clicked 1 times")
}

func TestStream_beatsAndIsClosedWhenNobodySaysToHaveSeenIt(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{Heartbeat: 5 * time.Millisecond, Unseen: 700 * time.Millisecond}, counter)
	b := s.browser()
	d := b.open("/")
	st := b.connect("worker-1", 1, d)
	d.act("a1", nil)
	d.shows("clicked 1 times")
	st.got("a heartbeat with the version", func(e event) bool {
		var versions map[string]uint64
		return e.HB && json.Unmarshal(e.V, &versions) == nil && versions[d.Tab] == 2
	})
	n, began, seen := 1, time.Now(), time.Now()
	for time.Since(began) < 1200*time.Millisecond {
		last := seen
		seen = time.Now()
		res, _ := b.post("/_ui/seen", "seen", map[string]any{"w": "worker-1", "s": n})
		require.Equal(t, http.StatusNoContent, res.StatusCode)
		if s.app.Streams() == 0 { // this machine has been too busy to say so
			require.Greater(t, time.Since(last), 700*time.Millisecond)
			n++
			st = b.connect("worker-1", n, d)
			began, seen = time.Now(), time.Now()
		}
	}
	<-st.ended // now that nobody says so
	require.Greater(t, time.Since(seen), 700*time.Millisecond)
}

// connectSlowly opens a stream whose connection takes little at a time, and returns it, with its headers read.
func (b *browser) connectSlowly(docs ...*doc) *bufio.Reader {
	b.Helper()
	host := strings.TrimPrefix(b.base, "http://")
	conn, err := net.Dial("tcp", host)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, conn.Close()) })
	require.NoError(b, conn.(*net.TCPConn).SetReadBuffer(4096))
	path := "/_ui/stream?w=worker-1&s=1"
	for _, d := range docs {
		path += "&t=" + d.entry()
	}
	req, err := http.NewRequest("GET", b.base+path, nil)
	require.NoError(b, err)
	for _, cookie := range b.client.Jar.Cookies(req.URL) {
		req.AddCookie(cookie)
	}
	require.NoError(b, req.Write(conn))
	r := bufio.NewReaderSize(conn, 1<<10)
	for line := ""; line != "\r\n"; {
		line, err = r.ReadString('\n')
		require.NoError(b, err)
	}
	return r
}

func TestStream_slowReaderGetsFewFramesAndTheNewest(t *testing.T) {
	var handled atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			ui.Subscribe(c, "chat.>", func(message) { n++; handled.Add(1); c.Sync() })
			c.View(func() g.Node {
				return h.Div(g.Raw(strings.Repeat(fmt.Sprintf("<p>%d</p>", n), 10_000)), g.Textf("n=%d.", n))
			})
		})
	})
	b := s.browser()
	r := b.connectSlowly(b.open("/"))
	for range 500 {
		require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.x", message{}))
	}
	s.eventually(func() bool { return handled.Load() == 500 }, "all are handled while nobody reads")
	frames := 0
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		frames += strings.Count(line, `"html"`)
		if strings.Contains(line, "n=500.") {
			break
		}
	}
	require.Less(t, frames, 20)
}

func TestStream_stuckReaderHarmsNobody(t *testing.T) {
	big := strings.Repeat("<p>all the same</p>", 20_000)
	pages := func(v *ui.App) {
		v.Page("/big", func(c *ui.Context) {
			n := 0
			ui.Subscribe(c, "chat.>", func(message) { n++; c.Sync() })
			c.View(func() g.Node {
				return h.Div(g.Textf("%d", n), g.Raw(strings.ReplaceAll(big, "same", fmt.Sprint("same", n))))
			})
		})
		chat(v)
	}
	s := serve(t, ui.Options{}, ui.Shorten{Write: time.Hour}, pages)
	b := s.browser()
	b.connectSlowly(b.open("/big"))
	ann := s.browser().open("/")
	ann.connect("worker-2", 1, ann)
	for i := range 10 {
		text := fmt.Sprint("line ", i)
		require.Equal(t, "done", ann.act("a1", signals{"s1": {V: text, Rev: uint64(i + 1)}}).Status)
		ann.shows(text)
	}
	require.Equal(t, 2, s.app.Streams(), "it is stuck all the time")

	hasty := serve(t, ui.Options{TabTTL: time.Millisecond}, ui.Shorten{Write: 200 * time.Millisecond}, pages)
	b = hasty.browser()
	b.connectSlowly(b.open("/big"))
	require.NoError(t, bus.Publish(t.Context(), hasty.bus, "chat.x", message{}))
	hasty.eventually(func() bool { return hasty.app.Streams() == 0 && hasty.app.Tabs() == 0 }, "it is cut off and its tab ends")
}

func TestStream_errorsThatAStuckReaderDidNotTakeAreToldToTheNextOne(t *testing.T) {
	long := strings.Repeat("x", 3000)
	s := serve(t, ui.Options{}, ui.Shorten{Write: 300 * time.Millisecond}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			for i := range 4 {
				ui.Subscribe(c, fmt.Sprintf("chat.%d..%s", i, long), func(message) {})
			}
			c.View(func() g.Node { return h.P() })
		})
	})
	b := s.browser()
	var docs []*doc
	for range 20 {
		docs = append(docs, b.open("/"))
	}
	b.connectSlowly(docs...)
	s.eventually(func() bool { return s.app.Streams() == 0 }, "the stuck one is cut off")
	streams := []*stream{b.connect("worker-1", 2, docs...)}
	for _, d := range docs {
		for i := range 4 {
			var e event
			s.eventually(func() bool {
				if last := streams[len(streams)-1]; last.over() { // this machine was too busy to take them in time
					streams = append(streams, b.connect("worker-1", last.s+1, docs...))
				}
				return slices.ContainsFunc(streams, func(st *stream) (found bool) {
					e, found = st.find(func(e event) bool { return e.Tab == d.Tab && strings.Contains(e.Error, fmt.Sprintf("chat.%d..", i)) })
					return found
				})
			}, "its errors")
			require.Less(t, len(e.Error), 2100)
		}
	}
}

func TestStreams_ofASessionAreBoundedAndTheOneThatIsLeastHeardOfComesBackLater(t *testing.T) {
	s := serve(t, ui.Options{MaxTabsPerSession: 3}, ui.Shorten{}, counter)
	b := s.browser()
	one, two, three := b.open("/"), b.open("/"), b.open("/")
	b.connect("worker-1", 1, one)
	idle := b.connect("worker-2", 1, two)
	b.connect("worker-3", 1, three)
	res, _ := b.post("/_ui/seen", "seen", map[string]any{"w": "worker-1", "s": 1})
	require.Equal(t, http.StatusNoContent, res.StatusCode)
	b.connect("worker-4", 1, three)
	require.Positive(t, idle.got("later", func(e event) bool { return e.Later > 0 }).Later)
	<-idle.ended
	require.Equal(t, 3, s.app.Streams())
	stranger := s.browser()
	stranger.connect("worker-5", 1, stranger.open("/"))
	require.Equal(t, 4, s.app.Streams())

	// Its tab has been kept for it.
	b.connect("worker-2", 2, two)
	for _, d := range []*doc{one, two, three} {
		require.Equal(t, "done", d.act("a1", nil).Status)
		d.shows("clicked 1 times")
	}
	require.Equal(t, 4, s.app.Streams())
}

func TestSync_busyTabGetsFewerAndNewerFrames(t *testing.T) {
	var views atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			ui.Subscribe(c, "chat.>", func(m message) { n++; c.Sync() })
			c.View(func() g.Node { views.Add(1); return h.P(g.Textf("n=%d", n)) })
		})
	})
	d := s.browser().open("/")
	began := time.Now()
	d.connect("worker-1", 1, d)
	for range 900 { // fewer than the stream holds, so that none is missed
		require.NoError(t, s.bus.Publish(context.Background(), "chat.room.Go", []byte(`{"Text":"x"}`)))
	}
	d.shows("n=900")
	require.LessOrEqual(t, int(views.Load()), 3+int(time.Since(began)/(10*time.Millisecond)))
}

func TestSync_framesKeepAPace(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			ui.Subscribe(c, "chat.>", func(message) { n++; c.Sync() })
			c.View(func() g.Node { return h.P(g.Textf("n=%d.", n)) })
		})
	})
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	began, n := time.Now(), 0
	for ; time.Since(began) < 200*time.Millisecond; n++ {
		require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.x", message{}))
		if n%500 == 499 {
			d.shows("n=") // and no more than the stream holds is ahead
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	require.LessOrEqual(t, len(d.frames), 2+int(time.Since(began)/(10*time.Millisecond)))
}

func TestSync_viewsThatStayTheSameKeepAPace(t *testing.T) {
	var views atomic.Int32
	page := make(chan *ui.Context, 1)
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.View(func() g.Node { views.Add(1); return h.P() })
			page <- c
		})
	})
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	began, c := time.Now(), <-page
	for time.Since(began) < 200*time.Millisecond || views.Load() < 3 { // they are rendered all the same
		c.Sync()
		runtime.Gosched()
	}
	require.LessOrEqual(t, int(views.Load()), 3+int(time.Since(began)/(10*time.Millisecond)))
}

func TestStream_seatsAsManyTabsAsASessionMayHave(t *testing.T) {
	s := serve(t, ui.Options{MaxTabsPerSession: 3}, ui.Shorten{}, counter)
	b := s.browser()
	one, two, three := b.open("/"), b.open("/"), b.open("/")
	unknown := b.doc("UNKNOWN", newKey())
	st := b.connect("worker-1", 1, one, two, unknown, three)
	st.got("gone", func(e event) bool { return e.Gone && e.Tab == three.Tab })
	for _, d := range []*doc{one, two} {
		require.Equal(t, "done", d.act("a1", nil).Status)
		d.shows("clicked 1 times")
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, e := range st.events {
		require.False(t, e.Gone && (e.Tab == one.Tab || e.Tab == two.Tab), e.Raw)
	}
}

func TestStream_refusesMalformedAddresses(t *testing.T) {
	s := serve(t, ui.Options{MaxTabsPerSession: 3}, ui.Shorten{}, counter)
	b := s.browser()
	for _, query := range []string{"", "w=worker-1", "w=x&s=1", "w=worker-1&s=-1", "w=worker%0a1&s=1", "w=worker-1&s=1"} {
		res, _ := b.get("/_ui/stream?" + query)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, query)
	}
	d := b.open("/")
	for _, entry := range []string{"", ".", "..", d.Tab, d.Tab + ".", d.Tab + "." + d.key, d.Tab + "." + d.key + ".x", d.Tab + "." + d.key + ".99999999999999999999"} {
		odd := b.doc(strings.Split(entry, ".")[0], "x")
		st := b.connectTo(fmt.Sprintf("/_ui/stream?w=worker-1&s=1&t=%s", entry), "worker-1", 1, odd)
		st.got("gone for "+entry, func(e event) bool { return e.Gone && e.Tab == odd.Tab })
		st.close()
	}
	require.Equal(t, "done", d.act("a1", nil).Status)
}
