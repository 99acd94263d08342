package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Finding is what Probe has found out about one ability.
type Finding struct {
	Ability Ability `json:"ability"`
	Has     bool    `json:"has"`
	Why     string  `json:"why"` // what was tried and seen
}

// Trial is what Probe has found out.
type Trial struct {
	Harness  Harness // with Claims, MaxPayload, Tick and Shared
	Findings []Finding
	Left     []string // streams of the trial that couldn't be removed, each with the reason; see Harness.Shared
}

// Probe finds out what a backend can do by trying, for those who didn't write its harness.
// To h's Claims it adds what it finds and what these need; MaxPayload and Tick are set where they are zero. It looks at
// nothing but what a bus does. An ability that is refused with bus.ErrUnsupported isn't
// claimed; one that half works is, and its checks say what is wrong. CrashSafe is claimed
// with Durable if h has a Child, and its checks decide. TotalOrder and OneServer are promises that no trial
// can show: claim them in h.
//
// It blocks for a fraction of a second and some fifteen ticks. The error is that of Open, or says
// why nothing can be found out: the bus is unavailable or forbids it, or ctx has ended.
func Probe(ctx context.Context, h Harness) (Trial, error) {
	insisted := h.Claims
	h.Claims = nil // what they need isn't known yet
	if err := h.fault(); err != nil {
		return Trial{Harness: h}, err
	}
	p := &probe{h: h.withDefaults(false)}
	p.h.Shared = true // until it is known: what was tried must not stay
	p.h.Claims = insisted
	res := p.h.run(ctx, Check{Name: "Probe", Rule: "what a bus can do can be tried", Run: p.run}, nil)
	t := Trial{Harness: h, Findings: p.findings, Left: res.Left}
	switch {
	case res.Status == NotRun:
		return t, fmt.Errorf("bustest: probe: %w", context.Cause(ctx))
	case p.err != nil:
		return t, fmt.Errorf("bustest: probe: %w", p.err)
	case !p.done:
		return t, fmt.Errorf("bustest: probe: %s", res.Reason)
	}
	t.Harness.Shared = h.Shared || p.h.Shared
	if h.MaxPayload == 0 {
		t.Harness.MaxPayload = p.limit
	}
	if h.Tick == 0 {
		t.Harness.Tick = p.tick
	}
	claim := func(a Ability) {
		if !t.Harness.claims(a) {
			t.Harness.Claims = append(t.Harness.Claims, a)
		}
	}
	for _, a := range insisted {
		claim(a)
	}
	for _, f := range p.findings {
		if f.Has && slices.Contains(Abilities(), f.Ability) {
			claim(f.Ability)
		}
	}
	for i := 0; i < len(t.Harness.Claims); i++ { // it grows meanwhile
		if needs, ok := implied[t.Harness.Claims[i]]; ok {
			claim(needs)
		}
	}
	return t, t.Harness.fault()
}

const (
	probeLimit = 8 << 20         // how much a message is made to be in search of a limit
	probeWait  = 3 * time.Second // for a message, which may never come
)

// probe is a check that finds out instead of judging.
type probe struct {
	h        Harness
	findings []Finding
	limit    int
	tick     time.Duration
	err      error // that nothing can be found out
	done     bool
}

func (p *probe) run(c *C) {
	e := c.env()
	b := p.open(c, e)
	p.asked(c, Headers, "a header", b.Publish(c.ctx, c.subject("a"), []byte("probe"), bus.WithHeader("Probe", "yes")))
	held := bus.StreamConfig{Name: c.stream("PROBE"), Subjects: []string{c.subject("held.>")}}
	streams := p.asked(c, Streams, "EnsureStreams", b.EnsureStreams(c.ctx, held))
	p.findShared(c)
	p.findTick(c, b)
	p.findLimit(c, b)
	p.findGroups(c, b, streams)
	p.findLocking(c, e, b)
	durable := streams && p.findDurable(c, b, e)
	if !durable {
		p.found(DurableIDs, false, "nothing is kept without Durable")
	}
	switch {
	case !streams:
		p.found(Durable, false, "nothing is kept without Streams")
		p.found(CrashSafe, false, "nothing is kept without Streams")
	case !durable:
		p.found(CrashSafe, false, "nothing is kept without Durable")
	case p.h.Child == nil:
		p.found(CrashSafe, false, "the harness has no Child to be killed")
	default:
		p.found(CrashSafe, true, "it keeps what it holds, so that shouldn't end with a kill")
	}
	if !p.h.claims(Faults) {
		p.found(Faults, false, "the harness has no server to break")
	}
	p.found(OneServer, p.h.claims(OneServer), "a promise that no trial can show: it is for the harness to claim")
	p.found(TotalOrder, p.h.claims(TotalOrder), "a promise that no trial can show: it is for the harness to claim")
	p.done = true
}

func (p *probe) found(a Ability, has bool, format string, args ...any) {
	p.findings = append(p.findings, Finding{a, has, fmt.Sprintf(format, args...)})
}

func (p *probe) stop(c *C, err error) {
	p.err = err
	c.Fatalf("%v", err)
}

