package e2e

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

const crud = "pubsub-crud"

// crudOnBothBuses runs a test with the bookmarks on the bus in memory and on the one on disk.
func crudOnBothBuses(t *testing.T, test func(t *testing.T, c *child)) {
	for name, args := range map[string][]string{
		"mem":  {"-bus", "mem:?tick=100ms"},
		"nats": {"-data", filepath.Join(t.TempDir(), "data")},
	} {
		t.Run(name, func(t *testing.T) {
			test(t, startExample(t, crud, args...))
		})
	}
}

// openLive opens a page and waits for its stream. The page remembers its toasts, which go away by themselves: what
// they said, and how many there were at once.
func (b *tab) openLive(url string) {
	b.t.Helper()
	b.open(url)
	b.waitOpen()
	b.js(`window.toasts = new Set();
		window.mostToasts = 0;
		new MutationObserver(() => {
			const now = [...document.querySelectorAll('.toast')];
			now.forEach(toast => toasts.add(toast.textContent));
			mostToasts = Math.max(mostToasts, now.length);
		}).observe(document.getElementById('jitney-root'), {childList: true, subtree: true})`)
}

// fill replaces what is in a field, as somebody does who types.
func (b *tab) fill(selector, text string) {
	b.t.Helper()
	b.focus(selector)
	b.js("document.activeElement.select()")
	if text == "" {
		b.typeText("\b")
		return
	}
	b.typeText(text)
}

func (b *tab) addBookmark(title, address string) {
	b.t.Helper()
	b.fill("#new-title", title)
	b.fill("#new-url", address)
	b.typeText("\r")
}

// row is an expression for the row of a title, and under is one for an element in it.
func row(title string) string {
	return "[...document.querySelectorAll('li')].find(l => l.querySelector('.title')?.textContent === " + quote(title) + ")"
}

func (b *tab) clickIn(title, selector string) {
	b.t.Helper()
	b.waitFor(row(title))
	b.js("window.clicked = " + row(title) + ".querySelector(" + quote(selector) + "); clicked.focus(); clicked.click()")
}

// waitTitles waits until the tab shows these bookmarks and no others, newest first.
func (b *tab) waitTitles(titles ...string) {
	b.t.Helper()
	want := quote("")
	for i, t := range titles {
		if i == 0 {
			want = quote(t)
		} else {
			want += "+'\\n'+" + quote(t)
		}
	}
	b.waitFor("[...document.querySelectorAll('li .title')].map(e => e.textContent).join('\\n') === " + want)
}

func (b *tab) waitToast(text string) {
	b.t.Helper()
	b.waitFor("toasts.has(" + quote(text) + ")")
}

func (b *tab) waitFocus(selector string) {
	b.t.Helper()
	b.waitFor("document.activeElement.matches(" + quote(selector) + ")")
}

func TestCrud_isLiveInEveryTab(t *testing.T) {
	crudOnBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.openLive(c.url)
		bob.openLive(c.url)
		ann.waitText(".empty", "There is nothing here yet")
		ann.addBookmark("Go", "https://go.dev/")
		bob.waitTitles("Go")
		bob.waitToast("“Go” was added.")
		ann.waitTitles("Go")
		require.Equal(t, "|", eval[string](ann, "document.querySelector('#new-title').value + '|' + document.querySelector('#new-url').value"))
		ann.addBookmark("NATS", "https://nats.io/")
		ann.addBookmark("Third", "http://example.com/a?b=c#d")
		bob.waitTitles("Third", "NATS", "Go")
		require.Equal(t, "http://example.com/a?b=c#d noopener noreferrer", eval[string](bob, "(a => a.href + ' ' + a.rel)("+row("Third")+".querySelector('a.title'))"))

		ann.clickIn("NATS", "a.button")
		ann.waitFocus("#title")
		require.Equal(t, "NATS", eval[string](ann, "document.querySelector('#title').value"))
		ann.fill("#title", "NATS.io")
		ann.typeText("\r")
		bob.waitTitles("Third", "NATS.io", "Go")
		bob.waitToast("“NATS” is “NATS.io” now.")
		ann.waitTitles("Third", "NATS.io", "Go")
		ann.waitFor("document.activeElement === " + row("NATS.io") + ".querySelector('a.button')")

		ann.clickIn("Third", "form button")
		bob.waitTitles("NATS.io", "Go")
		bob.waitToast("“Third” was deleted.")
		ann.waitFor("document.activeElement === " + row("NATS.io") + ".querySelector('.title')")
		ann.waitText("#undo-notice", "“Third” is deleted.")
		ann.focus("#undo")
		ann.typeText("\r")
		bob.waitTitles("Third", "NATS.io", "Go")
		bob.waitToast("“Third” is back.")
		ann.waitFor("document.activeElement === " + row("Third") + ".querySelector('.title')")
		ann.waitFor("!document.querySelector('#undo-notice')")
		require.Zero(t, eval[int](ann, "mostToasts"), "one's own doing is no news")
		require.False(t, eval[bool](bob, "Boolean(document.querySelector('[role=alert]'))"))

		ann.clickIn("Go", "form button")
		ann.waitFor("document.activeElement === " + row("NATS.io") + ".querySelector('.title')")
		ann.clickIn("NATS.io", "form button")
		ann.clickIn("Third", "form button")
		ann.waitFocus("#new-title")
		bob.waitTitles()
	})
}

