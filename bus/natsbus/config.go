package natsbus

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus"
)

// Config is an embedded server. A URL says the same, so that it can be chosen at start-up; the package comment has
// the parameters.
type Config struct {
	Dir   string        // where it stores; empty: ./data/nats. A leaf stores nothing
	Sync  time.Duration // how soon the disk has what is acknowledged, to whomever; 0: 100ms. See SyncAlways
	Scrub time.Duration // how long a round takes in which all files are checked for damage; 0: a day, negative: there is none. Of a server that stands alone

	// HOST:PORT on which clients can reach it, and leaves; empty: nothing. Sync is theirs, too: with SyncAlways a server that listens syncs each
	// message by itself, as one sync for all who wait would be for the publishers of this process alone.
	Listen     string
	LeafListen string

	Token string // what both must give; needed beyond loopback, there of at least 8 bytes

	// Domain is the name of its JetStream, by which leaves find it: of a leaf, its hub's. Empty: the name of the
	// cluster, or "jitney".
	Domain string

	// TLS is for all that listens, where it needs a certificate, and for a leaf on its way to the hub. The members of a
	// cluster show each other their certificates, which must come from RootCAs and be good for both ends.
	TLS *tls.Config

	// PlainText says that the network is to be trusted with the secrets and the messages. Without it nothing
	// listens beyond loopback without TLS.
	PlainText bool

	Cluster *Cluster // nil: it is no member of one
	Leaf    *Leaf    // nil: it is no leaf
}

// Open returns a bus on the embedded server. Errors: bus.ErrLocked when another process has the directory,
// bus.ErrUnavailable when the store doesn't work, or the cluster or the hub can't be reached before ctx ends (2 minutes
// where it has no deadline); others name the field that is wrong or the directory that can't be used. A member of a cluster
// whose machine has crashed compares what it holds with what the others do, for which Open waits 15 seconds at most.
func (c Config) Open(ctx context.Context, opts ...bus.OpenOption) (bus.Bus, error) {
	b, err := c.open(ctx, bus.NewOpenOptions(opts))
	if err != nil {
		return nil, fmt.Errorf("natsbus: open %s: %w", c.Dir, err)
	}
	return b, nil
}

// Open returns a bus on an embedded server that stores in dir and listens on nothing: Config with the rest left out.
func Open(ctx context.Context, dir string, opts ...bus.OpenOption) (bus.Bus, error) {
	return Config{Dir: dir}.Open(ctx, opts...)
}

func (c Config) open(ctx context.Context, o bus.OpenOptions) (bus.Bus, error) {
	switch {
	case c.Cluster != nil && c.Leaf != nil:
		return nil, fmt.Errorf("both Config.Cluster and Config.Leaf are given: a server is a member of a cluster or a leaf of one")
	case c.Leaf != nil && c.Dir != "":
		return nil, fmt.Errorf("a leaf stores nothing, as the streams are the hub's, but a directory is given (%s): leave it out", c.Dir)
	case c.Leaf == nil && c.Dir == "":
		c.Dir = defaultDir
	}
	if strings.ContainsAny(c.Domain, " \t\r\n.*>") {
		return nil, fmt.Errorf("parameter %q is %q: want a name without spaces, '.', '*' and '>'", "domain", c.Domain)
	}
	level, err := newSyncLevel(c.Sync)
	if err != nil {
		return nil, err
	}
	if c.Scrub != 0 && (c.Cluster != nil || c.Leaf != nil) {
		return nil, fmt.Errorf("parameter %q is for a server that stands alone: a member of a cluster isn't mended in place, and a leaf stores nothing", "scrub")
	}
	e := &embedded{cfg: c, dir: c.Dir, level: level, log: o.Logger, stopping: make(chan struct{})}
	opts, err := e.options(ctx)
	if err != nil {
		return nil, err
	}
	return e.open(ctx, opts, o)
}

