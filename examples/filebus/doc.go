// Package filebus is a bus whose streams are files: the example of docs/backends.md,
// which tells how a backend is written.
//
//	import _ "github.com/jitney-go/jitney/examples/filebus"
//
//	b, err := bus.Open(ctx, "file:./data")
//	b, err := bus.Open(ctx, "file:./data?sync=always")
//
// A stream is one file, NAME.log, to which records are appended; where its messages stand
// is kept in memory, the messages themselves are read from the file. What limits discard
// stays in the file until more than half of it is dead, when the file is written anew.
// Subjects that no stream captures are delivered within the process.
//
// # Durability
//
// Publish returns when the record has been written to the file: it survives the end of
// the process, however it ends. With sync=always it also has been flushed to the disk and
// survives a power cut. Without it a power cut can take the last messages; the streams then
// go on under a new epoch, so that a reader who has seen them is told (bus.ErrGap). Where
// the operating system doesn't tell when it was started (it does on Linux), every end of the
// process without Close counts as a power cut.
//
// A record that is incomplete or wrong at the end of a file is cut off when the store is
// opened, with a warning. After a kill it is one that was never accepted; otherwise
// the stream goes on under a new epoch. A record that is wrong anywhere else makes Open
// fail: what stands behind it was promised to be there.
//
// # What it doesn't do
//
// One process at a time has the directory (bus.ErrLocked); durable groups are
// bus.ErrUnsupported; Windows isn't supported. All messages of a stream are appended one after the other, each
// with a flush of its own if sync=always. Open reads every file from its start. A file that
// was cut by hand exactly between two records isn't noticed.
package filebus
