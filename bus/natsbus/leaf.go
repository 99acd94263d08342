package natsbus

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Leaf makes an embedded server a leaf of a hub: a NATS elsewhere, or members of a cluster that listen for leaves. It
// stores nothing; the streams are the hub's, in the one JetStream domain that Config.Domain names. Uncaptured messages
// stay where nobody at the hub listens, and go on among those who are at the leaf while the hub is away.
type Leaf struct {
	Hubs     []string // HOST:PORT of the hub's servers, where they listen for leaves
	Login    Login
	Replicas int // how many of the hub's servers hold a stream that is created here; 0: one
}

// leafReconnect lies between two attempts to reach the hub.
const leafReconnect = 500 * time.Millisecond

// configure checks the leaf's part of the config, and puts it into the server's options.
func (l *Leaf) configure(c *Config, opts *server.Options) error {
	switch {
	case len(l.Hubs) == 0:
		return errors.New("Leaf.Hubs is empty: name at least one HOST:PORT on which the hub listens for leaves")
	case c.Domain == "":
		return fmt.Errorf("a leaf needs parameter %q: the name of the hub's JetStream domain, which is the cluster's name where jitney is the hub", "domain")
	case c.LeafListen != "":
		return fmt.Errorf("parameter %q: a leaf has no leaves", "leaf-listen")
	case c.Sync != 0:
		return fmt.Errorf("parameter %q: a leaf stores nothing", "sync")
	case c.Token != "" && c.Listen == "":
		return fmt.Errorf("parameter %q needs parameter %q; what the hub wants is %q", "token", "listen", "leaf-token")
	case l.Replicas > maxReplicas:
		return fmt.Errorf("parameter %q is %d: at most %d servers can hold a stream", "replicas", l.Replicas, maxReplicas)
	}
	if err := checkAddrs("leaf", l.Hubs); err != nil {
		return err
	}
	remote := &server.RemoteLeafOpts{TLS: c.TLS != nil, TLSConfig: c.TLS, TLSTimeout: tlsTimeout.Seconds()}
	for _, addr := range l.Hubs {
		remote.URLs = append(remote.URLs, &url.URL{Scheme: "nats-leaf", Host: addr})
	}
	opts.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	opts.LeafNode.ReconnectInterval = leafReconnect
	opts.ServerName = "" // the hub's servers may have many leaves, and tell them apart by it
	return l.Login.remote(remote)
}
