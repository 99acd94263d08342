package uitest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"testing"
	"time"

	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/ui"
)

// patience is how long a page waits for what should come at once: the machine may be busy.
const patience = 30 * time.Second

// Site is an App that serves on loopback until its test ends.
type Site struct {
	t   testing.TB
	url string
}

// Serve starts an App with what pages adds to it. It is shut down when the test ends, which fails if that fails. Options
// that aren't set are those of a test: a bus in memory without a ticker, a free port of 127.0.0.1, a log that is shown
// when the test fails, actions as fast as they come.
func Serve(t testing.TB, o ui.Options, pages func(v *ui.App)) *Site {
	t.Helper()
	if o.Bus == nil && o.BusURL == "" {
		b, err := membus.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		o.Bus = b
	}
	if o.ServerAddress == "" {
		o.ServerAddress = "127.0.0.1:0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if o.ActionsPerSecond == 0 {
		o.ActionsPerSecond = 1e6
	}
	v := ui.New()
	v.Config(o)
	pages(v)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- v.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	address := v.Addr()
	if address == "" {
		err := <-ended
		ended <- nil
		t.Fatal(err)
	}
	return &Site{t, "http://" + address}
}

// Open opens the page at path (with a query, if need be) as a visitor of its own: another browser, another person.
func (s *Site) Open(path string) *Page {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	return s.open(&http.Client{Jar: jar, Transport: transport}, path)
}

func (s *Site) open(visitor *http.Client, path string) *Page {
	s.t.Helper()
	p := &Page{site: s, t: s.t, visitor: visitor}
	s.t.Cleanup(p.leave)
	p.load(path)
	return p
}

var errLate = errors.New("it took too long")
