package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bustest"
)

// startServer starts a NATS server on a free port (or the given one) of 127.0.0.1, as one elsewhere would be.
func startServer(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	return startServerWith(t, server.Options{Port: port, StoreDir: dir})
}

func startServerWith(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	o.Host, o.JetStream, o.NoSigs, o.NoLog = "127.0.0.1", true, true, true
	s, err := server.NewServer(&o)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func openURL(t *testing.T, url string, opts ...bus.OpenOption) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), url, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

// keepStream makes a stream that stays: with its last one the server removes the directory of all, also while another one is
// being made.
func keepStream(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}})
	require.NoError(t, err)
}

// raw is a client that knows nothing of jitney.
func raw(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

// collector keeps what a subscription is given and told.
type collector struct {
	mu       sync.Mutex
	messages []*bus.Message
	problems []bus.Problem
}

func (c *collector) handle(_ context.Context, m *bus.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.messages = append(c.messages, m)
	return nil
}

func (c *collector) hook(p bus.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, p)
}

func (c *collector) texts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var texts []string
	for _, m := range c.messages {
		texts = append(texts, string(m.Data))
	}
	return texts
}

func (c *collector) told(sentinel error) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, p := range c.problems {
		if errors.Is(p.Err, sentinel) {
			n++
		}
	}
	return n
}

// dropped is how many messages were said to be lost.
func (c *collector) dropped() (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.problems {
		var slow *bus.SlowError
		if errors.As(p.Err, &slow) {
			n += slow.Dropped
		}
	}
	return n
}

func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond, what)
}

var chat = bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 1000}

// The server of the checks of faults is this program, started again with these variables set.
const (
	serveAddr = "JITNEY_TEST_SERVE_ADDR"
	serveDir  = "JITNEY_TEST_SERVE_DIR"
)

func serverProcess(dir, addr string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveAddr+"="+addr, serveDir+"="+dir)
	return cmd
}

// serve is the child: it runs until it is killed.
func serve(addr, dir string) {
	at, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{
		Host: at.IP.String(), Port: at.Port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		panic(err)
	}
	s.Start()
	s.WaitForShutdown()
}

func TestConformance_elsewhere(t *testing.T) {
	t.Parallel() // most of it waits
	s := startServer(t, t.TempDir(), -1)
	bustest.Run(t, bustest.Harness{
		Open: func(e *bustest.Env) (bus.Bus, error) {
			url := s.ClientURL()
			if e.Addr != "" {
				url = "nats://" + e.Addr
			}
			return bus.Open(e.Context(), url, e.Options...)
		},
		Serve:  bustest.Process(serverProcess),
		Shared: true,
		Residue: func(context.Context, bus.Bus) (int, error) {
			js, err := s.Jsz(nil)
			if err != nil {
				return 0, err
			}
			return js.Consumers + int(s.NumSubscriptions()), nil
		},
		Claims: []bustest.Ability{
			bustest.Headers, bustest.Streams, bustest.Durable, bustest.TotalOrder, bustest.Distributed, bustest.OneServer, bustest.Groups, bustest.DurableGroups,
		},
	})
}

func TestElsewhere_crossesProcesses(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a, b := openURL(t, s.ClientURL()), openURL(t, s.ClientURL())
	require.NoError(t, a.EnsureStreams(t.Context(), chat))
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	var onA, onB collector
	_, err := a.Subscribe(t.Context(), ">", onA.handle)
	require.NoError(t, err)
	_, err = b.Subscribe(t.Context(), "chat.*", onB.handle)
	require.NoError(t, err)
	require.NoError(t, a.Publish(t.Context(), "chat.Go", []byte("captured"), bus.WithHeader("Odd-key", "one", "two")))
	require.NoError(t, b.Publish(t.Context(), "note", []byte("uncaptured")))
	eventually(t, func() bool { return len(onA.texts()) == 2 && len(onB.texts()) == 1 }, "all messages")
	require.ElementsMatch(t, []string{"captured", "uncaptured"}, onA.texts())
	require.Equal(t, []string{"one", "two"}, onB.messages[0].Header["Odd-key"])
	var history collector
	_, err = b.Subscribe(t.Context(), "chat.*", history.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, []string{"captured"}, history.texts())
}

