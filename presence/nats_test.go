package presence_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/presence"
)

const (
	childURL   = "JITNEY_TEST_PRESENCE_URL"
	childEvery = "JITNEY_TEST_PRESENCE_EVERY"
)

// beChild is another process: two members, who are there until it is killed.
func beChild(url string) {
	ctx := context.Background()
	b, err := bus.Open(ctx, url)
	if err != nil {
		panic(err)
	}
	every, err := time.ParseDuration(os.Getenv(childEvery))
	if err != nil {
		panic(err)
	}
	rs, err := presence.Open(ctx, b, "here", presence.Every(every))
	if err != nil {
		panic(err)
	}
	for _, id := range []string{"child", "both"} {
		if _, err := rs.Join(ctx, "Go", presence.Member{ID: id}, nil); err != nil {
			panic(err)
		}
	}
	fmt.Println("joined")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		os.Exit(1) // the parent is gone
	}
}

func startServer(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patience))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

// patience is how long a test waits for what should come soon: the machine may be busy. How soon it comes is proved
// where the clock is a test's own, as in TestCrash.
const patience = time.Minute

// becomes waits until the list is want.
func becomes(t *testing.T, v *presence.Visit, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return slices.Equal(want, ids(v)) }, patience, 5*time.Millisecond, "want %v", want)
}

func TestNATS_aKilledProcessIsGoneWithinSeconds(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), -1)
	x, y := open(t, openBus(t, s.ClientURL())), open(t, openBus(t, s.ClientURL()))
	a := join(t, x, "Go", "a")
	join(t, y, "Go", "both")
	becomes(t, a, "a", "both")

	child := exec.Command(os.Args[0])
	every := 2 * time.Second // the default
	if testing.Short() {
		every /= 5
	}
	child.Env = append(os.Environ(), childURL+"="+s.ClientURL(), childEvery+"="+every.String())
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "joined\n", line)
	require.Eventually(t, func() bool { return slices.Contains(ids(a), "child") }, patience, time.Millisecond)

	require.NoError(t, child.Process.Kill())
	killed := time.Now()
	require.Error(t, child.Wait())
	becomes(t, a, "a", "both")
	t.Logf("gone %s after SIGKILL", time.Since(killed).Round(time.Millisecond))
}

func TestNATS_embedded(t *testing.T) {
	t.Parallel()
	b := openBus(t, "nats:"+t.TempDir())
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	_, err := presence.Open(t.Context(), b, "chat.here")
	require.ErrorIs(t, err, presence.ErrCaptured)
	x, y := open(t, b, presence.Grace(100*time.Millisecond)), open(t, b)
	changed := make(chan struct{}, 100)
	w := watch(t, y, "C++ & Go", func() { changed <- struct{}{} })
	v := join(t, x, "C++ & Go", "a")
	<-changed
	becomes(t, w, "a")
	v.Leave()
	<-changed
	becomes(t, w)
	join(t, x, "C++ & Go", "b")
	<-changed
	becomes(t, w, "b")
	require.NoError(t, x.Close(t.Context()), "says goodbye")
	<-changed
	becomes(t, w)
}

// The server goes away and comes back: everybody is seen again.
func TestNATS_anOutageIsSurvived(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, -1)
	quick := presence.Every(100 * time.Millisecond)
	quietBus := bus.WithLogger(slog.New(slog.DiscardHandler))
	busX, busY := openBus(t, s.ClientURL(), quietBus), openBus(t, s.ClientURL(), quietBus)
	x, y := open(t, busX, quick, quiet), open(t, busY, quick, quiet)
	a, b := join(t, x, "Go", "a"), join(t, y, "Go", "b")
	becomes(t, a, "a", "b")
	becomes(t, b, "a", "b")
	port := s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	becomes(t, a, "a")
	becomes(t, b, "b")
	startServer(t, dir, port)
	becomes(t, a, "a", "b")
	becomes(t, b, "a", "b")
	for _, c := range []interface{ Close(context.Context) error }{x, y, busX, busY} { // before the server
		require.NoError(t, c.Close(t.Context()))
	}
}
