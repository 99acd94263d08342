package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// askTimeout bounds a question whose caller set no deadline.
const askTimeout = 5 * time.Second

// The server's error codes that mean something to us (server/errors.json of nats-server).
const (
	codeNoQuorum           = 10008
	codeConsumerNameInUse  = 10013
	codeConsumerNotFound   = 10014
	codeInsufficient       = 10023
	codeNoSuchMessage      = 10037
	codeNotEnabled         = 10039
	codeResources          = 10047
	codeConfigInvalid      = 10052
	codeMessageTooLarge    = 10054
	codeNameInUse          = 10058
	codeStreamNotFound     = 10059
	codeWrongStream        = 10060
	codeOverlap            = 10065
	codeWrongLastSequence  = 10071
	codeNotEnabledForUser  = 10076
	codeStoreFailed        = 10077
	codeConsumerExists     = 10148
	codeWrongLastSequence2 = 10164
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
	case codeConfigInvalid:
		return bus.ErrBadStream
	case codeMessageTooLarge:
		return bus.ErrTooLarge
	case codeWrongLastSequence, codeWrongLastSequence2:
		return bus.ErrConflict
	case codeNotEnabledForUser:
		return bus.ErrForbidden
	case codeNoQuorum, codeInsufficient, codeNotEnabled, codeResources, codeStoreFailed:
		return bus.ErrUnavailable
	}
	if e.Status >= 500 {
		return bus.ErrUnavailable
	}
	return nil
}

// ask asks the server's JetStream API on the connection for questions.
func (b *backend) ask(ctx context.Context, subject string, request, answer any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	if err := b.storeFailure(); err != nil {
		return err
	}
	m, err := b.rc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return connectionError(ctx, err)
	}
	if err := b.storeFailure(); err != nil {
		return err // while the store is opened again its streams seem to be gone
	}
	var failure struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failure); err != nil {
		return fmt.Errorf("the server's answer to %s can't be read: %w", subject, err)
	}
	if failure.Error != nil {
		return failure.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(m.Data, answer)
}

// storeFailure is what is wrong with the embedded server.
func (b *backend) storeFailure() error {
	if b.server == nil {
		return nil
	}
	return b.server.failure()
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
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: JetStream doesn't answer: is it enabled on the server?", bus.ErrUnavailable)
	case errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("%w: %s", bus.ErrForbidden, err)
	}
	return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
}