func TestCrud_tellsTheLastThreeNews(t *testing.T) {
	crudOnBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.openLive(c.url)
		bob.openLive(c.url)
		// At once: each of them is told for ten seconds only.
		ann.js(`const [title, url] = document.querySelectorAll('#new-title, #new-url');
			for (const name of ['One', 'Two', 'Three', 'Four']) {
				title.value = name;
				url.value = 'https://example.com/' + name;
				for (const field of [title, url]) field.dispatchEvent(new Event('input', {bubbles: true}));
				title.form.requestSubmit();
			}`)
		bob.waitTitles("Four", "Three", "Two", "One")
		bob.waitToast("“Four” was added.")
		require.Equal(t, 3, eval[int](bob, "mostToasts"))
	})
}

func TestCrud_theSecondOfTwoEditorsIsToldAndLosesNothing(t *testing.T) {
	crudOnBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.openLive(c.url)
		bob.openLive(c.url)
		ann.addBookmark("Go", "https://go.dev/")
		for _, b := range []*tab{ann, bob} {
			b.clickIn("Go", "a.button")
			b.waitFocus("#title")
		}
		bob.fill("#title", "Bob's Go")
		ann.fill("#title", "Ann's Go")
		ann.fill("#url", "https://go.dev/ann")
		ann.typeText("\r")
		bob.waitText("#their-version", "Ann's Go")
		bob.waitText("#their-version", "https://go.dev/ann")
		bob.typeText("\r")
		bob.waitText("#jitney-alerts", "omebody else has saved this bookmark since you began")
		require.Equal(t, "Bob's Go", value(bob, "#title"))
		ann.waitTitles("Ann's Go")
		bob.click("#replace")
		ann.waitTitles("Bob's Go")
		bob.waitTitles("Bob's Go")

		ann.clickIn("Bob's Go", "a.button")
		ann.waitFocus("#title")
		ann.fill("#title", "mine")
		bob.clickIn("Bob's Go", "form button")
		ann.waitText("#conflict", "omebody else has deleted")
		require.Equal(t, "mine", value(ann, "#title"))
		ann.click("#replace")
		bob.waitTitles("mine")

		bob.clickIn("mine", "a.button")
		bob.waitFocus("#title")
		bob.fill("#title", "draft")
		ann.clickIn("mine", "a.button")
		ann.waitFocus("#title")
		ann.fill("#title", "theirs")
		ann.typeText("\r")
		bob.waitText("#their-version", "theirs")
		bob.click("#take")
		bob.waitFor("document.querySelector('#title').value === 'theirs' && !document.querySelector('#conflict')")
		bob.click("#cancel")
		bob.waitTitles("theirs")
	})
}

// press presses a key that isn't held for so long that what has the focus next hears of it, too.
func (b *tab) press(key string, code int64) {
	b.t.Helper()
	for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		p := input.DispatchKeyEventParams{Type: kind, Key: key, Code: key, WindowsVirtualKeyCode: code}
		if key == "Enter" && kind == input.DispatchKeyEventTypeKeyDown {
			p.Text = "\r"
		}
		ctx, cancel := context.WithTimeout(b.ctx, patience)
		_, err := chromedp.Call(ctx, input.DispatchKeyEvent, p)
		cancel()
		require.NoError(b.t, err)
	}
}

