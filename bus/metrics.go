package bus

import "time"

// Metrics is told what a bus does (see WithMetrics). Its methods are called while a message is on its way: they are quick,
// don't block and are safe for concurrent use. A stream is "" where none holds the message.
type Metrics interface {
	// Published is called at the end of each Publish: bytes are those of the data.
	Published(stream string, bytes int, took time.Duration, err error)

	// Handled is called after each call of a handler. age is the time from when the stream
	// stored the message until the call; 0 for a message that no stream holds, and for a replayed one.
	Handled(stream, pattern string, age, took time.Duration, err error)

	// Dropped is called when messages were dropped since a handler is too slow, before its error hook is told.
	Dropped(pattern string, messages uint64)

	// Subscriptions is called with +1 and -1 as subscriptions begin and end.
	Subscriptions(change int)
}

// WithMetrics has m told what the bus does. The modules metrics/prometheus and metrics/otel have one each.
func WithMetrics(m Metrics) OpenOption {
	return openOption(func(o *OpenOptions) { o.Metrics = m })
}
