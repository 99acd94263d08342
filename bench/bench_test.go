package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a pair whose sides return what they are told to, and say in which order they ran.
func scripted(name string, less bool, ours, floor []float64) (pair, *strings.Builder) {
	order := new(strings.Builder)
	next := func(letter string, figures []float64) side {
		return func(context.Context) (float64, error) {
			order.WriteString(letter)
			x := figures[0]
			figures = figures[1:]
			return x, nil
		}
	}
	return pair{name: name, unit: "things/s", less: less, about: "scripted", open: func(*env) (side, side, error) {
		return next("o", ours), next("f", floor), nil
	}}, order
}

func TestMeasure_alternatesAndSwapsWhoBegins(t *testing.T) {
	p, order := scripted("x", false, []float64{9, 1, 2, 3}, []float64{9, 1, 1, 1})
	r, err := p.measure(t.Context(), full, 3)
	require.NoError(t, err)
	require.Equal(t, "of"+"fo"+"of"+"fo", order.String())
	require.Equal(t, 3, r.Pairs)
}

func TestMeasure_countsMediansWithoutTheWarmUp(t *testing.T) {
	p, _ := scripted("x", false, []float64{1000, 30, 10, 20}, []float64{1000, 4, 5, 6})
	r, err := p.measure(t.Context(), full, 3)
	require.NoError(t, err)
	require.Equal(t, 20.0, r.Ours)
	require.Equal(t, 5.0, r.Floor)
	require.Equal(t, 4.0, r.Ratio)
	require.Equal(t, [2]float64{15, 25}, r.OursQuartiles)
	require.Equal(t, [2]float64{4.5, 5.5}, r.FloorQuartiles)
	// Of 30/4, 10/5 and 20/6.
	require.InDelta(t, (2+20.0/6)/2, r.RatioQuartiles[0], 1e-9)
	require.InDelta(t, (7.5+20.0/6)/2, r.RatioQuartiles[1], 1e-9)
}

func TestMeasure_ratioAboveOneIsBetterAlsoWhereLessIs(t *testing.T) {
	p, _ := scripted("x", true, []float64{9, 2}, []float64{9, 6})
	r, err := p.measure(t.Context(), full, 1)
	require.NoError(t, err)
	require.Equal(t, 3.0, r.Ratio)
	require.Equal(t, "less", r.Better)
}

func TestMeasure_removesItsDirectoriesAndUndoesInReverse(t *testing.T) {
	var undone, dir string
	p := pair{name: "x", open: func(e *env) (side, side, error) {
		dir = e.dir()
		require.NotEqual(t, dir, e.dir())
		require.NoError(t, os.MkdirAll(dir, 0o700))
		e.after(func() error { undone += "1"; return nil })
		e.after(func() error { undone += "2"; return errors.New("can't close") })
		one := func(context.Context) (float64, error) { e.count("seen", 1); return 1, nil }
		return one, one, nil
	}}
	_, err := p.measure(t.Context(), full, 1)
	require.ErrorContains(t, err, "can't close")
	require.Equal(t, "21", undone)
	require.NoDirExists(t, dir)
}

func TestMeasure_saysWhichSideFailed(t *testing.T) {
	good := func(context.Context) (float64, error) { return 1, nil }
	for _, bad := range []side{
		func(context.Context) (float64, error) { return 0, errors.New("lost") },
		func(context.Context) (float64, error) { return 0, nil },
	} {
		p := pair{name: "x", open: func(*env) (side, side, error) { return good, bad, nil }}
		_, err := p.measure(t.Context(), full, 1)
		require.ErrorContains(t, err, "floor: ")
	}
}

func TestQuantile_interpolates(t *testing.T) {
	require.Equal(t, 7.0, quantile([]float64{7}, 0.99))
	require.Equal(t, 2.5, quantile([]float64{4, 1, 3, 2}, 0.5))
	require.Equal(t, 4.0, quantile([]float64{4, 1, 3, 2}, 1))
}

func TestRun_printsOneJSONObjectPerPairAsItIsDone(t *testing.T) {
	a, _ := scripted("natsbus/a", false, []float64{9, 8}, []float64{9, 4})
	out := new(bytes.Buffer)
	b := pair{name: "natsbus/b", open: func(*env) (side, side, error) {
		require.Equal(t, 1, strings.Count(out.String(), "\n"), "the first pair has been printed")
		return nil, nil, errors.New("no server")
	}}
	c, _ := scripted("membus/c", false, nil, nil)
	errs := new(bytes.Buffer)
	require.Equal(t, 1, run(t.Context(), []string{"-run", "natsbus", "-json", "-pairs", "1"}, []pair{a, b, c}, out, errs))
	require.Equal(t, "bench: natsbus/b: no server\n", errs.String())

	decoder := json.NewDecoder(out)
	var x map[string]any
	require.NoError(t, decoder.Decode(&x))
	for key, want := range map[string]any{"name": "natsbus/a", "ours": 8.0, "floor": 4.0, "ratio": 2.0, "unit": "things/s", "better": "more", "pairs": 1.0} {
		require.Equal(t, want, x[key], key)
	}
	require.ErrorIs(t, decoder.Decode(&x), io.EOF)
}

func TestRun_printsATableForPeople(t *testing.T) {
	p, _ := scripted("natsbus/a", true, []float64{9, 1234567}, []float64{9, 12})
	out := new(bytes.Buffer)
	require.Equal(t, 0, run(t.Context(), []string{"-pairs", "1"}, []pair{p}, out, io.Discard))
	lines := strings.Split(out.String(), "\n")
	require.Regexp(t, `^pair +ours +floor +ratio +quartiles +unit$`, lines[0])
	require.Regexp(t, `^natsbus/a +1,230,000 +12 +0\.00 +0\.00 to 0\.00 +things/s \(less is better\)$`, lines[1])
}

func TestRun_listsWithoutMeasuring(t *testing.T) {
	out := new(bytes.Buffer)
	require.Equal(t, 0, run(t.Context(), []string{"-list", "-run", "fanout"}, pairs, out, io.Discard))
	require.Equal(t, 3, strings.Count(out.String(), "\n"))
	require.NotContains(t, out.String(), "ack-1")
}

func TestRun_refusesWrongArguments(t *testing.T) {
	for _, args := range [][]string{{"-run", "("}, {"-run", "nothing"}, {"-pairs", "0"}, {"more"}, {"-unknown"}} {
		require.Equal(t, 2, run(t.Context(), args, pairs, io.Discard, io.Discard), args)
	}
}

func TestPairs_allWork(t *testing.T) {
	names := map[string]bool{}
	for _, p := range pairs {
		require.False(t, names[p.name])
		names[p.name] = true
		t.Run(p.name, func(t *testing.T) {
			r, err := p.measure(t.Context(), tiny, 1)
			require.NoError(t, err)
			require.Equal(t, p.name, r.Name)
			require.Positive(t, r.Ratio)
		})
	}
}

func TestPairs_areOnThePage(t *testing.T) {
	page, err := os.ReadFile("../docs/performance.md")
	require.NoError(t, err)
	var onPage, all []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+/[^`]+)` \\|").FindAllSubmatch(page, -1) {
		onPage = append(onPage, string(m[1]))
	}
	for _, p := range pairs {
		all = append(all, p.name)
	}
	require.ElementsMatch(t, all, onPage, "docs/performance.md has a row for each pair that is measured")
}
