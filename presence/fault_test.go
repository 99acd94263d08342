package presence_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/presence"
)

// fault is a bus whose Publish does what a test wants.
type fault struct {
	bus.Bus
	subscribed, unsubscribed atomic.Int64
	sent, bytes              atomic.Int64

	mu      sync.Mutex
	publish func(data string, send func() error) error
}

func (f *fault) set(publish func(data string, send func() error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publish = publish
}

func (f *fault) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if len(opts) > 0 { // the question whether a stream captures it
		return f.Bus.Publish(ctx, subject, data, opts...)
	}
	data = slices.Clone(data)
	send := func() error {
		f.sent.Add(1)
		f.bytes.Add(int64(len(data)))
		return f.Bus.Publish(ctx, subject, data)
	}
	f.mu.Lock()
	publish := f.publish
	f.mu.Unlock()
	if publish == nil {
		return send()
	}
	return publish(string(data), send)
}

func (f *fault) Subscribe(ctx context.Context, pattern string, h bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	sub, err := f.Bus.Subscribe(ctx, pattern, h, opts...)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(pattern, ">") {
		f.subscribed.Add(1)
	}
	return &faultSub{sub, f}, nil
}

type faultSub struct {
	bus.Subscription
	f *fault
}

func (s *faultSub) Unsubscribe(ctx context.Context) error {
	s.f.unsubscribed.Add(1)
	return s.Subscription.Unsubscribe(ctx)
}

// listen returns a function that returns what was published since its last call.
func listen(t *testing.T, b bus.Bus, pattern string) func() []string {
	t.Helper()
	var mu sync.Mutex
	var heard []string
	_, err := b.Subscribe(t.Context(), pattern, func(_ context.Context, m *bus.Message) error {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, string(m.Data))
		return nil
	})
	require.NoError(t, err)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { heard = nil }()
		return heard
	}
}

// logs collects what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) option() presence.Option {
	return presence.WithLogger(slog.New(slog.NewTextHandler(l, nil)))
}

var quiet = presence.WithLogger(slog.New(slog.DiscardHandler))

func TestFailingPublish_isSurvivedAndLogged(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := &fault{Bus: openBus(t, url)}
		w := watch(t, open(t, b), "Go", nil)
		var log logs
		x := open(t, b, log.option())
		join(t, x, "Go", "a")
		time.Sleep(settled)
		b.set(func(string, func() error) error { return fmt.Errorf("%w: no connection", bus.ErrUnavailable) })
		v := join(t, x, "Go", "b")
		require.Equal(t, []string{"a", "b"}, ids(v), "in this process")
		time.Sleep(time.Minute)
		require.Empty(t, ids(w))
		require.Equal(t, []string{"a", "b"}, ids(v))
		require.Contains(t, log.String(), "can't publish")
		require.Less(t, strings.Count(log.String(), "\n"), 10)
		b.set(nil)
		time.Sleep(3 * time.Second)
		require.Equal(t, []string{"a", "b"}, ids(w))
	})
}

func TestASmallPayloadLimit_splitsTheList(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := &fault{Bus: openBus(t, url)}
		b.set(func(data string, send func() error) error {
			if len(data) > 2000 {
				return fmt.Errorf("%w: %d bytes", bus.ErrTooLarge, len(data))
			}
			return send()
		})
		x, y := open(t, b, quiet), open(t, b)
		for i := range 1000 {
			join(t, x, "Go", fmt.Sprintf("%03d", i))
		}
		w := watch(t, y, "Go", nil)
		time.Sleep(2 * time.Second)
		require.Len(t, w.List(), 1000)
	})
}

func TestAStreamThatCapturesTheRoom_isToldAndGotOver(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		var log logs
		x, y := open(t, b, log.option()), open(t, b, quiet)
		v, w := join(t, x, "Go", "a"), watch(t, y, "Go", nil)
		time.Sleep(settled)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "ALL", Subjects: []string{"here.>"}}))
		time.Sleep(time.Minute)
		require.Empty(t, ids(w))
		require.Equal(t, []string{"a"}, ids(v))
		require.Contains(t, log.String(), presence.ErrCaptured.Error())
		streams, err := b.(bus.StreamLister).Streams(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, streams[0].Msgs, uint64(2), "the stream doesn't fill up")
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "ALL", Subjects: []string{"elsewhere.>"}}))
		time.Sleep(35 * time.Second)
		require.Equal(t, []string{"a"}, ids(w))
	})
}

func TestABusThatIsClosedFirst_endsQuietly(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		x := open(t, b, quiet)
		v := join(t, x, "Go", "a")
		time.Sleep(settled)
		require.NoError(t, b.Close(t.Context()))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"a"}, ids(v))
		require.NoError(t, x.Close(t.Context()))
	})
}

