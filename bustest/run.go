package bustest

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Run runs every check as a subtest of t. A check that isn't claimed is skipped with its reason. With Harness.Parallel
// it returns before they have ended: what they need must last until t's cleanups.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if err := h.fault(); err != nil {
		t.Fatal(err)
	}
	h = h.withDefaults(h.Bubble)
	for _, check := range h.checks() {
		t.Run(check.Name, func(t *testing.T) {
			if reason := h.unclaimed(check); reason != "" {
				t.Skip(reason)
			}
			if h.Parallel && !check.alone {
				t.Parallel()
			}
			run := func(t *testing.T, h Harness) {
				res := h.run(context.Background(), check, again(t.Name()))
				if len(res.Left) > 0 {
					t.Logf("streams that stay: %s", strings.Join(res.Left, "; "))
				}
				for _, part := range res.NotChecked {
					t.Logf("not checked: %s", part)
				}
				switch res.Status {
				case Failed:
					t.Errorf("%s\n%s", check.Rule, res.Reason)
				case NotClaimed:
					t.Skip(res.Reason)
				}
			}
			if !h.Bubble || check.process {
				h := h
				if h.Bubble {
					h.Bubble = false
					h.Settle = min(h.Settle, defaultSettle)
				}
				run(t, h)
				return
			}
			// A goroutine that waits for a mutex stops the bubble's clock, and so the
			// watchdog in it. This one runs on the real clock, and a busy machine isn't a hang.
			watchdog := time.AfterFunc(6*h.Patience, func() {
				panic(fmt.Sprintf("bustest: %s hangs in its bubble\n%s", check.Name, allStacks()))
			})
			defer watchdog.Stop()
			synctest.Test(t, func(t *testing.T) { run(t, h) })
		})
	}
}

// Examine runs every check one after the other, without a testing.T, and reports on
// each. When ctx ends, the check that runs is ended, and it and the rest are reported as
// not run. Checks that need a process of their own are reported as not claimed if the
// harness has no Child.
func Examine(ctx context.Context, h Harness) Report {
	fault := h.fault()
	h = h.withDefaults(false)
	report := Report{Seed: h.Seed}
	for _, a := range everyAbility() {
		if h.claims(a) {
			report.Claims = append(report.Claims, a)
		}
	}
	for _, check := range h.checks() {
		res := Result{Check: check, Status: NotClaimed, Reason: h.unclaimed(check)}
		switch {
		case fault != nil:
			res.Status, res.Reason = Failed, fault.Error()
		case res.Reason != "":
		case check.process && h.Child == nil:
			res.Reason = "the harness has no Child, which starts the process that it needs"
		case ctx.Err() != nil:
			res.Status, res.Reason = NotRun, context.Cause(ctx).Error()
		default:
			if h.Before != nil {
				h.Before(check)
			}
			res = h.run(ctx, check, h.again(check))
		}
		if h.After != nil {
			h.After(res)
		}
		report.Results = append(report.Results, res)
	}
	return report
}

// again returns how to run a check in a new process, or nil.
func (h *Harness) again(check Check) func(env ...string) *exec.Cmd {
	if h.Child == nil {
		return nil
	}
	return func(env ...string) *exec.Cmd {
		cmd := h.Child(check.Name)
		cmd.Env = append(cmd.Environ(), env...)
		return cmd
	}
}

// checkLabel marks the goroutines of a check, which those they start inherit.
const checkLabel = "bustest"

var runs atomic.Uint64 // makes labels unique in the process

// run runs one check on a goroutine of its own, since Fatalf ends it.
func (h *Harness) run(ctx context.Context, check Check, child func(...string) *exec.Cmd) Result {
	began := time.Now()
	own, cancel := context.WithCancel(context.Background())
	defer cancel()
	name := fnv.New64a()
	name.Write([]byte(check.Name)) // never fails
	c := &C{
		h: h, check: check, ctx: own, cancel: cancel, child: child,
		prefix: fmt.Sprintf("t%x", newSeed()),
		rand:   rand.New(rand.NewPCG(h.Seed, name.Sum64())),
	}
	c.Cleanup(c.removeStreams) // the last of all, when the check's buses are closed
	ended, hangs, cleaned := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(cleaned)
		c.cleanUp(ended, hangs)
	}()
	go labelled(fmt.Sprintf("%s-%d", check.Name, runs.Add(1)), func() {
		defer close(ended)
		defer c.contain()
		check.Run(c)
	})

	// Every wait inside a check is bounded by Patience, so this is for a call that doesn't
	// return at all.
	watchdog := time.NewTimer((2*h.Patience + 20*h.Settle) * time.Duration(max(1, c.rounds())))
	defer watchdog.Stop()
	interrupted := false
	select {
	case <-cleaned:
	case <-ctx.Done():
		interrupted = !c.Failed() // what it says from now on is due to this
		cancel()
		watchdog.Reset(h.Patience)
		select {
		case <-cleaned:
		case <-watchdog.C:
			close(hangs)
		}
	case <-watchdog.C:
		c.Errorf("the check hangs. All goroutines:\n%s", allStacks())
		close(hangs) // frees what waits in the check; a bus that hangs stays behind
		watchdog.Reset(h.Patience)
		select {
		case <-cleaned:
		case <-watchdog.C:
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	res := Result{Check: check, Status: Passed, Duration: time.Since(began), NotChecked: c.parts, Left: c.left}
	switch {
	case interrupted:
		res.Status, res.Reason = NotRun, context.Cause(ctx).Error()
	case c.failed:
		res.Status = Failed
		res.Reason = strings.Join(c.log, "\n") + fmt.Sprintf("\n(seed %d)", h.Seed)
	case c.lacks != "":
		res.Status, res.Reason = NotClaimed, c.lacks
	}
	return res
}

// cleanUp calls the cleanups, the last first, when the check has ended.
func (c *C) cleanUp(ended, hangs <-chan struct{}) {
	select {
	case <-ended:
	case <-hangs:
	}
	c.cancel()
	for {
		c.mu.Lock()
		n := len(c.cleanups)
		if n == 0 {
			c.mu.Unlock()
			return
		}
		f := c.cleanups[n-1]
		c.cleanups = c.cleanups[:n-1]
		c.mu.Unlock()
		func() {
			defer c.contain()
			f()
		}()
	}
}

// again returns how to run the test of that name in a new process.
func again(test string) func(env ...string) *exec.Cmd {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return func(env ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.count=1")
		cmd.Env = append(os.Environ(), env...)
		return cmd
	}
}

// labelled calls f with a label on the goroutine and all that it starts.
func labelled(label string, f func()) {
	pprof.Do(context.Background(), pprof.Labels(checkLabel, label), func(context.Context) { f() })
}

// running returns the stacks of the goroutines with a label.
func running(label string) []string {
	var b strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return []string{err.Error()}
	}
	var stacks []string
	for _, stack := range strings.Split(b.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", checkLabel, label)) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

func allStacks() string {
	stacks := make([]byte, 256<<10)
	return string(stacks[:runtime.Stack(stacks, true)])
}

// newSeed is never zero, which stands for "a new one".
func newSeed() uint64 { return rand.Uint64()>>16 | 1 }
