package natsbus

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster makes an embedded server a member of a cluster of three or more. All members hold what is stored, and what is
// acknowledged is with more than half of them.
type Cluster struct {
	Name   string // of the cluster
	Member string // of this server: no other has it, and it doesn't change, as the store is under it

	Listen    string   // HOST:PORT on which the others reach it
	Advertise string   // HOST:PORT under which they do, if that is another one
	Routes    []string // HOST:PORT of all members, this one too

	// Peers finds the members instead of Routes: it returns what that would hold. It is called at the start until it
	// names at least three (or Replicas) members, and after that every 15 seconds, or twice a second while a member can't
	// be reached, since addresses may change. What it returns together with an error doesn't count.
	Peers func(ctx context.Context) ([]string, error)

	Secret   string // what the members know each other by; beyond loopback it has at least 8 bytes
	Replicas int    // how many members hold a stream that is created here; 0: three
}

const (
	leastMembers = 3
	peersEvery   = 15 * time.Second
	peersPause   = 500 * time.Millisecond
	// routeUser is who a member says it is to the others.
	routeUser = "jitney"
	// routePing is how soon it is noticed that a machine is gone without a word, together with the other one.
	routePing     = 5 * time.Second
	routePingsOut = 2
)

// configure checks the cluster's part of the config, and puts it into the server's options.
func (m *Cluster) configure(ctx context.Context, c *Config, opts *server.Options) error {
	for name, text := range map[string]string{"cluster": m.Name, "member": m.Member} {
		if text == "" || strings.ContainsAny(text, " \t\r\n.*>/\\") {
			return fmt.Errorf("parameter %q is %q: want a name without spaces, '.', '*', '>' and slashes", name, text)
		}
	}
	switch {
	case m.Secret == "":
		return fmt.Errorf("a member of a cluster needs parameter %q, or better %q or %q: with it the members know each other, and nobody else gets in", "secret", "secret-file", "secret-env")
	case m.Listen == "":
		return fmt.Errorf("a member of a cluster needs parameter %q: HOST:PORT on which the others reach it", "route-listen")
	case m.Peers != nil && m.Routes != nil:
		return fmt.Errorf("both Cluster.Routes and Cluster.Peers are given: leave one out")
	}
	host, port, err := c.listenOn("route-listen", m.Listen, "secret", m.Secret)
	if err != nil {
		return err
	}
	if m.Advertise != "" {
		if err := checkAddrs("route-advertise", []string{m.Advertise}); err != nil {
			return err
		}
	}
	routes := m.Routes
	if m.Peers != nil {
		if routes, err = m.discover(ctx); err != nil {
			return err
		}
	}
	if err := m.checkRoutes(routes); err != nil {
		return err
	}
	if m.Peers == nil {
		if err := m.checkOwnRoute(routes); err != nil {
			return err
		}
	}
	if m.Replicas == 0 {
		m.Replicas = leastMembers
	}
	opts.ServerName = m.Member
	opts.JetStreamDomain = m.Name
	opts.Cluster = server.ClusterOpts{
		Name: m.Name, Host: host, Port: port, Advertise: m.Advertise,
		Username: routeUser, Password: m.Secret,
		NoAdvertise:  c.Listen == "", // where only this process comes in, others needn't know
		PingInterval: routePing, MaxPingsOut: routePingsOut,
	}
	if c.TLS != nil {
		mutual := c.TLS.Clone()
		mutual.ClientAuth = tls.RequireAndVerifyClientCert
		if mutual.ClientCAs == nil {
			mutual.ClientCAs = mutual.RootCAs
		}
		if mutual.RootCAs == nil || mutual.ClientCAs == nil {
			return fmt.Errorf("parameter %q is missing: the members' certificates must come from an authority of their own", "tls-ca")
		}
		opts.Cluster.TLSConfig, opts.Cluster.TLSTimeout = mutual, tlsTimeout.Seconds()
	}
	opts.Routes = m.urls(routes)
	if opts.DontListen {
		// Without a listener for clients the server doesn't start that of the routes.
		opts.DontListen, opts.Host, opts.Port = false, "127.0.0.1", server.RANDOM_PORT
	}
	return nil
}

