package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/natsbus"
)

var chatStream = bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}

// store makes a store in which a program has published n messages, and which it has closed.
func store(t *testing.T, n int) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	b := openBus(t, "nats:"+dir)
	require.NoError(t, b.EnsureStreams(t.Context(), chatStream, bus.StreamConfig{Name: "NEWS", Subjects: []string{"news"}}))
	say(t, b, 1, n)
	require.NoError(t, b.Close(context.Background()))
	return dir
}

func openBus(t *testing.T, url string) bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) }) // idempotent
	return b
}

func say(t *testing.T, b bus.Bus, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		require.NoError(t, b.Publish(t.Context(), fmt.Sprintf("chat.%d", i%5), fmt.Append(nil, i), bus.WithHeader("K", fmt.Sprint(i))))
	}
}

// said fails unless the bus holds 1 to n, once and in order.
func said(t *testing.T, url string, n int) {
	t.Helper()
	b := openBus(t, url)
	i := 0
	sub, err := b.Subscribe(t.Context(), "chat.>", func(_ context.Context, m *bus.Message) error {
		if i++; string(m.Data) != fmt.Sprint(i) {
			t.Errorf("message %d is %s", i, m.Data)
		}
		return nil
	}, bus.All())
	require.NoError(t, err)
	require.NoError(t, sub.Unsubscribe(t.Context()))
	require.Equal(t, n, i)
	require.NoError(t, b.Close(context.Background()))
}

// natsServer is a server elsewhere.
func natsServer(t *testing.T) (url string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, SyncInterval: 10 * time.Minute,
	})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s.ClientURL()
}

// bridge runs the command to its end.
func bridge(t *testing.T, jitney string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(jitney, append([]string{"bridge"}, args...)...)
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &errors, t.TempDir()
	_ = cmd.Run() // the status is returned
	return cmd.ProcessState.ExitCode(), out.String(), errors.String()
}

var sums = regexp.MustCompile(`sum [0-9a-f]{32}`)