// options checks the config and makes the server's of it.
func (e *embedded) options(ctx context.Context) (*server.Options, error) {
	c := &e.cfg
	opts := &server.Options{
		ServerName:             "jitney",
		DontListen:             true,
		NoSigs:                 true, // signals are the program's
		DisableJetStreamBanner: true,
		JetStream:              c.Leaf == nil,
		StoreDir:               c.Dir,
		JetStreamMaxStore:      noLimit, // by default it is what was free at the start, however much is free later
		SyncInterval:           e.level.interval,
		SyncAlways:             e.level.always && !c.groupCommits(),
		MaxPayload:             maxPayload + reserve,
	}
	var err error
	if c.Listen != "" {
		opts.DontListen = false
		if opts.Host, opts.Port, err = c.listenOn("listen", c.Listen, "token", c.Token); err != nil {
			return nil, err
		}
		opts.TLSConfig, opts.TLSTimeout = c.TLS, tlsTimeout.Seconds()
	}
	if c.LeafListen != "" {
		if c.Token == "" {
			return nil, fmt.Errorf("parameter %q needs a token, which leaves then give: parameter %q, or better %q or %q", "leaf-listen", "token", "token-file", "token-env")
		}
		if opts.LeafNode.Host, opts.LeafNode.Port, err = c.listenOn("leaf-listen", c.LeafListen, "token", c.Token); err != nil {
			return nil, err
		}
		opts.LeafNode.TLSConfig, opts.LeafNode.TLSTimeout = c.TLS, tlsTimeout.Seconds()
		opts.JetStreamDomain = "jitney"
	}
	switch {
	case c.Cluster != nil:
		err = c.Cluster.configure(ctx, c, opts)
	case c.Leaf != nil:
		err = c.Leaf.configure(c, opts)
	case c.Token != "" && c.Listen == "" && c.LeafListen == "":
		err = fmt.Errorf("parameter %q needs parameter %q: the server listens on nothing", "token", "listen")
	case c.TLS != nil && c.Listen == "" && c.LeafListen == "":
		err = fmt.Errorf("parameter %q needs parameter %q: the server listens on nothing", "tls-cert", "listen")
	}
	if err != nil {
		return nil, err
	}
	if c.Domain != "" && c.Leaf == nil {
		opts.JetStreamDomain = c.Domain
	}
	if opts.Authorization = c.Token; c.Token == "" && c.Listen == "" && !opts.DontListen {
		opts.Authorization = rand.Text() // only this process is to come in
	}
	return opts, nil
}

// listens reports whether others can use the server.
func (c *Config) listens() bool { return c.Listen != "" || c.LeafListen != "" }

const tlsTimeout = 5 * time.Second

// leastSecret is how many bytes a secret has at least that others can try to guess.
const leastSecret = 8

// listenOn reads where to listen, and refuses what others can reach without a secret, or without encryption.
func (c *Config) listenOn(name, addr, secretName, secret string) (host string, port int, err error) {
	host, port, err = splitAddr(name, addr)
	switch {
	case err != nil:
		return "", 0, err
	case isLoopback(host):
	case secret == "":
		err = fmt.Errorf("parameter %q is %q, which others can reach: give a token, too (token-file=FILE), or listen on 127.0.0.1", name, addr)
	case len(secret) < leastSecret:
		err = fmt.Errorf("parameter %q is %q, which others can reach, and parameter %q is too short: it needs at least %d bytes that nobody can guess, as from openssl rand -hex 16", name, addr, secretName, leastSecret)
	case c.TLS == nil && !c.PlainText:
		err = fmt.Errorf("parameter %q is %q, which others can reach and listen to: give it a certificate (tls-cert=FILE&tls-key=FILE), or say tls=off where the network is to be trusted", name, addr)
	}
	if c.TLS != nil && len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil && err == nil {
		err = fmt.Errorf("parameter %q: who listens needs a certificate of its own: parameters %q and %q", name, "tls-cert", "tls-key")
	}
	return host, port, err
}
