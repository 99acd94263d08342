package natsbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
	"github.com/jitney-go/jitney/bus/internal/share"
)

const (
	defaultDir = "./data/nats"
	// maxPayload of the embedded server, and reserve for the headers that NATS adds.
	maxPayload   = 1 << 20
	reserve      = 4 << 10
	defaultScrub = 24 * time.Hour
	// pollEvery is how often a server that others use, too, is asked for its streams.
	pollEvery = 600 * time.Millisecond
)

func init() {
	bus.Register("nats", openURL)
}

// natsBus is what Open returns.
type natsBus struct {
	*driver.Bus
	backend *backend
}

// Subscribe implements bus.Bus.
func (b *natsBus) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	s, err := b.Bus.Subscribe(ctx, pattern, handler, opts...)
	return s, b.backend.explained(err)
}

// EnsureStreams implements bus.Bus.
func (b *natsBus) EnsureStreams(ctx context.Context, streams ...bus.StreamConfig) error {
	return b.backend.explained(b.Bus.EnsureStreams(ctx, streams...))
}

// backend is two connections to a server: one keeps the order of what is published and
// received, the other one asks, so that a long answer holds up no publish.
type backend struct {
	node     *embedded // the server in this process; nil: it is elsewhere
	server   *embedded // node, if the store is its alone; otherwise nil
	shared   bool      // others may change the streams
	replicas int       // of streams that are created here
	api      string    // before the calls of JetStream's API
	elects   bool      // the servers are a cluster's, and choose leaders
	log      *slog.Logger
	nc       *nats.Conn
	rc       *nats.Conn
	link     link // of rc

	mu         sync.Mutex
	listens    map[*listen]struct{}
	tails      map[*tail]struct{}
	shares     map[*groupShare]struct{}
	epochs     map[string]string   // of streams, as they were listed last
	led        map[string]uint64   // replaced, never modified: what the leaders of the streams that this member holds had when they were listed
	leaderless map[string]struct{} // the same: streams that had none when they were listed
	report     func(bus.Problem)   // to the hook of the bus; nil while it is being opened
	changed    func()              // what captures what; nil while it is being opened
	suspects   map[string]given    // streams of a server elsewhere that may have lost their end
	acks       acks
	gets       gets
	scans      scans
	lanes      sync.Map // stream to *lane

	ids      string // before the number of a call: no other backend has it
	nextCall atomic.Uint64

	interrupts atomic.Uint64         // how often calls were to end
	trouble    atomic.Pointer[error] // why the last question had no answer; nil: it had one
	known      sync.Map              // stream to *atomic.Uint64: a sequence that it has stored, at least
	atomic     sync.Map              // stream and epoch to whether it takes atomic batches

	names share.Call[[]string] // of all streams

	// Of a member of a cluster, for Health.
	lacks share.Call[[]string] // what it hasn't, and should have
	room  share.Call[struct{}] // whether its store could be written to

	// Of a server whose store is its alone.
	listened     bool         // others can reach it
	lifeUntold   atomic.Bool  // the metadata of a stream was seen not to say in which life it is
	tellLifeNext atomic.Int64 // when that is told again, after it has failed; ns

	watch    *nats.Subscription
	stopPoll chan struct{}
	polled   sync.WaitGroup
}

// open starts the server and makes a bus on it.
func (e *embedded) open(ctx context.Context, opts *server.Options, o bus.OpenOptions) (bus.Bus, error) {
	if err := e.start(ctx, opts); err != nil {
		return nil, err
	}
	b := newBackend(o.Logger)
	b.node = e
	shared := e.cfg.listens()
	switch {
	case e.cfg.Cluster != nil:
		b.replicas, shared = e.cfg.Cluster.Replicas, true
	case e.cfg.Leaf != nil:
		b.replicas, shared = max(1, e.cfg.Leaf.Replicas), true
		b.inDomain(e.cfg.Domain)
	default:
		b.server = e
		e.groupCommit(b.acks.settle)
	}
	dial := []nats.Option{nats.InProcessServer(e)}
	if opts.Authorization != "" {
		dial = append(dial, nats.Token(opts.Authorization))
	}
	if err := b.dial("", dial); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	if b.server != nil {
		b.listened = shared
		e.watch(b.interrupt, b.renewHealed, b.tellDamage)
		b.tellLives(ctx)
		if round := cmp.Or(e.cfg.Scrub, defaultScrub); round > 0 {
			e.background.Go(func() { e.scrub(round) })
		}
	} else {
		if err := b.await(ctx); err != nil {
			return nil, errors.Join(err, b.Close())
		}
		if e.cfg.Cluster != nil {
			if err := e.noteBoot(); err != nil {
				return nil, errors.Join(err, b.Close())
			}
			// What waits is done by the others, or ends with the connection to the server that is replaced.
			e.watch(func(error) {}, func() {}, func() {})
		}
		if e.cfg.Cluster != nil {
			if err := b.answerPeers(); err != nil {
				return nil, errors.Join(err, b.Close())
			}
		}
		conns := e.peerConns()
		e.background.Go(func() { e.watchPeers(conns, b.reconnected, b.missed) })
	}
	opened, err := b.run(ctx, o, shared)
	if err == nil && e.cfg.Cluster != nil {
		e.background.Go(func() { // not before: it may start the server anew
			ctx, cancel := e.untilStopped()
			defer cancel()
			b.keepSound(ctx)
		})
		e.background.Go(func() {
			ctx, cancel := e.untilStopped()
			defer cancel()
			b.tellClaims(ctx)
		})
		b.askClaims(ctx)
		e.awaitSound(ctx)
	}
	return opened, err
}

