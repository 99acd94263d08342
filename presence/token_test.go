package presence_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/presence"
)

func TestToken_readsWell(t *testing.T) {
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
		require.Equal(t, want, presence.Token(s))
	}
}

func TestParseToken_refusesWhatTokenDoesNotMake(t *testing.T) {
	for _, s := range []string{"", "a b", "%2", "%4", "%41", "%2e", "%zz", "a.b", "\xff", "%%", "_a", "%E6%97%A5"} {
		_, err := presence.ParseToken(s)
		require.Error(t, err, s)
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "Go", "a.b", "%", "%41", "\xff", "日本\u3000語", "_", "\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token := presence.Token(s)
		back, err := presence.ParseToken(token)
		require.NoError(t, err)
		require.Equal(t, s, back)
		if len(token) <= 255 {
			require.NoError(t, bus.CheckSubject(token))
		}
		require.NotContains(t, token, ".")
		if in, err := presence.ParseToken(s); err == nil {
			require.Equal(t, s, presence.Token(in))
		}
		require.False(t, strings.ContainsAny(token, "*> "))
	})
}
