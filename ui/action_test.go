package ui_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
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

// counter counts its clicks in the tab.
func counter(v *ui.App) {
	v.Page("/", func(c *ui.Context) {
		n := 0
		more := c.Action(func() error { n++; return nil })
		c.View(func() g.Node { return h.Button(h.ID("more"), more.OnClick(), g.Textf("clicked %d times", n)) })
	})
}

func TestAction_runsOnceHoweverOftenItIsSent(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	for range 5 {
		require.Equal(t, "done", d.send(1, "a1", nil).Status)
	}
	require.Equal(t, "done", d.send(2, "a1", nil).Status)
	require.NotEmpty(t, d.send(3, "a9", nil).Error)
	require.Equal(t, answer{200, d.Tab, 1, "done", ""}, d.send(1, "a1", nil), "an old number is answered and not run")
	d.shows("clicked 2 times")
	require.Equal(t, "done", d.send(7, "a1", nil).Status, "a browser that gave some up goes on")
	d.shows("clicked 3 times")
}

func TestAction_onceOutlivesTheTab(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{MaxTabsPerSession: 1}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { ran.Add(1); return errors.New("refused") })
			c.View(func() g.Node { return h.P() })
		})
	})
	b := s.browser()
	first := b.open("/")
	require.Equal(t, "refused", first.send(1, "a1", nil).Error)
	second := b.open("/") // there is room for one: the first tab ends
	gone := first.send(1, "a1", nil)
	require.Equal(t, "gone", gone.Status)
	require.Equal(t, http.StatusGone, gone.code)
	require.Equal(t, "refused", second.sendOnce(1, "a1", first.once(1), nil).Error)
	require.EqualValues(t, 1, ran.Load())
}

func TestAction_outcomesAreForgottenInTime(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{OnceMemory: 20 * time.Millisecond}, counter)
	d := s.browser().open("/")
	for range 10 {
		d.act("a1", nil)
	}
	s.eventually(func() bool { return s.app.Outcomes() == 0 }, "nothing is remembered")
}

// unsure is a bus whose first publish stores and then doesn't know.
type unsure struct {
	bus.Bus
	calls atomic.Int32
}

func (b *unsure) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	err := b.Bus.Publish(ctx, subject, data, opts...)
	if err == nil && b.calls.Add(1) == 1 {
		return fmt.Errorf("publish %q: %w", subject, bus.ErrUnknownOutcome)
	}
	return err
}

func TestAction_thatDoesNotKnowItsOutcomeIsAskedForAgainAndPublishesOnce(t *testing.T) {
	inner := openBus(t)
	b := &unsure{Bus: inner}
	var keys []string
	s := serve(t, ui.Options{Bus: b}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			var log []string
			ui.Subscribe(c, "chat.room.Go", func(m message) { log = append(log, m.Text); c.Sync() }, bus.All())
			c.Action(func() error {
				keys = append(keys, c.Once())
				for _, text := range []string{"one", "two"} {
					if err := ui.Publish(c, "chat.room.Go", message{text}); err != nil {
						return err
					}
				}
				return nil
			})
			c.View(func() g.Node { return h.P(g.Text(fmt.Sprint(log))) })
		})
	})
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	again := d.send(1, "a1", nil)
	require.Equal(t, "again", again.Status)
	require.Equal(t, http.StatusServiceUnavailable, again.code)
	require.Equal(t, "done", d.send(1, "a1", nil).Status)
	d.shows("<p>[one two]</p>")
	require.EqualValues(t, 3, b.calls.Load())
	require.Len(t, keys, 2)
	require.NotEmpty(t, keys[0])
	require.Equal(t, keys[0], keys[1])

	require.Equal(t, "done", d.send(2, "a1", nil).Status)
	d.shows("<p>[one two one two]</p>")
	require.NotEqual(t, keys[0], keys[2])
}

func TestAction_thatTakesLongIsAnsweredRunningAndThenDone(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, ui.Options{}, ui.Shorten{Patience: 10 * time.Millisecond}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { <-release; return errors.New("too late") })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	running := d.send(1, "a1", nil)
	require.Equal(t, "running", running.Status)
	require.Equal(t, http.StatusAccepted, running.code)
	require.Equal(t, "running", d.send(1, "a1", nil).Status)
	require.Equal(t, "again", d.send(2, "a1", nil).Status, "one at a time")
	close(release)
	e := st.got("done", func(e event) bool { return e.Done == 1 })
	require.Equal(t, "too late", e.Error)
	require.Equal(t, "too late", d.send(1, "a1", nil).Error)
}

