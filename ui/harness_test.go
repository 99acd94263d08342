package ui_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/ui"
	"github.com/jitney-go/jitney/ui/internal/client"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// logbook is a logger's output that tests can read while it is written.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// site is a running server.
type site struct {
	*testing.T
	app  *ui.App
	bus  bus.Bus
	base string
	log  *logbook
	stop func() error // ends Serve and returns what it returned
}

// patience is how long a test waits for what should come at once: the machine may be busy.
const patience = time.Minute

// serve runs an App on a bus in memory, with a stream for chat.>, until the test ends. The server has our
// patience, too, unless a test shortens it: else it would say "running" to whoever wants to read "done".
func serve(t *testing.T, o ui.Options, short ui.Shorten, setup func(v *ui.App)) *site {
	t.Helper()
	s := &site{T: t, app: ui.New(), log: &logbook{}}
	if o.Bus == nil && o.BusURL == "" {
		o.Bus = openBus(t)
	}
	s.bus = o.Bus
	if o.ServerAddress == "" {
		o.ServerAddress = "127.0.0.1:0"
	}
	if o.Streams == nil {
		o.Streams = []ui.StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 1000}}
	}
	o.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.app.Config(o)
	s.app.Shorten(ui.Shorten{Patience: patience, Unattached: patience, Write: patience, Shutdown: patience})
	s.app.Shorten(short)
	setup(s.app)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.app.Serve(ctx) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { require.NoError(t, s.stop()) })
	address := s.app.Addr()
	require.NotEmpty(t, address)
	s.base = "http://" + address
	return s
}

func openBus(t *testing.T) bus.Bus {
	t.Helper()
	b, err := membus.Open(0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

func jsonUnmarshal(text string, into any) error { return json.Unmarshal([]byte(text), into) }

// eventually waits for a condition.
func (s *site) eventually(condition func() bool, what string) {
	s.Helper()
	require.Eventually(s, condition, patience, time.Millisecond, what)
}

// browser is a user agent with cookies of its own.
type browser struct {
	*site
	client *http.Client
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(s, err)
	transport := &http.Transport{}
	s.Cleanup(transport.CloseIdleConnections)
	return &browser{s, &http.Client{Jar: jar, Transport: transport}}
}

// What a browser knows, in short words.
type (
	value   = client.Value
	signals = client.Signals
	event   = client.Event
)

// doc is a document in a browser.
type doc struct {
	*browser
	path   string
	status int
	source string
	key    string
	n      int

	mu sync.Mutex
	client.Document
	frames []event
	bad    error
}

var (
	keys   int
	keysMu sync.Mutex
)

// doc is what somebody makes up who knows the id and the key of a tab.
func (b *browser) doc(tab, key string) *doc {
	return &doc{browser: b, key: key, Document: client.Document{Tab: tab}}
}

func newKey() string {
	keysMu.Lock()
	defer keysMu.Unlock()
	keys++
	return fmt.Sprintf("key-%020d", keys)
}

func (b *browser) get(path string, header ...string) (*http.Response, string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), "GET", b.base+path, nil)
	require.NoError(b, err)
	return b.do(req, header...)
}

