package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The page of docs/migrate.md is the same in each step; examples/migrate tests what its servers do.
func TestMigrate_twoBrowsersSeeEachOtherInEachStep(t *testing.T) {
	for step := range 6 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			name := fmt.Sprint("step", step)
			build := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), name), "./examples/migrate/"+name)
			build.Dir = ".."
			out, err := build.CombinedOutput()
			require.NoError(t, err, string(out))
			examples[name] = build.Args[3]
			c := startExample(t, name)
			ann, bob := newPerson(t), newPerson(t)
			for i, b := range []*tab{ann, bob} {
				b.open(c.url)
				b.js(fmt.Sprintf("who.value = 'person %d'; who.onchange()", i))
				b.waitFor("events.readyState === 1")
			}
			lines := func(b *tab, want string) {
				b.t.Helper()
				b.waitFor("[...document.querySelectorAll('#lines li')].map(l => l.textContent).join('|') === " + quote(want))
			}
			ann.focus("#text")
			ann.typeText("<b>hello</b>\r")
			lines(ann, "person 0: <b>hello</b>")
			lines(bob, "person 0: <b>hello</b>")
			ann.waitFor("text.value === ''")
			bob.focus("#text")
			bob.typeText("you\r")
			lines(ann, "person 0: <b>hello</b>|person 1: you")
			bob.focus("#topic")
			bob.typeText("tickers\r")
			ann.waitFor("topic.value === 'tickers'")
			ann.js("room.value = 'Rust'; room.onchange()")
			lines(ann, "")
			ann.waitFor("topic.value === ''")
		})
	}
}
