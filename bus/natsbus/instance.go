package natsbus

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus"
)

// instance is a server that runs, or has run. It is its own server.Logger, on slog.
type instance struct {
	*server.Server
	e    *embedded
	door string // its way to the store; empty: it has the store itself, or none

	ended     atomic.Bool  // what it says then is only logged
	stoppings atomic.Int64 // how many of its JetStreams are being stopped
}

// run starts a server, with the store or without it, and returns when clients can connect to it. The store is closed and checked.
// then, if it isn't nil, is called before this process uses the server.
func (e *embedded) run(ctx context.Context, store bool, then func(s *instance) error) (err error) {
	s := &instance{e: e}
	opts := e.opts.Clone() // the server changes its own
	opts.JetStream = store
	if store && e.cfg.Cluster != nil {
		if s.door, err = e.openDoor(); err != nil {
			return storeError(e.dir, err)
		}
		opts.StoreDir = cmp.Or(s.door, e.dir)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.opened = time.Now()
	if s.Server, err = server.NewServer(opts); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.end()
			if store && e.cfg.Cluster != nil {
				e.left = s
			}
			return
		}
		e.server.Store(s) // not before: while a member's server reads its streams, it says that there are none
	}()
	s.SetLoggerV2(s, false, false, false)
	s.Start() // recovers the streams before it returns
	if err := e.failedStart(); err != nil {
		return err
	}
	timeout := startTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	for end := time.Now().Add(timeout); !s.ReadyForConnections(min(startLook, time.Until(end))); {
		if err := cmp.Or(e.failedStart(), context.Cause(ctx)); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: the embedded server isn't ready after %s", bus.ErrUnavailable, timeout.Round(time.Millisecond))
		}
	}
	if err := e.failedStart(); err != nil || then == nil {
		return err
	}
	return then(s)
}

// failedStart is what has gone wrong with a server that is starting.
func (e *embedded) failedStart() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.fatal != "":
		return fmt.Errorf("%w: %s", bus.ErrUnavailable, e.fatal)
	case e.critical != "" && e.brokenAgain:
		return fmt.Errorf("%w: %s", bus.ErrUnavailable, e.critical)
	}
	return nil
}

// end returns when the server says that it has ended.
func (s *instance) end() {
	s.Shutdown()
	s.WaitForShutdown()
	s.ended.Store(true)
}

// Noticef implements server.Logger.
func (s *instance) Noticef(format string, args ...any) {
	text := s.redacted(format, args)
	s.e.log.Debug("nats-server: " + text)
	switch text {
	case "Initiating JetStream Shutdown...":
		s.stoppings.Add(1)
	case "JetStream Shutdown":
		s.stoppings.Add(-1)
	}
	if conn, _, closed := strings.Cut(text, "Leafnode connection closed: "); closed {
		s.e.mu.Lock()
		defer s.e.mu.Unlock()
		if !strings.HasPrefix(s.e.lastError, conn) { // of the same connection an error says more
			s.e.lastError = text
		}
	}
}

// Debugf implements server.Logger.
func (s *instance) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (s *instance) Tracef(string, ...any) {}

// Warnf implements server.Logger.
func (s *instance) Warnf(format string, args ...any) {
	text := s.redacted(format, args)
	s.e.log.Warn("nats-server: " + text)
	s.judge(text)
	if s.e.review != nil {
		s.e.review.heed(text)
	}
}

// Errorf implements server.Logger.
func (s *instance) Errorf(format string, args ...any) {
	text := s.redacted(format, args)
	s.e.log.Error("nats-server: " + text)
	s.judge(text)
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	s.e.lastError = text
}

func (s *instance) judge(text string) {
	if isWriteFailure(text) && !s.ended.Load() {
		s.e.broken(fmt.Sprintf("the store in %s can't be written to: %s", s.e.dir, text))
	}
}

// Fatalf implements server.Logger. It must not end the process.
func (s *instance) Fatalf(format string, args ...any) {
	text := s.redacted(format, args)
	s.e.log.Error("nats-server: " + text)
	if strings.HasPrefix(text, "Error listening on ") {
		text += "; it must be an address of this machine, with a port that no other program has: choose another one in listen, route-listen or leaf-listen"
	}
	if s.ended.Load() {
		return
	}
	s.e.mu.Lock()
	s.e.fatal = text
	s.e.mu.Unlock()
}

func (s *instance) redacted(format string, args []any) string {
	text := s.e.redacted(fmt.Sprintf(format, args...))
	if s.door != "" {
		text = strings.ReplaceAll(text, filepath.Clean(s.door), filepath.Clean(s.e.dir))
	}
	return text
}
