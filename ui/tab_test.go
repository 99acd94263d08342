package ui_test

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
)

func TestTab_hungInItsHandlerHarmsNoOther(t *testing.T) {
	release := make(chan struct{})
	var hung atomic.Bool
	s := serve(t, ui.Options{}, ui.Shorten{Patience: 20 * time.Millisecond}, func(v *ui.App) {
		v.Page("/hangs", func(c *ui.Context) {
			ui.Subscribe(c, "chat.>", func(message) { hung.Store(true); <-release })
			c.Action(func() error { return nil })
			c.View(func() g.Node { return h.P() })
		})
		chat(v)
	})
	b := s.browser()
	bad, good := b.open("/hangs"), b.open("/")
	b.connect("worker-1", 1, bad, good)
	good.done("a1", signals{"s1": {V: "first", Rev: 1}})
	good.shows("first")
	s.eventually(hung.Load, "the other tab hangs")
	require.Equal(t, "running", bad.send(1, "a1", nil).Status)
	for i := range 20 {
		text := fmt.Sprint("line ", i)
		good.done("a1", signals{"s1": {V: text, Rev: uint64(i + 2)}})
		good.shows(text)
	}
	close(release)
	s.eventually(func() bool { return bad.send(1, "a1", nil).Status == "done" }, "it goes on")
}

func TestView_thatHangsHarmsNoOther(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/hangs", func(c *ui.Context) {
			hang := false
			c.Action(func() error { hang = true; return nil })
			c.View(func() g.Node {
				if hang {
					<-release
				}
				return h.P()
			})
		})
		chat(v)
	})
	b := s.browser()
	docs := []*doc{b.open("/")}
	for range 2 * runtime.GOMAXPROCS(0) {
		docs = append(docs, b.open("/hangs"))
	}
	b.connect("worker-1", 1, docs...)
	for _, d := range docs[1:] {
		require.Equal(t, "done", d.act("a1", nil).Status)
	}
	docs[0].act("a1", signals{"s1": {V: "still here", Rev: 1}})
	docs[0].shows("still here")
	close(release)
}

func TestPage_thatHangsIsServedEmptyAndShownLater(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, ui.Options{DocumentTitle: "Slow"}, ui.Shorten{Patience: 20 * time.Millisecond}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			<-release
			c.Signal("late")
			c.View(func() g.Node { return h.P(g.Text("here at last")) })
		})
	})
	d := s.browser().open("/")
	require.Empty(t, d.HTML)
	require.Empty(t, d.Shape)
	require.Equal(t, "Slow", d.Title)
	d.Signals = signals{}
	d.connect("worker-1", 1, d)
	close(release)
	d.shows("here at last")
	require.Equal(t, "late", d.signal("s1"))
}

func TestPage_panicIsContainedLoggedAndShown(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/panics", func(*ui.Context) { panic("secret of the house") })
		v.Page("/blank", func(*ui.Context) {})
		v.Page("/late", func(c *ui.Context) {
			c.View(func() g.Node { return h.P(g.Text("still a view")) })
			panic("after the view")
		})
		chat(v)
	})
	b := s.browser()
	d := b.open("/panics")
	require.Equal(t, http.StatusInternalServerError, d.status)
	require.Contains(t, d.HTML, `<p role="alert">the page failed unexpectedly`)
	require.NotContains(t, d.source, "secret")
	require.Contains(t, s.log.String(), "secret of the house")
	require.Contains(t, b.open("/blank").HTML, "must call Context.View")
	require.Contains(t, b.open("/late").HTML, "still a view")
	require.Equal(t, http.StatusOK, b.open("/").status)
}

func TestView_panicLeavesTheViewAndTheTabLivesOn(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			c.Action(func() error { n++; return nil })
			c.View(func() g.Node {
				if n == 1 {
					panic("odd")
				}
				return h.P(g.Textf("n=%d", n))
			})
		})
		v.Page("/first", func(c *ui.Context) { c.View(func() g.Node { panic("at once") }) })
	})
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	d.act("a1", nil)
	st.got("an error", func(e event) bool { return strings.Contains(e.Error, "the view failed") })
	require.Equal(t, "<p>n=0</p>", d.view())
	d.act("a1", nil)
	d.shows("n=2")
	require.Contains(t, s.browser().open("/first").HTML, `role="alert"`)
}

func TestSync_thousandCallsCoalesce(t *testing.T) {
	var views atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			c.Action(func() error {
				for range 1000 {
					n++
					c.Sync()
				}
				return nil
			})
			c.View(func() g.Node { views.Add(1); return h.P(g.Textf("n=%d", n)) })
		})
	})
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	d.act("a1", nil)
	d.shows("n=1000")
	require.Less(t, views.Load(), int32(10))
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Less(t, len(d.frames), 5)
}

