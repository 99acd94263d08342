package ui_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/r3labs/sse/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/ui"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/r3labs/sse/v2.(*Client).readLoop"))
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

// value is a signal on the wire.
type value struct {
	V   any
	Rev uint64
}

func (v value) MarshalJSON() ([]byte, error) { return json.Marshal([]any{v.V, v.Rev}) }
func (v *value) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&v.V, &v.Rev})
}

type signals map[string]value

// doc is a document in a browser.
type doc struct {
	*browser
	path   string
	status int
	title  string
	source string
	tab    string
	key    string
	shape  string
	n      int

	mu      sync.Mutex
	version uint64
	text    *string // as the stream sent it; nil until then
	html    string  // what the user sees
	signals signals
	frames  []event
	bad     error
}

var (
	metaPattern  = regexp.MustCompile(`<meta name="jitney" content="([^"]*)">`)
	titlePattern = regexp.MustCompile(`<title>([^<]*)</title>`)
	keys         int
	keysMu       sync.Mutex
)

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
	match := metaPattern.FindStringSubmatch(body)
	require.NotNil(b, match, "no meta in %s", body)
	var meta struct {
		Tab, Shape, Worker string
		V                  uint64
		Signals            signals
	}
	require.NoError(b, json.Unmarshal([]byte(html.UnescapeString(match[1])), &meta))
	d.tab, d.shape, d.version, d.signals = meta.Tab, meta.Shape, meta.V, meta.Signals
	d.title = html.UnescapeString(titlePattern.FindStringSubmatch(body)[1])
	_, rest, ok := strings.Cut(body, `<div id="jitney-root">`)
	require.True(b, ok)
	d.html, _, ok = strings.Cut(rest, `</div><div id="jitney-status"`)
	require.True(b, ok)
	return d
}

// event is any event of a stream.
type event struct {
	Tab, HTML, Title, Focus, Error string
	V                              json.RawMessage
	Base                           *uint64
	Edits                          [][3]any
	Len                            int
	Sum                            uint32
	Signals                        signals
	Done                           uint64
	Gone, Left, HB                 bool
	S                              uint64
	Later                          int
	raw                            string
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
	ended  chan struct{}
}

func (d *doc) entry() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("%s.%s.%d", d.tab, d.key, d.version)
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
	st := &stream{browser: b, w: w, s: s, docs: map[string]*doc{}, ended: make(chan struct{})}
	for _, d := range docs {
		st.docs[d.tab] = d
	}
	client := sse.NewClient(b.base+path, sse.ClientMaxBufferSize(8<<20))
	client.Connection = b.client
	client.ReconnectStrategy = stop{}
	connected := make(chan error, 1)
	client.ResponseValidator = func(_ *sse.Client, res *http.Response) error {
		var err error
		if res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", res.StatusCode)
		}
		connected <- err
		return err
	}
	var ctx context.Context
	ctx, st.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(st.ended)
		err := client.SubscribeRawWithContext(ctx, func(e *sse.Event) { st.take(e.Data) })
		select {
		case connected <- err:
		default: // how a stream ends is the business of each test
		}
	}()
	b.Cleanup(st.close)
	require.NoError(b, <-connected)
	return st
}

// stop is a reconnect strategy: never.
type stop struct{}

func (stop) NextBackOff() time.Duration { return -1 }
func (stop) Reset()                     {}

func (st *stream) close() {
	st.cancel()
	<-st.ended
}

func (st *stream) take(data []byte) {
	e := event{raw: string(data)}
	if err := json.Unmarshal(data, &e); err != nil {
		e.Error = "the event is not JSON: " + err.Error()
	}
	st.mu.Lock()
	st.events = append(st.events, e)
	st.mu.Unlock()
	if d := st.docs[e.Tab]; d != nil && e.V != nil {
		d.apply(e)
	}
}

// apply is what the browser does with a frame, written independently of the server.
func (d *doc) apply(e event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frames = append(d.frames, e)
	var v uint64
	err := json.Unmarshal(e.V, &v)
	switch {
	case err != nil:
	case e.Edits != nil:
		switch {
		case d.text == nil:
			err = fmt.Errorf("edits without a text")
		case *e.Base != d.version:
			err = fmt.Errorf("edits against %d, not %d", *e.Base, d.version)
		default:
			*d.text, err = splice(*d.text, e.Edits, e.Len, e.Sum)
		}
	case e.Base != nil:
		if *e.Base != d.version {
			err = fmt.Errorf("signals against %d, not %d", *e.Base, d.version)
		}
	default:
		d.text = &e.HTML
	}
	if err != nil && d.bad == nil {
		d.bad = fmt.Errorf("%w in %s", err, e.raw)
	}
	if d.text != nil {
		d.html = *d.text
	}
	d.version = v
	for id, s := range e.Signals {
		if s.Rev >= d.signals[id].Rev {
			d.signals[id] = s
		}
	}
	if e.Title != "" {
		d.title = e.Title
	}
}

// splice applies edits in UTF-16 units, as JavaScript would.
func splice(text string, edits [][3]any, length int, sum uint32) (string, error) {
	old := utf16.Encode([]rune(text))
	var out []uint16
	from := 0
	for _, e := range edits {
		at, remove := int(e[0].(float64)), int(e[1].(float64))
		if at < from || at+remove > len(old) {
			return "", fmt.Errorf("edit at %d..%d of %d, after %d", at, at+remove, len(old), from)
		}
		out = append(out, old[from:at]...)
		out = append(out, utf16.Encode([]rune(e[2].(string)))...)
		from = at + remove
	}
	out = append(out, old[from:]...)
	hash := uint32(2166136261)
	for _, unit := range out {
		for _, half := range []uint16{unit & 0xFF, unit >> 8} {
			hash ^= uint32(half)
			hash *= 16777619
		}
	}
	if len(out) != length || hash != sum {
		return "", fmt.Errorf("length %d and sum %d, want %d and %d", len(out), hash, length, sum)
	}
	return string(utf16.Decode(out)), nil
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
	return d.html
}

func (d *doc) signal(id string) any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.signals[id].V
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
		"tab": d.tab, "key": d.key, "n": n, "act": action, "once": once, "signals": s,
	})
	a := answer{code: res.StatusCode}
	require.NoError(d, json.Unmarshal([]byte(body), &a), body)
	require.Equal(d, d.tab, a.Tab)
	require.Equal(d, n, a.N)
	return a
}
