package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// echoForm is a list with a form that shows at once what is sent.
func echoForm(rows string) string {
	return `<ol id="log">` + rows + `</ol><form data-on-submit="a1" data-clear="s1"><input id="in" data-bind="s1"><button>Send</button>` +
		`<template data-echo="log"><li><b data-echo-of="s1"></b> <time data-local></time><i data-echo-if="sending">sending</i>` +
		`<span data-echo-if="refused">Not sent. <button type="button" data-echo-do="retry">Retry</button>` +
		`<button type="button" data-echo-do="edit">Edit</button></span></li></template></form><p data-latency data-ignore>nothing yet</p>`
}

func madeRow(p post, text string) string {
	sum := sha256.Sum256([]byte(p.Once + " "))
	id := base64.RawURLEncoding.EncodeToString(sum[:24])
	return fmt.Sprintf(`<li id="m-%s" data-made="%s"><b>%s</b> <time datetime="2020-01-01T10:00:00Z" data-local>10:00 UTC</time></li>`, id, id, text)
}

func echoes(b *tab) []string {
	b.t.Helper()
	return eval[[]string](b, `[...document.querySelectorAll('#log > li')].map(l => (l.dataset.echoState ?? '-') + ' ' + l.querySelector('b').textContent)`)
}

func (b *tab) waitEchoes(want ...string) {
	b.t.Helper()
	var got []string
	eventually(b.t, fmt.Sprint("the rows ", want), func() bool { got = echoes(b); return fmt.Sprint(got) == fmt.Sprint(want) },
		func() string { return fmt.Sprint("and not ", got) })
}

// TestEcho_isShownAtOnceAndBecomesTheRow lets nothing be answered at first.
func TestEcho_isShownAtOnceAndBecomesTheRow(t *testing.T) {
	f, b := newFake(t, echoForm(""), map[string]any{"s1": ""})
	f.answers(func(p post) (int, any) {
		return http.StatusAccepted, map[string]any{"tab": p.Tab, "n": p.N, "status": "running"}
	})
	b.focus("#in")
	b.typeText("one\rtwo\r")
	require.Equal(t, []string{"sending one", "sending two"}, echoes(b))
	one := f.waitPosts("act", 1)[0]
	b.js("document.querySelectorAll('#log > li').forEach((l, i) => l.mark = i)")

	f.showIn(b, echoForm(`<li id="x"><b>other</b></li>`))
	require.Equal(t, []string{"- other", "sending one", "sending two"}, echoes(b), "patches go around them")
	f.send(map[string]any{"tab": f.tab, "done": 1})
	b.waitEchoes("- other", "accepted one", "sending two")
	f.showIn(b, echoForm(`<li id="x"><b>other</b></li>`+madeRow(one, "one")+`<li id="y"><b>another</b></li>`))
	require.Equal(t, []string{"- other", "- one", "- another", "sending two"}, echoes(b))
	require.Equal(t, 0, eval[int](b, "document.querySelector('[data-made]').mark"), "it is the same node")
	require.NotContains(t, eval[string](b, "document.querySelector('[data-made]').textContent"), "sending")
	b.waitText("[data-latency]", "(last 1)")
	require.Equal(t, 1, eval[int](b, "document.querySelectorAll('[data-latency] rect').length"))
	require.NotContains(t, eval[string](b, "document.querySelector('[data-made] time').textContent"), "UTC")
}

