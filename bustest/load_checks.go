package bustest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe" // to look at where a string is, not into it
	"weak"

	"github.com/jitney-go/jitney/bus"
)

var loadChecks = []Check{
	{
		Name: "Burst", Run: burst,
		Rule:   "a burst that Buffer has room for loses nothing, however large",
		Origin: "of a burst of 400,000 messages on core NATS a stream dropped 132,111, with a line in the log",
	},
	{
		Name: "DefaultBuffer", Run: defaultBuffer,
		Rule:   "without Buffer 1,024 messages or 1 MiB wait for a blocked handler, and no more",
		Origin: "gazebosim/gz-transport#926, redisson/redisson#5117: the queue of a slow subscriber has no bound",
	},
	{
		Name: "Storm", Run: storm,
		Rule:   "all methods from many goroutines at once do no harm",
		Origin: "micromdm/micromdm#97, r3labs/sse#48, gofr-dev/gofr#4054: races on maps",
	},
	{
		Name: "ManySubscriptions", Run: manySubscriptions, alone: true,
		Rule:   "ten thousand subscriptions on as many captured subjects, and a thousand on others, work in bounded time and memory",
		Origin: "a JetStream consumer for each costs 59 KiB and 7 goroutines",
	},
	{
		Name: "Residue", Run: residue,
		Rule:   "a subscription that has ended and a message that was delivered leave nothing behind",
		Origin: "nats.go leaves an ordered consumer for five minutes; watermill#391, #396; nats-server#7718",
	},
	{
		Name: "SharedFeed", Run: sharedFeed, Needs: []Ability{Streams},
		Rule:   "what a backend holds elsewhere for subscriptions to a stream, such as consumers at a server, doesn't grow with their number or patterns",
		Origin: "a JetStream consumer for each costs 59 KiB and 7 goroutines",
	},
}

func burst(c *C) {
	b := c.Bus()
	const n = 20_000 // above what a queue is usually bounded to
	gate, open := c.gate()
	var next atomic.Int64
	wrong := make(chan string, 1)
	all := make(chan struct{})
	sub := c.subscribeFunc(b, c.subject("a"), func(_ context.Context, m *bus.Message) error {
		<-gate
		i := next.Add(1)
		if string(m.Data) != strconv.FormatInt(i, 10) {
			select {
			case wrong <- fmt.Sprintf("message %d of %d is %.60q", i, n, m.Data):
			default:
			}
		}
		if i == n {
			close(all)
		}
		return nil
	}, bus.Buffer(2*n, 64<<20))
	for i := range n {
		c.publish(b, c.subject("a"), strconv.Itoa(i+1))
	}
	open()
	select {
	case <-all:
	case said := <-wrong:
		c.Fatalf("%s, and %d count as dropped", said, sub.Dropped())
	case <-time.After(c.h.Patience):
		c.Errorf("%d of %d messages were delivered within %v", next.Load(), n, c.h.Patience)
	}
	if dropped := sub.Dropped(); dropped > 0 {
		c.Errorf("%d messages count as dropped", dropped)
	}
}

func defaultBuffer(c *C) {
	b := c.Bus()
	const room = 1024
	h, open := c.block(b, "free")
	for _, text := range sequence("p", 1, room) {
		c.publish(b, c.subject("free.a"), text)
	}
	watch := c.subscribe(b, c.subject("free.end"))
	c.publish(b, c.subject("free.end"), "end")
	c.awaitText(watch, "end")
	if n := h.sub.Dropped(); n > 0 {
		c.Errorf("%d of %d messages that wait for a handler were dropped", n, room)
	}
	// What waits for a tick is bounded more widely.
	if c.h.Tick == 0 {
		for _, text := range sequence("q", 1, 2*room) {
			c.publish(b, c.subject("free.a"), text)
		}
		c.awaitDropped(h, 2*room-1)
	}
	open()
	if c.h.Tick > 0 {
		c.NotChecked("that no more than the default waits: with a tick it may")
		c.awaitText(h, numbered("p", room))
		return
	}

	size := 64 << 10
	if c.h.MaxPayload > 0 {
		size = min(size, c.h.MaxPayload)
	}
	n := 1 << 20 / size
	large, open := c.block(b, "large")
	publish := func(text string) {
		for range n - 1 { // whether its subject counts, too, is the backend's
			c.publish(b, c.subject("large.a"), strings.Repeat("x", size))
		}
		c.publish(b, c.subject("free.end"), text)
		c.awaitText(watch, text)
	}
	publish("once")
	if dropped := large.sub.Dropped(); dropped > 0 {
		c.Errorf("%d of %d messages of %d bytes that wait for a handler were dropped", dropped, n-1, size)
	}
	publish("twice")
	c.awaitDropped(large, uint64(n-2))
	open()
}