func (b *browser) do(req *http.Request, header ...string) (*http.Response, string) {
	b.Helper()
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := b.client.Do(req)
	require.NoError(b, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(b, err)
	require.NoError(b, res.Body.Close())
	return res, string(body)
}

func (b *browser) post(path, word string, body any, header ...string) (*http.Response, string) {
	b.Helper()
	data, err := json.Marshal(body)
	require.NoError(b, err)
	req, err := http.NewRequestWithContext(b.Context(), "POST", b.base+path, bytes.NewReader(data))
	require.NoError(b, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Jitney", word)
	return b.do(req, header...)
}

// open loads a page.
func (b *browser) open(path string) *doc {
	b.Helper()
	res, body := b.get(path)
	d := &doc{browser: b, path: path, status: res.StatusCode, source: body, key: newKey()}
	var err error
	d.Document, err = client.ParseDocument(body)
	require.NoError(b, err, body)
	return d
}

// stream is a browser's event stream, read by a client that others wrote.
type stream struct {
	*browser
	w    string
	s    int
	docs map[string]*doc

	mu     sync.Mutex
	events []event
	cancel context.CancelFunc
	ended  <-chan struct{}
}

func (d *doc) entry() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("%s.%s.%d", d.Tab, d.key, d.Version)
}

// connect opens the s-th stream of worker w for docs.
func (b *browser) connect(w string, s int, docs ...*doc) *stream {
	b.Helper()
	path := fmt.Sprintf("/_ui/stream?w=%s&s=%d", w, s)
	for _, d := range docs {
		path += "&t=" + d.entry()
	}
	return b.connectTo(path, w, s, docs...)
}

func (b *browser) connectTo(path, w string, s int, docs ...*doc) *stream {
	b.Helper()
	st := &stream{browser: b, w: w, s: s, docs: map[string]*doc{}}
	for _, d := range docs {
		st.docs[d.Tab] = d
	}
	var ctx context.Context
	ctx, st.cancel = context.WithCancel(context.Background())
	var err error
	st.ended, err = client.Follow(ctx, b.client, b.base+path, st.take)
	b.Cleanup(st.close)
	require.NoError(b, err)
	return st
}

func (st *stream) close() {
	st.cancel()
	<-st.ended
}

func (st *stream) take(e event) {
	st.mu.Lock()
	st.events = append(st.events, e)
	st.mu.Unlock()
	if d := st.docs[e.Tab]; d != nil && e.IsFrame() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.frames = append(d.frames, e)
		if err := d.Apply(e); d.bad == nil {
			d.bad = err
		}
	}
}

// shows waits until the document shows part.
func (d *doc) shows(part string) {
	d.Helper()
	d.eventually(func() bool { return strings.Contains(d.view(), part) }, "show "+part)
	d.mu.Lock()
	defer d.mu.Unlock()
	require.NoError(d, d.bad)
}

func (d *doc) view() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.HTML
}

func (d *doc) signal(id string) any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Signals[id].V
}

// got waits for an event.
func (st *stream) got(what string, match func(e event) bool) event {
	st.Helper()
	var e event
	st.eventually(func() (found bool) { e, found = st.find(match); return found }, what)
	return e
}

// find returns the first event that matches, if it has come.
func (st *stream) find(match func(e event) bool) (event, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, e := range st.events {
		if match(e) {
			return e, true
		}
	}
	return event{}, false
}

// over reports whether the stream has ended.
func (st *stream) over() bool {
	select {
	case <-st.ended:
		return true
	default:
		return false
	}
}

// answer is what an action is answered.
type answer struct {
	code   int
	Tab    string
	N      int
	Status string
	Error  string
}

// act sends the document's next action.
func (d *doc) act(action string, s signals) answer {
	d.Helper()
	d.n++
	return d.send(d.n, action, s)
}

// done sends the document's next action, and asks again, as a browser does, until it is done.
func (d *doc) done(action string, s signals) answer {
	d.Helper()
	d.n++
	var a answer
	d.eventually(func() bool { a = d.send(d.n, action, s); return a.Status == "done" }, "it is done")
	return a
}

func (d *doc) once(n int) string { return fmt.Sprintf("secret-%s-%d", d.key, n) }

func (d *doc) send(n int, action string, s signals) answer {
	d.Helper()
	return d.sendOnce(n, action, d.once(n), s)
}

func (d *doc) sendOnce(n int, action, once string, s signals) answer {
	d.Helper()
	res, body := d.post("/_ui/act", "act", map[string]any{
		"tab": d.Tab, "key": d.key, "n": n, "act": action, "once": once, "signals": s,
	})
	a := answer{code: res.StatusCode}
	require.NoError(d, json.Unmarshal([]byte(body), &a), body)
	require.Equal(d, d.Tab, a.Tab)
	require.Equal(d, n, a.N)
	return a
}
