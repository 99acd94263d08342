package bustest

import (
	"context"
	"errors"
	"flag"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest/internal/refbus"
	"github.com/stretchr/testify/require"
)

func TestRun_passesTheReferenceBus(t *testing.T) { Run(t, reference(refbus.Config{})) }

func TestRun_passesOddButConformingBuses(t *testing.T) {
	if testing.Short() {
		t.Skip("the reference bus and the bubble cover it for a first look")
	}
	for name, cfg := range map[string]refbus.Config{
		"delays":         {Delay: true},
		"yields":         {Yield: true},
		"ticks":          {Tick: 2 * time.Millisecond},
		"gaps":           {Gaps: true},
		"wrapped errors": {Wrap: true},
		"tiny buffers":   {Tiny: true},
		"several":        several,
		"volatile":       {Volatile: true},
		"no removal":     {NoRemoval: true},
		"lacks a lot":    {NoHeaders: true, NoStreams: true, NoGroups: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := reference(cfg)
			h.Patience = time.Minute // several of them, and whatever else the machine does
			Run(t, h)
		})
	}
}

func TestRun_passesInABubble(t *testing.T) {
	for name, cfg := range map[string]refbus.Config{
		"instant": {},
		"ticks":   {Tick: 100 * time.Millisecond},
		"delays":  {Delay: true, Gaps: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := reference(cfg)
			h.Bubble, h.Settle = true, 0
			Run(t, h)
		})
	}
}

func TestRun_runsChecksInParallelIfToldTo(t *testing.T) {
	h := reference(refbus.Config{})
	h.Parallel, h.Match = true, regexp.MustCompile("^(First|Second|Alone)$")
	var running atomic.Int32
	var returned atomic.Bool // those that call t.Parallel go on then
	met := make(chan struct{})
	meet := func(c *C) {
		if running.Add(1) == 2 {
			close(met)
		}
		receive(c, met, "the other check, in parallel with this one")
	}
	h.Extra = []Check{
		{Name: "First", Rule: "there are two at a time", Run: meet},
		{Name: "Second", Rule: "there are two at a time", Run: meet},
		{Name: "Alone", Rule: "nothing else runs", alone: true, Run: func(c *C) {
			if returned.Load() {
				c.Errorf("others run beside this one")
			}
		}},
	}
	if slots := flag.Lookup("test.parallel").Value.String(); slots == "1" {
		close(met) // of one place there is nothing to be seen
		running.Store(-2)
	}
	Run(t, h)
	returned.Store(true)
}

func TestExamine_reportsEveryCheck(t *testing.T) {
	h := reference(refbus.Config{NoGroups: true, NoDurableGroups: true})
	h.Extra = []Check{
		{Name: "ExtraPasses", Rule: "a rule of its own", Run: func(c *C) { c.Bus() }},
		{Name: "ExtraPartly", Rule: "a rule of two parts", Run: func(c *C) { c.NotChecked("one of them: %s", "on purpose") }},
		{Name: "ExtraFails", Rule: "a rule that is broken", Run: func(c *C) { c.Fatalf("on purpose") }},
		{Name: "ExtraPanics", Rule: "a rule that panics", Run: func(c *C) { panic("on purpose") }},
	}
	report := Examine(t.Context(), h)
	require.Len(t, report.Results, len(Checks())+4)
	partly, _ := report.Result("ExtraPartly")
	require.Equal(t, Passed, partly.Status)
	require.Equal(t, []string{"one of them: on purpose"}, partly.NotChecked)
	require.Regexp(t, `(?m)^ExtraPartly +passed .* not checked: one of them: on purpose$`, report.Table())
	want := map[string]Status{
		"NoGroups": Passed, "NoHeaders": NotClaimed, "NoStreams": NotClaimed, "NoDurable": NotClaimed, "Kill": NotClaimed, "Tick": NotClaimed,
		"ExtraFails": Failed, "ExtraPanics": Failed,
	}
	for _, res := range report.Results {
		status, special := want[res.Check.Name]
		switch {
		case res.Check.process:
			status = NotClaimed
		case special:
		case slices.Contains(res.Check.Needs, Distributed), slices.Contains(res.Check.Needs, OneServer), slices.Contains(res.Check.Needs, Groups), slices.Contains(res.Check.Needs, DurableGroups):
			status = NotClaimed
		default:
			status = Passed
		}
		require.Equal(t, status, res.Status, "%s: %s", res.Check.Name, res.Reason)
		require.Equal(t, res.Status == Passed, res.Reason == "", res.Check.Name)
	}
	require.ErrorContains(t, report.Err(), "a rule that is broken")
	require.Contains(t, report.String(), "2 failed")
}

func TestExamine_reportsAHangWithStacks(t *testing.T) {
	h := reference(refbus.Config{})
	h.Patience, h.Match = 50*time.Millisecond, regexp.MustCompile("^Hangs$")
	h.Extra = []Check{{Name: "Hangs", Rule: "a rule that is never decided", Run: func(c *C) { select {} }}}
	res, ok := Examine(t.Context(), h).Result("Hangs")
	require.True(t, ok)
	require.Equal(t, Failed, res.Status)
	require.Contains(t, res.Reason, "TestExamine_reportsAHangWithStacks")
}

func TestExamine_stopsWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report := Examine(ctx, reference(refbus.Config{}))
	require.Len(t, report.Results, len(Checks()))
	require.Error(t, report.Err())
}

func TestExamine_failsAHarnessThatIsWrong(t *testing.T) {
	open := func(e *Env) (bus.Bus, error) { return nil, errors.New("no bus here") }
	for name, h := range map[string]Harness{
		"no Open":              {},
		"unknown ability":      {Open: open, Claims: []Ability{"Telepathy"}},
		"CrashSafe alone":      {Open: open, Claims: []Ability{CrashSafe}},
		"a nameless check":     {Open: open, Extra: []Check{{Rule: "r", Run: func(*C) {}}}},
		"a name that is taken": {Open: open, Extra: []Check{{Name: "FIFO", Rule: "r", Run: func(*C) {}}}},
		"Open fails":           {Open: open},
	} {
		report := Examine(t.Context(), h)
		require.Error(t, report.Err(), name)
		for _, res := range report.Results {
			require.NotEqual(t, Passed, res.Status, name)
		}
	}
}

func TestChecks_haveARuleEach(t *testing.T) {
	seen := map[string]bool{}
	for _, check := range Checks() {
		require.NotEmpty(t, check.Name)
		require.NotEmpty(t, check.Rule, check.Name)
		require.NotNil(t, check.Run, check.Name)
		require.False(t, seen[check.Name], check.Name)
		seen[check.Name] = true
	}
}
