package bus

import "time"

// StreamConfig describes a stream. The zero value of a limit means no limit. When a
// limit is exceeded, the oldest messages go first.
type StreamConfig struct {
	// Name is made of ASCII letters, digits, '-' and '_', at most 64.
	Name string

	// Subjects are the patterns that the stream captures, at least one; none may overlap
	// another one of this or any other stream.
	Subjects []string

	MaxMsgs           int64         // messages in all
	MaxBytes          int64         // bytes in all, as the backend counts them
	MaxAge            time.Duration // from the time of storing; to the second, at least one second
	MaxMsgsPerSubject int64         // messages of each subject; 1 makes the stream a table of last values

	// Duplicates is how long a message ID is remembered: 30 s if zero, at least 100 ms,
	// and no longer than MaxAge. It is also when limits have discarded the message, as long as the store is open; a
	// backend may forget the ID of such a message when it is opened again, and then says so, as natsbus does. Where
	// that must not store a message twice, let the limits hold what comes within Duplicates.
	Duplicates time.Duration
}

// StreamInfo is the state of a stream.
type StreamInfo struct {
	Config StreamConfig
	First  Cursor // of the oldest message; zero when the stream is empty
	Last   Cursor // of the newest message that was ever stored in this epoch; zero when there was none
	Msgs   uint64
	Bytes  uint64
}
