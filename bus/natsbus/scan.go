package natsbus

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus/driver"
)

const (
	// maxScans is how many long reads of a stream have a consumer of their own at a time.
	maxScans = 4
	// A scan is made when so many pages of so many messages at least lie before a reader.
	scanPages = 2
	scanLeast = 16
	// scanAhead is how many pages are asked for before their reader comes: with one, the server would have nothing to do
	// while its answer is on the way.
	scanAhead = 2
	// scanIdle is how long a scan waits for its reader to come back.
	scanIdle = 2 * time.Second
	// scanPause lies between attempts, where the server refuses more consumers.
	scanPause = 10 * time.Second
	// pageTimeout is how long a page may take before it is read directly.
	pageTimeout = 2 * time.Second
)

// scan is a long read: a pull consumer that reads ahead, at three times the rate of direct reads. Whoever reads
// on where the last page ended gets the next one; nobody has to, since what a scan doesn't give is read directly.
type scan struct {
	b      *backend
	stream string
	name   string
	inbox  string
	sub    *nats.Subscription
	opened chan struct{}   // closed when it has been tried
	pages  chan *getResult // nil: one didn't come

	// Of scans.mu while it waits, and otherwise of its reader.
	key      scanKey
	n, bytes int // of the pages that are coming, at most
	idle     *time.Timer

	mu       sync.Mutex
	coming   int       // the number of the page that is coming, from 1
	page     getResult // as far as it has come
	fulls    []int     // how many messages it and the ones behind it hold at most; there are none: none is coming
	consumed uint64    // the consumer's own count
}

// scanKey says who finds a scan.
type scanKey struct {
	stream, epoch, pattern string
	from                   uint64 // the first sequence of its next page
}

// anywhere is the key of all places.
func (k scanKey) anywhere() scanKey {
	k.from = 0
	return k
}

// scans are those of all streams.
type scans struct {
	mu      sync.Mutex
	waiting map[scanKey]*scan     // for their readers
	open    map[string]int        // by stream
	paused  map[scanKey]time.Time // until when none is opened, by stream and pattern
	closed  bool
	ending  sync.WaitGroup
}

// page reads up to n messages that match, from a sequence on, of about so many bytes. It is complete as far as it goes; whether
// that is the end is certain up to upTo.
func (b *backend) page(ctx context.Context, in driver.Stream, from uint64, pattern string, n, bytes int, upTo uint64) (*getResult, error) {
	stream := in.Config.Name
	key := scanKey{stream, in.Epoch, pattern, from}
	if s := b.scans.take(key, n, bytes); s != nil {
		if r := s.next(ctx, n, bytes); r != nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, connectionError(ctx, ctx.Err())
		}
	}
	r, err := b.getThrough(ctx, stream, getRequest{Seq: from, Next: pattern, Batch: n, MaxBytes: bytes}, upTo)
	if err == nil && len(r.messages) > 0 && n >= scanLeast && (r.guessed || r.pending >= uint64(scanPages*n)) {
		key.from = r.last() + 1
		pages := scanPages
		if r.guessed { // the server refuses what it hasn't got
			pages = 1
		}
		b.scan(key, n, bytes, pages)
	}
	return r, err
}

// take gives a reader its scan, if there is one that asks for no more than the reader does.
func (x *scans) take(key scanKey, n, bytes int) *scan {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.waiting[key]
	if s == nil || s.n > n || s.bytes > bytes {
		return nil
	}
	delete(x.waiting, key)
	s.idle.Stop()
	return s
}

// put has a scan wait for its reader, and reports whether it may.
func (x *scans) put(s *scan, key scanKey, n, bytes int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || x.waiting[key] != nil {
		return false
	}
	s.key, s.n, s.bytes = key, n, bytes
	x.waiting[key] = s
	s.idle = time.AfterFunc(scanIdle, func() {
		x.mu.Lock()
		left := x.waiting[key] == s
		if left {
			delete(x.waiting, key)
		}
		x.mu.Unlock()
		if left {
			s.end()
		}
	})
	return true
}

// scan opens one that somebody may come for, if there is room. It doesn't wait.
func (b *backend) scan(key scanKey, n, bytes, pages int) {
	x := &b.scans
	x.mu.Lock()
	if x.closed || x.open[key.stream] >= maxScans || x.waiting[key] != nil || time.Now().Before(x.paused[key.anywhere()]) {
		x.mu.Unlock()
		return
	}
	x.open[key.stream]++
	x.ending.Add(1)
	x.mu.Unlock()
	inbox := b.rc.NewInbox()
	s := &scan{
		b: b, stream: key.stream, inbox: inbox, name: readerName("scan", inbox),
		opened: make(chan struct{}), pages: make(chan *getResult, scanAhead), coming: 1,
	}
	go s.open(key, n, bytes, pages)
	if !x.put(s, key, n, bytes) {
		s.end()
	}
}

// open makes the consumer and asks for the first pages.
func (s *scan) open(key scanKey, n, bytes, pages int) {
	defer close(s.opened)
	ctx, cancel := context.WithTimeout(context.Background(), pageTimeout)
	defer cancel()
	var err error
	s.sub, err = s.b.rc.Subscribe(s.inbox+".*", s.receive)
	if err == nil {
		err = s.sub.SetPendingLimits(-1, -1) // what is on its way is bounded
	}
	if err == nil {
		err = s.b.ask(ctx, "$JS.API.CONSUMER.CREATE."+key.stream+"."+s.name, readerOf(key.stream, s.name, key.pattern, key.from), nil)
	}
	if err == nil {
		err = s.ask(n, bytes, pages*n)
	}
	if err != nil {
		s.b.log.Debug("natsbus: a long read goes on without a consumer", "stream", key.stream, "error", err)
		s.pages <- nil
	}
}

