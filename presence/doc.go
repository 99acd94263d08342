// Package presence tells who is here: the members of rooms, over all processes that share a bus.
//
//	here, err := presence.Open(ctx, b, "here")
//	defer here.Close(ctx)
//
//	visit, err := here.Join(tab, "Go", presence.Member{ID: user, Name: "Brisk Fox"}, changed)
//	visit.List() // everybody in the room, wherever they have joined
//	visit.Leave()
//
// In a page of package ui each tab joins; the membership ends with the tab, and the list is
// rendered again when it changes:
//
//	visit, err := here.Join(c.Context(), room, me, c.Sync)
//
// # Members
//
// A member is known by its ID. Two tabs of one ID, in one process or in two, are one member, who
// leaves when the last of them has. If their names differ, the latest join's is shown, as far as the
// clocks of the processes agree.
//
// A leave is told after a grace (see [Grace]). Who joins again within it, here or in another
// process, has never left: nobody is told anything. That covers a tab that is reloaded or
// reconnects and, as [Rooms.Close] says goodbye under the same grace, a process that is replaced.
//
// # How it works
//
// Each room that somebody here has joined or watches is one subject, one subscription and one goroutine; the
// tabs of a process share it. The process tells the others what changes among its own members,
// at most ten times a second, and every two seconds (see [Every]) in about 75 bytes that it is still there and which
// state of its members holds (go test ./presence -run Traffic -v). Who opens a room, or has missed something, asks, and is answered with whole lists.
// Answers are coalesced, and spread over 2 ms for each process in the room.
//
// A process that crashes says no goodbye: its members are gone 6.5 seconds (3.25 times Every) after the last that
// was heard of it. So an outage of the bus that is longer makes each process see its own
// members only, and a few seconds after the outage everybody again.
//
// # Limits
//
// A room has at most 100,000 members and 4,096 processes; see [Member] for sizes. A list is sent in
// messages of about 32 KiB; up to 32 MiB of others' wait to be read. A thousand processes in one room tell each other a thousand times
// as much as one does: rooms are for people, not for fleets.
//
// The subjects must not be captured by a stream, which would fill up with greetings. What arrives
// is checked, but not who sent it: whoever may publish on the prefix can claim
// that anybody is here. That is a list to show, and no permission.
package presence
