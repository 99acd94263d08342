package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rows makes a list with keyed rows.
func rows(keys ...string) string {
	var b strings.Builder
	b.WriteString("<ul>")
	for _, k := range keys {
		fmt.Fprintf(&b, `<li id="%s">row %s</li>`, k, k)
	}
	b.WriteString("</ul>")
	return b.String()
}

func TestMorph_reorderedRowsAreTheSameNodes(t *testing.T) {
	f, b := newFake(t, rows("a", "b", "c", "d"), nil)
	b.js("for (const li of document.querySelectorAll('li')) li.mark = li.id")
	f.showIn(b, rows("d", "b", "new", "a", "c"))
	require.Equal(t, []string{"d", "b", "", "a", "c"}, eval[[]string](b, "[...document.querySelectorAll('li')].map(li => li.mark ?? '')"))
}

func TestMorph_prependingKeepsFocusCaretAndText(t *testing.T) {
	f, b := newFake(t, `<ul><li id="a">a</li></ul><p><input id="in"></p>`, nil)
	b.focus("#in")
	b.typeText("half written")
	b.js("document.activeElement.setSelectionRange(4, 6); window.blurs = 0; document.activeElement.onblur = () => blurs++")
	f.showIn(b, `<h1>new</h1><p>new</p><ul><li id="z">z</li><li id="a">a</li></ul><p><b>also new</b><input id="in"></p>`)
	require.Equal(t, "in half written 4 6 0", eval[string](b, "[document.activeElement.id, document.activeElement.value, document.activeElement.selectionStart, document.activeElement.selectionEnd, blurs].join(' ')"))
}

func TestMorph_wrappingAFocusedFieldKeepsItsNode(t *testing.T) {
	for name, fallback := range map[string]bool{"moveBefore": false, "insertBefore": true} {
		t.Run(name, func(t *testing.T) {
			f, b := newFake(t, `<input id="in"><p>text</p>`, nil)
			if fallback {
				b.js("delete Element.prototype.moveBefore")
			}
			b.focus("#in")
			b.typeText("half")
			b.js("document.activeElement.mark = 1; document.activeElement.setSelectionRange(1, 3)")
			f.showIn(b, `<p>text</p><section><div class="wrap"><label>L <input id="in"></label></div></section>`)
			require.Equal(t, "1 half 1 3 LABEL", eval[string](b, "(e => [e.mark, e.value, e.selectionStart, e.selectionEnd, e.parentNode.nodeName].join(' '))(document.activeElement)"))
		})
	}
}

func TestMorph_theOthersMoveAroundTheFocusedRow(t *testing.T) {
	row := func(k string) string { return fmt.Sprintf(`<li id="%s"><input></li>`, k) }
	f, b := newFake(t, "<ul>"+row("a")+row("b")+row("c")+"</ul>", nil)
	b.js("delete Element.prototype.moveBefore")
	b.focus("#c input")
	b.js("window.blurs = 0; document.activeElement.onblur = () => blurs++")
	f.showIn(b, "<ul>"+row("c")+row("b")+row("a")+"</ul>")
	require.Equal(t, "c 0 c b a", eval[string](b, "[document.activeElement.parentNode.id, blurs, ...[...document.querySelectorAll('li')].map(l => l.id)].join(' ')"))
}

func TestMorph_whatHoldsAKeptNodeIsKept(t *testing.T) {
	panel := `<div><input id="in"><input type="checkbox"></div>`
	f, b := newFake(t, panel, nil)
	b.js("document.querySelector('[type=checkbox]').checked = true")
	f.showIn(b, "<div>an alert</div>"+panel)
	require.True(t, eval[bool](b, "document.querySelector('[type=checkbox]').checked"))
}

func TestMorph_boundFieldsWithoutIDAreKept(t *testing.T) {
	f, b := newFake(t, `<div><input data-bind="s1"></div>`, map[string]any{"s1": ""})
	b.focus("input")
	b.typeText("abc")
	f.showIn(b, `<p>error</p><div><span>x</span></div><div><input class="bad" data-bind="s1" value=""></div>`)
	require.Equal(t, "abc bad", eval[string](b, "document.activeElement.value + ' ' + document.activeElement.className"))
}