func (p *probe) open(c *C, e *Env) bus.Bus {
	b, err := c.h.Open(e)
	if err == nil && b == nil {
		err = errors.New("neither a bus nor an error from Open")
	}
	if err != nil {
		p.stop(c, err)
	}
	c.Cleanup(func() { p.close(c, b) })
	return b
}

// close ends a bus that may be broken: the checks are there to say so.
func (p *probe) close(c *C, b bus.Bus) {
	ctx, cancel := context.WithTimeout(context.Background(), c.h.Patience)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		c.Logf("Close: %v", err)
	}
}

// asked notes the answer to a call that an ability is needed for.
func (p *probe) asked(c *C, a Ability, call string, err error) bool {
	switch {
	case errors.Is(err, bus.ErrUnavailable), errors.Is(err, bus.ErrForbidden):
		p.stop(c, err)
	case errors.Is(err, bus.ErrUnsupported):
		p.found(a, false, "%s is refused with ErrUnsupported", call)
		return false
	case err != nil:
		p.found(a, true, "%s isn't refused, but fails: %v", call, err)
	default:
		p.found(a, true, "%s is accepted", call)
	}
	return true
}

// findShared looks whether a bus in another directory has the same streams.
func (p *probe) findShared(c *C) {
	b, err := c.h.Open(c.env())
	if errors.Is(err, bus.ErrLocked) {
		p.stop(c, fmt.Errorf("the buses of a check need a store each, below Env.Dir: %w", err))
	}
	if err != nil {
		c.Logf("Open of another bus: %v", err) // the checks will say it again
		return
	}
	err = b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("OTHER"), Subjects: []string{c.subject("held.>")}})
	p.h.Shared = errors.Is(err, bus.ErrStreamOverlap)
	p.close(c, b)
}

// findTick tells a tick, at which what waits arrives together, from a long way, on which
// messages keep their distance.
func (p *probe) findTick(c *C, b bus.Bus) {
	arrivals := make(chan time.Time, 64)
	_, err := b.Subscribe(c.ctx, c.subject("tick"), func(context.Context, *bus.Message) error {
		select {
		case arrivals <- time.Now():
		default: // it delivers more than was published
		}
		return nil
	})
	silent := func() { p.found(Ticking, false, "no message arrives within %v", probeWait) }
	if err != nil {
		p.found(Ticking, false, "Subscribe fails: %v", err)
		return
	}
	publish := func() bool { return b.Publish(c.ctx, c.subject("tick"), []byte("probe")) == nil }
	arrival := func() (time.Time, bool) {
		select {
		case at := <-arrivals:
			return at, true
		case <-time.After(probeWait):
		case <-c.ctx.Done():
		}
		return time.Time{}, false
	}
	// Each begins where the one before was delivered, so at a tick.
	var waits []time.Duration
	last := time.Now()
	for range 5 {
		if !publish() {
			silent()
			return
		}
		at, ok := arrival()
		if !ok {
			silent()
			return
		}
		waits, last = append(waits, at.Sub(last)), at
	}
	slices.Sort(waits[1:]) // the first one began anywhere
	wait := waits[2]       // the second shortest: a busy machine makes them longer
	if wait < 2*time.Millisecond {
		p.found(Ticking, false, "a message arrives after %v", wait.Round(time.Microsecond))
		return
	}
	apart := 0
	const rounds = 5 // a busy machine tears apart what arrived together
	for range rounds {
		first := publish()
		timer := time.NewTimer(wait / 2)
		<-timer.C
		second := publish()
		a, okA := arrival()
		b, okB := arrival()
		if !first || !second || !okA || !okB {
			silent()
			return
		}
		if b.Sub(a) > wait/4 {
			apart++
		}
	}
	if apart > rounds/2 {
		p.found(Ticking, false, "a message arrives after %v, but not together with a later one", wait.Round(time.Microsecond))
		return
	}
	p.tick = wait.Round(time.Millisecond)
	p.found(Ticking, true, "what was published up to %v apart arrives together", p.tick)
}

// findLimit searches for the first size that is refused.
func (p *probe) findLimit(c *C, b bus.Bus) {
	data := make([]byte, probeLimit)
	fits := func(n int) (bool, error) {
		err := b.Publish(c.ctx, c.subject("size"), data[:n])
		if errors.Is(err, bus.ErrTooLarge) {
			return false, nil
		}
		return err == nil, err
	}
	low, high := 0, 64<<10
	for {
		ok, err := fits(high)
		if err != nil {
			p.found(PayloadLimit, false, "Publish of %d bytes fails: %v", high, err)
			return
		}
		if !ok {
			break
		}
		if low = high; high == probeLimit {
			p.found(PayloadLimit, false, "%d bytes are accepted", high)
			return
		}
		high *= 2
	}
	for high-low > 1 {
		n := low + (high-low)/2
		ok, err := fits(n)
		switch {
		case err != nil:
			p.found(PayloadLimit, false, "Publish of %d bytes fails: %v", n, err)
			return
		case ok:
			low = n
		default:
			high = n
		}
	}
	p.limit = low
	p.found(PayloadLimit, low > 0, "%d bytes are accepted, one more is ErrTooLarge", low)
}

