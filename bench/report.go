package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// report prints each result as soon as there is one.
type report struct {
	w      io.Writer
	json   *json.Encoder // nil: a table
	header bool
}

func newReport(w io.Writer, asJSON bool) *report {
	r := &report{w: w}
	if asJSON {
		r.json = json.NewEncoder(w)
	}
	return r
}

func (r *report) print(x result) error {
	if r.json != nil {
		return r.json.Encode(x)
	}
	const row = "%-30s %10s %10s %7s  %-12s  %s\n"
	if !r.header {
		r.header = true
		if _, err := fmt.Fprintf(r.w, row, "pair", "ours", "floor", "ratio", "quartiles", "unit"); err != nil {
			return err
		}
	}
	unit := x.Unit
	if x.Better == "less" {
		unit += " (less is better)"
	}
	for _, name := range slices.Sorted(maps.Keys(x.Counts)) {
		unit += fmt.Sprintf(", %s: %d", name, x.Counts[name])
	}
	spread := fmt.Sprintf("%.2f to %.2f", x.RatioQuartiles[0], x.RatioQuartiles[1])
	_, err := fmt.Fprintf(r.w, row, x.Name, figure(x.Ours), figure(x.Floor), fmt.Sprintf("%.2f", x.Ratio), spread, unit)
	return err
}

// figure writes a number with three significant digits, and thousands apart.
func figure(x float64) string {
	if x < 100 {
		return strconv.FormatFloat(x, 'g', 3, 64)
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-2)
	text := strconv.FormatFloat(math.Round(x/unit)*unit, 'f', 0, 64)
	var groups []string
	for len(text) > 3 {
		groups = append(groups, text[len(text)-3:])
		text = text[:len(text)-3]
	}
	groups = append(groups, text)
	slices.Reverse(groups)
	return strings.Join(groups, ",")
}
