package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// defaultAPI is before the calls of JetStream's API.
const defaultAPI = "$JS.API."

// inDomain has the calls go to a domain of JetStream.
func (b *backend) inDomain(domain string) {
	if domain != "" {
		b.api = "$JS." + domain + ".API."
	}
}

// call is the subject of a call in the domain.
func (b *backend) call(subject string) string { return b.api + strings.TrimPrefix(subject, defaultAPI) }

// askTimeout bounds a question whose caller set no deadline.
const askTimeout = 5 * time.Second

// The server's error codes that mean something to us (server/errors.json of nats-server).
const (
	codeNoPeers           = 10005
	codeNoQuorum          = 10008
	codeConsumerNameInUse = 10013
	codeConsumerNotFound  = 10014
	codeInsufficient      = 10023
	codeNoSuchMessage     = 10037
	codeNotForAccount     = 10039
	codeResources         = 10047
	codeCreateFailed      = 10049
	codeConfigInvalid     = 10052
	codeMessageTooLarge   = 10054
	codeNameInUse         = 10058
	codeStreamNotFound    = 10059
	codeWrongStream       = 10060
	codeOverlap           = 10065
	codeWrongLastSequence = 10071
	codeNoReplicas        = 10074
	codeNotEnabled        = 10076
	codeStoreFailed       = 10077
	codeConsumerExists    = 10148
	codeInProcess         = 10158
	codeSubjectInProcess  = 10164
)

// apiError is how the server says no.
type apiError struct {
	Status      int    `json:"code"`
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.Code) }

// Unwrap gives the sentinel that it is to a caller.
func (e *apiError) Unwrap() error {
	switch e.Code {
	case codeStreamNotFound, codeWrongStream:
		return driver.ErrNotCaptured
	case codeOverlap:
		return bus.ErrStreamOverlap
	case codeConfigInvalid, codeNoReplicas:
		return bus.ErrBadStream
	case codeMessageTooLarge:
		return bus.ErrTooLarge
	case codeWrongLastSequence, codeSubjectInProcess:
		return bus.ErrConflict
	case codeNotForAccount:
		return bus.ErrForbidden
	case codeNoPeers, codeNoQuorum, codeInsufficient, codeNotEnabled, codeResources, codeStoreFailed:
		return bus.ErrUnavailable
	}
	if e.Status >= 500 {
		return bus.ErrUnavailable
	}
	return nil
}

// storeFailure is what is wrong with the embedded server.
func (b *backend) storeFailure() error {
	if b.server == nil {
		return nil
	}
	return b.server.failure()
}

// isInterrupted reports whether the client looks for its server. It says that a buffer is full then, which we let it have none of.
func isInterrupted(err error) bool {
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionReconnecting)
}

// connectionError says in the bus's words why a question got no answer.
func connectionError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil && context.Cause(ctx) != context.DeadlineExceeded:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: no answer from the server: %w", bus.ErrUnavailable, context.DeadlineExceeded)
	case errors.Is(err, nats.ErrConnectionClosed):
		return bus.ErrClosed
	case isInterrupted(err):
		return errInterrupted
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("%w: %s", bus.ErrForbidden, err)
	}
	return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
}