func (m *Cluster) checkRoutes(routes []string) error {
	if err := checkAddrs("routes", routes); err != nil {
		return err
	}
	if len(routes) < leastMembers {
		return fmt.Errorf("parameter %q names %d members: want all, this one too, and at least %d, as two stop when one of them does", "routes", len(routes), leastMembers)
	}
	if m.Replicas > min(len(routes), maxReplicas) {
		return fmt.Errorf("parameter %q is %d: there are %d members, and at most %d of them can hold a stream", "replicas", m.Replicas, len(routes), maxReplicas)
	}
	return nil
}

// checkOwnRoute refuses a member that the others' routes can't name: once it had joined, more than half of the members would include it for ever.
func (m *Cluster) checkOwnRoute(routes []string) error {
	own := []string{m.Listen}
	if m.Advertise != "" {
		own = append(own, m.Advertise)
	}
	for _, route := range routes {
		_, at, err := net.SplitHostPort(route)
		for _, addr := range own {
			if _, port, ownErr := net.SplitHostPort(addr); err == nil && ownErr == nil && at == port {
				return nil
			}
		}
	}
	return fmt.Errorf("parameter %q doesn't name this member: none of %s has the port of %s: want all members, this one too. "+
		"Where the others reach this one by another address, give it as %q", "routes", strings.Join(routes, ","), strings.Join(own, " or "), "route-advertise")
}

const maxReplicas = 5

// discover asks for the members until enough are named. A cluster that begins with too few could begin twice.
func (m *Cluster) discover(ctx context.Context) ([]string, error) {
	pause := time.NewTicker(peersPause)
	defer pause.Stop()
	for {
		routes, err := m.Peers(ctx)
		if err == nil && len(routes) >= max(leastMembers, m.Replicas) {
			return routes, nil
		}
		if err == nil {
			err = fmt.Errorf("it names %d members, want all, and at least %d", len(routes), max(leastMembers, m.Replicas))
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("Cluster.Peers: %w: %w", err, context.Cause(ctx))
		}
	}
}

func (m *Cluster) urls(routes []string) []*url.URL {
	var urls []*url.URL
	// In the order that the server would sort them to when they are reloaded, without its lock.
	for _, addr := range slices.Sorted(slices.Values(routes)) {
		urls = append(urls, &url.URL{Scheme: "nats-route", Host: addr, User: url.UserPassword(routeUser, m.Secret)})
	}
	return urls
}

// follow asks for the members again and again, until the server stops.
func (e *embedded) follow() {
	m := e.cfg.Cluster
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e.background.Go(func() {
		<-e.stopping
		cancel()
	})
	tick := time.NewTicker(peersPause)
	defer tick.Stop()
	known, asked := e.opts.Routes, time.Now()
	for {
		select {
		case <-e.stopping:
			return
		case <-tick.C:
		}
		if time.Since(asked) < peersEvery && len(e.connected()) >= len(known)-1 {
			continue
		}
		asked = time.Now()
		routes, err := m.Peers(ctx)
		if err == nil {
			err = m.checkRoutes(routes)
		}
		if ctx.Err() != nil {
			return
		}
		urls := m.urls(routes)
		if err == nil && !slices.Equal(hosts(urls), hosts(known)) {
			if err = e.reroute(urls); err == nil {
				known = urls
			}
		}
		if err != nil {
			e.log.Warn("natsbus: can't learn where the members of the cluster are; trying again", "cluster", m.Name, "error", err)
		}
	}
}

// reroute has the server know where the members are.
func (e *embedded) reroute(routes []*url.URL) error {
	e.change.Lock()
	defer e.change.Unlock()
	changed := e.opts.Clone()
	changed.Routes = routes
	// Otherwise the next one begins with them: a server whose store has failed would open it again.
	if s := e.server.Load(); s.Running() && (e.left != nil || s.JetStreamEnabled()) {
		changed.JetStream, changed.StoreDir = e.left == nil, cmp.Or(s.door, e.dir)
		if err := s.ReloadOptions(changed); err != nil {
			return err
		}
	}
	e.opts.Routes = routes
	return nil
}

// hosts are the addresses of URLs, in an order of their own.
func hosts(urls []*url.URL) []string {
	set := map[string]bool{}
	for _, u := range urls {
		set[u.Host] = true
	}
	return sortedKeys(set)
}

func sortedKeys[V any](set map[string]V) []string { return slices.Sorted(maps.Keys(set)) }