func TestMorph_detailsStayAsTheUserLeftThem(t *testing.T) {
	f, b := newFake(t, `<details id="d"><summary>s</summary>1</details><details><summary>t</summary>1</details>`, nil)
	b.js("for (const d of document.querySelectorAll('details')) d.open = true")
	f.showIn(b, `<p>new</p><details id="d"><summary>s</summary>2</details><details><summary>t</summary>2</details>`)
	require.Equal(t, []bool{true, true}, eval[[]bool](b, "[...document.querySelectorAll('details')].map(d => d.open)"))
	// until the server changes its mind
	f.showIn(b, `<details id="d" open><summary>s</summary>3</details>`)
	f.showIn(b, `<details id="d"><summary>s</summary>4</details>`)
	require.False(t, eval[bool](b, "document.querySelector('details').open"))
}

func TestMorph_scrollSurvives(t *testing.T) {
	long := strings.Repeat("<p>line</p>", 200)
	f, b := newFake(t, `<main id="m">`+long+`</main>`, nil)
	b.js("scrollTo(0, 1000)")
	f.showIn(b, `<main id="m">`+long+`<p>more</p></main>`)
	require.Equal(t, 1000.0, eval[float64](b, "scrollY"))
}

func TestMorph_templatesHoldWhatTheViewSays(t *testing.T) {
	f, b := newFake(t, `<form><template><p>one</p></template></form><template title="a">two</template>`, nil)
	b.js("document.querySelector('template').mark = 1")
	f.showIn(b, `<form><template><p>new <b>one</b></p></template></form><template title="b">new two</template>`)
	require.Equal(t, []string{"<p>new <b>one</b></p>", "new two"}, eval[[]string](b, "[...document.querySelectorAll('template')].map(t => t.innerHTML)"))
	require.Equal(t, 1, eval[int](b, "document.querySelector('template').mark"))
}

func TestMorph_ignoredChildrenAreLeftAlone(t *testing.T) {
	f, b := newFake(t, `<div id="x" data-ignore><i>mine</i></div>`, nil)
	b.js("document.querySelector('i').textContent = 'changed by a widget'")
	f.showIn(b, `<div id="x" class="y" data-ignore><i>server</i></div>`)
	require.Equal(t, `<div id="x" data-ignore="" class="y"><i>changed by a widget</i></div>`, eval[string](b, "document.getElementById('jitney-root').innerHTML"))
}

func TestMorph_unboundFieldsFollowChangedDefaultsOnly(t *testing.T) {
	view := func(extra, value, checked, selected string) string {
		opt := func(v string) string {
			if v == selected {
				return `<option selected>` + v + `</option>`
			}
			return `<option>` + v + `</option>`
		}
		return fmt.Sprintf(`<p>%s</p><input id="t" value="%s"><input id="c" type="checkbox" %s><select id="s">%s%s</select><textarea id="a">%s</textarea><input id="h" type="hidden" value="%s">`,
			extra, value, checked, opt("one"), opt("two"), value, value)
	}
	f, b := newFake(t, view("1", "x", "", "one"), nil)
	values := func() string {
		return eval[string](b, "[t.value, c.checked, s.value, a.value, h.value].join(' ')")
	}
	b.js("t.value = 'user'; c.checked = true; s.value = 'two'; a.value = 'user'")
	f.showIn(b, view("2", "x", "", "one"))
	require.Equal(t, "user true two user x", values(), "nothing has changed for them")
	b.js("t.focus()")
	f.showIn(b, view("3", "y", "checked", "one"))
	require.Equal(t, "user true two y y", values(), "the text field has the focus, the others follow")
	b.js("t.blur(); c.checked = true; s.value = 'two'")
	f.showIn(b, view("4", "y", "", "one"))
	require.Equal(t, "user false two y y", values())
	f.showIn(b, view("5", "z", "", "two"))
	f.showIn(b, view("6", "z", "", "one"))
	require.Equal(t, "z false one z z", values())
}

