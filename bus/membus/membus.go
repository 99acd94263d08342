package membus

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// maxPayload is the same as a NATS server's default, so that programs behave alike on both.
const maxPayload = 1 << 20

func init() {
	bus.Register("mem", func(ctx context.Context, u *url.URL, o bus.OpenOptions) (bus.Bus, error) {
		if u.Opaque != "" || u.Host != "" || u.Path != "" {
			return nil, fmt.Errorf("a bus in memory has no place: want mem: or mem:?tick=100ms")
		}
		params, err := driver.Params(u, "tick")
		if err != nil {
			return nil, err
		}
		var tick time.Duration
		if text, ok := params["tick"]; ok {
			if tick, err = time.ParseDuration(text); err != nil || checkTick(tick) != nil {
				return nil, fmt.Errorf("parameter %q is %q: want 0 or a duration from 1ms, such as 100ms", "tick", text)
			}
		}
		return open(ctx, newClock(tick, time.Now()), o)
	})
}

// Open returns a bus in memory whose messages are delivered at the next tick, or at once
// if tick is 0. Close it to end its goroutines.
func Open(tick time.Duration, opts ...bus.OpenOption) (bus.Bus, error) {
	if err := checkTick(tick); err != nil {
		return nil, fmt.Errorf("membus: open: %w", err)
	}
	return open(context.Background(), newClock(tick, time.Now()), bus.NewOpenOptions(opts))
}

func open(ctx context.Context, c *clock, o bus.OpenOptions) (bus.Bus, error) {
	b := &backend{clock: c, streams: map[string]*stream{}, rooms: map[string]*members{}}
	cfg := driver.Config{OpenOptions: o, Sole: true, Volatile: true}
	if c.tick > 0 {
		cfg.Gate = b.gate
	}
	return driver.New(ctx, b, cfg)
}

// backend keeps streams in memory and passes on what isn't captured.
type backend struct {
	clock *clock // also of Rooms, where the bus stands on some

	roomsMu sync.Mutex
	rooms   map[string]*members // the subscriptions of each pattern, where there are ticks

	mu      sync.Mutex // before any stream's
	streams map[string]*stream

	sinksMu sync.Mutex
	sinks   driver.Index[*listening]
	matches []*listening    // scratch
	entry   [1]driver.Entry // scratch
}

type listening struct{ sink driver.Sink }

// gate makes a subscription a member of the room of its pattern, which exists while it has members.
func (b *backend) gate(pattern string, release func()) (ready, leave func()) {
	b.roomsMu.Lock()
	defer b.roomsMu.Unlock()
	room := b.rooms[pattern]
	if room == nil {
		room = newMembers(b.clock)
		b.rooms[pattern] = room
	}
	m := &member{tell: release}
	room.add(m)
	return room.markDirty, func() {
		b.roomsMu.Lock()
		defer b.roomsMu.Unlock()
		if room.remove(m) == 0 && b.rooms[pattern] == room {
			delete(b.rooms, pattern)
		}
	}
}

func (b *backend) Limits() driver.Limits {
	return driver.Limits{MaxPayload: maxPayload, StoredSize: storedSize}
}

func storedSize(subject string, header bus.Header, data []byte) int64 {
	return int64(len(subject) + driver.HeaderSize(header) + len(data))
}

func (b *backend) Streams(context.Context) ([]driver.Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]driver.Stream, 0, len(b.streams))
	for _, s := range b.streams {
		s.mu.Lock()
		list = append(list, driver.Stream{Config: s.cfg, Epoch: s.epoch})
		s.mu.Unlock()
	}
	return list, nil
}

func (b *backend) Ensure(_ context.Context, cfg bus.StreamConfig) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.streams[cfg.Name]; s != nil {
		s.update(cfg)
		return nil
	}
	b.streams[cfg.Name] = newStream(cfg)
	return nil
}

