package migrate

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Report is what a Shadow has found.
type Report struct {
	Old, New uint64 // messages that came on each bus

	Same      uint64 // came on both; late and reordered ones, too
	Missing   uint64
	Extra     uint64
	Late      uint64
	Reordered uint64

	// Waiting came on one bus and may still come on the other one. Unsettled came on one alone, at the very
	// beginning: perhaps it was published before both were subscribed to.
	Waiting, Unsettled uint64

	// Blind is how often the comparison itself may have missed messages: ErrGap, ErrSlow, a subscription that
	// has ended. What is missing or extra may then be due to that.
	Blind uint64

	// LongestLag is how much later than the old bus the new one has delivered at most; negative if it was always earlier.
	LongestLag time.Duration

	Examples []Difference // the first of each kind
}

// Err is nil when subscribers of both buses get the same, and otherwise says what differs.
func (r Report) Err() error {
	var parts []string
	for _, c := range []struct {
		n    uint64
		what string
	}{{r.Missing, "missing"}, {r.Extra, "extra"}, {r.Late, "late"}, {r.Reordered, "reordered"}, {r.Blind, "times not seen in full"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("the new bus differs: %s, of %d messages", strings.Join(parts, ", "), r.Old)
}

// String is the report for people, a line for each fact that there is.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d messages on the old bus, %d on the new one, %d on both", r.Old, r.New, r.Same)
	switch lag := r.LongestLag.Round(100 * time.Microsecond); {
	case r.Same > 0 && lag < 0:
		fmt.Fprintf(&b, ", at least %s earlier on the new one", -lag)
	case r.Same > 0:
		fmt.Fprintf(&b, ", at most %s later on the new one", lag)
	}
	b.WriteByte('\n')
	for _, c := range []struct {
		n    uint64
		text string
	}{
		{r.Missing, "missing on the new bus"}, {r.Extra, "extra on the new bus"}, {r.Late, "late on the new bus"},
		{r.Reordered, "reordered on the new bus"}, {r.Waiting, "not decided yet"}, {r.Unsettled, "from before both were subscribed to"},
		{r.Blind, "times the comparison itself may have missed messages"},
	} {
		if c.n > 0 {
			fmt.Fprintf(&b, "%d %s\n", c.n, c.text)
		}
	}
	for _, d := range r.Examples {
		fmt.Fprintf(&b, "  %s: %s", d.Kind, d.Subject)
		if d.Publisher != d.Subject {
			fmt.Fprintf(&b, " of %s", d.Publisher)
		}
		if !d.Old.IsZero() || !d.New.IsZero() {
			fmt.Fprintf(&b, ", old %q, new %q", d.Old, d.New)
		}
		if d.Kind == Late {
			fmt.Fprintf(&b, ", by %s", d.Lag.Round(time.Millisecond))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// comparing is the state of a Shadow.
type comparing struct {
	cfg     *ShadowConfig
	report  Report
	found   []Difference // not told yet
	settled time.Time    // what comes later was published when both were subscribed to; zero: not yet

	pending map[identity][]*arrival // on one bus only, as what is on both is taken out
	order   []*arrival              // those that waited, as they came
	waiting int                     // of order, undecided
	missed  []*arrival              // counted as missing, so that a late one is known
	lanes   map[laneKey]*publisherLane
}

// identity is what makes messages the same for subscribers of a pattern.
type identity struct {
	pattern int
	sum     [sha256.Size]byte
}

type laneKey struct {
	pattern   int
	publisher string
}

// publisherLane is the order of one publisher's messages.
type publisherLane struct {
	old     uint64     // how many came on the old bus
	news    []*arrival // came on the new one and aren't judged yet
	highest uint64     // place on the old bus of those that are judged
	waiting int
}

// arrival is a message that came on one bus.
type arrival struct {
	side    int
	at      time.Time
	id      identity
	lane    *publisherLane
	key     laneKey
	subject string
	cursor  bus.Cursor
	other   bus.Cursor // on the old bus, of one on the new bus that is on both
	place   uint64     // among the publisher's on the old bus, from 1; 0: none
	waits   bool       // for its match
	missing bool       // counted so
}

const (
	// maxPending bounds what waits, and maxOrder that with what came behind it: beyond them, the oldest is decided before its
	// window ends.
	maxPending = 100_000
	maxOrder   = 2 * maxPending
	// maxMissed bounds what is remembered of what is missing: beyond it, one that comes after all is extra.
	maxMissed = 10_000
)

func newComparing(cfg *ShadowConfig) comparing {
	return comparing{cfg: cfg, pending: map[identity][]*arrival{}, lanes: map[laneKey]*publisherLane{}}
}

func (c *comparing) snapshot() Report {
	r := c.report
	r.Waiting = uint64(c.waiting)
	r.Examples = slices.Clone(r.Examples)
	return r
}

// came takes a message that came on one side.
func (c *comparing) came(pattern, side int, m *bus.Message, now time.Time) {
	a := c.arrival(pattern, side, m, now)
	if others := c.pending[a.id]; len(others) > 0 && others[0].side != side {
		other := others[0]
		c.forget(other)
		if side == oldSide {
			c.match(a, other)
		} else {
			c.match(other, a)
		}
		return
	}
	a.waits = true
	a.lane.waiting++
	c.waiting++
	c.pending[a.id] = append(c.pending[a.id], a)
	c.order = append(c.order, a)
	for c.waiting > maxPending || len(c.order) > maxOrder {
		c.decideFirst()
	}
}

func (c *comparing) arrival(pattern, side int, m *bus.Message, now time.Time) *arrival {
	header := m.Header
	if len(header[headerSource]) > 0 || len(header[headerTime]) > 0 {
		header = header.Clone()
		delete(header, headerSource)
		delete(header, headerTime)
	}
	sum := sha256.New()
	digest(sum, 0, m.Subject, header, m.Data)
	a := &arrival{
		side: side, at: now, id: identity{pattern, [sha256.Size]byte(sum.Sum(nil))},
		key: laneKey{pattern, c.cfg.Publisher(m)}, subject: m.Subject, cursor: m.Cursor,
	}
	if a.lane = c.lanes[a.key]; a.lane == nil {
		a.lane = &publisherLane{}
		c.lanes[a.key] = a.lane
	}
	if side == oldSide {
		c.report.Old++
		a.lane.old++
		a.place = a.lane.old
	} else {
		c.report.New++
		a.lane.news = append(a.lane.news, a)
	}
	return a
}

// forget takes an arrival out of what can be matched.
func (c *comparing) forget(a *arrival) {
	others := c.pending[a.id]
	if i := slices.Index(others, a); i >= 0 {
		c.pending[a.id] = slices.Delete(others, i, i+1)
	}
	if len(c.pending[a.id]) == 0 {
		delete(c.pending, a.id)
	}
}

// decided ends an arrival's wait.
func (c *comparing) decided(a *arrival) {
	if a.waits {
		a.waits = false
		a.lane.waiting--
		c.waiting--
	}
}

// match is told that both buses have delivered a message.
func (c *comparing) match(old, new *arrival) {
	lag := new.at.Sub(old.at)
	if c.report.Same == 0 || lag > c.report.LongestLag {
		c.report.LongestLag = lag
	}
	c.report.Same++
	if old.missing {
		old.missing = false
		c.report.Missing--
	}
	if lag > c.cfg.Late {
		c.report.Late++
		c.differs(Difference{Kind: Late, Subject: old.subject, Publisher: old.key.publisher, Old: old.cursor, New: new.cursor, At: old.at, Lag: lag})
	}
	c.decided(old)
	c.decided(new)
	new.other = old.cursor
	if old.lane == new.lane { // a late one's lane may have been given up
		new.place = old.place
	}
	c.judge(new.lane)
}

// judge looks at the order in which messages came on the new bus, as far as all before them are decided.
func (c *comparing) judge(l *publisherLane) {
	for len(l.news) > 0 && !l.news[0].waits {
		a := l.news[0]
		l.news = l.news[1:]
		if a.place > l.highest {
			l.highest = a.place
		} else if a.place > 0 {
			c.report.Reordered++
			c.differs(Difference{Kind: Reordered, Subject: a.subject, Publisher: a.key.publisher, Old: a.other, New: a.cursor, At: a.at})
		}
	}
}

// expire decides what has been waited for long enough, and gives up the lanes of those who publish no more.
func (c *comparing) expire(now time.Time) {
	for len(c.order) > 0 && (!c.order[0].waits || now.Sub(c.order[0].at) > c.cfg.Window) {
		c.decideFirst()
	}
	for key, l := range c.lanes {
		if l.waiting == 0 && len(l.news) == 0 {
			delete(c.lanes, key)
		}
	}
}

// decideFirst takes the oldest out of the order, and decides it if it still waits.
func (c *comparing) decideFirst() {
	a := c.order[0]
	c.order[0] = nil
	c.order = c.order[1:]
	if !a.waits {
		return
	}
	c.decided(a)
	d := Difference{Subject: a.subject, Publisher: a.key.publisher, At: a.at}
	switch {
	case c.settled.IsZero() || !a.at.After(c.settled):
		c.report.Unsettled++
		c.forget(a)
	case a.side == oldSide:
		c.report.Missing++
		a.missing = true
		c.remember(a)
		d.Kind, d.Old = Missing, a.cursor
		c.differs(d)
	default:
		c.report.Extra++
		c.forget(a)
		d.Kind, d.New = Extra, a.cursor
		c.differs(d)
	}
	c.judge(a.lane)
}

// remember keeps what is missing among what can be matched, in case it comes after all.
func (c *comparing) remember(a *arrival) {
	c.missed = append(c.missed, a)
	if len(c.missed) > maxMissed {
		if first := c.missed[0]; first.missing {
			c.forget(first)
		}
		c.missed[0] = nil
		c.missed = c.missed[1:]
	}
}

func (c *comparing) differs(d Difference) {
	if c.cfg.OnDifference != nil {
		c.found = append(c.found, d)
	}
	n := 0
	for _, e := range c.report.Examples {
		if e.Kind == d.Kind {
			n++
		}
	}
	if n < c.cfg.Examples {
		c.report.Examples = append(c.report.Examples, d)
	}
}
