package ui

import (
	"context"
	"errors"
	"html"
	"strings"
	"sync"
	"time"

	g "maragu.dev/gomponents"
)

// document is what a page's browser is given first.
type document struct {
	version uint64
	html    string
	title   string
	shape   string // empty while the page function runs
	signals map[string]signalValue
	focus   string
	err     error // the page function's
}

// begin runs the page function and renders the first view. It reports the document, unless
// nobody waits for it any more; then the view comes on the stream.
func (t *tab) begin(c *Context, report func(document) bool) {
	defer t.unlock()
	if t.ctx.Err() != nil {
		return
	}
	err := t.call("the page", func() error { t.page.fn(c); return nil })
	c.request, t.restored = nil, nil
	if err == nil && t.view == nil {
		err = errors.New("the page has no view: its function must call Context.View")
		t.log.Error("ui: page without a view")
	}
	t.ready = true
	t.mu.Lock()
	t.stale = false // what was synced so far is in the view that comes now
	t.mu.Unlock()
	if err != nil && t.view == nil {
		t.view = func() g.Node { return failure(err) }
	}
	text, renderErr := t.render()
	if renderErr != nil && err == nil {
		err = renderErr
		text = nodeText(failure(renderErr))
	}
	t.mu.Lock()
	if !t.ended && t.version == 0 && t.seat == nil {
		t.version, t.sent, t.titleSent = 1, text, t.title
	} else {
		t.stale = true
	}
	t.mu.Unlock()
	if !report(t.document(err)) {
		for _, s := range t.signals {
			s.changed = true
		}
		t.sync()
	}
}

// document describes the view as it was sent last. The caller holds the thread.
func (t *tab) document(err error) document {
	d := document{shape: t.shape(), signals: t.allSignals(), title: t.title, err: err}
	t.mu.Lock()
	defer t.mu.Unlock()
	d.version, d.html = t.version, t.sent
	for _, s := range t.signals {
		s.changed = false
		s.sentAt = max(s.sentAt, t.version)
	}
	return d
}

// failure is shown instead of a view that there isn't.
func failure(err error) g.Node {
	return g.Raw(`<p role="alert">` + html.EscapeString(err.Error()) + `</p>`)
}

// nodeText renders a node that can't fail.
func nodeText(n g.Node) string {
	var b strings.Builder
	if err := n.Render(&b); err != nil {
		return "" // a strings.Builder takes everything
	}
	return b.String()
}

// render runs the view. It waits for one of a few places, so that a thousand stale tabs are a queue;
// a view that takes long gives its place back. The caller holds the thread.
func (t *tab) render() (string, error) {
	if !t.ready || t.view == nil {
		return "", nil
	}
	select {
	case t.app.slots <- struct{}{}:
	case <-t.ctx.Done():
		return "", t.ctx.Err()
	}
	release := sync.OnceFunc(func() { <-t.app.slots })
	overdue := time.AfterFunc(t.app.limits.slot, release)
	defer release()
	defer overdue.Stop()
	var b strings.Builder
	t.mu.Lock()
	b.Grow(len(t.sent) + len(t.sent)/8)
	t.mu.Unlock()
	began := time.Now()
	err := t.call("the view", func() error {
		node := t.view()
		if node == nil {
			return nil
		}
		return node.Render(&b)
	})
	t.app.opts.Metrics.Rendered(t.page.path, time.Since(began), err)
	return strings.ToValidUTF8(b.String(), "\uFFFD"), err
}