func TestMorph_optionsOfADatalistAreNotAField(t *testing.T) {
	f, b := newFake(t, `<input list="l"><datalist id="l"><option value="a"></option></datalist>`, nil)
	next := `<input list="l"><datalist id="l"><option value="b"></option><option value="c"></option></datalist>`
	f.showIn(b, next)
	require.Equal(t, next, eval[string](b, "document.getElementById('jitney-root').innerHTML"))
}

func TestMorph_duplicateIDsDoNoHarm(t *testing.T) {
	f, b := newFake(t, `<ul><li id="a">1</li><li id="a">2</li><li id="b">3</li></ul>`, nil)
	next := `<ul><li id="b">x</li><li id="a">y</li><li id="a">z</li><li id="a">w</li></ul>`
	f.showIn(b, next)
	require.Equal(t, next, eval[string](b, "document.getElementById('jitney-root').innerHTML"))
}

func TestMorph_aMovedFrameIsNotReloaded(t *testing.T) {
	f, b := newFake(t, `<div id="p"><iframe id="f"></iframe></div><div id="q"></div>`, nil)
	b.js("document.getElementById('f').contentWindow.mark = 1")
	f.showIn(b, `<div id="q"><iframe id="f"></iframe></div><div id="p"></div>`)
	require.Equal(t, 1, eval[int](b, "document.querySelector('#q iframe').contentWindow.mark"))
}

func TestMorph_scriptsOfAPatchDontRun(t *testing.T) {
	f, b := newFake(t, `<p>x</p>`, nil)
	b.mayBeOffline()
	f.showIn(b, `<script>window.ran = 1</script><script src="/_ui/nothing.js"></script><p>y</p>`)
	require.Equal(t, "undefined", eval[string](b, "typeof window.ran"))
	require.Empty(t, b.console)
}

func TestMorph_theFieldInCompositionIsNotTouched(t *testing.T) {
	f, b := newFake(t, `<p>1</p><input id="in" data-bind="s1">`, map[string]any{"s1": ""})
	b.focus("#in")
	b.compose("かな")
	f.showIn(b, `<p>0</p><p>1</p><div><input id="in" class="x" data-bind="s1" value="server"></div><p>2</p>`, map[string]any{"s1": []any{"server", 0}})
	require.Equal(t, "かな", eval[string](b, "document.activeElement.value + document.activeElement.className"))
	b.compose("かなし")
	f.showIn(b, `<p>0</p><div><input id="in" class="y" data-bind="s1"></div>`, map[string]any{"s1": []any{"server", 99}})
	require.Equal(t, "かなし", eval[string](b, "document.activeElement.value + document.activeElement.className"))
	b.commit("悲し")
	b.waitFor("document.activeElement.value + document.activeElement.className === '悲しy'")
}

func TestMorph_aPinnedScrollerStaysAtItsEnd(t *testing.T) {
	view := func(n int) string {
		var keys []string
		for i := range n {
			keys = append(keys, fmt.Sprint("r", i))
		}
		return strings.Replace(rows(keys...), "<ul", `<ul id="log" data-pin`, 1)
	}
	f, b := newFake(t, view(60), nil)
	b.js("document.adoptedStyleSheets = [new CSSStyleSheet()]; document.adoptedStyleSheets[0].replaceSync('#log { height: 200px; overflow: auto }')")
	end := "log.scrollHeight - log.scrollTop - log.clientHeight < 2"
	f.showIn(b, view(61))
	b.waitFor(end)
	f.showIn(b, view(80))
	b.waitFor(end)
	b.js("document.adoptedStyleSheets[0].replaceSync('#log { height: 100px; overflow: auto }')")
	b.waitFor(end)
	// It shrinks before the event of the scroll to its end is heard.
	b.js("new MutationObserver((_, o) => { o.disconnect(); document.adoptedStyleSheets[0].replaceSync('#log { height: 50px; overflow: auto }') }).observe(log, {childList: true})")
	f.showIn(b, view(81))
	b.waitFor("log.clientHeight === 50 && " + end)
	b.js("log.scrollTop = 100")
	b.waitFor("log.scrollTop === 100")
	f.showIn(b, view(100))
	require.Equal(t, 100.0, eval[float64](b, "log.scrollTop"), "the user reads further up")
	b.js("log.scrollTop = log.scrollHeight")
	f.showIn(b, view(120))
	b.waitFor(end)
}