func (b *backend) Remove(_ context.Context, name string) error {
	s, err := b.stream(name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	delete(b.streams, name)
	b.mu.Unlock()
	s.end()
	return nil
}

func (b *backend) stream(name string) (*stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.streams[name]; s != nil {
		return s, nil
	}
	return nil, driver.ErrNotCaptured
}

// life returns the stream in the life that is meant; it may have been removed and created again since.
func (b *backend) life(meant driver.Stream) (*stream, error) {
	s, err := b.stream(meant.Config.Name)
	if err == nil && s.epoch != meant.Epoch {
		return nil, driver.ErrEpoch
	}
	return s, err
}

func (b *backend) State(_ context.Context, name string) (driver.State, error) {
	s, err := b.stream(name)
	if err != nil {
		return driver.State{}, err
	}
	return s.state(), nil
}

func (b *backend) Append(_ context.Context, s driver.Stream, p *driver.Publication) (driver.Ack, error) {
	st, err := b.life(s)
	if err != nil {
		return driver.Ack{}, driver.ErrNotCaptured // not in this life
	}
	return st.append(p)
}

func (b *backend) Send(_ context.Context, p *driver.Publication) error {
	m := newMessage(p)
	b.sinksMu.Lock()
	defer b.sinksMu.Unlock()
	b.matches = b.sinks.Match(p.Subject, b.matches[:0])
	b.entry[0].Message = m
	for _, l := range b.matches {
		l.sink.Deliver(b.entry[:]...)
	}
	b.entry[0].Message = nil
	return nil
}

// newMessage copies what is the caller's. A message and its data take one allocation where that takes no more memory than two.
func newMessage(p *driver.Publication) *bus.Message {
	var m *bus.Message
	var data []byte
	n := len(p.Data)
	switch {
	case n <= 32:
		x := new(struct {
			m    bus.Message
			data [32]byte
		})
		m, data = &x.m, x.data[:n:n]
	case n <= 64:
		x := new(struct {
			m    bus.Message
			data [64]byte
		})
		m, data = &x.m, x.data[:n:n]
	case n <= 128:
		x := new(struct {
			m    bus.Message
			data [128]byte
		})
		m, data = &x.m, x.data[:n:n]
	default:
		m, data = new(bus.Message), make([]byte, n)
	}
	copy(data, p.Data)
	m.Subject, m.Data, m.Header = p.Subject, data[:n:n], p.Header.Clone()
	return m
}

// Flush has nothing to wait for: sinks are called by Append and Send themselves.
func (b *backend) Flush(context.Context) error { return nil }

func (b *backend) Listen(_ context.Context, pattern string, sink driver.Sink) (stop func(), err error) {
	l := &listening{sink}
	b.sinksMu.Lock()
	defer b.sinksMu.Unlock()
	b.sinks.Add(pattern, l)
	return func() {
		b.sinksMu.Lock()
		defer b.sinksMu.Unlock()
		b.sinks.Remove(pattern, l)
	}, nil
}

func (b *backend) Tail(_ context.Context, s driver.Stream, after uint64, sink driver.Sink) (stop func(), err error) {
	st, err := b.life(s)
	if err != nil {
		return nil, err
	}
	return st.tail(after, sink), nil
}

func (b *backend) Read(_ context.Context, s driver.Stream, q driver.Query) (driver.Batch, error) {
	st, err := b.life(s)
	if err != nil {
		return driver.Batch{}, err
	}
	return st.read(q), nil
}

func (b *backend) Seek(_ context.Context, s driver.Stream, q driver.Query) (uint64, error) {
	st, err := b.life(s)
	if err != nil {
		return 0, err
	}
	return st.seek(q), nil
}

func (b *backend) LastPerSubject(_ context.Context, s driver.Stream, q driver.Query) ([]*bus.Message, error) {
	st, err := b.life(s)
	if err != nil {
		return nil, err
	}
	return st.lastPerSubject(q), nil
}

// Interrupt has nothing to end: no call blocks.
func (b *backend) Interrupt() {}

func (b *backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.streams {
		s.close()
	}
	return nil
}
