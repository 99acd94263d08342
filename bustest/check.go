package bustest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Check is one rule of the contract and the code that tries to break it.
type Check struct {
	Name   string    `json:"name"`             // stable, usable with go test -run
	Rule   string    `json:"rule"`             // the sentence that a failure violates
	Needs  []Ability `json:"needs,omitempty"`  // the check runs when all of these are claimed
	Lacks  Ability   `json:"lacks,omitempty"`  // the check runs only when this is not claimed: it must fail clearly
	Origin string    `json:"origin,omitempty"` // where the rule was broken before: a bug report, a suite that let it through; empty: the contract alone

	// Run tries to break the rule, on buses that C opens.
	Run func(c *C) `json:"-"`

	// process: the check runs this program again, which a bubble can't, and Examine only with Harness.Child.
	process bool

	// alone: the check measures the process, which nothing else may use meanwhile.
	alone bool

	// rounds is how often the check repeats what is left to chance, unless Harness.Rounds says; 0: it doesn't.
	rounds int
}

// Checks returns the suite's table, in the order in which it runs.
func Checks() []Check {
	return slices.Concat(
		subjectChecks, modelChecks, deliveryChecks, publishChecks, asyncChecks, orderChecks, loadChecks, isolationChecks, handlerChecks,
		hookChecks, endingChecks, callChecks, closeChecks, streamChecks, ensureChecks, appendChecks, changeChecks, storeChecks,
		replayChecks, historyChecks, handoverChecks, gapChecks,
		groupChecks, durableGroupChecks, distributedChecks, durableChecks, damageChecks, crashChecks, groupFaultChecks, faultChecks, outcomeChecks,
		errorChecks, claimChecks,
	)
}

// C is what a check is given in place of a *testing.T, so that the suite runs without
// one, too. Its methods are safe for concurrent use, except Rand's result.
type C struct {
	h      *Harness
	check  Check
	ctx    context.Context
	cancel context.CancelFunc
	prefix string
	rand   *rand.Rand
	child  func(env ...string) *exec.Cmd // runs this check again in a process of its own; nil if that can't be

	mu       sync.Mutex
	failed   bool
	faults   int      // that judges have found
	lacks    string   // why the check doesn't apply after all
	parts    []string // what it can't check here, each with the reason
	log      []string
	cleanups []func()
	names    []string // of its streams
	left     []string // of these, what couldn't be removed
}

// maxLog bounds what a check can say: a bus that fails ten thousand times says it often.
const maxLog = 200

// Context ends when the check ends, before its cleanups.
func (c *C) Context() context.Context { return c.ctx }

// Rand is the check's source of random choices; a failure prints its seed. It isn't safe
// for concurrent use.
func (c *C) Rand() *rand.Rand { return c.rand }

// Logf says something that is shown if the check fails.
func (c *C) Logf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.log) < maxLog:
		c.log = append(c.log, fmt.Sprintf(format, args...))
	case len(c.log) == maxLog:
		c.log = append(c.log, "(the rest is left out)")
	}
}

// Errorf fails the check, which goes on.
func (c *C) Errorf(format string, args ...any) {
	c.Logf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = true
}

// Fatalf fails the check and ends the calling goroutine, with its deferred calls.
func (c *C) Fatalf(format string, args ...any) {
	c.Errorf(format, args...)
	runtime.Goexit()
}

// NotClaimed ends the check, which is reported as not claimed: the bus lacks an optional
// interface. It is called on the check's own goroutine, first.
func (c *C) NotClaimed(format string, args ...any) {
	c.mu.Lock()
	c.lacks = fmt.Sprintf(format, args...)
	c.mu.Unlock()
	runtime.Goexit()
}

// NotChecked says which part of the rule the check can't try here, and why. It goes on, and its result has it in
// NotChecked.
func (c *C) NotChecked(format string, args ...any) {
	part := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.parts, part) {
		c.parts = append(c.parts, part)
	}
}