// readerName makes the name of a consumer of an inbox, which is nobody else's.
func readerName(kind, inbox string) string {
	return "jitney-" + kind + "-" + strings.NewReplacer("_INBOX.", "", ".", "-").Replace(inbox)
}

// readerOf asks for a consumer that reads from a sequence on.
func readerOf(stream, name, pattern string, from uint64) map[string]any {
	config := map[string]any{
		"name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": from, "ack_policy": "none",
		"replay_policy": "instant", "inactive_threshold": inactive, "num_replicas": 1, "mem_storage": true,
	}
	if pattern != ">" { // which the server takes for more than the stream has
		config["filter_subject"] = pattern
	}
	return map[string]any{"stream_name": stream, "config": config}
}

// ask asks for pages, as many as may be on their way and as it takes to hold what is pending.
func (s *scan) ask(n, bytes, pending int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending -= n * len(s.pages) // no reader has had these yet
	for _, full := range s.fulls {
		pending -= full
	}
	for ; pending > 0 && len(s.fulls)+len(s.pages) < scanAhead; pending -= n {
		reply := s.inbox + "." + strconv.Itoa(s.coming+len(s.fulls))
		request := fmt.Appendf(nil, `{"batch":%d,"max_bytes":%d,"no_wait":true}`, n, bytes)
		if err := s.b.rc.PublishRequest(s.b.call("$JS.API.CONSUMER.MSG.NEXT."+s.stream+"."+s.name), reply, request); err != nil {
			return err
		}
		s.fulls = append(s.fulls, n)
	}
	return nil
}

// receive takes a message of the page that is coming, or the word that it is over.
func (s *scan) receive(m *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number, status := strings.CutPrefix(m.Subject, s.inbox+"."); status {
		n, err := strconv.Atoi(number)
		switch behind := n - s.coming; {
		case err != nil || behind < 0: // it was full
		case behind == 0:
			s.turnLocked()
		case behind < len(s.fulls):
			// Either the server has refused the page behind, or the one that is coming has ended without a word: it does
			// when the bytes are just enough. What has come counts, and the page behind doesn't come.
			s.fulls = s.fulls[:behind]
			if len(s.page.messages) > 0 {
				s.turnLocked()
			}
		}
		return
	}
	place, ok := parsePlace(m.Reply)
	if len(s.fulls) == 0 || !ok || place.consumed != s.consumed+1 {
		s.page = getResult{} // one was lost
		s.turnLocked()
		return
	}
	s.consumed = place.consumed
	s.page.add(m.Subject, place.sequence, place.time, m.Data, readable(m))
	s.page.pending = place.pending
	if len(s.page.messages) == s.fulls[0] {
		s.turnLocked()
	}
}

// turnLocked gives the page to the reader.
func (s *scan) turnLocked() {
	if len(s.fulls) == 0 {
		return
	}
	var page *getResult
	if len(s.page.messages) > 0 {
		page = new(getResult)
		*page = s.page
	}
	s.pages <- page // which has room for all that were asked for
	s.page, s.fulls = getResult{}, s.fulls[1:]
	s.coming++
}

// next returns the page, and asks for those behind it. It is nil when the reader must do without.
func (s *scan) next(ctx context.Context, n, bytes int) *getResult {
	timeout := time.NewTimer(pageTimeout)
	defer timeout.Stop()
	var page *getResult
	select {
	case page = <-s.pages:
	case <-timeout.C:
	case <-ctx.Done():
		s.end()
		return nil
	}
	if page == nil {
		s.b.scans.pause(s.key)
		s.end()
		return nil
	}
	key := s.key
	key.from = page.last() + 1
	if page.pending == 0 || s.ask(n, bytes, int(min(page.pending, math.MaxInt32))) != nil || !s.b.scans.put(s, key, n, bytes) {
		s.end()
	}
	page.pending = max(1, page.pending) // what has come meanwhile is behind it
	return page
}

// end removes the consumer. It doesn't wait.
func (s *scan) end() {
	go func() {
		x := &s.b.scans
		defer x.ending.Done()
		<-s.opened
		if s.sub != nil && !s.b.rc.IsClosed() {
			if err := s.sub.Unsubscribe(); err != nil {
				s.b.log.Warn("natsbus: unsubscribe", "stream", s.stream, "error", err)
			}
			s.b.removeConsumer(s.stream, s.name)
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.open[s.stream]--; x.open[s.stream] == 0 {
			delete(x.open, s.stream)
		}
	}()
}

// pause lets no scan of a pattern be opened for a while: it has failed.
func (x *scans) pause(key scanKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for other, until := range x.paused {
		if now.After(until) {
			delete(x.paused, other)
		}
	}
	x.paused[key.anywhere()] = now.Add(scanPause)
}

// close ends all of them.
func (x *scans) close() {
	x.mu.Lock()
	x.closed = true
	waiting := x.waiting
	x.waiting = nil
	x.mu.Unlock()
	for _, s := range waiting {
		s.idle.Stop()
		s.end()
	}
	x.ending.Wait()
}
