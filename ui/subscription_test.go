package ui_test

import (
	"context"
	"fmt"
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

// rooms is a page that switches between rooms while both are busy.
func rooms(wrong *atomic.Int32) func(v *ui.App) {
	return func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			room := c.Signal("Go")
			var log []string
			var sub *ui.Subscription
			enter := func() {
				name := room.String()
				log = nil
				sub = ui.Subscribe(c, "chat.room."+name, func(m message) {
					if name != room.String() {
						wrong.Add(1)
					}
					log = append(log, m.Text)
					c.Sync()
				}, bus.Last(10))
			}
			enter()
			c.Action(func() error {
				sub.Unsubscribe()
				sub.Unsubscribe()
				enter()
				if len(log) == 0 {
					return fmt.Errorf("nothing was replayed in %s", room)
				}
				return nil
			})
			c.View(func() g.Node { return h.P(g.Textf("%s: %s", room, strings.Join(log, ","))) })
		})
	}
}

func TestSubscribe_switchingRoomsNeitherDeadlocksNorMixes(t *testing.T) {
	var wrong atomic.Int32
	s := serve(t, ui.Options{ActionsPerSecond: 10_000}, ui.Shorten{}, rooms(&wrong))
	say := func(room, text string) {
		require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.room."+room, message{text}))
	}
	say("Go", "g0")
	say("Rust", "r0")
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	require.Contains(t, d.HTML, "Go: g0")

	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for i := 1; ; i++ {
				// In turns, so that the stream's limit leaves both rooms something.
				for _, room := range []string{"Go", "Rust"} {
					select {
					case <-stop:
						return
					default:
					}
					if err := bus.Publish(context.Background(), s.bus, "chat.room."+room, message{fmt.Sprint(room[:1], i)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for i := range 60 {
		room := []string{"Rust", "Go"}[i%2]
		a := d.act("a1", signals{"s1": {V: room, Rev: uint64(i + 1)}})
		require.Equal(t, "done", a.Status)
		require.Empty(t, a.Error)
	}
	close(stop)
	busy.Wait()
	say("Go", "the end")
	d.shows("the end")
	require.Zero(t, wrong.Load())
}

func TestSubscribe_handlerEndsItsOwnAndBeginsAnother(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			var log []string
			var first *ui.Subscription
			first = ui.Subscribe(c, "chat.a", func(m message) {
				log = append(log, "a:"+m.Text)
				if first != nil { // it is nil while the past is replayed
					first.Unsubscribe()
					ui.Subscribe(c, "chat.b", func(m message) { log = append(log, "b:"+m.Text); c.Sync() }, bus.All())
				}
				c.Sync()
			}, bus.All())
			c.View(func() g.Node { return h.P(g.Text(strings.Join(log, " "))) })
		})
	})
	say := func(subject, text string) {
		require.NoError(t, bus.Publish(context.Background(), s.bus, subject, message{text}))
	}
	say("chat.a", "1")
	say("chat.b", "2")
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	require.Equal(t, "<p>a:1</p>", d.HTML)
	say("chat.a", "3")
	d.shows("a:1 a:3 b:2")
	say("chat.a", "4")
	say("chat.b", "5")
	d.shows("<p>a:1 a:3 b:2 b:5</p>")
}

func TestSubscribe_handlersMayEndEachOther(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			var handled []string
			var subs [2]*ui.Subscription
			for i := range subs {
				subs[i] = ui.Subscribe(c, "chat.x", func(m message) {
					handled = append(handled, m.Text)
					subs[1-i].Unsubscribe() // which waits for its turn with the same message
					c.Sync()
				})
			}
			c.View(func() g.Node { return h.P(g.Text(strings.Join(handled, " "))) })
		})
	})
	b := s.browser()
	var docs []*doc
	for range 20 {
		docs = append(docs, b.open("/"))
	}
	b.connect("worker-1", 1, docs...)
	for _, text := range []string{"one", "two"} {
		require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.x", message{text}))
	}
	for _, d := range docs {
		d.shows("two")
		require.Equal(t, "<p>one two</p>", d.view())
	}
}

