package ui

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync"

	g "maragu.dev/gomponents"
)

// Context is a page in one tab. Its methods are called on the tab's thread (in the page function, an
// action, a subscription's handler, a view), except Sync and Context, which may be
// called anywhere.
type Context struct {
	tab     *tab
	request *http.Request
}

// Signal creates a signal with an initial value, which is a string, a bool or a number. When the tab
// continues another one (after a restart of the server), it has the browser's value instead.
// Signal panics outside the page function.
func (c *Context) Signal(initial any) *Signal {
	c.opening("Signal")
	t := c.tab
	s := newSignal("s"+strconv.Itoa(len(t.signals)+1), initial)
	if v, ok := t.restored[s.id]; ok {
		s.take(v)
	}
	t.signals = append(t.signals, s)
	return s
}

// Action creates an action. fn runs on the tab's thread, with the signals as the browser had them
// when the event happened; then the view is rendered. Its error is shown to the user, and logged.
// An action that the browser sends twice runs once, except one whose error is
// [bus.ErrUnknownOutcome]: that is run again, under the same Once.
// Action panics outside the page function.
func (c *Context) Action(fn func() error) *Action {
	c.opening("Action")
	t := c.tab
	t.actions = append(t.actions, fn)
	return &Action{id: "a" + strconv.Itoa(len(t.actions))}
}

// View sets the function that renders the page. It should only read.
func (c *Context) View(fn func() g.Node) { c.tab.view = fn }

// Sync lets the view be rendered again, soon, and returns at once. A thousand calls are
// as good as one.
func (c *Context) Sync() { c.tab.sync() }

// Title sets the document's title, with the next view.
func (c *Context) Title(title string) { c.tab.title = title }

// Focus moves the focus to the element with an id, once, with the next view: the
// field that needs mending, the row that took the place of a deleted one.
func (c *Context) Focus(id string) { c.tab.focus = id }

// Context ends with the tab.
func (c *Context) Context() context.Context { return c.tab.ctx }

// Request returns the request that opened the page, without its body, in the page function, and nil afterwards.
func (c *Context) Request() *http.Request { return c.request }

// Visitor returns a text that names the browser: it is the same in all of its tabs, after a reload and on other
// servers under the same address, until the browser forgets its cookies. It is no secret.
func (c *Context) Visitor() string {
	sum := sha256.Sum256([]byte("visitor " + c.tab.origin))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// Once returns a text that names what the user did, in an action: it is the same when that action runs again
// because its outcome was unknown, also on another server. Effects outside the bus that mustn't
// happen twice are stored under it. Elsewhere it is empty.
func (c *Context) Once() string {
	if c.tab.publishes == nil {
		return ""
	}
	return c.tab.publishes.id("")
}

func (c *Context) opening(what string) {
	if c.tab.ready {
		panic(fmt.Sprintf("ui: Context.%s was called outside the page function", what))
	}
}

// shape names what a document expects of its tab: a server whose shape of the page differs can't continue it.
// The caller holds the thread.
func (t *tab) shape() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%s\n%d\n", build(), t.app.assets.hash, t.page.path, len(t.actions))
	for _, s := range t.signals {
		fmt.Fprintf(sum, "%c", s.kind)
	}
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))[:16]
}

// build names the program: an action id of one build may mean something else to the next.
var build = sync.OnceValue(func() string {
	sum := sha256.New()
	path, err := os.Executable()
	if err == nil {
		var file *os.File
		if file, err = os.Open(path); err == nil {
			_, err = io.Copy(sum, file)
			if closeErr := file.Close(); err == nil {
				err = closeErr
			}
		}
	}
	if err != nil {
		// A program that can't read itself goes by what the linker noted.
		if info, ok := debug.ReadBuildInfo(); ok {
			return info.String()
		}
		return ""
	}
	return string(sum.Sum(nil))
})
