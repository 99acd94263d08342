package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	defaultDir = "./data/nats"
	// maxPayload of the embedded server, and reserve for the headers that NATS adds.
	maxPayload = 1 << 20
	reserve    = 4 << 10
	// pollEvery is how often a server that others use, too, is asked for its streams.
	pollEvery = 900 * time.Millisecond
)

func init() {
	bus.Register("nats", openURL)
}

func openURL(ctx context.Context, u *url.URL, o bus.OpenOptions) (bus.Bus, error) {
	if u.Host != "" {
		if u.Path != "" && u.Path != "/" {
			return nil, fmt.Errorf("a server's URL has no path (%s); a directory is written nats:%s", u.Path, u.Path)
		}
		if _, own := u.Query()["sync"]; own {
			return nil, fmt.Errorf("parameter %q is for the embedded server: elsewhere the server's own configuration decides", "sync")
		}
		if _, err := driver.Params(u); err != nil {
			return nil, err
		}
		return connect(ctx, u, o)
	}
	params, err := driver.Params(u, "listen", "token", "sync")
	if err != nil {
		return nil, err
	}
	c := Config{Dir: u.Opaque, Listen: params["listen"], Token: params["token"]}
	if c.Dir == "" {
		c.Dir = u.Path
	}
	if c.Sync, err = parseSync(params["sync"]); err != nil {
		return nil, err
	}
	return c.open(ctx, o)
}

// Config is an embedded server. A URL says the same (nats:DIR?listen=HOST:PORT&token=SECRET&sync=LEVEL), so that
// it can be chosen at start-up.
type Config struct {
	Dir    string        // where it stores; empty: ./data/nats
	Listen string        // HOST:PORT on which others can reach it; empty: nothing
	Token  string        // what they must give; needed beyond loopback
	Sync   time.Duration // how soon the disk has what is acknowledged; 0: 100ms. See SyncAlways
}

// Open returns a bus on the embedded server. Errors: bus.ErrLocked when another process has the directory,
// bus.ErrUnavailable when the store doesn't work; others name the field that is wrong or the directory that can't be used.
func (c Config) Open(ctx context.Context, opts ...bus.OpenOption) (bus.Bus, error) {
	b, err := c.open(ctx, bus.NewOpenOptions(opts))
	if err != nil {
		return nil, fmt.Errorf("natsbus: open %s: %w", c.Dir, err)
	}
	return b, nil
}

func (c Config) open(ctx context.Context, o bus.OpenOptions) (bus.Bus, error) {
	if c.Dir == "" {
		c.Dir = defaultDir
	}
	level, err := newSyncLevel(c.Sync)
	if err != nil {
		return nil, err
	}
	return open(ctx, &embedded{dir: c.Dir, listen: c.Listen, token: c.Token, level: level, log: o.Logger}, o)
}

// Open returns a bus on an embedded server that stores in dir and listens on nothing: Config with the rest left out.
func Open(ctx context.Context, dir string, opts ...bus.OpenOption) (bus.Bus, error) {
	return Config{Dir: dir}.Open(ctx, opts...)
}

// natsBus is what Open returns.
type natsBus struct {
	*driver.Bus
	backend *backend
}

// Health implements bus.HealthChecker.
func (b *natsBus) Health(ctx context.Context) error {
	if err := b.backend.health(ctx); err != nil {
		return fmt.Errorf("bus: health: %w", err)
	}
	return nil
}

// backend is two connections to a server: one keeps the order of what is published and
// received, the other one asks, so that a long answer holds up no publish.
type backend struct {
	server *embedded // nil: elsewhere
	shared bool      // others may change the streams
	log    *slog.Logger
	nc     *nats.Conn
	rc     *nats.Conn

	mu        sync.Mutex
	listens   map[*listen]struct{}
	tails     map[*tail]struct{}
	shares    map[*groupShare]struct{}
	lastKnown map[string]driver.Stream // for streams whose leader can't be asked
	report    func(bus.Problem)        // to the hook of the bus; nil while it is being opened
	acks      acks

	watch    *nats.Subscription
	stopPoll chan struct{}
	polled   sync.WaitGroup
}

func open(ctx context.Context, e *embedded, o bus.OpenOptions) (bus.Bus, error) {
	if err := e.start(ctx); err != nil {
		return nil, err
	}
	b := newBackend(o.Logger)
	b.server = e
	e.groupCommit(b.acks.settle)
	opts := []nats.Option{nats.InProcessServer(e)}
	if e.token != "" {
		opts = append(opts, nats.Token(e.token))
	}
	err := b.dial("", opts)
	if err != nil {
		return nil, errors.Join(err, e.stop())
	}
	e.watch(b.interrupt, b.renew)
	return b.run(ctx, o, e.listen != "")
}

