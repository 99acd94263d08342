package bus

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSubject is the most bytes of a subject or pattern.
const maxSubject = 255

// CheckSubject returns nil if s is a subject that can be published on, otherwise an
// ErrBadSubject that says why not.
func CheckSubject(s string) error { return checkSubject(s, false) }

// CheckPattern returns nil if s is a pattern that can be subscribed to, otherwise an
// ErrBadSubject that says why not. A subject is a pattern.
func CheckPattern(s string) error { return checkSubject(s, true) }

// Match reports whether a valid pattern matches a valid subject.
func Match(pattern, subject string) bool {
	if subject != "" && (subject[0] == '$' || subject[0] == '_') {
		return false
	}
	for {
		p, restOfPattern, morePattern := strings.Cut(pattern, ".")
		if p == ">" && !morePattern {
			return subject != ""
		}
		s, restOfSubject, moreSubject := strings.Cut(subject, ".")
		if s == "" || p != "*" && p != s {
			return false
		}
		if !morePattern || !moreSubject {
			return morePattern == moreSubject
		}
		pattern, subject = restOfPattern, restOfSubject
	}
}

func checkSubject(s string, pattern bool) error {
	if reason := subjectFault(s, pattern); reason != "" {
		return fmt.Errorf("%w %.80q: %s", ErrBadSubject, s, reason)
	}
	return nil
}

// subjectFault says what breaks the grammar in s, or "".
func subjectFault(s string, pattern bool) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > maxSubject:
		return fmt.Sprintf("it has %d bytes, at most %d are allowed", len(s), maxSubject)
	case s[0] == '$' || s[0] == '_':
		return "a first token that starts with '$' or '_' is reserved"
	}
	start := 0 // of the current token
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				return "it is not valid UTF-8"
			}
			if unicode.IsSpace(r) || unicode.IsControl(r) {
				return fmt.Sprintf("it holds %U, white space and control characters are not allowed", r)
			}
			i += size
			continue
		case c <= ' ' || c == 0x7f:
			return fmt.Sprintf("it holds %U, white space and control characters are not allowed", c)
		case c == '.':
			if i == start || i == len(s)-1 {
				return "a token is empty"
			}
			start = i + 1
		case c == '*' || c == '>':
			if !pattern {
				return "a wildcard stands only in a pattern"
			}
			whole := i == start && (i == len(s)-1 || s[i+1] == '.')
			if !whole {
				return fmt.Sprintf("%q must be a token of its own", c)
			}
			if c == '>' && i != len(s)-1 {
				return "'>' must be the last token"
			}
		}
		i++
	}
	return ""
}
