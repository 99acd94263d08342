package ui_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/ui"
	"github.com/jitney-go/jitney/ui/internal/client"
)

// patch applies Diff's edits as the browser would, by way of the wire.
func patch(t require.TestingT, old, next string, effort int) (edits []ui.Splice, ok bool) {
	edits, ok = ui.Diff(old, next, effort)
	if !ok {
		return nil, false
	}
	data, err := json.Marshal(edits)
	require.NoError(t, err)
	var wire [][3]any
	require.NoError(t, json.Unmarshal(data, &wire))
	length, sum := ui.Checksum(next)
	got, err := client.Splice(old, wire, length, sum)
	require.NoError(t, err, "%q to %q by %s", old, next, data)
	require.Equal(t, next, got)
	return edits, true
}

func FuzzDiff_editsGiveTheNewText(f *testing.F) {
	f.Add("", "")
	f.Add("<ol><li>a</li></ol>", "<ol><li>a</li><li>b</li></ol>")
	f.Add("<p>\U0001F600\U0001F601</p>", "<p>\U0001F600\U0001F602</p>")
	f.Add("<p>é</p>", "<p>è</p>")
	f.Add("a<b<<c", "<<b<a<")
	f.Add("<<<<<<", "<<")
	f.Fuzz(func(t *testing.T, old, next string) {
		old, next = strings.ToValidUTF8(old, "\uFFFD"), strings.ToValidUTF8(next, "\uFFFD")
		patch(t, old, next, 8)
		_, ok := patch(t, old, next, 1000)
		require.True(t, ok || strings.Count(old+next, "<") > 500)
	})
}

// list is a view of rows.
func list(rows []int) string {
	var b strings.Builder
	b.WriteString(`<main><ol role="log">`)
	for _, r := range rows {
		fmt.Fprintf(&b, `<li id="m%d"><b>Zoë 😀</b><p>line %d</p><time>%d</time></li>`, r, r, r*7)
	}
	b.WriteString("</ol><footer>end</footer></main>")
	return b.String()
}

func TestDiff_costsTheRowsThatChanged(t *testing.T) {
	rows := make([]int, 50)
	for i := range rows {
		rows[i] = i
	}
	size := func(edits []ui.Splice) (n int) {
		for _, e := range edits {
			n += len(e.Insert)
		}
		return n
	}
	old := list(rows)
	row := len(list([]int{1234})) - len(list(nil))
	for name, next := range map[string][]int{
		"one appended":               append(append([]int{}, rows...), 1234),
		"one dropped, one appended":  append(append([]int{}, rows[1:]...), 1234),
		"one inserted in the middle": append(append(append([]int{}, rows[:20]...), 1234), rows[20:]...),
		"one replaced":               append(append(append([]int{}, rows[:20]...), 1234), rows[21:]...),
		"three dropped, three apart": append(append(append([]int{}, rows[3:20]...), 1234), rows[20:]...),
	} {
		edits, ok := patch(t, old, list(next), 256)
		require.True(t, ok, name)
		require.LessOrEqual(t, size(edits), row, name)
	}
	edits, ok := patch(t, old, list(rows[:49]), 256)
	require.True(t, ok)
	require.Len(t, edits, 1)
	require.Empty(t, edits[0].Insert)
}

func TestDiff_survivesRandomLists(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	rows := []int{1, 2, 3}
	for range 400 {
		next := append([]int{}, rows...)
		for range random.IntN(4) {
			switch i := random.IntN(len(next) + 1); {
			case random.IntN(2) == 0 || i == len(next):
				next = append(next[:i], append([]int{random.IntN(1000)}, next[i:]...)...)
			default:
				next = append(next[:i], next[i+1:]...)
			}
		}
		_, ok := patch(t, list(rows), list(next), 256)
		require.True(t, ok)
		rows = next
	}
}

func TestDiff_givesUpWhenTooMuchDiffers(t *testing.T) {
	var a, b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&a, "<i>%d</i>", i)
		fmt.Fprintf(&b, "<b>%d</b>", -i)
	}
	_, ok := ui.Diff(a.String(), b.String(), 64)
	require.False(t, ok)
}

func TestChecksum_countsAsBrowsersDo(t *testing.T) {
	// The offsets of FNV-1a, and what JavaScript gives for "a€😀": 4 units, 0x61 0x20AC 0xD83D 0xDE00.
	length, sum := ui.Checksum("")
	require.Equal(t, 0, length)
	require.Equal(t, uint32(0x811c9dc5), sum)
	length, _ = ui.Checksum("a€\U0001F600")
	require.Equal(t, 4, length)
	require.True(t, utf8.ValidString("a€\U0001F600"))
}

func BenchmarkDiff_chatOf50(b *testing.B) {
	rows := make([]int, 50)
	for i := range rows {
		rows[i] = i
	}
	old, next := list(rows), list(append(rows[1:], 1234))
	b.SetBytes(int64(len(next)))
	for b.Loop() {
		ui.Diff(old, next, 256)
	}
}
