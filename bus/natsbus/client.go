package natsbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
)

// Client is a connection to a NATS elsewhere. A URL says the same (nats://HOST:PORT), so that it can be chosen at
// start-up; the package comment has the parameters.
type Client struct {
	Servers  []string // HOST:PORT of one or more servers; of the rest of their cluster it is told by them
	Login    Login
	TLS      *tls.Config // nil: the connection is encrypted only if the server says so
	Domain   string      // of JetStream; empty: that of the servers
	Replicas int         // how many of their cluster hold a stream that is created here; 0: one
}

// Open returns a bus on the servers. Errors: bus.ErrUnavailable when none can be reached, or they don't let this client
// in; others name the field that is wrong.
func (c Client) Open(ctx context.Context, opts ...bus.OpenOption) (bus.Bus, error) {
	b, err := c.open(ctx, bus.NewOpenOptions(opts))
	if err != nil {
		return nil, fmt.Errorf("natsbus: connect to %s: %w", strings.Join(c.Servers, ", "), err)
	}
	return b, nil
}

func (c Client) open(ctx context.Context, o bus.OpenOptions) (bus.Bus, error) {
	if len(c.Servers) == 0 {
		return nil, errors.New("Client.Servers is empty: name at least one HOST:PORT")
	}
	if err := checkAddrs("servers", c.Servers[1:]); err != nil {
		return nil, err
	}
	if c.Replicas > maxReplicas {
		return nil, fmt.Errorf("parameter %q is %d: at most %d servers can hold a stream", "replicas", c.Replicas, maxReplicas)
	}
	opts, err := c.Login.options()
	if err != nil {
		return nil, err
	}
	if c.TLS != nil {
		opts = append(opts, nats.Secure(c.TLS))
	}
	timeout := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline)/2, time.Millisecond) // there are two connections
	}
	b := newBackend(o.Logger)
	b.replicas = max(1, c.Replicas)
	b.inDomain(c.Domain)
	err = b.dial(strings.Join(c.Servers, ","), append(opts, nats.Timeout(timeout)))
	if errors.Is(err, nats.ErrNoServers) { // it hides that
		return nil, fmt.Errorf("%w: connection refused: is the server running at %s?", bus.ErrUnavailable, strings.Join(c.Servers, " or "))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: is the server running, and are the credentials right?", bus.ErrUnavailable, err)
	}
	return b.run(ctx, o, true)
}
