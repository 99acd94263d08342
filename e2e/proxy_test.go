package e2e

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy stands between the browser and an example. It sees what the stream carries, and
// can lose answers.
type proxy struct {
	url string

	mu      sync.Mutex
	streams int
	events  []string // that are not heartbeats
	lose    bool     // let the next action through and cut the connection when it is answered; then let no others through
	lost    int
}

var errLost = errors.New("the answer is lost")

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	to, err := url.Parse(target)
	require.NoError(t, err)
	p := &proxy{}
	rp := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		FlushInterval: -1,
		Transport:     &http.Transport{DisableKeepAlives: true},
		ModifyResponse: func(r *http.Response) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case r.Request.URL.Path == "/_ui/stream":
				p.streams++
				r.Body = &eventReader{ReadCloser: r.Body, to: p}
			case r.Request.URL.Path == "/_ui/act" && p.lose:
				p.lost++
				return errLost
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		refuse := r.URL.Path == "/_ui/act" && p.lost > 0 && p.lose
		p.mu.Unlock()
		if refuse {
			panic(http.ErrAbortHandler)
		}
		rp.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	p.url = srv.URL
	return p
}

func (p *proxy) setLose(lose bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.lost = lose, 0
}

func (p *proxy) hasLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost > 0
}

func (p *proxy) seen() (streams int, events []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams, append([]string(nil), p.events...)
}

// eventReader notes the events that are read through it.
type eventReader struct {
	io.ReadCloser
	to   *proxy
	line strings.Builder
}

func (e *eventReader) Read(b []byte) (int, error) {
	n, err := e.ReadCloser.Read(b)
	for _, c := range b[:n] {
		if c != '\n' {
			e.line.WriteByte(c)
			continue
		}
		if data, ok := strings.CutPrefix(e.line.String(), "data: "); ok && !strings.HasPrefix(data, `{"hb"`) {
			e.to.mu.Lock()
			e.to.events = append(e.to.events, data)
			e.to.mu.Unlock()
		}
		e.line.Reset()
	}
	return n, err
}
