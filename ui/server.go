package ui

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jitney-go/jitney/bus"
)

func (v *App) routes() {
	v.mux.HandleFunc("GET "+assetPath+"stream", v.serveStream)
	v.mux.HandleFunc("POST "+assetPath+"act", v.serveAct)
	v.mux.HandleFunc("POST "+assetPath+"seen", v.serveSeen)
	v.mux.HandleFunc("POST "+assetPath+"bye", v.serveBye)
	v.mux.HandleFunc("GET "+assetPath+"{name}", v.assets.serve)
	v.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, nil) })
	v.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answerProbe(w, v.readiness(r.Context())) })
}

// Start opens the bus, ensures the streams, and serves until SIGINT or SIGTERM. Then no new
// pages are let in, browsers are told to come back later, actions end, the bus is
// drained, and Start returns nil. A second signal ends the process at once. What fails
// at the start is returned, with what to do about it.
func (v *App) Start() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := v.Serve(ctx)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // the signal came while the bus was being opened
	}
	return err
}

// Serve is Start for programs that handle signals themselves: it serves until ctx ends. An App serves once.
func (v *App) Serve(ctx context.Context) (err error) {
	v.mu.Lock()
	again := v.started
	v.started = true
	v.mu.Unlock()
	if again {
		return errors.New("ui: Serve was called twice: an App serves once, make another one with New")
	}
	defer v.listening(nil) // who waits for the address waits no longer
	closeBus, err := v.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.limits.shutdown)
		defer cancel()
		if closeErr := closeBus(ctx); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("ui: close the bus: %w", closeErr))
		}
	}()
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", v.opts.ServerAddress)
	if err != nil {
		return fmt.Errorf("ui: can't listen on %s (Options.ServerAddress): %w: %s", v.opts.ServerAddress, err, listenAdvice(err))
	}
	v.onces.limit, v.onces.memory = v.limits.onceEntries, v.limits.onceMemory
	v.hosts = newHostRule(listener.Addr(), v.opts.Hosts)
	spare := spares{conns: map[net.Conn]struct{}{}}
	server := &http.Server{
		ConnState:         spare.note,
		Handler:           v.guard(v.mux),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(v.log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, conn)
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	v.listening(listener.Addr())
	v.log.Info("ui: listening", "address", v.address(listener.Addr()))
	select {
	case err = <-served:
		err = fmt.Errorf("ui: the server ended by itself: %w", err)
	case <-ctx.Done():
		v.log.Info("ui: shutting down")
	}
	return errors.Join(err, v.shutdown(context.WithoutCancel(ctx), server, &spare))
}

// listenAdvice says what to do about an address that can't be listened on.
func listenAdvice(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program, or another instance of this one, has the port: end it, or use another address"
	case errors.Is(err, os.ErrPermission):
		return "this user may not have the port: use one from 1024 up"
	}
	return "use an address of this machine, such as " + defaultAddress
}

// spares are connections on which nothing was asked yet. Browsers have some in stock. Server.Shutdown
// waits five seconds for a first request on them, which is all the time that we have.
type spares struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	over  bool
}

func (s *spares) note(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.conns, conn)
	case s.over:
		_ = conn.Close() // who dials sees it go, however it goes
	default:
		s.conns[conn] = struct{}{}
	}
}

func (s *spares) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for conn := range s.conns {
		_ = conn.Close() // as above
	}
}

// address is where people find the server.
func (v *App) address(listening net.Addr) string {
	host, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return listening.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() || strings.HasPrefix(v.opts.ServerAddress, "localhost:") {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// shutdown ends streams, requests, actions and tabs, in this order.
func (v *App) shutdown(ctx context.Context, server *http.Server, spare *spares) error {
	ctx, cancel := context.WithTimeout(ctx, v.limits.shutdown)
	defer cancel()
	close(v.closing)
	spare.close()
	err := server.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("ui: requests were still running at the shutdown: %w", errors.Join(err, server.Close()))
	}
	err = errors.Join(err, v.running.drain(ctx))
	v.tabs.close()
	v.onces.stop()
	return err
}

// Addr waits until the server listens and returns its address, such as "127.0.0.1:7331". It is empty
// when Serve has ended without listening.
func (v *App) Addr() string {
	<-v.known
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.addr
}

// listening tells those who wait in Addr. Only the first call counts.
func (v *App) listening(addr net.Addr) {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.known:
		return
	default:
	}
	if addr != nil {
		v.addr = addr.String()
	}
	close(v.known)
}

// readiness says why the server can't do its work.
func (v *App) readiness(ctx context.Context) error {
	select {
	case <-v.closing:
		return errClosing
	default:
	}
	health, ok := v.bus.(bus.HealthChecker)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, v.limits.patience)
	defer cancel()
	if err := health.Health(ctx); err != nil {
		v.log.Warn("ui: not ready", "error", err)
		return errors.New("the bus is not ready")
	}
	return nil
}

func answerProbe(w http.ResponseWriter, err error) {
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if _, err := w.Write([]byte("ok\n")); err != nil {
		return // the prober has gone away
	}
}

// around returns d give or take a half, so that a thousand browsers don't come back at once.
func around(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
