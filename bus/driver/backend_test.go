package driver_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// scripted is a backend of one stream whose faults a test decides. It is as lazy as a
// backend may be: nothing is delivered to a tail unless the test says so.
type scripted struct {
	// Set before open.
	gate   func(pattern string, release func()) (ready, leave func())
	before func(ctx context.Context, call string) error // called first in calls that ask or change something

	mu       sync.Mutex
	epoch    string
	log      []*bus.Message
	first    uint64 // what is before it was discarded
	config   bus.StreamConfig
	sink     driver.Sink
	listens  map[driver.Sink]string // by their pattern
	told     uint64                 // the sequence that the tail has been given last
	tails    int
	failures int // of the next calls of Read
	closed   bool
}

func open(t *testing.T, s *scripted, opts ...bus.OpenOption) *driver.Bus {
	t.Helper()
	s.epoch, s.first = "one", 1
	s.config = bus.StreamConfig{Name: "S", Subjects: []string{"a.>"}}
	s.listens = map[driver.Sink]string{}
	b, err := driver.New(t.Context(), s, driver.Config{OpenOptions: bus.NewOpenOptions(opts), Gate: s.gate})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, b.Close(context.Background()))
		require.True(t, s.closed)
	})
	return b
}

// store stores texts, which readers can read but tails aren't given.
func (s *scripted) store(texts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range texts {
		s.log = append(s.log, &bus.Message{Subject: "a.x", Data: []byte(text), Cursor: bus.NewCursor(s.epoch, uint64(len(s.log)+1))})
	}
}

// tell gives the tail the message of a sequence, with the one that came before it.
func (s *scripted) tell(seq, prev uint64) {
	s.mu.Lock()
	m, sink := s.log[seq-1], s.sink
	s.mu.Unlock()
	sink.Deliver(driver.Entry{Message: m, Prev: prev})
}

// recreate empties the stream and gives it another life.
func (s *scripted) recreate(epoch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch, s.log, s.first = epoch, nil, 1
}

// reconfigure changes the stream, as another process does.
func (s *scripted) reconfigure(name string, subjects ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = bus.StreamConfig{Name: name, Subjects: subjects}
}

func (s *scripted) enter(ctx context.Context, call string) error {
	if s.before == nil {
		return nil
	}
	return s.before(ctx, call)
}

func (s *scripted) Limits() driver.Limits {
	return driver.Limits{MaxPayload: 1000, StoredSize: func(string, bus.Header, []byte) int64 { return 1 }}
}

func (s *scripted) Streams(ctx context.Context) ([]driver.Stream, error) {
	if err := s.enter(ctx, "Streams"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return []driver.Stream{{Epoch: s.epoch, Config: s.config}}, nil
}

func (s *scripted) State(ctx context.Context, _ string) (driver.State, error) {
	if err := s.enter(ctx, "State"); err != nil {
		return driver.State{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(len(s.log))
	return driver.State{Epoch: s.epoch, First: s.first, Last: n, Msgs: n + 1 - s.first, Dense: true}, nil
}

func (s *scripted) Read(ctx context.Context, st driver.Stream, q driver.Query) (driver.Batch, error) {
	if err := s.enter(ctx, "Read"); err != nil {
		return driver.Batch{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.failures--
		return driver.Batch{}, bus.ErrUnavailable
	}
	if st.Epoch != s.epoch {
		return driver.Batch{}, driver.ErrEpoch
	}
	batch := driver.Batch{Through: q.UpTo}
	if q.After+1 < s.first {
		batch.Holes = []driver.Hole{{After: q.After, Before: s.first}}
		batch.Through = max(batch.Through, s.first-1)
	}
	for _, m := range s.log {
		if seq := m.Cursor.Sequence(); seq > q.After && seq >= s.first && seq <= q.UpTo {
			c := *m
			batch.Messages = append(batch.Messages, &c)
		}
	}
	return batch, nil
}

func (s *scripted) Tail(_ context.Context, st driver.Stream, after uint64, sink driver.Sink) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Epoch != s.epoch {
		return nil, driver.ErrEpoch
	}
	s.sink, s.told = sink, after
	s.tails++
	return func() {}, nil
}

func (s *scripted) Close() error { s.closed = true; return nil }

func (s *scripted) Ensure(ctx context.Context, _ bus.StreamConfig) error {
	return s.enter(ctx, "Ensure")
}
func (s *scripted) Append(context.Context, driver.Stream, *driver.Publication) (driver.Ack, error) {
	return driver.Ack{}, errors.New("not scripted")
}

func (s *scripted) Send(_ context.Context, p *driver.Publication) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sink, pattern := range s.listens {
		if bus.Match(pattern, p.Subject) {
			sink.Deliver(driver.Entry{Message: &bus.Message{Subject: p.Subject, Data: p.Data}})
		}
	}
	return nil
}
func (s *scripted) Flush(context.Context) error { return nil }

func (s *scripted) Listen(ctx context.Context, pattern string, sink driver.Sink) (func(), error) {
	if err := s.enter(ctx, "Listen"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listens[sink] = pattern
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listens, sink)
	}, nil
}
func (s *scripted) Seek(context.Context, driver.Stream, driver.Query) (uint64, error) { return 0, nil }
func (s *scripted) LastPerSubject(context.Context, driver.Stream, driver.Query) ([]*bus.Message, error) {
	return nil, nil
}
func (s *scripted) Interrupt() {}

// reader collects what a subscription is given, with "gap" where it was told of one.
type reader struct{ events chan string }

func read(t *testing.T, b *driver.Bus, opts ...bus.SubscribeOption) (*reader, bus.Subscription) {
	t.Helper()
	return readPattern(t, b, "a.>", opts...)
}

func readPattern(t *testing.T, b *driver.Bus, pattern string, opts ...bus.SubscribeOption) (*reader, bus.Subscription) {
	t.Helper()
	r := &reader{make(chan string, 1000)}
	sub, err := b.Subscribe(t.Context(), pattern, func(_ context.Context, m *bus.Message) error {
		r.events <- string(m.Data)
		return nil
	}, append(opts, bus.OnError(func(p bus.Problem) {
		switch {
		case errors.Is(p.Err, bus.ErrGap):
			r.events <- "gap"
		case errors.Is(p.Err, bus.ErrUnavailable):
			r.events <- "unavailable"
		default:
			r.events <- p.Err.Error()
		}
	}))...)
	require.NoError(t, err)
	return r, sub
}

// receive is for what must come.
func receive[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(10 * time.Second):
		require.Fail(t, "nothing has come")
	}
	return v
}

