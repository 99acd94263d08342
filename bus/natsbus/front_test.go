package natsbus_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// front is a server before another one, which has the streams: what is asked here is answered there, unless a test
// answers as servers do in moments that pass.
type front struct {
	url    string
	server *server.Server
	here   *nats.Conn
	there  *nats.Conn
	js     jetstream.JetStream // there
}

// newFront starts both, with the stream LOG. If it is one of a cluster, clients take it that streams have leaders.
func newFront(t *testing.T, cluster string, subjects ...string) *front {
	t.Helper()
	f := &front{}
	f.there, f.js = raw(t, startServer(t, t.TempDir(), -1).ClientURL())
	o := &server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true}
	if cluster != "" {
		o.Cluster = server.ClusterOpts{Name: cluster, Host: "127.0.0.1", Port: -1}
	}
	var err error
	f.server, err = server.NewServer(o)
	require.NoError(t, err)
	f.server.Start()
	require.True(t, f.server.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		f.server.Shutdown()
		f.server.WaitForShutdown()
	})
	f.url = f.server.ClientURL()
	f.here, err = nats.Connect(f.url)
	require.NoError(t, err)
	t.Cleanup(f.here.Close)
	f.stream(t, subjects...)
	return f
}

func (f *front) stream(t *testing.T, subjects ...string) {
	t.Helper()
	_, err := f.js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: subjects, AllowDirect: true})
	require.NoError(t, err)
}

func (f *front) stored(t *testing.T) (texts []string) {
	t.Helper()
	stream, err := f.js.Stream(t.Context(), "LOG")
	require.NoError(t, err)
	for seq := range stream.CachedInfo().State.LastSeq {
		m, err := stream.GetMsg(t.Context(), seq+1)
		require.NoError(t, err)
		texts = append(texts, string(m.Data))
	}
	return texts
}

// forward has what is published on subjects of one server published at another one, and the answer given here, unless
// instead says that it has done so.
func forward(t *testing.T, here, there *nats.Conn, subject string, instead func(m *nats.Msg) bool) {
	t.Helper()
	_, err := here.Subscribe(subject, func(m *nats.Msg) {
		if instead(m) {
			return
		}
		inbox := there.NewInbox()
		sub, err := there.Subscribe(inbox, func(answer *nats.Msg) {
			answer.Subject, answer.Reply = m.Reply, ""
			if err := here.PublishMsg(answer); err != nil {
				t.Error(err)
			}
		})
		if err == nil {
			err = there.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: inbox, Header: m.Header, Data: m.Data})
		}
		if err != nil {
			t.Error(err, sub)
		}
	})
	require.NoError(t, err)
	require.NoError(t, here.Flush())
}

func (f *front) forward(t *testing.T, subject string, instead func(m *nats.Msg) bool) {
	t.Helper()
	forward(t, f.here, f.there, subject, instead)
}

func whole(*nats.Msg) bool { return false }

// election answers lists of streams as servers do while LOG has no leader.
type election struct {
	over  atomic.Bool
	lists atomic.Int64
}

func (e *election) answer(t *testing.T) func(m *nats.Msg) bool {
	return func(m *nats.Msg) bool {
		if m.Subject != "$JS.API.STREAM.LIST" {
			return false
		}
		e.lists.Add(1)
		if e.over.Load() {
			return false
		}
		if err := m.Respond([]byte(`{"total": 1, "limit": 256, "streams": [], "missing": ["LOG"]}`)); err != nil {
			t.Error(err)
		}
		return true
	}
}

