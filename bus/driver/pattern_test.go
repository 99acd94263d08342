package driver_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// words makes all subjects or patterns of up to three tokens from a small alphabet.
func words(tokens ...string) []string {
	var all []string
	for _, a := range tokens {
		all = append(all, a)
		for _, b := range tokens {
			all = append(all, a+"."+b)
			for _, c := range tokens {
				all = append(all, a+"."+b+"."+c)
			}
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return bus.CheckPattern(s) != nil })
}

func TestIndex_findsWhatMatchFinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	patterns, subjects := words("a", "b", "*", ">"), words("a", "b", "c")
	var x driver.Index[int]
	held := map[int]string{}
	for round := range 3000 {
		if len(held) > 0 && rng.IntN(2) == 0 {
			for v, pattern := range held {
				x.Remove(pattern, v)
				delete(held, v)
				break
			}
		} else {
			held[round] = patterns[rng.IntN(len(patterns))]
			x.Add(held[round], round)
		}
		subject := subjects[rng.IntN(len(subjects))]
		var want []int
		for v, pattern := range held {
			if bus.Match(pattern, subject) {
				want = append(want, v)
			}
		}
		require.ElementsMatch(t, want, x.Match(subject, nil), "%s in %v", subject, held)
	}
}

func TestCoversAndOverlap_agreeWithEverySubject(t *testing.T) {
	patterns := words("a", "b", "*", ">")
	// One token more than a pattern names stands for all that a '>' can match.
	var subjects []string
	for _, s := range words("a", "b", "x") {
		subjects = append(subjects, s)
		if strings.Count(s, ".") == 2 {
			subjects = append(subjects, s+".x", s+".a")
		}
	}
	for _, p := range patterns {
		for _, q := range patterns {
			covers, overlap := true, false
			for _, s := range subjects {
				covers = covers && (!bus.Match(q, s) || bus.Match(p, s))
				overlap = overlap || bus.Match(p, s) && bus.Match(q, s)
			}
			require.Equal(t, covers, driver.Covers(p, q), "%s covers %s", p, q)
			require.Equal(t, overlap, driver.Overlap(p, q), "%s overlaps %s", p, q)
		}
	}
}

func BenchmarkIndex_match10000(b *testing.B) {
	var x driver.Index[int]
	for i := range 10000 {
		x.Add(fmt.Sprintf("chat.room.%d", i), i)
	}
	var found []int
	for b.Loop() {
		found = x.Match("chat.room.5000", found[:0])
	}
	require.Len(b, found, 1)
}