// cut renders the newest view into a frame for the tab's place in a stream. It runs on a
// goroutine of its own, one at a time for each tab.
func (t *tab) cut() {
	if !t.lock(t.ctx) {
		return
	}
	defer t.unlock()
	text, err := t.render()
	if err != nil {
		if t.ctx.Err() != nil {
			return
		}
		if _, panicked := errors.AsType[*panicError](err); !panicked {
			t.log.Error("ui: the view failed", "error", err)
		}
		t.complain(err)
		t.mu.Lock()
		text = t.sent // the view stays as it was
		t.mu.Unlock()
	}
	for {
		t.mu.Lock()
		s, base, old := t.seat, t.version, t.sent
		edits := s != nil && s.have == base && t.clientText
		t.mu.Unlock()
		f := &frame{Tab: t.id}
		if edits && old != text {
			f.splice(base, old, text, t.app.limits.diffEffort)
		}
		if t.keep(f, s, base, text) {
			return
		}
	}
}

// splice fills in the edits from old to text, if they are fewer than the whole text.
func (f *frame) splice(base uint64, old, text string, effort int) {
	found, ok := diff(old, text, effort)
	size := 0
	for _, e := range found {
		size += len(e.Insert) + 16
	}
	if !ok || size > len(text)*3/4 {
		return
	}
	length, sum := checksum(text)
	f.Base, f.Edits, f.Len, f.Sum = &base, found, &length, &sum
}

// keep completes f and lays it down for the stream of s, unless the tab has changed places
// meanwhile; then it returns false.
func (t *tab) keep(f *frame, s *seat, base uint64, text string) bool {
	t.mu.Lock()
	if t.seat != s || t.version != base {
		t.mu.Unlock()
		return false
	}
	t.rendering = false
	if s == nil {
		t.stale = true
		t.mu.Unlock()
		return true
	}
	current := s.have == base
	switch {
	case f.Edits != nil:
	case current && text == t.sent:
		f.Base = &base
	default:
		f.HTML = &text
		t.clientText = true
	}
	f.Signals = t.signalsSince(s.have)
	if t.title != t.titleSent || !current {
		f.Title = t.title
	}
	f.Focus = t.focus
	if f.HTML == nil && f.Edits == nil && len(f.Signals) == 0 && f.Title == "" && f.Focus == "" {
		again := t.stale
		t.cutAt = time.Now() // a view that looks the same has cost as much
		t.mu.Unlock()
		if again {
			s.wake()
		}
		return true
	}
	t.version++
	f.Version = t.version
	t.sent, t.titleSent, t.focus = text, t.title, ""
	for _, sig := range t.signals {
		if sig.changed {
			sig.changed, sig.sentAt = false, t.version
		}
	}
	s.have = t.version
	t.frame = encode(f)
	t.cutAt = time.Now()
	t.mu.Unlock()
	s.wake()
	return true
}

// next returns what is to be written for the tab at its place s, the size of the frame and the errors that are among it, and
// asks for a render if the view is stale. It never waits for the tab's thread.
func (t *tab) next(s *seat) (events [][]byte, frame int, notes [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seat != s {
		return nil, 0, nil
	}
	if t.frame != nil {
		events = append(events, t.frame)
		frame = len(t.frame)
		t.frame = nil
		s.written = t.version
	}
	notes, t.notes = t.notes, nil
	events = append(events, notes...)
	if t.doneNote != nil {
		events = append(events, t.doneNote)
		t.doneNote = nil
	}
	if t.stale && !t.rendering {
		t.schedule()
	}
	return events, frame, notes
}

// schedule starts a render: at once when the tab was idle, otherwise a moment after the last one, since
// nobody sees a hundred views a second. The caller holds mu.
func (t *tab) schedule() {
	wait := t.app.limits.pace - time.Since(t.cutAt)
	if wait <= 0 {
		t.stale, t.rendering = false, true
		go t.cut()
		return
	}
	if t.pausing {
		return
	}
	t.pausing = true
	time.AfterFunc(wait, func() {
		t.mu.Lock()
		t.pausing = false
		s := t.seat
		t.mu.Unlock()
		if s != nil {
			s.wake()
		}
	})
}

// awaitThread takes the tab's thread within the patience that a request has.
func (t *tab) awaitThread(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, t.app.limits.patience)
	defer cancel()
	return t.lock(ctx)
}
