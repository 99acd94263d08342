package ui

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// App is a server of pages. Make it with [New], then call Config and Page, then Start.
type App struct {
	opts   Options
	limits limits
	log    *slog.Logger
	bus    bus.Bus

	mux     *http.ServeMux
	assets  assets
	tabs    registry
	onces   outcomes
	paces   paces
	slots   chan struct{} // held while a view renders
	hosts   hostRule
	running inflight

	mu      sync.Mutex
	started bool
	addr    string
	known   chan struct{} // closed when addr is known, or never will be

	closing chan struct{} // closed when the server begins to shut down
}

// New returns an App without pages.
func New() *App {
	v := &App{
		limits:  defaultLimits,
		mux:     http.NewServeMux(),
		slots:   make(chan struct{}, runtime.GOMAXPROCS(0)),
		known:   make(chan struct{}),
		closing: make(chan struct{}),
	}
	v.assets.init()
	v.Config(Options{})
	v.routes()
	return v
}

// Config replaces the options. Call it before Start.
func (v *App) Config(o Options) {
	v.opts = o.complete()
	v.log = v.opts.Logger
}

// Page serves a page at path, which is a path of [http.ServeMux] ("/", "/room/{name}") that
// matches exactly. fn runs for each tab that opens the page, on the tab's thread.
// Page panics when the path is taken or malformed, as ServeMux does.
func (v *App) Page(path string, fn func(c *Context)) {
	if !strings.HasPrefix(path, "/") {
		panic(fmt.Sprintf("ui: Page(%q): a path begins with a slash", path))
	}
	pattern := path
	if strings.HasSuffix(pattern, "/") {
		pattern += "{$}"
	}
	p := &page{app: v, path: path, fn: fn}
	v.mux.HandleFunc("GET "+pattern, p.serveDocument)
	v.mux.HandleFunc("POST "+pattern, p.servePost)
}

// Asset serves data under an address that changes with it, and returns the address. A stylesheet
// (a name that ends in ".css") is linked by every page; of other assets a view uses the
// address. Call it before Start.
func (v *App) Asset(name string, data []byte) string {
	return v.assets.add(name, data)
}

// begin opens the bus and ensures the streams. What it returns closes the bus if it is ours.
func (v *App) begin(ctx context.Context) (closeBus func(context.Context) error, err error) {
	if err := v.opts.check(); err != nil {
		return nil, err
	}
	for _, plugin := range v.opts.Plugins {
		if err := plugin(v); err != nil {
			return nil, fmt.Errorf("ui: plugin: %w", err)
		}
	}
	closeBus = func(context.Context) error { return nil }
	v.bus = v.opts.Bus
	if v.bus == nil {
		open := []bus.OpenOption{bus.WithLogger(v.log)}
		if m, ok := v.opts.Metrics.(bus.Metrics); ok {
			open = append(open, bus.WithMetrics(m))
		}
		b, err := bus.Open(ctx, v.opts.BusURL, open...)
		if err != nil {
			return nil, fmt.Errorf("ui: Options.BusURL: %w", err)
		}
		v.bus, closeBus = b, b.Close
	}
	if len(v.opts.Streams) > 0 {
		if err := v.bus.EnsureStreams(ctx, v.opts.Streams...); err != nil {
			err = fmt.Errorf("ui: Options.Streams: %w", err)
			if closeErr := closeBus(context.WithoutCancel(ctx)); closeErr != nil {
				err = fmt.Errorf("%w (and closing the bus: %w)", err, closeErr)
			}
			return nil, err
		}
	}
	return closeBus, nil
}

// captured reports whether a stream of Options.Streams captures subject.
func (v *App) captured(subject string) bool {
	for _, s := range v.opts.Streams {
		for _, pattern := range s.Subjects {
			if bus.Match(pattern, subject) {
				return true
			}
		}
	}
	return false
}
