package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// examples are the programs that tests start, by name.
var examples = map[string]string{"chatroom": "", "nats-chatroom": "", "pubsub-crud": ""}

func buildExamples(dir string) error {
	for name := range examples {
		bin := filepath.Join(dir, name)
		build := exec.Command("go", "build", "-o", bin, "./examples/"+name)
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		examples[name] = bin
	}
	return nil
}

// child is an example that runs as a process of its own.
type child struct {
	t    *testing.T
	url  string
	name string
	args []string

	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has ended
	output *output
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// freeAddress returns a loopback address that nobody listens on. Its port is below those that systems give to
// whoever dials, so that it is still free when a server starts there, for the first time or again.
func freeAddress(t *testing.T) string {
	t.Helper()
	var address string
	eventually(t, "a free port", func() bool {
		address = fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000))
		l, err := net.Listen("tcp", address)
		return err == nil && l.Close() == nil
	})
	return address
}

// startExample starts an example on a free port and waits until it serves.
func startExample(t *testing.T, name string, args ...string) *child {
	t.Helper()
	addr := freeAddress(t)
	c := &child{t: t, url: "http://" + addr, name: name, args: append([]string{"-addr", addr}, args...)}
	c.start()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, c.output)
		}
	})
	return c
}

// start starts the process, also again after a kill, on the same port.
func (c *child) start() {
	c.t.Helper()
	c.launch()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(c.t, c.name+" to be ready", func() bool {
		if closed(c.ended) {
			require.FailNow(c.t, c.name+" has ended", c.output.String())
		}
		r, err := client.Get(c.url + "/readyz")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

func (c *child) launch() {
	c.t.Helper()
	c.output = &output{}
	c.ended = make(chan struct{})
	c.cmd = exec.Command(examples[c.name], c.args...)
	c.cmd.Dir = c.t.TempDir()
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	require.NoError(c.t, c.cmd.Start())
	go func(cmd *exec.Cmd, ended chan struct{}) {
		defer close(ended)
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			c.t.Errorf("waiting for %s: %v", c.name, err)
		}
	}(c.cmd, c.ended)
}

// kill ends the process as a power cut does.
func (c *child) kill() {
	c.t.Helper()
	if closed(c.ended) {
		return
	}
	require.NoError(c.t, c.cmd.Process.Kill())
	<-c.ended
}

// fails runs the example with arguments that can't work, and returns what it writes.
func fails(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := &child{t: t, name: name, args: args}
	c.launch()
	t.Cleanup(c.kill)
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-c.ended:
	case <-late.C:
		require.FailNow(t, "it runs", "%v\n%s", args, c.output)
	}
	require.Equal(t, 1, c.cmd.ProcessState.ExitCode(), c.output)
	return strings.TrimRight(c.output.String(), "\n")
}
