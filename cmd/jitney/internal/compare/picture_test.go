package compare_test

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// element is any one of an XML document.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Elements []element  `xml:",any"`
}

func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// all are the elements below e, and e, for which f is true.
func (e element) all(f func(e element) bool) (list []element) {
	if f(e) {
		list = append(list, e)
	}
	for _, below := range e.Elements {
		list = append(list, below.all(f)...)
	}
	return list
}

func class(name string) func(e element) bool {
	return func(e element) bool {
		return strings.Contains(" "+e.attr("class")+" ", " "+name+" ")
	}
}

// parse reads a drawing, which must be one well-formed document that needs nothing from elsewhere.
func parse(t *testing.T, drawn []byte) (root element) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(drawn)))
	require.NoError(t, d.Decode(&root), string(drawn))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		text, isText := token.(xml.CharData)
		require.True(t, isText && strings.TrimSpace(string(text)) == "", "behind the document: %v", token)
	}
	require.Equal(t, "svg", root.XMLName.Local)
	require.Equal(t, "http://www.w3.org/2000/svg", root.XMLName.Space)
	without := strings.Replace(string(drawn), `xmlns="http://www.w3.org/2000/svg"`, "", 1)
	require.NotRegexp(t, `https?://|url\(|@import|href|<script`, without)
	require.NotRegexp(t, `NaN|Inf|%!`, without)
	return root
}

// checkPicture compares a drawing with the figures that it was made of.
func checkPicture(t *testing.T, drawn []byte, rep report) {
	t.Helper()
	root := parse(t, drawn)
	require.Equal(t, "img", root.attr("role"))
	for id := range strings.FieldsSeq(root.attr("aria-labelledby")) {
		require.Len(t, root.all(func(e element) bool { return e.attr("id") == id }), 1, id)
	}
	desc := root.all(func(e element) bool { return e.XMLName.Local == "desc" })[0].Text
	axis := readAxis(t, root)
	lanes := root.all(func(e element) bool { return e.XMLName.Local == "g" })
	require.Len(t, lanes, 2*len(rep.Buses))
	for i, lane := range lanes {
		f := rep.Buses[i%len(rep.Buses)]
		require.Equal(t, f.Bus, lane.attr("data-bus"))
		name, p := "conversation", f.Conversation
		if i >= len(rep.Buses) {
			name, p = "burst", f.Burst
		}
		require.Equal(t, name, lane.attr("data-phase"))
		for attr, want := range map[string]time.Duration{"data-p50-ns": p.Handled.P50, "data-p99-ns": p.Handled.P99, "data-max-ns": p.Handled.Max} {
			require.Equal(t, strconv.FormatInt(int64(want), 10), lane.attr(attr), attr)
		}
		require.Contains(t, desc, f.Bus+" in the "+name)
		marks := lane.all(class("mark"))
		require.Len(t, marks, 2)
		for j, q := range []struct {
			name string
			at   time.Duration
		}{{"p50", p.Handled.P50}, {"p99", p.Handled.P99}} {
			require.InEpsilon(t, float64(q.at), read(t, strings.TrimPrefix(marks[j].Text, q.name+" ")), 0.005, "%s is %s", marks[j].Text, q.at)
			lines := lane.all(class(q.name))
			require.Len(t, lines, 1)
			x, err := strconv.ParseFloat(lines[0].attr("x1"), 64)
			require.NoError(t, err)
			require.InDelta(t, axis[name](q.at), x, 0.2, "%s is drawn where %s is", q.name, q.at)
		}
		require.InDeltaSlice(t, shares(p), heights(t, lane), 0.01, "%s in the %s: the area", f.Bus, name)
	}
}

func TestPicture_ofTheREADMEIsOneOfThese(t *testing.T) {
	drawn, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "compare.svg"))
	require.NoError(t, err)
	root := parse(t, drawn)
	require.Len(t, root.all(func(e element) bool { return e.XMLName.Local == "g" }), 4)
	require.Len(t, root.all(class("axis")), len(root.all(class("grid"))))
}

// readAxis returns where a time is in each panel, according to the lines and what stands below them.
func readAxis(t *testing.T, root element) map[string]func(d time.Duration) float64 {
	t.Helper()
	lines, texts := root.all(class("grid")), root.all(class("axis"))
	require.Equal(t, len(lines), len(texts))
	axes := map[string]func(d time.Duration) float64{}
	half := len(lines) / 2
	for i, name := range []string{"conversation", "burst"} {
		first, end := i*half, i*half+half-1
		x := func(i int) float64 {
			at, err := strconv.ParseFloat(lines[i].attr("x1"), 64)
			require.NoError(t, err)
			return at
		}
		lo, hi := math.Log10(read(t, texts[first].Text)), math.Log10(read(t, texts[end].Text))
		axes[name] = func(d time.Duration) float64 {
			return x(first) + (math.Log10(float64(d))-lo)/(hi-lo)*(x(end)-x(first))
		}
	}
	return axes
}

// read is a duration as it is written, in nanoseconds.
func read(t *testing.T, text string) float64 {
	t.Helper()
	number, unit, found := strings.Cut(text, " ")
	require.True(t, found, text)
	x, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	require.NoError(t, err)
	return x * map[string]float64{"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]
}

// shares are the counts of the bins as parts of the highest.
func shares(p *phase) (list []float64) {
	top := 0
	for _, b := range p.Handled.Bins {
		top = max(top, b.Count)
	}
	for _, b := range p.Handled.Bins {
		list = append(list, float64(b.Count)/float64(top))
	}
	return list
}

// heights are the same as the area of a lane has them.
func heights(t *testing.T, lane element) (list []float64) {
	t.Helper()
	path := lane.all(class("area"))[0].attr("d")
	number := func(s string) float64 {
		x, err := strconv.ParseFloat(s, 64)
		require.NoError(t, err)
		return x
	}
	bottom := number(regexp.MustCompile(`^M[\d.]+ ([\d.]+)`).FindStringSubmatch(path)[1])
	var all []float64
	top := 0.0
	for _, bin := range regexp.MustCompile(`V([\d.]+)H`).FindAllStringSubmatch(path, -1) {
		all = append(all, bottom-number(bin[1]))
		top = max(top, all[len(all)-1])
	}
	for _, h := range all {
		list = append(list, h/top)
	}
	return list
}
