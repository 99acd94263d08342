package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

const sayForm = `<form data-on-submit="a1" data-clear="s1"><input id="in" data-bind="s1"><button>Send</button></form>`

func value(b *tab, selector string) string {
	b.t.Helper()
	return eval[string](b, "document.querySelector("+quote(selector)+").value")
}

func (b *tab) waitValue(selector, want string) {
	b.t.Helper()
	b.waitFor("document.querySelector(" + quote(selector) + ").value === " + quote(want))
}

func (b *tab) waitText(selector, want string) {
	b.t.Helper()
	b.waitFor("document.querySelector(" + quote(selector) + ")?.textContent.includes(" + quote(want) + ")")
}

func TestFrame_splicesAreApplied(t *testing.T) {
	f, b := newFake(t, "", nil)
	f.showIn(b, "<p>😀 one</p><p>two</p>")
	f.edit([][3]any{{3, 2, "🎉"}, {9, 0, " and"}}, "<p>🎉 one and</p><p>two</p>")
	b.waitText("p", "🎉 one and")
	f.edit([][3]any{{20, 3, "three"}, {27, 0, ""}}, "<p>🎉 one and</p><p>three</p>")
	b.waitText("p:last-child", "three")
	require.Equal(t, 1, f.streamCount())
}

func TestFrame_whatDoesntFitIsAskedForAgain(t *testing.T) {
	for name, spoil := range map[string]func(f *fake){
		"another sum": func(f *fake) { f.edit([][3]any{{3, 3, "two"}}, "<p>owt</p>") },
		"another base": func(f *fake) {
			f.version++
			first := f.lastStream()
			for range 20 { // those that follow on the same stream don't fit either
				first.send(t, f.splice([][3]any{{3, 3, "two"}}, "<p>two</p>"))
			}
		},
		"a heartbeat names a later version": func(f *fake) {
			f.send(map[string]any{"hb": true, "v": map[string]any{f.tab: f.version + 1}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, b := newFake(t, "", nil)
			f.showIn(b, "<p>one</p>")
			spoil(f)
			eventually(t, "another stream", func() bool { return f.streamCount() == 2 })
			require.True(t, strings.HasSuffix(f.lastStream().query.Get("t"), ".0"), f.lastStream().query)
			b.waitText("p", "one") // it stays until the whole view is there
			f.showIn(b, "<p>two</p>")
			b.waitText("p", "two")
			require.Equal(t, 2, f.streamCount())
		})
	}
}

// TestFrame_whatWasUnderWayIsNoReasonToAskAgain plays the worker, whose stream goes on until it has heard that a frame
// didn't fit.
func TestFrame_whatWasUnderWayIsNoReasonToAskAgain(t *testing.T) {
	f := &fake{t: t}
	f.serve()
	b := newPerson(t)
	b.beforeLoad(`{
		const {port1, port2} = new MessageChannel(), asked = window.asked = [];
		window.SharedWorker = function () { return {port: port1} };
		window.say = (v, more) => port2.postMessage({event: {tab: 'TAB1', v, title: 'v' + v, ...more}});
		port2.onmessage = ({data}) => data.resync && asked.push(data);
	}`)
	b.open(f.srv.URL)
	b.js("say(1, {html: '<p>one</p>'}); for (let v = 3; v < 20; v++) say(v, {base: v - 1, edits: []}); say(20, {html: '<p>two</p>'})")
	b.waitText("p", "two")
	require.Equal(t, 1, eval[int](b, "asked.length"))
	b.js("say(22, {base: 21, edits: []}); say(23, {html: '<p>three</p>'})")
	b.waitText("p", "three")
	require.Equal(t, 2, eval[int](b, "asked.length"))
}

func TestField_belongsToTheHandsOnIt(t *testing.T) {
	f, b := newFake(t, `<input id="in" data-bind="s1"><input id="twin" data-bind="s1"><input id="tick" type="checkbox" data-bind="s2">`,
		map[string]any{"s1": "", "s2": false})
	view := func(v string) string {
		return fmt.Sprintf(`<input id="in" data-bind="s1" value="%s"><input id="twin" data-bind="s1"><input id="tick" type="checkbox" checked data-bind="s2"><input id="late" data-bind="s1" value="%s">`, v, v)
	}
	f.showIn(b, view("x"), map[string]any{"s1": []any{"set by the server", 0}})
	require.Equal(t, "set by the server", value(b, "#in"))
	require.False(t, eval[bool](b, "document.querySelector('#tick').checked"), "a patch doesn't tick")

	b.focus("#in")
	b.js("document.activeElement.select()")
	b.typeText("typed")
	require.Equal(t, "typed", value(b, "#twin"), "fields of one signal agree")
	f.showIn(b, view("y"), map[string]any{"s1": []any{"too late", 0}})
	require.Equal(t, "typed typed typed", value(b, "#in")+" "+value(b, "#twin")+" "+value(b, "#late"))

	b.click("#tick")
	f.showIn(b, view("y"), map[string]any{"s1": []any{"seen", 5}, "s2": []any{false, 0}})
	require.Equal(t, "seen", value(b, "#in"), "the server has seen what was typed")
	require.True(t, eval[bool](b, "document.querySelector('#tick').checked"))
}

func TestField_aNewFieldShowsWhatWasTyped(t *testing.T) {
	f, b := newFake(t, `<input id="in" data-bind="s1"><select data-bind="s2"></select>`, map[string]any{"s1": "", "s2": "two"})
	b.focus("#in")
	b.typeText("abc")
	f.showIn(b, `<p>elsewhere</p>`)
	f.showIn(b, `<textarea data-bind="s1"></textarea><select data-bind="s2"><option>one</option><option>two</option></select>`)
	require.Equal(t, "abc two", value(b, "textarea")+" "+value(b, "select"))
}

func TestAction_aFastTypistsLinesStayApart(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	b.focus("#in")
	b.typeText("one\rtwo\rthree\r")
	acts := f.waitPosts("act", 3)
	for i, want := range []string{"one", "two", "three"} {
		require.Equal(t, want, acts[i].Signals["s1"][0])
		require.Equal(t, i+1, acts[i].N)
		require.Equal(t, "a1", acts[i].Act)
		require.Regexp(t, fmt.Sprintf(`^\w{32}-%d$`, i+1), acts[i].Once)
	}
	require.Empty(t, value(b, "#in"))
	b.waitFor("!('uiPending' in document.documentElement.dataset)")
}

func TestAction_setsSignalsBeforeItIsSent(t *testing.T) {
	f, b := newFake(t, `<button id="rust" data-on-click="a2" data-set='{"s1":"Rust","s2":true}'>Rust</button><input id="in" data-bind="s1">`, map[string]any{"s1": "Go", "s2": false})
	b.click("#rust")
	acts := f.waitPosts("act", 1)
	require.Equal(t, map[string][2]any{"s1": {"Rust", 1.0}, "s2": {true, 1.0}}, acts[0].Signals)
	require.Equal(t, "Rust", value(b, "#in"))
	b.click("#rust")
	require.Empty(t, f.waitPosts("act", 2)[1].Signals, "what the server has heard isn't said again")
}

func TestAction_inputIsDebounced(t *testing.T) {
	f, b := newFake(t, `<input id="in" data-bind="s1" data-on-input="a1" data-debounce="200">`, map[string]any{"s1": ""})
	b.js(heldTimers)
	b.focus("#in")
	b.typeText("search")
	require.Equal(t, []int{200}, eval[[]int](b, "heldTimers()"), "the ones before are over")
	require.Empty(t, f.posted("act"))
	b.js("releaseTimers()")
	acts := f.waitPosts("act", 1)
	require.Equal(t, "search", acts[0].Signals["s1"][0])
}

func TestAction_whatIsBeingComposedIsNotSaid(t *testing.T) {
	f, b := newFake(t, `<input id="in" data-bind="s1" data-on-input="a1">`, map[string]any{"s1": ""})
	b.focus("#in")
	b.compose("し")
	b.compose("した")
	b.commit("下")
	require.Equal(t, "下", f.waitPosts("act", 1)[0].Signals["s1"][0])
}

func TestAction_isAskedForAgainUntilItIsAnswered(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	b.mayBeOffline()
	tries := 0
	f.answers(func(p post) (int, any) {
		tries++
		switch tries {
		case 1:
			return http.StatusBadGateway, "a proxy's page"
		case 2:
			return http.StatusOK, map[string]any{"tab": p.Tab, "n": p.N + 7, "status": "done"} // not ours
		case 3:
			return http.StatusTooManyRequests, map[string]any{"tab": p.Tab, "n": p.N, "status": "again"}
		}
		return http.StatusOK, f.ok(p)
	})
	b.focus("#in")
	b.typeText("one\rtwo\r")
	acts := f.waitPosts("act", 5)
	for _, p := range acts[:4] {
		require.Equal(t, acts[0], p)
	}
	require.Equal(t, "two", acts[4].Signals["s1"][0])
}

func TestAction_thatRunsOnIsWaitedFor(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	f.answers(func(p post) (int, any) {
		if p.N == 1 {
			return http.StatusAccepted, map[string]any{"tab": p.Tab, "n": 1, "status": "running"}
		}
		return http.StatusOK, f.ok(p)
	})
	b.js(heldTimers)
	b.focus("#in")
	b.typeText("one\r")
	again := "heldTimers().some(ms => ms > 1000 && ms < 8000)"
	b.waitFor(again)
	b.typeText("two\r")
	b.waitFor("document.documentElement.dataset.uiPending === '2'")
	require.Len(t, f.posted("act"), 1)
	b.js("releaseTimers()")
	require.Equal(t, 1, f.waitPosts("act", 2)[1].N, "it asks after a while")
	b.waitFor(again)
	f.send(map[string]any{"tab": f.tab, "done": 1})
	acts := f.waitPosts("act", 3)
	require.Equal(t, "two", acts[2].Signals["s1"][0])
}

func TestAction_thatIsRefusedGivesTheTextBack(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	b.mayBeOffline()
	typed := make(chan struct{})
	f.answers(func(p post) (int, any) {
		switch p.N {
		case 2:
			<-typed
		case 3:
			return http.StatusRequestEntityTooLarge, "too large"
		}
		return http.StatusOK, map[string]any{"tab": p.Tab, "n": p.N, "status": "done", "error": "no <such> room"}
	})
	b.focus("#in")
	b.typeText("hello\r")
	b.waitText("[role=alert]", "no <such> room")
	require.Equal(t, "hello", value(b, "#in"))
	require.Equal(t, "in", eval[string](b, "document.activeElement.id"))

	b.typeText(" you\rnext")
	close(typed)
	b.waitText("#jitney-alerts", "hello you") // the field has been touched: the text is in the alert
	b.click("[role=alert] button")
	require.Equal(t, "in", eval[string](b, "document.activeElement.id"))

	b.typeText("\r")
	b.waitText("#jitney-alerts", "too large")
	b.waitValue("#in", "next")
	f.answers(func(p post) (int, any) { return http.StatusOK, f.ok(p) })
	b.typeText("\r")
	b.waitFor("document.querySelectorAll('[role=alert]').length === 1")
	b.waitText("#jitney-alerts", "hello you") // which is nowhere else
}

func TestAction_aRefusedTextOutlastsTheSuccessOfOthers(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	gate := make(chan struct{})
	f.answers(func(p post) (int, any) {
		if p.N == 1 {
			<-gate
			return http.StatusOK, map[string]any{"tab": p.Tab, "n": p.N, "status": "done", "error": "too long"}
		}
		return http.StatusOK, f.ok(p)
	})
	b.focus("#in")
	b.typeText("first\rsecond\rthird")
	close(gate)
	b.waitText("#jitney-alerts", "too long\nfirst")
	b.waitFor("!('uiPending' in document.documentElement.dataset)")
	b.typeText("\r")
	f.waitPosts("act", 3)
	b.waitFor("!('uiPending' in document.documentElement.dataset)")
	b.waitText("#jitney-alerts", "first") // which is nowhere else
}

func TestAction_whatThePageComplainsOfIsShown(t *testing.T) {
	f, b := newFake(t, "", nil)
	f.send(map[string]any{"tab": f.tab, "error": "the subscription has ended"})
	b.waitText("[role=alert]", "the subscription has ended")
}

func TestAction_aButtonWithAnActionDoesNotSubmitItsForm(t *testing.T) {
	f, b := newFake(t, `<form data-on-submit="a1"><button id="cancel" data-on-click="a2">Cancel</button></form><form action="/elsewhere"><button id="x" data-on-click="a3">x</button></form>`, nil)
	b.click("#cancel")
	require.Equal(t, "a2", f.waitPosts("act", 1)[0].Act)
	b.click("#x")
	require.Equal(t, "a3", f.waitPosts("act", 2)[1].Act)
	require.Equal(t, "/", eval[string](b, "location.pathname"))
}

func TestGone_theDocumentGetsANewTab(t *testing.T) {
	f, b := newFake(t, sayForm+`<p id="view">old</p>`, map[string]any{"s1": ""})
	b.mayBeOffline()
	f.answers(func(p post) (int, any) {
		if p.Word == "open" {
			return http.StatusOK, f.reopened(sayForm + `<p id="view">new</p>`)
		}
		if p.Tab == "TAB1" {
			return http.StatusGone, map[string]any{"tab": p.Tab, "n": p.N, "status": "gone"}
		}
		return http.StatusOK, f.ok(p)
	})
	b.focus("#in")
	b.js("document.activeElement.mark = 1")
	b.typeText("sent\rhalf")
	b.waitText("#view", "new")
	acts := f.waitPosts("act", 2)
	require.Equal(t, "TAB2", acts[1].Tab)
	require.Equal(t, 1, acts[1].N)
	require.Equal(t, acts[0].Once, acts[1].Once)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	require.Equal(t, "half 1", eval[string](b, "document.activeElement.value + ' ' + document.activeElement.mark"))
	require.Equal(t, "reopened", eval[string](b, "document.title"))

	// The server that was given the newest text must still take the older one of the action.
	opens := f.posted("open")
	require.Equal(t, "sent", opens[0].Signals["s1"][0])
	b.typeText(" done\r")
	acts = f.waitPosts("act", 3)
	require.Equal(t, "half done", acts[2].Signals["s1"][0])
	require.Equal(t, 2, acts[2].N)
}

func TestGone_anOpenThatHangsIsAskedForAgain(t *testing.T) {
	f := &fake{t: t, body: "<p>old</p>"}
	hang := make(chan struct{})
	f.answer = func(post) (int, any) {
		if len(f.posted("open")) == 1 {
			<-hang
		}
		return http.StatusOK, f.reopened("<p>new</p>")
	}
	f.serve()
	b := newPerson(t)
	t.Cleanup(func() { close(hang) })
	b.beforeLoad("{ const timeout = AbortSignal.timeout; AbortSignal.timeout = ms => timeout.call(AbortSignal, ms / 50) }")
	b.open(f.srv.URL)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	f.send(map[string]any{"tab": f.tab, "gone": true})
	b.waitText("p", "new")
	b.waitFor("document.documentElement.dataset.ui === 'open'")
}

func TestGone_aPageOfAnotherShapeIsReloadedAndKeepsItsTexts(t *testing.T) {
	f, b := newFake(t, `<form data-on-submit="a1" data-clear="s1"><textarea id="a" data-bind="s1"></textarea><input name="b" data-bind="s2"><button>Go</button></form>`,
		map[string]any{"s1": "", "s2": ""})
	b.mayBeOffline()
	f.answers(func(p post) (int, any) {
		if p.Word == "open" {
			return http.StatusOK, map[string]any{"reload": true}
		}
		return http.StatusGone, map[string]any{"tab": p.Tab, "n": p.N, "status": "gone"}
	})
	b.focus("#a")
	b.typeText("half")
	b.focus("[name=b]")
	b.typeText("other")
	b.js("document.querySelector('button').click()")
	b.waitText("[role=alert]", "has been updated")
	require.Equal(t, "half other", value(b, "#a")+" "+value(b, "[name=b]"))
	require.Equal(t, 2, f.tabs)
}

func TestConnection_lossIsShownAfterASecondAndHealsItself(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	b.mayBeOffline()
	f.showIn(b, sayForm+"<p>one</p>")
	b.js(`window.told = [];
		const html = document.documentElement, status = document.getElementById('jitney-status');
		const note = what => told.at(-1)?.what !== what && told.push({what, at: performance.now()});
		new MutationObserver(() => note(html.dataset.ui)).observe(html, {attributeFilter: ['data-ui']});
		new MutationObserver(() => note(status.textContent)).observe(status, {childList: true})`)
	f.goAway()
	b.waitFor("document.documentElement.dataset.ui === 'lost'")
	b.focus("#in")
	b.typeText("offline\r")
	b.waitText("#jitney-status", "No connection to the server.")
	b.waitText("#jitney-status", "is sent then")
	require.Equal(t, "lost", eval[string](b, "told[0].what"))
	require.Greater(t, eval[float64](b, "told[1].at - told[0].at"), 990.0)
	require.Zero(t, f.actsAway(), "what is not sent doesn't age")
	f.comeBack()
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	require.Equal(t, "offline", f.waitPosts("act", 1)[0].Signals["s1"][0])
	require.Regexp(t, `^TAB1\.\w+\.1$`, f.lastStream().query.Get("t"), "it goes on from the version that it has")
	b.waitFor("told.at(-1).what === '' && told.at(-2).what === 'Connected again.'") // which goes away by itself
	require.Greater(t, eval[float64](b, "told.at(-1).at - told.at(-2).at"), 2000.0)
}

func TestConnection_aServerThatGoesAwaySaysWhen(t *testing.T) {
	f, b := newFake(t, "", nil)
	f.send(map[string]any{"later": 50})
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	eventually(t, "another stream", func() bool { return f.streamCount() == 2 })
	b.waitFor("document.documentElement.dataset.ui === 'open'")
}

func TestConnection_aLeftPageSaysGoodbyeAndComesBack(t *testing.T) {
	f, b := newFake(t, sayForm, map[string]any{"s1": ""})
	f.answers(func(p post) (int, any) {
		return http.StatusAccepted, map[string]any{"tab": p.Tab, "n": p.N, "status": "running"}
	})
	b.focus("#in")
	b.typeText("one\rtwo\rhalf")
	f.waitPosts("act", 1)
	b.open("about:blank")
	bye := f.waitPosts("bye", 1)[0]
	require.Equal(t, "TAB1", bye.Tab)
	require.Len(t, bye.Acts, 2)
	require.Equal(t, "two", bye.Acts[1].Signals["s1"][0])
	b.back(f.srv.URL + "/")
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	b.waitValue("#in", "half")
}

func TestConnection_aLeftPageComesBackWithItsTexts(t *testing.T) {
	f, b := newFake(t, "", nil)
	b.beforeLoad("window.rtc = new RTCPeerConnection(); rtc.createDataChannel('bars the back/forward cache')")
	f.signals = map[string]any{"s1": ""}
	f.body = sayForm
	visit := func(n int) {
		b.open(fmt.Sprint(f.srv.URL, "/?", n))
		b.waitFor("document.documentElement.dataset.ui === 'open'")
	}
	visit(1)
	b.focus("#in")
	b.typeText("sent\rone")
	f.waitPosts("act", 1)
	visit(2)
	require.Empty(t, value(b, "#in"))
	b.focus("#in")
	b.typeText("two")
	visit(1)
	require.Empty(t, value(b, "#in"), "the same address, but another visit")
	b.back(f.srv.URL + "/?2")
	b.waitValue("#in", "two")
	b.back(f.srv.URL + "/?1")
	b.waitValue("#in", "one")
	b.do(chromedp.Reload())
	b.waitValue("#in", "one")
	require.Equal(t, 7, f.tabs, "each was loaded again")
}

func TestConnection_tabsShareOneStream(t *testing.T) {
	f, b := newFake(t, "<p>x</p>", nil)
	c := b.another()
	c.open(f.srv.URL)
	c.waitFor("document.documentElement.dataset.ui === 'open'")
	eventually(t, "a stream of both tabs", func() bool { return len(f.lastStream().query["t"]) == 2 })
	require.Equal(t, f.streams[0].query.Get("w"), f.lastStream().query.Get("w"))
	require.NoError(t, chromedp.Do(c.ctx, chromedp.Navigate("about:blank")))
	eventually(t, "a stream of one tab", func() bool { return len(f.lastStream().query["t"]) == 1 })
}

// fasterClock lets the clock and the timers of intervals of a page run fifty times as fast, until realTime is called.
const fasterClock = `(() => {
	const began = Date.now(), real = Date.now.bind(Date), every = setInterval;
	const fast = Date.now = () => began + (real() - began) * 50;
	window.setInterval = (f, ms) => every(f, ms / 50);
	window.realTime = () => {
		const ahead = fast() - real();
		Date.now = () => real() + ahead;
	};
})()`

// heldTimers holds the timers of a page that are set from now on for a tenth of a second or longer, until
// releaseTimers is called.
const heldTimers = `{
	const set = setTimeout, clear = clearTimeout, held = new Map();
	let n = 0;
	window.setTimeout = (f, ms, ...args) => ms >= 100 ? (held.set(--n, [f, ms, args]), n) : set(f, ms, ...args);
	window.clearTimeout = id => held.delete(id) || clear(id);
	window.heldTimers = () => [...held.values()].map(([, ms]) => ms);
	window.releaseTimers = () => {
		const all = [...held.values()];
		held.clear();
		all.forEach(([f, , args]) => f(...args));
	};
}`

func TestConnection_aWorkerThatHangsIsReplaced(t *testing.T) {
	f := &fake{t: t, body: "<p>x</p>"}
	f.serve()
	b := newPerson(t)
	b.beforeLoad(fasterClock)
	b.beforeLoad(`{
		const Real = SharedWorker;
		window.SharedWorker = function (url, o) {
			if (o.name === 'jitney 0') return {port: new MessageChannel().port1};
			realTime(); // this one may take its time to start
			return new Real(url, o);
		};
	}`)
	b.open(f.srv.URL)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
}

func TestAction_thatIsTooOldIsNotSentAgain(t *testing.T) {
	f := &fake{t: t, body: sayForm, signals: map[string]any{"s1": ""}}
	f.answer = func(p post) (int, any) {
		if p.N == 1 {
			return http.StatusBadGateway, "a proxy's page"
		}
		return http.StatusOK, f.ok(p)
	}
	b := newPerson(t)
	b.mayBeOffline()
	f.serve()
	b.beforeLoad("{ const real = Date.now.bind(Date); window.later = 0; Date.now = () => real() + later }")
	b.open(f.srv.URL)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	b.focus("#in")
	b.typeText("lost\r")
	f.waitPosts("act", 2)
	b.js("later = 101e3")
	b.waitText("[role=alert]", "It may have been sent, or not.")
	b.waitValue("#in", "lost")
	f.mu.Lock()
	f.posts = nil
	f.mu.Unlock()
	b.typeText("\r")
	require.Equal(t, 2, f.waitPosts("act", 1)[0].N)
	require.Equal(t, "lost", f.posted("act")[0].Signals["s1"][0])
}

func TestAction_changesOfChoicesAreSent(t *testing.T) {
	f, b := newFake(t, `<select id="sel" data-bind="s1" data-on-change="a1"><option>one</option><option>two</option></select>
		<label><input type="radio" name="r" value="x" data-bind="s2" checked>x</label><label><input id="y" type="radio" name="r" value="y" data-bind="s2" data-on-change="a2">y</label>
		<input id="n" type="number" step="any" data-bind="s3" data-on-change="a3">`, map[string]any{"s1": "one", "s2": "x", "s3": 1})
	b.focus("#sel")
	b.typeText("t")
	require.Equal(t, [2]any{"two", 1.0}, f.waitPosts("act", 1)[0].Signals["s1"])
	b.click("#y")
	require.Equal(t, [2]any{"y", 1.0}, f.waitPosts("act", 2)[1].Signals["s2"])
	b.focus("#n")
	b.js("document.activeElement.select()")
	b.typeText("2.50\r")
	require.Equal(t, 2.5, f.waitPosts("act", 3)[2].Signals["s3"][0])
	require.Equal(t, "2.50", value(b, "#n"))
}

func TestFrame_movesTheFocus(t *testing.T) {
	f, b := newFake(t, `<input id="a"><input id="b">`, nil)
	b.focus("#a")
	f.send(map[string]any{"tab": f.tab, "v": 1, "html": `<input id="a"><input id="b"><input id="c">`, "focus": "c"})
	b.waitFor("document.activeElement.id === 'c'")
}

// TestFrame_aFloodIsShownWithoutWorkingItOff sends frames faster than they can be shown.
func TestFrame_aFloodIsShownWithoutWorkingItOff(t *testing.T) {
	f, b := newFake(t, "", nil)
	b.js("window.changes = 0; new MutationObserver(() => changes++).observe(document.getElementById('jitney-root'), {subtree: true, childList: true, characterData: true})")
	// The page is busy until its worker has taken all of them in, which it says after a heartbeat.
	busy, free := make(chan struct{}), make(chan struct{})
	f.answers(func(post) (int, any) {
		close(busy)
		<-free
		return http.StatusOK, map[string]any{}
	})
	b.js("setTimeout(() => { const r = new XMLHttpRequest(); r.open('POST', '/', false); r.setRequestHeader('Content-Type', 'application/json'); r.setRequestHeader('X-Jitney', 'act'); r.send('{}') })")
	<-busy
	row := strings.Repeat(`<div><p class="x">text</p><p>more</p></div>`, 2000)
	for i := range 200 {
		f.show(fmt.Sprintf("<h1>%d</h1>%s<p>%d</p>", i, row, i))
	}
	f.waitSeen()
	close(free)
	b.waitText("h1", "199")
	require.Less(t, eval[int](b, "changes"), 150)
}

func TestConnection_aTabThatCrashesIsMissed(t *testing.T) {
	f, b := newFake(t, "<p>x</p>", nil)
	c := b.another()
	c.open(f.srv.URL)
	c.waitFor("document.documentElement.dataset.ui === 'open'")
	eventually(t, "a stream of both tabs", func() bool { return len(f.lastStream().query["t"]) == 2 })
	c.crash()
	eventually(t, "a stream of one tab", func() bool { return len(f.lastStream().query["t"]) == 1 })
	require.Empty(t, f.posted("bye"))
}

// TestConnection_aPageHoldsItsStreamWhereThereIsNoSharedWorker covers Chrome on Android.
func TestConnection_aPageHoldsItsStreamWhereThereIsNoSharedWorker(t *testing.T) {
	for name, breakIt := range map[string]string{
		"there is none":    "delete window.SharedWorker",
		"it isn't allowed": "window.SharedWorker = class { constructor() { throw new DOMException('no', 'SecurityError') } }",
		"it doesn't start": "window.SharedWorker = class { constructor() { this.port = new MessageChannel().port1; setTimeout(() => this.onerror?.(new Event('error'))) } }",
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{t: t, body: sayForm, signals: map[string]any{"s1": ""}}
			f.answer = func(p post) (int, any) { return http.StatusOK, f.ok(p) }
			f.serve()
			b := newPerson(t)
			b.beforeLoad(breakIt)
			b.open(f.srv.URL)
			b.waitFor("document.documentElement.dataset.ui === 'open'")
			f.showIn(b, sayForm+"<p>shown</p>")
			b.focus("#in")
			b.typeText("x\r")
			f.waitPosts("act", 1)
			q := f.lastStream().query
			require.Contains(t, q.Get("t"), "."+q.Get("w")+".", "the stream is named after the document's key")

			// On HTTP/1.1 a hidden page gives its connection back.
			b.js("Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))")
			eventually(t, "the end of the stream", func() bool { return closed(f.lastStream().done) })
			b.js("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
			eventually(t, "another stream", func() bool { return f.streamCount() == 2 })
			f.showIn(b, sayForm+"<p>again</p>")
		})
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