// learnt returns when a process has asked so often that it has taken in an answer of now.
func (e *election) learnt(t *testing.T) {
	t.Helper()
	before := e.lists.Load()
	eventually(t, func() bool { return e.lists.Load() > before+2 }, "what the process has learnt")
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// A process that was just started has never seen the config of a stream whose leader is being elected, and the server's
// list of streams gives only its name.
func TestFront_nothingIsPublishedPastAStreamThatHasNoLeaderYet(t *testing.T) {
	f := newFront(t, "", "log.>")
	var e election
	f.forward(t, "$JS.API.>", e.answer(t))
	f.forward(t, "log.>", whole)
	b := openURL(t, f.url)
	require.ErrorIs(t, b.Publish(within(t, 300*time.Millisecond), "log.a", []byte("lost?")), bus.ErrUnavailable)
	_, err := b.Subscribe(within(t, 300*time.Millisecond), "log.*", func(context.Context, *bus.Message) error { return nil }, bus.All())
	require.ErrorIs(t, err, bus.ErrUnavailable)
	_, err = b.(bus.StreamLister).Streams(within(t, 300*time.Millisecond))
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.NoError(t, b.Publish(t.Context(), "note.a", nil), "no stream captures it")

	published := make(chan error, 1)
	go func() { published <- b.Publish(t.Context(), "log.a", []byte("stored")) }()
	e.learnt(t)
	require.Empty(t, published)
	e.over.Store(true)
	require.NoError(t, <-published)
	require.Equal(t, []string{"stored"}, f.stored(t))
}

// The stream was known, and has come to capture more since.
func TestFront_nothingIsPublishedPastAStreamThatHasChangedSinceItHadALeader(t *testing.T) {
	f := newFront(t, "", "log.a")
	var e election
	e.over.Store(true)
	f.forward(t, "$JS.API.>", e.answer(t))
	f.forward(t, "log.*", whole)
	b := openURL(t, f.url)
	require.NoError(t, b.Publish(t.Context(), "log.a", []byte("known")))
	e.over.Store(false)
	f.stream(t, "log.a", "log.b")
	e.learnt(t)
	require.ErrorIs(t, b.Publish(within(t, 3*time.Second), "log.b", []byte("lost?")), bus.ErrUnavailable)
	require.NoError(t, b.Publish(t.Context(), "log.a", []byte("still")), "it is captured as before")
	require.NoError(t, b.Publish(t.Context(), "note.a", nil), "no stream captures it")
	e.over.Store(true)
	require.NoError(t, b.Publish(t.Context(), "log.b", []byte("stored")))
	require.Equal(t, []string{"known", "still", "stored"}, f.stored(t))
}

func TestFront_anExpectedMessageWhoseAcknowledgementIsLostIsNoConflict(t *testing.T) {
	for name, opts := range map[string][]bus.PublishOption{"": nil, "with an ID": {bus.MessageID("1")}} {
		f := newFront(t, "front", "log.>")
		f.forward(t, "$JS.API.>", whole)
		var tries atomic.Int64
		f.forward(t, "log.>", func(m *nats.Msg) bool {
			if tries.Add(1) > 1 {
				return false
			}
			if err := f.there.PublishMsg(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}); err != nil {
				t.Error(err)
			}
			return true // and the acknowledgement is lost
		})
		b := openURL(t, f.url)
		var receipt bus.Receipt
		opts := append(opts, bus.ExpectNone(), bus.WithReceipt(&receipt))
		require.NoError(t, b.Publish(t.Context(), "log.once", []byte("once"), opts...), name)
		require.EqualValues(t, 2, tries.Load())
		require.EqualValues(t, 1, receipt.Cursor.Sequence())
		require.False(t, receipt.Duplicate, name)
		require.Equal(t, []string{"once"}, f.stored(t))
		require.ErrorIs(t, b.Publish(t.Context(), "log.once", nil, bus.ExpectNone()), bus.ErrConflict)
	}
}

// On replicas the server refuses what expects something of a subject while another message of it is on its way, which one
// that was just acknowledged may be.
func TestFront_aMessageOnItsWayIsNoConflict(t *testing.T) {
	f := newFront(t, "front", "log.>")
	f.forward(t, "$JS.API.>", whole)
	var tries atomic.Int64
	f.forward(t, "log.>", func(m *nats.Msg) bool {
		if tries.Add(1) > 3 {
			return false
		}
		if err := m.Respond([]byte(`{"stream": "LOG", "seq": 0, "error": {"code": 400, "err_code": 10164, "description": "wrong last sequence"}}`)); err != nil {
			t.Error(err)
		}
		return true
	})
	b := openURL(t, f.url)
	require.NoError(t, b.Publish(t.Context(), "log.a", []byte("once"), bus.ExpectNone()))
	require.ErrorIs(t, b.Publish(t.Context(), "log.a", nil, bus.ExpectNone()), bus.ErrConflict)
	require.Equal(t, []string{"once"}, f.stored(t))
}