func TestAction_panicIsContainedLoggedAndShown(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			c.Action(func() error { n++; panic("secret of the house") })
			c.View(func() g.Node { return h.P(g.Textf("n=%d", n)) })
		})
	})
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	for i := range 2 {
		a := d.act("a1", nil)
		require.Equal(t, "done", a.Status)
		require.Contains(t, a.Error, "failed unexpectedly")
		require.NotContains(t, a.Error, "secret")
		d.shows(fmt.Sprintf("n=%d", i+1))
	}
	require.Contains(t, s.log.String(), "secret of the house")
	require.Contains(t, s.log.String(), "action_test.go")
}

func TestAction_unknownOneIsAnError(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	d := s.browser().open("/")
	for _, id := range []string{"a2", "a0", "a-1", "", "1", "b1", "a99999999999999999999"} {
		require.Contains(t, d.act(id, nil).Error, "no action", id)
	}
}

func TestAction_rateIsBounded(t *testing.T) {
	s := serve(t, ui.Options{ActionsPerSecond: 0.001}, ui.Shorten{}, counter)
	d := s.browser().open("/")
	require.Equal(t, "done", d.send(1, "a1", nil).Status)
	a := d.send(2, "a1", nil)
	require.Equal(t, "again", a.Status)
	require.Equal(t, http.StatusTooManyRequests, a.code)
	require.Equal(t, "done", d.send(1, "a1", nil).Status, "asking again is free")
}

func TestAction_whoseOutcomeIsUnknownIsRunAgainAtTheRateOfOthers(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{ActionsPerSecond: 0.001}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { ran.Add(1); return bus.ErrUnknownOutcome })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	require.Equal(t, http.StatusServiceUnavailable, d.send(1, "a1", nil).code)
	for range 5 {
		a := d.send(1, "a1", nil)
		require.Equal(t, "again", a.Status)
		require.Equal(t, http.StatusTooManyRequests, a.code)
	}
	require.EqualValues(t, 1, ran.Load())
}

func TestAction_longErrorsAndNamesAreCut(t *testing.T) {
	long := strings.Repeat("ä", 50_000)
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { return errors.New(long) })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	text := d.send(1, "a1", nil).Error
	require.Regexp(t, "^ä+…$", text)
	require.Less(t, len(text), 2100)
	require.Equal(t, text, d.send(1, "a1", nil).Error)
	before := len(s.log.String())
	text = d.send(2, strings.Repeat("\u200b", 50_000), nil).Error
	require.Contains(t, text, "no action")
	require.Less(t, len(text), 500)
	require.Less(t, len(s.log.String())-before, 1000)
}

func TestSignals_areWhatTheBrowserSentUntilTheServerSetsThem(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			text, n, on := c.Signal("draft"), c.Signal(7), c.Signal(true)
			c.Action(func() error {
				text.Set(fmt.Sprintf("%s|%d|%v", text.String(), n.Int(), on.Bool()))
				n.Set(n.Int() + 1)
				on.Set(!on.Bool())
				return nil
			})
			c.View(func() g.Node { return h.Input(text.Bind()) })
		})
	})
	d := s.browser().open("/")
	require.Equal(t, signals{"s1": {V: "draft", Rev: 0}, "s2": {V: 7.0, Rev: 0}, "s3": {V: true, Rev: 0}}, d.Signals)
	require.Contains(t, d.HTML, `<input data-bind="s1" value="draft">`)
	d.connect("worker-1", 1, d)
	d.act("a1", signals{"s1": {V: "typed", Rev: 3}, "s2": {V: 41, Rev: 1}, "s3": {V: false, Rev: 1}})
	s.eventually(func() bool { return d.signal("s1") == "typed|41|false" }, "the signal is set")
	require.Equal(t, 42.0, d.signal("s2"))
	require.Equal(t, true, d.signal("s3"))
	require.Equal(t, uint64(3), d.Signals["s1"].Rev)
	d.act("a1", signals{"s2": {V: "not a number", Rev: 2}})
	s.eventually(func() bool { return d.signal("s1") == "typed|41|false|0|true" }, "what isn't a number is 0")

	// A browser that missed frames is told what the server has set.
	d.Version, d.Text = 0, nil
	d.Signals = signals{}
	d.connect("worker-1", 2, d)
	s.eventually(func() bool { return d.signal("s1") == "typed|41|false|0|true" }, "the signal comes again")
}