// Failed reports whether Errorf or Fatalf was called.
func (c *C) Failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// Cleanup has f called at the end of the check; the last one is called first.
func (c *C) Cleanup(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleanups = append(c.cleanups, f)
}

// TempDir returns an empty directory that is removed at the end of the check.
func (c *C) TempDir() string {
	dir, err := os.MkdirTemp(c.h.TempDir, "bustest-")
	if err != nil {
		c.Fatalf("no directory for the check: %v", err)
	}
	c.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			c.Logf("the check's directory stays: %v", err)
		}
	})
	return dir
}

// Bus opens a bus on a new Env. It is closed at the end of the check, where an error
// fails it.
func (c *C) Bus() bus.Bus { return c.open(c.env()) }

// env is a new place to open a bus in.
func (c *C) env() *Env {
	problems := &history{name: "the bus"}
	return &Env{
		Dir:      c.TempDir(),
		Options:  []bus.OpenOption{bus.OnError(problems.hook()), bus.WithLogger(slog.New(slog.NewTextHandler(logLines{c}, nil)))},
		ctx:      c.ctx,
		problems: problems,
	}
}

func (c *C) open(e *Env) bus.Bus {
	b, err := c.h.Open(e)
	if err != nil {
		c.Fatalf("Open: %v", err)
	}
	if b == nil {
		c.Fatalf("Open returned neither a bus nor an error")
	}
	c.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.h.Patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			c.Errorf("Close at the end of the check: %v", err)
		}
	})
	return b
}

// logLines takes the log of a bus into that of its check.
type logLines struct{ c *C }

func (l logLines) Write(p []byte) (int, error) {
	l.c.Logf("log: %s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// subject puts s below a token of this check's own, since a backend may share its
// subjects with other buses.
func (c *C) subject(s string) string { return c.prefix + "." + s }

// stream names a stream of this check's own, which is removed at its end where it would stay.
func (c *C) stream(s string) string {
	name := strings.ToUpper(c.prefix) + "-" + s
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.names, name) {
		c.names = append(c.names, name)
	}
	return name
}

// removeStreams leaves nothing on a server that isn't the check's own.
func (c *C) removeStreams() {
	if !c.h.Shared {
		return
	}
	c.mu.Lock()
	names := c.names
	c.mu.Unlock()
	// The check's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), c.h.Patience)
	defer cancel()
	e := c.env()
	e.ctx = ctx
	left := func(name string, err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.left = append(c.left, fmt.Sprintf("%s: %v", name, err))
	}
	b, err := c.h.Open(e)
	if err != nil {
		for _, name := range names {
			left(name, err)
		}
		return
	}
	defer func() {
		if err := b.Close(ctx); err != nil {
			c.Logf("Close after removing the streams: %v", err)
		}
	}()
	// A list has those of the check's children, too.
	if l, ok := b.(bus.StreamLister); ok {
		if infos, err := l.Streams(ctx); err == nil {
			names = nil
			for _, info := range infos {
				if strings.HasPrefix(info.Config.Name, c.stream("")) {
					names = append(names, info.Config.Name)
				}
			}
		}
	}
	r, ok := b.(bus.Remover)
	for _, name := range names {
		if !ok {
			left(name, errNoRemover)
		} else if err := r.RemoveStream(ctx, name); err != nil && !errors.Is(err, bus.ErrNoStream) {
			left(name, err)
		}
	}
}

var errNoRemover = errors.New("the bus is no bus.Remover")

// settle is the time in which something that must not come has its chance to come.
func (c *C) settle() { c.wait(c.h.Settle) }

// wait lets time pass.
func (c *C) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
	}
}

// receive waits for ch, which stands for what.
func receive[T any](c *C, ch <-chan T, what string) T {
	timer := time.NewTimer(c.h.Patience)
	defer timer.Stop()
	var v T
	select {
	case v = <-ch:
	case <-timer.C:
		c.Fatalf("not within %v: %s", c.h.Patience, what)
	case <-c.ctx.Done():
		c.Fatalf("the check has ended before: %s", what)
	}
	return v
}