func TestTab_continuesAnotherOneWithItsSignals(t *testing.T) {
	var opened atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/room/{name}", func(c *ui.Context) {
			opened.Add(1)
			text, n := c.Signal(""), c.Signal(1)
			r := c.Request()
			title := r.PathValue("name") + " " + r.URL.Query().Get("q")
			c.Title(title)
			c.View(func() g.Node { return h.P(g.Textf("%s|%s|%d", title, text, n.Int())) })
		})
	})
	b := s.browser()
	d := b.open("/room/Go?q=x")
	require.Equal(t, "Go x", d.Title)
	type opening struct {
		Tab, Shape, Title, HTML string
		V                       uint64
		Signals                 signals
		Reload                  bool
	}
	open := func(key, shape string) (o opening) {
		res, body := b.post("/room/Go?q=x", "open", map[string]any{"key": key, "shape": shape, "signals": signals{"s1": {V: "typed", Rev: 4}, "s2": {V: 9, Rev: 2}, "s7": {V: "?", Rev: 1}}})
		require.Equal(t, http.StatusOK, res.StatusCode, body)
		o = opening{}
		require.NoError(t, jsonUnmarshal(body, &o))
		return o
	}
	key := newKey()
	o := open(key, d.Shape)
	require.Equal(t, "<p>Go x|typed|9</p>", o.HTML)
	require.Equal(t, "Go x", o.Title)
	require.Equal(t, d.Shape, o.Shape)
	require.Equal(t, signals{"s1": {V: "typed", Rev: 4}, "s2": {V: 9.0, Rev: 2}}, o.Signals)
	require.NotEqual(t, d.Tab, o.Tab)
	require.EqualValues(t, 2, opened.Load())

	again := open(key, d.Shape)
	require.Equal(t, o, again, "the same key gets the same tab")
	require.EqualValues(t, 2, opened.Load())
	require.NotEqual(t, o.Tab, open(newKey(), "").Tab)

	tabs := s.app.Tabs()
	require.True(t, open(newKey(), "another-build").Reload)
	require.Equal(t, tabs, s.app.Tabs())
}

// reopen asks for a tab of a document that has lost its own, and reports whether it was told to load the page again.
func (d *doc) reopen() (tab string, reload bool) {
	d.Helper()
	res, body := d.post(d.path, "open", map[string]any{"key": d.key, "shape": d.Shape, "signals": signals{}})
	require.Equal(d, http.StatusOK, res.StatusCode, body)
	var a struct {
		Tab    string
		Reload bool
	}
	require.NoError(d, jsonUnmarshal(body, &a))
	return a.Tab, a.Reload
}

func TestTab_thatWasUsedIsNotGivenToADocumentThatHasLostIt(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { ran.Add(1); return nil })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	d.Tab, _ = d.reopen()
	for n := range 3 {
		require.Equal(t, "done", d.send(n+1, "a1", nil).Status)
	}
	// It was on another server meanwhile, comes back, and counts from 1.
	used := d.Tab
	d.Tab, _ = d.reopen()
	require.NotEqual(t, used, d.Tab)
	require.Equal(t, "done", d.sendOnce(1, "a1", "secret-of-the-new-tab-1", nil).Status)
	require.EqualValues(t, 4, ran.Load(), "what is answered done has run")
	require.Equal(t, "gone", d.browser.doc(used, d.key).act("a1", nil).Status)
}

func TestTab_opensOfOneDocumentThatMeetGetOneTab(t *testing.T) {
	s := serve(t, ui.Options{MaxTabsPerSession: 1000}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Signal("")
			runtime.Gosched()
			c.Signal("")
			c.View(func() g.Node { return h.P() })
		})
	})
	b := s.browser()
	first := b.open("/")
	var reloads atomic.Int32
	for range 50 {
		d := b.doc("", newKey())
		d.path, d.Shape = "/", first.Shape
		var wg sync.WaitGroup
		tabs := make([]string, 6)
		for i := range tabs {
			wg.Go(func() {
				reload := false
				if tabs[i], reload = d.reopen(); reload {
					reloads.Add(1)
				}
			})
		}
		wg.Wait()
		require.Len(t, slices.Compact(tabs), 1)
	}
	require.Zero(t, reloads.Load())
}

