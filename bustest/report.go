package bustest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status says how a check ended.
type Status string

// A check passes, fails, doesn't apply since the harness doesn't claim what it needs, or
// hasn't come to its end because the context of Examine did before.
const (
	Passed     Status = "passed"
	Failed     Status = "failed"
	NotClaimed Status = "not claimed"
	NotRun     Status = "not run"
)

// Result is how one check ended.
type Result struct {
	Check    Check         `json:"check"`
	Status   Status        `json:"status"`
	Reason   string        `json:"reason,omitempty"` // why it failed, doesn't apply or wasn't run; empty when it passed
	Duration time.Duration `json:"duration_ns"`

	// NotChecked are the parts of the rule that the check couldn't try, each with the reason, though it has run.
	NotChecked []string `json:"not_checked,omitempty"`

	// Left are the streams of the check that couldn't be removed, each with the reason. See Harness.Shared.
	Left []string `json:"left,omitempty"`
}

// Report is how all checks ended, in the order of the table. No check is left out, except
// those that Harness.Match doesn't name.
type Report struct {
	Seed    uint64    `json:"seed"`
	Claims  []Ability `json:"claims"` // with PayloadLimit, Ticking and Faults where the harness has their fields
	Results []Result  `json:"results"`
}

// Err joins the failures and the checks that weren't run; it is nil if there are none.
func (r Report) Err() error {
	var errs []error
	for _, res := range r.Results {
		if res.Status == Failed || res.Status == NotRun {
			errs = append(errs, fmt.Errorf("%s: %s\n%s", res.Check.Name, res.Check.Rule, res.Reason))
		}
	}
	return errors.Join(errs...)
}

// Result returns the result of the check of that name, the first one if there are several.
func (r Report) Result(name string) (Result, bool) {
	for _, res := range r.Results {
		if res.Check.Name == name {
			return res, true
		}
	}
	return Result{}, false
}

// Count is the number of results with a status.
func (r Report) Count(s Status) int {
	n := 0
	for _, res := range r.Results {
		if res.Status == s {
			n++
		}
	}
	return n
}

// reportWidth is how long the lines of a report can be.
const reportWidth = 100

// String is the table, the matrix and a line of sums.
func (r Report) String() string {
	s := fmt.Sprintf("%s\n%s\n%d passed, %d failed, %d not claimed", r.Table(), r.Matrix(), r.Count(Passed), r.Count(Failed), r.Count(NotClaimed))
	if n := r.Count(NotRun); n > 0 {
		s += fmt.Sprintf(", %d not run", n)
	}
	return s + fmt.Sprintf(" (seed %d)\n", r.Seed)
}

// Table is a line for each check: how it ended, how long it took, and the first line of the
// reason, or what it couldn't check. What failed comes last.
func (r Report) Table() string {
	var b strings.Builder
	for _, status := range []Status{Passed, NotClaimed, NotRun, Failed} {
		for _, res := range r.Results {
			if res.Status == status {
				b.WriteString(res.line() + "\n")
			}
		}
	}
	return b.String()
}

func (r Result) line() string {
	reason, _, _ := strings.Cut(r.Reason, "\n")
	if reason == "" && len(r.NotChecked) > 0 {
		reason = "not checked: " + strings.Join(r.NotChecked, "; ")
	}
	line := fmt.Sprintf("%-24s %-11s %6d ms  %s", r.Check.Name, r.Status, r.Duration.Milliseconds(), strings.TrimSpace(reason))
	if runes := []rune(line); len(runes) > reportWidth {
		line = string(runes[:reportWidth-1]) + "…"
	}
	return strings.TrimRight(line, " ")
}

// Matrix is a table with a row for each ability: whether it is claimed, and how the checks
// ended that need it, or that it be missing. The first row is of the checks that run on every bus.
func (r Report) Matrix() string {
	statuses := []Status{Passed, Failed, NotClaimed, NotRun}
	var b strings.Builder
	row := func(ability, claimed string, of func(Check) bool) {
		var counts []any
		for _, s := range statuses {
			n := 0
			for _, res := range r.Results {
				if res.Status == s && of(res.Check) {
					n++
				}
			}
			counts = append(counts, n)
		}
		fmt.Fprintf(&b, "%-15s %-7s %8d %8d %12d %8d\n", append([]any{ability, claimed}, counts...)...)
	}
	fmt.Fprintf(&b, "%-15s %-7s %8s %8s %12s %8s\n", "ability", "claimed", Passed, Failed, NotClaimed, NotRun)
	row("every bus", "", func(c Check) bool { return len(c.Needs) == 0 && c.Lacks == "" })
	for _, a := range everyAbility() {
		claimed := "no"
		if slices.Contains(r.Claims, a) {
			claimed = "yes"
		}
		row(string(a), claimed, func(c Check) bool { return c.Lacks == a || slices.Contains(c.Needs, a) })
	}
	return b.String()
}
