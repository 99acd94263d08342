// Package membus is a bus in memory: the Rooms that a program starts with, behind the
// interface that it grows into.
//
//	b, err := bus.Open(ctx, "mem:")              // delivered at once
//	b, err := bus.Open(ctx, "mem:?tick=100ms")   // delivered at the next tick
//
// Members of a room are told of what is new at the next tick of the room's clock: what
// was published since the last one waits in one queue per subscription, and a tick hands
// over all of it. That bounds how often a view is rendered, and adds up to a tick of
// latency to each message. With a tick of 0, which is the default, nothing waits for a
// clock. A replay isn't ticked.
//
// # Rooms
//
// Rooms are what the bus stands on, with data: the struct that programs begin with, in place of
// the one that they wrote. A member has a method Sync, and is told to look at its room's
// data when that has changed. Both can be used at once, on one clock: see [Rooms.OpenBus], and
// docs/migrate.md for the way from there.
//
// # What it doesn't do
//
// Streams live in memory: they are gone at Close. One process can't reach another one's
// bus. A message has at most 1 MiB, header included; a stream's bytes are those of
// subjects, headers and data. The positions of durable groups
// end with the bus, as its streams do.
package membus
