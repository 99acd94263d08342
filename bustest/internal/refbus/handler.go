package refbus

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// run calls the handler until there is nothing to do.
func (s *subscription) run(m *bus.Message, p *bus.Problem) {
	through := false
	defer func() {
		if through || s.b.bug("goexitEnds") {
			return
		}
		s.b.mu.Lock() // the handler has ended its goroutine
		m, p := s.next()
		s.b.mu.Unlock()
		go s.run(m, p)
	}()
	for m != nil || p != nil {
		s.b.pause()
		switch {
		case p != nil:
			s.tell(*p)
		case s.b.bug("parallelHandler"):
			go s.call(m)
		case s.b.bug("goPerMsg"):
			m := m
			go func() {
				for range rand.IntN(20) {
					runtime.Gosched()
				}
				s.serial.Lock()
				defer s.serial.Unlock()
				s.call(m)
			}()
		case s.b.bug("handlerPool"):
			s.b.pool <- struct{}{}
			s.call(m)
			<-s.b.pool
		case s.b.bug("serialFanout"):
			s.b.fan.Lock()
			s.call(m)
			s.b.fan.Unlock()
		case s.b.bug("replayHoldsLock") && m.Replayed:
			s.b.mu.Lock()
			s.call(m)
			s.b.mu.Unlock()
		case s.b.bug("lockInHandler"):
			s.b.mu.Lock()
			s.call(m)
			s.b.mu.Unlock()
		default:
			s.call(m)
		}
		s.b.mu.Lock()
		s.checkCaughtUp()
		m, p = s.next()
		s.b.mu.Unlock()
	}
	through = true
}

// call gives m to the handler; in a durable group it is settled then.
func (s *subscription) call(m *bus.Message) {
	err := errGoexit // unless the handler returns
	defer func() {
		switch {
		case s.group != nil:
			s.group.settle(s, m, err)
		case err != nil && s.inGroup() && s.b.bug("groupRedelivers"):
			s.b.mu.Lock()
			s.push(m)
			s.b.mu.Unlock()
		}
	}()
	err = s.handle(m)
}

var errGoexit = fmt.Errorf("%w: it has ended its goroutine", bus.ErrPanic)

// handle runs the handler and contains its panic.
func (s *subscription) handle(m *bus.Message) (err error) {
	returned := false
	if !s.b.bug("panicKill") {
		defer func() {
			p := recover()
			if p == nil && (returned || s.b.bug("goexitSilent")) {
				return
			}
			err = errGoexit
			if p != nil {
				err = fmt.Errorf("%w: %v", bus.ErrPanic, p)
			}
			if s.b.bug("panicSilent") {
				return
			}
			s.tell(bus.Problem{Err: err, Pattern: s.pattern, Subject: m.Subject, Cursor: m.Cursor, Stack: debug.Stack()})
			if s.b.bug("panicEnds") || s.b.bug("heldPanicEnds") && !m.Cursor.IsZero() {
				s.end(bus.ErrPanic)
			}
			if s.b.bug("panicStopsReplay") && m.Replayed {
				s.b.mu.Lock()
				defer s.b.mu.Unlock()
				s.goneAwaited = true
			}
		}()
	}
	if s.b.bug("reuseBuffer") {
		s.keep = append(s.keep[:0], m.Data...)
		copied := *m
		copied.Data = slices.Clip(s.keep)
		m = &copied
	}
	ctx := s.ctx
	if s.b.o.Propagator != nil && m.Header != nil {
		ctx = s.b.o.Propagator.Extract(ctx, m.Header)
	}
	err = s.handler(ctx, m)
	returned = true
	if err != nil && strings.Contains(err.Error(), "decode") && s.b.bug("swallowDecode") {
		return nil
	}
	if err != nil && !s.b.bug("errorSwallowed") {
		s.tell(bus.Problem{Err: err, Pattern: s.pattern, Subject: m.Subject, Cursor: m.Cursor})
		if s.b.bug("errorEnds") {
			s.end(err)
		}
	}
	return err
}

// tell gives a problem to the subscription's hook, or to that of the bus.
func (s *subscription) tell(p bus.Problem) {
	if s.o.ErrorHook != nil && s.b.bug("hookKill") {
		s.o.ErrorHook(p)
		return
	}
	if s.o.ErrorHook != nil && s.b.bug("ownHookHoldsLock") {
		s.b.mu.Lock()
		defer s.b.mu.Unlock()
	}
	if s.o.ErrorHook != nil && s.b.bug("ownHookEnds") {
		returned := false
		defer func() {
			if !returned {
				s.end(nil)
			}
		}()
		defer func() { returned = recover() != nil || returned }()
		s.o.ErrorHook(p)
		returned = true
		return
	}
	if s.o.ErrorHook != nil {
		tell(s.o.ErrorHook, p)
		if !s.b.bug("bothHooks") {
			return
		}
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.report(p)
}
