package bus

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Opener opens the bus that u describes. It refuses what it doesn't know in u by name. Unless "//" follows the scheme,
// u.OmitHost is true.
type Opener func(ctx context.Context, u *url.URL, o OpenOptions) (Bus, error)

var (
	openersMu sync.RWMutex
	openers   = map[string]Opener{}
)

// importOf tells which import registers a scheme, for the error of a program that
// forgot it.
var importOf = map[string]string{
	"mem":  "github.com/jitney-go/jitney/bus/membus",
	"nats": "github.com/jitney-go/jitney/bus/natsbus",
}

// Register makes a backend known under a URL scheme, from the init function of its
// package. It panics if the scheme is taken.
func Register(scheme string, open Opener) {
	openersMu.Lock()
	defer openersMu.Unlock()
	if _, taken := openers[scheme]; taken {
		panic("bus: scheme " + scheme + " is registered twice")
	}
	openers[scheme] = open
}

// Open opens the bus at rawURL: its scheme picks the backend among those that the
// program has imported, the rest is the backend's.
//
//	mem:                 in memory, at once
//	mem:?tick=100ms      in memory, delivered at the next tick
//	nats:./data/chat     an embedded NATS server that stores in ./data/chat
//	nats://host:4222     a NATS server elsewhere
//
// ctx bounds the call. The error is ErrUnknownScheme, or the backend's: ErrLocked,
// ErrUnavailable, or one that names the part of the URL that is wrong.
func Open(ctx context.Context, rawURL string, opts ...OpenOption) (Bus, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok || scheme == "" {
		return nil, fmt.Errorf("bus: open %q: no scheme: want %s", Redacted(rawURL), wanted())
	}
	// net/url would take these for a fragment and an escape, and so open another path
	// than the one that was written.
	path, _, _ := strings.Cut(rest, "?")
	if strings.Contains(rest, "#") {
		return nil, fmt.Errorf("bus: open %q: a bus URL can't hold '#'", Redacted(rawURL))
	}
	if !strings.HasPrefix(rest, "//") && strings.Contains(path, "%") {
		return nil, fmt.Errorf("bus: open %q: a path can't hold '%%'", Redacted(rawURL))
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of net/url repeats the URL with its password.
		return nil, fmt.Errorf("bus: open %q: not a URL", Redacted(rawURL))
	}
	u.OmitHost = !strings.HasPrefix(rest, "//") // "nats:" and "nats://" are the same to net/url
	openersMu.RLock()
	open := openers[u.Scheme]
	openersMu.RUnlock()
	if open == nil {
		return nil, fmt.Errorf("bus: open %q: %w %q: want %s", Redacted(rawURL), ErrUnknownScheme, u.Scheme, wanted())
	}
	b, err := open(ctx, u, NewOpenOptions(opts))
	if err != nil {
		return nil, fmt.Errorf("bus: open %q: %w", Redacted(rawURL), err)
	}
	return b, nil
}

// wanted lists what Open would understand, and the imports that it may lack.
func wanted() string {
	openersMu.RLock()
	defer openersMu.RUnlock()
	var have, lack []string
	for scheme := range openers {
		have = append(have, scheme+":")
	}
	for scheme, path := range importOf {
		if openers[scheme] == nil {
			lack = append(lack, fmt.Sprintf("%s: (import _ %q)", scheme, path))
		}
	}
	slices.Sort(have)
	slices.Sort(lack)
	text := "a scheme of " + strings.Join(have, ", ")
	if len(have) == 0 {
		text = "a scheme, but no backend is imported"
	}
	if len(lack) > 0 {
		text += "; not imported: " + strings.Join(lack, ", ")
	}
	return text
}

// Redacted hides the secrets of a bus URL for a log, also of one that doesn't parse: user
// and password, and parameters whose names end in token, password or secret.
func Redacted(rawURL string) string {
	place, query, hasQuery := strings.Cut(rawURL, "?")
	if strings.Contains(place, "//") {
		place = redactedUser(place) // a directory may hold '@'
	}
	if !hasQuery {
		return place
	}
	params := strings.Split(query, "&")
	for i, param := range params {
		raw, value, assigned := strings.Cut(param, "=")
		name, err := url.QueryUnescape(raw)
		if err != nil {
			name = raw
		}
		switch {
		case slices.ContainsFunc([]string{"token", "password", "secret"}, func(end string) bool { return strings.HasSuffix(name, end) }):
			params[i] = raw + "=xxxxx"
		case assigned:
			params[i] = raw + "=" + redactedUser(value)
		}
	}
	return place + "?" + strings.Join(params, "&")
}

// redactedUser hides what stands before the last '@', since a password may hold a slash.
func redactedUser(place string) string {
	scheme, rest, found := strings.Cut(place, "//")
	if !found {
		scheme, rest = "", place
	}
	i := strings.LastIndex(rest, "@")
	if i < 0 {
		return place
	}
	if found {
		scheme += "//"
	}
	return scheme + "xxxxx" + rest[i:]
}
