package bus

import (
	"context"
	"log/slog"
	"time"
)

// PublishOption changes one Publish.
type PublishOption interface{ publish(*PublishOptions) }

// SubscribeOption changes one Subscribe.
type SubscribeOption interface{ subscribe(*SubscribeOptions) }

// OpenOption changes the bus that Open returns.
type OpenOption interface{ open(*OpenOptions) }

type (
	publishOption   func(*PublishOptions)
	subscribeOption func(*SubscribeOptions)
	openOption      func(*OpenOptions)
)

func (f publishOption) publish(o *PublishOptions)       { f(o) }
func (f subscribeOption) subscribe(o *SubscribeOptions) { f(o) }
func (f openOption) open(o *OpenOptions)                { f(o) }

// PublishOptions is what the options of one Publish add up to, for backends.
type PublishOptions struct {
	Header     Header
	MessageID  string
	Expect     bool   // that the subject's last message stands at ExpectLast
	ExpectLast Cursor // zero: that the subject holds none
	Receipt    *Receipt
	Codec      Codec
}

// NewPublishOptions adds up opts.
func NewPublishOptions(opts []PublishOption) PublishOptions {
	if len(opts) == 0 {
		return PublishOptions{} // without what lets o escape to the heap
	}
	var o PublishOptions
	for _, opt := range opts {
		opt.publish(&o)
	}
	return o
}

// WithHeader adds values under key, if any; given several times it adds to them. The values are copied.
func WithHeader(key string, values ...string) PublishOption {
	return publishOption(func(o *PublishOptions) {
		if len(values) == 0 {
			return // on the wire a key without a value is nothing
		}
		if o.Header == nil {
			o.Header = Header{}
		}
		o.Header[key] = append(o.Header[key], values...)
	})
}

// MessageID names the message: a second publish to its stream under the same ID within
// the stream's Duplicates is accepted but neither stored nor delivered again. It is
// looked at before ExpectLast and ExpectNone. IDs are header values: no line breaks, no outer white space.
// On an uncaptured subject it is ErrNoStream. StreamConfig.Duplicates says what a restart may forget.
func MessageID(id string) PublishOption {
	return publishOption(func(o *PublishOptions) { o.MessageID = id })
}

// ExpectLast lets the message be stored only if c is the cursor of the subject's last
// message; otherwise the error is ErrConflict. On an uncaptured subject it is ErrNoStream.
func ExpectLast(c Cursor) PublishOption {
	return publishOption(func(o *PublishOptions) { o.Expect, o.ExpectLast = true, c })
}

// ExpectNone lets the message be stored only if the stream now holds none of its subject.
func ExpectNone() PublishOption { return ExpectLast(Cursor{}) }

// Receipt says where a message was stored.
type Receipt struct {
	Cursor    Cursor // zero when Duplicate is true and the backend doesn't know it any more
	Duplicate bool   // the stream had a message of the same ID
}

// WithReceipt fills r before Publish returns nil. On an uncaptured subject it is ErrNoStream.
func WithReceipt(r *Receipt) PublishOption {
	return publishOption(func(o *PublishOptions) { o.Receipt = r })
}

// StartKind says which kind of start position a subscription has.
type StartKind uint8

// The kinds of start positions.
const (
	StartNew StartKind = iota
	StartLast
	StartAfter
	StartSince
	StartAll
	StartLastPerSubject
)

// Start is a start position, for backends.
type Start struct {
	Kind   StartKind
	N      int       // of StartLast
	Cursor Cursor    // of StartAfter
	Time   time.Time // of StartSince
}

// SubscribeOptions is what the options of one Subscribe add up to, for backends.
type SubscribeOptions struct {
	Start      Start
	Until      context.Context // nil: until Unsubscribe or Close
	Background bool
	ErrorHook  ErrorHook
	MaxMsgs    int // of Buffer; 0: the default
	MaxBytes   int
	Grouped    bool // by Group or DurableGroup, also if the name is bad
	Group      string
	Durable    bool
	Attempts   *int // nil: the default
	Waits      []time.Duration
	Codec      Codec
}

// NewSubscribeOptions adds up opts.
func NewSubscribeOptions(opts []SubscribeOption) SubscribeOptions {
	var o SubscribeOptions
	for _, opt := range opts {
		opt.subscribe(&o)
	}
	return o
}

func startAt(s Start) SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.Start = s })
}

// Last starts with the last n stored messages of all that match the pattern. Last(0) is
// only new messages, which is the default. Of several start positions the last one given holds.
func Last(n int) SubscribeOption { return startAt(Start{Kind: StartLast, N: n}) }

// After starts behind c. If messages behind c are gone, the subscription is told ErrGap
// first. A cursor of another epoch is a gap, too: the new epoch is read from its start.
func After(c Cursor) SubscribeOption { return startAt(Start{Kind: StartAfter, Cursor: c}) }