func TestMorph_aThousandRowsAreQuick(t *testing.T) {
	var keys []string
	for i := range 1001 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	f, b := newFake(t, rows(keys[:1000]...), nil)
	b.js("for (const li of document.querySelectorAll('li')) li.mark = 1; window.moves = 0; new MutationObserver(l => moves += l.length).observe(document.querySelector('ul'), {childList: true})")
	for name, next := range map[string][]string{
		"one dropped, one appended":  keys[1:],
		"the first becomes the last": append(append([]string(nil), keys[2:]...), keys[1]),
	} {
		began := time.Now()
		f.showIn(b, rows(next...))
		t.Logf("%s: %v in all, %d changes", name, time.Since(began), eval[int](b, "moves"))
		require.Equal(t, 1000, eval[int](b, "document.querySelectorAll('li').length"))
	}
	require.GreaterOrEqual(t, eval[int](b, "[...document.querySelectorAll('li')].filter(li => li.mark).length"), 999)
}

// TestMorph_anyTreeBecomesAnyOther compares what a morph makes of random trees with what
// the parser makes of them, and follows the nodes with keys.
func TestMorph_anyTreeBecomesAnyOther(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var tree func(depth int, ids []string) string
	tree = func(depth int, ids []string) string {
		var b strings.Builder
		for range r.IntN(5) {
			tag := []string{"div", "p-x", "section", "b"}[r.IntN(4)]
			switch {
			case r.IntN(4) == 0:
				fmt.Fprintf(&b, "text%d", r.IntN(3))
				continue
			case r.IntN(10) == 0:
				b.WriteString("<!--c-->")
			case r.IntN(2) == 0 && len(ids) > 0:
				fmt.Fprintf(&b, `<div id="%s" class="c%d">`, ids[0], r.IntN(2))
				ids = ids[1:]
				tag = "div"
			default:
				fmt.Fprintf(&b, `<%s title="%d">`, tag, r.IntN(2))
			}
			if b.Len() > 0 && strings.HasSuffix(b.String(), "-->") {
				continue
			}
			if depth > 0 {
				half := len(ids) / 2
				b.WriteString(tree(depth-1, ids[:half]))
				ids = ids[half:]
			}
			fmt.Fprintf(&b, "</%s>", tag)
		}
		return b.String()
	}
	f, b := newFake(t, "", nil)
	for range 150 {
		ids := strings.Split("a b c d e f g h i j k l", " ")
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		markup := tree(4, ids[:r.IntN(len(ids))])
		b.js("window.before = new Map([...document.querySelectorAll('#jitney-root [id]')].map(e => [e.id, e]))")
		f.showIn(b, markup)
		got := eval[json.RawMessage](b, `(() => {
			const t = document.createElement('template');
			t.innerHTML = `+quote(markup)+`;
			const root = document.getElementById('jitney-root');
			const lost = [...before].filter(([id, e]) => root.querySelector('#' + id) && root.querySelector('#' + id) !== e).map(([id]) => id);
			return {same: root.innerHTML === t.innerHTML, got: root.innerHTML, lost};
		})()`)
		var result struct {
			Same bool
			Got  string
			Lost []string
		}
		require.NoError(t, json.Unmarshal(got, &result))
		require.True(t, result.Same, "want %s\n got %s", markup, result.Got)
		require.Empty(t, result.Lost, "of %s", markup)
	}
}