func TestFront_whatNoStreamTakesAnyMoreIsSentOnce(t *testing.T) {
	f := newFront(t, "front", "log.>")
	var gone atomic.Bool
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		return m.Subject == "$JS.API.STREAM.LIST" && gone.Load() // it takes its time
	})
	b := openURL(t, f.url)
	gone.Store(true)
	keepStream(t, f.js)
	require.NoError(t, f.js.DeleteStream(t.Context(), "LOG"))
	var copies atomic.Int64
	_, err := f.here.Subscribe("log.>", func(*nats.Msg) { copies.Add(1) })
	require.NoError(t, err)
	require.NoError(t, f.here.Flush())
	began := time.Now()
	require.ErrorIs(t, b.Publish(t.Context(), "log.a", nil), bus.ErrUnknownOutcome)
	require.Less(t, time.Since(began), 10*time.Second)
	require.EqualValues(t, 1, copies.Load())
}

func TestFront_aRemovalWhoseAnswerIsLostIsOne(t *testing.T) {
	f := newFront(t, "front", "log.>")
	mine, err := f.here.GetClientID()
	require.NoError(t, err)
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		if !strings.Contains(m.Subject, ".DELETE.") {
			return false
		}
		if _, err := f.js.Stream(t.Context(), "LOG"); err != nil {
			return false // it is the second time
		}
		if err := f.js.DeleteStream(t.Context(), "LOG"); err != nil {
			t.Error(err)
		}
		conns, err := f.server.Connz(nil)
		if err != nil {
			t.Error(err)
			return true
		}
		for _, conn := range conns.Conns {
			if conn.Cid != mine {
				_ = f.server.DisconnectClientByID(conn.Cid) // it may have gone
			}
		}
		return true
	})
	b := openURL(t, f.url+"?servers=localhost:"+f.url[strings.LastIndex(f.url, ":")+1:]) // where it is connected again at once
	require.NoError(t, b.(bus.Remover).RemoveStream(within(t, 20*time.Second), "LOG"))
	require.ErrorIs(t, b.(bus.Remover).RemoveStream(within(t, 20*time.Second), "LOG"), bus.ErrNoStream)
}

func TestFront_closeEndsAPublishThatIsAboutToBeSentAgain(t *testing.T) {
	f := newFront(t, "front", "log.>")
	asked := make(chan struct{}, 100)
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		if m.Subject != "$JS.API.STREAM.NAMES" {
			return false
		}
		asked <- struct{}{}
		return true
	})
	f.forward(t, "log.>", func(*nats.Msg) bool { return true })
	b, err := bus.Open(t.Context(), f.url)
	require.NoError(t, err)
	published := make(chan error, 1)
	go func() { published <- b.Publish(context.Background(), "log.a", nil) }()
	<-asked // whether it is to be sent again
	began := time.Now()
	require.NoError(t, b.Close(within(t, time.Minute)))
	require.Less(t, time.Since(began), 3*time.Second)
	err = <-published
	require.ErrorIs(t, err, bus.ErrUnknownOutcome)
	require.ErrorIs(t, err, bus.ErrClosed)
}

func TestFront_closeEndsAPublishThatNobodyAcknowledges(t *testing.T) {
	f := newFront(t, "front", "log.>")
	f.forward(t, "$JS.API.>", whole)
	sent := make(chan struct{}, 100)
	f.forward(t, "log.>", func(*nats.Msg) bool { sent <- struct{}{}; return true })
	b, err := bus.Open(t.Context(), f.url)
	require.NoError(t, err)
	published := make(chan error, 1)
	go func() { published <- b.Publish(context.Background(), "log.a", nil) }()
	<-sent
	began := time.Now()
	require.NoError(t, b.Close(within(t, time.Minute)))
	require.Less(t, time.Since(began), 3*time.Second)
	err = <-published
	require.ErrorIs(t, err, bus.ErrUnknownOutcome)
	require.ErrorIs(t, err, bus.ErrClosed)
}

// misinform changes the first answers about the stream since the count that it returns was zero.
func (f *front) misinform(t *testing.T, first int64, change func(info *jetstream.StreamInfo)) (asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		if m.Subject != "$JS.API.STREAM.INFO.LOG" || asked.Add(1) > first {
			return false
		}
		stream, err := f.js.Stream(t.Context(), "LOG")
		if err != nil {
			t.Error(err)
			return true
		}
		info := *stream.CachedInfo()
		change(&info)
		text, err := json.Marshal(info)
		if err == nil {
			err = m.Respond(text)
		}
		if err != nil {
			t.Error(err)
		}
		return true
	})
	return asked
}