func TestElsewhere_readsAndIsReadByAPlainClient(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	_, js := raw(t, s.ClientURL())
	// Without direct access, and with what only an operator sets.
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, Description: "the operator's", MaxMsgs: 10})
	require.NoError(t, err)
	for i := range 5 {
		m := nats.NewMsg("chat.raw")
		m.Data = fmt.Append(nil, "raw ", i)
		m.Header.Set("Color", "blue")
		_, err := js.PublishMsg(ctx, m, jetstream.WithMsgID(fmt.Sprint("id", i)))
		require.NoError(t, err)
	}
	b := openURL(t, s.ClientURL())
	require.NoError(t, b.EnsureStreams(ctx, chat))
	stream, err := js.Stream(ctx, "CHAT")
	require.NoError(t, err)
	require.Equal(t, "the operator's", stream.CachedInfo().Config.Description)
	require.Equal(t, int64(1000), stream.CachedInfo().Config.MaxMsgs)

	for name, start := range map[string]bus.SubscribeOption{"all": bus.All(), "last": bus.Last(5), "since": bus.Since(time.Now().Add(-time.Hour))} {
		var got collector
		_, err := b.Subscribe(ctx, "chat.raw", got.handle, start)
		require.NoError(t, err)
		require.Equal(t, []string{"raw 0", "raw 1", "raw 2", "raw 3", "raw 4"}, got.texts(), name)
		require.Equal(t, bus.Header{"Color": {"blue"}}, got.messages[0].Header, name)
	}
	var last collector
	_, err = b.Subscribe(ctx, "chat.*", last.handle, bus.LastPerSubject())
	require.NoError(t, err)
	require.Equal(t, []string{"raw 4"}, last.texts())
	var two collector
	_, err = b.Subscribe(ctx, "chat.*", two.handle, bus.Last(2))
	require.NoError(t, err)
	require.Equal(t, []string{"raw 3", "raw 4"}, two.texts())

	require.NoError(t, b.Publish(ctx, "chat.ours", []byte("ours"), bus.WithHeader("x-y", "z")))
	m, err := stream.GetLastMsgForSubject(ctx, "chat.ours")
	require.NoError(t, err)
	require.Equal(t, "ours", string(m.Data))
	require.Equal(t, []string{"z"}, m.Header["x-y"])
}

func TestElsewhere_skipsAndReportsWhatBreaksTheGrammar(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	var problems collector
	b := openURL(t, s.ClientURL(), bus.OnError(problems.hook))
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var live, replayed collector
	_, err := b.Subscribe(ctx, "chat.>", live.handle)
	require.NoError(t, err)
	nc, js := raw(t, s.ClientURL())
	for _, subject := range []string{"chat.a*", "chat.>", "chat.good"} {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: []byte(subject)})
		require.NoError(t, err)
	}
	require.NoError(t, nc.Flush())
	eventually(t, func() bool { return slices.Equal(live.texts(), []string{"chat.good"}) }, "the good message, live")
	_, err = b.Subscribe(ctx, "chat.>", replayed.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, []string{"chat.good"}, replayed.texts())
	eventually(t, func() bool { return problems.told(bus.ErrBadSubject) == 1 }, "one report for the stream")
}

func TestElsewhere_endsSubscriptionsWhoseStreamsOthersChange(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a, b := openURL(t, s.ClientURL()), openURL(t, s.ClientURL())
	var got collector
	sub, err := a.Subscribe(t.Context(), "chat.Go", got.handle)
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	select {
	case <-sub.Done():
	case <-time.After(5 * time.Second):
		require.Fail(t, "the subscription still stands")
	}
	require.ErrorIs(t, sub.Err(), bus.ErrStreamChanged)
	require.Less(t, time.Since(start), 1500*time.Millisecond)

	_, err = a.Subscribe(t.Context(), "chat.Go", got.handle)
	require.NoError(t, err)
	require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("again")))
	eventually(t, func() bool { return slices.Equal(got.texts(), []string{"again"}) }, "the message")
}