func (p *probe) findGroups(c *C, b bus.Bus, streams bool) {
	ignore := func(context.Context, *bus.Message) error { return nil }
	group := strings.ToLower(c.prefix)
	ask := func(a Ability, call, pattern string, opts ...bus.SubscribeOption) {
		sub, err := b.Subscribe(c.ctx, pattern, ignore, opts...)
		p.asked(c, a, call, err)
		if err == nil {
			if err := sub.Unsubscribe(c.ctx); err != nil {
				c.Logf("Unsubscribe: %v", err)
			}
		}
	}
	ask(Groups, "a Group", c.subject("group"), bus.Group(group))
	if !streams {
		p.found(DurableGroups, false, "nothing is kept without Streams")
		return
	}
	ask(DurableGroups, "a DurableGroup", c.subject("held.>"), bus.DurableGroup(group), bus.Attempts(0))
	if r, ok := b.(bus.Remover); ok {
		if err := r.RemoveGroup(c.ctx, group); err != nil {
			c.Logf("RemoveGroup: %v", err) // it goes with its stream, too
		}
	}
}

// findLocking opens a store that is open. If that works, a message may cross.
func (p *probe) findLocking(c *C, e *Env, b bus.Bus) {
	second, err := c.h.Open(e)
	if err != nil {
		p.found(Distributed, false, "a second Open fails while the first bus is open")
	}
	switch {
	case err == nil:
		p.found(Locking, false, "a second Open works while the first bus is open")
		p.findDistributed(c, b, second)
		p.close(c, second)
	case errors.Is(err, bus.ErrLocked):
		p.found(Locking, true, "a second Open is ErrLocked while the first bus is open")
	default:
		p.found(Locking, false, "a second Open fails, but not with ErrLocked: %v", err)
	}
}

func (p *probe) findDistributed(c *C, b, second bus.Bus) {
	crossed := make(chan struct{}, 1)
	sub, err := second.Subscribe(c.ctx, c.subject("crossing"), func(context.Context, *bus.Message) error {
		select {
		case crossed <- struct{}{}:
		default:
		}
		return nil
	})
	if err != nil {
		p.found(Distributed, true, "a second Open works, but Subscribe fails: %v", err)
		return
	}
	defer func() {
		if err := sub.Unsubscribe(c.ctx); err != nil {
			c.Logf("Unsubscribe: %v", err)
		}
	}()
	pause := time.NewTicker(10 * time.Millisecond) // interest takes a while to spread
	defer pause.Stop()
	end := time.NewTimer(c.h.Settle + 2*p.tick)
	defer end.Stop()
	for {
		if err := b.Publish(c.ctx, c.subject("crossing"), nil); err != nil {
			c.Logf("Publish: %v", err)
		}
		select {
		case <-crossed:
			p.found(Distributed, true, "a message crosses to a second bus on the same store")
			return
		case <-pause.C:
		case <-end.C:
			p.found(Distributed, false, "no message crosses to a second bus")
			return
		case <-c.ctx.Done():
			return
		}
	}
}

// findDurable closes the bus and looks whether the next one has its stream.
func (p *probe) findDurable(c *C, b bus.Bus, e *Env) bool {
	publish := func(b bus.Bus, text string, opts ...bus.PublishOption) (duplicate bool) {
		var r bus.Receipt
		if err := b.Publish(c.ctx, c.subject("ids"), []byte(text), append(opts, bus.WithReceipt(&r))...); err != nil {
			c.Logf("Publish: %v", err)
		}
		return r.Duplicate
	}
	ids := bus.StreamConfig{Name: c.stream("IDS"), Subjects: []string{c.subject("ids")}, MaxMsgs: 1, Duplicates: time.Hour}
	if err := b.EnsureStreams(c.ctx, ids); err != nil {
		c.Logf("EnsureStreams: %v", err)
	}
	publish(b, "discarded", bus.MessageID("id"))
	publish(b, "left")
	p.close(c, b)
	again, err := c.h.Open(e)
	if err != nil {
		p.found(Durable, true, "a second Open after Close fails: %v", err)
		p.found(DurableIDs, false, "a second Open after Close fails")
		return true
	}
	defer p.close(c, again)
	_, err = again.Subscribe(c.ctx, c.subject("held.>"), func(context.Context, *bus.Message) error { return nil }, bus.All())
	switch {
	case errors.Is(err, bus.ErrNoStream):
		p.found(Durable, false, "a stream is gone after Close and Open")
		return false
	case err != nil:
		p.found(Durable, true, "after Close and Open, Subscribe fails: %v", err)
	default:
		p.found(Durable, true, "a stream is there after Close and Open")
	}
	if publish(again, "discarded", bus.MessageID("id")) {
		p.found(DurableIDs, true, "the ID of a message that limits have discarded is known after Close and Open")
	} else {
		p.found(DurableIDs, false, "the ID of a message that limits have discarded is forgotten after Close and Open")
	}
	return true
}