// tabTo goes on by the tabulator until an element has the focus.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	for range 40 {
		if eval[bool](b, "document.activeElement.matches("+quote(selector)+")") {
			return
		}
		b.press("Tab", 9)
	}
	require.FailNow(b.t, "the tabulator doesn't reach "+selector)
}

func TestCrud_needsNoMouse(t *testing.T) {
	c := startExample(t, crud, "-bus", "mem:")
	ann := newPerson(t)
	ann.openLive(c.url)
	ann.tabTo("#new-title")
	ann.typeText("Go")
	ann.press("Tab", 9)
	ann.typeText("https://go.dev/")
	ann.tabTo("#create")
	ann.press("Enter", 13)
	ann.waitTitles("Go")
	ann.tabTo("li .title")
	ann.tabTo("li a.button")
	ann.press("Enter", 13)
	ann.waitFocus("#title")
	ann.tabTo("#cancel")
	ann.press("Enter", 13)
	ann.waitFocus("li a.button")
	ann.tabTo("li form button")
	ann.press("Enter", 13)
	ann.waitText("#undo-notice", "“Go” is deleted.")
	ann.waitFocus("#new-title")
	ann.tabTo("#undo")
	ann.press("Enter", 13)
	ann.waitTitles("Go")
	ann.waitFocus("li .title")
}

func TestCrud_aKilledServerHasKeptEverything(t *testing.T) {
	c := startExample(t, crud, "-data", t.TempDir())
	ann, bob := newPerson(t), newPerson(t)
	ann.mayBeOffline()
	bob.mayBeOffline()
	ann.openLive(c.url)
	bob.openLive(c.url)
	ann.addBookmark("Go", "https://go.dev/")
	ann.addBookmark("NATS", "https://nats.io/")
	ann.addBookmark("Gone", "https://gone.example/")
	ann.clickIn("Gone", "form button")
	ann.waitText("#undo-notice", "“Gone” is deleted.")
	bob.waitTitles("NATS", "Go")
	bob.clickIn("Go", "a.button")
	bob.waitFocus("#title")
	bob.fill("#title", "half an edit")
	c.kill()
	c.start()
	for _, b := range []*tab{ann, bob} {
		b.waitFor("document.documentElement.dataset.ui === 'open'")
	}
	ann.waitTitles("NATS", "Go")
	require.Equal(t, "half an edit", value(bob, "#title"))
	bob.typeText("\r")
	ann.waitTitles("NATS", "half an edit")
	ann.click("#undo")
	bob.waitTitles("Gone", "NATS", "half an edit")
	late := newPerson(t)
	late.openLive(c.url)
	late.waitTitles("Gone", "NATS", "half an edit")
}

func TestCrud_twoInstancesShowTheSame(t *testing.T) {
	nats := freeAddress(t)
	one := startExample(t, crud, "-bus", "nats:"+filepath.Join(t.TempDir(), "data")+"?listen="+nats)
	two := startExample(t, crud, "-bus", "nats://"+nats)
	ann, bob := newPerson(t), newPerson(t)
	ann.openLive(one.url)
	bob.openLive(two.url)
	ann.addBookmark("Go", "https://go.dev/")
	bob.waitTitles("Go")
	bob.waitToast("“Go” was added.")
	bob.addBookmark("NATS", "https://nats.io/")
	ann.waitTitles("NATS", "Go")
	for _, b := range []*tab{ann, bob} {
		b.clickIn("Go", "a.button")
		b.waitFocus("#title")
	}
	ann.fill("#title", "Ann's Go")
	ann.typeText("\r")
	bob.waitText("#their-version", "Ann's Go")
	bob.fill("#title", "Bob's Go")
	bob.typeText("\r")
	bob.waitText("#jitney-alerts", "omebody else has saved this bookmark since you began")
	require.Equal(t, "Bob's Go", value(bob, "#title"))
	ann.waitTitles("NATS", "Ann's Go")
}