// until calls ok every few milliseconds until it is true, and less often after a while, since it may be work.
func (c *C) until(what string, patience time.Duration, ok func(try int) bool) {
	end := time.NewTimer(patience)
	defer end.Stop()
	for try := 1; !ok(try); try++ {
		pause := time.NewTimer(min(time.Duration(try)*time.Millisecond, 100*time.Millisecond))
		select {
		case <-pause.C:
		case <-end.C:
			c.Fatalf("not within %v: %s", patience, what)
		case <-c.ctx.Done():
			c.Fatalf("the check has ended before: %s", what)
		}
	}
}

// gate returns a channel on which handlers wait and what opens it, which the end of the
// check does, too, so that no handler is left behind.
func (c *C) gate() (gate <-chan struct{}, open func()) {
	ch := make(chan struct{})
	open = sync.OnceFunc(func() { close(ch) })
	c.Cleanup(open)
	return ch, open
}

// start runs f on a goroutine and returns what closes when f has returned. A panic in f
// is the check's failure.
func (c *C) start(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.contain()
		f()
	}()
	return done
}

// together runs f(0) to f(n-1) at the same time and waits for all.
func (c *C) together(n int, what string, f func(i int)) {
	var dones []<-chan struct{}
	for i := range n {
		dones = append(dones, c.start(func() { f(i) }))
	}
	for _, done := range dones {
		receive(c, done, what)
	}
}

// contain makes a panic of the calling goroutine the check's failure.
func (c *C) contain() {
	if p := recover(); p != nil {
		stack := make([]byte, 16<<10)
		c.Errorf("panic: %v\n%s", p, stack[:runtime.Stack(stack, false)])
	}
}

// rounds is how often the check repeats what is left to chance.
func (c *C) rounds() int {
	if c.h.Rounds > 0 {
		return c.h.Rounds
	}
	return c.check.rounds
}

// publish publishes text and fails the check if that fails.
func (c *C) publish(b bus.Bus, subject, text string, opts ...bus.PublishOption) {
	if err := b.Publish(c.ctx, subject, []byte(text), opts...); err != nil {
		c.Fatalf("Publish on %s: %v", subject, err)
	}
}

// store publishes text on a captured subject and returns where it stands.
func (c *C) store(b bus.Bus, subject, text string) bus.Cursor {
	var r bus.Receipt
	c.publish(b, subject, text, bus.WithReceipt(&r))
	return r.Cursor
}

// subscribe subscribes with a history that records everything.
func (c *C) subscribe(b bus.Bus, pattern string, opts ...bus.SubscribeOption) *history {
	h := &history{name: pattern}
	h.sub = c.subscribeFunc(b, pattern, h.handler(), append([]bus.SubscribeOption{bus.OnError(h.hook())}, opts...)...)
	return h
}

func (c *C) subscribeFunc(b bus.Bus, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) bus.Subscription {
	sub, err := b.Subscribe(c.ctx, pattern, handler, opts...)
	if err != nil {
		c.Fatalf("Subscribe to %s: %v", pattern, err)
	}
	return sub
}

func (c *C) unsubscribe(sub bus.Subscription) {
	if err := sub.Unsubscribe(c.ctx); err != nil {
		c.Errorf("Unsubscribe: %v", err)
	}
}

func (c *C) close(b bus.Bus) {
	if err := b.Close(c.ctx); err != nil {
		c.Fatalf("Close: %v", err)
	}
}

// ensure creates the streams that capture c's subjects.
func (c *C) ensure(b bus.Bus, streams ...bus.StreamConfig) {
	if err := b.EnsureStreams(c.ctx, streams...); err != nil {
		c.Fatalf("EnsureStreams: %v", err)
	}
}

// wide keeps a burst on uncaptured subjects from being dropped.
var wide = bus.Buffer(1<<16, 64<<20)
