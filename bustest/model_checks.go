package bustest

import (
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

var modelChecks = []Check{
	{
		Name: "MatchModel", Run: matchModel,
		Rule:   "thousands of random patterns and subjects match as the grammar says, live and replayed",
		Origin: "dotnet/MQTTnet#1612: beside house/+/room, house/+/room/+ gets nothing",
	},
}

func matchModel(c *C) {
	b := c.Bus()
	patterns, subjects := map[string]bool{">": true}, map[string]bool{}
	for len(patterns) < 100 {
		patterns[randomTokens(c.rand, true)] = true
	}
	for len(subjects) < 100 {
		subjects[randomTokens(c.rand, false)] = true
	}
	c.kinds(b, func(root string) {
		var histories []*history
		want := map[*history][]string{}
		for pattern := range patterns {
			h := c.subscribe(b, c.subject(root+"."+pattern), wide)
			histories = append(histories, h)
		}
		for subject := range subjects {
			c.publish(b, c.subject(root+"."+subject), subject)
			for _, h := range histories {
				if matchesNaively(h.name, c.subject(root+"."+subject)) {
					want[h] = append(want[h], subject)
				}
			}
		}
		// The end of each, which other patterns may match, too.
		for _, h := range histories {
			c.publish(b, strings.NewReplacer("*", "end", ">", "end").Replace(h.name), "end of "+h.name)
		}
		for _, h := range histories {
			c.awaitText(h, "end of "+h.name)
			c.judge(h, withoutEnds(exactly(want[h]...)))
			if root == "held" {
				stored := c.subscribe(b, h.name, bus.All())
				stored.name += ", replayed"
				c.judge(stored, withoutEnds(exactly(want[h]...)))
			}
			if c.Failed() {
				return // the rest would say the same
			}
		}
	})
}

// withoutEnds leaves out the markers of table and matchModel.
func withoutEnds(j judge) judge {
	return func(events []event) *fault {
		return j(slices.DeleteFunc(slices.Clone(events), func(e event) bool { return strings.HasPrefix(e.text, "end of ") }))
	}
}

// randomTokens makes a subject or a pattern of one to five tokens, few enough kinds of them to match often.
func randomTokens(r *rand.Rand, pattern bool) string {
	var tokens []string
	for n := 1 + r.IntN(5); len(tokens) < n; {
		tokens = append(tokens, []string{"a", "b", "ab", "A"}[r.IntN(4)])
		if pattern && r.IntN(3) == 0 {
			tokens[len(tokens)-1] = "*"
		}
	}
	if pattern && r.IntN(3) == 0 {
		tokens[len(tokens)-1] = ">"
	}
	return strings.Join(tokens, ".")
}

// matchesNaively is the grammar once more, as slowly and plainly as can be.
func matchesNaively(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	if p[len(p)-1] == ">" {
		if len(s) < len(p) {
			return false
		}
		p, s = p[:len(p)-1], s[:len(p)-1]
	}
	if len(p) != len(s) {
		return false
	}
	for i := range p {
		if p[i] != "*" && p[i] != s[i] {
			return false
		}
	}
	return true
}
