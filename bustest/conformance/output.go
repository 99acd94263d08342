package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest"
	"github.com/jitney-go/jitney/internal/terminal"
)

// output is told how a run goes. Nothing can be done about a standard output that can't be
// written, so its errors are ignored.
type output interface {
	start(s summary)
	check(round int, c bustest.Check)
	result(round int, seed uint64, r bustest.Result)
	end(s summary)
}

// summary is what there is to say about a run as a whole.
type summary struct {
	bus         string // without secrets
	seed        uint64
	count       int
	trial       bustest.Trial
	insisted    []bustest.Ability
	reports     []bustest.Report // so far
	took        time.Duration
	interrupted bool
}

func (s summary) total(statuses ...bustest.Status) int {
	n := 0
	for _, r := range s.reports {
		for _, status := range statuses {
			n += r.Count(status)
		}
	}
	return n
}

// left are the streams that stay.
func (s summary) left() []string {
	left := slices.Clone(s.trial.Left)
	for _, r := range s.reports {
		for _, res := range r.Results {
			left = append(left, res.Left...)
		}
	}
	return left
}

// checks is how many checks a round has.
func (s summary) checks() int {
	n := 0
	for _, c := range bustest.Checks() {
		if s.trial.Harness.Match == nil || s.trial.Harness.Match.MatchString(c.Name) {
			n++
		}
	}
	return n
}

// lines writes a JSON object per line.
type lines struct{ w io.Writer }

func (l *lines) write(v any) { _ = json.NewEncoder(l.w).Encode(v) }

func (l *lines) start(s summary) {
	l.write(struct {
		Event      string            `json:"event"`
		Bus        string            `json:"bus"`
		Seed       uint64            `json:"seed"`
		Count      int               `json:"count"`
		Checks     int               `json:"checks"`
		Claims     []bustest.Ability `json:"claims"`
		MaxPayload int               `json:"max_payload"`
		TickMS     int64             `json:"tick_ms"`
		Findings   []bustest.Finding `json:"findings"`
	}{
		"start", s.bus, s.seed, s.count, s.checks(), append([]bustest.Ability{}, s.trial.Harness.Claims...),
		s.trial.Harness.MaxPayload, s.trial.Harness.Tick.Milliseconds(), s.trial.Findings,
	})
}

func (l *lines) check(int, bustest.Check) {}

func (l *lines) result(round int, seed uint64, r bustest.Result) {
	l.write(struct {
		Event string `json:"event"`
		Round int    `json:"round"`
		Seed  uint64 `json:"seed"`
		bustest.Result
	}{"result", round, seed, r})
}

func (l *lines) end(s summary) {
	l.write(struct {
		Event       string        `json:"event"`
		Passed      int           `json:"passed"`
		Failed      int           `json:"failed"`
		Skipped     int           `json:"skipped"`
		Interrupted bool          `json:"interrupted"`
		Duration    time.Duration `json:"duration_ns"`
		Left        []string      `json:"left,omitempty"`
	}{
		"end", s.total(bustest.Passed), s.total(bustest.Failed), s.total(bustest.NotClaimed, bustest.NotRun),
		s.interrupted, s.took, s.left(),
	})
}

// text writes for people: on a terminal, the check that runs is a line that is overwritten.
type text struct {
	cmd        *command
	w          io.Writer
	overwrites bool
	count      int // of rounds
	checks     int // of a round
	at         int // how many of these have ended
}

const shownLines = 30 // of a reason, without -v

func (t *text) printf(format string, args ...any) {
	if t.overwrites {
		format = terminal.ClearLine + format
	}
	fmt.Fprintf(t.w, format, args...)
}

func (t *text) start(s summary) {
	t.count, t.checks = s.count, s.checks()
	t.printf("%s: %d checks, seed %d\n", s.bus, t.checks, s.seed)
	for _, f := range s.trial.Findings {
		has := "no "
		switch {
		case f.Has:
			has = "yes"
		case slices.Contains(s.insisted, f.Ability):
			has = "no, but claimed:"
		}
		t.printf("found out: %-13s %s %s\n", f.Ability, has, f.Why)
	}
}

func (t *text) check(round int, c bustest.Check) {
	line := fmt.Sprintf("%d/%d %s", t.at+1, t.checks, c.Name)
	if t.count > 1 {
		line = fmt.Sprintf("round %d of %d: %s", round, t.count, line)
	}
	if t.cmd.verbose || t.overwrites {
		line += ": " + c.Rule
	}
	if !t.overwrites {
		t.printf("%s\n", line)
		return
	}
	fmt.Fprint(t.w, terminal.Line(t.w, line))
}

func (t *text) result(_ int, seed uint64, r bustest.Result) {
	t.at = (t.at + 1) % t.checks
	if r.Status == bustest.Failed {
		reason := strings.Split(r.Reason, "\n")
		if more := len(reason) - shownLines; more > 0 && !t.cmd.verbose {
			reason = append(reason[:shownLines], fmt.Sprintf("(%d more lines; -v shows them)", more))
		}
		t.printf("FAILED %s: %s\n    %s\n    alone: %s\n", r.Check.Name, r.Check.Rule, strings.Join(reason, "\n    "), t.cmd.alone(r.Check, seed))
	} else if t.cmd.verbose {
		t.printf("%s %s, %d ms %s\n", r.Check.Name, r.Status, r.Duration.Milliseconds(), r.Reason)
	}
}

// alone is the command that runs one check again.
func (cmd *command) alone(c bustest.Check, seed uint64) string {
	s := fmt.Sprintf("%s -bus '%s' -run '^%s$' -seed %d", cmd.name, bus.Redacted(cmd.url), c.Name, seed)
	if cmd.claim != "" {
		s += fmt.Sprintf(" -claim '%s'", cmd.claim)
	}
	return s
}

func (t *text) end(s summary) {
	t.printf("\n%s\n%s\n", merged(s.reports).Table(), all(s.reports).Matrix())
	if left := s.left(); len(left) > 0 {
		t.printf("These streams stay on the bus and want to be removed by hand:\n    %s\n", strings.Join(left, "\n    "))
	}
	if s.interrupted {
		t.printf("Ended by a signal in round %d of %d.\n", len(s.reports), s.count)
	}
	t.printf("%d passed, %d failed, %d skipped\n",
		s.total(bustest.Passed), s.total(bustest.Failed), s.total(bustest.NotClaimed, bustest.NotRun))
}

// all is one report of every result.
func all(reports []bustest.Report) bustest.Report {
	var r bustest.Report
	for _, report := range reports {
		r.Claims = report.Claims
		r.Results = append(r.Results, report.Results...)
	}
	return r
}

// merged is one report with a result for each check: the worst one, and how often it came.
func merged(reports []bustest.Report) bustest.Report {
	r := all(reports[:min(1, len(reports))])
	for i, res := range r.Results {
		same := func(s bustest.Status) (n int, first bustest.Result) {
			for _, report := range reports {
				if found, ok := report.Result(res.Check.Name); ok && found.Status == s {
					if n++; n == 1 {
						first = found
					}
				}
			}
			return n, first
		}
		for _, s := range []bustest.Status{bustest.Failed, bustest.NotRun} {
			if n, first := same(s); n > 0 {
				res = first
				if len(reports) > 1 {
					res.Reason = fmt.Sprintf("%d of %d times: %s", n, len(reports), res.Reason)
				}
				break
			}
		}
		r.Results[i] = res
	}
	return r
}
