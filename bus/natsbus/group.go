package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	// ackWait is after what time the server gives what a dead process had to another one. The living say every
	// stillWorking that they are at it.
	ackWait      = 5 * time.Second
	stillWorking = 1500 * time.Millisecond
	// askFor is how long one request for messages stands at the server, with a heartbeat every pullHeartbeat.
	askFor        = 30 * time.Second
	pullHeartbeat = 2 * time.Second
	// groupInactive is when the server removes a group without a position that nobody is in.
	groupInactive = time.Minute
	// gapPause lies between two looks for what limits have taken, which is asked of the server.
	gapPause = 100 * time.Millisecond
	// atOnce gives a message back. Without a delay the server doesn't write down that it was given back, and when
	// it is opened again it would wait for ackWait.
	atOnce = `-NAK {"delay":1}`
	// leaveTimeout bounds the wait for the server's word that it knows what was done.
	leaveTimeout = 2 * time.Second
)

// groupShare is this process's part of a group: a pull consumer that all its processes share.
type groupShare struct {
	b        *backend
	stream   driver.Stream // its epoch is the one at the beginning
	group    driver.Group
	consumer string
	sink     driver.ShareSink
	stop     chan struct{}
	stopped  sync.WaitGroup
	gone     atomic.Bool // the consumer, so that nothing is confirmed any more

	mu      sync.Mutex
	epoch   string // of the stream
	inbox   string
	sub     *nats.Subscription
	wanted  int // messages that may come
	asked   int // of these, how many the server has been asked for
	heard   time.Time
	said    string              // what keeps it from asking, as logged last
	out     map[string]struct{} // tickets (where to acknowledge) of what is neither done nor released
	told    int                 // acknowledgements that the server hasn't confirmed, on confirm
	confirm string
	acks    *nats.Subscription
	here    *nats.Subscription // answers those who leave a group without a position and ask whether anybody is in it
	handled int64              // messages that have come through sub
	seen    uint64             // the highest sequence that was given to this process
	last    mark               // of that, in this epoch
	base    uint64             // up to here nothing is missing, or it has been told
	unsure  bool               // something between base and seen may be missing
	looked  time.Time          // for what is missing
	leaving bool
}

// Join implements driver.Grouper.
func (b *backend) Join(ctx context.Context, s driver.Stream, g driver.Group, sink driver.ShareSink) (driver.Share, error) {
	p := &groupShare{
		b: b, stream: s, group: g, consumer: consumerName(g), sink: sink,
		stop: make(chan struct{}), out: map[string]struct{}{}, epoch: s.Epoch, seen: g.After, base: g.After,
	}
	// Before it looks for the consumer, so that nobody removes that as the last one who leaves.
	if err := p.answer(ctx); err != nil {
		return nil, connectionError(ctx, err)
	}
	if err := p.ensure(ctx); err != nil {
		return nil, errors.Join(err, p.leaveRoom())
	}
	p.confirm = b.nc.NewInbox()
	var err error
	if p.acks, err = b.nc.Subscribe(p.confirm, p.confirmed); err == nil {
		err = p.listen()
	}
	if err != nil {
		return nil, errors.Join(connectionError(ctx, err), p.leaveRoom())
	}
	b.mu.Lock()
	b.shares[p] = struct{}{}
	b.mu.Unlock()
	p.stopped.Go(p.keep)
	return p, nil
}

// listen makes a new inbox. What comes to an earlier one is given to another process when its time is over.
func (p *groupShare) listen() error {
	inbox := p.b.nc.NewInbox()
	sub, err := p.b.nc.Subscribe(inbox, p.receive)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	old := p.sub
	p.inbox, p.sub, p.asked, p.handled, p.heard = inbox, sub, 0, 0, time.Now()
	p.mu.Unlock()
	if old != nil {
		if err := old.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrBadSubscription) && !p.b.nc.IsClosed() { // it may be leaving
			p.b.log.Warn("natsbus: unsubscribe", "group", p.group.Name, "error", err)
		}
	}
	return nil
}

