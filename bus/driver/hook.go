package driver

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// maxProblems is how many problems wait for the hook of a bus.
const maxProblems = 256

// hookQueue calls the hook of a bus from a goroutine of its own, which exists only while
// there is something to tell.
type hookQueue struct {
	hook bus.ErrorHook
	log  *slog.Logger

	mu      sync.Mutex
	waiting []bus.Problem
	lost    int
	idle    chan struct{} // closed while no goroutine runs
}

func newHookQueue(hook bus.ErrorHook, log *slog.Logger) *hookQueue {
	q := &hookQueue{hook: hook, log: log, idle: make(chan struct{})}
	close(q.idle)
	return q
}

func (q *hookQueue) report(p bus.Problem) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= maxProblems {
		q.lost++
		return
	}
	q.waiting = append(q.waiting, p)
	select {
	case <-q.idle:
		q.idle = make(chan struct{})
		go q.run()
	default:
	}
}

func (q *hookQueue) run() {
	finished := false
	defer func() {
		if !finished { // a hook ended its goroutine
			go q.run()
		}
	}()
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 && q.lost == 0 {
			finished = true
			close(q.idle)
			q.mu.Unlock()
			return
		}
		if len(q.waiting) > 0 {
			p := q.waiting[0]
			q.waiting = q.waiting[1:]
			q.mu.Unlock()
			if q.hook != nil {
				callHook(q.hook, p, q.log)
			} else {
				logProblem(q.log, p)
			}
			continue
		}
		lost := q.lost
		q.lost = 0
		q.mu.Unlock()
		if lost > 0 {
			q.log.Error("bus: the error hook is too slow: problems were not told", "count", lost)
		}
	}
}

// wait returns when everything reported so far has been told, or ctx is done.
func (q *hookQueue) wait(ctx context.Context) {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// callHook calls a hook and survives its panic.
func callHook(hook bus.ErrorHook, p bus.Problem, log *slog.Logger) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("bus: the error hook panicked", "panic", fmt.Sprint(r), "problem", p.Err, "stack", string(debug.Stack()))
		}
	}()
	hook(p)
}

func logProblem(log *slog.Logger, p bus.Problem) {
	args := []any{"error", p.Err}
	if p.Pattern != "" {
		args = append(args, "pattern", p.Pattern)
	}
	if p.Subject != "" {
		args = append(args, "subject", p.Subject)
	}
	if !p.Cursor.IsZero() {
		args = append(args, "cursor", p.Cursor.String())
	}
	if p.Stack != nil {
		args = append(args, "stack", string(p.Stack))
	}
	log.Error("bus: problem", args...)
}
