package compare

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Figures are written with three significant digits and their unit.

func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + duration(-d)
	case d < 1000:
		return fmt.Sprintf("%d ns", d)
	case d < 999_500:
		return digits(float64(d)/1e3) + " µs"
	case d < 999_500_000:
		return digits(float64(d)/1e6) + " ms"
	}
	return digits(d.Seconds()) + " s"
}

// given writes a duration that isn't measured: without noughts at its end.
func given(d time.Duration) string {
	number, unit, _ := strings.Cut(duration(d), " ")
	return trimmed(number) + " " + unit
}

// rate writes messages per second that aren't measured.
func rate(x float64) string { return trimmed(digits(x)) }

func trimmed(number string) string {
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number
}

func size(n int64) string {
	switch {
	case n < 999_500:
		return digits(float64(n)/1e3) + " kB"
	case n < 999_500_000:
		return digits(float64(n)/1e6) + " MB"
	}
	return digits(float64(n)/1e9) + " GB"
}

func percent(part float64) string { return strconv.FormatFloat(100*part, 'f', 0, 64) + " %" }

// times is a ratio of at least 1.
func times(x float64) string {
	switch {
	case math.IsInf(x, 0) || math.IsNaN(x):
		return "infinitely many"
	case x < 9.95:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return count(int(math.Round(x)))
}

// count writes a whole number with thousands apart.
func count(n int) string {
	text := strconv.Itoa(n)
	var groups []string
	for len(text) > 3 {
		groups = append([]string{text[len(text)-3:]}, groups...)
		text = text[:len(text)-3]
	}
	return strings.Join(append([]string{text}, groups...), ",")
}

// digits writes a number with three significant digits, and thousands apart.
func digits(x float64) string {
	if x == 0 {
		return "0"
	}
	places := 2 - int(math.Floor(math.Log10(math.Abs(x))))
	if rounded := math.Round(x*math.Pow10(places)) / math.Pow10(places); places > 0 && math.Abs(rounded) >= math.Pow10(3-places) {
		places-- // 9.999 is 10.0
	}
	if places > 0 {
		return strconv.FormatFloat(x, 'f', places, 64)
	}
	unit := math.Pow10(-places)
	return count(int(math.Round(x/unit) * unit))
}
