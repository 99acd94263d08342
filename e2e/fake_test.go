package e2e

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
)

// fake plays the server for one page, so that a test decides what the browser's runtime
// is told. It has one tab at a time: the newest document's.
type fake struct {
	t   *testing.T
	srv *httptest.Server

	mu      sync.Mutex
	body    string         // of the document
	signals map[string]any // of the document
	tabs    int
	tab     string
	text    string // the view as it was sent last
	version int
	streams []*fakeStream // all that were opened
	posts   []post        // all, but for those of seen
	beats   int           // heartbeats that were sent, but for those of tests,
	seen    int           // and those of them that were seen
	answer  func(p post) (status int, answer any)
	hop     http.Handler // answers in place of the fake if set
	away    int
}

type fakeStream struct {
	query  url.Values
	events chan string
	done   <-chan struct{}
}

type post struct {
	Word    string // X-Jitney
	Tab     string
	Key     string
	N       int
	Act     string
	Once    string
	Shape   string
	Signals map[string][2]any
	Acts    []post
}

const strictCSP = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; " +
	"img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// newFake serves a document with the body and signals (id to value) and opens it in a new tab.
func newFake(t *testing.T, body string, signals map[string]any) (*fake, *tab) {
	t.Helper()
	f := &fake{t: t, body: body, signals: signals}
	f.answer = func(p post) (int, any) { return http.StatusOK, f.ok(p) }
	f.serve() // before its visitor, who then leaves first
	b := newPerson(t)
	b.open(f.srv.URL)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	return f, b
}

func (f *fake) serve() {
	f.srv = httptest.NewServer(f)
	f.t.Cleanup(f.srv.Close)
	f.t.Cleanup(f.srv.CloseClientConnections)
}

func (f *fake) ok(p post) any { return map[string]any{"tab": p.Tab, "n": p.N, "status": "done"} }

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	hop := f.hop
	f.mu.Unlock()
	if hop != nil {
		hop.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case r.Method == http.MethodPost:
		f.servePost(w, r)
	case r.URL.Path == "/_ui/stream":
		f.serveStream(w, r)
	case strings.HasPrefix(r.URL.Path, "/_ui/"):
		http.ServeFile(w, r, "../ui/runtime/"+strings.TrimPrefix(r.URL.Path, "/_ui/"))
	case r.URL.Path == "/":
		f.serveDocument(w)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) newTab() {
	f.tabs++
	f.tab, f.version, f.text = fmt.Sprintf("TAB%d", f.tabs), 0, ""
}

func (f *fake) firstSignals() map[string]any {
	all := map[string]any{}
	for id, v := range f.signals {
		all[id] = []any{v, 0}
	}
	return all
}

func (f *fake) serveDocument(w http.ResponseWriter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newTab()
	meta, err := json.Marshal(map[string]any{"tab": f.tab, "shape": "S", "v": 0, "signals": f.firstSignals(), "worker": "/_ui/worker.js"})
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Security-Policy", strictCSP)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!doctype html><html lang="en"><head><title>fake</title><meta name="jitney" content="%s">`+
		`<link rel="icon" href="/_ui/icon.svg"><link rel="stylesheet" href="/_ui/ui.css"><script src="/_ui/morph.js" defer></script>`+
		`<script src="/_ui/scroll.js" defer></script><script src="/_ui/echo.js" defer></script><script src="/_ui/ui.js" defer></script></head>`+
		`<body><div id="jitney-root">%s</div><div id="jitney-status" role="status"></div></body></html>`, html.EscapeString(string(meta)), f.body)
}

func (f *fake) serveStream(w http.ResponseWriter, r *http.Request) {
	s := &fakeStream{query: r.URL.Query(), events: make(chan string, 100), done: r.Context().Done()}
	f.mu.Lock()
	f.streams = append(f.streams, s) // before the browser knows that it stands
	f.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	http.NewResponseController(w).Flush()
	beat := time.NewTicker(15 * time.Second) // a browser that hears nothing for long opens another stream
	defer beat.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-beat.C:
			f.countBeat()
			fmt.Fprint(w, "data: {\"hb\":true}\n\n")
		case data, ok := <-s.events:
			if !ok {
				return
			}
			fmt.Fprintf(w, "data: %s\n\n", data)
		}
		http.NewResponseController(w).Flush()
	}
}

