package bustest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest/internal/refbus"
	"github.com/stretchr/testify/require"
)

func TestProbe_findsOutWhatABusCanDo(t *testing.T) {
	for name, cfg := range map[string]refbus.Config{
		"everything":           {},
		"ticks":                {Tick: 100 * time.Millisecond},
		"no headers":           {NoHeaders: true},
		"several":              several,
		"no streams":           {NoStreams: true},
		"no groups":            {NoGroups: true},
		"a small payload":      {MaxPayload: 1000},
		"sequences with gaps":  {Gaps: true},
		"errors wrapped thick": {Wrap: true, NoGroups: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known := reference(cfg)
			known.Child = func(string) *exec.Cmd { return nil }
			blank := Harness{Open: known.Open, Child: known.Child, Claims: []Ability{TotalOrder}}
			if known.claims(OneServer) {
				blank.Claims = append(blank.Claims, OneServer)
			}
			trial, err := Probe(t.Context(), blank)
			require.NoError(t, err)
			require.ElementsMatch(t, known.Claims, trial.Harness.Claims, "%+v", trial.Findings)
			require.Equal(t, known.MaxPayload, trial.Harness.MaxPayload)
			require.InDelta(t, known.Tick, trial.Harness.Tick, float64(50*time.Millisecond))
			require.False(t, trial.Harness.Shared)
			seen := map[Ability]bool{}
			for _, f := range trial.Findings {
				require.NotEmpty(t, f.Why)
				seen[f.Ability] = true
			}
			require.Len(t, seen, len(everyAbility()))
		})
	}
}

func TestProbe_claimsWhatAnAbilityNeeds(t *testing.T) {
	h := Harness{Open: reference(refbus.Config{NoStreams: true}).Open, Claims: []Ability{CrashSafe}}
	trial, err := Probe(t.Context(), h)
	require.NoError(t, err)
	require.Subset(t, trial.Harness.Claims, []Ability{CrashSafe, Durable, Streams})
	require.NotContains(t, trial.Harness.Claims, TotalOrder)
}

func TestProbe_tellsWhyItCannot(t *testing.T) {
	open := reference(refbus.Config{}).Open
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	unavailable := func(*Env) (bus.Bus, error) { return nil, bus.ErrUnavailable }
	oneStore := func(e *Env) (bus.Bus, error) { e.Dir = dir; return open(e) }
	for name, c := range map[string]struct {
		ctx  context.Context
		open func(*Env) (bus.Bus, error)
		want error
	}{
		"no Open":          {t.Context(), nil, nil},
		"Open fails":       {t.Context(), unavailable, bus.ErrUnavailable},
		"the context":      {ctx, open, context.Canceled},
		"one locked store": {t.Context(), oneStore, bus.ErrLocked},
	} {
		_, err := Probe(c.ctx, Harness{Open: c.open})
		require.Error(t, err, name)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, name)
		}
	}
}

// childCheck tells the child of TestExamine_startsChildren what to examine.
const childCheck = "BUSTEST_TEST_CHILD"

func TestExamine_startsChildren(t *testing.T) {
	h := reference(refbus.Config{})
	h.Child = func(check string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestExamine_startsChildren$")
		cmd.Env = append(os.Environ(), childCheck+"="+check)
		return cmd
	}
	if check := os.Getenv(childCheck); check != "" {
		h.Match = regexp.MustCompile("^" + check + "$")
		Examine(t.Context(), h)
		return
	}
	h.Match = regexp.MustCompile("^LockedElsewhere$")
	report := Examine(t.Context(), h)
	require.NoError(t, report.Err())
	require.Equal(t, 1, report.Count(Passed), report)
}

func TestExamine_endsTheRunningCheckWithItsContext(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("somebody has left")
	h := reference(refbus.Config{})
	h.TempDir = dir
	h.Match = regexp.MustCompile("^(RoundTrip|Waits|After)$")
	h.Extra = []Check{
		{Name: "Waits", Rule: "a rule that takes a while", Run: func(c *C) {
			c.Bus()
			cancel(cause)
			<-c.Context().Done()
			c.Fatalf("this isn't the bus's fault")
		}},
		{Name: "After", Rule: "a rule that comes later", Run: func(*C) {}},
	}
	var before, after []string
	h.Before = func(c Check) { before = append(before, c.Name) }
	h.After = func(r Result) { after = append(after, r.Check.Name) }
	report := Examine(ctx, h)
	require.Equal(t, []string{"RoundTrip", "Waits"}, before)
	require.Equal(t, []string{"RoundTrip", "Waits", "After"}, after)
	require.Equal(t, 1, report.Count(Passed))
	require.Equal(t, 2, report.Count(NotRun))
	require.ErrorContains(t, report.Err(), "somebody has left")
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestExamine_removesWhatASharedBackendWouldKeep(t *testing.T) {
	dir := t.TempDir()
	open := reference(refbus.Config{}).Open
	at := func(e *Env) (bus.Bus, error) { e.Dir = dir; return open(e) } // one store for all
	h := reference(refbus.Config{})
	h.Open, h.Shared, h.Match = at, true, regexp.MustCompile("^(MaxMsgs|Reopen)$")
	report := Examine(t.Context(), h)
	require.Equal(t, 2, report.Count(Passed), report)
	b, err := refbus.Open(refbus.Config{Dir: dir})
	require.NoError(t, err)
	infos, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.Empty(t, infos)
	require.NoError(t, b.Close(t.Context()))

	h.Open = func(e *Env) (bus.Bus, error) {
		b, err := at(e)
		return struct{ bus.Bus }{b}, err // it can't remove anything
	}
	report = Examine(t.Context(), h)
	for _, res := range report.Results {
		require.NotEmpty(t, res.Left, res.Check.Name)
		require.Contains(t, res.Left[0], "bus.Remover")
	}
}

func TestReport_showsEveryCheckIn100Columns(t *testing.T) {
	h := reference(refbus.Config{NoGroups: true})
	h.Match = regexp.MustCompile("^(RoundTrip|GroupShares|NoGroups|Long)$")
	h.Extra = []Check{{Name: "Long", Rule: "a rule", Needs: []Ability{Streams}, Run: func(c *C) { c.Errorf("ä %s\nmore", strings.Repeat("long ", 50)) }}}
	report := Examine(t.Context(), h)
	text := report.String()
	for line := range strings.Lines(text) {
		require.LessOrEqual(t, len([]rune(strings.TrimSuffix(line, "\n"))), 100, line)
	}
	for _, want := range []string{
		`RoundTrip +passed`, `GroupShares +not claimed .* not claimed: Groups`, `NoGroups +passed`, `Long +failed .* ä long .*…`,
		`every bus +1 +0 +0 +0`, `Streams +yes +0 +1 +0 +0`, `Groups +no +1 +0 +1 +0`, `2 passed, 1 failed, 1 not claimed \(seed \d+\)`,
	} {
		require.Regexp(t, `(?m)^`+want, text)
	}
	for _, a := range everyAbility() {
		require.Contains(t, text, a)
	}
	data, err := json.Marshal(report)
	require.NoError(t, err)
	require.Contains(t, string(data), `{"check":{"name":"Long","rule":"a rule","needs":["Streams"]},"status":"failed","reason":"ä long`)
}