func TestEcho_thatIsRefusedCanBeSentAgainOrTakenBack(t *testing.T) {
	f, b := newFake(t, echoForm(""), map[string]any{"s1": ""})
	refuse := true
	f.answers(func(p post) (int, any) {
		if refuse {
			return http.StatusOK, map[string]any{"tab": p.Tab, "n": p.N, "status": "done", "error": "no"}
		}
		return http.StatusOK, f.ok(p)
	})
	b.focus("#in")
	b.typeText("one\r")
	b.waitEchoes("refused one")
	b.waitText("[role=alert]", "no")
	b.typeText("two\r")
	b.waitEchoes("refused one", "refused two")
	b.typeText("half")
	b.click("#log > li:nth-child(2) [data-echo-do=edit]")
	b.waitEchoes("refused one")
	require.Equal(t, "two half", value(b, "#in"))
	f.mu.Lock()
	refuse = false
	f.mu.Unlock()
	b.click("[data-echo-do=retry]")
	b.waitEchoes("accepted one")
	posts := f.waitPosts("act", 3)
	require.Equal(t, "one", posts[2].Signals["s1"][0])
	require.NotEqual(t, posts[0].Once, posts[2].Once)
	require.Equal(t, "two half", value(b, "#in"))
	f.showIn(b, echoForm(madeRow(posts[2], "one")))
	require.Equal(t, []string{"- one"}, echoes(b))
}

// TestEcho_waitsForItsList takes the list away while a row is refused.
func TestEcho_waitsForItsList(t *testing.T) {
	f, b := newFake(t, echoForm(""), map[string]any{"s1": ""})
	f.answers(func(p post) (int, any) {
		return http.StatusOK, map[string]any{"tab": p.Tab, "n": p.N, "status": "done", "error": "no"}
	})
	b.focus("#in")
	b.typeText("one\r")
	b.waitEchoes("refused one")
	f.showIn(b, `<ol id="elsewhere"></ol>`)
	require.Empty(t, echoes(b))
	f.showIn(b, echoForm(""))
	require.Equal(t, []string{"refused one"}, echoes(b))
}

// TestEcho_isSentUnderTheNextTab loses the tab before the answer.
func TestEcho_isSentUnderTheNextTab(t *testing.T) {
	f, b := newFake(t, echoForm(""), map[string]any{"s1": ""})
	b.mayBeOffline() // the browser notes the 410
	f.answers(func(p post) (int, any) {
		if p.Word == "open" {
			return http.StatusOK, f.reopened(echoForm(`<li id="x"><b>other</b></li>`))
		}
		if p.Tab == "TAB1" {
			return http.StatusGone, map[string]any{"tab": p.Tab, "n": p.N, "status": "gone"}
		}
		return http.StatusOK, f.ok(p)
	})
	b.focus("#in")
	b.typeText("one\r")
	b.waitEchoes("- other", "accepted one")
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	acts := f.posted("act")
	require.Equal(t, acts[0].Once, acts[1].Once)
	f.showIn(b, echoForm(madeRow(acts[1], "one")))
	require.Equal(t, []string{"- one"}, echoes(b))
}

func TestUnseen_countsWhatCameWhileTheReaderWasElsewhere(t *testing.T) {
	view := func(n int) string {
		s := `<ol id="log" data-pin tabindex="0">`
		for i := range n {
			s += fmt.Sprintf(`<li id="r%d">row %d</li>`, i, i)
		}
		return s + `</ol><div data-unseen="log" data-one="1 new row" data-many="# new rows" data-ignore></div>`
	}
	f, b := newFake(t, view(60), nil)
	b.js("const s = new CSSStyleSheet(); s.replaceSync('#log {height: 100px; overflow: auto}'); document.adoptedStyleSheets = [s]")
	b.waitFor("log.scrollTop > 0")
	f.showIn(b, view(61))
	require.Empty(t, eval[string](b, "document.querySelector('[data-unseen]').textContent"), "at the end everything is seen")
	b.js("log.scrollTop = 0")
	f.showIn(b, view(62))
	b.waitText("[data-unseen] button", "1 new row")
	require.Zero(t, eval[int](b, "log.scrollTop"))
	f.showIn(b, view(64))
	b.waitText("[data-unseen] button", "3 new rows")
	b.focus("[data-unseen] button")
	b.typeText("\r")
	b.waitFor("!document.querySelector('[data-unseen] button') && document.activeElement === log && log.scrollHeight - log.scrollTop - log.clientHeight < 2")
}