func connect(ctx context.Context, u *url.URL, o bus.OpenOptions) (bus.Bus, error) {
	b := newBackend(o.Logger)
	timeout := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline)/2, time.Millisecond) // there are two connections
	}
	if err := b.dial(u.String(), []nats.Option{nats.Timeout(timeout)}); err != nil {
		return nil, fmt.Errorf("%w: %s: is the server running, and are the user and password right?", bus.ErrUnavailable, err)
	}
	return b.run(ctx, o, true)
}

func newBackend(log *slog.Logger) *backend {
	b := &backend{
		log:       log,
		listens:   map[*listen]struct{}{},
		tails:     map[*tail]struct{}{},
		shares:    map[*groupShare]struct{}{},
		lastKnown: map[string]driver.Stream{},
		stopPoll:  make(chan struct{}),
	}
	return b
}

// dial opens the two connections. While one is interrupted nothing is buffered: a publish
// then fails, instead of being sent behind the back of a caller who was told that it failed.
func (b *backend) dial(url string, opts []nats.Option) error {
	opts = append(opts,
		nats.Name("jitney"), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.log.Error("natsbus: connection", "error", err)
			if errors.Is(err, nats.ErrPermissionViolation) {
				b.forbidden(err)
			}
		}))
	lost := func(nc *nats.Conn, err error) {
		if !nc.IsClosed() && err != nil {
			b.log.Warn("natsbus: connection lost", "error", err)
		}
	}
	var err error
	b.nc, err = nats.Connect(url, append(opts,
		nats.ReconnectHandler(func(*nats.Conn) { b.reconnected() }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			lost(nc, err)
			b.acks.fail(unknown(fmt.Errorf("%w: the connection was lost before an acknowledgement came", bus.ErrUnavailable)), everyone)
		}))...)
	if err != nil {
		return err
	}
	if err := b.acks.listen(b); err != nil {
		b.nc.Close()
		return err
	}
	if b.rc, err = nats.Connect(url, append(opts, nats.DisconnectErrHandler(lost))...); err != nil {
		b.nc.Close()
	}
	return err
}

// run makes the bus. shared says that others may change the streams.
func (b *backend) run(ctx context.Context, o bus.OpenOptions, shared bool) (bus.Bus, error) {
	b.shared = shared
	if err := b.health(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	d, err := driver.New(ctx, b, driver.Config{OpenOptions: o, Sole: !shared})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.report = d.Report
	b.mu.Unlock()
	if shared {
		// A user who may not see advisories still has the poll behind them.
		b.watch, err = b.nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.>", func(*nats.Msg) { d.Changed() })
		if err != nil {
			return nil, errors.Join(err, d.Close(ctx))
		}
		b.polled.Go(func() { b.poll(d.Changed) })
	}
	return &natsBus{d, b}, nil
}

func (b *backend) poll(changed func()) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if b.rc.IsConnected() {
				changed()
			}
		case <-b.stopPoll:
			return
		}
	}
}

// reconnected tells those whom the interruption concerns.
func (b *backend) reconnected() {
	b.mu.Lock()
	for l := range b.listens {
		l.sink.Lost()
	}
	b.mu.Unlock()
	b.renew()
}

// renew has all that the server does for us done anew.
func (b *backend) renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.tails {
		t.again()
	}
	for p := range b.shares {
		p.stopped.Go(p.pauseAndAskAgain)
	}
}

func (b *backend) Limits() driver.Limits {
	limit := maxPayload
	if b.server == nil {
		limit = max(0, int(b.nc.MaxPayload())-reserve)
	}
	return driver.Limits{MaxPayload: limit, StoredSize: storedSize}
}

// storedSize is how the server's file store counts (fileStoreMsgSize in server/filestore.go).
func storedSize(subject string, header bus.Header, data []byte) int64 {
	const record, checksum, headerLength = 22, 8, 4
	n := record + len(subject) + len(data) + checksum
	if h := driver.HeaderSize(header); h > 0 {
		n += headerLength + h
	}
	return int64(n)
}

func (b *backend) health(ctx context.Context) error {
	if b.nc.IsClosed() {
		return bus.ErrClosed
	}
	if !b.nc.IsConnected() || !b.rc.IsConnected() {
		return fmt.Errorf("%w: no connection to the server", bus.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return b.ask(ctx, "$JS.API.INFO", nil, nil)
}

// Interrupt implements driver.Backend.
func (b *backend) Interrupt() { b.interrupt(bus.ErrClosed) }

// interrupt ends the running Appends for a reason.
func (b *backend) interrupt(reason error) { b.acks.fail(unknown(reason), everyone) }

// Close implements driver.Backend.
func (b *backend) Close() error {
	close(b.stopPoll)
	b.polled.Wait()
	b.nc.Close()
	b.rc.Close()
	if b.server != nil {
		return b.server.stop()
	}
	return nil
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
