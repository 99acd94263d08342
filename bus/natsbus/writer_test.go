package natsbus_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// writeURL makes this program a child that works on a bus, and records in writeLog what it was told is done. What it
// does is writeTask: "run" until it is killed, "change" streams while it does, "stop" after a while and then wait, "fill" the disk until it
// refuses something and then wait, or only "open".
const (
	writeURL  = "JITNEY_TEST_WRITE_URL"
	writeLog  = "JITNEY_TEST_WRITE_LOG"
	writeTask = "JITNEY_TEST_WRITE_TASK"
)

const writers = 64

// written are the streams of the writers: plain, with few bytes (so that old files go), with one message for each
// subject (so that old files are written anew), and with IDs and expected messages.
var written = []bus.StreamConfig{
	{Name: "PLAIN", Subjects: []string{"plain.*"}},
	{Name: "BYTES", Subjects: []string{"bytes.*"}, MaxBytes: 2 << 20},
	{Name: "LAST", Subjects: []string{"last.*"}, MaxMsgsPerSubject: 1},
	{Name: "CHAIN", Subjects: []string{"chain.*"}, Duplicates: 2 * time.Minute},
}

// writer is the child.
type writer struct {
	bus bus.Bus
	log *os.File
}

func write(url string) {
	ctx := context.Background()
	log, err := os.OpenFile(os.Getenv(writeLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(err)
	b, err := bus.Open(ctx, url)
	must(err)
	w := &writer{b, log}
	switch os.Getenv(writeTask) {
	case "open":
	case "fill":
		must(b.EnsureStreams(ctx, written[0]))
		var r bus.Receipt
		for n := 1; b.Publish(ctx, "plain.0", fmt.Appendf(nil, "%d%s", n, strings.Repeat(" ", 30<<10)), bus.WithReceipt(&r)) == nil; n++ {
			w.record("published plain.0 %d %s", n, r.Cursor)
		}
	case "stop":
		must(b.EnsureStreams(ctx, written...))
		for i := range written {
			var last bus.Cursor
			for n := 1; n <= 500; n++ {
				last = w.publish(ctx, i, n, last)
			}
		}
		must(b.Close(ctx))
	default:
		must(b.EnsureStreams(ctx, written...))
		for i := range writers {
			go func() {
				var last bus.Cursor
				for n := 1; ; n++ {
					last = w.publish(ctx, i, n, last)
				}
			}()
		}
		if os.Getenv(writeTask) == "change" {
			go w.change(ctx)
		}
	}
	w.record("done")
	select {}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// record appends a line with the time.
func (w *writer) record(format string, args ...any) {
	_, err := fmt.Fprintf(w.log, "%d %s\n", time.Now().UnixMilli(), fmt.Sprintf(format, args...))
	must(err)
}

// publish publishes the n-th message of writer i behind the cursor last.
func (w *writer) publish(ctx context.Context, i, n int, last bus.Cursor) bus.Cursor {
	kind := i % len(written)
	subject := fmt.Sprintf("%s.%d", strings.ToLower(written[kind].Name), i)
	data := fmt.Appendf(nil, "%d", n)
	var r bus.Receipt
	options := []bus.PublishOption{bus.WithReceipt(&r)}
	switch written[kind].Name {
	case "BYTES":
		data = append(data, strings.Repeat(" ", 3000)...)
	case "CHAIN":
		options = append(options, bus.MessageID(fmt.Sprint(subject, "/", n)), bus.ExpectLast(last))
	}
	if err := w.bus.Publish(ctx, subject, data, options...); err != nil {
		panic(fmt.Errorf("message %d behind %s: %w", n, last, err))
	}
	w.record("published %s %d %s", subject, n, r.Cursor)
	return r.Cursor
}

// change creates streams, publishes in them, removes them again, and gives one a new config.
func (w *writer) change(ctx context.Context) {
	for n := 1; ; n++ {
		name := fmt.Sprint("NEW", n)
		must(w.bus.EnsureStreams(ctx, bus.StreamConfig{Name: name, Subjects: []string{strings.ToLower(name)}}))
		w.record("created %s", name)
		must(w.bus.Publish(ctx, strings.ToLower(name), []byte("1")))
		w.record("first %s", name)
		config := written[0]
		config.MaxMsgs = int64(1e6 + n)
		must(w.bus.EnsureStreams(ctx, config))
		w.record("updated %d", config.MaxMsgs)
		if n > 3 {
			name := fmt.Sprint("NEW", n-3)
			w.record("removing %s", name)
			must(w.bus.(bus.Remover).RemoveStream(ctx, name))
			w.record("removed %s", name)
		}
	}
}
