// Package natsbus is a bus on NATS: an embedded server with JetStream in this process, or
// a client of a server elsewhere. Import it for its URL scheme:
//
//	b, err := bus.Open(ctx, "nats:./data/chat")   // embedded, stores in ./data/chat
//	b, err := bus.Open(ctx, "nats:")              // embedded, stores in ./data/nats
//	b, err := bus.Open(ctx, "nats://user:password@host:4222")
//
// # The embedded server
//
// It is reached through memory and listens on nothing, unless the URL says
// ?listen=127.0.0.1:4222; beyond loopback that needs &token=SECRET, which clients then give.
// Its directory is private to the user and belongs to one process at a time: a second one
// is bus.ErrLocked. (The server itself would let both in, and they would lose each other's messages.)
//
// # What is acknowledged
//
// A publish on a captured subject returns when the stream has written the message to its
// file. That survives a kill of the process. What survives a crash of the machine is chosen by
// the URL of an embedded server, or Config.Sync: with ?sync=100ms, the default, files are synced every 100 ms,
// so that the last messages may be lost; with ?sync=fast every two minutes, as is JetStream's default; with
// ?sync=always a publish returns when the disk has the message (one sync of the stream's files serves all who wait; on Windows
// the server syncs each message). New streams and what a closed bus leaves are synced in each case.
// On a server elsewhere it is as that server is configured.
//
// When the disk is full, publishing is bus.ErrUnavailable at once, naming the file, and Health says so. The
// store is opened again in place as soon as there is room; nothing that was acknowledged is lost.
//
// # Streams
//
// There is one consumer at the server per stream that this process subscribes to, however
// many subscriptions there are, and none that outlives the bus by more than 30 seconds.
// Streams that others created can be used as well; those without direct access (allow_direct) are read message
// by message. An epoch is the time of a stream's creation and, where the server is embedded, how often
// the stream has lost its end since: by damage, or perhaps by a crash of the machine. Streams that other processes
// create or delete are noticed within a second.
//
// A message has at most 1 MiB, header included, on the embedded server, and elsewhere what that server allows, less 4 KiB for
// the headers of NATS itself, which handlers don't see. A group is a pull consumer: a durable one has
// the group's name, and what a process that dies was handling is given to another one after 5 s. The processes of
// one that isn't durable hear each other on _INBOX.jitney-group.STREAM.CONSUMER, which a user with permissions must be allowed.
//
// What a server elsewhere doesn't let its user publish is bus.ErrForbidden on captured
// subjects; on others the server says so later, and the error hook of the bus is told.
package natsbus
