// Package bus is a small message bus with backends that one plugs in at start-up.
//
// A program publishes messages on subjects and subscribes to patterns of subjects.
// Subjects that should outlive the moment are captured by streams: named, bounded,
// ordered logs from which a subscription can replay before it goes on live, without
// a gap, a repeat or a reordering.
//
//	b, err := bus.Open(ctx, "nats:./data/chat") // or "mem:?tick=100ms"
//	err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 1000})
//	_, err = b.Subscribe(ctx, "chat.room.Go", handler, bus.Last(50))
//	err = b.Publish(ctx, "chat.room.Go", []byte("hello"))
//
// # Words
//
// A subject is made of dot-separated tokens: chat.room.Go. Tokens are non-empty valid
// UTF-8 without white space, control characters, '*' or '>'; a subject has at most 255
// bytes. A first token that starts with '$' or '_' is reserved for backends.
//
// A pattern is a subject in which '*' stands for exactly one token and a last '>' for
// one or more. Neither matches a reserved first token.
//
// A stream captures every message whose subject matches one of its patterns. No two
// streams of a bus may capture the same subject. A pattern is captured when one stream
// captures every subject that it can match.
//
// A cursor says where a message stands in its stream: see [Cursor].
//
// # What is promised
//
// The doc comments of [Bus] and [Subscription] are the contract. Package bustest checks
// it against any backend; what a backend adds or lacks is in its own package comment.
// Between captured and uncaptured subjects, and across streams, no order is promised.
//
// # Backends
//
// A backend registers a URL scheme when its package is imported, as database/sql
// drivers do. What only some backends can do is a small optional interface, found by
// type assertion: [StreamLister], [HealthChecker], [Remover], [Appender], [AsyncPublisher]. An option that a backend lacks is
// [ErrUnsupported], naming it. To write one, start at docs/backends.md and package bus/driver.
package bus