// awaitDropped waits until so many messages count as dropped.
func (c *C) awaitDropped(h *history, n uint64) {
	defer func() {
		if have := h.sub.Dropped(); have < n {
			c.Logf("%s: %d messages count as dropped", h.name, have)
		}
	}()
	c.until(fmt.Sprintf("%s: %d dropped messages", h.name, n), c.h.Patience, func(int) bool { return h.sub.Dropped() >= n })
}

func storm(c *C) {
	b := c.Bus()
	c.kinds(b, func(string) {})
	const callers, rounds = 32, 20
	seeds := make([]uint64, callers)
	for i := range seeds {
		seeds[i] = c.rand.Uint64()
	}
	c.together(callers, "a call in the storm", func(i int) {
		for round := range rounds {
			if err := c.anyCall(b, seeds[i]>>(round%32)+uint64(round)); err != nil {
				c.Errorf("a call in the storm: %v", err)
				return
			}
			if c.Failed() {
				return
			}
		}
	})
	c.kinds(b, func(root string) {
		h := c.subscribe(b, c.subject(root+".after"))
		c.publish(b, c.subject(root+".after"), "the storm")
		c.awaitText(h, "the storm")
	})
}

// anyCall makes one of the calls that a bus, its subscriptions and their handlers have.
func (c *C) anyCall(b bus.Bus, n uint64) error {
	handler := func(ctx context.Context, m *bus.Message) error {
		if n%16 == 3 && m.Subject != c.subject("free.echo") {
			return b.Publish(ctx, c.subject("free.echo"), m.Data)
		}
		return nil
	}
	streams := c.h.claims(Streams)
	root := "free"
	opts := []bus.SubscribeOption{bus.OnError(func(bus.Problem) {})}
	if streams && n%2 == 0 {
		root = "held"
		opts = append(opts, []bus.SubscribeOption{
			bus.All(), bus.Last(3), bus.Since(time.Now().Add(-time.Second)), bus.LastPerSubject(), bus.Background(),
		}[n/2%5])
	}
	subject := c.subject(root + "." + string(rune('a'+n%5)))
	switch n / 10 % 5 {
	case 0:
		until, cancel := context.WithCancel(c.ctx)
		defer cancel()
		sub, err := b.Subscribe(c.ctx, subject, handler, append(opts, bus.Until(until))...)
		if err != nil {
			return err
		}
		sub.Dropped()
		cancel()
		<-sub.Done()
		if err := sub.Err(); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("Err after Until: %w", err)
		}
		return nil
	case 1:
		sub, err := b.Subscribe(c.ctx, subject, handler, opts...)
		if err != nil {
			return err
		}
		if err := b.Publish(c.ctx, subject, []byte("x")); err != nil {
			return err
		}
		return sub.Unsubscribe(c.ctx)
	case 2:
		if l, ok := b.(bus.StreamLister); ok {
			if _, err := l.Streams(c.ctx); err != nil && !errors.Is(err, bus.ErrUnsupported) {
				return err
			}
		}
		if h, ok := b.(bus.HealthChecker); ok {
			return h.Health(c.ctx)
		}
		return nil
	case 3:
		if streams {
			return b.EnsureStreams(c.ctx, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
		}
	}
	if root == "free" {
		return b.Publish(c.ctx, subject, []byte("x"))
	}
	var r bus.Receipt
	return b.Publish(c.ctx, subject, []byte("x"), bus.MessageID(strconv.FormatUint(n, 36)), bus.WithReceipt(&r))
}

