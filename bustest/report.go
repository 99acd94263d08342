package bustest

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Status says how a check ended.
type Status string

// A check passes, fails, or doesn't apply since the harness doesn't claim what it needs.
const (
	Passed     Status = "passed"
	Failed     Status = "failed"
	NotClaimed Status = "not claimed"
)

// Result is how one check ended.
type Result struct {
	Check    Check
	Status   Status
	Reason   string // why it failed or doesn't apply; empty when it passed
	Duration time.Duration
}

// Report is how all checks ended, in the order of the table. No check is left out.
type Report struct {
	Seed    uint64
	Results []Result
}

// Err joins the failures; it is nil if no check failed.
func (r Report) Err() error {
	var errs []error
	for _, res := range r.Results {
		if res.Status == Failed {
			errs = append(errs, fmt.Errorf("%s: %s\n%s", res.Check.Name, res.Check.Rule, res.Reason))
		}
	}
	return errors.Join(errs...)
}

// Result returns the result of the check of that name.
func (r Report) Result(name string) (Result, bool) {
	for _, res := range r.Results {
		if res.Check.Name == name {
			return res, true
		}
	}
	return Result{}, false
}

// String is a table with a line per check and a line of sums.
func (r Report) String() string {
	var b strings.Builder
	n := map[Status]int{}
	for _, res := range r.Results {
		n[res.Status]++
		reason, _, _ := strings.Cut(res.Reason, "\n")
		line := fmt.Sprintf("%-26s %-11s %6d ms  %s", res.Check.Name, res.Status, res.Duration.Milliseconds(), reason)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	fmt.Fprintf(&b, "%d passed, %d failed, %d not claimed (seed %d)\n", n[Passed], n[Failed], n[NotClaimed], r.Seed)
	return b.String()
}