func (r *reader) want(t *testing.T, events ...string) {
	t.Helper()
	var got []string
	for range events {
		got = append(got, receive(t, r.events))
	}
	require.Equal(t, events, got)
}

func TestFeed_aHoleIsReadFromTheStoreBeforeTheNextMessage(t *testing.T) {
	var s scripted
	b := open(t, &s)
	r, _ := read(t, b)
	s.store("1", "2", "3", "4", "5")
	s.tell(1, 0)
	r.want(t, "1")
	s.tell(4, 3) // 2 and 3 got lost on their way, and are stored
	r.want(t, "2", "3", "4")
	s.tell(5, 4)
	r.want(t, "5")
}

func TestFeed_aHoleThatTheStoreHasTooIsAGap(t *testing.T) {
	var s scripted
	b := open(t, &s)
	r, _ := read(t, b)
	s.store("1", "2", "3", "4", "5")
	s.tell(1, 0)
	r.want(t, "1")
	s.mu.Lock()
	s.first = 4
	s.mu.Unlock()
	s.tell(4, 3)
	r.want(t, "gap", "4")
	s.tell(5, 4)
	r.want(t, "5")
}

func TestFeed_sequencesThatSkipNumbersAreNoHole(t *testing.T) {
	var s scripted
	b := open(t, &s)
	r, _ := read(t, b)
	s.store("1", "2", "3")
	s.tell(1, 0)
	s.tell(3, 1) // 2 never was
	r.want(t, "1", "3")
}

func TestFeed_aRepeatedMessageIsDeliveredOnce(t *testing.T) {
	var s scripted
	b := open(t, &s)
	r, _ := read(t, b)
	s.store("1", "2")
	s.tell(1, 0)
	s.tell(1, 0)
	s.tell(2, 1)
	r.want(t, "1", "2")
	require.Empty(t, r.events)
}

func TestFeed_anotherEpochIsAGapAndReadFromItsStart(t *testing.T) {
	var s scripted
	b := open(t, &s)
	r, sub := read(t, b)
	s.store("1", "2")
	s.tell(1, 0)
	s.tell(2, 1)
	r.want(t, "1", "2")
	s.recreate("two")
	s.store("new 1", "new 2", "new 3")
	b.Changed()
	r.want(t, "gap", "new 1", "new 2", "new 3")
	s.store("new 4")
	s.tell(4, 3)
	r.want(t, "new 4")
	require.NoError(t, sub.Err())
}

func TestFeed_aTailThatEndsIsStartedAnewAndMissesNothing(t *testing.T) {
	var s scripted
	b := open(t, &s)
	r, _ := read(t, b)
	s.store("1", "2", "3")
	s.tell(1, 0)
	r.want(t, "1")
	s.mu.Lock()
	sink := s.sink
	s.mu.Unlock()
	sink.End(errors.New("broken"))
	r.want(t, "2", "3") // stored while there was no tail
	s.store("4")
	s.tell(4, 3)
	r.want(t, "4")
	require.Equal(t, 2, s.tails)
}

