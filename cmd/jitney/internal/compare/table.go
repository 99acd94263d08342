package compare

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// line is one line of the table: a heading if it has no value.
type line struct {
	label string
	value func(f *figures) string
}

// lines is the table, top to bottom. A line of a part that wasn't measured is told by cell.
func (r *report) lines() []line {
	latencies := func(which func(f *figures) *phase) []line {
		return []line{
			{"  publish to handler, p50", ofPhase(which, func(p *phase) string { return duration(p.Handled.P50) })},
			{"                      p99", ofPhase(which, func(p *phase) string { return duration(p.Handled.P99) })},
			{"                      max", ofPhase(which, func(p *phase) string { return duration(p.Handled.Max) })},
			{"  publish to rendered, p50", ofPhase(which, func(p *phase) string { return duration(p.Rendered.P50) })},
			{"                       p99", ofPhase(which, func(p *phase) string { return duration(p.Rendered.P99) })},
			{"  renders", ofPhase(which, func(p *phase) string { return count(p.Renders) })},
			{"  saved by coalescing", ofPhase(which, func(p *phase) string { return percent(p.Saved) })},
			{"  CPU per message", ofPhase(which, func(p *phase) string { return duration(p.PerMessage) })},
		}
	}
	lines := []line{{fmt.Sprintf("conversation: %s messages/s for %s", rate(r.Load.Rate), given(r.Load.Conversation)), nil}}
	lines = append(lines, latencies(conversation)...)
	lines = append(lines, line{fmt.Sprintf("burst: %s messages/s for %s, %s to render a page", rate(r.Load.BurstRate),
		given(r.Load.Burst), given(r.Load.Render)), nil})
	lines = append(lines, latencies(burst)...)
	lines = append(lines,
		line{"flood: as fast as acknowledged", nil},
		line{"  deliveries per second", ofPhase(flood, func(p *phase) string { return digits(p.PerSecond) })},
		line{"  CPU per delivery", ofPhase(flood, func(p *phase) string {
			return duration(p.CPU / max(1, time.Duration(p.Deliveries)))
		})},
		line{"memory in use", live},
		line{"       peak", func(f *figures) string {
			if f.Memory == nil || f.Memory.Peak == 0 {
				return ""
			}
			return size(f.Memory.Peak)
		}},
		line{"lost at a kill, of acknowledged", lost},
	)
	if !r.sound() {
		lines = append(lines, line{"missing or repeated deliveries", func(f *figures) string {
			if f.Conversation == nil {
				return ""
			}
			return count(f.astray())
		}})
	}
	return lines
}

// The figures of which table and picture tell; what wasn't measured is empty.

func conversation(f *figures) *phase { return f.Conversation }
func burst(f *figures) *phase        { return f.Burst }
func flood(f *figures) *phase        { return f.Flood }

func ofPhase(which func(f *figures) *phase, value func(p *phase) string) func(f *figures) string {
	return func(f *figures) string {
		if p := which(f); p != nil {
			return value(p)
		}
		return ""
	}
}

func live(f *figures) string {
	if f.Memory == nil {
		return ""
	}
	return size(f.Memory.Live)
}

func lost(f *figures) string {
	if f.Kill == nil {
		return ""
	}
	return count(f.Kill.Lost) + " of " + count(f.Kill.Acknowledged)
}

// text is the report for a terminal.
func (r *report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d pages in %d rooms, on %d CPUs (%s/%s, %s)\n\n", r.Load.Tabs, r.Load.Rooms, r.System.CPUs, r.System.OS, r.System.Arch, r.System.Go)
	lines := r.lines()
	widths := []int{0}
	for _, l := range lines {
		if l.value != nil {
			widths[0] = max(widths[0], utf8.RuneCountInString(l.label))
		}
	}
	b.WriteString(strings.Repeat(" ", widths[0]))
	for _, f := range r.Buses {
		name := shortened(f.Bus, 30)
		width := utf8.RuneCountInString(name)
		for _, l := range lines {
			width = max(width, utf8.RuneCountInString(cell(l, f)))
		}
		widths = append(widths, width)
		b.WriteString("  " + padded(name, width))
	}
	b.WriteString("\n")
	for _, l := range lines {
		b.WriteString(l.label)
		if l.value != nil {
			b.WriteString(strings.Repeat(" ", widths[0]-utf8.RuneCountInString(l.label)))
			for i, f := range r.Buses {
				b.WriteString("  " + padded(cell(l, f), widths[i+1]))
			}
		}
		b.WriteString("\n")
	}
	for _, f := range r.Buses {
		if f.Elsewhere && f.Kill != nil {
			fmt.Fprintf(&b, "\nOf %s only the client is measured and was killed, not the server.\n", f.Bus)
		}
		if f.Error != "" {
			fmt.Fprintf(&b, "\n%s couldn't be measured to the end: %s\n", f.Bus, f.Error)
		}
		for _, problem := range f.Problems {
			fmt.Fprintf(&b, "\n%s reported: %s\n", f.Bus, problem)
		}
	}
	paragraphs(&b, "What the figures say", r.Verdict)
	paragraphs(&b, "Is waiting better?", r.Waiting)
	return b.String()
}

func paragraphs(b *strings.Builder, heading string, sentences []string) {
	if len(sentences) == 0 {
		return
	}
	b.WriteString("\n" + heading + "\n")
	for _, s := range sentences {
		b.WriteString(wrapped(s, 96) + "\n")
	}
}

// cell is what a line says of a bus.
func cell(l line, f *figures) string {
	if l.value == nil {
		return ""
	}
	if text := l.value(f); text != "" {
		return text
	}
	return "–"
}

// padded aligns text to the right.
func padded(text string, width int) string {
	return strings.Repeat(" ", width-utf8.RuneCountInString(text)) + text
}

// wrapped breaks a line between words, and indents what follows.
func wrapped(text string, width int) string {
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
			b.WriteString("  ")
			at = 2
		case at+1+n > width:
			b.WriteString("\n    ")
			at = 4
		default:
			b.WriteString(" ")
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}