// A bus that loses, repeats and reorders messages at random, while members come and go at random:
// once it works, everybody sees who is there.
func TestViews_agreeWhateverTheBusHasDone(t *testing.T) {
	for range 10 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testViews(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func testViews(t *testing.T, random *rand.Rand) {
	const processes, members = 4, 8
	inner := openBus(t, "mem:")
	var mu sync.Mutex // of random and delayed
	delayed := []func() error{}
	broken := &fault{Bus: inner}
	fate := func(data string, send func() error) error {
		mu.Lock()
		dice := random.IntN(10)
		var late func() error
		if len(delayed) > 0 && random.IntN(2) == 0 {
			i := random.IntN(len(delayed))
			late = delayed[i]
			delayed = slices.Delete(delayed, i, i+1)
		}
		again := func() error { return inner.Publish(context.Background(), "here.Go", []byte(data)) }
		if dice == 3 || dice == 4 {
			delayed = append(delayed, again)
		}
		mu.Unlock()
		if late != nil {
			if err := late(); err != nil {
				return err
			}
		}
		switch dice {
		case 0, 1, 3:
			return nil // lost, or late
		case 2:
			return bus.ErrUnavailable
		case 5:
			return errors.Join(send(), bus.ErrUnknownOutcome)
		}
		return send()
	}
	broken.set(fate)
	var procs []*presence.Rooms
	var watches []*presence.Visit
	add := func() {
		rs := open(t, broken, quiet)
		procs, watches = append(procs, rs), append(watches, watch(t, rs, "Go", nil))
	}
	for range processes {
		add()
	}
	type tab struct {
		process int
		id      string
		*presence.Visit
	}
	var tabs []tab
	for range 200 {
		mu.Lock()
		dice, at, pause := random.IntN(20), random.IntN(processes), random.IntN(1000)
		id := fmt.Sprint(random.IntN(members))
		mu.Unlock()
		switch {
		case dice == 0: // a process is replaced
			require.NoError(t, procs[at].Close(context.Background()))
			tabs = slices.DeleteFunc(tabs, func(v tab) bool { return v.process == at })
			add()
			procs[at], watches[at] = procs[processes], watches[processes]
			procs, watches = procs[:processes], watches[:processes]
		case dice < 11 && len(tabs) > 0:
			i := at * len(tabs) / processes
			tabs[i].Leave()
			tabs = slices.Delete(tabs, i, i+1)
		default:
			tabs = append(tabs, tab{at, id, join(t, procs[at], "Go", id)})
		}
		time.Sleep(time.Duration(pause) * time.Millisecond)
	}
	broken.set(nil)
	time.Sleep(8 * time.Second)
	want := []string{}
	for _, v := range tabs {
		want = append(want, v.id)
	}
	slices.Sort(want)
	want = slices.Compact(want)
	for i, w := range watches {
		require.Equal(t, want, ids(w), i)
	}
}

// Many processes that open a room at once, as after a deployment.
func TestManyProcesses_dontStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 50
		b := &fault{Bus: openBus(t, "mem:")}
		var visits []*presence.Visit
		for i := range n {
			visits = append(visits, join(t, open(t, b), "Go", fmt.Sprintf("%03d", i)))
		}
		time.Sleep(time.Second)
		for _, v := range visits {
			require.Len(t, v.List(), n)
		}
		t.Logf("%d messages with %d bytes in the first second", b.sent.Load(), b.bytes.Load())
		require.Less(t, b.sent.Load(), int64(10*n))
		b.sent.Store(0)
		time.Sleep(20 * time.Second)
		require.InDelta(t, 10*n, b.sent.Load(), n, "one message each in two seconds")
		b.sent.Store(0)
		w := watch(t, open(t, b), "Go", nil)
		time.Sleep(300 * time.Millisecond)
		require.Len(t, w.List(), n)
		require.Less(t, b.sent.Load(), int64(2*n))
	})
}

// The figures of the package comment: go test ./presence -run Traffic -v
func TestTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fault{Bus: openBus(t, "mem:")}
		x := open(t, b)
		for i := range 1000 {
			_, err := x.Join(t.Context(), "Go", presence.Member{ID: fmt.Sprintf("%026d", i), Name: "Curious Hedgehog", Info: "🦔"}, nil)
			require.NoError(t, err)
		}
		take := func(what string, d time.Duration) {
			b.sent.Store(0)
			b.bytes.Store(0)
			time.Sleep(d)
			t.Logf("%s: %d messages, %d bytes in %s", what, b.sent.Load(), b.bytes.Load(), d)
		}
		take("1,000 members join", time.Second)
		take("nothing happens", 100*time.Second)
		require.Less(t, b.bytes.Load(), int64(50*100))
		join(t, x, "Go", "one more")
		take("one joins", 1500*time.Millisecond)
		require.Less(t, b.bytes.Load(), int64(500))
	})
}