func TestCrud_memorySaysThatItIsOne(t *testing.T) {
	c := startExample(t, crud, "-bus", "mem:")
	ann := newPerson(t)
	ann.openLive(c.url)
	ann.waitText(".note", "when the server stops, they are gone")
	disk := startExample(t, crud, "-data", t.TempDir())
	ann.openLive(disk.url)
	require.False(t, eval[bool](ann, "Boolean(document.querySelector('.note'))"))
}

func TestCrud_whatIsWrongStandsNextToItsField(t *testing.T) {
	crudOnBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.openLive(c.url)
		bob.openLive(c.url)
		for _, address := range []string{"javascript:alert(1)", "data:text/html,x", "go.dev", "//go.dev", "https:", "ftp://go.dev/"} {
			ann.fill("#new-title", "Bad")
			ann.fill("#new-url", address)
			ann.focus("#create") // each answer moves the focus back
			ann.typeText("\r")
			ann.waitText("#new-url-wrong", "begins with https:// or http://")
			ann.waitFocus("#new-url[aria-invalid=true][aria-describedby=new-url-wrong]")
			ann.waitSent()
			require.Equal(t, address, value(ann, "#new-url"))
			require.Equal(t, "Bad", value(ann, "#new-title"))
		}
		ann.addBookmark("", "")
		ann.waitFocus("#new-title[aria-invalid=true]")
		ann.waitText("#new-title-wrong", "Give it a title")
		ann.waitText("#new-url-wrong", "Give it an address")
		evil := `<img src=x onerror=alert(1)>"'&`
		ann.addBookmark(evil, "https://example.com/<b>")
		for _, b := range []*tab{ann, bob} {
			b.waitTitles(evil)
			require.False(t, eval[bool](b, "Boolean(document.querySelector('#jitney-root img, #jitney-root b'))"))
		}
		bob.waitToast("“" + evil + "” was added.")
		ann.waitFor("!document.querySelector('[aria-invalid]') && !document.querySelector('[role=alert]')")
		ann.clickIn(evil, "a.button")
		ann.waitFocus("#title")
		require.Equal(t, evil, value(ann, "#title"))
		ann.fill("#url", "javascript:alert(1)")
		ann.typeText("\r")
		ann.waitFocus("#url[aria-invalid=true]")
		ann.click("#cancel")
		ann.waitTitles(evil)
		ann.clickIn(evil, "form button")
		ann.waitText("#undo-notice", evil)
	})
}

func TestCrud_aSearchIsInTheAddress(t *testing.T) {
	crudOnBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		bob.openLive(c.url)
		bob.addBookmark("Go", "https://go.dev/")
		bob.addBookmark("NATS & co", "https://nats.io/")
		bob.waitTitles("NATS & co", "Go")
		ann.openLive(c.url)
		ann.fill("#q", "nats &")
		ann.typeText("\r")
		ann.waitFor("location.search === '?q=nats+%26'")
		ann.waitTitles("NATS & co")
		ann.waitOpen()
		require.Equal(t, "nats &", value(ann, "#q"))
		bob.addBookmark("More NATS & more", "https://nats.io/more")
		ann.waitTitles("More NATS & more", "NATS & co")
		ann.fill("#q", "nothing like this")
		ann.typeText("\r")
		ann.waitText(".empty", "Nothing is found")
	})
}

// scripts lets the tab run scripts of pages from now on, or none.
func (b *tab) scripts(run bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !run})
	require.NoError(b.t, err)
}

