package uitest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/jitney-go/jitney/ui/internal/client"
)

// Page is a page in a tab of a browser, with its event stream.
type Page struct {
	site    *Site
	t       testing.TB
	visitor *http.Client

	address *url.URL // of the page
	key     string
	stop    context.CancelFunc // ends the stream
	ended   <-chan struct{}
	n       int // actions that were called

	mu      sync.Mutex
	doc     client.Document
	told    map[string]uint64 // by signal, the revision that the server knows
	refused string            // why the last action was refused
	errors  []string          // what else the page has complained of
	done    map[int]string    // by number, the errors of actions that the stream has told of
	fault   error             // of the server: an event that makes no sense
	changed chan struct{}     // closed when any of this changes
}

// Open opens the page at path in another tab of the same browser.
func (p *Page) Open(path string) *Page {
	p.t.Helper()
	return p.site.open(p.visitor, path)
}

// load gets the document at path, and opens its stream.
func (p *Page) load(path string) {
	p.t.Helper()
	p.leave()
	res, err := p.visitor.Get(p.site.url + path)
	if err != nil {
		p.t.Fatalf("uitest: open %s: %v", path, err)
	}
	source, err := read(res)
	if err != nil {
		p.t.Fatalf("uitest: open %s: %v", path, err)
	}
	doc, err := client.ParseDocument(string(source))
	if err != nil || res.StatusCode != http.StatusOK {
		p.t.Fatalf("uitest: open %s: status %d: %s", path, res.StatusCode, source)
	}
	p.address, p.key, p.n = res.Request.URL, rand.Text(), 0
	p.mu.Lock()
	p.doc, p.told, p.refused, p.errors, p.done, p.changed = doc, map[string]uint64{}, "", nil, map[int]string{}, make(chan struct{})
	p.mu.Unlock()
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	stream := fmt.Sprintf("%s/_ui/stream?w=%s&s=1&t=%s.%s.%d", p.site.url, p.key, doc.Tab, p.key, doc.Version)
	if p.ended, err = client.Follow(ctx, p.visitor, stream, p.take); err != nil {
		p.t.Fatalf("uitest: open %s: %v", path, err)
	}
}

// read reads an answer to its end.
func read(res *http.Response) ([]byte, error) {
	body, err := io.ReadAll(res.Body)
	if closeErr := res.Body.Close(); err == nil {
		err = closeErr
	}
	return bytes.TrimSpace(body), err
}

// leave closes the stream.
func (p *Page) leave() {
	if p.stop != nil {
		p.stop()
		<-p.ended
		p.stop = nil
	}
}

// take notes what the stream says.
func (p *Page) take(e client.Event) {
	if e.HB {
		// An answer that isn't a 204 would be told on the stream as well.
		if res, err := p.post("seen", map[string]any{"w": p.key, "s": 1}); err == nil {
			_ = res.Body.Close() // it is empty
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case e.IsFrame():
		if err := p.doc.Apply(e); err != nil && p.fault == nil {
			p.fault = err
		}
	case e.Done > 0:
		p.done[int(e.Done)] = e.Error
	case e.Gone || e.Left:
		p.fault = fmt.Errorf("the server has ended the tab: %s", e.Raw)
	case e.Error != "":
		p.errors = append(p.errors, e.Error)
	}
	p.tell()
}

// tell wakes who waits for a change. The caller holds mu.
func (p *Page) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait waits until holds is true, which is called with mu held.
func (p *Page) wait(what string, holds func() bool) {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	p.mu.Lock()
	defer p.mu.Unlock() // also when the test fails here: the stream goes on until it is closed
	for !holds() {
		if p.fault != nil {
			p.t.Fatalf("uitest: %v", p.fault)
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
			p.mu.Lock()
		case <-late.C:
			p.mu.Lock()
			p.t.Fatalf("uitest: waited %s for %s; the page says:\n%s", patience, what, p.look().text)
		}
	}
}

// Text returns what stands on the page, a line for each block, with the errors that it shows at the end.
func (p *Page) Text() string { return p.now().text }

// now is what the page shows.
func (p *Page) now() sight {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.look()
}

// look is now for those who hold mu.
func (p *Page) look() sight { return see(p.doc.HTML, append([]string{p.refused}, p.errors...)) }

// Title returns the document's title.
func (p *Page) Title() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.doc.Title
}

// HTML returns the view as it was rendered.
func (p *Page) HTML() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.doc.HTML
}

// WaitText waits until text stands on the page or among its errors, within a block.
func (p *Page) WaitText(text string) {
	p.t.Helper()
	p.wait(strconv.Quote(text), func() bool { return strings.Contains(p.look().text, text) })
}

// WaitNoText waits until text doesn't stand there any more.
func (p *Page) WaitNoText(text string) {
	p.t.Helper()
	p.wait("the end of "+strconv.Quote(text), func() bool { return !strings.Contains(p.look().text, text) })
}

// Value returns what is in a field: "true" or "false" for one that is ticked or not.
func (p *Page) Value(field string) string {
	p.t.Helper()
	_, s := p.field(field)
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(p.doc.Signals[s].V)
}

// field returns a field and the signal that it is bound to.
func (p *Page) field(name string) (el *html.Node, signal string) {
	p.t.Helper()
	el, err := p.now().field(name)
	if err != nil {
		p.t.Fatalf("uitest: %v", err)
	}
	return el, attr(el, "data-bind")
}

