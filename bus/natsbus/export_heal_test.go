package natsbus

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// Fail has the server in this process take its store for one that can't be written to until mended is called. Nothing heals it.
func Fail(b bus.Bus) (mended func()) {
	e := b.(*natsBus).backend.node
	set := func(why string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.critical = why
	}
	set("the store can't be written to")
	return func() { set("") }
}

// AnswerLate has commits begin anew, as healing does, and then the answer to a publish come. It returns when nobody
// waits for the disk any more.
func AnswerLate(t *testing.T, b bus.Bus, stream string) {
	t.Helper()
	backend := b.(*natsBus).backend
	backend.commits().forget()
	w := &waiter{told: make(chan answer, 1)}
	token, _ := backend.acks.begin(w, ackTimeout)
	backend.acks.store([]answer{{token: token, stream: stream, ack: driver.Ack{Sequence: 1}}})
	require.ErrorIs(t, (<-w.told).err, bus.ErrUnavailable)
}

// SyncsAlways reports whether the server in this process syncs each message by itself, and whether publishes wait for a sync beside that.
func SyncsAlways(b bus.Bus) (server, commits bool) {
	backend := b.(*natsBus).backend
	return backend.node.server.Load().JetStreamConfig().SyncAlways, backend.commits() != nil
}

// Break has the server in this process open its store again, as after a failed write.
func Break(b bus.Bus) { b.(*natsBus).backend.node.broken("the store can't be written to") }

// FailAtClose has the last sync of the store fail.
func FailAtClose(t *testing.T, b bus.Bus) {
	t.Helper()
	require.NoError(t, b.(*natsBus).backend.node.disk.dir.Close())
}