// keep says that this process is at work, and asks anew when it hears nothing.
func (p *groupShare) keep() {
	tick := time.NewTicker(stillWorking)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.stop:
			return
		}
		if !p.b.nc.IsConnected() {
			continue
		}
		p.mu.Lock()
		for ticket := range p.out {
			p.say(ticket, "+WPI", "")
		}
		silent := p.asked > 0 && time.Since(p.heard) > 3*pullHeartbeat
		p.mu.Unlock()
		p.lookForGap()
		if silent {
			p.again()
		}
	}
}

// again asks anew for all that is wanted, after looking whether the group is still there.
func (p *groupShare) again() {
	p.b.suspect(p.stream.Config.Name)
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	_, err := p.info(ctx)
	if isCode(err, codeConsumerNotFound) && !p.group.Durable {
		var st driver.State
		if st, err = p.b.State(ctx, p.stream.Config.Name); err == nil {
			p.follow(st.Epoch)
			p.mu.Lock()
			p.group.After = min(p.seen, st.Last)
			p.mu.Unlock()
			err = p.ensure(ctx)
		}
	}
	if isCode(err, codeConsumerNotFound) {
		if info, lookErr := p.b.info(ctx, p.stream.Config.Name); lookErr == nil && info.Config.Metadata[rewindKey] != "" {
			err = errors.New("it is going back to before a crash") // and may be made once more
		}
	}
	switch {
	case isCode(err, codeConsumerNotFound), errors.Is(err, driver.ErrNotCaptured), errors.Is(err, driver.ErrEpoch):
		p.gone.Store(true)
		p.sink.End(fmt.Errorf("%w: group %s is gone", bus.ErrStreamChanged, p.group.Name))
		return
	case err == nil:
		err = p.listen()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if err.Error() != p.said {
			p.said = err.Error()
			p.b.log.Warn("natsbus: can't ask for a group's messages; trying again", "group", p.group.Name, "error", err)
		}
		p.heard = time.Time{} // the next tick finds that nothing is heard
		return
	}
	p.said = ""
	p.askLocked()
}

// Ask implements driver.Share.
func (p *groupShare) Ask(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted += n
	p.askLocked()
}