func TestSubscribe_readsAgainWhatFailedAndTellsOnce(t *testing.T) {
	s := scripted{failures: 2}
	b := open(t, &s)
	s.store("1", "2")
	r, _ := read(t, b, bus.All())
	r.want(t, "unavailable", "1", "2")
}

func TestSubscribe_readsTheStoreWhereTheFeedLagsBehindIt(t *testing.T) {
	var s scripted
	b := open(t, &s)
	_, _ = read(t, b)
	s.store("1", "2")
	s.tell(1, 0) // 2 has yet to come
	r, _ := read(t, b, bus.All())
	r.want(t, "1", "2")
	require.Empty(t, r.events)
}

func TestSubscribe_onlyNewStartsAtTheStoresEndNotAtTheFeeds(t *testing.T) {
	var s scripted
	b := open(t, &s)
	first, _ := read(t, b)
	s.store("1", "2")
	second, _ := read(t, b) // the feed has yet to see 1 and 2
	s.tell(1, 0)
	s.tell(2, 1)
	s.store("3")
	s.tell(3, 2)
	first.want(t, "1", "2", "3")
	second.want(t, "3")
	require.Empty(t, slices.Collect(func(yield func(string) bool) {
		for len(second.events) > 0 && yield(<-second.events) {
		}
	}))
}

func TestGate_mayReleaseWhatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var release func()
		s := scripted{gate: func(_ string, r func()) (ready, leave func()) {
			release = r
			return func() {}, func() {}
		}}
		b := open(t, &s)
		_, sub := read(t, b)
		require.NoError(t, sub.Unsubscribe(t.Context()))
		release()
		synctest.Wait()
	})
}

// A gate that is shared may open while a subscription is being connected, which has caught up with nothing yet.
func TestGate_mayReleaseWhatIsBeingConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var release func()
		s := scripted{
			gate: func(_ string, r func()) (ready, leave func()) {
				release = r
				return func() {}, func() {}
			},
			before: func(_ context.Context, call string) error {
				if call == "State" && release != nil {
					release()
					synctest.Wait()
				}
				return nil
			},
		}
		b := open(t, &s)
		s.store("one", "two")
		r, _ := read(t, b, bus.All())
		require.Len(t, r.events, 2, "Subscribe returns when what was stored has been handled")
	})
}

// A question that several share has a goroutine of its own, whose call the backend's Close mustn't meet.
func TestClose_waitsForWhatTheBackendWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answered := make(chan struct{}), false
		tell := sync.OnceFunc(func() { close(asked) })
		s := scripted{before: func(ctx context.Context, call string) error {
			if call != "State" {
				return nil
			}
			tell()
			<-ctx.Done()
			time.Sleep(time.Second) // of a bubble
			answered = true
			return ctx.Err()
		}}
		b := open(t, &s)
		go func() {
			_, err := b.Subscribe(context.Background(), "a.>", func(context.Context, *bus.Message) error { return nil })
			require.ErrorIs(t, err, bus.ErrClosed)
		}()
		<-asked
		require.NoError(t, b.Close(t.Context()))
		require.True(t, answered)
		synctest.Wait()
	})
}

// yield lets others come to where they wait for a lock, which nothing tells.
func yield() {
	for range 1000 {
		runtime.Gosched()
	}
}

func TestSubscribe_mayEndWhileItConnects(t *testing.T) {
	asked, ask := make(chan struct{}), make(chan struct{})
	pushed, push := make(chan struct{}), make(chan struct{})
	ended := make(chan struct{})
	var wait atomic.Bool // in State
	s := scripted{
		gate: func(pattern string, _ func()) (ready, leave func()) {
			if pattern == "a.>" {
				return func() {}, func() { close(ended) }
			}
			return func() { close(pushed); <-push }, func() {}
		},
		before: func(_ context.Context, call string) error {
			if call == "State" && wait.Load() {
				close(asked)
				<-ask
			}
			return nil
		},
	}
	b := open(t, &s)
	readPattern(t, b, "a.x")
	s.store("1")
	wait.Store(true)
	failed := make(chan error, 1)
	go func() {
		_, err := b.Subscribe(t.Context(), "a.>", func(context.Context, *bus.Message) error { return nil }, bus.All())
		failed <- err
	}()
	receive(t, asked)
	wait.Store(false)
	// While the other subscription holds the feed up, this one can't be connected to it.
	go s.tell(1, 0)
	receive(t, pushed)
	close(ask)
	yield()
	s.reconfigure("S", "a.x")
	b.Changed()
	receive(t, ended)
	yield()
	close(push)
	require.Error(t, receive(t, failed))
}