// While a stream is new the server that was to lead it answers, too, although another one does.
func TestFront_onlyItsLeaderSaysWhereAStreamEnds(t *testing.T) {
	f := newFront(t, "front", "log.>")
	infos := f.misinform(t, 4, func(info *jetstream.StreamInfo) {
		info.State.Msgs, info.State.LastSeq = 1, 1
		info.Cluster = &jetstream.ClusterInfo{Name: "front", Leader: "n2", Replicas: []*jetstream.PeerInfo{
			{Name: "n2", Active: time.Second}, {Name: "n3", Active: time.Second},
		}}
	})
	for i := range 3 {
		_, err := f.js.Publish(t.Context(), "log.a", fmt.Append(nil, i))
		require.NoError(t, err)
	}
	b := openURL(t, f.url)
	infos.Store(0)
	var got collector
	_, err := b.Subscribe(t.Context(), "log.*", got.handle, bus.Last(10))
	require.NoError(t, err)
	require.Equal(t, []string{"0", "1", "2"}, got.texts())
}

// A stream that is left with one replica, as an operator may want it, is one without a leader as long as the others go.
func TestFront_anAnswerThatWasDoubtedLeavesNothingInTheNextOne(t *testing.T) {
	f := newFront(t, "front", "log.>")
	infos := f.misinform(t, 2, func(info *jetstream.StreamInfo) {
		info.Cluster = &jetstream.ClusterInfo{Name: "front", Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2"}, {Name: "n3"}}}
	})
	b := openURL(t, f.url)
	infos.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := b.Subscribe(ctx, "log.*", new(collector).handle, bus.Last(10))
	require.NoError(t, err)
	require.Greater(t, infos.Load(), int64(2))
}

// The server that is to make the consumer of a tail may have lost its store just now.
func TestFront_aTailWhoseConsumerIsntMadeAsksForAnotherOne(t *testing.T) {
	f := newFront(t, "front", "log.>")
	var first atomic.Pointer[string]
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		if !strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.CREATE.") {
			return false
		}
		first.CompareAndSwap(nil, &m.Subject)
		return *first.Load() == m.Subject // no answer, however often it is asked for
	})
	b := openURL(t, f.url)
	var got collector
	_, err := b.Subscribe(t.Context(), "log.*", got.handle)
	require.NoError(t, err)
	require.NotNil(t, first.Load())
	_, err = f.js.Publish(t.Context(), "log.x", []byte("x"))
	require.NoError(t, err)
	eventually(t, func() bool { return len(got.texts()) == 1 }, "the message")
}

// The consumer of a tail may stand on a replica that is still being filled: it lives, and has nothing to give.
func TestFront_aTailGoesOnWhereItsConsumerHasNothing(t *testing.T) {
	f := newFront(t, "front", "log.>")
	consumers := make(chan string, 100)
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		if !strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.CREATE.") {
			return false
		}
		var request struct {
			Config struct {
				Inbox string `json:"deliver_subject"`
			} `json:"config"`
		}
		err := json.Unmarshal(m.Data, &request)
		if err == nil {
			err = m.Respond([]byte("{}"))
		}
		if err != nil {
			t.Error(err)
		}
		consumers <- request.Config.Inbox
		return true
	})
	b := openURL(t, f.url)
	var got collector
	_, err := b.Subscribe(t.Context(), "log.*", got.handle)
	require.NoError(t, err)
	inbox := <-consumers
	alive, stop := context.WithCancel(t.Context())
	var beating sync.WaitGroup
	beating.Go(func() {
		beat := time.NewTicker(200 * time.Millisecond)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
				m := nats.Msg{Subject: inbox, Header: nats.Header{"Status": {"100"}, "Description": {"Idle Heartbeat"}, "Nats-Last-Consumer": {"0"}}}
				if err := f.here.PublishMsg(&m); err != nil {
					t.Error(err)
				}
			case <-alive.Done():
				return
			}
		}
	})
	for i := range 3 {
		_, err := f.js.Publish(t.Context(), "log.a", fmt.Append(nil, i))
		require.NoError(t, err)
	}
	eventually(t, func() bool { return len(got.texts()) == 3 }, "what the consumer doesn't give")
	stop()
	beating.Wait()
	require.Equal(t, []string{"0", "1", "2"}, got.texts())
	require.Empty(t, consumers, "it is the same consumer still")
}
