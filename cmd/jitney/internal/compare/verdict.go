package compare

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// alike is the ratio up to which two figures count as the same: they vary by about as much from run to run.
const alike = 1.25

// waits is how much later than the quickest bus one delivers that waits for something.
const waits = time.Millisecond

// astray are the deliveries that a bus owes or made twice while it ran.
func (f *figures) astray() int {
	n := 0
	for _, p := range []*phase{f.Conversation, f.Burst, f.Flood} {
		if p != nil {
			n += p.Missing + p.Repeated
		}
	}
	return n
}

// judge says what the figures of the report come to.
func (r *report) judge() {
	r.Verdict, r.Waiting = []string{}, []string{}
	var measured []*figures
	for _, f := range r.Buses {
		for _, p := range []struct {
			name string
			*phase
		}{{"conversation", f.Conversation}, {"burst", f.Burst}, {"flood", f.Flood}} {
			if p.phase != nil && p.Missing+p.Repeated > 0 {
				r.say("%s breaks the contract: in the %s, of %s deliveries %s are missing and %s were repeated. "+
					"(jitney conformance says more.)", f.Bus, p.name, count(p.Deliveries+p.Missing), count(p.Missing), count(p.Repeated))
			}
		}
		if f.Error == "" {
			measured = append(measured, f)
		}
	}
	byLatency := slices.Clone(measured)
	slices.SortStableFunc(byLatency, func(a, b *figures) int { return cmp.Compare(a.Conversation.Handled.P50, b.Conversation.Handled.P50) })
	for i, f := range byLatency {
		if i > 0 {
			r.compareLatency(byLatency[0], f)
		}
	}
	bySpeed := slices.Clone(measured)
	slices.SortStableFunc(bySpeed, func(a, b *figures) int { return cmp.Compare(b.Flood.PerSecond, a.Flood.PerSecond) })
	for i, f := range bySpeed {
		if i > 0 {
			r.compareSpeed(bySpeed[0], f)
		}
	}
	for _, f := range measured {
		r.judgeKill(f)
	}
	for i, f := range byLatency {
		if i > 0 {
			r.judgeWaiting(byLatency[0], f)
		}
	}
}

func (r *report) say(format string, args ...any) {
	r.Verdict = append(r.Verdict, fmt.Sprintf(format, args...))
}

func (r *report) compareLatency(quick, other *figures) {
	q, o := quick.Conversation.Handled, other.Conversation.Handled
	if x := ratio(o.P50, q.P50); x <= alike {
		r.say("%s and %s deliver about equally soon in the conversation: %s and %s (p50).", quick.Bus, other.Bus, duration(q.P50), duration(o.P50))
	} else {
		r.say("%s delivers %s times sooner than %s in the conversation: %s against %s (p50).",
			quick.Bus, times(x), other.Bus, duration(q.P50), duration(o.P50))
	}
}

func (r *report) compareSpeed(fast, other *figures) {
	f, o := fast.Flood.PerSecond, other.Flood.PerSecond
	if x := f / o; x <= alike {
		r.say("%s and %s deliver about as much in the flood: %s and %s per second.", fast.Bus, other.Bus, digits(f), digits(o))
	} else {
		r.say("%s delivers %s times as much as %s in the flood: %s per second against %s.", fast.Bus, times(x), other.Bus, digits(f), digits(o))
	}
}

func (r *report) judgeKill(f *figures) {
	what := "its process"
	if f.Elsewhere {
		what = "the client"
	}
	lost, all := f.Kill.Lost, f.Kill.Acknowledged
	switch lost {
	case 0:
		r.say("%s lost none of %s acknowledged messages when %s was killed.", f.Bus, count(all), what)
	case all:
		r.say("%s lost all of %s acknowledged messages when %s was killed.", f.Bus, count(all), what)
	default:
		r.say("%s lost %s of %s acknowledged messages when %s was killed.", f.Bus, count(lost), count(all), what)
	}
}

// judgeWaiting says whether a bus that delivers later than the quickest one is better in the burst.
func (r *report) judgeWaiting(quick, late *figures) {
	if late.Conversation.Handled.P50-quick.Conversation.Handled.P50 < waits {
		return
	}
	q, l := quick.Burst, late.Burst
	renders := (1 - q.Saved) / (1 - l.Saved)
	cpu := ratio(q.PerMessage, l.PerMessage)
	sooner := ratio(q.Rendered.P99, l.Rendered.P99)
	facts := fmt.Sprintf("In the burst, where a page costs %s, %s renders %s %s and takes %s CPU per message; "+
		"what is said is rendered after %s (p99) against %s.",
		given(r.Load.Render), late.Bus, comparedTo(renders, "less often than", "more often than", "as often as"), quick.Bus,
		comparedTo(cpu, "less", "more", "as much"), duration(l.Rendered.P99), duration(q.Rendered.P99))
	var conclusion string
	switch saves := cpu > alike; {
	case saves && sooner > alike:
		conclusion = fmt.Sprintf("There it is the better one in both: %s is busy rendering what is old already.", quick.Bus)
	case saves && sooner >= 1/alike:
		conclusion = "There it is the better one: it saves CPU, and shows what is said as soon."
	case saves:
		conclusion = fmt.Sprintf("It is better there if you lack CPU and nobody minds the %s; else it isn't.", duration(l.Rendered.P99))
	case sooner > alike:
		conclusion = "There it is better: it shows what is said sooner, though it saves no CPU."
	default:
		conclusion = "It isn't better there: waiting saves nothing that is worth the wait."
	}
	r.Waiting = append(r.Waiting, facts+" "+conclusion)
}

// comparedTo words a ratio.
func comparedTo(x float64, above, below, same string) string {
	switch {
	case x > alike:
		return times(x) + " times " + above
	case x < 1/alike:
		return times(1/x) + " times " + below
	}
	return "about " + same
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }
