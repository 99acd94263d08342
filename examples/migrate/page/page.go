// Package page is what the programs of docs/migrate.md have in common, and what no step changes: a chat's page in the browser,
// the events that keep it up to date, and a server that ends in order.
package page

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

//go:embed page.html page.js
var files embed.FS

// patience is how long a browser may take to read an event, and how long the server takes to end.
const patience = 10 * time.Second

// Serve serves the page, and what mux has, at addr until the program is told to end.
func Serve(addr string, mux *http.ServeMux) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "page.html") })
	mux.HandleFunc("GET /page.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "page.js") })
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := &http.Server{
		Handler:           guard(listener.Addr(), mux),
		ReadHeaderTimeout: patience,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // streams end with it
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Printf("http://%s\n", listener.Addr())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return server.Shutdown(ending)
}

// guard lets in what comes from the page itself, under a name of this machine if the server listens there.
func guard(addr net.Addr, next http.Handler) http.Handler {
	next = http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); addr.(*net.TCPAddr).IP.IsLoopback() && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this server answers to localhost only", http.StatusMisdirectedRequest)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		next.ServeHTTP(w, r)
	})
}

// Stream sends the browser what view returns, as JSON, now and each time that something has changed, until the browser goes.
func Stream(w http.ResponseWriter, r *http.Request, changed <-chan struct{}, view func() any) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	for {
		data, err := json.Marshal(view())
		if err == nil {
			err = control.SetWriteDeadline(time.Now().Add(patience))
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "data: %s\n\n", data)
		}
		if err := errors.Join(err, control.Flush()); err != nil {
			return // the browser has gone, and will ask again if it hasn't
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
