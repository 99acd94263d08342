package ui

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// serveForm runs the action of a form that a browser has sent by itself, since it runs no script: in
// a tab that lives for this request, with the form's values as signals. Then the browser is sent back to the
// page's address, or shown the page as it is with the action's error.
func (p *page) serveForm(w http.ResponseWriter, r *http.Request) {
	v := p.app
	if !ownDocument(w, r) {
		return
	}
	session := v.session(w, r)
	if !v.paces.allow(session, v.opts) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "That was too much at once. Go back, and send it again in a moment.", http.StatusTooManyRequests)
		return
	}
	body, ok := v.body(w, r)
	if !ok {
		return
	}
	a, signals, err := parseForm(r.URL.RequestURI(), body)
	if err != nil {
		http.Error(w, "The form is not one of this page. Go back, load the page again, and send it once more.", http.StatusBadRequest)
		return
	}
	t := newTab(p, session, "", signals)
	defer t.end()
	if _, err := v.tabs.add(t); err != nil {
		v.refuse(w, err)
		return
	}
	if d := t.open(r); d.err != nil {
		p.answer(w, t, d, http.StatusInternalServerError, "")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), v.limits.form)
	defer cancel()
	// What is too large is given back in its fields: the tab holds it for no longer than this request.
	if err = v.fit(sizeOf(signals)); err == nil {
		err = t.runForm(ctx, a)
	}
	if err == nil {
		header := w.Header()
		header.Set("Location", sameAddress(r.URL))
		header.Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	if errors.Is(err, errClosing) || ctx.Err() != nil || !t.lock(ctx) {
		v.log.Warn("ui: a form wasn't answered", "page", p.path, "error", err)
		w.Header().Set("Retry-After", "1")
		http.Error(w, "No answer came in time. Go back and send it again: it takes effect once.", http.StatusServiceUnavailable)
		return
	}
	d := document{shape: t.shape(), signals: t.allSignals(), title: t.title, focus: t.focus}
	text, renderErr := t.render()
	t.unlock()
	if d.html = text; renderErr != nil {
		d.html = nodeText(failure(renderErr))
	}
	p.answer(w, t, d, http.StatusUnprocessableEntity, err.Error())
}

// ownDocument answers requests for something else than a document.
func ownDocument(w http.ResponseWriter, r *http.Request) bool {
	if dest := r.Header.Get("Sec-Fetch-Dest"); dest != "" && dest != "document" {
		http.Error(w, "A page is a document of its own: it isn't given to a frame or a script.", http.StatusForbidden)
		return false
	}
	return true
}

// runForm runs the action unless the same form, with the same values, has done so within the last two minutes. It
// returns the action's error.
func (t *tab) runForm(ctx context.Context, a numbered) error {
	for {
		if !t.app.running.enter() {
			return errClosing
		}
		run, ours := t.app.onces.claim(a.Once)
		if ours {
			go t.act(run, a)
		} else {
			t.app.running.leave()
		}
		select {
		case <-run.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		// What has failed for another request is tried here, so that this page can say what is wrong.
		if ours || run.err == nil {
			return run.err
		}
	}
}

// parseForm returns the action that a form calls, and its values as signals.
func parseForm(address string, body []byte) (a numbered, signals map[string]signalValue, err error) {
	fields, err := url.ParseQuery(string(body))
	if err != nil {
		return a, nil, err
	}
	signals = make(map[string]signalValue, len(fields))
	for name, values := range fields {
		// Browsers end lines with two characters when they send a form, and nowhere else.
		text := strings.ReplaceAll(strings.ToValidUTF8(values[0], "\uFFFD"), "\r\n", "\n")
		signals[name] = signalValue{value: text}
	}
	action, set, hasSet := strings.Cut(fields.Get(actField), " ")
	if action == "" {
		return a, nil, errors.New("the form calls no action")
	}
	if hasSet {
		dec := json.NewDecoder(strings.NewReader(set))
		dec.UseNumber()
		var values map[string]any
		if err := dec.Decode(&values); err != nil {
			return a, nil, err
		}
		for name, value := range values {
			switch value.(type) {
			case string, bool, json.Number:
			default:
				return a, nil, errors.New("a signal's value is text, a bool or a number")
			}
			signals[name] = signalValue{value: value}
		}
	}
	once := fields.Get(onceField)
	if once == "" {
		once = newID() // not from a browser: each request is one of its own
	}
	// The values count, too: who goes back and sends something else means it.
	sum := sha256.Sum256([]byte(once + "\n" + address + "\n" + string(body)))
	return numbered{N: 1, Action: action, Once: base64.RawURLEncoding.EncodeToString(sum[:]), form: true}, signals, nil
}

// sameAddress is where the browser is, in words that hold behind a proxy that has changed the path, too.
func sameAddress(u *url.URL) string {
	path := u.EscapedPath()
	address := "./" + path[strings.LastIndexByte(path, '/')+1:]
	if u.RawQuery != "" {
		address += "?" + u.RawQuery
	}
	return address
}

// paces bounds the forms that each session sends.
type paces struct {
	mu        sync.Mutex
	bySession map[string]*rate.Limiter
}

// allow reports whether the session may send a form now. Sessions are as many as tabs may be: those that have been
// quiet for long are forgotten.
func (p *paces) allow(session string, o Options) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	limiter := p.bySession[session]
	if limiter == nil {
		if len(p.bySession) >= o.MaxTabs {
			now := time.Now()
			for other, l := range p.bySession {
				if l.TokensAt(now) >= float64(l.Burst()) {
					delete(p.bySession, other)
				}
			}
		}
		if len(p.bySession) >= o.MaxTabs {
			return false
		}
		if p.bySession == nil {
			p.bySession = map[string]*rate.Limiter{}
		}
		limiter = newLimiter(o)
		p.bySession[session] = limiter
	}
	return limiter.Allow()
}

// newLimiter bounds the actions of a tab, or the forms of a session.
func newLimiter(o Options) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(o.ActionsPerSecond), max(1, int(2*o.ActionsPerSecond)))
}
