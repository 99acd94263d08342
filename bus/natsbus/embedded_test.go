package natsbus_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
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
	// A member that is stopped while it makes a Raft group leaves the group's log open: startRaftNode fails then, and nats-server
	// 2.15's createRaftGroup returns without closing it (jetstream_cluster.go). Of a stream that is left, more goroutines would be.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
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
		"nats://127.0.0.1:1":                              "connection refused: is the server running at 127.0.0.1:1?",
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

func TestOpen_saysAtOnceThatAPortIsTaken(t *testing.T) {
	used, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer used.Close()
	addr := used.Addr().String()
	for _, params := range []string{
		"listen=" + addr,
		"leaf-listen=" + addr + "&token=geheim",
		"cluster=chat&member=n1&secret=geheim&route-listen=" + addr + "&routes=127.0.0.1:1,127.0.0.1:2," + addr,
	} {
		began := time.Now()
		_, err := bus.Open(t.Context(), "nats:"+t.TempDir()+"?"+params, quietly(t))
		require.ErrorIs(t, err, bus.ErrUnavailable)
		require.ErrorContains(t, err, "address already in use", params)
		require.ErrorContains(t, err, "choose another one", params)
		require.Less(t, time.Since(began), 15*time.Second, "it doesn't wait for a server that won't be ready")
	}
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

// Whoever listens beyond loopback lets nobody in without a token, and whatever isn't surely loopback is beyond it.
func TestOpen_listensBeyondLoopbackOnlyWithCredentials(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	for _, host := range []string{"", "0.0.0.0", "0", "[::]", "[::ffff:0.0.0.0]", "192.0.2.1", "[2001:db8::1]", "127.1", "2130706433", "example.org", "localhost.example.org"} {
		for _, param := range []string{"listen", "leaf-listen"} {
			_, err := bus.Open(t.Context(), "nats:"+dir+"?"+param+"="+url.QueryEscape(host+":4222"))
			require.Error(t, err, "%s=%s", param, host)
			require.Contains(t, err.Error(), "token", "%s=%s", param, host)
			_, err = bus.Open(t.Context(), "nats:"+dir+"?"+param+"="+url.QueryEscape(host+":4222")+"&token=geheim1&tls=off")
			require.ErrorContains(t, err, `parameter "token" is too short: it needs at least 8 bytes`, "%s=%s", param, host)
			require.NotContains(t, err.Error(), "geheim")
			_, err = bus.Open(t.Context(), "nats:"+dir+"?"+param+"="+url.QueryEscape(host+":4222")+"&token=geheim12")
			require.ErrorContains(t, err, "give it a certificate", "%s=%s", param, host)
		}
	}
	require.NoDirExists(t, dir)

	port := freePort(t)
	b, err := bus.Open(t.Context(), fmt.Sprintf("nats:%s?listen=0.0.0.0:%d&token=geheim12&tls=off", dir, port))
	require.NoError(t, err)
	require.Len(t, listening(t), 1, "neither monitoring nor anything else")
	for _, login := range []nats.Option{nats.Name("nobody"), nats.Token("falsch"), nats.UserInfo("geheim12", ""), nats.UserInfo("", "geheim12"), nats.Token(" ")} {
		nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", port), login)
		require.ErrorIs(t, err, nats.ErrAuthorization)
		require.Nil(t, nc)
	}
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", port), nats.Token("geheim12"))
	require.NoError(t, err)
	nc.Close()
	require.NoError(t, b.Close(t.Context()))
	require.Empty(t, listening(t))
}

// A server of a cluster must listen for clients to have routes at all; where nobody asked for it, nobody gets in.
func TestOpen_aMemberWithoutListenLetsOnlyItselfIn(t *testing.T) {
	openMembers(t, nil)
	addrs := listening(t)
	require.Len(t, addrs, 6, "for the routes and for itself")
	for _, addr := range addrs {
		ip, port, _ := strings.Cut(addr, ":")
		require.Equal(t, "0100007F", ip, "127.0.0.1")
		n, err := strconv.ParseUint(port, 16, 16)
		require.NoError(t, err)
		for _, login := range []nats.Option{nats.Name("nobody"), nats.Token(""), nats.UserInfo("jitney", "")} {
			_, err = nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", n), login)
			require.ErrorIs(t, err, nats.ErrAuthorization)
		}
	}
}

func TestOpen_aLeafListensOnNothing(t *testing.T) {
	_, leaves := startHub(t, server.Options{})
	before := listening(t)
	b := openLeaf(t, leaves, "&domain=hub")
	useOf(t, b)
	require.Equal(t, before, listening(t))
}

func TestOpen_keepsItsFilesPrivate(t *testing.T) {
	allowAll(t) // what is private is so by its own doing
	dir := filepath.Join(t.TempDir(), "data", "chat")
	ctx := t.Context()
	seen := map[string]bool{} // by the kind of file
	check := func() {
		t.Helper()
		require.NoError(t, filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the server has just removed it
			}
			require.NoError(t, err)
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			require.NoError(t, err)
			require.Zero(t, info.Mode().Perm()&0o077, "%s is %s", path, info.Mode())
			seen[filepath.Ext(path)] = true
			return nil
		}))
	}
	for range 2 {
		b, err := natsbus.Open(ctx, dir)
		require.NoError(t, err)
		check()
		require.NoError(t, b.EnsureStreams(ctx, chat, bus.StreamConfig{Name: "FEW", Subjects: []string{"few"}, MaxBytes: 4 << 20},
			bus.StreamConfig{Name: "LAST", Subjects: []string{"last.*"}, MaxMsgsPerSubject: 1}))
		_, err = b.Subscribe(ctx, "chat.>", func(context.Context, *bus.Message) error { return nil }, bus.DurableGroup("g"), bus.Attempts(0))
		require.NoError(t, err)
		data := make([]byte, 64<<10)
		for n := range 400 { // files that go, and files that are written anew without what has been replaced
			for _, subject := range []string{"few", fmt.Sprint("last.", n%7), "chat.Go"} {
				require.NoError(t, b.Publish(ctx, subject, data))
			}
			if n%20 == 0 {
				check()
			}
		}
		check()
		require.NoError(t, b.Close(ctx))
		check()
	}
	require.Contains(t, seen, ".blk")

	// What a damaged store is mended with, and what of it is kept.
	spoil(t, dir)
	b, err := natsbus.Open(ctx, dir)
	require.NoError(t, err)
	require.DirExists(t, filepath.Join(dir, "damaged"))
	check()
	require.NoError(t, b.Close(ctx))

	// A directory that was there before, and that others may enter.
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, os.Chmod(open, 0o755))
	b, err = natsbus.Open(ctx, open)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(ctx, chat))
	require.NoError(t, b.Publish(ctx, "chat.Go", []byte("private")))
	require.NoError(t, b.Close(ctx))
	require.NoError(t, filepath.WalkDir(open, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if path != open { // which is as it was
			require.Zero(t, info.Mode().Perm()&0o077, "%s is %s", path, info.Mode())
		}
		return nil
	}))
}

// spoil changes a byte in the middle of a stream's first file.
func spoil(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "CHAT", "msgs", "*.blk"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	slices.Sort(files)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	data[len(data)/2] ^= 0xff
	require.NoError(t, os.WriteFile(files[0], data, 0o600))
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
