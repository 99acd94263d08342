package bus

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const hexDigits = "0123456789ABCDEF"

// EscapeToken makes any string, also an empty one or one that isn't UTF-8, a token of a subject;
// [UnescapeToken] makes it the string again. Two strings are never the same token. ASCII letters, digits, '-' and '_' and
// most of what isn't ASCII stand for themselves, other bytes are escaped as in URLs: "C++ & Go" is
// "C%2B%2B%20%26%20Go", and "" is "%". So what a user has typed can't leave the place that it is put into:
//
//	subject := "chat.room." + bus.EscapeToken(name)
func EscapeToken(s string) string {
	if s == "" {
		return "%"
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		size := 1
		if plain(s[i], i) {
			b.WriteByte(s[i])
		} else if r, n := utf8.DecodeRuneInString(s[i:]); n > 1 && !unicode.IsSpace(r) && !unicode.IsControl(r) {
			b.WriteString(s[i : i+n])
			size = n
		} else {
			b.Write([]byte{'%', hexDigits[s[i]>>4], hexDigits[s[i]&15]})
		}
		i += size
	}
	return b.String()
}

// plain reports whether the ASCII byte c stands for itself. A first '_' doesn't, as it is
// reserved at the start of a subject.
func plain(c byte, i int) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' && i > 0
}

// UnescapeToken returns the string that [EscapeToken] has made t of. What EscapeToken doesn't make is an error.
func UnescapeToken(t string) (string, error) {
	if t == "%" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		if t[i] != '%' {
			b.WriteByte(t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", fmt.Errorf("bus: token %.80q ends in the middle of an escape", t)
		}
		high, low := strings.IndexByte(hexDigits, t[i+1]), strings.IndexByte(hexDigits, t[i+2])
		if high < 0 || low < 0 {
			return "", fmt.Errorf("bus: token %.80q has a malformed escape", t)
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	s := b.String()
	if EscapeToken(s) != t {
		return "", fmt.Errorf("bus: %.80q is not a token that EscapeToken makes", t)
	}
	return s, nil
}
