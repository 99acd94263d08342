package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

const (
	// joinTimeout bounds the wait for the others at the start. The first time a cluster starts, all must be there.
	joinTimeout = 2 * time.Minute
	// joinLog is how often it is told what is waited for.
	joinLog = 10 * time.Second
	// watchPeersEvery is how often it is looked whether a connection to another server has ended, which the server tells nobody.
	watchPeersEvery = 100 * time.Millisecond
	// settled is how old a route is that isn't just one too many: two members that find each other open several. By then
	// they have told each other what is listened to.
	settled = time.Second
	toHub   = "leaf "
)

// await returns when the cluster, or the hub, answers.
func (b *backend) await(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, joinTimeout)
		defer cancel()
	}
	began, told := time.Now(), time.Now()
	for {
		err := b.question(ctx, "$JS.API.INFO", nil, nil, firstQuestion)
		if err == nil || errors.Is(err, bus.ErrForbidden) {
			return err
		}
		if failure := b.node.failure(); failure != nil {
			return failure
		}
		if !sleep(ctx, electionPause) {
			return fmt.Errorf("%w after %s: %s: %w", bus.ErrUnavailable, time.Since(began).Round(time.Millisecond), b.node.absent(), context.Cause(ctx))
		}
		if time.Since(told) > joinLog {
			told = time.Now()
			b.log.Warn("natsbus: still waiting", "for", b.node.absent(), "since", time.Since(began).Round(time.Second))
		}
	}
}

// absent says what this server is missing.
func (e *embedded) absent() string {
	names := "none"
	if found := e.connected(); len(found) > 0 {
		names = strings.Join(found, ", ")
	}
	var text string
	if l := e.cfg.Leaf; l != nil {
		text = fmt.Sprintf("JetStream of domain %s doesn't answer by the hub %s; connected: %s", e.cfg.Domain, strings.Join(l.Hubs, ", "), names)
	} else if m := e.cfg.Cluster; m != nil {
		text = fmt.Sprintf("the cluster %s has no leader; connected to this member: %s. More than half of the members must run, and all at the cluster's first start", m.Name, names)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lastError != "" {
		text += " (the last error: " + e.lastError + ")"
	}
	return text
}

// peerConns returns the connections to other servers, with their names.
func (e *embedded) peerConns() map[string]string {
	conns := map[string]string{}
	if routes, err := e.server.Load().Routez(nil); err == nil { // it has no errors without options
		for _, r := range routes.Routes {
			conns[fmt.Sprint("route ", r.Rid)] = r.RemoteName
		}
	}
	if leaves, err := e.server.Load().Leafz(nil); err == nil {
		for _, l := range leaves.Leafs {
			if l.IsSpoke {
				conns[fmt.Sprint(toHub, l.ID)] = l.Name
			}
		}
	}
	return conns
}

// connected names the servers to which this one has a connection.
func (e *embedded) connected() []string {
	names := map[string]bool{}
	for _, name := range e.peerConns() {
		names[name] = true
	}
	return sortedKeys(names)
}

// peerConn is a connection to another server.
type peerConn struct {
	server string
	since  time.Time
}

// hubOf names all servers of a leaf's hub as one, of which one is as good as another; "": the connection is no leaf's.
func hubOf(conn string) string {
	if strings.HasPrefix(conn, toHub) {
		return "hub"
	}
	return ""
}

// watchPeers calls lost when a connection to another server has ended, of those that there are or come: what was on its
// way on it is gone. It calls back when one to a server that was cut off stands again: so is what that one has sent meanwhile.
func (e *embedded) watchPeers(there map[string]string, lost, back func()) {
	tick := time.NewTicker(watchPeersEvery)
	defer tick.Stop()
	known := map[string]peerConn{}
	for conn, server := range there {
		known[conn] = peerConn{cmp.Or(hubOf(conn), server), time.Now()}
	}
	away := map[string]time.Time{} // servers to which a connection has ended, and since when there is one; zero: not yet
	for {
		select {
		case <-e.stopping:
			return
		case <-tick.C:
		}
		conns, ended := e.peerConns(), false
		linked := map[string]bool{}
		for conn, server := range conns {
			server = cmp.Or(hubOf(conn), server)
			linked[server] = true
			if _, old := known[conn]; !old {
				known[conn] = peerConn{server, time.Now()}
			}
		}
		for conn, c := range known {
			if _, there := conns[conn]; there {
				continue
			}
			delete(known, conn)
			if !linked[c.server] || hubOf(conn) != "" || time.Since(c.since) > settled {
				ended, away[c.server] = true, time.Time{}
			}
		}
		if ended {
			e.log.Warn("natsbus: a connection to another server has ended", slog.Any("connected", e.connected()))
			lost()
		}
		for server, since := range away {
			switch {
			case !linked[server]:
				away[server] = time.Time{}
			case since.IsZero():
				away[server] = time.Now()
			case time.Since(since) > 2*settled: // also of the several that two members have, the one that was lost stands
				delete(away, server)
				e.log.Info("natsbus: a server that was cut off is connected again", "server", server)
				back()
			}
		}
	}
}
