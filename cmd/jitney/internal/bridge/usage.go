package bridge

const usage = `Usage: %s -from URL -to URL [-streams NAMES] [flags]

Copies streams from one bus to another, in their order and each message once, and then reads both
ends and compares them. It can be killed and run again: it goes on where it was, as each copy says
what it is a copy of. So it can also be run ahead of time, and again for the rest.

Move the store of a stopped program into another directory, or to a server:

  jitney bridge -from nats:./data/chat -to nats:/srv/chat
  jitney bridge -from nats:./data/chat -to nats://host:4222 -streams CHAT

The same while the program runs, which listens for that (nats:./data/chat?listen=127.0.0.1:4222).
Run it twice: the second time, when the program is stopped, only the rest is left.

  jitney bridge -from nats://127.0.0.1:4222 -to nats://host:4222
  jitney bridge -from nats:./data/chat      -to nats://host:4222

From one server to another, such as one of a cluster, without a break for readers. When it has
caught up, stop the programs that publish, press Ctrl-C, and start them on the new server as soon
as it says that both ends are the same:

  jitney bridge -from nats://old:4222 -to nats://new:4222 -streams CHAT -follow

A stream that -to lacks is made, with the limits of -from. One that is there must hold nothing but
copies from -from. Nobody else publishes to it until it is cut over. Copies have two more headers,
Bridge-Source and Bridge-Time, the time when the first bus stored the message. Positions of durable
groups and message IDs don't move; a subscriber with a cursor of the old bus is told one gap, and
reads the new stream from its start. Programs in memory (mem:) use migrate.Bridge themselves.

The summary goes to standard output, all else to standard error. Exit status: 0 if both ends hold the
same, 1 if they don't or that couldn't be found out, 2 if nothing was copied, as an argument is wrong
or a bus can't be opened.

`