func TestElsewhere_announcesARecreatedStreamAndReadsItFromItsStart(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	b := openURL(t, s.ClientURL())
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var got collector
	sub, err := b.Subscribe(ctx, "chat.>", got.handle, bus.OnError(got.hook))
	require.NoError(t, err)
	var receipt bus.Receipt
	for i := range 3 {
		require.NoError(t, b.Publish(ctx, "chat.Go", fmt.Append(nil, "old ", i), bus.WithReceipt(&receipt)))
	}
	eventually(t, func() bool { return len(got.texts()) == 3 }, "the old messages")

	_, js := raw(t, s.ClientURL())
	keepStream(t, js)
	require.NoError(t, js.DeleteStream(ctx, "CHAT"))
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, AllowDirect: true})
	require.NoError(t, err)
	for i := range 5 {
		_, err := js.Publish(ctx, "chat.Go", fmt.Append(nil, "new ", i))
		require.NoError(t, err)
	}
	want := []string{"old 0", "old 1", "old 2", "new 0", "new 1", "new 2", "new 3", "new 4"}
	// When the moment without the stream was noticed, the subscription has ended and its
	// owner resumes; otherwise it goes on by itself.
	eventually(t, func() bool {
		if errors.Is(sub.Err(), bus.ErrStreamChanged) {
			sub, err = b.Subscribe(ctx, "chat.>", got.handle, bus.OnError(got.hook), bus.After(receipt.Cursor))
			require.NoError(t, err)
		}
		return len(got.texts()) >= 8
	}, "the new messages")
	require.Equal(t, want, got.texts())
	require.Equal(t, 1, got.told(bus.ErrGap))

	// The cursor of the old epoch is a gap, too.
	var resumed collector
	_, err = b.Subscribe(ctx, "chat.>", resumed.handle, bus.After(receipt.Cursor), bus.OnError(resumed.hook))
	require.NoError(t, err)
	require.Equal(t, want[3:], resumed.texts())
	require.Equal(t, 1, resumed.told(bus.ErrGap))
	require.ErrorIs(t, b.Publish(ctx, "chat.Go", nil, bus.ExpectLast(receipt.Cursor)), bus.ErrConflict)
}

func TestElsewhere_survivesARestartOfTheServer(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, -1)
	url := s.ClientURL()
	ctx := t.Context()
	b := openURL(t, url)
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var captured, uncaptured collector
	_, err := b.Subscribe(ctx, "chat.>", captured.handle, bus.OnError(captured.hook))
	require.NoError(t, err)
	_, err = b.Subscribe(ctx, "note.>", uncaptured.handle, bus.OnError(uncaptured.hook))
	require.NoError(t, err)
	require.NoError(t, b.Publish(ctx, "chat.Go", []byte("before")))
	require.NoError(t, b.Publish(ctx, "note.Go", []byte("before")))
	eventually(t, func() bool { return len(captured.texts()) == 1 && len(uncaptured.texts()) == 1 }, "the messages before")

	port := s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	eventually(t, func() bool {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		err := b.Publish(short, "chat.Go", []byte("during"))
		return errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, bus.ErrUnknownOutcome)
	}, "a clear error while the server is away")
	require.ErrorIs(t, b.(bus.HealthChecker).Health(ctx), bus.ErrUnavailable)
	eventually(t, func() bool { // questions have a connection of their own, whose end is noticed by itself
		err := b.EnsureStreams(ctx, chat)
		return errors.Is(err, bus.ErrUnavailable) && strings.Contains(err.Error(), "no connection to the server")
	}, "the end of the other connection")
	_, err = b.Subscribe(ctx, "chat.>", captured.handle, bus.All())
	for _, err := range []error{err, b.Publish(ctx, "note.Go", nil), b.Publish(ctx, "chat.Go", nil), b.EnsureStreams(ctx, chat)} {
		require.ErrorIs(t, err, bus.ErrUnavailable)
		require.ErrorContains(t, err, "no connection to the server")
	}

	startServer(t, dir, port)
	eventually(t, func() bool { return b.(bus.HealthChecker).Health(ctx) == nil }, "health")
	require.NoError(t, b.Publish(ctx, "chat.Go", []byte("after")))
	require.NoError(t, b.Publish(ctx, "note.Go", []byte("after")))
	eventually(t, func() bool {
		texts := captured.texts()
		return texts[len(texts)-1] == "after" && slices.Contains(uncaptured.texts(), "after")
	}, "the messages after")
	texts := captured.texts()
	require.Equal(t, []string{"before", "after"}, slices.DeleteFunc(texts, func(s string) bool { return s == "during" }))
	require.Zero(t, captured.told(bus.ErrGap))
	require.Equal(t, 1, uncaptured.told(bus.ErrSlow), "an interruption may have lost uncaptured messages, and that is told")
	require.NoError(t, b.Close(ctx), "before the server, which would be waited for")
}

