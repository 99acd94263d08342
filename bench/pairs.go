package main

import (
	"time"

	"github.com/jitney-go/jitney/bus/natsbus"
)

// pairs is all there is to measure.
var pairs = []pair{
	{
		name: "natsbus/fanout-1000", unit: "deliveries/s", open: openFanout("fanout"),
		about: "1,000 subscriptions of one uncaptured subject; floor: 1,000 of nc.Subscribe on one connection",
	},
	{
		name: "natsbus/fanout-1000-stream", unit: "deliveries/s", open: openFanout("bench.fanout"),
		about: "the same on a captured subject, every publish acknowledged; floor: as before, of an uncaptured subject",
	},
	{
		name: "natsbus/memory-per-sub", unit: "bytes", less: true, open: openMemory,
		about: "heap and stacks that each of 1,000 subscriptions adds; floor: an ordered consumer each",
	},
	{
		name: "natsbus/subscribe-10000", unit: "s", less: true, open: openSubscribe,
		about: "10,000 subscriptions on 10,000 subjects of a stream, one after the other; floor: nc.Subscribe, which has no stream, and one flush",
	},
	{
		name: "natsbus/last50-join-500", unit: "ms", less: true, open: openJoin(false),
		about: "median time to the first message when 500 ask for the last 50 at once; floor: an ordered consumer each, told where to start",
	},
	{
		name: "natsbus/last50-join-500-cold", unit: "ms", less: true, open: openJoin(true),
		about: "the same right after the start of the process",
	},
	{
		name: "natsbus/ack-1", unit: "µs", less: true, open: openLatency,
		about: "median of one goroutine's acknowledged publish; floor: js.Publish",
	},
	{
		name: "natsbus/ack-64", unit: "messages/s", open: openThroughput,
		about: "acknowledged publishes of 64 goroutines; floor: js.Publish",
	},
	{
		name: "natsbus/ack-async", unit: "messages/s", open: openAsync,
		about: "one goroutine's acknowledged publishes, 1,024 on their way at a time; floor: js.PublishAsync with as many",
	},
	{
		name: "natsbus/sync-always-1", unit: "µs", less: true, open: openSyncLatency,
		about: "ack-1 where the disk has what is acknowledged (sync=always); floor: js.Publish to a server with SyncAlways. TMPDIR must be on a disk",
	},
	{
		name: "natsbus/sync-always-64", unit: "messages/s", open: openSyncThroughput,
		about: "ack-64 where the disk has what is acknowledged; floor: as before",
	},
	{
		name: "natsbus/cluster-ack-1", unit: "µs", less: true, open: openCluster(0),
		about: "ack-1 where two of three members must have the message, all on this machine; floor: js.Publish to the same member, over TCP",
	},
	{
		name: "natsbus/cluster-ack-1-fast", unit: "µs", less: true, open: openCluster(natsbus.SyncFast),
		about: "the same with sync=fast",
	},
	{
		name: "natsbus/cluster-ack-1-always", unit: "µs", less: true, open: openCluster(natsbus.SyncAlways),
		about: "the same with sync=always. TMPDIR must be on a disk",
	},
	{
		name: "natsbus/live-p50", unit: "µs", less: true, open: openLive(0.5, time.Second),
		about: "median from publish to handler at 500 messages/s; floor: an ordered consumer's Consume, publisher on its own connection",
	},
	{
		name: "natsbus/live-p99", unit: "µs", less: true, open: openLive(0.99, 2*time.Second),
		about: "the 99th percentile of the same",
	},
	{
		name: "natsbus/replay-100k", unit: "messages/s", open: openReplay,
		about: "all of a stream of 100,000 messages; floor: an ordered consumer's Consume from the first",
	},
	{
		name: "natsbus/start-empty", unit: "s", less: true, open: openStartEmpty,
		about: "from nothing to the first acknowledged publish; floor: server, connection, stream, js.Publish",
	},
	{
		name: "natsbus/start-1m", unit: "s", less: true, open: openStartFull,
		about: "the same on a store of 1,000,000 messages of 1,000 subjects",
	},
	{
		name: "natsbus/slow-one", unit: "deliveries/s", open: openSlow,
		about: "100 subscriptions of a captured subject while one more is blocked; floor: ours without it",
	},
	{
		name: "natsbus/churn-500", unit: "messages/s", open: openChurn,
		about: "one goroutine's acknowledged publishes while 500 subscribers a second come, take the last 50 and go; floor: ours without them",
	},
	{
		name: "migrate/bridge-100k", unit: "messages/s", open: openBridge,
		about: "a stream copied from one server to another, stamped, in order and once; floor: an ordered consumer and js.PublishAsync, which promise neither",
	},
	{
		name: "membus/fanout-1000", unit: "deliveries/s", open: openMemFanout(1000, 64),
		about: "1,000 members of a room in memory; floor: the same ownership by hand, a slice of queues under a mutex",
	},
	{
		name: "membus/publish", unit: "messages/s", open: openMemFanout(1, 4000),
		about: "one publisher to one member in memory; floor: a queue under a mutex",
	},
	{
		name: "membus/one-member", unit: "messages/s", open: openOneMember,
		about: "a million messages a second for ten seconds, without loss; floor: a queue under a mutex. A pair takes 20 s",
	},
	{
		name: "membus/vs-gochannel", unit: "deliveries/s", open: openGoChannel,
		about: "1,000 subscribers who get everything in order; floor: Watermill's GoChannel",
	},
	{
		name: "membus/idle-rooms-10000", unit: "ms of CPU/s", less: true, open: openIdle,
		about: "10,000 rooms with a tick of 100 ms in which nothing happens; floor: a goroutine and a ticker each",
	},
}