func (f *fake) servePost(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.URL.Path == "/_ui/seen" {
		f.mu.Lock()
		f.seen++
		f.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	p := post{Word: r.Header.Get("X-Jitney")}
	if err := json.Unmarshal(body, &p); err != nil || r.Header.Get("Content-Type") != "application/json" {
		http.Error(w, "want JSON", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.posts = append(f.posts, p)
	answer := f.answer
	f.mu.Unlock()
	switch p.Word {
	case "bye":
		w.WriteHeader(http.StatusNoContent)
	case "open", "act":
		status, v := answer(p)
		if text, ok := v.(string); ok {
			http.Error(w, text, status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			return // the browser has given up waiting
		}
	default:
		http.Error(w, "unknown word", http.StatusBadRequest)
	}
}

// answers sets what actions and opens are answered: a text for something that isn't ours,
// or what becomes JSON.
func (f *fake) answers(fn func(p post) (status int, answer any)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = fn
}

// reopened makes the answer to an open: a new tab that shows markup.
func (f *fake) reopened(markup string) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newTab()
	return map[string]any{"tab": f.tab, "shape": "S", "v": 0, "title": "reopened", "html": markup, "signals": f.firstSignals()}
}

// posted returns the posts with a word.
func (f *fake) posted(word string) []post {
	f.mu.Lock()
	defer f.mu.Unlock()
	var some []post
	for _, p := range f.posts {
		if p.Word == word {
			some = append(some, p)
		}
	}
	return some
}

// waitPosts waits for as many posts with a word, and returns them.
func (f *fake) waitPosts(word string, n int) []post {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%d posts of %q", n, word), func() bool { return len(f.posted(word)) >= n })
	return f.posted(word)
}

func (f *fake) streamCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.streams)
}

// waitSeen sends a heartbeat and waits until the browser has seen it, and so what was sent before.
func (f *fake) waitSeen() {
	f.t.Helper()
	f.countBeat()
	f.send(map[string]any{"hb": true})
	eventually(f.t, "heartbeats to be seen", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.seen == f.beats
	})
}

func (f *fake) countBeat() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats++
}

func (f *fake) lastStream() *fakeStream {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams[len(f.streams)-1]
}

// send sends an event to the newest stream.
func (f *fake) send(event any) {
	f.t.Helper()
	f.lastStream().send(f.t, event)
}

func (s *fakeStream) send(t *testing.T, event any) {
	t.Helper()
	data, err := json.Marshal(event)
	require.NoError(t, err)
	s.events <- string(data)
}

// show sends a view as a whole, with the signals that the server has set ([value, rev]).
func (f *fake) show(markup string, signals ...map[string]any) {
	f.t.Helper()
	f.mu.Lock()
	f.version++
	f.text = markup
	event := map[string]any{"tab": f.tab, "v": f.version, "html": markup, "title": fmt.Sprintf("v%d", f.version)}
	if len(signals) > 0 {
		event["signals"] = signals[0]
	}
	f.mu.Unlock()
	f.send(event)
}

// showIn shows a view and waits until the tab has shown it.
func (f *fake) showIn(b *tab, markup string, signals ...map[string]any) {
	f.t.Helper()
	f.show(markup, signals...)
	b.waitFor(fmt.Sprintf("document.title === 'v%d'", f.version))
}

// edit sends splices.
func (f *fake) edit(edits [][3]any, next string) {
	f.t.Helper()
	f.send(f.splice(edits, next))
}

// splice makes the event of splices, with the right length and sum of the text that they should make.
func (f *fake) splice(edits [][3]any, next string) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	base := f.version
	f.version++
	f.text = next
	units := utf16.Encode([]rune(next))
	sum := uint32(2166136261)
	for _, u := range units {
		sum = (sum ^ uint32(u&0xFF)) * 16777619
		sum = (sum ^ uint32(u>>8)) * 16777619
	}
	return map[string]any{"tab": f.tab, "v": f.version, "base": base, "edits": edits, "len": len(units), "sum": sum,
		"title": fmt.Sprintf("v%d", f.version)}
}

// goAway makes the server unreachable: whoever connects is cut off.
func (f *fake) goAway() {
	f.mu.Lock()
	f.hop = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_ui/act" {
			f.mu.Lock()
			f.away++
			f.mu.Unlock()
		}
		panic(http.ErrAbortHandler)
	})
	f.mu.Unlock()
	f.srv.CloseClientConnections()
}

// actsAway returns how many actions were sent while the server was unreachable.
func (f *fake) actsAway() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.away
}

func (f *fake) comeBack() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hop = nil
}
