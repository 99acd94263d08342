package compare

import (
	"errors"
	"fmt"
	"html"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// picture is the file that the drawing goes to.
type picture struct {
	path string
	made bool // by us, and empty yet
}

// openPicture finds out whether it can be written, before anything is measured for it. What it holds stays until
// there is a new drawing.
func openPicture(path string) (*picture, error) {
	p := &picture{path: path}
	if path == "" {
		return p, nil
	}
	_, err := os.Stat(path)
	p.made = errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return nil, withoutPath(err)
	}
	return p, f.Close()
}

func (p *picture) write(r *report) error {
	if p.path == "" {
		return nil
	}
	p.made = false
	return os.WriteFile(p.path, []byte(draw(r)), 0o666)
}

// abandon removes a file that stayed empty.
func (p *picture) abandon() error {
	if !p.made {
		return nil
	}
	return os.Remove(p.path)
}

// withoutPath is for an error that is told with the path already.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// The measures of the drawing, in pixels.
const (
	drawingWidth = 1280
	margin       = 48
	panelGap     = 48
	panelWidth   = (drawingWidth - 2*margin - panelGap) / 2
	panelsTop    = 150 // below the titles of the panels
	laneHeight   = 150
	areaHeight   = 84 // of the highest bin
	rowHeight    = 34 // of the table
	nameLength   = 44 // characters of a bus's name in a lane
)

// The colours of the buses: each has the same lightness, and they differ also for who doesn't see red or green.
var lightColours, darkColours = []string{"#0b5cad", "#c2410c", "#0f766e", "#7e22ce", "#a16207", "#9f1239"},
	[]string{"#79b8ff", "#ffa657", "#5eead4", "#d2a8ff", "#facc15", "#fda4af"}

// drawing writes SVG.
type drawing struct {
	strings.Builder
	r      *report
	lo, hi float64 // of the axes, powers of ten of nanoseconds
}

// draw draws the latencies of the report, and tells its other figures below them.
func draw(r *report) string {
	d := &drawing{r: r}
	d.lo, d.hi = r.decades()
	lanesBottom := panelsTop + laneHeight*len(r.Buses)
	tableTop := lanesBottom + 82
	height := tableTop + rowHeight*(len(r.Buses)+1) + 12
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title desc">`, drawingWidth, height)
	d.printf(`<title id="title">%s</title>`, "How long a message takes from publish to handler, on each bus")
	d.printf(`<desc id="desc">%s</desc>`, d.description())
	d.style()
	d.printf(`<rect class="paper" width="%d" height="%d"/>`, drawingWidth, height)
	d.printf(`<text class="title" x="%d" y="56">From publish to handler</text>`, margin)
	d.printf(`<text class="quiet" x="%d" y="86">The same chat on each bus: %d pages in %d rooms. Share of the deliveries by latency, on a logarithmic scale.</text>`,
		margin, r.Load.Tabs, r.Load.Rooms)
	for i, p := range []panel{
		{"conversation", "Conversation", rate(r.Load.Rate) + " messages/s", conversation},
		{"burst", "Burst", rate(r.Load.BurstRate) + " messages/s, " + given(r.Load.Render) + " to render a page", burst},
	} {
		d.panel(p, float64(margin+i*(panelWidth+panelGap)))
	}
	d.table(tableTop)
	d.WriteString("</svg>\n")
	return d.String()
}

// panel is the lanes of one phase.
type panel struct {
	id, title, about string
	phase            func(f *figures) *phase
}

func (d *drawing) panel(p panel, left float64) {
	d.printf(`<text class="panel" x="%g" y="%d">%s<tspan class="quiet" dx="12">%s</tspan></text>`, left, panelsTop-22, p.title, p.about)
	d.axis(left, panelsTop, float64(panelsTop+laneHeight*len(d.r.Buses)))
	top := 0.0 // the highest share of a bin, which all lanes have in common
	for _, f := range d.r.Buses {
		if of := p.phase(f); of != nil {
			for _, b := range of.Handled.Bins {
				top = max(top, float64(b.Count)/float64(of.Deliveries))
			}
		}
	}
	for i, f := range d.r.Buses {
		bottom, colour := float64(panelsTop+laneHeight*(i+1)), i%len(lightColours)
		d.printf(`<line class="base" x1="%g" x2="%g" y1="%g" y2="%g"/>`, left, left+panelWidth, bottom, bottom)
		d.printf(`<text class="bus f%d" x="%g" y="%g">%s</text>`, colour, left, bottom-laneHeight+28, shortened(f.Bus, nameLength))
		if of := p.phase(f); of == nil {
			d.printf(`<text class="bad" x="%g" y="%g">not measured</text>`, left, bottom-14)
		} else {
			d.lane(p.id, f.Bus, of, colour, left, bottom, top)
		}
	}
}

