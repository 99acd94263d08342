package ui

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// stream is one browser's event stream, which carries all of its tabs. Its goroutine is
// that of its request; it waits for nothing but its connection.
type stream struct {
	session string
	w       string // names the browser's worker
	s       uint64 // counts its streams

	seen  atomic.Int64  // when the browser last said that it reads, in Unix nanoseconds
	bell  chan struct{} // rung when the queue isn't empty
	ended chan struct{} // closed when a newer stream takes this one's place
	said  []said        // errors that are on their way, of the stream's own goroutine

	mu    sync.Mutex
	seats map[*seat]struct{}
	queue []*seat // those that have something to say
	end   bool
	later bool // its browser is told to come back
}

// said are errors of a tab.
type said struct {
	tab   *tab
	notes [][]byte
}

// seat is a tab's place in a stream.
type seat struct {
	tab    *tab
	stream *stream

	// Guarded by the tab's mu.
	have    uint64 // the version that the browser has when all frames are written
	written uint64

	// Guarded by the stream's mu.
	queued   bool
	farewell []byte // the last event of this place
}

// wake lets the stream look after the tab. It doesn't wait.
func (s *seat) wake() { s.stream.enqueue(s, nil) }

// newest is the number of a stream that comes after all others, and fits into a float64.
const newest = 1<<53 - 1

// leave tells the stream that by has the tab now. The streams of another worker have numbers
// of their own: the one that came last is the newer one.
func (s *seat) leave(by *stream) {
	n := by.s
	if by.w != s.stream.w {
		n = newest
	}
	s.stream.enqueue(s, encode(leftEvent{Tab: s.tab.id, Left: true, S: n}))
}

// drop tells the stream that the tab has ended.
func (s *seat) drop() { s.stream.enqueue(s, encode(goneEvent{Tab: s.tab.id, Gone: true})) }

func (st *stream) enqueue(s *seat, farewell []byte) {
	st.mu.Lock()
	if farewell != nil {
		s.farewell = farewell
	}
	if !s.queued {
		s.queued = true
		st.queue = append(st.queue, s)
	}
	st.mu.Unlock()
	select {
	case st.bell <- struct{}{}:
	default:
	}
}

// collect returns what is to be written now.
func (st *stream) collect() []byte {
	st.mu.Lock()
	queue := st.queue
	st.queue = nil
	farewells := make([][]byte, len(queue))
	for i, s := range queue {
		s.queued = false
		farewells[i] = s.farewell
		if s.farewell != nil {
			delete(st.seats, s)
		}
	}
	st.mu.Unlock()
	var out []byte
	for i, s := range queue {
		events, frame, notes := s.tab.next(s)
		if frame > 0 {
			s.tab.app.opts.Metrics.Sent(s.tab.page.path, frame)
		}
		for _, event := range events {
			out = append(out, event...)
		}
		if notes != nil {
			st.said = append(st.said, said{s.tab, notes})
		}
		out = append(out, farewells[i]...)
	}
	return out
}

// heartbeat names the versions that were written.
func (st *stream) heartbeat() []byte {
	event := heartbeatEvent{Heartbeat: true, Versions: map[string]uint64{}}
	for _, s := range st.seated() {
		s.tab.checkSubscriptions()
		s.tab.mu.Lock()
		if s.tab.seat == s {
			event.Versions[s.tab.id] = s.written
		}
		s.tab.mu.Unlock()
	}
	return encode(event)
}

func (st *stream) seated() []*seat {
	st.mu.Lock()
	defer st.mu.Unlock()
	all := make([]*seat, 0, len(st.seats))
	for s := range st.seats {
		all = append(all, s)
	}
	return all
}

// abandon forgets a place that its tab has left.
func (st *stream) abandon(s *seat) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.seats, s)
}

// replace ends the stream because a newer one is there: of the same browser, or one too many
// of its session; then the browser may come back later.
func (st *stream) replace(later bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.end {
		st.end, st.later = true, later
		close(st.ended)
	}
}

// connectionKey is the key of a request's context under which its net.Conn is.
type connectionKey struct{}

