package driver

import (
	"context"
	"errors"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Backend moves bytes. Its methods are called concurrently, with valid arguments, never
// with a lock held that a sink takes. Errors wrap the sentinels of package bus; the
// driver adds the operation and the subject. Every call ends when its context does.
type Backend interface {
	// Limits are fixed while the bus is open.
	Limits() Limits

	// Streams lists the streams of the bus with what they capture. A stream that exists but
	// can't be asked now is listed all the same.
	Streams(ctx context.Context) ([]Stream, error)

	// State is what a stream holds now, as its leader knows it; ErrNotCaptured when there is
	// no such stream.
	State(ctx context.Context, stream string) (State, error)

	// Ensure creates the stream or updates the fields of cfg, atomically against other
	// processes; ErrStreamOverlap when another stream got there first.
	Ensure(ctx context.Context, cfg bus.StreamConfig) error

	// Append stores a message, first looking at its ID, then at what it expects
	// (ErrConflict). It returns when the message is stored and the stream's limits let it
	// stand, or ErrNotCaptured when the stream doesn't capture the subject any more. p.Data is the
	// caller's: it is copied before Append returns.
	Append(ctx context.Context, s Stream, p *Publication) (Ack, error)

	// Send hands an uncaptured message to the transport, in the order of the calls.
	Send(ctx context.Context, p *Publication) error

	// Flush returns when all that was sent before it and comes back to this process has been given to the sinks.
	Flush(ctx context.Context) error

	// Listen gives sink every sent message that matches pattern, in order, until stop. It
	// returns when what is sent from then on arrives. The driver calls it once per pattern.
	Listen(ctx context.Context, pattern string, sink Sink) (stop func(), err error)

	// Tail gives sink everything that the stream stores after a sequence, in order, until
	// stop; it survives a lost connection. It calls sink.End when the stream's epoch is another one.
	// What limits discard first is missing, which shows in Entry.Prev.
	Tail(ctx context.Context, s Stream, after uint64, sink Sink) (stop func(), err error)

	// Read returns stored messages, oldest first.
	Read(ctx context.Context, s Stream, q Query) (Batch, error)

	// Seek returns the sequence after which a start position begins: the last q.N of all
	// that match up to q.UpTo (0 when there are fewer), or those stored at or after q.Since (q.UpTo when there are none).
	Seek(ctx context.Context, s Stream, q Query) (after uint64, err error)

	// LastPerSubject returns the last message up to q.UpTo of each subject that matches, in the stream's order.
	LastPerSubject(ctx context.Context, s Stream, q Query) ([]*bus.Message, error)

	// Interrupt ends the running calls of Append and Send with ErrClosed, wrapped in
	// ErrUnknownOutcome where that is so. It doesn't wait, and later calls are as before.
	Interrupt()

	// Close releases everything. It comes last, once, when no other call runs.
	Close() error
}

// Remover is a Backend that can delete streams.
type Remover interface {
	// Remove deletes a stream and ends its tails. It is ErrNotCaptured when there is none.
	Remove(ctx context.Context, stream string) error
}

// Limits is what a backend can take.
type Limits struct {
	MaxPayload int // bytes of data and header together, as HeaderSize counts them
	// StoredSize is how many bytes a message takes of a stream's MaxBytes.
	StoredSize func(subject string, header bus.Header, data []byte) int64
}

// Stream is one life of a stream.
type Stream struct {
	Config bus.StreamConfig
	Epoch  string
}

// State is what a stream holds.
type State struct {
	Epoch       string
	First, Last uint64 // First is Last+1 when it is empty
	Msgs, Bytes uint64
	Dense       bool // nothing between First and Last is missing
}

// Publication is a message on its way out. It isn't modified.
type Publication struct {
	Subject    string
	Header     bus.Header
	Data       []byte
	ID         string
	Expect     bool
	ExpectLast uint64 // 0: none of the subject
}

// Ack says where a message was stored.
type Ack struct {
	Sequence  uint64 // 0 when Duplicate and not known any more
	Duplicate bool
}

// Query says what to read.
type Query struct {
	After    uint64 // only what is behind
	UpTo     uint64
	Pattern  string
	MaxMsgs  int // of a batch, at least 1
	MaxBytes int // of a batch; one message always fits
	N        int
	Since    time.Time
}

// Batch is what Read returns. Its messages are the driver's.
type Batch struct {
	Messages []*bus.Message
	Through  uint64 // complete up to here; less than the stream's last when there is more
	Holes    []Hole // ascending; what was discarded between Query.After and Through, but not by a limit per subject. False alarms are allowed
}

// Hole says that something between two sequences is gone.
type Hole struct{ After, Before uint64 }

// Entry is a message of a stream or an uncaptured one.
type Entry struct {
	Message *bus.Message // never modified any more
	Prev    uint64       // the sequence before it in the stream's log, whether it is still held or not
}

// Sink takes what a backend receives. Its methods don't block. They are called one at a time.
type Sink interface {
	Deliver(entries ...Entry)
	Lost()         // of Listen: a connection was lost, and with it an unknown number of messages
	End(err error) // of Tail: it has ended by itself
}

// ErrNotCaptured is returned by backends: the stream isn't there or doesn't capture the
// subject. The driver looks again at what captures it.
var ErrNotCaptured = errors.New("not captured by this stream")

// ErrEpoch is returned by backends: the stream's epoch isn't the one that was asked for.
var ErrEpoch = errors.New("the stream has another epoch")

// Config is how New connects a backend.
type Config struct {
	bus.OpenOptions

	// Sole says that nobody but this bus uses what the backend holds, so that the driver needn't ask where
	// a stream ends, and can share messages in groups by itself. Volatile adds that streams end with the bus, so that it can keep
	// the positions of durable groups, too. A Grouper needs neither.
	Sole, Volatile bool

	// Gate, if not nil, decides when what waits for a subscription is handed over. It is
	// called for each subscription, with its pattern; it returns ready, which the
	// subscription calls (without blocking) when something waits and nothing did before, and
	// leave, which ends it. Some time after ready the backend calls release.
	Gate func(pattern string, release func()) (ready, leave func())
}