func (d *drawing) printf(format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = html.EscapeString(s)
		}
	}
	fmt.Fprintf(&d.Builder, format+"\n", args...)
}

// description says in words what is drawn.
func (d *drawing) description() string {
	var b strings.Builder
	for _, f := range d.r.Buses {
		for _, p := range []struct {
			name string
			*phase
		}{{"conversation", f.Conversation}, {"burst", f.Burst}} {
			if p.phase != nil {
				h := p.Handled
				fmt.Fprintf(&b, "%s in the %s: half of the deliveries within %s, 99 of 100 within %s, all within %s. ",
					f.Bus, p.name, duration(h.P50), duration(h.P99), duration(h.Max))
			}
		}
	}
	return strings.TrimSpace(b.String() + strings.Join(d.r.Verdict, " "))
}

func (d *drawing) style() {
	d.WriteString(`<style>
text { font: 19px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; fill: #1f2328; font-variant-numeric: tabular-nums }
.title { font-size: 34px; font-weight: 700 }
.panel { font-size: 24px; font-weight: 600 }
.bus { font-size: 21px; font-weight: 600 }
.quiet, .axis { fill: #59636e; font-weight: 400 }
.quiet { font-size: 19px }
.axis { font-size: 17px }
.mark { font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round }
.end { text-anchor: end }
.middle { text-anchor: middle }
.paper { fill: #fff }
.grid { stroke: #d1d9e0 }
.base { stroke: #818b98 }
.area { fill-opacity: .28; stroke-width: 1.5 }
.p50 { stroke-width: 3 }
.p99 { stroke-width: 3; stroke-dasharray: 7 5 }
.bad { fill: #b42318; font-weight: 600 }
`)
	colours(&d.Builder, lightColours)
	d.WriteString(`@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.quiet, .axis { fill: #a9b4c0 }
.mark { stroke: #0d1117 }
.paper { fill: #0d1117 }
.grid { stroke: #2f3742 }
.base { stroke: #7d8590 }
.bad { fill: #ff938a }
`)
	colours(&d.Builder, darkColours)
	d.WriteString("}\n</style>\n")
}

func colours(b *strings.Builder, list []string) {
	for i, colour := range list {
		fmt.Fprintf(b, ".f%d { fill: %s } .s%d { stroke: %s }\n", i, colour, i, colour)
	}
}

// decades are the powers of ten of nanoseconds between which all latencies are.
func (r *report) decades() (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, f := range r.Buses {
		for _, p := range []*phase{f.Conversation, f.Burst} {
			if p == nil || len(p.Handled.Bins) == 0 {
				continue
			}
			first, longest := binOf(p.Handled.Bins[0].To)-1, p.Handled.Max
			lo = min(lo, math.Floor(float64(first)/binsPerDecade))
			hi = max(hi, math.Ceil(math.Log10(float64(longest))))
		}
	}
	if lo >= hi {
		return 3, 9 // nothing was measured
	}
	return max(lo, 0), hi
}

// x is where a duration is in a panel, from its left.
func (d *drawing) x(t time.Duration) float64 {
	at := (math.Log10(float64(max(t, 1))) - d.lo) / (d.hi - d.lo)
	return min(max(at, 0), 1) * panelWidth
}