// fields is a page with two fields and two actions: one says what they hold, one fills the first one with much
// text. Between two values of hang it hangs.
func fields(hang <-chan struct{}) func(v *ui.App) {
	return func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			one, two := c.Signal(""), c.Signal("")
			said := ""
			say := c.Action(func() error { said = fmt.Sprintf("%d and %d.", len(one.String()), len(two.String())); return nil })
			c.Action(func() error { one.Set(strings.Repeat("x", 100<<10)); return nil })
			ui.Subscribe(c, "chat.hang", func(message) { <-hang; <-hang })
			c.View(func() g.Node {
				return h.Form(say.OnSubmit(), h.Textarea(one.Bind()), h.Input(two.Bind()), h.P(g.Text(said)))
			})
		})
	}
}

func TestSignals_textThatIsTooMuchInAllIsRefused(t *testing.T) {
	const kb = 1 << 10
	s := serve(t, ui.Options{}, ui.Shorten{}, fields(nil))
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	text := func(size, rev int) value { return value{V: strings.Repeat("x", size), Rev: uint64(rev)} }
	refused := func(a answer) {
		t.Helper()
		require.Equal(t, http.StatusRequestEntityTooLarge, a.code)
		require.Equal(t, "done", a.Status)
		require.Regexp(t, `too large: \d+ KB.*64 KB.*Shorten it`, a.Error)
	}
	require.Empty(t, d.act("a1", signals{"s1": text(40*kb, 1)}).Error)
	d.shows("40960 and 0.")
	refused(d.act("a1", signals{"s1": text(70*kb, 2)}))
	refused(d.act("a1", signals{"s9": text(70*kb, 1)})) // also what the page doesn't have
	refused(d.act("a1", signals{"s2": text(40*kb, 1)})) // together with what the tab has already
	refused(d.send(d.n, "a1", signals{"s2": text(40*kb, 1)}))
	require.Empty(t, d.act("a1", nil).Error)
	d.shows("40960 and 0.")
	require.Empty(t, d.act("a1", signals{"s1": text(10*kb, 3), "s2": text(40*kb, 2)}).Error)
	d.shows("10240 and 40960.")

	// What the page itself has set is its own affair.
	require.Empty(t, d.act("a2", nil).Error)
	require.Empty(t, d.act("a1", signals{"s2": text(60*kb, 3)}).Error)
	d.shows("102400 and 61440.")

	tabs := s.app.Tabs()
	res, body := d.post("/", "open", map[string]any{"key": newKey(), "signals": signals{"s1": text(33*kb, 1), "s2": text(33*kb, 1)}})
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.Contains(t, body, "too large")
	require.Equal(t, tabs, s.app.Tabs())
}

func TestSignals_aLateRefusalOfTextIsToldWhenTheBrowserAsks(t *testing.T) {
	hang := make(chan struct{})
	s := serve(t, ui.Options{}, ui.Shorten{Patience: 200 * time.Millisecond}, fields(hang))
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	text := value{V: strings.Repeat("x", 40<<10), Rev: 1}
	require.Empty(t, d.done("a1", signals{"s1": text}).Error)
	require.NoError(t, bus.Publish(t.Context(), s.bus, "chat.hang", message{}))
	hang <- struct{}{}
	require.Equal(t, "running", d.act("a1", signals{"s2": text}).Status)
	hang <- struct{}{}
	var a answer
	s.eventually(func() bool { a = d.send(d.n, "a1", nil); return a.Status == "done" }, "it is answered")
	require.Equal(t, http.StatusRequestEntityTooLarge, a.code)
	refused := uint64(d.n)
	require.Empty(t, d.act("a1", signals{"s2": {V: "short", Rev: 2}}).Error)
	d.shows("40960 and 5.")
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, e := range st.events {
		require.NotEqual(t, refused, e.Done, "after {done} the browser would think that its text was taken")
	}
}

