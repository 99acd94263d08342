package migrate

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// maxProblems is how many problems wait for a hook.
const maxProblems = 256

// droppedEvery is how often a hook is told of what is dropped while it goes on.
const droppedEvery = time.Second

// problems calls a hook on a goroutine of its own, which exists while there is something to tell.
type problems struct {
	hook bus.ErrorHook

	mu      sync.Mutex
	waiting []bus.Problem
	untold  uint64
	dropped uint64        // messages for which a queue had no room, since this was told last
	first   bus.Problem   // of these
	told    time.Time     // when that was
	now     bool          // tell it without waiting for more
	idle    chan struct{} // closed while no goroutine runs
}

func newProblems(hook bus.ErrorHook) *problems {
	if hook == nil {
		hook = logProblem
	}
	p := &problems{hook: hook, idle: make(chan struct{})}
	close(p.idle)
	return p
}

func logProblem(p bus.Problem) {
	slog.Error("migrate: problem", "error", p.Err, "pattern", p.Pattern, "subject", p.Subject, "cursor", p.Cursor.String())
}

func (p *problems) report(problem bus.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) >= maxProblems {
		p.untold++
		return
	}
	p.waiting = append(p.waiting, problem)
	p.run()
}

// full is told that a message isn't written to the new bus as there is no room for it. Many of them are one problem.
func (p *problems) full(subject string, cursor bus.Cursor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dropped++; p.dropped == 1 {
		p.first = bus.Problem{Subject: subject, Cursor: cursor}
	}
	if time.Since(p.told) >= droppedEvery {
		p.run()
	}
}

// caughtUp tells what has been dropped so far.
func (p *problems) caughtUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dropped > 0 {
		p.now = true
		p.run()
	}
}

// run starts the goroutine; mu is held.
func (p *problems) run() {
	select {
	case <-p.idle:
		p.idle = make(chan struct{})
		go p.tell()
	default:
	}
}

func (p *problems) tell() {
	finished := false
	defer func() {
		if !finished { // a hook has ended its goroutine
			go p.tell()
		}
	}()
	for {
		problem, ok := p.next()
		if !ok {
			finished = true
			return
		}
		p.call(problem)
	}
}

// next takes the next problem, or marks the goroutine as ended.
func (p *problems) next() (problem bus.Problem, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.waiting) > 0:
		problem = p.waiting[0]
		p.waiting = p.waiting[1:]
	case p.dropped > 0 && (p.now || time.Since(p.told) >= droppedEvery):
		problem = p.first
		problem.Err = fmt.Errorf("migrate: tee: the new bus is behind: not written to it from this subject on: %w",
			&bus.SlowError{Dropped: p.dropped})
		p.dropped, p.now, p.told = 0, false, time.Now()
	case p.untold > 0:
		problem.Err = fmt.Errorf("migrate: the error hook is too slow: %d problems were not told", p.untold)
		p.untold = 0
	default:
		close(p.idle)
		return problem, false
	}
	return problem, true
}

func (p *problems) call(problem bus.Problem) {
	defer func() {
		if r := recover(); r != nil {
			slog.Error("migrate: the error hook panicked", "panic", fmt.Sprint(r), "problem", problem.Err, "stack", string(debug.Stack()))
		}
	}()
	p.hook(problem)
}

// wait returns when everything reported so far has been told, or ctx is done.
func (p *problems) wait(ctx context.Context) {
	p.caughtUp()
	p.mu.Lock()
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