func (d *drawing) axis(left, top, bottom float64) {
	for decade := d.lo; decade <= d.hi; decade++ {
		t := time.Duration(math.Pow10(int(decade)))
		x := left + d.x(t)
		d.printf(`<line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, x, x, top, bottom)
		align := "middle"
		switch decade {
		case d.lo:
			align = "start"
		case d.hi:
			align = "end"
		}
		d.printf(`<text class="axis %s" x="%.1f" y="%g">%s</text>`, align, x, bottom+26, given(t))
	}
}

// lane draws a distribution above the line at bottom; top is the share of a bin that is as high as bins may be.
func (d *drawing) lane(id, bus string, p *phase, colour int, left, bottom, top float64) {
	h := p.Handled
	d.printf(`<g data-phase="%s" data-bus="%s" data-p50-ns="%d" data-p99-ns="%d" data-max-ns="%d">`, id, bus, h.P50, h.P99, h.Max)
	var path strings.Builder
	at := -1.0 // where the path has come to, from the left
	for _, b := range h.Bins {
		from, to := left+d.x(bound(binOf(b.To)-1)), left+d.x(b.To)
		if at != from {
			if at >= 0 {
				fmt.Fprintf(&path, "V%g", bottom)
			}
			fmt.Fprintf(&path, "M%.1f %g", from, bottom)
		}
		fmt.Fprintf(&path, "V%.1fH%.1f", bottom-areaHeight*float64(b.Count)/float64(p.Deliveries)/top, to)
		at = to
	}
	fmt.Fprintf(&path, "V%g", bottom)
	d.printf(`<path class="area f%d s%d" d="%s"/>`, colour, colour, path.String())
	d.marks(h, colour, left, bottom)
	d.printf(`</g>`)
}

// marks draws where the quantiles are, and what they are in a line above: p50 to the left of its mark, p99 to the right,
// so that they don't meet, unless one would leave the panel.
func (d *drawing) marks(h distribution, colour int, left, bottom float64) {
	const gap, between, character = 7, 16, 12.5 // pixels; a character is rather less wide
	right := left + panelWidth
	x50, x99 := left+d.x(h.P50), left+d.x(h.P99)
	text50, text99 := "p50 "+duration(h.P50), "p99 "+duration(h.P99)
	width := func(text string) float64 { return character * float64(utf8.RuneCountInString(text)) }
	end50 := max(x50-gap, left+width(text50))
	start99 := min(max(x99+gap, end50+between), right-width(text99))
	end50 = min(end50, start99-between)
	top := bottom - areaHeight - 4
	d.printf(`<line class="p50 s%d" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, colour, x50, x50, top, bottom)
	d.printf(`<line class="p99 s%d" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, colour, x99, x99, top, bottom)
	d.printf(`<text class="mark end" x="%.1f" y="%g">%s</text>`, end50, top-7, text50)
	d.printf(`<text class="mark" x="%.1f" y="%g">%s</text>`, start99, top-7, text99)
}

// table tells what isn't drawn.
func (d *drawing) table(top int) {
	columns := []struct {
		title, about string
		right        int
		value        func(f *figures) string
	}{
		{"renders", "in the burst", 536, ofPhase(burst, func(p *phase) string { return count(p.Renders) + " (" + percent(p.Saved) + " saved)" })},
		{"CPU per message", "in the burst", 716, ofPhase(burst, func(p *phase) string { return duration(p.PerMessage) })},
		{"deliveries/s", "in the flood", 876, ofPhase(flood, func(p *phase) string { return digits(p.PerSecond) })},
		{"memory", "in use", 996, live},
		{"lost at a kill", "of acknowledged", drawingWidth - margin, lost},
	}
	for _, c := range columns {
		d.printf(`<text class="quiet end" x="%d" y="%d">%s</text>`, c.right, top-14, c.title)
		d.printf(`<text class="quiet end" x="%d" y="%d">%s</text>`, c.right, top+10, c.about)
	}
	for i, f := range d.r.Buses {
		y := top + 8 + rowHeight*(i+1)
		d.printf(`<text class="bus f%d" x="%d" y="%d">%s</text>`, i%len(lightColours), margin, y, shortened(f.Bus, 20))
		for _, c := range columns {
			d.printf(`<text class="end" x="%d" y="%d">%s</text>`, c.right, y, cell(line{c.title, c.value}, f))
		}
	}
}

// shortened leaves out the middle of a long name.
func shortened(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most/2]) + "…" + string(runes[len(runes)-most/2+1:])
}