// serveStream is a browser's event stream.
func (v *App) serveStream(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	number, err := strconv.ParseUint(query.Get("s"), 10, 64)
	list := query["t"]
	if err != nil || !validKey(query.Get("w")) || len(list) == 0 {
		http.Error(w, "bad stream address", http.StatusBadRequest)
		return
	}
	st := &stream{
		session: v.session(w, r), w: query.Get("w"), s: number,
		bell: make(chan struct{}, 1), ended: make(chan struct{}),
		seats: map[*seat]struct{}{},
	}
	st.seen.Store(time.Now().UnixNano())

	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Accel-Buffering", "no")
	if conn, ok := r.Context().Value(connectionKey{}).(*net.TCPConn); ok {
		if err := conn.SetWriteBuffer(v.limits.sendBuffer); err != nil {
			v.log.Debug("ui: the kernel's send buffer stays as it is", "error", err)
		}
	}
	out := &writer{w: w, rc: http.NewResponseController(w), patience: v.limits.write}

	other, excess, ok := v.tabs.stream(st, v.opts.MaxTabsPerSession)
	if !ok {
		// This one was overtaken on its way by a newer one of the same browser.
		for _, entry := range list {
			id, _, _ := strings.Cut(entry, ".")
			out.add(encode(leftEvent{Tab: id, Left: true, S: other.s}))
		}
		out.flush()
		return
	}
	defer v.leaveStream(st)
	out.add([]byte(":\n\n"))
	for i, entry := range list {
		if i >= v.opts.MaxTabsPerSession { // the others go on
			id, _, _ := strings.Cut(entry, ".")
			out.add(encode(goneEvent{Tab: id, Gone: true}))
			continue
		}
		out.add(v.seatTab(st, entry))
	}
	if other != nil {
		other.replace(false)
	}
	if excess != nil {
		v.log.Debug("ui: a stream made room for another one of its session")
		excess.replace(true)
	}
	v.runStream(r, st, out)
}

// seatTab gives the tab of TAB.KEY.VERSION a place in st, or returns why it has none.
func (v *App) seatTab(st *stream, entry string) []byte {
	id, rest, _ := strings.Cut(entry, ".")
	key, version, _ := strings.Cut(rest, ".")
	have, err := strconv.ParseUint(version, 10, 53)
	t := v.tabs.find(id)
	if err != nil || t == nil || !t.admit(st.session, key) {
		return encode(goneEvent{Tab: id, Gone: true})
	}
	s, newer := t.sit(st, have)
	switch {
	case s != nil:
		st.mu.Lock()
		st.seats[s] = struct{}{}
		st.mu.Unlock()
		s.wake()
		return nil
	case newer > 0:
		return encode(leftEvent{Tab: id, Left: true, S: newer})
	}
	return encode(goneEvent{Tab: id, Gone: true})
}

// runStream writes until the connection, the stream or the server ends.
func (v *App) runStream(r *http.Request, st *stream, out *writer) {
	heartbeat := time.NewTicker(v.limits.heartbeat)
	defer heartbeat.Stop()
	for {
		out.add(st.collect())
		if !out.flush() {
			for _, s := range st.said {
				s.tab.unsay(s.notes)
			}
			return
		}
		st.said = nil
		select {
		case <-st.bell:
		case <-heartbeat.C:
			if time.Since(time.Unix(0, st.seen.Load())) > v.limits.unseen {
				v.log.Debug("ui: a stream is closed: its browser hasn't said for long that it reads it")
				return
			}
			out.add(st.heartbeat())
		case <-v.closing:
			out.add(encode(laterEvent{Later: around(v.limits.later).Milliseconds()}))
			out.flush()
			return
		case <-st.ended:
			if st.later {
				// Sooner, and two that are one too many would do nothing but make room for each other.
				out.add(encode(laterEvent{Later: around(8 * v.limits.later).Milliseconds()}))
				out.flush()
			}
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (v *App) leaveStream(st *stream) {
	v.tabs.forget(st)
	for _, s := range st.seated() {
		s.tab.stand(s)
	}
}

// writer writes to a connection, with a deadline for every piece.
type writer struct {
	w        io.Writer
	rc       *http.ResponseController
	patience time.Duration
	pending  []byte
}

// piece is what a slow connection must take within the deadline.
const piece = 32 << 10

func (w *writer) add(events []byte) {
	if w.pending == nil {
		w.pending = events
		return
	}
	w.pending = append(w.pending, events...)
}

// flush writes what was added, and returns false when the connection doesn't take it.
func (w *writer) flush() bool {
	rest := w.pending
	w.pending = nil
	for len(rest) > 0 {
		n := min(piece, len(rest))
		if err := w.rc.SetWriteDeadline(time.Now().Add(w.patience)); err != nil {
			return false // without one a stuck browser would hold us for ever
		}
		if _, err := w.w.Write(rest[:n]); err != nil {
			return false
		}
		rest = rest[n:]
		if err := w.rc.Flush(); err != nil {
			return false
		}
	}
	return true
}