func TestBridge_movesTheStoreOfAStoppedProgram(t *testing.T) {
	jitney := build(t)
	from, server := store(t, 1500), natsServer(t)
	to := filepath.Join(t.TempDir(), "new", "store")
	for _, url := range []string{"nats:" + to, server} {
		status, out, stderr := bridge(t, jitney, "-from", "nats:"+from, "-to", url, "-streams", "CHAT")
		require.Zero(t, status, out+stderr)
		require.Equal(t, "CHAT: 1500 messages, the same at both ends (sum S), 1500 copied now\n", sums.ReplaceAllString(out, "sum S"))
		require.Empty(t, stderr)
		said(t, url, 1500)
	}
	said(t, "nats:"+from, 1500) // it is as it was

	b := openBus(t, "nats:"+from)
	say(t, b, 1501, 1510)
	require.NoError(t, b.Close(context.Background()))
	status, out, _ := bridge(t, jitney, "-from", "nats:"+from, "-to", server, "-json")
	require.Zero(t, status)
	var report struct {
		From, To string
		Same     bool
		Streams  []struct {
			Stream              string
			Copied              int
			Source, Destination struct {
				Messages int
				Sum      string
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.True(t, report.Same)
	require.Len(t, report.Streams, 2)
	require.Equal(t, "CHAT", report.Streams[0].Stream)
	require.Equal(t, 10, report.Streams[0].Copied)
	require.Equal(t, 1510, report.Streams[0].Source.Messages)
	require.Equal(t, report.Streams[0].Source, report.Streams[0].Destination)
	require.Zero(t, report.Streams[1].Source.Messages, "NEWS is empty")
	said(t, server, 1510)
}

func TestBridge_refusesWhatIsWrongAndMakesNothing(t *testing.T) {
	jitney := build(t)
	from, root := store(t, 3), t.TempDir()
	empty := filepath.Join(root, "empty")
	require.NoError(t, os.Mkdir(empty, 0o700))
	bare := filepath.Join(root, "bare")
	b := openBus(t, "nats:"+bare)
	require.NoError(t, b.Close(context.Background()))
	to := filepath.Join(root, "to")
	for _, c := range []struct {
		args, want string
	}{
		{"", "want both -from URL and -to URL"},
		{"-from nats:" + from, "want both"},
		{"-from nats:" + from + "/typo -to nats:" + to, "there is no store"},
		{"-from nats:" + empty + " -to nats:" + to, "holds no streams"},
		{"-from nats:" + bare + " -to nats:" + to, "holds no streams"},
		{"-from mem: -to nats:" + to, "run migrate.Bridge in it"},
		{"-from mem:?tick=1s -to nats:" + to, "run migrate.Bridge in it"},
		{"-from nats:" + from + " -to mem:", "is gone when this command ends"},
		{"-from nats:" + from + " -to nats:" + from + "/../store?sync=always", "are the same"},
		{"-from nats:" + from + " -to nats:" + to + " -follow", "leave -follow out"},
		{"-from nats:" + from + " -to nats:" + to + " -streams CHAT,CHAR", `has no stream "CHAR", but CHAT, NEWS`},
		{"-from nats:" + from + " -to nats:" + to + " more", `unexpected "more"`},
		{"-from nats:" + from + " -to nats:" + to + " -foo", "-foo"},
		{"-from nats:" + from + " -to nowhere:", `unknown scheme "nowhere"`},
		{"-from nats://127.0.0.1:1 -to nats:" + to, "is the server running"},
		{"-from nats:" + from + " -to nats://user:geheim@127.0.0.1:1", "is the server running"},
	} {
		status, out, stderr := bridge(t, jitney, strings.Fields(c.args)...)
		require.Equal(t, 2, status, "%s\n%s%s", c.args, out, stderr)
		require.Contains(t, stderr, c.want, c.args)
		require.NotContains(t, stderr, "geheim")
		require.Empty(t, out, c.args)
		require.NoDirExists(t, to, c.args)
	}
	left, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, left)

	open := openBus(t, "nats:"+from)
	status, _, stderr := bridge(t, jitney, "-from", "nats:"+from, "-to", "nats:"+to)
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "locked by another process")
	require.Contains(t, stderr, "?listen=127.0.0.1:4222")
	require.NoError(t, open.Close(context.Background()))
}

func TestBridge_saysWhatIsInTheWayAndWhatDiffers(t *testing.T) {
	jitney := build(t)
	from, other := store(t, 5), store(t, 7)
	status, out, stderr := bridge(t, jitney, "-from", "nats:"+from, "-to", "nats:"+other, "-streams", "CHAT")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "isn't a copy from this source")
	require.Empty(t, out)
	said(t, "nats:"+other, 7)

	to := filepath.Join(t.TempDir(), "to")
	b := openBus(t, "nats:"+to)
	small := chatStream
	small.MaxMsgs = 2
	require.NoError(t, b.EnsureStreams(t.Context(), small))
	require.NoError(t, b.Close(context.Background()))
	status, out, stderr = bridge(t, jitney, "-from", "nats:"+from, "-to", "nats:"+to, "-streams", "CHAT", "-json")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "3 missing at the destination")
	require.Contains(t, stderr, "limit of messages is smaller")
	require.Contains(t, out, `"same": false`)
	require.Contains(t, out, `"missing": 3`)
}

// buffer can be read while a process writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestBridge_killedInTheMiddleGoesOn(t *testing.T) {
	jitney := build(t)
	const n = 20_000
	from, to := store(t, n), natsServer(t)
	destination := openBus(t, to)
	for round := range 4 {
		cmd := exec.Command(jitney, "bridge", "-from", "nats:"+from, "-to", to, "-streams", "CHAT")
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool {
			streams, err := destination.(bus.StreamLister).Streams(t.Context())
			return err == nil && len(streams) == 1 && streams[0].Msgs >= uint64(1+round*2000)
		}, time.Minute, time.Millisecond)
		_ = cmd.Process.Kill() // it may be through on a fast machine
		_ = cmd.Wait()
	}
	status, out, stderr := bridge(t, jitney, "-from", "nats:"+from, "-to", to, "-streams", "CHAT")
	require.Zero(t, status, out+stderr)
	require.Contains(t, out, fmt.Sprintf("CHAT: %d messages, the same at both ends", n))
	said(t, to, n)
}