func manySubscriptions(c *C) {
	b := c.Bus()
	n, sample := 1000, int32(100)    // on uncaptured subjects ten times as few, since time is short
	const perSubscription = 32 << 10 // bytes; ours take a tenth
	measures := measuring.TryLock()
	if measures {
		defer measuring.Unlock()
	} else {
		c.NotChecked("the memory: this process has more than one such check, and another one measures it")
	}
	c.kinds(b, func(root string) {
		before := inUse()
		var got atomic.Int32
		all := make(chan struct{})
		seen := make([]atomic.Int32, n)
		subscribe := func(i int) {
			_, err := b.Subscribe(c.ctx, c.subject(root+".n"+strconv.Itoa(i)), func(_ context.Context, m *bus.Message) error {
				seen[i].Add(1)
				if got.Add(1) == sample {
					close(all)
				}
				return nil
			})
			if err != nil {
				c.Errorf("subscription %d of %d: %v", i, n, err)
			}
		}
		const callers = 16 // a subscription may be a question to a server
		for block := 0; block < n; block += n / 10 {
			c.together(callers, fmt.Sprintf("%d calls of Subscribe to return, with %d subscriptions there", n/10, block), func(k int) {
				for i := block + k; i < block+n/10 && !c.Failed(); i += callers {
					subscribe(i)
				}
			})
		}
		receive(c, c.start(func() {
			for i := range sample {
				c.publish(b, c.subject(root+".n"+strconv.Itoa(int(i)*n/int(sample))), "x")
			}
		}), fmt.Sprintf("%d calls of Publish with %d subscriptions to return", sample, n))
		receive(c, all, "a message to each of those subscriptions")
		for i := range seen {
			want := int32(0)
			if i%(n/int(sample)) == 0 {
				want = 1
			}
			if have := seen[i].Load(); have != want {
				c.Fatalf("subscription %d got %d messages, want %d", i, have, want)
			}
		}
		if !measures {
			n = 10_000
			return
		}
		// What else the process does takes memory for a while, these subscriptions as long as they stand.
		least := int64(math.MaxInt64)
		c.until(fmt.Sprintf("%d subscriptions to take %d KiB each at most", n, perSubscription>>10), c.h.Patience, func(int) bool {
			if grown := inUse() - before; grown < least {
				least = grown
				c.Logf("%d subscriptions take %d KiB each", n, grown/int64(n)>>10)
			}
			return least <= int64(n)*perSubscription
		})
		n = 10_000
	})
}

// measuring is held by the check that measures the memory of the process: several at once would measure one another.
var measuring sync.Mutex

// inUse is how much memory the process uses after a collection.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// remains are the things that must be collectable once they are through.
type remains struct {
	mu       sync.Mutex
	handlers []weak.Pointer[[64]byte]
	messages []weak.Pointer[bus.Message]
	subjects []weak.Pointer[byte] // their first bytes
}

// alive counts what is still reachable.
func alive[T any](pointers []weak.Pointer[T]) (n int) {
	for _, p := range pointers {
		if p.Value() != nil {
			n++
		}
	}
	return n
}

func residue(c *C) {
	many := 300
	if c.h.Tick > 0 {
		many = 30 // each waits for a tick
	}
	label := fmt.Sprintf("residue-%d", leakRounds.Add(1))
	done := c.start(func() {
		labelled(label, func() {
			b := c.Bus()
			c.kinds(b, func(root string) {
				c.subscribeOnce(b, c.subject(root+".first"), &remains{}) // starts what a bus has once
				c.churn(b, root, label, many)
			})
		})
	})
	receive(c, done, "subscriptions to come and go")
}