func TestElsewhere_oneConsumerServesAnyNumberOfSubscriptions(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	b, err := bus.Open(ctx, s.ClientURL())
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var got collector
	for i := range 1500 {
		_, err := b.Subscribe(ctx, fmt.Sprintf("chat.room.%d", i), got.handle)
		require.NoError(t, err)
	}
	for i := range 1500 {
		require.NoError(t, b.Publish(ctx, fmt.Sprintf("chat.room.%d", i), fmt.Append(nil, i)))
	}
	eventually(t, func() bool { return len(got.texts()) == 1500 }, "a message for each")
	_, js := raw(t, s.ClientURL())
	stream, err := js.Stream(ctx, "CHAT")
	require.NoError(t, err)
	require.Equal(t, 1, stream.CachedInfo().State.Consumers)
	require.NoError(t, b.Close(ctx))
	stream, err = js.Stream(ctx, "CHAT")
	require.NoError(t, err)
	require.Zero(t, stream.CachedInfo().State.Consumers)
}

func TestElsewhere_publishingWhatTheUserMayNotIsForbidden(t *testing.T) {
	permissions := &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"*.secret"}}}
	s := startServerWith(t, server.Options{
		Port: -1, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "guest", Password: "guest", Permissions: permissions}},
	})
	var problems collector
	b := openURL(t, "nats://guest:guest@"+s.Addr().String(), bus.OnError(problems.hook))
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := b.Publish(ctx, "chat.secret", nil)
	require.ErrorIs(t, err, bus.ErrForbidden)
	require.NotErrorIs(t, err, bus.ErrUnknownOutcome)
	require.Zero(t, problems.told(bus.ErrForbidden), "the publisher was told")

	require.NoError(t, b.Publish(ctx, "note.secret", nil), "the server doesn't answer")
	eventually(t, func() bool { return problems.told(bus.ErrForbidden) == 1 }, "the hook of the bus to be told")
	require.Equal(t, "note.secret", problems.problems[0].Subject)
	require.NoError(t, b.Publish(ctx, "chat.Go", nil), "the rest is permitted")
}

