package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// looks are the ways in which pages are looked at.
var looks = []struct {
	name          string
	width, height int64
	scheme        string
}{
	{"phone-light", 320, 640, "light"},
	{"phone-dark", 320, 640, "dark"},
	{"wide-light", 1280, 800, "light"},
	{"wide-dark", 1280, 800, "dark"},
}

// look changes the tab's size and colours.
func (b *tab) look(width, height int64, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	require.NoError(b.t, err)
}

// fits fails the test when the page is wider than its window, or when something that one
// taps is too small for a finger or makes a phone zoom in.
func (b *tab) fits() {
	b.t.Helper()
	require.LessOrEqual(b.t, eval[int](b, "document.documentElement.scrollWidth - innerWidth"), 0, "it scrolls sideways")
	require.Empty(b.t, eval[[]string](b, `[...document.querySelectorAll('button, input, a, select, textarea')]
		.map(e => [e, e.getBoundingClientRect()]).filter(([e, r]) => r.width && (r.height < 44 || r.width < 44))
		.map(([e, r]) => e.outerHTML.slice(0, 80) + ' ' + r.width + 'x' + r.height)`), "too small to be hit")
	require.Empty(b.t, eval[[]string](b, `[...document.querySelectorAll('input, select, textarea')]
		.filter(e => parseFloat(getComputedStyle(e).fontSize) < 16).map(e => e.outerHTML)`), "a phone zooms in")
	require.Empty(b.t, eval[[]string](b, `[...document.querySelectorAll('[aria-invalid=true]')]
		.filter(e => getComputedStyle(e).borderColor !== getComputedStyle(document.getElementById(e.getAttribute('aria-describedby'))).color)
		.map(e => e.outerHTML)`), "a field that is wrong isn't marked")
	require.Empty(b.t, eval[[]string](b, contrastJS), "contrast below 4.5:1")
}

// contrastJS finds texts that are hard to read on what is behind them.
const contrastJS = `(() => {
	const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
	const rgb = c => {
		canvas.clearRect(0, 0, 1, 1);
		canvas.fillStyle = c;
		canvas.fillRect(0, 0, 1, 1);
		return [...canvas.getImageData(0, 0, 1, 1).data];
	};
	const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = e => {
		for (; e; e = e.parentElement) {
			const c = rgb(getComputedStyle(e).backgroundColor);
			if (c[3] === 255) return c;
		}
		return [255, 255, 255];
	};
	const bad = [];
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n = walk.nextNode(); n; n = walk.nextNode()) {
		const e = n.parentElement;
		if (!n.data.trim() || !e.getClientRects().length) continue;
		const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) bad.push(n.data + ' ' + ratio.toFixed(2) + ' ' + e.outerHTML.slice(0, 80));
	}
	return bad;
})()`

// TestScreenshot_ofTheReadme makes shots/readme.png, which is docs/chat.png when somebody has looked at it.
func TestScreenshot_ofTheReadme(t *testing.T) {
	c := startExample(t, chatroom)
	ann, bob := newPerson(t), newPerson(t)
	ann.look(1000, 612, "light")
	ann.enterChat(c)
	bob.enterChat(c)
	n := 0
	for _, said := range []struct {
		by   *tab
		line string
	}{
		{bob, "Is there a server behind this?"},
		{ann, "NATS, but it runs inside the program. There is nothing to install."},
		{bob, "And if I stop it?"},
		{ann, "Start it again: what was said is still here, and your tab comes back by itself."},
		{ann, "Look at the corner down right, then try the ticker."},
		{bob, "Half a tick slower, as promised 🐢"},
	} {
		said.by.say(said.line)
		n++
		for _, b := range []*tab{ann, bob} {
			b.waitFor(fmt.Sprintf("document.querySelectorAll('.log article[id]').length === %d && !document.querySelector('[data-echo-state]')", n))
		}
	}
	bob.click("#room-Rust")
	bob.waitFor("document.title === 'Rust – Chatroom'")
	bob.say("Anybody here?")
	ann.waitFor("document.querySelector('#room-Rust .unread')")
	bob.click("#room-Go")
	ann.waitHere(ann.name(), bob.name())
	ann.picture("readme")
}

func TestChat_looksRightEverywhere(t *testing.T) {
	c := startExample(t, chatroom, "-data", t.TempDir())
	ann, bob := newPerson(t), newPerson(t)
	for _, b := range []*tab{ann, bob} {
		b.mayBeOffline()
		b.enterChat(c)
	}
	for _, l := range looks {
		ann.look(l.width, l.height, l.scheme)
		ann.fits()
		ann.picture("chat-empty-" + l.name)
	}
	bob.say("Has anybody tried the new iterator functions?")
	bob.say("I have a list of a thousand rows, and only what changes is sent: it feels instant.")
	ann.say("Yes! https://go.dev/blog/range-functions is a good start, and " +
		"anextremelylongwordwithoutanyspaceinitthathastobebrokensomewhereoritmakesthepagescroll works, too.")
	bob.say("👍")
	ann.say("See you tomorrow.")
	ann.waitFor("document.querySelectorAll('[role=log] article').length === 5")
	for _, l := range looks {
		ann.look(l.width, l.height, l.scheme)
		ann.fits()
		ann.picture("chat-talk-" + l.name)
	}
	bob.click("#room-Rust")
	bob.waitFor("document.title === 'Rust – Chatroom'")
	bob.say("Anybody here?")
	ann.waitFor("document.querySelector('#room-Rust .unread')")
	bob.click("#room-Go")
	bob.waitFor("document.title === 'Go – Chatroom'")
	for range 12 {
		bob.say("One more.")
	}
	ann.waitFor("document.querySelectorAll('[role=log] article').length === 17")
	ann.js("document.querySelector('.log').scrollTop = 0")
	bob.say("And the last.")
	ann.waitFor("document.querySelector('[data-unseen] button')")
	for _, l := range looks {
		ann.look(l.width, l.height, l.scheme)
		ann.js("document.querySelector('.log').scrollTop = 0")
		ann.fits()
		ann.picture("chat-unseen-" + l.name)
	}
	ann.js("text.value = 'x'.repeat(5000); text.dispatchEvent(new Event('input', {bubbles: true}))")
	ann.say("")
	ann.waitText("[role=alert]", "is the limit")
	c.kill()
	ann.waitText("#jitney-status", "No connection")
	for _, l := range looks {
		ann.look(l.width, l.height, l.scheme)
		ann.waitFor("document.getAnimations().every(a => a.playState === 'finished')")
		ann.fits()
		require.Empty(t, eval[[]string](ann, `[...document.querySelectorAll('.log article')].map(a => [a.querySelector('.emoji'), a.querySelector('.line')])
			.filter(([e, l]) => e.getBoundingClientRect().y >= l.getBoundingClientRect().bottom || l.getBoundingClientRect().y >= e.getBoundingClientRect().bottom)
			.map(([e, l]) => l.textContent.slice(0, 40))`), "a line stands beside its emoji")
		ann.picture("chat-trouble-" + l.name)
	}
}