// Since starts with the first message stored at or after t.
func Since(t time.Time) SubscribeOption { return startAt(Start{Kind: StartSince, Time: t}) }

// All starts with the oldest stored message.
func All() SubscribeOption { return startAt(Start{Kind: StartAll}) }

// LastPerSubject starts with the last stored message of each subject, in the stream's order.
func LastPerSubject() SubscribeOption { return startAt(Start{Kind: StartLastPerSubject}) }

// Until ends the subscription when ctx ends.
func Until(ctx context.Context) SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.Until = ctx })
}

// Background lets Subscribe return as soon as the subscription is positioned;
// Subscription.CaughtUp tells when the replay has been handled.
func Background() SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.Background = true })
}

// Buffer bounds what waits for the handler: so many messages or bytes from each stream
// that the pattern touches, and as many from uncaptured subjects. The default is 1,024
// messages and 1 MiB. One message always fits.
func Buffer(messages, bytes int) SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.MaxMsgs, o.MaxBytes = messages, bytes })
}

// Group shares the messages with the other subscriptions of the same group and pattern,
// in every process that shares them: each message goes to one of them, which is free when it can be, and a
// subscription that ends gives back what it hasn't begun. The group lasts as long as it has a
// subscription and has no past: a start position is ErrUnsupported. Within a group no order is promised.
//
// name is made of ASCII letters, digits, '-' and '_', at most 32.
func Group(name string) SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.Grouped, o.Group = true, name })
}

// DurableGroup is a Group on a captured pattern that keeps its position in the stream, as
// long as the stream lives, and delivers at least once. A message is done when a handler
// has returned nil for it. An error, a panic or a crash redelivers it, to the same subscription or another
// one, with Message.Attempt counting; see Attempts. A start position holds when the group is made
// and is ignored afterwards (LastPerSubject is ErrUnsupported); Subscribe doesn't wait for
// what is to be done, and CaughtUp is closed when it returns.
//
// What was delivered in vain as often as Attempts allows is published to dead.NAME.SUBJECT, with
// the header Dead-Error, and is done only then. Another stream must capture those subjects: otherwise Subscribe is
// ErrNoStream. A group of the same name and another pattern is ErrConflict.
func DurableGroup(name string) SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.Grouped, o.Group, o.Durable = true, name, true })
}

// Attempts is how often this subscription's durable group delivers a message, 5 times by default, and how long it waits
// before each repetition; the last wait holds for all that follow. The default is 1, 2, 4 and 8 s. With n = 0
// it never gives up, and needs no stream for what is dead. A crash forgets some of the count, and a delivery that Close
// interrupts counts.
func Attempts(n int, waits ...time.Duration) SubscribeOption {
	return subscribeOption(func(o *SubscribeOptions) { o.Attempts, o.Waits = &n, waits })
}

// OpenOptions is what the options of Open add up to, for backends.
type OpenOptions struct {
	Logger    *slog.Logger // never nil
	ErrorHook ErrorHook    // nil: problems are logged

	Propagator Propagator // nil: traces aren't carried
	Metrics    Metrics    // nil: nobody is told
}

// NewOpenOptions adds up opts.
func NewOpenOptions(opts []OpenOption) OpenOptions {
	o := OpenOptions{Logger: slog.Default()}
	for _, opt := range opts {
		opt.open(&o)
	}
	return o
}

// WithLogger makes the bus log to l instead of slog.Default().
func WithLogger(l *slog.Logger) OpenOption {
	return openOption(func(o *OpenOptions) {
		if l != nil {
			o.Logger = l
		}
	})
}

// Propagator carries traces from publishers to handlers in headers, as OpenTelemetry's
// propagators do. Its methods are called concurrently.
type Propagator interface {
	// Inject writes the trace of ctx into the header of a message that is being published.
	Inject(ctx context.Context, h Header)

	// Extract returns a context like ctx with the trace that it finds in the header of a
	// message, which it doesn't modify.
	Extract(ctx context.Context, h Header) context.Context
}

// WithPropagator gives handlers the publisher's trace in their context.
func WithPropagator(p Propagator) OpenOption {
	return openOption(func(o *OpenOptions) { o.Propagator = p })
}

// OnErrorOption is an option of both Open and Subscribe.
type OnErrorOption struct{ hook ErrorHook }

// OnError sets the error hook of a bus or of one subscription.
func OnError(hook ErrorHook) OnErrorOption { return OnErrorOption{hook} }

func (e OnErrorOption) subscribe(o *SubscribeOptions) { o.ErrorHook = e.hook }
func (e OnErrorOption) open(o *OpenOptions)           { o.ErrorHook = e.hook }
