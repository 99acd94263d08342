package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what should come at once: the machine may be busy. Nothing else
// bounds how long something takes.
const patience = time.Minute

// chromium is the one browser of a test run.
var chromium struct {
	ctx context.Context
	err error
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jitney-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := buildExamples(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stop := startChromium(filepath.Join(dir, "profile"))
	code := m.Run()
	stop()
	for began := time.Now(); ; { // goleak itself is patient for half a second
		err := goleak.Find()
		if err == nil || code != 0 {
			return code
		}
		if time.Since(began) > patience {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

var errNoChromium = errors.New("no Chromium here: apt-get install --no-install-recommends chromium fonts-liberation fonts-noto-color-emoji")

// startChromium starts the browser, or notes why there is none.
func startChromium(profile string) (stop func()) {
	bin := os.Getenv("JITNEY_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); bin == "" && err == nil {
			bin = path
		}
	}
	if bin == "" {
		chromium.err = errNoChromium
		return func() {}
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(bin), chromedp.DisableGPU, chromedp.UserDataDir(profile), chromedp.WindowSize(900, 600),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // Chromium refuses to start as root with it
	}
	alloc, cancelAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, _ := chromedp.NewContext(alloc)
	if err := chromedp.Do(ctx); err != nil {
		chromium.err = fmt.Errorf("%s doesn't start: %w", bin, err)
		return cancelAlloc
	}
	chromium.ctx = ctx
	return func() {
		if err := chromedp.Cancel(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "closing Chromium:", err)
		}
		cancelAlloc()
	}
}

// tab is a tab of a browser, on the way to a page or there.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	offline bool   // the console may complain that the server can't be reached or has refused something,
	excused string // and of what has this in it
	console []string
}

// newPerson opens a tab of somebody with cookies and connections of their own. What appears
// on its console as an error fails the test.
func newPerson(t *testing.T) *tab {
	t.Helper()
	if errors.Is(chromium.err, errNoChromium) && os.Getenv("CI") != "true" {
		t.Skip(chromium.err)
	}
	require.NoError(t, chromium.err)
	return openTab(t, chromium.ctx, chromedp.WithNewBrowserContext())
}

// another opens another tab of the same person.
func (b *tab) another() *tab {
	b.t.Helper()
	id := chromedp.FromContext(b.ctx).BrowserContextID
	return openTab(b.t, chromium.ctx, chromedp.WithExistingBrowserContext(id))
}

func openTab(t *testing.T, parent context.Context, opt chromedp.ContextOption) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, opt)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // a first call with a deadline would end the tab with it
	b := &tab{t: t, ctx: ctx}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.Type == chromedp.ConsoleLog || m.Type == chromedp.ConsoleInfo || m.Type == chromedp.ConsoleDebug {
				continue
			}
			line := m.String() + " " + m.URL
			b.mu.Lock()
			if (m.Source != "network" || !b.offline) && (b.excused == "" || !strings.Contains(line, b.excused)) {
				b.console = append(b.console, line)
			}
			b.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			b.picture("failed-" + strings.ReplaceAll(t.Name(), "/", "-"))
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.console) > 0 {
			t.Errorf("the console isn't empty:\n%s", strings.Join(b.console, "\n"))
		}
	})
	return b
}

// mayBeOffline is for tests that kill a server, which the browser notes on the console, or have it refuse something.
func (b *tab) mayBeOffline() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offline = true
}

// mayComplainOf lets lines with part in them stand on the console. They come there when they like: it is said beforehand.
func (b *tab) mayComplainOf(part string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.excused = part
}

// do runs browser actions, each of which must be quick.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

func (b *tab) open(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url))
}

// eval returns the value of an expression in the page.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	v, err := try[T](b, js)
	require.NoError(b.t, err, js)
	return v
}

// try is eval for those who ask again: a page that is about to be replaced may not answer.
func try[T any](b *tab, js string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](js))
}

// js runs statements in the page.
func (b *tab) js(code string) {
	b.t.Helper()
	eval[bool](b, "(() => {"+code+"; return true})()")
}

// waitFor waits until an expression in the page is true.
func (b *tab) waitFor(js string) {
	b.t.Helper()
	eventually(b.t, js, func() bool {
		ok, err := try[bool](b, "Boolean("+js+")")
		return err == nil && ok
	}, func() string {
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		body, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.documentElement.dataset.ui + '\\n' + document.body.innerHTML"))
		if err != nil {
			return err.Error()
		}
		return body
	})
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool, detail ...func() string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late.C:
			for _, d := range detail {
				what += "\n" + d()
			}
			require.FailNow(t, "waited in vain for "+what)
		}
	}
}

func (b *tab) typeText(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

func (b *tab) focus(selector string) {
	b.t.Helper()
	b.js("document.querySelector(" + quote(selector) + ").focus()")
}

// click clicks an element by the mouse. What comes or goes above it may have moved it before the mouse is there: then
// the mouse comes again.
func (b *tab) click(selector string) {
	b.t.Helper()
	eventually(b.t, "a click on "+selector, func() bool {
		b.js("window.missed = true; addEventListener('click', ev => missed = !ev.target.closest(" + quote(selector) + "), {capture: true, once: true})")
		b.do(chromedp.Click(chromedp.CSS(selector)))
		missed, err := try[bool](b, "Boolean(window.missed)")
		return err != nil || !missed // the click has led elsewhere, or here
	})
}

// compose puts text into the focused field as an input method does that isn't done yet.
func (b *tab) compose(text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	n := int64(len([]rune(text)))
	_, err := chromedp.Call(ctx, input.ImeSetComposition, input.ImeSetCompositionParams{Text: text, SelectionStart: n, SelectionEnd: n})
	require.NoError(b.t, err)
}

// commit ends a composition with text.
func (b *tab) commit(text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_, err := chromedp.Call(ctx, input.InsertText, input.InsertTextParams{Text: text})
	require.NoError(b.t, err)
}

// beforeLoad runs code in each document that the tab opens from now on, before its own.
func (b *tab) beforeLoad(code string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: code})
	require.NoError(b.t, err)
}

// back goes back by one page, which is to. It doesn't wait for a load event: a page from the back/forward
// cache has none.
func (b *tab) back(to string) {
	b.t.Helper()
	b.js("setTimeout(() => history.back())")
	b.waitFor("location.href === " + quote(to))
}

// crash kills the tab's process. The browser doesn't answer that, but it tells that it has happened.
func (b *tab) crash() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	require.NoError(b.t, chromedp.Listen(ctx, func(ev any) {
		if _, crashed := ev.(*inspector.EventTargetCrashed); crashed {
			cancel()
		}
	}))
	_, err := chromedp.Call(ctx, page.Crash, cdp.Empty{})
	require.ErrorIs(b.t, err, context.Canceled)
}

// picture saves what the tab shows as shots/NAME.png.
func (b *tab) picture(name string) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Logf("no picture of %s: %v", name, err)
		return
	}
	require.NoError(b.t, os.MkdirAll("shots", 0o755))
	require.NoError(b.t, os.WriteFile(filepath.Join("shots", name+".png"), png, 0o644))
}

// quote returns s as a JavaScript literal.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always encodes
	}
	return string(b)
}
