package bus

import (
	"errors"
	"fmt"
)

// The errors of a bus, wrapped with the operation and the subject or stream, never the
// payload, and matched by errors.Is.
var (
	// ErrClosed: the bus was closed before the call or while it ran.
	ErrClosed = errors.New("bus is closed")

	// ErrBadSubject: a subject or pattern breaks the grammar, or its first token is
	// reserved. To Publish, a pattern is not a subject.
	ErrBadSubject = errors.New("bad subject")

	// ErrBadHeader: a key is not an HTTP token or is reserved, or a value holds CR, LF,
	// NUL or outer white space.
	ErrBadHeader = errors.New("bad header")

	// ErrTooLarge: data and headers exceed the backend's limit, or what the stream's bytes
	// limit could hold at all.
	ErrTooLarge = errors.New("message too large")

	// ErrConflict: the subject's last message is not the expected one; or a group exists
	// with another pattern.
	ErrConflict = errors.New("conflict")

	// ErrNoStream: something that needs a stream was asked of a subject or pattern that no
	// single stream captures.
	ErrNoStream = errors.New("no stream captures it")

	// ErrBadStream: a stream's config is invalid, or changes what can't change.
	ErrBadStream = errors.New("bad stream config")

	// ErrStreamOverlap: a subject would be captured by two streams.
	ErrStreamOverlap = errors.New("streams overlap")

	// ErrStreamChanged: the subscription ended because its pattern is captured by another
	// stream than before, or by none; its error hook is told. Subscribe again. Of PublishAsync: nothing
	// was published for that reason. Publish again.
	ErrStreamChanged = errors.New("what captures the pattern has changed")

	// ErrGap: messages are gone before the subscription's turn. See GapError.
	ErrGap = errors.New("messages are missing")

	// ErrSlow: messages were dropped because the handler was too slow, or lost with a
	// connection. See SlowError.
	ErrSlow = errors.New("messages were dropped")

	// ErrPanic: a handler panicked, or ended its goroutine by runtime.Goexit, as t.FailNow does.
	ErrPanic = errors.New("handler panicked")

	// ErrUnknownOutcome: the message may have been published or not; the reason (a
	// context's error, ErrClosed or ErrUnavailable) is wrapped with it. Publishing again
	// under the same MessageID is safe within the Duplicates of its stream.
	ErrUnknownOutcome = errors.New("outcome unknown")

	// ErrUnavailable: the backend can't serve the call now: no connection, no quorum, a
	// full disk.
	ErrUnavailable = errors.New("unavailable")

	// ErrForbidden: the server's permissions don't allow it.
	ErrForbidden = errors.New("forbidden")

	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is locked by another process")

	// ErrHandlersRunning: Close gave up waiting for handlers; it names their patterns.
	ErrHandlersRunning = errors.New("handlers are still running")

	// ErrUnsupported: the backend lacks the option or operation that it names.
	ErrUnsupported = errors.New("not supported by this backend")

	// ErrUnknownScheme: no imported backend has registered the URL's scheme.
	ErrUnknownScheme = errors.New("unknown scheme")
)

// GapError is the ErrGap that an error hook is given: the subscription misses what stood
// between two cursors.
type GapError struct {
	Stream string
	After  Cursor // the last place before the hole; zero at the stream's start
	Before Cursor // the first place behind it; of another epoch after a recreation
	Missed uint64 // the most that matched; 0 when it isn't known
}

func (e *GapError) Error() string {
	count := ""
	if e.Missed > 0 {
		count = fmt.Sprintf("up to %d ", e.Missed)
	}
	return fmt.Sprintf("%smessages of stream %s are missing after %q and before %q", count, e.Stream, e.After, e.Before)
}

// Is makes errors.Is(e, ErrGap) true.
func (e *GapError) Is(target error) bool { return target == ErrGap }

// SlowError is the ErrSlow that an error hook is given.
type SlowError struct {
	Dropped uint64 // since the last report; 0 when a lost connection makes it unknown
}

func (e *SlowError) Error() string {
	if e.Dropped == 0 {
		return "messages may be lost: the connection was interrupted"
	}
	return fmt.Sprintf("%d messages were dropped: the handler is too slow", e.Dropped)
}

// Is makes errors.Is(e, ErrSlow) true.
func (e *SlowError) Is(target error) bool { return target == ErrSlow }

// Problem is what an error hook is told: something that went wrong outside any call.
type Problem struct {
	Err     error  // the handler's error, or ErrPanic, ErrGap, ErrSlow and other sentinels
	Pattern string // of the subscription; empty for a problem of the bus
	Subject string // of the message; empty when there is none
	Cursor  Cursor // of the message; zero when no stream holds it
	Stack   []byte // of a panic
}

// ErrorHook receives problems. The hook of a bus (an OpenOption) runs on a goroutine of
// its own behind a bounded queue; what doesn't fit is logged and counted. The hook of a
// subscription replaces it there and runs in turn with the handler, so that a hole is told before the
// next message. A hook that panics or is slow delays nobody else. A hook must not wait for the
// end of its own subscription or bus: Unsubscribe and Close belong on a goroutine of their own there.
type ErrorHook func(p Problem)
