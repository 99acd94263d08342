package refbus

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Link is what is between a bus and its server, and can be broken: the server is played by the bus itself.
type Link struct {
	addr string

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed and replaced by each change
	unheard int           // acknowledgements that are yet to be lost before the link is down
	late    []func()      // what was sent to a frozen server
	buses   []*Bus
}

type linkState uint8

const (
	up     linkState = iota
	tears            // what is sent arrives, and what is answered is lost
	down             // and comes back by itself
	gone             // until Start
	frozen           // until Thaw
)

var links sync.Map // by address

// Serve returns a link that buses with its address in their Config are on.
func Serve() *Link {
	l := &Link{changed: make(chan struct{})}
	for n := 1; ; n++ {
		l.addr = strconv.Itoa(n)
		if _, taken := links.LoadOrStore(l.addr, l); !taken {
			return l
		}
	}
}

// Addr is for Config.
func (l *Link) Addr() string { return l.addr }

// Close ends the link for good.
func (l *Link) Close() error {
	links.Delete(l.addr)
	return l.to(gone)
}

// Cut interrupts the connections.
func (l *Link) Cut() error {
	l.mu.Lock()
	l.unheard = 2
	l.mu.Unlock()
	time.AfterFunc(50*time.Millisecond, func() { l.back(tears) })
	return l.to(tears)
}

// Kill ends the server.
func (l *Link) Kill() error { return l.to(gone) }

// Start starts it again.
func (l *Link) Start() error {
	l.back(gone)
	return nil
}

// Freeze stops it from answering.
func (l *Link) Freeze() error { return l.to(frozen) }

// Thaw lets it go on.
func (l *Link) Thaw() error {
	l.mu.Lock()
	late := l.late
	l.late = nil
	l.mu.Unlock()
	for _, f := range late {
		f()
	}
	return l.to(up)
}

func (l *Link) to(s linkState) error {
	l.mu.Lock()
	l.state = s
	close(l.changed)
	l.changed = make(chan struct{})
	buses := slices.Clone(l.buses)
	l.mu.Unlock()
	for _, b := range buses {
		b.mu.Lock()
		for _, s := range b.toPoke() {
			s.poke()
		}
		b.mu.Unlock()
	}
	return nil
}

// back connects again what was interrupted in that state.
func (l *Link) back(from linkState) {
	l.mu.Lock()
	was, buses := l.state, slices.Clone(l.buses)
	l.mu.Unlock()
	if was != from {
		return
	}
	for _, b := range buses {
		b.reconnected(from == gone)
	}
	_ = l.to(up) // never fails
}

// linked says whether there is no connection.
func (b *Bus) linked() error {
	if b.link == nil {
		return nil
	}
	b.link.mu.Lock()
	defer b.link.mu.Unlock()
	if b.link.state == gone || b.link.state == down {
		return fmt.Errorf("%w: no connection", bus.ErrUnavailable)
	}
	return nil
}

// reconnected tells those whom an interruption concerns.
func (b *Bus) reconnected(restarted bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, st := range b.streams {
		if restarted && b.bug("lossyRestart") {
			st.msgs = st.msgs[:max(0, len(st.msgs)-3)]
		}
	}
	for _, s := range b.subs {
		s.lost = !b.bug("cutUntold") && !slices.ContainsFunc(b.streams, func(st *stream) bool {
			return slices.ContainsFunc(st.cfg.Subjects, func(captured string) bool { return contains(captured, s.pattern) })
		})
		for _, l := range s.legs {
			switch {
			case b.bug("repeatOnReconnect") && l.pos > l.st.lost+1:
				l.pos--
			case b.bug("lossOnReconnect"):
				l.pos = l.st.seq
			}
		}
		s.reorder = b.bug("reorderOnReconnect")
	}
}

// attach connects the bus, if it has a server.
func (b *Bus) attach() error {
	if b.cfg.Addr == "" {
		return nil
	}
	l, ok := links.Load(b.cfg.Addr)
	if !ok {
		return fmt.Errorf("%w: no server at %s", bus.ErrUnavailable, b.cfg.Addr)
	}
	b.link = l.(*Link)
	b.link.mu.Lock()
	b.link.buses = append(b.link.buses, b)
	b.link.mu.Unlock()
	return nil
}

// connected reports whether the server's messages arrive.
func (b *Bus) connected() bool {
	if b.link == nil {
		return true
	}
	b.link.mu.Lock()
	defer b.link.mu.Unlock()
	return b.link.state == up
}

// detach disconnects the bus when it closes.
func (b *Bus) detach(ctx context.Context) {
	l := b.link
	if l == nil {
		return
	}
	if b.bug("closeWaitsForServer") {
		for !b.connected() {
			_ = pauseUntil(context.WithoutCancel(ctx), time.Millisecond) // a mutant's
		}
	}
	l.mu.Lock()
	l.buses = slices.DeleteFunc(l.buses, func(other *Bus) bool { return other == b })
	l.mu.Unlock()
}

var errUnanswered = fmt.Errorf("%w: %w: the connection was lost", bus.ErrUnknownOutcome, bus.ErrUnavailable)

// over makes a call over the link, if there is one. What is sent to a frozen server it does
// when it goes on: late, which is nil when the call has no effect.
func (b *Bus) over(ctx context.Context, late func(), call func() error) error {
	l := b.link
	b.mu.Lock()
	refused := b.refuse(ctx)
	b.mu.Unlock()
	if l == nil || refused != nil {
		return call()
	}
	l.mu.Lock()
	state, changed := l.state, l.changed
	l.mu.Unlock()
	switch state {
	case gone, down:
		if b.bug("downIsNil") {
			return nil
		}
		return fmt.Errorf("%w: no connection", bus.ErrUnavailable)
	case frozen:
		done, closed := ctx.Done(), b.done
		switch b.cfg.Bug {
		case "ignoreDeadline":
			done = nil
		case "callsOutliveClose":
			closed = nil
		}
		select {
		case <-changed:
			return b.over(ctx, late, call)
		case <-closed:
			return bus.ErrClosed
		case <-done:
		}
		if late == nil {
			return ctx.Err()
		}
		l.mu.Lock()
		l.late = append(l.late, late)
		l.mu.Unlock()
		return fmt.Errorf("%w: %w", bus.ErrUnknownOutcome, ctx.Err())
	case tears:
		if late == nil {
			return fmt.Errorf("%w: the connection was lost", bus.ErrUnavailable)
		}
		if b.bug("retryReorder") {
			time.AfterFunc(100*time.Millisecond, late)
			return nil
		}
		if err := call(); err != nil {
			return err
		}
		l.mu.Lock()
		l.unheard--
		last := l.unheard == 0
		if last && l.state == tears {
			l.state = down
			time.AfterFunc(2*time.Millisecond, func() { l.back(down) })
		}
		l.mu.Unlock()
		switch {
		case b.bug("faultBare"):
			return bus.ErrUnknownOutcome
		case b.bug("faultDenied"):
			return fmt.Errorf("%w: no connection", bus.ErrUnavailable)
		}
		return errUnanswered
	}
	return call()
}
