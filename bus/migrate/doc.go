// Package migrate moves a running program from one bus to another, in steps that can be taken back. It
// needs nothing but package bus, so it works between any two backends.
//
//   - [Tee] is a bus that writes to two and reads the old one. The program runs as before, and the new bus gets
//     the same load.
//
// # What a Tee leaves to others
//
// A Tee begins with what is published from now on. Positions of durable groups stay where they are: on the new bus a
// group begins where its first subscription says. A cursor of the old bus that is handed to the new one (bus.After) is
// told as one bus.ErrGap, and what the new stream holds follows from its start: no cursor is silently taken for
// another place.
package migrate
