package bus_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

func TestEscapeToken_readsWell(t *testing.T) {
	for s, want := range map[string]string{
		"":           "%",
		"Go":         "Go",
		"C++ & Go":   "C%2B%2B%20%26%20Go",
		"a.b":        "a%2Eb",
		"*":          "%2A",
		"50%":        "50%25",
		"_x_":        "%5Fx_",
		"$SYS":       "%24SYS",
		"Привет":     "Привет",
		"日本\u3000語":  "日本%E3%80%80語",
		"\xff\u0085": "%FF%C2%85",
	} {
		require.Equal(t, want, bus.EscapeToken(s))
	}
}

func TestUnescapeToken_refusesWhatEscapeTokenDoesNotMake(t *testing.T) {
	for _, s := range []string{"", "a b", "%2", "%4", "%41", "%2e", "%zz", "a.b", "\xff", "%%", "_a", "%E6%97%A5"} {
		_, err := bus.UnescapeToken(s)
		require.Error(t, err, s)
	}
}

func FuzzEscapeToken(f *testing.F) {
	for _, s := range []string{"", "Go", "a.b", "%", "%41", "\xff", "日本\u3000語", "_", "\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token := bus.EscapeToken(s)
		back, err := bus.UnescapeToken(token)
		require.NoError(t, err)
		require.Equal(t, s, back)
		if len(token) <= 255 {
			require.NoError(t, bus.CheckSubject(token))
		}
		require.NotContains(t, token, ".")
		if in, err := bus.UnescapeToken(s); err == nil {
			require.Equal(t, s, bus.EscapeToken(in))
		}
		require.False(t, strings.ContainsAny(token, "*> "))
	})
}
