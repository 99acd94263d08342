package driver

import (
	"context"
	"errors"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Backend moves bytes. Its methods are called concurrently, with valid arguments, never with a lock
// held that a sink takes, so that sinks may be called with the backend's own locks held. Errors
// wrap the sentinels of package bus (ErrUnavailable, ErrForbidden); the driver adds the operation
// and the subject. Every call ends when its context does. Whoever is asked about a Stream looks at
// its epoch, too: Append answers ErrNotCaptured if it is another one, the others ErrEpoch.
// docs/backends.md goes through all of it with an example.
type Backend interface {
	// Limits are fixed while the bus is open.
	Limits() Limits

	// Streams lists the streams of the bus with what they capture, as of a moment during the call.
	// A stream that exists but can't be asked now is listed all the same, as Unknown. New asks it
	// first.
	Streams(ctx context.Context) ([]Stream, error)

	// State is what a stream holds now, as its leader knows it: Last counts everything that Append
	// has acknowledged before the call. It is ErrNotCaptured when there is no such stream.
	State(ctx context.Context, stream string) (State, error)

	// Ensure creates the stream or gives it the fields of cfg, which is valid and has its defaults
	// filled in. New limits have acted when it returns. It is called from one goroutine at a time,
	// and only when something differs; against other processes it is atomic, ErrStreamOverlap when
	// another stream got there first.
	Ensure(ctx context.Context, cfg bus.StreamConfig) error

	// Append stores a message, first looking at its ID, then at what it expects (ErrConflict), in
	// one step. It returns when the message is stored and the stream's limits let it stand, or
	// ErrNotCaptured when the stream doesn't capture the subject any more. An error means that
	// nothing was stored and never will be, unless it is also ErrUnknownOutcome. p.Data is the
	// caller's: it is copied before Append returns.
	Append(ctx context.Context, s Stream, p *Publication) (Ack, error)

	// Send hands an uncaptured message to the transport, in the order of the calls. Errors and
	// p.Data are as in Append.
	Send(ctx context.Context, p *Publication) error

	// Flush returns when all that was sent before it and comes back to this process has been given
	// to the sinks.
	Flush(ctx context.Context) error

	// Listen gives sink every sent message that matches pattern, in order, until stop. It returns
	// when what is sent from then on arrives. The driver calls it once per pattern. What streams
	// capture may come, too: the driver drops it. stop may be called twice, and even after Close;
	// what still comes then is dropped.
	Listen(ctx context.Context, pattern string, sink Sink) (stop func(), err error)

	// Tail gives sink everything that the stream stores after a sequence, once and in order, until
	// stop; it survives a lost connection. It may begin before it returns. It calls sink.End when
	// the stream is gone or has another epoch, or when it can't go on where it was: the driver then
	// tails anew, and reads what came in between. What limits discard first is missing, which shows
	// in Entry.Prev. The driver has one tail per stream, and has just asked for the State whose
	// Last is after.
	Tail(ctx context.Context, s Stream, after uint64, sink Sink) (stop func(), err error)

	// Read returns stored messages that match q.Pattern, behind q.After and up to q.UpTo, oldest
	// first.
	Read(ctx context.Context, s Stream, q Query) (Batch, error)

	// Seek returns the sequence after which a start position begins: if q.Since isn't zero, that of
	// the messages stored at or after it (q.UpTo when there are none), otherwise that of the last
	// q.N of all that match up to q.UpTo (0 when there are fewer).
	Seek(ctx context.Context, s Stream, q Query) (after uint64, err error)

	// LastPerSubject returns the last message up to q.UpTo of each subject that matches, in the
	// stream's order.
	LastPerSubject(ctx context.Context, s Stream, q Query) ([]*bus.Message, error)

	// Interrupt ends the running calls of Append and Send with ErrClosed, wrapped in
	// ErrUnknownOutcome where that is so. It doesn't wait, and later calls are as before. Where
	// nothing but a disk is waited for, it does nothing.
	Interrupt()

	// Close releases everything. It comes last, once. A publish by a handler that outlives the bus
	// may come even later and gets ErrClosed.
	Close() error
}

// Finder is a Backend that may list streams as Unknown without hindering what they don't concern.
type Finder interface {
	// Find names the streams that may capture something that pattern matches, Unknown ones included.
	Find(ctx context.Context, pattern string) ([]string, error)
}

// Remover is a Backend that can delete streams.
type Remover interface {
	// Remove deletes a stream and ends its tails. It is ErrNotCaptured when there is none.
	Remove(ctx context.Context, stream string) error
}

// Appender is a Backend that can have many messages on their way to a stream. Where an Append waits for nothing but a disk,
// that wins nothing.
type Appender interface {
	// AppendAll stores messages at the end of a stream, in their order and with nothing in between, if after is its Last:
	// otherwise it is ErrConflict, before anything is stored. It returns the sequences of what is stored. When that isn't
	// all, the error is that of the first that isn't, as of Append, and nothing behind that one is stored or ever will be;
	// with ErrUnknownOutcome more may be than is returned.
	AppendAll(ctx context.Context, s Stream, after uint64, ps []Publication) (sequences []uint64, err error)
}

// Pipeliner is a Backend that takes the next message before it has stored the last one.
type Pipeliner interface {
	// AppendAsync is Append that doesn't wait. Messages of one stream are stored in the order of the calls, unless they
	// are refused. p.Data is copied before it returns; done is called once, before that or from another goroutine,
	// which it doesn't block. Interrupt ends what is on its way.
	AppendAsync(s Stream, p *Publication, done func(Ack, error))
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

	// Unknown, if not "", says why only Config.Name is known for now. The driver goes on with what it knew of the
	// stream before. If it has never known it, what the stream may capture waits until it does.
	Unknown string
}

// State is what a stream holds.
type State struct {
	Epoch       string
	First, Last uint64 // First is Last+1 when it is empty; Last doesn't go back
	Msgs, Bytes uint64
	Dense       bool // nothing between First and Last is missing; saves reads, and may always be false
}

// Publication is a message on its way out. It isn't modified. All but Data may be kept.
type Publication struct {
	Subject    string
	Header     bus.Header // nil when there is none
	Data       []byte
	ID         string // "": none
	Expect     bool   // that ExpectLast is the sequence of the subject's last message
	ExpectLast uint64 // 0: that the stream holds none of the subject
}

// Ack says where a message was stored.
type Ack struct {
	Sequence  uint64 // 0 when Duplicate and not known any more
	Duplicate bool
	Stream    *Stream // that has stored it, where another one captures the subject now; nil: as it was asked for
}

// Query says what to read.
type Query struct {
	After    uint64 // of Read: only what is behind
	UpTo     uint64 // nothing behind it counts; of Read: higher than After
	Pattern  string
	MaxMsgs  int       // of Read: how long a batch may be, at least 1
	MaxBytes int       // of Read: about how large; one message always fits
	N        int       // of Seek
	Since    time.Time // of Seek
}

// Batch is what Read returns. Its messages are the driver's, which marks them as replayed; their
// data may be shared.
type Batch struct {
	Messages []*bus.Message

	// Through is up to where the batch is complete: Query.UpTo, or less when there is more. It is
	// higher than Query.After also when nothing matches, and may be higher than UpTo when all of
	// that is gone.
	Through uint64

	// Holes, ascending, are what was discarded between Query.After and Through, matching or not,
	// but not by a limit per subject. False alarms are allowed, missing ones are not.
	Holes []Hole
}

// Hole says that something between two sequences, which may still be there themselves, is gone.
type Hole struct{ After, Before uint64 }

// Entry is a message of a stream or an uncaptured one.
type Entry struct {
	// Message is never modified any more, and kept as long as the driver likes. A stream's has its
	// Cursor and its Time, which doesn't go back within the stream; the capacity of its data is its
	// length.
	Message *bus.Message

	// Prev is the sequence before it in the stream's log, whether it is still held or not: that
	// number is how the driver sees that something is missing, so too low a one loses messages
	// without a word. Where no numbers are skipped, it is the message's sequence minus one.
	Prev uint64
}

// Sink takes what a backend receives. Its methods don't block and are called one at a time.
type Sink interface {
	// Deliver takes entries in order. It doesn't keep the slice.
	Deliver(entries ...Entry)
	Lost()         // of Listen: a connection was lost, and with it an unknown number of messages
	End(err error) // of Tail: it has ended by itself; nothing comes after it
}

// ErrNotCaptured is returned by backends: the stream isn't there or doesn't capture the subject.
// The driver looks again at what captures it.
var ErrNotCaptured = errors.New("not captured by this stream")

// ErrEpoch is returned by backends: the stream's epoch isn't the one that was asked for.
var ErrEpoch = errors.New("the stream has another epoch")

// Config is how New connects a backend.
type Config struct {
	bus.OpenOptions

	// Sole says that nobody but this bus uses what the backend holds, so that the driver needn't
	// ask where a stream ends, and can share messages in groups by itself. Volatile adds that
	// streams end with the bus, so that it can keep the positions of durable groups, too. A Grouper
	// needs neither.
	Sole, Volatile bool

	// Gate, if not nil, decides when what waits for a subscription is handed over. It is called for
	// each subscription, with its pattern; it returns ready, which the subscription calls (without
	// blocking) when something waits and nothing did before, and leave, which ends it. Some time
	// after ready the backend calls release.
	Gate func(pattern string, release func()) (ready, leave func())
}