// The server says so apart from any answer, which would be waited for in vain.
func TestElsewhere_askingWhatTheUserMayNotIsForbidden(t *testing.T) {
	listed := &server.Permissions{ // as docs/operate.md has them
		Publish:   &server.SubjectPermission{Allow: []string{"$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "_INBOX.jitney-group.>", "chat.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>", "$JS.EVENT.ADVISORY.STREAM.>", "chat.>"}},
	}
	publishes := func(deny string) *server.Permissions {
		return &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{deny}}}
	}
	s := startServerWith(t, server.Options{Port: -1, StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "all", Password: "x"},
		{Username: "listed", Password: "x", Permissions: listed},
		{Username: "unasking", Password: "x", Permissions: publishes("$JS.API.>")},
		{Username: "deaf", Password: "x", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}},
		{Username: "uncreating", Password: "x", Permissions: publishes("$JS.API.STREAM.CREATE.*")},
		{Username: "unreading", Password: "x", Permissions: publishes("$JS.API.DIRECT.GET.>")},
		{Username: "unchanging", Password: "x", Permissions: publishes("$JS.API.STREAM.UPDATE.*")},
	}})
	ctx := t.Context()
	url := func(user string) string { return "nats://" + user + ":x@" + s.Addr().String() }
	forbidden := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, bus.ErrForbidden)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "publish on $JS.API.> and subscribe to _INBOX.>")
	}
	for _, user := range []string{"unasking", "deaf"} {
		_, err := bus.Open(ctx, url(user), quietly(t))
		forbidden(err)
	}
	forbidden(openURL(t, url("uncreating"), quietly(t)).EnsureStreams(ctx, chat))
	var problems collector
	allowed := openURL(t, url("listed"), quietly(t), bus.OnError(problems.hook))
	useOf(t, allowed)
	for _, options := range [][]bus.SubscribeOption{{}, {bus.Group("g")}, {bus.DurableGroup("d"), bus.Attempts(0)}} {
		var got collector
		_, err := allowed.Subscribe(ctx, "chat.*", got.handle, options...)
		require.NoError(t, err)
		require.NoError(t, allowed.Publish(ctx, "chat.Go", nil))
		eventually(t, func() bool { return len(got.texts()) > 0 }, "a message")
	}
	require.NoError(t, allowed.Close(ctx))
	_, err := openURL(t, url("unreading"), quietly(t)).Subscribe(ctx, "chat.*", func(context.Context, *bus.Message) error { return nil }, bus.LastPerSubject())
	forbidden(err)
	b := openURL(t, url("unchanging"), quietly(t), bus.OnError(problems.hook))
	require.NoError(t, openURL(t, url("all")).EnsureStreams(ctx, bus.StreamConfig{Name: "LOG", Subjects: []string{"log"}}))
	_, err = b.(bus.Appender).Append(ctx, "LOG", bus.Cursor{}, &bus.Message{Subject: "log"}, &bus.Message{Subject: "log"})
	require.NoError(t, err, "without an atomic batch, which the stream isn't to be changed for")
	require.Empty(t, problems.problems)
}

// A client that writes its protocol by hand can store a header that no client can read.
func TestElsewhere_skipsAndReportsAHeaderThatIsNone(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var problems collector
	b := openURL(t, s.ClientURL(), bus.OnError(problems.hook))
	require.NoError(t, b.EnsureStreams(ctx, chat))
	var live, all, last collector
	_, err := b.Subscribe(ctx, "chat.>", live.handle)
	require.NoError(t, err)
	require.NoError(t, b.Publish(ctx, "chat.a", []byte("before")))
	conn, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	const header = "NATS/1.0\r\nno header at all\r\n\r\n"
	_, err = fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB chat.b %d %d\r\n%sbad\r\nPING\r\n", len(header), len(header)+3, header)
	require.NoError(t, err)
	_, js := raw(t, s.ClientURL())
	eventually(t, func() bool {
		stream, err := js.Stream(ctx, "CHAT")
		return err == nil && stream.CachedInfo().State.Msgs == 2
	}, "the bad message is stored")
	require.NoError(t, b.Publish(ctx, "chat.c", []byte("after")))
	want := []string{"before", "after"}
	eventually(t, func() bool { return slices.Equal(live.texts(), want) }, "the good messages, live")
	fresh := openURL(t, s.ClientURL(), bus.OnError(problems.hook))
	_, err = fresh.Subscribe(ctx, "chat.>", all.handle, bus.All())
	require.NoError(t, err)
	require.Equal(t, want, all.texts())
	_, err = fresh.Subscribe(ctx, "chat.>", last.handle, bus.LastPerSubject())
	require.NoError(t, err)
	require.Equal(t, want, last.texts())
	eventually(t, func() bool { return problems.told(bus.ErrBadHeader) == 2 }, "one report for the stream and bus")
}