// Fill enters text into a field, or picks the choice of a select by its text, and leaves the field, so that
// actions of [ui.Action.OnInput] and [ui.Action.OnChange] are called.
func (p *Page) Fill(field, text string) {
	p.t.Helper()
	el, s := p.field(field)
	if el.Data == "select" {
		choices := options(el)
		i := slices.IndexFunc(choices, func(c choice) bool { return c.text == text })
		if i < 0 {
			p.t.Fatalf("uitest: %q has no choice %q; it has %v", field, text, choices)
		}
		text = choices[i].value
	}
	p.enter(el, s, text)
}

// Tick ticks a checkbox or a radio button, or unticks a checkbox.
func (p *Page) Tick(field string, on bool) {
	p.t.Helper()
	el, s := p.field(field)
	switch kind := attr(el, "type"); {
	case kind == "checkbox":
		p.enter(el, s, on)
	case kind == "radio" && on:
		p.enter(el, s, attr(el, "value"))
	default:
		p.t.Fatalf("uitest: %q can't be ticked, or not like that", field)
	}
}

// enter changes a field as its user does.
func (p *Page) enter(el *html.Node, signal string, v any) {
	p.t.Helper()
	p.mu.Lock()
	p.change(signal, v)
	p.mu.Unlock()
	p.trigger(el, "input")
	p.trigger(el, "change")
}

// change enters a value into the field of a signal. The caller holds mu.
func (p *Page) change(signal string, v any) {
	s := p.doc.Signals[signal]
	if _, number := s.V.(float64); number {
		if n, err := strconv.ParseFloat(fmt.Sprint(v), 64); err == nil {
			v = n
		}
	}
	if s.V != v {
		p.doc.Signals[signal] = client.Value{V: v, Rev: s.Rev + 1}
	}
}

// Click clicks a button or a link. It returns when the action that it calls has ended, or the page that it leads to is
// there. What an action says is wrong stands among the page's errors until the next one is fine.
func (p *Page) Click(name string) {
	p.t.Helper()
	el, err := p.now().clickable(name)
	if err != nil {
		p.t.Fatalf("uitest: %v", err)
	}
	switch {
	case p.trigger(el, "click"):
	case submits(el):
		if form := closest(el, func(n *html.Node) bool { return isOneOf(n, "form") }); form == nil || !p.trigger(form, "submit") {
			p.t.Fatalf("uitest: %q submits no form that calls an action", name)
		}
	case el.Data == "a":
		to, err := p.address.Parse(attr(el, "href"))
		if err != nil || to.Host != p.address.Host {
			p.t.Fatalf("uitest: %q leads elsewhere: %s", name, attr(el, "href"))
		}
		p.load(to.RequestURI())
	default:
		p.t.Fatalf("uitest: %q calls no action", name)
	}
}

// trigger calls the action that an event of el calls, if there is one, and waits for its end.
func (p *Page) trigger(el *html.Node, event string) bool {
	p.t.Helper()
	el = closest(el, func(n *html.Node) bool { return has(n, "data-on-"+event) })
	if el == nil {
		return false
	}
	p.act(attr(el, "data-on-"+event), attr(el, "data-set"), strings.Fields(attr(el, "data-clear")))
	return true
}

// act calls an action with what the fields hold.
func (p *Page) act(action, set string, clear []string) {
	p.t.Helper()
	var values map[string]any
	if set != "" {
		if err := json.Unmarshal([]byte(set), &values); err != nil {
			p.t.Fatalf("uitest: the values that the action %s comes with: %v", action, err)
		}
	}
	p.mu.Lock()
	for id, v := range values {
		p.change(id, v)
	}
	news := client.Signals{}
	for id, s := range p.doc.Signals {
		if s.Rev > p.told[id] {
			news[id] = s
		}
	}
	taken := map[string]any{}
	for _, id := range clear {
		v := p.doc.Signals[id].V
		taken[id] = v
		p.change(id, empty(v))
	}
	tab := p.doc.Tab
	p.mu.Unlock()

	p.n++
	refused, err := p.ask(map[string]any{
		"tab": tab, "key": p.key, "n": p.n, "act": action, "once": p.key + "-" + strconv.Itoa(p.n), "signals": news,
	})
	if err != nil {
		p.t.Fatalf("uitest: the action %s wasn't answered: %v", action, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range news {
		p.told[id] = max(p.told[id], s.Rev)
	}
	if p.refused = refused; refused != "" {
		for id, v := range taken { // it is given back
			if p.doc.Signals[id].V == empty(v) {
				p.change(id, v)
			}
		}
	}
	p.tell()
}

func empty(v any) any {
	if _, ok := v.(bool); ok {
		return false
	}
	return ""
}

// ask posts the call of an action until it is answered, and returns why it was refused.
func (p *Page) ask(call map[string]any) (refused string, err error) {
	p.t.Helper()
	for began := time.Now(); time.Since(began) < patience; {
		res, err := p.post("act", call)
		if err != nil {
			return "", err
		}
		body, err := read(res)
		if err != nil {
			return "", err
		}
		var answer struct{ Status, Error string }
		if err := json.Unmarshal(body, &answer); err != nil {
			return "", fmt.Errorf("status %d: %s", res.StatusCode, body)
		}
		switch answer.Status {
		case "done":
			return answer.Error, nil
		case "running":
			p.wait("the end of an action", func() bool {
				var told bool
				refused, told = p.done[p.n]
				return told
			})
			return refused, nil
		case "again":
			time.Sleep(50 * time.Millisecond) // the rate is bounded, or the bus is away
		default:
			return "", fmt.Errorf("the tab is %s", answer.Status)
		}
	}
	return "", errLate
}

// post posts what the script of a page would.
func (p *Page) post(word string, body any) (*http.Response, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, p.site.url+"/_ui/"+word, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Jitney", word)
	return p.visitor.Do(req)
}