func TestSubscribe_whatGoesWrongIsShownAndLogged(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n := 0
			ui.Subscribe(c, "chat.room.Go", func(m message) {
				n++
				c.Sync()
				if m.Text == "panic" {
					panic("secret of the house")
				}
			})
			ui.Subscribe(c, "other", func(message) {}, bus.Last(5))
			c.View(func() g.Node { return h.P(g.Textf("n=%d", n)) })
		})
	})
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	st.got("no stream", func(e event) bool { return strings.Contains(e.Error, `can't subscribe to "other"`) })
	require.NoError(t, s.bus.Publish(context.Background(), "chat.room.Go", []byte("secret of the user")))
	e := st.got("a decode error", func(e event) bool { return strings.Contains(e.Error, "decode") })
	require.NotContains(t, e.Error, "secret")
	require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.room.Go", message{"panic"}))
	e = st.got("a panic", func(e event) bool { return strings.Contains(e.Error, "failed unexpectedly") })
	require.NotContains(t, e.Error, "secret")
	require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.room.Go", message{"fine"}))
	d.shows("n=2")
	for _, part := range []string{"no stream captures it", "decode", "secret of the house"} {
		require.Contains(t, s.log.String(), part)
	}
	require.NotContains(t, s.log.String(), "secret of the user")
}

// away is a bus whose server can't be reached.
type away struct{ bus.Bus }

func (away) Subscribe(context.Context, string, bus.Handler, ...bus.SubscribeOption) (bus.Subscription, error) {
	return nil, bus.ErrUnavailable
}

func TestSubscribe_whileTheBusIsAwaySaysWhatToDo(t *testing.T) {
	s := serve(t, ui.Options{Bus: away{openBus(t)}}, ui.Shorten{}, chat)
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	e := st.got("an error", func(e event) bool { return e.Error != "" })
	require.Contains(t, e.Error, "reload the page in a moment")
}

func TestSubscribe_errorsWaitForTheStreamAndAreBounded(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			for i := range 20 {
				ui.Subscribe(c, fmt.Sprint("other.", i), func(message) {}, bus.Last(5))
			}
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	st.got("the last error", func(e event) bool { return strings.Contains(e.Error, "other.19") })
	st.mu.Lock()
	defer st.mu.Unlock()
	require.Len(t, st.events, 4)
}

func TestSubscribe_threadIsOne(t *testing.T) {
	s := serve(t, ui.Options{ActionsPerSecond: 10_000}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			n, inside := 0, false // the race detector watches both
			enter := func() {
				if inside {
					n = -1_000_000
				}
				inside = true
				n++
				inside = false
			}
			for range 4 {
				ui.Subscribe(c, "chat.>", func(message) { enter(); c.Sync() }, bus.All())
			}
			c.Action(func() error { enter(); return nil })
			c.View(func() g.Node { enter(); n--; return h.P(g.Textf("n=%d.", n)) })
		})
	})
	for range 10 {
		require.NoError(t, bus.Publish(context.Background(), s.bus, "chat.x", message{}))
	}
	d := s.browser().open("/")
	d.connect("worker-1", 1, d)
	require.Contains(t, d.HTML, "n=40.")
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for range 25 {
				if err := bus.Publish(context.Background(), s.bus, "chat.x", message{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		require.Equal(t, "done", d.act("a1", nil).Status)
	}
	busy.Wait()
	d.shows("n=460.")
}

// ending is a bus that ends its subscriptions, as one does whose streams another process changes.
type ending struct {
	bus.Bus
	end chan struct{}
}

func (b *ending) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	sub, err := b.Bus.Subscribe(ctx, pattern, handler, opts...)
	return endedSubscription{sub, b.end}, err
}

type endedSubscription struct {
	bus.Subscription
	end chan struct{}
}

func (s endedSubscription) Done() <-chan struct{} { return s.end }
func (s endedSubscription) Err() error            { return bus.ErrStreamChanged }

func TestSubscribe_endedByTheBusIsTold(t *testing.T) {
	b := &ending{openBus(t), make(chan struct{})}
	s := serve(t, ui.Options{Bus: b}, ui.Shorten{Heartbeat: time.Millisecond}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			ui.Subscribe(c, "chat.x", func(message) {})
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	st := d.connect("worker-1", 1, d)
	st.got("a heartbeat", func(e event) bool { return e.HB })
	close(b.end)
	e := st.got("the end", func(e event) bool { return e.Error != "" })
	require.Contains(t, e.Error, `"chat.x" is not followed any more`)
}