func (p *groupShare) askLocked() {
	n := p.wanted - p.asked
	if n <= 0 || p.leaving {
		return
	}
	request := fmt.Sprintf(`{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, askFor, pullHeartbeat)
	if p.asked == 0 {
		p.heard = time.Now()
	}
	p.asked += n // also if it can't be sent: then nothing is heard
	err := p.b.nc.PublishRequest(p.b.call("$JS.API.CONSUMER.MSG.NEXT."+p.stream.Config.Name+"."+p.consumer), p.inbox, []byte(request))
	if err != nil && p.b.nc.IsConnected() {
		p.b.log.Warn("natsbus: asking for a group's messages", "group", p.group.Name, "error", err)
	}
}

// confirmed takes the server's word that it has taken ours.
func (p *groupShare) confirmed(*nats.Msg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told--
}

// receive takes a message or the end of a request.
func (p *groupShare) receive(m *nats.Msg) {
	p.mu.Lock()
	if m.Sub != p.sub {
		p.mu.Unlock()
		return
	}
	defer p.countHandled(m.Sub)
	p.heard = time.Now()
	if !strings.HasPrefix(m.Reply, "$JS.ACK.") {
		p.controlLocked(m)
		p.mu.Unlock()
		return
	}
	place, ok := parsePlace(m.Reply)
	if !ok || p.leaving {
		p.say(m.Reply, atOnce, "")
		p.mu.Unlock()
		return
	}
	p.asked, p.wanted = max(0, p.asked-1), max(0, p.wanted-1)
	p.out[m.Reply] = struct{}{}
	p.seen = max(p.seen, place.sequence)
	if place.sequence > p.last.Seq {
		p.last = mark{place.sequence, place.time.UnixNano()}
	}
	if p.base+1 == place.sequence && !p.unsure {
		p.base++
	} else {
		p.unsure = p.unsure || place.sequence > p.base
	}
	epoch := p.epoch
	p.mu.Unlock()
	p.lookForGap()
	p.sink.Deliver(&driver.Delivery{Attempt: place.attempt, Ticket: m.Reply, Message: &bus.Message{
		Subject: m.Subject, Data: m.Data[:len(m.Data):len(m.Data)], Header: header(readable(m)),
		Cursor: bus.NewCursor(epoch, place.sequence), Time: place.time,
	}})
}

// controlLocked takes what the server itself says.
func (p *groupShare) controlLocked(m *nats.Msg) {
	switch status := m.Header.Get("Status"); status {
	case "100":
	default:
		left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		switch {
		case status == "408" && err == nil: // its time was over
			p.asked = max(0, p.asked-left)
			p.askLocked()
		case !p.leaving:
			p.stopped.Go(p.pauseAndAskAgain)
		}
	}
}

// countHandled says that a message of sub has been passed on.
func (p *groupShare) countHandled(sub *nats.Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sub == p.sub {
		p.handled++
	}
}

// pauseAndAskAgain is for requests that were refused: the group is gone, or its leader is.
func (p *groupShare) pauseAndAskAgain() {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.again()
	case <-p.stop:
	}
}

// lookForGap tells what the stream's limits have taken before the group's turn. What other processes were given
// looks the same: a false alarm that is possible only where the stream has been trimmed.
func (p *groupShare) lookForGap() {
	c := &p.stream.Config
	p.mu.Lock()
	base, seen, epoch := p.base, p.seen, p.epoch
	needless := !p.unsure || time.Since(p.looked) < gapPause
	if !needless {
		p.looked = time.Now()
	}
	p.mu.Unlock()
	if needless {
		return // or later
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	st, err := p.b.State(ctx, c.Name)
	if err != nil {
		return // it is looked for again
	}
	if st.Epoch != epoch {
		p.follow(st.Epoch)
		return
	}
	p.mu.Lock()
	if p.epoch != epoch {
		p.mu.Unlock()
		return
	}
	p.base = max(seen, min(st.First, st.Last+1)-1)
	p.unsure = p.seen > p.base
	p.mu.Unlock()
	if st.First <= base+1 {
		return
	}
	gap := &bus.GapError{Stream: c.Name, Before: bus.NewCursor(epoch, st.First), Missed: st.First - base - 1}
	if base > 0 {
		gap.After = bus.NewCursor(epoch, base)
	}
	p.sink.Notice(gap)
}

// follow goes on in another epoch of the stream, in which the group keeps its position, or goes back.
func (p *groupShare) follow(epoch string) {
	p.mu.Lock()
	if p.epoch == epoch || p.leaving {
		p.mu.Unlock()
		return
	}
	gap := &bus.GapError{Stream: p.stream.Config.Name, Before: bus.NewCursor(epoch, 1)}
	if p.seen > 0 {
		gap.After = bus.NewCursor(p.epoch, p.seen)
	}
	p.epoch, p.last = epoch, mark{}
	p.base, p.unsure = 0, false // what went before is that gap
	clear(p.out)                // what was given comes again, and may be another message's place
	p.mu.Unlock()
	p.sink.Notice(gap)
}

// Done implements driver.Share.
func (p *groupShare) Done(d *driver.Delivery) { p.give(d, "+ACK") }

// Release implements driver.Share.
func (p *groupShare) Release(d *driver.Delivery) { p.give(d, atOnce) }

func (p *groupShare) give(d *driver.Delivery, word string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ours := p.out[d.Ticket]; !ours {
		return
	}
	delete(p.out, d.Ticket)
	p.told++
	p.say(d.Ticket, word, p.confirm)
}

// say publishes a word about a message. What doesn't reach the server has the message delivered again.
func (p *groupShare) say(ticket, word, confirm string) {
	m := &nats.Msg{Subject: ticket, Reply: confirm, Data: []byte(word)}
	if err := p.b.nc.PublishMsg(m); err != nil && p.b.nc.IsConnected() {
		p.b.log.Warn("natsbus: acknowledging in a group", "group", p.group.Name, "error", err)
	}
}

// Through implements driver.Share.
func (p *groupShare) Through(ctx context.Context, upTo uint64) (bool, error) {
	info, err := p.info(ctx)
	if err != nil {
		return false, err
	}
	// What the consumer says to be pending lags behind what is stored.
	next, err := p.b.getThrough(ctx, p.stream.Config.Name, getRequest{Seq: info.Delivered.Sequence + 1, Next: p.group.Pattern, Batch: 1}, upTo)
	if err != nil {
		return false, err
	}
	if len(next.messages) > 0 && next.messages[0].Cursor.Sequence() <= upTo {
		return false, nil
	}
	if err := p.b.ping(ctx); err != nil { // what was given away before has arrived
		return false, connectionError(ctx, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pending, _, err := p.sub.Pending()
	delivered, err2 := p.sub.Delivered()
	return pending == 0 && p.handled >= delivered, errors.Join(err, err2)
}

// Leave implements driver.Share.
func (p *groupShare) Leave(back ...*driver.Delivery) {
	// The server learns on one connection that nothing is wanted here and what is given back, in this order. What comes before it
	// knows is given back, too.
	p.mu.Lock()
	p.leaving = true
	first := p.sub
	err := first.Drain()
	p.mu.Unlock()
	for _, d := range back {
		p.Release(d)
	}
	close(p.stop)
	p.b.mu.Lock()
	delete(p.b.shares, p)
	p.b.mu.Unlock()
	p.stopped.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	p.mu.Lock()
	sub := p.sub
	p.mu.Unlock()
	if sub != first { // listen was under way
		err = sub.Drain()
	}
	p.wait(ctx, func() bool { return !sub.IsValid() })
	p.wait(ctx, func() bool { return p.told <= 0 || p.gone.Load() })
	if err = errors.Join(err, p.acks.Unsubscribe(), p.leaveRoom()); err != nil && !p.b.nc.IsClosed() {
		p.b.log.Warn("natsbus: leaving a group", "group", p.group.Name, "error", err)
	}
	if p.group.Durable || !p.b.nc.IsConnected() {
		return
	}
	// Without a position nobody misses the consumer, unless another process is in the group. That it neither waits for
	// a message nor has one at this moment says nothing.
	if !p.deserted(ctx) {
		return
	}
	if err := p.b.ask(ctx, "$JS.API.CONSUMER.DELETE."+p.stream.Config.Name+"."+p.consumer, nil, nil); err != nil {
		p.b.log.Warn("natsbus: a group is left to the server to remove", "group", p.group.Name, "after", groupInactive, "error", err)
	}
}

// loseShares notes that the consumers of some groups are gone.
func (b *backend) loseShares(which func(p *groupShare) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.shares {
		if which(p) {
			p.gone.Store(true)
		}
	}
}

// wait returns when a condition on what mu guards holds, or there is nothing to be expected.
func (p *groupShare) wait(ctx context.Context, holds func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.b.nc.IsConnected() {
		p.mu.Lock()
		through := holds()
		p.mu.Unlock()
		if through {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// RemoveGroup implements driver.Grouper.
func (b *backend) RemoveGroup(ctx context.Context, name string) error {
	streams, err := b.Streams(ctx)
	if err != nil {
		return err
	}
	for _, s := range streams {
		err := b.removeConfig(ctx, configOf{s.Config.Name, name})
		if err != nil && !isGone(err) {
			return err
		}
	}
	b.loseShares(func(p *groupShare) bool { return p.group.Durable && p.group.Name == name })
	return nil
}

// isGone reports whether the server says that a stream, or a consumer, isn't there.
func isGone(err error) bool {
	return errors.Is(err, driver.ErrNotCaptured) || isCode(err, codeConsumerNotFound)
}

func isCode(err error, code int) bool {
	var refused *apiError
	return errors.As(err, &refused) && refused.Code == code
}