func newBackend(log *slog.Logger) *backend {
	b := &backend{
		log:      log,
		replicas: 1,
		api:      defaultAPI,
		ids:      rand.Text()[:16] + "-",
		listens:  map[*listen]struct{}{},
		tails:    map[*tail]struct{}{},
		shares:   map[*groupShare]struct{}{},
		epochs:   map[string]string{},
		suspects: map[string]given{},
		stopPoll: make(chan struct{}),
		scans:    scans{waiting: map[scanKey]*scan{}, open: map[string]int{}, paused: map[scanKey]time.Time{}},
	}
	b.names.Ask = func() ([]string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
		defer cancel()
		return b.Find(ctx, ">")
	}
	b.lacks.Ask = b.check
	b.room.Ask = func() (struct{}, error) { return struct{}{}, b.node.tryRoom(b.node.roomNeeded()) }
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
	b.rc, err = nats.Connect(url, append(opts, nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
		lost(nc, err)
		b.link.end(errCut, func(string) bool { return true })
	}))...)
	if err != nil {
		b.nc.Close()
		return err
	}
	if err = b.gets.listen(b); err != nil {
		b.nc.Close()
		b.rc.Close()
	}
	b.elects = b.node != b.server || err == nil && b.nc.ConnectedClusterName() != ""
	return err
}

// run makes the bus. shared says that others may change the streams.
func (b *backend) run(ctx context.Context, o bus.OpenOptions, shared bool) (bus.Bus, error) {
	b.shared = shared
	if b.node == b.server { // others have waited for an answer, and one of the next may have to wait for another election
		if err := b.reachable(ctx); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	d, err := driver.New(ctx, b, driver.Config{OpenOptions: o, Sole: !shared})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.report, b.changed = d.Report, d.Changed
	b.mu.Unlock()
	if b.server != nil {
		b.tellDamage()
	}
	if shared {
		// A user who may not see advisories still has the poll behind them.
		b.watch, err = b.nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.>", func(*nats.Msg) { d.Changed() })
		if err != nil {
			return nil, errors.Join(err, d.Close(ctx))
		}
		b.polled.Go(func() { b.poll(d.Changed) })
		if b.server == nil && !b.isMember() {
			b.polled.Go(b.keepLooking)
		}
	}
	return &natsBus{d, b}, nil
}

// tellDamage tells the hook of the bus what it hasn't been told.
func (b *backend) tellDamage() {
	b.mu.Lock()
	report := b.report
	b.mu.Unlock()
	if report == nil {
		return // it will be told when the bus is open
	}
	b.server.mu.Lock()
	found := b.server.untold
	b.server.untold = nil
	b.server.mu.Unlock()
	if len(found) == 0 {
		return
	}
	for _, damage := range found {
		report(bus.Problem{Err: fmt.Errorf("%w: damaged messages of %s", bus.ErrGap, damage)})
	}
	if err := b.server.lives.told(len(found)); err != nil {
		b.log.Warn("natsbus: it can't be recorded that damage has been told: the next Open tells it once more", "dir", b.server.dir, "error", err)
	}
}

func (b *backend) poll(changed func()) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if b.rc.IsConnected() {
				b.tellAgain()
				changed()
			}
		case <-b.stopPoll:
			return
		}
	}
}

// reconnected tells those whom the interruption concerns.
func (b *backend) reconnected() {
	b.missed()
	b.rerouted()
	b.renew()
	b.mu.Lock()
	changed := b.changed
	b.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// missed tells those who listen that uncaptured messages may be missing.
func (b *backend) missed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.listens {
		l.sink.Lost()
	}
}

// renew has all that the server does for us done anew.
func (b *backend) renew() {
	b.suspect("")
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.tails {
		t.again()
	}
	for p := range b.shares {
		p.stopped.Go(p.pauseAndAskAgain)
	}
}

// renewHealed does it for a store that was opened again.
func (b *backend) renewHealed() {
	b.renew()
	ctx, cancel := b.node.untilStopped()
	defer cancel()
	for !b.nc.IsConnected() || !b.rc.IsConnected() { // another server has taken the place of the one that was connected to
		if b.nc.IsClosed() || !sleep(ctx, pause) {
			return
		}
	}
	b.tellLives(ctx)
	b.mu.Lock()
	changed := b.changed
	b.mu.Unlock()
	if changed != nil {
		changed() // receipts are to have the new epochs
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

// Interrupt implements driver.Backend.
func (b *backend) Interrupt() {
	b.interrupts.Add(1)
	b.interrupt(bus.ErrClosed)
}

// interrupt ends the running Appends for a reason.
func (b *backend) interrupt(reason error) {
	b.lanes.Range(func(_, l any) bool { l.(*lane).fail(reason); return true })
	b.acks.fail(unknown(reason), everyone)
}

// Close implements driver.Backend.
func (b *backend) Close() error {
	close(b.stopPoll)
	b.polled.Wait()
	b.scans.close()
	b.nc.Close()
	b.rc.Close()
	if b.node != nil {
		return b.node.stop()
	}
	return nil
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