func TestTab_endsWithItsBrowserAndLeavesNothing(t *testing.T) {
	var begun, ended atomic.Int32 // on a busy machine a tab may be over before it begins
	short := ui.Shorten{Unattached: 10 * time.Millisecond, Patience: time.Second}
	s := serve(t, ui.Options{TabTTL: 10 * time.Millisecond}, short, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			begun.Add(1)
			for range 3 {
				ui.Subscribe(c, "chat.>", func(message) { c.Sync() }, bus.Last(5))
			}
			context := c.Context()
			go func() { <-context.Done(); ended.Add(1) }()
			c.View(func() g.Node { return h.P(g.Text(strings.Repeat("x", 10_000))) })
		})
	})
	// Tabs that never attach end by themselves.
	b := s.browser()
	over := func() bool { return s.app.Tabs() == 0 && s.app.Streams() == 0 && ended.Load() == begun.Load() }
	b.open("/")
	s.eventually(over, "a tab whose document never came")

	before := runtime.NumGoroutine()
	for range 20 {
		b := s.browser()
		d := b.open("/")
		st := d.connect("worker-1", 1, d)
		st.close()
		b.client.CloseIdleConnections()
	}
	s.eventually(over, "tabs whose streams ended")
	require.Positive(t, ended.Load())
	// The client leaks its read loop, once for each stream.
	s.eventually(func() bool { return runtime.NumGoroutine() <= before+20 }, "goroutines end with their tabs")
}

func TestTab_idleHasNoGoroutine(t *testing.T) {
	s := serve(t, ui.Options{MaxTabsPerSession: 300}, ui.Shorten{Unattached: time.Minute}, chat)
	b := s.browser()
	docs := []*doc{b.open("/")}
	b.connect("worker-1", 1, docs[0])
	before := runtime.NumGoroutine()
	for range 200 {
		docs = append(docs, b.open("/"))
	}
	b.connect("worker-1", 2, docs...)
	s.eventually(func() bool { return runtime.NumGoroutine() <= before+5 }, "200 tabs on one stream have no goroutines")
}

func TestTabs_areBoundedAndThoseThatNeverAttachedGoFirst(t *testing.T) {
	s := serve(t, ui.Options{MaxTabsPerSession: 2, MaxTabs: 3}, ui.Shorten{Unattached: time.Minute}, chat)
	b := s.browser()
	kept, idle := b.open("/"), b.open("/")
	b.connect("worker-1", 1, kept)
	another := b.open("/")
	require.Equal(t, 2, s.app.Tabs())
	require.Equal(t, "gone", idle.act("a1", nil).Status)
	require.Equal(t, "done", kept.act("a1", nil).Status)
	b.connect("worker-1", 2, kept, another)
	res, _ := b.get("/")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	stranger := s.browser()
	stranger.open("/")
	s.browser().open("/")
	require.Equal(t, 3, s.app.Tabs())
	require.Equal(t, "done", kept.act("a1", nil).Status)
}

func TestContext_titleAndFocusTravelOnce(t *testing.T) {
	s := serve(t, ui.Options{DocumentTitle: "Links"}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { c.Title("2 links"); c.Focus("url"); return errors.New("not a URL") })
			n := 0
			c.Action(func() error { n++; return nil })
			c.View(func() g.Node { return h.P(h.Input(h.ID("url")), g.Textf("n=%d", n)) })
		})
	})
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	d.act("a1", nil)
	e := st.got("focus", func(e event) bool { return e.Focus == "url" })
	require.Equal(t, "2 links", e.Title)
	require.NotNil(t, e.Base, "the view is as it was")
	d.act("a2", nil)
	d.shows("n=1")
	require.Equal(t, 1, strings.Count(d.all(), `"focus"`))
	d.act("a1", nil)
	s.eventually(func() bool { return strings.Count(d.all(), `"focus"`) == 2 }, "a second focus")
	require.Equal(t, 1, strings.Count(d.all(), `"title"`))
}

func (d *doc) all() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	for _, f := range d.frames {
		b.WriteString(f.Raw)
	}
	return b.String()
}

func TestOnce_rendersARowOnceForAllTabs(t *testing.T) {
	var rendered atomic.Int32
	type row struct {
		run *atomic.Int32 // the memory is that of the process
		n   int
	}
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.View(func() g.Node {
				var rows g.Group
				for n := range 10 {
					rows = append(rows, ui.Once(row{&rendered, n}, func() g.Node {
						rendered.Add(1)
						return h.Li(g.Textf("row %d <", n))
					}))
				}
				return h.Ol(rows)
			})
		})
	})
	for range 5 {
		require.Contains(t, s.browser().open("/").HTML, "<li>row 0 &lt;</li><li>row 1 &lt;</li>")
	}
	require.EqualValues(t, 10, rendered.Load())
}

func TestOnce_aKeyThatCantBeComparedHarmsItsOwnPageOnly(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/bad", func(c *ui.Context) {
			c.View(func() g.Node { return ui.Once([]int{1}, func() g.Node { return h.P() }) })
		})
		v.Page("/good", func(c *ui.Context) {
			c.View(func() g.Node { return ui.Once(t.Name(), func() g.Node { return h.P(g.Text("fine")) }) })
		})
	})
	require.Equal(t, http.StatusInternalServerError, s.browser().open("/bad").status)
	require.Equal(t, "<p>fine</p>", s.browser().open("/good").HTML)
	require.Contains(t, s.log.String(), "unhashable")
}
