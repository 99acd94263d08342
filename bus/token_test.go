package bus_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

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
	for _, s := range []string{"", "Go", "a.b", "%", "%41", "\xff", "日本\u3000語", "_", "\u2028", "$SYS", "*", ">", "a.>", "\x00\r\n\t\x7f", "chat.room.x"} {
		f.Add(s, "Go")
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, s, other string) {
		token := bus.EscapeToken(s)
		back, err := bus.UnescapeToken(token)
		require.NoError(t, err)
		require.Equal(t, s, back)
		require.Equal(t, s == other, token == bus.EscapeToken(other), "two strings are never the same token")
		require.NotEmpty(t, token)
		require.NotContains(t, token, ".")
		require.False(t, strings.ContainsFunc(token, func(r rune) bool {
			return r == '*' || r == '>' || unicode.IsSpace(r) || unicode.IsControl(r)
		}))
		require.True(t, utf8.ValidString(token))
		if in, err := bus.UnescapeToken(s); err == nil {
			require.Equal(t, s, bus.EscapeToken(in))
		}

		// It stays where it is put.
		for _, subject := range []string{token, "chat.room." + token, "chat.room." + token + ".moved"} {
			if err := bus.CheckSubject(subject); len(subject) <= 255 {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, bus.ErrBadSubject)
			}
		}
		require.True(t, bus.Match("chat.room.*", "chat.room."+token))
		require.False(t, bus.Match("chat.room.*.*", "chat.room."+token))
		require.True(t, bus.Match("*", token), "it isn't reserved at the start, either")
		require.Equal(t, s == other, bus.Match("chat.room."+bus.EscapeToken(other)+".>", "chat.room."+token+".moved"), "nor can it be taken for a pattern")
	})
}
