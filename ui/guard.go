package ui

import (
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// policy lets a page use what its server serves, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; " +
	"img-src 'self' data:; font-src 'self'; media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

var errClosing = errors.New("the server is shutting down")

// guard protects all that next serves.
func (v *App) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		// A reader that stops must not hold the connection for ever. Streams set their own deadlines.
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(v.limits.response)); err != nil {
			v.log.Debug("ui: no deadline for a response", "error", err)
		}
		if probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"; probe {
			next.ServeHTTP(w, r)
			return
		}
		if !v.hosts.allows(r.Host) {
			v.log.Warn("ui: a request for another host was refused", "host", r.Host)
			http.Error(w, "This server doesn't answer to that name. If it should, add the name to Options.Hosts.", http.StatusMisdirectedRequest)
			return
		}
		select {
		case <-v.closing:
			header.Set("Connection", "close")
			// Of the posts only those are let in that finish what a tab has begun.
			if word := r.Header.Get("X-Jitney"); r.Method == http.MethodGet || word == "open" || word == "" {
				v.refuse(w, errClosing)
				return
			}
		default:
		}
		crossOrigin.ServeHTTP(w, r)
	})
}

// hostRule says to which names the server answers. A page of a stranger whose name is made to
// resolve to our address (DNS rebinding) would otherwise be of our origin.
type hostRule struct {
	any   bool
	names []string
}

func newHostRule(listening net.Addr, names []string) hostRule {
	tcp, ok := listening.(*net.TCPAddr)
	loopback := ok && tcp.IP.IsLoopback()
	rule := hostRule{any: !loopback && len(names) == 0}
	for _, name := range names {
		rule.names = append(rule.names, strings.ToLower(name))
	}
	return rule
}

func (h hostRule) allows(host string) bool {
	if h.any {
		return true
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	host = strings.TrimSuffix(host, ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(h.names, host) {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

var sessionForm = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// session returns the session of the request, and gives it one if it has none. Any well-formed one is
// taken: it is random, and a session that another server has begun goes on here.
func (v *App) session(w http.ResponseWriter, r *http.Request) string {
	// Browsers don't tell ports apart: two servers on one host would share the cookie.
	name := "jitney"
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		name += "-" + port
	}
	if c, err := r.Cookie(name); err == nil && sessionForm.MatchString(c.Value) {
		return c.Value
	}
	id := rand.Text()
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: id, Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
	})
	return id
}