// churn subscribes and unsubscribes n times, each on a subject of its own, and looks what is left.
func (c *C) churn(b bus.Bus, root, label string, n int) {
	held, err := c.residueOf(b)
	if err != nil {
		c.Fatalf("Residue: %v", err)
	}
	before := countRunning(label)
	var left remains
	for i := range n {
		c.subscribeOnce(b, c.subject(fmt.Sprintf("%s.n%d.%d", root, n, i)), &left)
	}
	what := func() string {
		runtime.GC()
		left.mu.Lock()
		defer left.mu.Unlock()
		var found []string
		// A few may be in a buffer or on a stack that is about to be used again.
		few := max(10, n/20)
		if k := alive(left.handlers); k > few {
			found = append(found, fmt.Sprintf("%d handlers", k))
		}
		if k := alive(left.messages); k > few && root == "free" { // a store keeps its own
			found = append(found, fmt.Sprintf("%d messages", k))
		}
		if k := alive(left.subjects); k > few && root == "free" {
			found = append(found, fmt.Sprintf("%d subjects", k))
		}
		if k := countRunning(label) - before; k > few {
			found = append(found, fmt.Sprintf("%d goroutines", k))
		}
		now, err := c.residueOf(b)
		if err != nil {
			c.Fatalf("Residue: %v", err)
		}
		if k := now - held; k > few {
			found = append(found, fmt.Sprintf("%d of what Harness.Residue counts", k))
		}
		return strings.Join(found, ", ")
	}
	found := ""
	defer func() {
		if found != "" {
			c.Logf("%s: after %d subscriptions have come and gone these are left: %s", root, n, found)
		}
	}()
	c.until(fmt.Sprintf("nothing to be left of %d subscriptions that have come and gone", n), c.h.Patience, func(int) bool {
		found = what()
		return found == ""
	})
}

func sharedFeed(c *C) {
	if c.h.Residue == nil {
		c.NotClaimed("the harness has no Residue")
	}
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>")}})
	held := func() int {
		n, err := c.residueOf(b)
		if err != nil {
			c.Fatalf("Residue: %v", err)
		}
		return n
	}
	first := c.subscribe(b, c.subject("held.>"))
	c.publish(b, c.subject("held.0"), "first")
	c.awaitText(first, "first")
	before := held()
	const many, few = 200, 20 // a backend may have reasons for some
	var others []*history
	for i := range many {
		others = append(others, c.subscribe(b, c.subject(fmt.Sprintf([]string{"held.%d", "held.%d.*", "held.*.%d", "held.%d.>"}[i%4], i))))
	}
	c.publish(b, c.subject("held.0"), "end")
	c.awaitText(others[0], "end")
	if more := held() - before; more > few {
		c.Errorf("while %d more subscriptions to a stream stand, there is %d more of what Harness.Residue counts: want at most %d", many, more, few)
	}
}

// residueOf asks the harness what b holds elsewhere.
func (c *C) residueOf(b bus.Bus) (int, error) {
	if c.h.Residue == nil {
		return 0, nil
	}
	return c.h.Residue(c.ctx, b)
}

// subscribeOnce subscribes, has one message delivered and unsubscribes. Nothing of it stays here.
func (c *C) subscribeOnce(b bus.Bus, subject string, left *remains) {
	held := new([64]byte) // lives as long as the handler
	got := make(chan struct{}, 1)
	sub, err := b.Subscribe(c.ctx, subject, func(_ context.Context, m *bus.Message) error {
		held[0]++
		left.mu.Lock()
		left.messages = append(left.messages, weak.Make(m))
		left.mu.Unlock()
		got <- struct{}{}
		return nil
	})
	if err != nil {
		c.Fatalf("Subscribe: %v", err)
	}
	left.mu.Lock()
	left.handlers = append(left.handlers, weak.Make(held))
	left.subjects = append(left.subjects, weak.Make(unsafe.StringData(subject)))
	left.mu.Unlock()
	c.publish(b, subject, "x")
	receive(c, got, "the message")
	c.unsubscribe(sub)
}

// countRunning is the number of goroutines with a label.
func countRunning(label string) int {
	n := 0
	for _, stack := range running(label) {
		count, _, _ := strings.Cut(stack, " @")
		if fields := strings.Fields(count); len(fields) > 0 {
			if k, err := strconv.Atoi(fields[len(fields)-1]); err == nil {
				n += k
			}
		}
	}
	return n
}
