// Package natsbus is a bus on NATS: an embedded server with JetStream in this process, alone, as a member of a cluster
// or as a leaf of one, or a client of a server elsewhere. Import it for its URL scheme:
//
//	b, err := bus.Open(ctx, "nats:./data/chat")   // embedded, stores in ./data/chat
//	b, err := bus.Open(ctx, "nats:")              // embedded, stores in ./data/nats
//	b, err := bus.Open(ctx, "nats://user:password@host:4222")
//
// # The embedded server
//
// It is reached through memory and listens on nothing, unless the URL says
// ?listen=127.0.0.1:4222. Beyond loopback that needs a token of at least 8 bytes, which clients then give, and a certificate
// (&token-file=FILE&tls-cert=FILE&tls-key=FILE), or tls=off where the network is to be trusted.
// The server's own monitoring over HTTP is off and can't be turned on, as it asks nobody for a token.
// What it makes in its directory is private to the user, and the store belongs to one process at a time: a second one
// is bus.ErrLocked. (The server itself would let both in, and they would lose each other's messages.)
//
// A store that is damaged is mended when it is opened: messages that can't be read are taken out, and the files as they were are
// kept in its directory under damaged/. That is logged, the error hook of the bus is told, Health says it until the bus
// is opened again, and to subscriptions it is bus.ErrGap. A stream that has lost its end begins a new epoch. Of a member of a cluster a damaged
// store is an error of Open that names the file: give the member an empty directory, which the others fill.
//
// # A cluster
//
// Three or more programs, each with an embedded server, that hold together what is stored:
//
//	nats:./data?cluster=chat&member=n1&secret-file=F&route-listen=h1:6222&routes=h1:6222,h2:6222,h3:6222&tls-cert=F&tls-key=F&tls-ca=F
//	nats:./data?cluster=chat&member=n2&secret-file=F&route-listen=h2:6222&routes=h1:6222,h2:6222,h3:6222&tls-cert=F&tls-key=F&tls-ca=F
//	nats:./data?cluster=chat&member=n3&secret-file=F&route-listen=h3:6222&routes=h1:6222,h2:6222,h3:6222&tls-cert=F&tls-key=F&tls-ca=F
//
// A publish returns when more than half of the members that hold the stream have the message: with three, one may die
// and nothing is lost. A stream that the bus creates has three replicas, or &replicas=N. When a leader dies, publishing waits for the
// election of another one, 4 to 12 seconds, and goes on: a message whose outcome isn't known meanwhile is sent again
// under the same ID, within the time of the context (20 s where it has none, and never beyond the stream's duplicate
// window). A member that is cut off from more than half of the others says bus.ErrUnavailable for
// captured subjects, to publishers and new subscribers; what isn't captured goes on. A stop by Close hands over at once.
// Health of a member that has come back is nil when it has what it missed: a rolling restart waits for that before the next one.
//
// All members must be up when the cluster starts for the first time; Open waits for them. A member keeps its name and its directory: a
// store of another member or of a server that stood alone is refused. (A cluster would delete the streams of one that
// did.) To take a store into a cluster, copy it: see package bus/migrate. The members know each other by the secret, and by certificates of
// the authority tls-ca where they listen beyond loopback. Where addresses change, Cluster.Peers finds the members.
//
// # A leaf
//
// An embedded server that stores nothing, of a cluster whose members have &leaf-listen=h1:7422&token-file=F, or of
// another NATS with leaf nodes and a JetStream domain:
//
//	nats:?leaf=h1:7422,h2:7422&domain=chat&leaf-token-file=F&tls-ca=F
//
// Streams are the hub's, all in the one domain that is named, so every program at every leaf sees one and the same log;
// a domain of its own at the edge would be another log under the same subjects. While the hub is away captured subjects are bus.ErrUnavailable; what
// isn't captured goes on between those who are at the leaf. A program that must store while it is cut off stands
// alone, and passes on what it has stored: bus/migrate follows one bus and writes another. The domain of a cluster
// made of this package is its name.
//
// # A client
//
// Of a server elsewhere, with what it wants to know:
//
//	nats://user@h1:4222?password-file=F       (or user:password@)
//	nats://h1:4222?token-file=F               (or token@)
//	nats://h1:4222?nkey=F                     a file with the seed
//	nats://h1:4222?creds=F                    a file with JWT and seed
//	nats://h1:4222?tls-ca=F                   encrypted; tls-ca=system trusts whom the machine does
//	nats://h1:4222?tls-cert=F&tls-key=F&tls-ca=F
//	nats://h1:4222?servers=h2:4222,h3:4222    others to try at the start
//	nats://h1:4222?replicas=3                 of the streams that are created here; 1 by default
//	nats://h1:4222?domain=hub                 another JetStream domain than the server's
//
// Each token, password and secret can be given as such, as NAME-file (a file that holds it) or as NAME-env (a variable
// of the environment): a command line is seen by all users of a machine. bus.Redacted hides them. Certificates are read again at each
// connect. What a URL can't say, Config and Client can: a tls.Config, a function that signs, one that finds the members.
//
// # What is acknowledged
//
// A publish on a captured subject returns when the stream has written the message to its
// file. That survives a kill of the process. What survives a crash of the machine is chosen by
// the URL of an embedded server, or Config.Sync: with ?sync=100ms, the default, files are synced every 100 ms,
// so that the last messages may be lost; with ?sync=fast every two minutes, as is JetStream's default; with
// ?sync=always a publish returns when the disk has the message (one sync of the stream's files serves all who wait; on Windows, and
// where others can reach the server by ?listen= or ?leaf-listen=, it syncs each message, for them as well). New streams and what a closed bus leaves are synced in each case.
// In a cluster the level is the server's own on each member: with ?sync=always all that acknowledge have synced.
// With less, members compare what they hold after a crash of their machines (on Linux), and what differs is made anew.
// On a server elsewhere it is as that server is configured.
//
// What is stored has a hash. Files are checked before the server opens them, and then in rounds of a day while it runs, or with
// ?scrub=1h of an hour (off: not at all); what is damaged is taken out and told as bus.ErrGap, to the bus's hook and
// those who read there, and by Health.
//
// When the disk is full, publishing is bus.ErrUnavailable at once, naming the file, and Health says so. The
// store is opened again in place as soon as there is room; nothing that was acknowledged is lost. Where others can reach the server (?listen=,
// ?leaf-listen=) it is started anew for that, as a server that opens its store in place says meanwhile that nothing is captured: they, and this process, connect again. A member of a cluster
// leaves it to the others until then; its own server is then started anew, on Linux by itself; elsewhere the program must be restarted.
//
// # Streams
//
// There is one consumer at the server per stream that this process subscribes to, however
// many subscriptions there are, and at most four more while somebody reads a long past; none outlives the bus by more
// than 30 seconds. Streams that others created can be used as well; those without direct access (allow_direct) are
// read message by message until such a consumer does it. What is published without waiting (bus.AsyncPublisher) is
// stored as it comes, in a cluster one message after the other. An epoch is the time of a stream's creation and, where the server is embedded, how often
// the stream has lost its end since, or when: by damage, or perhaps by a crash of the machine or its file system, in a cluster of more than half of the machines. The
// end that a server elsewhere has lost is noticed by those who were subscribed, if one server holds the stream.
// Clients see the same epoch, by the stream's metadata (jitney-life), which is written again when somebody's config leaves it out. Streams that other processes
// create, change or delete are noticed within a second, as long as the servers that know of it can be reached. What a stream may capture
// whose leader is being elected, and whose subjects aren't known here, waits for it. So every process had best call EnsureStreams itself.
//
// Append (bus.Appender) stores atomic batches, of which a stream holds all or nothing, and sets allow_atomic of the stream
// for them. A server before 2.12 doesn't know them: there it waits for each message.
//
// Message IDs are remembered by the server, which reads them again from the messages that a stream holds when it starts. So the ID of a message
// that limits have discarded is forgotten at a restart, also within StreamConfig.Duplicates: published again under it,
// the message is stored once more. In a cluster that happens when a member leads that was restarted since. Let the limits hold what comes
// within Duplicates where that matters.
//
// A message has at most 1 MiB, header included, on the embedded server, and elsewhere what that server allows, less 4 KiB for
// the headers of NATS itself, which handlers don't see. A group is a pull consumer: a durable one has
// the group's name, and what a process that dies was handling is given to another one after 5 s. The processes of
// one that isn't durable hear each other on _INBOX.jitney-group.STREAM.CONSUMER, which a user with permissions must be allowed.
//
// What a server elsewhere doesn't let its user publish is bus.ErrForbidden on captured
// subjects; on others the server says so later, and the error hook of the bus is told.
package natsbus