// heldUp is a context that never ends, and holds up whoever wants to be called then.
type heldUp struct {
	context.Context
	until chan struct{}
}

func (h heldUp) Done() <-chan struct{} { return make(chan struct{}) }

func (h heldUp) AfterFunc(func()) (stop func() bool) {
	<-h.until
	return func() bool { return true }
}

// The streams change behind the second message, when Subscribe waits for the replay, and when it isn't as far yet.
func TestSubscribe_doesNotRepeatAReplayInWhichTheStreamsChange(t *testing.T) {
	for _, early := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var s scripted
			b := open(t, &s)
			s.store("1", "2", "3")
			var got []string
			ended := make(chan struct{})
			opts := []bus.SubscribeOption{bus.All()}
			if early {
				opts = append(opts, bus.Until(heldUp{t.Context(), ended}))
			}
			_, err := b.Subscribe(t.Context(), "a.>", func(ctx context.Context, m *bus.Message) error {
				if got = append(got, string(m.Data)); len(got) == 2 {
					if !early {
						synctest.Wait()
					}
					s.reconfigure("RENAMED", "a.>")
					b.Changed()
					<-ctx.Done()
					close(ended)
				}
				return nil
			}, opts...)
			require.ErrorIs(t, err, bus.ErrStreamChanged)
			require.Equal(t, []string{"1", "2"}, got)
		})
	}
}

func TestSubscribe_endsWithItsContextWhileTheBackendHangsAndSaysSo(t *testing.T) {
	for call, pattern := range map[string]string{"Listen": "free.x", "State": "a.>"} {
		synctest.Test(t, func(t *testing.T) {
			s := scripted{before: func(ctx context.Context, called string) error {
				if called == call {
					<-ctx.Done()
				}
				return ctx.Err()
			}}
			b := open(t, &s)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := b.Subscribe(ctx, pattern, func(context.Context, *bus.Message) error { return nil })
			require.ErrorIs(t, err, context.DeadlineExceeded, call)
			require.ErrorIs(t, err, bus.ErrUnavailable, call)
			require.Equal(t, time.Second, time.Since(start))
		})
	}
}

func TestPublish_endsWithItsContextWhileEnsureStreamsHangs(t *testing.T) {
	inside, proceed := make(chan struct{}), make(chan struct{})
	s := scripted{before: func(ctx context.Context, call string) error {
		if call == "Ensure" {
			close(inside)
			select {
			case <-proceed:
			case <-ctx.Done():
			}
		}
		return nil
	}}
	b := open(t, &s)
	r, _ := readPattern(t, b, "free.x")
	ensured, waits, givesUp := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		ensured <- b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "OTHER", Subjects: []string{"other.>"}})
	}()
	receive(t, inside)
	go func() { waits <- b.Publish(t.Context(), "free.x", []byte("waits")) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	go func() { givesUp <- b.Publish(ctx, "free.x", []byte("gives up")) }()
	require.ErrorIs(t, receive(t, givesUp), context.DeadlineExceeded)
	close(proceed)
	require.NoError(t, receive(t, ensured))
	require.NoError(t, receive(t, waits))
	r.want(t, "waits")
	require.Empty(t, r.events)
}

func TestSubscription_isGivenTheRestWhileAStreamCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scripted{before: func(_ context.Context, call string) error {
			if call == "Read" {
				return bus.ErrUnavailable
			}
			return nil
		}}
		b := open(t, &s)
		r, _ := readPattern(t, b, ">")
		s.store("1", "2")
		s.tell(2, 1) // 1 must be read
		r.want(t, "unavailable")
		require.NoError(t, b.Publish(t.Context(), "free.x", []byte("uncaptured")))
		r.want(t, "uncaptured")
	})
}
func TestSubscribe_triesAgainWhenTheStreamsChangeWhileItConnects(t *testing.T) {
	ended := make(chan struct{})
	var b *driver.Bus
	var s scripted
	var change sync.Once
	s.gate = func(string, func()) (ready, leave func()) {
		return func() {}, sync.OnceFunc(func() { ended <- struct{}{} })
	}
	s.before = func(_ context.Context, call string) error {
		if call == "State" && b != nil {
			change.Do(func() {
				s.reconfigure("RENAMED", "a.>")
				b.Changed()
				<-ended
			})
		}
		return nil
	}
	b = open(t, &s)
	sub, err := b.Subscribe(t.Context(), "a.>", func(context.Context, *bus.Message) error { return nil })
	require.NoError(t, err)
	go func() { <-ended }()
	require.NoError(t, sub.Unsubscribe(t.Context()))
}
