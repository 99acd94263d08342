package migrate_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what should come at once: the machine may be busy.
const patience = time.Minute

// bin holds the programs, by their names.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "jitney-migrate-"); err == nil {
		var out []byte
		if out, err = exec.Command("go", "build", "-o", bin, "./step0", "./step1", "./step2", "./step3", "./step4", "./step5").CombinedOutput(); err != nil {
			err = fmt.Errorf("build the steps: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(bin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// child is a step that runs as a process of its own.
type child struct {
	t      *testing.T
	url    string
	cmd    *exec.Cmd
	output chan string // what it has written, when it has ended
	client http.Client
}

// start starts a step; data is the directory of its NATS, if it has one.
func start(t *testing.T, step int, data string) *child {
	t.Helper()
	name := fmt.Sprint("step", step)
	args := []string{"-addr", "127.0.0.1:0"}
	if step >= 3 {
		args = append(args, "-data", data)
	}
	c := &child{t: t, cmd: exec.Command(filepath.Join(bin, name), args...), output: make(chan string, 1)}
	c.client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c.cmd.Dir = t.TempDir()
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(c.kill)
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	require.NoError(t, err, name)
	c.url = strings.TrimSpace(first)
	go func() {
		rest, _ := io.ReadAll(lines) // a killed program's pipe ends in any way
		c.output <- string(rest)
	}()
	return c
}

// kill ends the process as a power cut does. It may have ended before.
func (c *child) kill() { c.end(syscall.SIGKILL) }

// stop ends it in order, and returns what it has written.
func (c *child) stop() string {
	c.t.Helper()
	out := c.end(syscall.SIGTERM)
	require.True(c.t, c.cmd.ProcessState.Success(), c.cmd.ProcessState)
	return out
}

func (c *child) end(sig syscall.Signal) string {
	if c.cmd.ProcessState != nil {
		return ""
	}
	_ = c.cmd.Process.Signal(sig) // it may just have ended
	out := <-c.output
	_ = c.cmd.Wait() // how it has ended is seen in the state
	return out
}

// post says something or sets a topic. An error means that nobody has acknowledged it.
func (c *child) post(path, room, who, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body := strings.NewReader(url.Values{"room": {room}, "who": {who}, "text": {text}}.Encode())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text2, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text2)
	}
	return err
}

func (c *child) say(room, who, text string) {
	c.t.Helper()
	require.NoError(c.t, c.post("/say", room, who, text))
}

func (c *child) get(path string) string {
	c.t.Helper()
	answer, err := c.client.Get(c.url + path)
	require.NoError(c.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, http.StatusOK, answer.StatusCode, string(text))
	return string(text)
}

// reader is a page that shows a room.
type reader struct {
	t *testing.T

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when there is another view
	topic   string
	lines   []string
}

// enter opens a page, and returns when it shows something.
func (c *child) enter(room, who string) *reader {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/events?"+url.Values{"room": {room}, "who": {who}}.Encode(), nil)
	require.NoError(c.t, err)
	answer, err := c.client.Do(r)
	require.NoError(c.t, err)
	require.Equal(c.t, "text/event-stream", answer.Header.Get("Content-Type"))
	p := &reader{t: c.t, changed: make(chan struct{})}
	first := p.changed
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer answer.Body.Close()
		events := bufio.NewScanner(answer.Body)
		for events.Scan() {
			if data, ok := strings.CutPrefix(events.Text(), "data: "); ok {
				p.show(data)
			}
		}
	}()
	c.t.Cleanup(func() { cancel(); <-ended })
	<-first
	return p
}

func (p *reader) show(data string) {
	var view struct {
		Topic string
		Lines []struct{ Who, Text string }
	}
	if err := json.Unmarshal([]byte(data), &view); err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.topic, p.lines = view.Topic, []string{}
	for _, line := range view.Lines {
		p.lines = append(p.lines, line.Who+": "+line.Text)
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// waitFor returns when the page shows what is wanted.
func (p *reader) waitFor(shows func(topic string, lines []string) bool) {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		p.mu.Lock()
		topic, lines, changed := p.topic, p.lines, p.changed
		p.mu.Unlock()
		if shows(topic, lines) {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			require.FailNow(p.t, "the page shows something else", "%q, %q", topic, lines)
		}
	}
}
