package ui_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
)

// meter counts what it is told, by page.
type meter struct {
	mu                                   sync.Mutex
	tabs, rendered, unrendered, sent     map[string]int
	acted, failed, bytes, published, age map[string]int
}

func newMeter() *meter {
	m := &meter{}
	for _, of := range []*map[string]int{&m.tabs, &m.rendered, &m.unrendered, &m.sent, &m.acted, &m.failed, &m.bytes, &m.published, &m.age} {
		*of = map[string]int{}
	}
	return m
}

func (m *meter) add(of map[string]int, name string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of[name] += n
}

func (m *meter) of(of map[string]int, name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return of[name]
}

func (m *meter) Tabs(page string, change int) { m.add(m.tabs, page, change) }

func (m *meter) Rendered(page string, took time.Duration, err error) {
	if took <= 0 || err != nil {
		m.add(m.unrendered, page, 1)
		return
	}
	m.add(m.rendered, page, 1)
}

func (m *meter) Sent(page string, bytes int) {
	m.add(m.sent, page, 1)
	m.add(m.bytes, page, bytes)
}

func (m *meter) Acted(page string, _ time.Duration, err error) {
	m.add(m.acted, page, 1)
	if err != nil {
		m.add(m.failed, page, 1)
	}
}

func (m *meter) Published(stream string, _ int, _ time.Duration, _ error) {
	m.add(m.published, stream, 1)
}
func (m *meter) Handled(stream, _ string, _, _ time.Duration, _ error) { m.add(m.age, stream, 1) }
func (m *meter) Dropped(string, uint64)                                {}
func (m *meter) Subscriptions(int)                                     {}

var _ interface {
	ui.Metrics
	bus.Metrics
} = (*meter)(nil)

func TestMetrics_areToldWhatPagesDo(t *testing.T) {
	m := newMeter()
	s := serve(t, ui.Options{Metrics: m, MaxTabsPerSession: 2}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/room/{name}", func(c *ui.Context) {
			n := 0
			more := c.Action(func() error {
				if n++; n == 2 {
					return errors.New("enough")
				}
				return nil
			})
			c.View(func() g.Node {
				if n == 3 {
					panic("three")
				}
				return h.Button(more.OnClick(), g.Textf("%d", n))
			})
		})
	})
	const page = "/room/{name}"
	b := s.browser()
	one := b.open("/room/Go")
	require.Equal(t, 1, m.of(m.tabs, page))
	require.Equal(t, 1, m.of(m.rendered, page))
	require.Zero(t, m.of(m.sent, page), "a document is no frame")
	st := b.connect("worker-1", 1, one)
	one.done("a1", nil)
	one.shows(">1<")
	one.done("a1", nil)
	one.shows(">2<")
	one.done("a1", nil)
	st.got("the view's error", func(e event) bool { return e.Error != "" && e.Done == 0 })
	require.Equal(t, 3, m.of(m.acted, page))
	require.Equal(t, 1, m.of(m.failed, page))
	require.Equal(t, 1, m.of(m.unrendered, page))
	one.mu.Lock()
	frames, bytes := len(one.frames), 0
	for _, f := range one.frames {
		bytes += len("data: ") + len(f.Raw) + len("\n\n")
	}
	one.mu.Unlock()
	require.Equal(t, frames, m.of(m.sent, page))
	require.Equal(t, bytes, m.of(m.bytes, page))

	b.open("/room/Rust")
	b.open("/room/C") // makes room for itself
	require.Equal(t, 2, m.of(m.tabs, page))
	require.NoError(t, s.stop())
	require.Zero(t, m.of(m.tabs, page))
}

func TestMetrics_areThoseOfTheBusThatIsOpened(t *testing.T) {
	m := newMeter()
	s := serve(t, ui.Options{Metrics: m, BusURL: "mem:"}, ui.Shorten{}, chat)
	ann := s.browser().open("/")
	ann.done("a1", signals{"s1": {V: "hello", Rev: 1}})
	s.eventually(func() bool { return m.of(m.age, "CHAT") == 1 }, "the handler is counted")
	require.Equal(t, 1, m.of(m.published, "CHAT"))
}
