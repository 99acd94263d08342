package natsbus_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

const childDir = "JITNEY_TEST_OPEN_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		holdOpen(dir)
		return
	}
	if addr := os.Getenv(serveAddr); addr != "" {
		serve(addr, os.Getenv(serveDir))
		return
	}
	if url := os.Getenv(memberURL); url != "" {
		beMember(url)
		return
	}
	if url := os.Getenv(writeURL); url != "" {
		write(url)
		return
	}
	goleak.VerifyTestMain(m)
}

// holdOpen is a child process: it opens a store and holds it until its input ends.
func holdOpen(dir string) {
	b, err := natsbus.Open(context.Background(), dir)
	if err != nil {
		panic(err)
	}
	if _, err := os.Stdout.WriteString("open\n"); err != nil {
		panic(err)
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		panic("nobody writes to a child")
	}
	if err := b.Close(context.Background()); err != nil {
		panic(err)
	}
}

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "chat")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for _, text := range []string{"hello", "still here after a restart"} {
		b, err := natsbus.Open(ctx, dir)
		if err != nil {
			panic(err)
		}
		if err := b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}); err != nil {
			panic(err)
		}
		if err := bus.Publish(ctx, b, "chat.Go", text); err != nil {
			panic(err)
		}
		_, err = bus.Subscribe(ctx, b, "chat.*", func(_ context.Context, text string) error {
			fmt.Println(text)
			return nil
		}, bus.Last(50))
		if err != nil {
			panic(err)
		}
		if err := b.Close(ctx); err != nil {
			panic(err)
		}
	}
	// Output:
	// hello
	// hello
	// still here after a restart
}

func TestOpen_refusesAStoreThatAnotherProcessHas(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "open\n", line)

	_, err = bus.Open(t.Context(), "nats:"+dir)
	require.ErrorIs(t, err, bus.ErrLocked)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "process ")

	require.NoError(t, in.Close())
	require.NoError(t, child.Wait())
	b, err := bus.Open(t.Context(), "nats:"+dir)
	require.NoError(t, err, "a store whose process has ended can be opened")
	require.NoError(t, b.Close(t.Context()))
}

func TestOpen_saysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	dir := t.TempDir()
	used, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer used.Close()
	for url, want := range map[string]string{
		"nats:" + file:                                    "can't be used: not a directory",
		"nats:" + file + "/below":                         "can't be used: not a directory",
		"nats:" + dir + "?sync=never":                     `parameter "sync" is "never"`,
		"nats:" + dir + "?listen=4222":                    `"listen"`,
		"nats:" + dir + "?listen=0.0.0.0:4222":            "others can reach",
		"nats:" + dir + "?listen=:4222":                   "others can reach",
		"nats:" + dir + "?token=geheim":                   `"listen"`,
		"nats:" + dir + "?listen=" + used.Addr().String(): "address already in use",
		"nats://127.0.0.1:1":                              "is the server running",
		"nats://127.0.0.1:1/path":                         "has no path",
		"nats://127.0.0.1:1?x=1":                          `unknown parameter "x"`,
		"nats://127.0.0.1:1?sync=always":                  `parameter "sync" is for an embedded server`,
		"nats:" + dir + "?sync=1ms":                       "from 10ms",
		"nats:a#b":                                        "'#'",
	} {
		_, err := bus.Open(t.Context(), url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "geheim")
	}
	b, err := natsbus.Open(t.Context(), dir)
	require.NoError(t, err, "what was refused has left nothing behind")
	require.NoError(t, b.Close(t.Context()))
}

// listening returns the addresses on which this process listens.
func listening(t *testing.T) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the kernel's table of listening sockets is read on Linux only")
	}
	own := map[string]bool{}
	handles, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, h := range handles {
		// A handle may be closed meanwhile; then it doesn't listen.
		if target, err := os.Readlink("/proc/self/fd/" + h.Name()); err == nil {
			own[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
		}
	}
	var addrs []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && own[f[9]] {
				addrs = append(addrs, f[1])
			}
		}
	}
	return addrs
}

func TestConfig_saysWhatAURLSays(t *testing.T) {
	dir := t.TempDir()
	for want, c := range map[string]natsbus.Config{
		`parameter "sync" is "1ms": want`:        {Dir: dir, Sync: time.Millisecond},
		`parameter "sync" is "3m0s"`:             {Dir: dir, Sync: 3 * time.Minute},
		`parameter "token" needs`:                {Dir: dir, Token: "geheim"},
		`parameter "listen" is "0.0.0.0:4222", `: {Dir: dir, Listen: "0.0.0.0:4222"},
	} {
		_, err := c.Open(t.Context())
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, dir)
	}
	for _, sync := range []time.Duration{0, natsbus.SyncFast, natsbus.SyncAlways, time.Second} {
		b, err := natsbus.Config{Dir: dir, Sync: sync}.Open(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), chat))
		require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte(sync.String())))
		require.NoError(t, b.Close(t.Context()))
	}
}

func TestOpen_listensOnNothingUnlessAsked(t *testing.T) {
	b, err := natsbus.Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	require.Empty(t, listening(t))
	require.NoError(t, b.Close(t.Context()))

	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := free.Addr().String()
	require.NoError(t, free.Close())
	b, err = bus.Open(t.Context(), "nats:"+t.TempDir()+"?listen="+addr+"&token=geheim")
	require.NoError(t, err)
	require.Len(t, listening(t), 1)
	_, err = nats.Connect("nats://" + addr)
	require.ErrorIs(t, err, nats.ErrAuthorization)
	_, err = bus.Open(t.Context(), "nats://falsch@"+addr)
	require.ErrorIs(t, err, bus.ErrUnavailable)
	require.NotContains(t, err.Error(), "falsch")
	other, err := bus.Open(t.Context(), "nats://geheim@"+addr)
	require.NoError(t, err)
	require.NoError(t, other.Close(t.Context()))
	require.NoError(t, b.Close(t.Context()))
	require.Empty(t, listening(t))
}

func TestOpen_keepsItsFilesPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	b, err := natsbus.Open(t.Context(), dir)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("private")))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), "nobody else can enter the directory")
	require.NoError(t, b.Close(t.Context()))
}

// When the last stream is removed, the server removes their directory a little later, also under one that is just being made.
func TestEnsureStreams_worksRightAfterTheLastStreamWasRemoved(t *testing.T) {
	b, err := natsbus.Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	defer b.Close(context.Background())
	for range 500 {
		require.NoError(t, b.EnsureStreams(t.Context(), chat))
		require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("stored")))
		require.NoError(t, b.(bus.Remover).RemoveStream(t.Context(), chat.Name))
	}
}
