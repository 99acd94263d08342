package bus_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// naiveMatch is the grammar's sentence, as slowly as it can be written.
func naiveMatch(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	if s[0] != "" && (s[0][0] == '$' || s[0][0] == '_') {
		return false
	}
	for i := range p {
		if p[i] == ">" {
			return len(s) > i
		}
		if i >= len(s) || p[i] != "*" && p[i] != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// naiveValid is the grammar of subjects and patterns.
func naiveValid(s string, pattern bool) bool {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) {
		return false
	}
	tokens := strings.Split(s, ".")
	for i, token := range tokens {
		switch {
		case token == "", i == 0 && strings.ContainsAny(token[:1], "$_"):
			return false
		case strings.ContainsFunc(token, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
			return false
		case !strings.ContainsAny(token, "*>"):
		case !pattern, len(token) > 1, token == ">" && i < len(tokens)-1:
			return false
		}
	}
	return true
}

func FuzzMatch_agreesWithANaiveMatcher(f *testing.F) {
	for _, pair := range [][2]string{
		{"a", "a"}, {"a.*", "a.b"}, {"a.>", "a"}, {"a.>", "a.b.c"}, {"*", "a"}, {">", "a.b"}, {"*.b", "a.b"},
		{"a.*.c", "a.b.c"}, {"a.b", "a.bc"}, {"a.b", "A.b"}, {">", "$JS.a"}, {"*.a", "_INBOX.a"}, {"ä.*", "ä.ö"}, {"a..b", "a"}, {"a*", "a*"},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, pattern, subject string) {
		require.Equal(t, naiveValid(pattern, true), bus.CheckPattern(pattern) == nil, "pattern %q", pattern)
		require.Equal(t, naiveValid(subject, false), bus.CheckSubject(subject) == nil, "subject %q", subject)
		if bus.CheckPattern(pattern) == nil && bus.CheckSubject(subject) == nil {
			require.Equal(t, naiveMatch(pattern, subject), bus.Match(pattern, subject), "%q %q", pattern, subject)
		}
	})
}

func TestCheckSubject_saysWhatIsWrong(t *testing.T) {
	for subject, want := range map[string]string{
		"":                       "empty",
		".a":                     "token is empty",
		"a.":                     "token is empty",
		"a..b":                   "token is empty",
		"a b":                    "U+0020",
		"a\x00":                  "U+0000",
		"a\u00a0b":               "U+00A0",
		"a\xff":                  "UTF-8",
		"a.*":                    "wildcard",
		">":                      "wildcard",
		"$JS.API":                "reserved",
		"_INBOX.x":               "reserved",
		strings.Repeat("a", 256): "256 bytes",
	} {
		err := bus.CheckSubject(subject)
		require.ErrorIs(t, err, bus.ErrBadSubject, subject)
		require.ErrorContains(t, err, want, subject)
	}
	for _, pattern := range []string{"a*", "a.b>", "a.>.b", ">.a", "**"} {
		require.ErrorIs(t, bus.CheckPattern(pattern), bus.ErrBadSubject, pattern)
	}
	require.NoError(t, bus.CheckSubject(strings.Repeat("a", 255)))
	require.NoError(t, bus.CheckSubject("chat.room.Gö"))
	require.NoError(t, bus.CheckPattern("*.a.*.>"))
}
