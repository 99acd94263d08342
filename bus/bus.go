package bus

import "context"

// Bus publishes and delivers messages. Its methods are safe for concurrent use, also
// from inside handlers.
type Bus interface {
	// Publish sends data on subject. It returns nil only when the message is accepted:
	// for a captured subject when the stream has stored it (how durably is the backend's
	// documented level) and its limits let it stand, otherwise when it has been handed to
	// the transport in order. The data is the caller's again when Publish returns.
	//
	// What one goroutine publishes one after the other with nil returned, to one stream
	// or to uncaptured subjects, reaches every subscription in that order. On a captured
	// subject every subscription, in every process, sees the stream's order.
	//
	// Errors, checked in this order: ErrClosed, a context that is done, ErrBadSubject,
	// ErrBadHeader, ErrTooLarge (headers count; also what the stream's bytes limit could
	// not hold), ErrNoStream (a stream's option on an uncaptured subject). An error that is
	// ErrUnknownOutcome means that the message may have been published; publishing it
	// again under the same MessageID is safe. Any other error means that nothing was.
	//
	// Publish blocks until the message is accepted, at the longest until ctx is done.
	Publish(ctx context.Context, subject string, data []byte, opts ...PublishOption) error

	// Subscribe calls handler with every message whose subject matches pattern. When it
	// returns nil, every matching message that anyone who knows that it returned publishes
	// afterwards is delivered: on captured subjects wherever it is published, on uncaptured
	// ones when published in this process or on the same server, on other servers once
	// interest has spread.
	//
	// By default only new messages are delivered; Last, After, Since, All and
	// LastPerSubject start earlier on a captured pattern. A pattern that is not captured as
	// a whole has no past: with one of these it is ErrNoStream, naming the streams that it
	// touches. With a start position Subscribe returns when the handler has returned for
	// each message that was stored when it was called; so don't hold a lock that the
	// handler takes. Called inside a handler, or with Background, it returns once
	// positioned.
	//
	// ctx bounds the call, not the subscription: when it ends before Subscribe has
	// returned, the subscription is removed and ctx's error returned. The subscription
	// lasts until Unsubscribe, Close or the end of the context given as Until.
	//
	// Handlers run serially within a subscription and independently between
	// subscriptions. What waits for one handler is bounded (see Buffer). On a captured
	// subject a subscription that falls behind catches up from the stream; what limits
	// discard before its turn is announced to its error hook as ErrGap before the next
	// message. With a limit per subject, replaced messages may be skipped without notice,
	// never the newest of a subject. On other subjects the oldest waiting messages are
	// dropped, counted and announced as ErrSlow.
	Subscribe(ctx context.Context, pattern string, handler Handler, opts ...SubscribeOption) (Subscription, error)

	// EnsureStreams creates the streams that are missing and updates those that differ in
	// the fields that StreamConfig has; what else an operator has set is kept. Calling it
	// again with the same configs changes nothing, also from several callers at once. It
	// never deletes a stream, and an update loses nothing that is stored except what new
	// limits discard, which is logged with its count.
	//
	// All configs are checked before the first is applied; the error names the stream that
	// failed: ErrBadStream (an invalid config, or a change of what can't change),
	// ErrStreamOverlap (a subject that another stream captures).
	EnsureStreams(ctx context.Context, streams ...StreamConfig) error

	// Close refuses new calls with ErrClosed, ends blocked ones, delivers what was accepted
	// here before the call to the handlers (which may still publish) until ctx ends, and
	// releases everything. A ctx without a deadline is given 5 seconds. Handlers that don't
	// return by then have their contexts cancelled, and the error is ErrHandlersRunning,
	// naming their patterns, also when their subscriptions have ended before. What they call
	// after Close has returned is ErrClosed. Close is idempotent; called inside a handler it doesn't wait.
	Close(ctx context.Context) error
}

// Handler receives the messages of one subscription, one at a time. It may keep m for
// ever and must not modify it: other subscriptions share it. Appending to its data copies.
//
// ctx carries the publisher's trace (see WithPropagator) and is cancelled when the
// subscription or the bus ends; calls of Subscribe, Unsubscribe and Close that are given it know that they are made inside a
// handler, and don't wait for it. A non-nil error goes to the error hook; in a durable
// group it redelivers. A panic goes to the error hook, too, and the subscription goes on.
type Handler func(ctx context.Context, m *Message) error

