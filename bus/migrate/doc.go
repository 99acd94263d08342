// Package migrate moves a running program from one bus to another, in steps that can be taken back. It
// needs nothing but package bus and the list of streams ([bus.StreamLister]), so it works between any two backends; where the
// new one is a [bus.Appender], a Bridge needn't wait for each message.
//
//   - [Tee] is a bus that writes to two and reads the old one. The program runs as before, and the new bus gets
//     the same load.
//   - [Shadow] subscribes to both and compares what subscribers get: missing, extra, late, reordered.
//   - [Bridge] copies what streams hold, follows them, and cuts over: exactly once, however often it is
//     killed. Command jitney bridge does the same from a shell.
//
// A stream of the new bus is written by a Tee or by a Bridge, not by both: a Tee begins with what is
// published from now on, a Bridge brings the past along and works between processes.
//
// # What doesn't move
//
// Cursors are a bus' own. One of the old bus that is handed to the new one (bus.After) is told as one
// bus.ErrGap, and what the new stream holds follows from its start: no cursor is silently taken for another place. Message
// IDs are forgotten, and durable groups begin on the new bus where their first subscription says.
package migrate
