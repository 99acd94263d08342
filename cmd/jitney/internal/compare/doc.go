// Package compare is jitney's subcommand that gives several buses the same chat and shows side by side
// what it comes to.
//
// # The chat
//
// There are tabs, each of which looks at a room: it has subscribed to the room with its last 50 messages
// and does what a page of package ui does. The handler appends a message and asks for a render. The
// newest state is rendered at once when the page was idle, else 10 ms after the last time; not while a
// handler of the page runs; and no more pages at a time than there are CPUs. Rendering puts together the
// HTML of the 50 messages.
//
// Robots speak, at the same times and in the same rooms on each bus. What they say is JSON. Tabs, robots, and the bus if it is embedded, are one process, which is started for
// this bus alone; buses are measured one after the other, so that none disturbs another. It goes
// through four phases:
//
//	conversation  -rate messages per second at random times, for as long as -d says
//	burst         everybody at once: ten times the rate, for a third of -d, and pages are expensive: to render
//	              one takes about the CPU time that -render says, the same work on each bus
//	flood         16 robots speak as soon as what they have said is acknowledged, for a third of -d, or
//	              until they have published 20,000 messages (fewer if those are 10 million deliveries)
//	kill          4 robots do so in a process that is killed (SIGKILL); then another one opens
//	              the bus and looks for what was acknowledged
//
// Of a server elsewhere only the client is killed; what it has acknowledged is the server's then.
//
// # The figures
//
//	publish to handler   from the call of Publish to the call of the handler, of each delivery
//	publish to rendered  to the end of the render that is the first to show it
//	renders              of those that show something new
//	saved by coalescing  1 - renders / deliveries
//	deliveries per second  from the first publish to the last delivery
//	CPU per message      what the process used, user and system, divided by the messages published, each of
//	                     which is stored, delivered to all tabs of a room, decoded and rendered
//	memory               of the process after the burst: heap and stacks in use, and the most that it
//	                     has had resident, where the system tells
//	missing, repeated    deliveries that the contract promises and that didn't come, or came twice
//
// Quantiles are nearest-rank ones of all deliveries of a phase. Replays, which fill the pages at first, aren't counted.
//
// # The JSON
//
// With -json, one object is written to standard output, and nothing else:
//
//	system   os, arch, cpus, go
//	load     rooms, tabs, rate, burst_rate, conversation_ns, burst_ns, flood_ns and flood_messages (at the most), render_ns,
//	         effort (how often a page of the burst is hashed to cost that), seed
//	buses    for each -bus: bus (without secrets), elsewhere (a server that isn't killed), and
//	         conversation, burst, flood: messages (acknowledged), refused, deliveries, missing, repeated, renders,
//	             renders_saved (0 to 1), took_ns, deliveries_per_second, cpu_ns, cpu_per_message_ns,
//	             publish_to_handler and publish_to_rendered: p50_ns, p99_ns, max_ns, and bins, a histogram
//	             of those that aren't empty: to_ns (the upper bound; 20 to a power of ten), count
//	         memory: live_bytes, peak_bytes (not there where the system doesn't tell)
//	         kill: acknowledged, lost
//	         problems (what the bus reported and which publishes failed, the first few, not there if empty)
//	         error (why the bus couldn't be measured to the end; then what is missing wasn't)
//	verdict  sentences about the figures: what differs
//	waiting  sentences on whether the buses that deliver later are better for it in the burst
package compare
