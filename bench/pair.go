package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// pair is one comparison.
type pair struct {
	name  string
	unit  string
	less  bool // less is better
	about string
	// open prepares both sides, once. What it opens it registers with env.after.
	open func(e *env) (ours, floor side, err error)
}

// side measures once, in the unit of its pair.
type side func(ctx context.Context) (float64, error)

// result is what a pair comes to. Figures are medians; the quartiles of each side and of the
// ratios within each round say how far to trust them.
type result struct {
	Name  string  `json:"name"`
	Ours  float64 `json:"ours"`
	Floor float64 `json:"floor"`
	Ratio float64 `json:"ratio"` // above 1: better than the floor
	Unit  string  `json:"unit"`

	Better         string         `json:"better"` // more or less
	Pairs          int            `json:"pairs"`
	OursQuartiles  [2]float64     `json:"ours_quartiles"`
	FloorQuartiles [2]float64     `json:"floor_quartiles"`
	RatioQuartiles [2]float64     `json:"ratio_quartiles"`
	Counts         map[string]int `json:"counts,omitempty"`
}

const (
	full = false
	tiny = true // only proves that a pair works
)

// sideTimeout bounds one measurement: a message that got lost must not hang the run.
const sideTimeout = 2 * time.Minute

// env is what the sides of one pair stand on.
type env struct {
	ctx      context.Context
	tiny     bool
	root     string
	dirs     int
	cleanups []func() error
	counts   map[string]int
}

// after runs f when the pair is done, last registered first.
func (e *env) after(f func() error) { e.cleanups = append(e.cleanups, f) }

func (e *env) close() error {
	var errs []error
	for _, f := range slices.Backward(e.cleanups) {
		errs = append(errs, f())
	}
	return errors.Join(append(errs, os.RemoveAll(e.root))...)
}

// dir returns the path of a directory that doesn't exist yet.
func (e *env) dir() string {
	e.dirs++
	return filepath.Join(e.root, strconv.Itoa(e.dirs))
}

// size is how many there are of something: few when the pair is only to be proved.
func (e *env) size(full, few int) int {
	if e.tiny {
		return few
	}
	return full
}

// last is how long something lasts.
func (e *env) last(full time.Duration) time.Duration {
	if e.tiny {
		return full / 20
	}
	return full
}

// count adds to a number that is reported with the result.
func (e *env) count(name string, n int) {
	if e.counts == nil {
		e.counts = map[string]int{}
	}
	e.counts[name] += n
}

// measure opens both sides, runs each once to warm up and then in turn; who begins alternates.
func (p *pair) measure(ctx context.Context, small bool, times int) (r result, err error) {
	root, err := os.MkdirTemp("", "jitney-bench-")
	if err != nil {
		return r, err
	}
	e := &env{ctx: ctx, tiny: small, root: root}
	defer func() { err = errors.Join(err, e.close()) }()
	ours, floor, err := p.open(e)
	if err != nil {
		return r, err
	}
	var figures [2][]float64
	for round := range times + 1 {
		for i := range 2 {
			which := (round + i) % 2
			x, err := once(ctx, [2]side{ours, floor}[which])
			if err != nil {
				return r, fmt.Errorf("%s: %w", [2]string{"ours", "floor"}[which], err)
			}
			if round > 0 {
				figures[which] = append(figures[which], x)
			}
		}
		if round == 0 {
			e.counts = nil
		}
	}
	r = p.result(figures[0], figures[1])
	r.Counts = e.counts
	return r, nil
}

func once(ctx context.Context, s side) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	runtime.GC()
	x, err := s(ctx)
	if err == nil && (math.IsNaN(x) || math.IsInf(x, 0) || x <= 0) {
		err = fmt.Errorf("measured %v", x)
	}
	return x, err
}

// result sums up what was measured; ours[i] and floor[i] belong together.
func (p *pair) result(ours, floor []float64) result {
	r := result{Name: p.name, Unit: p.unit, Pairs: len(ours), Better: "more"}
	if p.less {
		r.Better = "less"
	}
	ratio := func(x, y float64) float64 {
		if p.less {
			return y / x
		}
		return x / y
	}
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ratio(ours[i], floor[i])
	}
	r.Ours, r.Floor = quantile(ours, 0.5), quantile(floor, 0.5)
	r.Ratio = ratio(r.Ours, r.Floor)
	quartiles := func(x []float64) [2]float64 { return [2]float64{quantile(x, 0.25), quantile(x, 0.75)} }
	r.OursQuartiles, r.FloorQuartiles, r.RatioQuartiles = quartiles(ours), quartiles(floor), quartiles(ratios)
	return r
}

// quantile interpolates between the two nearest of the sorted figures.
func quantile(figures []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}
