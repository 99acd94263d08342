package ui

import (
	"context"
	"html"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
)

// page is a function that runs for each tab that opens its path.
type page struct {
	app  *App
	path string
	fn   func(c *Context)
}

// serveDocument answers with a new tab's document.
func (p *page) serveDocument(w http.ResponseWriter, r *http.Request) {
	v := p.app
	if !ownDocument(w, r) {
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		return // asking about a page opens no tab
	}
	t := newTab(p, v.session(w, r), "", nil)
	if _, err := v.tabs.add(t); err != nil {
		v.refuse(w, err)
		return
	}
	d := t.open(r)
	if d.err != nil {
		p.answer(w, t, d, http.StatusInternalServerError, "")
		return
	}
	p.answer(w, t, d, http.StatusOK, "")
}

// answer writes the document, with an error above the view if there is one.
func (p *page) answer(w http.ResponseWriter, t *tab, d document, status int, failure string) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := io.WriteString(w, p.write(t, d, failure)); err != nil {
		t.log.Debug("ui: the browser didn't take its document", "error", err)
	}
}

// write writes the document.
func (p *page) write(t *tab, d document, failure string) string {
	assets := &p.app.assets
	meta := encodeText(struct {
		Tab     string                 `json:"tab"`
		Shape   string                 `json:"shape"`
		Version uint64                 `json:"v"`
		Signals map[string]signalValue `json:"signals"`
		Worker  string                 `json:"worker"`
	}{t.id, d.shape, d.version, d.signals, assets.address("worker.js")})
	var b strings.Builder
	b.Grow(len(d.html) + len(meta) + 1024)
	for _, part := range []string{
		`<!doctype html><html lang="en" data-ui="connecting"><head><meta charset="utf-8">`,
		`<meta name="viewport" content="width=device-width, initial-scale=1"><title>`, html.EscapeString(d.title), `</title>`,
		`<meta name="jitney" content="`, html.EscapeString(meta), `">`,
		`<link rel="icon" type="image/svg+xml" href="`, assets.address("icon.svg"), `">`,
	} {
		b.WriteString(part)
	}
	for _, address := range assets.stylesheets() {
		b.WriteString(`<link rel="stylesheet" href="` + address + `">`)
	}
	for _, name := range scripts {
		b.WriteString(`<script defer src="` + assets.address(name) + `"></script>`)
	}
	b.WriteString(`</head><body><div id="jitney-root">`)
	if failure != "" {
		b.WriteString(`<p class="jitney-error" role="alert">` + html.EscapeString(failure) + `</p>`)
	}
	b.WriteString(forms(d.html, d.signals, d.focus, newID()))
	b.WriteString(`</div><div id="jitney-status" role="status" aria-live="polite"></div></body></html>`)
	return b.String()
}

// opening is a document that has lost its tab.
type opening struct {
	Key     string                 `json:"key"`
	Shape   string                 `json:"shape"`
	Signals map[string]signalValue `json:"signals"`
}

// servePost tells the posts of our script from those of forms.
func (p *page) servePost(w http.ResponseWriter, r *http.Request) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch word := r.Header.Get("X-Jitney"); {
	case word == "open":
		p.serveOpen(w, r)
	case word == "" && err == nil && kind == "application/x-www-form-urlencoded":
		p.serveForm(w, r)
	default:
		http.Error(w, "A page takes no posts but those of its own script and forms.", http.StatusMethodNotAllowed)
	}
}

// serveOpen gives a document that has lost its tab a new one.
func (p *page) serveOpen(w http.ResponseWriter, r *http.Request) {
	v := p.app
	var o opening
	if !v.read(w, r, &o) {
		return
	}
	if !validKey(o.Key) {
		http.Error(w, "bad key", http.StatusBadRequest)
		return
	}
	if err := v.fit(sizeOf(o.Signals)); err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	session := v.session(w, r)
	t := newTab(p, session, o.Key, o.Signals)
	existing, err := v.tabs.add(t)
	if err != nil {
		v.refuse(w, err)
		return
	}
	var d document
	if existing != nil {
		t.cancel()
		t = existing
		d = t.again(r.Context())
	} else {
		d = t.open(r)
	}
	if o.Shape != "" && d.shape != "" && o.Shape != d.shape {
		t.end()
		reply(w, http.StatusOK, struct {
			Reload bool `json:"reload"`
		}{true})
		return
	}
	reply(w, http.StatusOK, struct {
		Tab     string                 `json:"tab"`
		Shape   string                 `json:"shape"`
		Version uint64                 `json:"v"`
		Title   string                 `json:"title"`
		HTML    string                 `json:"html"`
		Signals map[string]signalValue `json:"signals"`
	}{t.id, d.shape, d.version, d.title, d.html, d.signals})
}

// open runs the page function and returns the document, an empty one if that takes too long.
func (t *tab) open(r *http.Request) document {
	v := t.app
	c := &Context{tab: t}
	c.request = r.Clone(context.WithoutCancel(r.Context()))
	c.request.Body = http.NoBody

	t.mu.Lock()
	t.startExpiry(v.limits.unattached)
	t.mu.Unlock()

	var mu sync.Mutex
	late := false
	reported := make(chan document, 1)
	go t.begin(c, func(d document) bool {
		mu.Lock()
		defer mu.Unlock()
		if !late {
			reported <- d
		}
		return !late
	})
	patience := time.NewTimer(v.limits.patience)
	defer patience.Stop()
	select {
	case d := <-reported:
		return d
	case <-patience.C:
	case <-r.Context().Done():
	}
	mu.Lock()
	late = true
	mu.Unlock()
	select {
	case d := <-reported:
		return d
	default:
		t.log.Warn("ui: the page function takes long; the page was served empty", "after", v.limits.patience)
		return document{title: v.opts.DocumentTitle}
	}
}

// again describes a tab to the document that it was opened for, which missed the answer.
func (t *tab) again(ctx context.Context) document {
	if !t.awaitThread(ctx) {
		return document{title: t.app.opts.DocumentTitle}
	}
	defer t.unlock()
	return t.document(nil)
}