func TestBridge_followsUntilASignalAndCutsOver(t *testing.T) {
	jitney := build(t)
	from, to := natsServer(t), natsServer(t)
	source := openBus(t, from)
	require.NoError(t, source.EnsureStreams(t.Context(), chatStream))
	say(t, source, 1, 100)
	cmd := exec.Command(jitney, "bridge", "-from", from, "-to", to, "-follow")
	var out, stderr buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	require.NoError(t, cmd.Start())
	destination := openBus(t, to)
	holds := func(n uint64) {
		t.Helper()
		require.Eventually(t, func() bool {
			streams, err := destination.(bus.StreamLister).Streams(t.Context())
			return err == nil && len(streams) == 1 && streams[0].Msgs == n
		}, time.Minute, time.Millisecond)
	}
	holds(100)
	say(t, source, 101, 200)
	holds(200)
	require.Empty(t, out.String())
	require.Contains(t, stderr.String(), "press Ctrl-C to cut over")
	say(t, source, 201, 300)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), stderr.String())
	require.Equal(t, "CHAT: 300 messages, the same at both ends (sum S), 300 copied now\n", sums.ReplaceAllString(out.String(), "sum S"))
	require.Contains(t, stderr.String(), "cutting over")
	said(t, to, 300)
}

func TestBridge_aSecondSignalGivesUpWhileSomebodyStillPublishes(t *testing.T) {
	jitney := build(t)
	from, to := natsServer(t), natsServer(t)
	source := openBus(t, from)
	require.NoError(t, source.EnsureStreams(t.Context(), chatStream))
	say(t, source, 1, 500)
	stop, n := make(chan struct{}), 500
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				n++
				say(t, source, n, n)
			}
		}
	})
	cmd := exec.Command(jitney, "bridge", "-from", from, "-to", to, "-follow")
	var out, stderr buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	require.NoError(t, cmd.Start())
	says := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(stderr.String(), text) }, time.Minute, time.Millisecond)
	}
	says("following")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	says("cutting over")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), stderr.String())
	require.Contains(t, stderr.String(), "the same command goes on from here")
	close(stop)
	publishing.Wait()
	status, stdout, errs := bridge(t, jitney, "-from", from, "-to", to)
	require.Zero(t, status, stdout+errs)
	said(t, to, n)
}

// natsCluster is three servers elsewhere that are one system.
func natsCluster(t *testing.T) (url string) {
	t.Helper()
	var servers []*server.Server
	var routes []*neturl.URL
	var ports []int
	for range 3 { // each must know the others' before it starts
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &neturl.URL{Scheme: "nats-route", Host: l.Addr().String()})
		require.NoError(t, l.Close())
	}
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "chats", Host: "127.0.0.1", Port: port}, Routes: routes, SyncInterval: 10 * time.Minute,
		})
		require.NoError(t, err)
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		servers = append(servers, s)
	}
	for _, s := range servers {
		require.True(t, s.ReadyForConnections(time.Minute))
		require.Eventually(t, s.JetStreamIsCurrent, time.Minute, 10*time.Millisecond)
	}
	return servers[0].ClientURL()
}

func TestBridge_movesAStandaloneStoreIntoACluster(t *testing.T) {
	jitney := build(t)
	from, to := store(t, 2500), natsCluster(t)
	status, out, stderr := bridge(t, jitney, "-from", "nats:"+from, "-to", to+"?replicas=3", "-streams", "CHAT")
	require.Zero(t, status, out+stderr)
	require.Contains(t, out, "CHAT: 2500 messages, the same at both ends")
	said(t, to+"?replicas=3", 2500)

	nc, err := nats.Connect(to)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "CHAT")
	require.NoError(t, err)
	require.Equal(t, 3, stream.CachedInfo().Config.Replicas)
}