func TestCrud_worksWithoutJavaScript(t *testing.T) {
	crudOnBothBuses(t, func(t *testing.T, c *child) {
		bob := newPerson(t)
		bob.openLive(c.url)
		ann := newPerson(t)
		ann.mayBeOffline() // the console notes a 422
		ann.scripts(false)
		ann.open(c.url)
		require.Equal(t, "connecting", eval[string](ann, "document.documentElement.dataset.ui"))
		ann.addBookmark("Bad", "javascript:alert(1)")
		ann.waitText("#new-url-wrong", "begins with https:// or http://")
		ann.waitText(".jitney-error", "nothing was saved")
		ann.waitFocus("#new-url[aria-invalid=true]")
		require.Equal(t, "Bad", value(ann, "#new-title"))
		ann.fits()
		ann.picture("crud-noscript")
		ann.fill("#new-url", "https://go.dev/")
		ann.typeText("\r")
		ann.waitTitles("Bad")
		bob.waitTitles("Bad")
		bob.waitToast("“Bad” was added.")
		require.Empty(t, value(ann, "#new-title"))

		ann.clickIn("Bad", "a.button")
		ann.waitFor("document.querySelector('#title')?.value === 'Bad'")
		ann.fill("#title", "Good")
		ann.typeText("\r")
		ann.waitTitles("Good")
		bob.waitTitles("Good")

		ann.clickIn("Good", "a.button")
		ann.waitFor("document.querySelector('#title')?.value === 'Good'")
		ann.fill("#title", "Ann's")
		bob.clickIn("Good", "a.button")
		bob.waitFocus("#title")
		bob.fill("#title", "Bob's")
		bob.typeText("\r")
		bob.waitTitles("Bob's")
		ann.focus("#title")
		ann.typeText("\r")
		ann.waitText("#their-version", "Bob's")
		require.Equal(t, "Ann's", value(ann, "#title"))
		ann.focus("#replace")
		ann.typeText("\r")
		ann.waitTitles("Ann's")
		bob.waitTitles("Ann's")

		ann.clickIn("Ann's", "form button")
		ann.waitText("#undo-notice", "“Ann's” is deleted.")
		bob.waitTitles()
		ann.focus("#undo")
		ann.typeText("\r")
		ann.waitTitles("Ann's")
		bob.waitTitles("Ann's")
		ann.fill("#q", "ann")
		ann.typeText("\r")
		ann.waitFor("location.search === '?q=ann'")
		ann.waitTitles("Ann's")
	})
}

func TestCrud_saysWhatIsWrongWithItsFlags(t *testing.T) {
	require.Contains(t, fails(t, crud, "-nonsense"), "-h shows the flags")
	require.Contains(t, fails(t, crud, "-bus", "pigeon:"), "pigeon")
}

func TestCrud_looksRightEverywhere(t *testing.T) {
	c := startExample(t, crud, "-data", t.TempDir())
	ann, bob := newPerson(t), newPerson(t)
	ann.openLive(c.url)
	bob.openLive(c.url)
	picture := func(name string) {
		for _, l := range looks {
			ann.look(l.width, l.height, l.scheme)
			ann.waitFor("document.getAnimations().every(a => a.playState === 'finished')")
			ann.fits()
			require.True(t, eval[bool](ann, "[...document.querySelectorAll('li.line')].every(l => new Set([...l.querySelectorAll('.button, button')].map(b => b.getBoundingClientRect().y)).size === 1)"),
				"the buttons of a row stand side by side")
			require.Empty(t, eval[[]int](ann, "[...document.querySelectorAll('.notice')].map(n => n.offsetHeight).filter(h => h > 100)"), "a notice is short")
			ann.picture("crud-" + name + "-" + l.name)
		}
	}
	picture("empty")
	ann.addBookmark("The Go Programming Language", "https://go.dev/")
	ann.addBookmark("Anextremelylongtitlewithoutanyspaceinitthathastobebrokensomewhereoritscrolls", "https://example.com/"+
		"anextremelylongaddresswithoutanyspaceinitthathastobebrokensomewhereoritmakesthepagescrollsideways")
	ann.addBookmark("NATS", "https://nats.io/")
	ann.waitFor("document.querySelectorAll('li').length === 3")
	ann.clickIn("NATS", "form button")
	ann.waitText("#undo-notice", "NATS")
	long := "From Bob, who has a lot to say about a page that he has found, and writes all of it into the title of his bookmark"
	bob.addBookmark(long, "https://bob.example/")
	ann.waitToast("“From Bob, who has a lot to say about a…” was added.")
	picture("news")
	ann.clickIn(long, "a.button")
	ann.waitFocus("#title")
	bob.clickIn(long, "a.button")
	bob.waitFocus("#title")
	bob.fill("#title", "From Bob, again")
	bob.typeText("\r")
	ann.waitText("#their-version", "again")
	ann.fill("#url", "javascript:alert(1)")
	ann.typeText("\r")
	ann.waitText("#url-wrong", "begins with")
	picture("conflict")
}
