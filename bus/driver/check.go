package driver

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	defaultDuplicates = 30 * time.Second
	minDuplicates     = 100 * time.Millisecond
	maxStreamName     = 64
)

// checkHeader returns nil or an ErrBadHeader that names the key.
func checkHeader(h bus.Header) error {
	for key, values := range h {
		if !isHTTPToken(key) {
			return fmt.Errorf("%w: key %.80q is not an HTTP token", bus.ErrBadHeader, key)
		}
		if len(key) >= 5 && strings.EqualFold(key[:5], "Nats-") {
			return fmt.Errorf("%w: key %.80q: keys that start with Nats- are reserved", bus.ErrBadHeader, key)
		}
		for _, v := range values {
			if !isHeaderValue(v) {
				return fmt.Errorf("%w: a value of %.80q holds CR, LF, NUL or outer white space", bus.ErrBadHeader, key)
			}
		}
	}
	return nil
}

func isHeaderValue(v string) bool {
	return !strings.ContainsAny(v, "\r\n\x00") && strings.TrimSpace(v) == v
}

func isHTTPToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return true
}

// HeaderSize is how many bytes a header takes on the wire of a message: "key: value" and a line break for each value, and
// a dozen for the block when there is one. Limits count it.
func HeaderSize(h bus.Header) int {
	if len(h) == 0 {
		return 0
	}
	n := len("NATS/1.0\r\n\r\n")
	for key, values := range h {
		for _, v := range values {
			n += len(key) + len(": ") + len(v) + len("\r\n")
		}
	}
	return n
}

// keepsGrammar reports whether what the backend delivers from a source keeps the grammar; a foreign client may have sent
// or stored something that doesn't. It is told once for each source that such messages are skipped.
func (b *Bus) keepsGrammar(m *bus.Message, source, pattern string) bool {
	if b.sole && b.volatile {
		return true // there is no foreign client
	}
	err := bus.CheckSubject(m.Subject)
	if err == nil && m.Header != nil {
		err = checkHeader(m.Header)
	}
	if err != nil && b.firstReport(source+" "+pattern) {
		b.Report(bus.Problem{Err: fmt.Errorf("%s: messages that break the grammar are skipped: %w", source, err), Pattern: pattern, Cursor: m.Cursor})
	}
	return err == nil
}

// checkStream returns cfg with its defaults filled in, or an ErrBadStream or ErrStreamOverlap.
func checkStream(cfg bus.StreamConfig) (bus.StreamConfig, error) {
	bad := func(format string, args ...any) (bus.StreamConfig, error) {
		return cfg, fmt.Errorf("stream %.80q: %w: %s", cfg.Name, bus.ErrBadStream, fmt.Sprintf(format, args...))
	}
	switch {
	case !isStreamName(cfg.Name):
		return bad("a name is 1 to %d ASCII letters, digits, '-' and '_'", maxStreamName)
	case len(cfg.Subjects) == 0:
		return bad("it needs at least one subject")
	case cfg.MaxMsgs < 0:
		return bad("MaxMsgs is negative")
	case cfg.MaxBytes < 0:
		return bad("MaxBytes is negative")
	case cfg.MaxMsgsPerSubject < 0:
		return bad("MaxMsgsPerSubject is negative")
	case cfg.MaxAge != 0 && cfg.MaxAge < time.Second:
		return bad("MaxAge is %s, at least 1s can be kept", cfg.MaxAge)
	case cfg.Duplicates != 0 && cfg.Duplicates < minDuplicates:
		return bad("Duplicates is %s, at least %s can be kept", cfg.Duplicates, minDuplicates)
	case cfg.MaxAge != 0 && cfg.Duplicates > cfg.MaxAge:
		return bad("Duplicates (%s) is longer than MaxAge (%s)", cfg.Duplicates, cfg.MaxAge)
	}
	for i, s := range cfg.Subjects {
		if err := bus.CheckPattern(s); err != nil {
			return cfg, fmt.Errorf("stream %q: %w: %w", cfg.Name, bus.ErrBadStream, err)
		}
		for _, t := range cfg.Subjects[:i] {
			if Overlap(s, t) {
				return cfg, fmt.Errorf("stream %q: %w: its own subjects %q and %q", cfg.Name, bus.ErrStreamOverlap, t, s)
			}
		}
	}
	cfg.Subjects = slices.Clone(cfg.Subjects)
	if cfg.Duplicates == 0 {
		cfg.Duplicates = defaultDuplicates
		if cfg.MaxAge != 0 {
			cfg.Duplicates = min(cfg.Duplicates, cfg.MaxAge)
		}
	}
	return cfg, nil
}

func isStreamName(s string) bool {
	if s == "" || len(s) > maxStreamName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func sameConfig(a, b bus.StreamConfig) bool {
	x, y := slices.Clone(a.Subjects), slices.Clone(b.Subjects)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y) && a.MaxMsgs == b.MaxMsgs && a.MaxBytes == b.MaxBytes && a.MaxAge == b.MaxAge &&
		a.MaxMsgsPerSubject == b.MaxMsgsPerSubject && a.Duplicates == b.Duplicates
}

// Params returns the query parameters of a bus URL, or an error that names the first one
// that isn't allowed, is given twice or is malformed.
func Params(u *url.URL, allowed ...string) (map[string]string, error) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the parameters are malformed: want ?name=value&name=value")
	}
	params := map[string]string{}
	for name, v := range values {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("unknown parameter %q: %s", name, known(allowed))
		}
		if len(v) > 1 {
			return nil, fmt.Errorf("parameter %q is given %d times", name, len(v))
		}
		params[name] = v[0]
	}
	return params, nil
}

func known(allowed []string) string {
	if len(allowed) == 0 {
		return "there are none"
	}
	return "want one of " + strings.Join(allowed, ", ")
}
