package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// payload is the length of every message, without headers.
const payload = 128

// Both sides have one stream, configured alike.
const (
	streamName    = "BENCH"
	streamPattern = "bench.>"
)

// logger shows warnings of the bus: a figure beside one is worth little.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// openBus opens natsbus in dir, with the stream.
func openBus(ctx context.Context, dir string) (bus.Bus, error) {
	return openConfig(ctx, natsbus.Config{Dir: dir})
}

func openConfig(ctx context.Context, c natsbus.Config) (bus.Bus, error) {
	b, err := c.Open(ctx, bus.WithLogger(logger()))
	if err != nil {
		return nil, err
	}
	if err := b.EnsureStreams(ctx, bus.StreamConfig{Name: streamName, Subjects: []string{streamPattern}}); err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	return b, nil
}

// newBus opens natsbus in a directory of its own until the pair is done.
func (e *env) newBus() (bus.Bus, error) { return e.newConfig(natsbus.Config{}) }

func (e *env) newConfig(c natsbus.Config) (bus.Bus, error) {
	c.Dir = e.dir()
	b, err := openConfig(e.ctx, c)
	if err != nil {
		return nil, err
	}
	e.after(func() error { return closeBus(b) })
	return b, nil
}

func closeBus(b bus.Bus) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return b.Close(ctx)
}

// raw is a server with one connection, used as the documentation of nats.go recommends.
type raw struct {
	server *server.Server
	nc     *nats.Conn
	js     jetstream.JetStream
}

// startRaw starts a server with the options of natsbus (bus/natsbus/server.go), which set may change.
func startRaw(dir string, set ...func(*server.Options)) (*raw, error) {
	opts := &server.Options{
		ServerName:             "floor",
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               dir,
		SyncInterval:           100 * time.Millisecond,
		MaxPayload:             1<<20 + 4<<10,
	}
	for _, f := range set {
		f(opts)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	s.Start()
	r := &raw{server: s}
	if !s.ReadyForConnections(30 * time.Second) {
		return nil, errors.Join(errors.New("the server isn't ready"), r.close())
	}
	if r.nc, err = r.connect(); err == nil {
		r.js, err = jetstream.New(r.nc)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *raw) connect() (*nats.Conn, error) { return nats.Connect("", nats.InProcessServer(r)) }

// InProcessConn implements nats.InProcessConnProvider.
func (r *raw) InProcessConn() (net.Conn, error) { return r.server.InProcessConn() }

func (r *raw) close() error {
	if r.nc != nil {
		r.nc.Close()
	}
	r.server.Shutdown()
	r.server.WaitForShutdown()
	return nil
}

// stream makes the stream as natsbus makes it.
func (r *raw) stream(ctx context.Context) (jetstream.Stream, error) {
	return r.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{streamPattern}, Duplicates: 30 * time.Second, AllowDirect: true,
	})
}

// newRaw starts a server with the stream, in a directory of its own, until the pair is done.
func (e *env) newRaw(set ...func(*server.Options)) (*raw, jetstream.Stream, error) {
	r, err := startRaw(e.dir(), set...)
	if err != nil {
		return nil, nil, err
	}
	e.after(r.close)
	s, err := r.stream(e.ctx)
	return r, s, err
}

// newSides does both.
func (e *env) newSides() (bus.Bus, *raw, jetstream.Stream, error) {
	b, err := e.newBus()
	if err != nil {
		return nil, nil, nil, err
	}
	r, s, err := e.newRaw()
	return b, r, s, err
}

// syncSides does both so that what is acknowledged is on the disk.
func (e *env) syncSides() (bus.Bus, *raw, error) {
	b, err := e.newConfig(natsbus.Config{Sync: natsbus.SyncAlways})
	if err != nil {
		return nil, nil, err
	}
	r, _, err := e.newRaw(func(o *server.Options) { o.SyncAlways = true })
	return b, r, err
}

// secondConn is another connection to the server of r, until the pair is done.
func (e *env) secondConn(r *raw) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := r.connect()
	if err != nil {
		return nil, nil, err
	}
	e.after(func() error { nc.Close(); return nil })
	js, err := jetstream.New(nc)
	return nc, js, err
}

// publish is how one side stores a message: its result is the acknowledgement's.
type publish func(ctx context.Context, subject string, data []byte) error

func (r *raw) publish(ctx context.Context, subject string, data []byte) error {
	return publishTo(r.js)(ctx, subject, data)
}

func publishTo(js jetstream.JetStream) publish {
	return func(ctx context.Context, subject string, data []byte) error {
		_, err := js.Publish(ctx, subject, data)
		return err
	}
}

func busPublish(b bus.Bus) publish {
	return func(ctx context.Context, subject string, data []byte) error { return b.Publish(ctx, subject, data) }
}

// fill stores n messages, subject(i) saying where, with many on the way at a time.
func fill(ctx context.Context, js jetstream.JetStream, n int, subject func(i int) string) error {
	data := make([]byte, payload)
	for i := range n {
		if _, err := js.PublishAsync(subject(i), data, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := js.Stream(ctx, streamName)
	if err != nil {
		return err
	}
	if stored := s.CachedInfo().State.LastSeq; stored < uint64(n) {
		return fmt.Errorf("filled the stream with %d messages, it has stored %d", n, stored)
	}
	return nil
}

// fillBus does the same through a bus, from several goroutines.
func fillBus(ctx context.Context, b bus.Bus, n int, subject func(i int) string) error {
	data := make([]byte, payload)
	return together(32, func(g int) error {
		for i := g; i < n; i += 32 {
			if err := b.Publish(ctx, subject(i), data); err != nil {
				return err
			}
		}
		return nil
	})
}

// together runs f in n goroutines.
func together(n int, f func(g int) error) error {
	errs := make(chan error, n)
	for g := range n {
		go func() { errs <- f(g) }()
	}
	var all []error
	for range n {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}