// Subscription is a handler's place in a bus. Its methods are safe for concurrent use.
type Subscription interface {
	// Unsubscribe ends the subscription. After it has returned nil the handler isn't
	// running and will not run again. Given the context of a handler of the same bus it
	// doesn't wait: no new call starts, and Done closes when the running one has returned.
	// It is idempotent. An error is ctx's, or ErrClosed while the bus is being closed: the
	// subscription has ended, but its handler is still running.
	Unsubscribe(ctx context.Context) error

	// CaughtUp is closed when the messages stored at the time of the call of Subscribe
	// have been handled or are gone.
	CaughtUp() <-chan struct{}

	// Done is closed when no handler is running or will run again.
	Done() <-chan struct{}

	// Err says why the subscription ended: nil while it stands and after Unsubscribe,
	// ErrClosed, ErrStreamChanged, or the error of the context given as Until.
	Err() error

	// Dropped is the number of messages lost to a slow handler so far.
	Dropped() uint64
}

// StreamLister is implemented by buses that can list their streams.
type StreamLister interface {
	// Streams returns the streams of the bus, also those that others have created, by name.
	Streams(ctx context.Context) ([]StreamInfo, error)
}

// Remover is implemented by buses that can remove what they keep; what the backend can't is ErrUnsupported.
type Remover interface {
	// RemoveStream deletes a stream and all that it holds. Subscriptions that receive from
	// it end with ErrStreamChanged. It is ErrNoStream when there is none of that name.
	RemoveStream(ctx context.Context, name string) error

	// RemoveGroup forgets a durable group and its position. Its subscriptions end with
	// ErrStreamChanged. It is nil when there is no such group.
	RemoveGroup(ctx context.Context, name string) error
}

// Appender is implemented by buses that can store many messages without waiting for each; what the backend can't is
// ErrUnsupported. It is for who fills a stream and is alone to write to it, such as migrate.Bridge.
type Appender interface {
	// Append stores messages (Subject, Header and Data of each) at the end of a stream, in their order and with nothing
	// in between. The stream must end at after: the cursor of the newest message that it was ever given, zero if there was none.
	// Otherwise it is ErrConflict, and nothing is stored.
	//
	// It returns the cursors of what is stored, in order. When that isn't all, the error is that of the first message that
	// isn't, as Publish would return it, and nothing behind that one is stored; with ErrUnknownOutcome more may be stored
	// than is returned. All of them are on their way at once: the caller bounds how much that is.
	Append(ctx context.Context, stream string, after Cursor, messages ...*Message) ([]Cursor, error)
}

// HealthChecker is implemented by buses that can fail while they stand.
type HealthChecker interface {
	// Health returns nil when the bus can publish and deliver, and otherwise why not
	// (ErrClosed, ErrUnavailable), without waiting for an outage to end.
	Health(ctx context.Context) error
}

// AsyncPublisher is implemented by buses that can publish without waiting for each acknowledgement.
type AsyncPublisher interface {
	// PublishAsync is Publish that returns when the message is on its way. done is called once, with what Publish
	// would have returned, on another goroutine and never concurrently with the done of another message of the bus. It
	// may use the bus, except to Close it, and delays what is told to others. Without a done an error goes to the error hook.
	//
	// What one goroutine publishes so, one after the other, to one stream or to uncaptured subjects, reaches every
	// subscription in that order; what becomes of one message stops none behind it. Publish may overtake those whose
	// outcome isn't told yet. When what captures the subject changes meanwhile, the error is ErrStreamChanged: nothing was
	// published, so publish again.
	//
	// At most 1,024 messages, of 8 MiB together, are on their way at a time. Beyond that PublishAsync blocks until there
	// is room or ctx is done, and so it does while it can't be told whether a stream captures the subject; ctx bounds
	// nothing else. Close waits for those that are on their way as it does for calls.
	PublishAsync(ctx context.Context, subject string, data []byte, done func(err error), opts ...PublishOption)
}
