package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"time"
)

// encodeText is marshal for what always encodes.
func encodeText(v any) string {
	data, err := marshal(v)
	if err != nil {
		panic("ui: a message doesn't encode: " + err.Error()) // its types leave no room for that
	}
	return string(data)
}

// reply answers with JSON. It says nothing about caching: nobody keeps the answer to a post, and for
// a script that was answered "no-store" Chromium doesn't put its page into the back/forward cache.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write([]byte(encodeText(v))); err != nil {
		return // the browser asks again
	}
}

// read decodes the JSON body of a post of our own script into v, or answers why not.
func (v *App) read(w http.ResponseWriter, r *http.Request, into any) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" || r.Header.Get("X-Jitney") == "" {
		http.Error(w, "Want application/json and the header X-Jitney.", http.StatusUnsupportedMediaType)
		return false
	}
	body, ok := v.body(w, r)
	if !ok {
		return false
	}
	if err := json.Unmarshal(body, into); err != nil {
		http.Error(w, "The body is not what was agreed on.", http.StatusBadRequest)
		return false
	}
	return true
}

// body reads the body of a post, or answers why it can't.
func (v *App) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	// A body that trickles in must not hold the connection for ever.
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(v.limits.write)); err != nil {
		v.log.Debug("ui: no deadline for a body", "error", err)
	} else {
		defer func() {
			// The server goes on reading, to learn of a browser that goes away.
			if err := rc.SetReadDeadline(time.Time{}); err != nil {
				v.log.Debug("ui: the deadline of a body stays", "error", err)
			}
		}()
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, v.opts.MaxBody)); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			http.Error(w, "The body is too large.", http.StatusRequestEntityTooLarge)
		} else {
			http.Error(w, "The body didn't arrive.", http.StatusBadRequest)
		}
		return nil, false
	}
	return body.Bytes(), true
}

// refuse answers for a server that can't take another tab now.
func (v *App) refuse(w http.ResponseWriter, err error) {
	v.log.Warn("ui: a page was refused", "error", err)
	w.Header().Set("Retry-After", "1")
	http.Error(w, "This page can't be opened just now: "+err.Error()+".", http.StatusServiceUnavailable)
}

// identity is how a document names its tab.
type identity struct {
	Tab string `json:"tab"`
	Key string `json:"key"`
}

// tab returns the tab that the request may use, or nil.
func (v *App) tab(w http.ResponseWriter, r *http.Request, id identity) *tab {
	session := v.session(w, r)
	if t := v.tabs.find(id.Tab); t != nil && t.admit(session, id.Key) {
		return t
	}
	return nil
}

// answer is what became of a numbered action, for its browser.
type answer struct {
	Tab    string `json:"tab"`
	N      uint64 `json:"n"`
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
}

// serveAct runs a numbered action, or tells what became of it.
func (v *App) serveAct(w http.ResponseWriter, r *http.Request) {
	var a struct {
		identity
		numbered
	}
	if !v.read(w, r, &a) {
		return
	}
	if a.N == 0 || !onceForm.MatchString(a.Once) {
		http.Error(w, "Want a number from 1 and a once.", http.StatusBadRequest)
		return
	}
	say := func(code int, status string, err error) {
		if status == "again" {
			w.Header().Set("Retry-After", "1")
		}
		reply(w, code, answer{a.Tab, a.N, status, message(err)})
	}
	t := v.tab(w, r, a.identity)
	if t == nil {
		say(http.StatusGone, "gone", nil)
		return
	}
	t.touch()
	if err := v.fit(sizeOf(a.Signals)); err != nil {
		say(http.StatusRequestEntityTooLarge, "done", err)
		return
	}
	run, first, err := t.submit(a.numbered, t.limiter.Allow)
	switch {
	case errors.Is(err, errGone):
		say(http.StatusGone, "gone", nil)
		return
	case errors.Is(err, errRate):
		say(http.StatusTooManyRequests, "again", nil)
		return
	case err != nil:
		say(http.StatusServiceUnavailable, "again", nil)
		return
	}
	if first {
		patience := time.NewTimer(v.limits.patience)
		defer patience.Stop()
		select {
		case <-run.done:
		case <-patience.C:
		case <-r.Context().Done():
		}
	}
	switch {
	case t.waitLonger(run):
		say(http.StatusAccepted, "running", nil)
	case errors.Is(run.err, errGone):
		say(http.StatusGone, "gone", nil)
	case run.unknown:
		say(http.StatusServiceUnavailable, "again", nil)
	case isFull(run.err):
		say(http.StatusRequestEntityTooLarge, "done", run.err)
	default:
		say(http.StatusOK, "done", run.err)
	}
}

// serveSeen notes that a browser reads its stream.
func (v *App) serveSeen(w http.ResponseWriter, r *http.Request) {
	var seen struct {
		W string `json:"w"`
		S uint64 `json:"s"`
	}
	if !v.read(w, r, &seen) {
		return
	}
	if st := v.tabs.current(v.session(w, r), seen.W); st != nil && st.s == seen.S {
		st.seen.Store(time.Now().UnixNano())
	}
	w.WriteHeader(http.StatusNoContent)
}

// serveBye takes a tab out of its stream and runs what its browser had still queued. The tab
// stays for its time to live: its document may come back.
func (v *App) serveBye(w http.ResponseWriter, r *http.Request) {
	var bye struct {
		identity
		W    string     `json:"w"`
		S    uint64     `json:"s"`
		Acts []numbered `json:"acts"`
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBye)
	if !v.read(w, r, &bye) {
		return
	}
	defer w.WriteHeader(http.StatusNoContent)
	t := v.tab(w, r, bye.identity)
	if t == nil {
		return
	}
	t.touch()
	t.depart(bye.W, bye.S)
	if len(bye.Acts) > 0 && t.finishing.CompareAndSwap(false, true) {
		if !v.running.enter() {
			t.finishing.Store(false)
			return
		}
		go func() {
			defer v.running.leave()
			defer t.finishing.Store(false)
			t.finish(bye.Acts)
		}()
	}
}

// maxBye is as much as a page that is left can send.
const maxBye = 64 << 10

// depart takes the tab out of the stream that its document named, unless a newer one has it.
func (t *tab) depart(w string, s uint64) {
	t.mu.Lock()
	seat := t.seat
	stale := t.w != w || s < t.s
	t.mu.Unlock()
	if seat == nil || stale {
		return
	}
	t.stand(seat)
	seat.stream.abandon(seat)
}

// finish runs the actions that a document left behind, one after the other.
func (t *tab) finish(acts []numbered) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	go func() {
		select {
		case <-t.app.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	for _, a := range acts {
		if a.N == 0 || !onceForm.MatchString(a.Once) {
			continue
		}
		if err := t.limiter.Wait(ctx); err != nil {
			return // the tab or the server has ended
		}
		for {
			run, _, err := t.submit(a, func() bool { return true })
			if errors.Is(err, errBusy) {
				run = t.newest()
			} else if err != nil {
				t.log.Warn("ui: an action of a document that was left was not run", "action", a.Action, "error", err)
				return
			}
			select {
			case <-run.done:
			case <-t.ctx.Done():
				return
			}
			if err == nil {
				break
			}
		}
	}
}

func (t *tab) newest() *run {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.run
}
