package driver_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// scripted is a backend of one stream whose faults a test decides. It is as lazy as a
// backend may be: nothing is delivered to a tail unless the test says so.
type scripted struct {
	mu       sync.Mutex
	epoch    string
	log      []*bus.Message
	first    uint64 // what is before it was discarded
	sink     driver.Sink
	told     uint64 // the sequence that the tail has been given last
	tails    int
	failures int // of the next calls of Read
	closed   bool
}

func open(t *testing.T, s *scripted, opts ...bus.OpenOption) *driver.Bus {
	t.Helper()
	s.epoch, s.first = "one", 1
	b, err := driver.New(t.Context(), s, driver.Config{OpenOptions: bus.NewOpenOptions(opts)})
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

func (s *scripted) Limits() driver.Limits {
	return driver.Limits{MaxPayload: 1000, StoredSize: func(string, bus.Header, []byte) int64 { return 1 }}
}

func (s *scripted) Streams(context.Context) ([]driver.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []driver.Stream{{Epoch: s.epoch, Config: bus.StreamConfig{Name: "S", Subjects: []string{"a.>"}}}}, nil
}

func (s *scripted) State(context.Context, string) (driver.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(len(s.log))
	return driver.State{Epoch: s.epoch, First: s.first, Last: n, Msgs: n + 1 - s.first, Dense: true}, nil
}

func (s *scripted) Read(_ context.Context, st driver.Stream, q driver.Query) (driver.Batch, error) {
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

func (s *scripted) Ensure(context.Context, bus.StreamConfig) error { return nil }
func (s *scripted) Append(context.Context, driver.Stream, *driver.Publication) (driver.Ack, error) {
	return driver.Ack{}, errors.New("not scripted")
}
func (s *scripted) Send(context.Context, *driver.Publication) error { return nil }
func (s *scripted) Flush(context.Context) error                     { return nil }
func (s *scripted) Listen(context.Context, string, driver.Sink) (func(), error) {
	return func() {}, nil
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
	r := &reader{make(chan string, 1000)}
	sub, err := b.Subscribe(t.Context(), "a.>", func(_ context.Context, m *bus.Message) error {
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

func (r *reader) want(t *testing.T, events ...string) {
	t.Helper()
	var got []string
	for range events {
		got = append(got, <-r.events)
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
