package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// axe returns the source of axe-core, which checks a page for what keeps people from using it. It is
// fetched by "npm ci".
func axe(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if errors.Is(err, os.ErrNotExist) && os.Getenv("CI") != "true" {
		t.Skip("no axe-core here: run npm ci in e2e")
	}
	require.NoError(t, err)
	return string(source)
}

// accessible fails the test when axe-core finds something in what the tab shows, light or dark. The script comes
// through the debugger: a page under our policy loads none of others.
func (b *tab) accessible(source string) {
	b.t.Helper()
	for _, l := range looks {
		b.look(l.width, l.height, l.scheme)
		b.waitFor("document.getAnimations().every(a => a.playState === 'finished')")
		if !eval[bool](b, "Boolean(window.axe)") {
			eval[bool](b, source+"; true")
		}
		b.js(`window.violations = null; axe.run(document).then(r => violations = r.violations.map(v =>
			[v.id, v.help, ...v.nodes.map(n => n.html + ' ' + n.any.concat(n.all, n.none).map(c => c.message).join(' '))].join('\n')),
			e => violations = [String(e)])`)
		b.waitFor("violations")
		require.Empty(b.t, eval[[]string](b, "violations"), l.name)
	}
}

// TestAxe_hasNothingToSayAboutAnyPage looks at the page of each example as it begins, and in a state to which
// a function brings it.
func TestAxe_hasNothingToSayAboutAnyPage(t *testing.T) {
	source := axe(t)
	talk := func(t *testing.T, ann, bob *tab) {
		ann.say("hello")
		bob.say("hi")
		ann.waitLines("hello", "hi")
		bob.click("#room-Rust")
		bob.waitFor("document.querySelector('#room-Rust').getAttribute('aria-current') === 'page'")
		bob.say("in another room")
		ann.waitFor("document.querySelector('#room-Rust .unread')")
	}
	pages := map[string]func(t *testing.T, ann, bob *tab){
		"chatroom":      talk,
		"nats-chatroom": talk,
		crud: func(t *testing.T, ann, bob *tab) {
			ann.addBookmark("Go", "https://go.dev/")
			ann.addBookmark("NATS", "https://nats.io/")
			ann.addBookmark("Gone", "https://gone.example/")
			ann.clickIn("Gone", "form button")
			ann.waitText("#undo-notice", "“Gone” is deleted.")
			bob.waitTitles("NATS", "Go")
			ann.clickIn("Go", "a.button")
			ann.waitFocus("#title")
			bob.clickIn("Go", "a.button")
			bob.waitFocus("#title")
			bob.fill("#title", "Go!")
			bob.typeText("\r")
			ann.waitText("#their-version", "Go!")
			ann.fill("#url", "javascript:alert(1)")
			ann.typeText("\r")
			ann.waitText("#url-wrong", "begins with")
			ann.waitText("#jitney-alerts", "othing was saved")
		},
	}
	for name := range examples {
		t.Run(name, func(t *testing.T) {
			further := pages[name]
			require.NotNil(t, further, "bring it to a state that is worth looking at")
			c := startExample(t, name, "-bus", "mem:")
			ann, bob := newPerson(t), newPerson(t)
			ann.openLive(c.url)
			bob.openLive(c.url)
			ann.accessible(source)
			further(t, ann, bob)
			ann.accessible(source)
		})
	}
	t.Run("without JavaScript", func(t *testing.T) {
		c := startExample(t, crud, "-bus", "mem:")
		ann := newPerson(t)
		ann.mayBeOffline() // the console notes a 422
		ann.scripts(false)
		ann.open(c.url)
		ann.addBookmark("Bad", "javascript:alert(1)")
		ann.waitText("#new-url-wrong", "begins with")
		ann.scripts(true) // for axe-core; those of the page were left out when it was loaded
		ann.accessible(source)
	})
}