func TestEvents_areAttributesFromAFixedList(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			text, room, open := c.Signal(""), c.Signal("Go"), c.Signal(false)
			say := c.Action(func() error { return nil })
			pick := c.Action(func() error { return nil })
			c.View(func() g.Node {
				return h.Div(
					h.Form(say.OnSubmit(ui.Clear(text, room)), ui.Pin()),
					h.Button(pick.OnClick(ui.Set(room, `"Rust" & <b>`), ui.Set(open, true))),
					h.Input(say.OnInput(ui.Debounce(300*time.Millisecond)), pick.OnChange(), ui.Ignore()),
				)
			})
		})
	})
	d := s.browser().open("/")
	require.Contains(t, d.HTML, `<form data-on-submit="a1" data-clear="s1 s2" data-pin`)
	require.Contains(t, d.HTML, `<button data-on-click="a2" data-set="{&#34;s2&#34;:&#34;\&#34;Rust\&#34; \u0026 \u003cb\u003e&#34;,&#34;s3&#34;:true}">`)
	require.Contains(t, d.HTML, `<input data-on-input="a1" data-debounce="300" data-on-change="a2" data-ignore>`)
}

func TestBye_runsWhatWasStillQueued(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	require.Equal(t, "done", d.act("a1", nil).Status)
	require.Equal(t, http.StatusNoContent, d.bye("worker-1", 0, 3)) // of an older stream: the tab stays where it is
	d.shows("clicked 3 times")
	require.Equal(t, http.StatusNoContent, d.bye("worker-1", 1, 3))
	s.eventually(func() bool { return d.send(4, "a1", nil).Status == "done" }, "the ones before have ended")
	st.close()
	require.NotContains(t, d.view(), "clicked 4 times")
	d.connect("worker-1", 2, d)
	d.shows("clicked 4 times")
}

// bye says that the document is left, with its actions up to n still queued, and returns the status.
func (d *doc) bye(worker string, number, n int) int {
	d.Helper()
	acts := []map[string]any{}
	for i := 1; i <= n; i++ {
		acts = append(acts, map[string]any{"n": i, "act": "a1", "once": d.once(i), "signals": signals{}})
	}
	res, _ := d.post("/_ui/bye", "bye", map[string]any{"tab": d.Tab, "key": d.key, "w": worker, "s": number, "acts": acts})
	return res.StatusCode
}

func TestBye_isNoLargerThanWhatALeftPageCanSend(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, counter)
	d := s.browser().open("/")
	require.Equal(t, http.StatusRequestEntityTooLarge, d.bye("worker-1", 1, 1000))
	require.Equal(t, http.StatusNoContent, d.bye("worker-1", 1, 100))
}

func TestBye_manyOfThemAreFinishedOneAtATime(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { <-release; return nil })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	require.Equal(t, http.StatusNoContent, d.bye("worker-1", 1, 3))
	before := runtime.NumGoroutine()
	for range 100 {
		require.Equal(t, http.StatusNoContent, d.bye("worker-1", 1, 3))
	}
	s.eventually(func() bool { return runtime.NumGoroutine() < before+20 }, "no goroutine for each of them")
	close(release)
	s.eventually(func() bool { return d.send(3, "a1", nil).Status == "done" }, "what was queued is done")
}

func TestBye_whatItLeftDoesNotHoldUpAShutdown(t *testing.T) {
	s := serve(t, ui.Options{ActionsPerSecond: 0.001}, ui.Shorten{}, counter)
	d := s.browser().open("/")
	require.Equal(t, http.StatusNoContent, d.bye("worker-1", 1, 50))
	s.eventually(func() bool { return s.app.Outcomes() == 1 }, "the first one runs, the others wait for their pace")
	require.NoError(t, s.stop())
}

func TestBye_aRefusalIsToldToTheDocumentThatComesBack(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { return errors.New("refused") })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	require.Equal(t, http.StatusNoContent, d.bye("worker-1", 1, 2))
	s.eventually(func() bool { return s.app.Outcomes() == 2 }, "both are run")
	require.Equal(t, "refused", d.send(1, "a1", nil).Error)
	s.eventually(func() bool { return d.send(2, "a1", nil).Status == "done" }, "the second one has ended")
	require.Equal(t, "refused", d.send(2, "a1", nil).Error)
}
