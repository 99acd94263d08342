package natsbus_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// memberURL makes this program a member of a cluster, which does what its input says until it ends.
const memberURL = "JITNEY_TEST_MEMBER_URL"

// said is a line of a member's output.
type said struct {
	What   string // open, ensured, acked, failed, got, problem, health, subscribed, closed
	Writer string `json:",omitempty"`
	N      int    `json:",omitempty"`
	Seq    uint64 `json:",omitempty"`
	Error  string `json:",omitempty"`
	// Of an error.
	Unavailable, Unknown, Deadline bool          `json:",omitempty"`
	Took                           time.Duration `json:",omitempty"`
}

var logStream = bus.StreamConfig{Name: "LOG", Subjects: []string{"log.>"}}

// burstWriters publish a burst, on a subject each.
const burstWriters = 64

// beMember is the child.
func beMember(url string) {
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	say := func(s said) {
		text, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		mu.Lock()
		defer mu.Unlock()
		// The parent reads until it ends.
		_, _ = out.Write(append(text, '\n'))
		_ = out.Flush()
	}
	sayError := func(what, writer string, n int, began time.Time, err error) {
		s := said{What: what, Writer: writer, N: n, Took: time.Since(began)}
		if err != nil {
			s.Error = err.Error()
			s.Unavailable, s.Unknown = errors.Is(err, bus.ErrUnavailable), errors.Is(err, bus.ErrUnknownOutcome)
			s.Deadline = errors.Is(err, context.DeadlineExceeded)
		}
		say(s)
	}
	ctx := context.Background()
	b, err := bus.Open(ctx, url, bus.OnError(func(p bus.Problem) { say(said{What: "problem", Error: p.Err.Error()}) }))
	if err != nil {
		panic(err)
	}
	say(said{What: "open"})
	var writing sync.WaitGroup
	life, stop := context.WithCancel(ctx)
	defer stop()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		began := time.Now()
		switch word {
		case "ensure":
			sayError("ensured", "", 0, began, b.EnsureStreams(ctx, logStream))
		case "subscribe":
			_, err := b.Subscribe(ctx, "log.>", func(_ context.Context, m *bus.Message) error {
				var s said
				if err := json.Unmarshal(m.Data, &s); err != nil {
					return err
				}
				say(said{What: "got", Writer: s.Writer, N: s.N, Seq: m.Cursor.Sequence()})
				return nil
			}, bus.All())
			sayError("subscribed", "", 0, began, err)
		case "listen": // to what isn't captured
			_, err := b.Subscribe(ctx, "note", func(context.Context, *bus.Message) error {
				say(said{What: "heard"})
				return nil
			})
			sayError("listening", "", 0, began, err)
		case "replay": // what there is
			start := map[string]bus.SubscribeOption{"all": bus.All(), "last": bus.Last(10), "subjects": bus.LastPerSubject()}[rest]
			n, last := 0, uint64(0)
			sub, err := b.Subscribe(ctx, "log.*", func(_ context.Context, m *bus.Message) error {
				if m.Replayed {
					n, last = n+1, m.Cursor.Sequence()
				}
				return nil
			}, start)
			if err == nil {
				err = sub.Unsubscribe(ctx)
			}
			say(said{What: "replayed", Writer: rest, N: n, Seq: last, Error: fmt.Sprint(err)})
		case "burst": // so many messages
			n, err := strconv.Atoi(rest)
			if err != nil {
				panic(err)
			}
			var writing sync.WaitGroup
			var failed atomic.Int64
			text := []byte(`{"Writer":"burst","Error":"` + strings.Repeat("x", 1000) + `"}`)
			for w := range burstWriters {
				writing.Go(func() {
					for range n / burstWriters {
						if b.Publish(ctx, fmt.Sprint("log.", w), text) != nil {
							failed.Add(1)
						}
					}
				})
			}
			writing.Wait()
			say(said{What: "burst", N: int(failed.Load())})
		case "try": // one publish or subscribe, with a deadline
			go func() {
				what, text, _ := strings.Cut(rest, " ")
				d, err := time.ParseDuration(text)
				if err != nil {
					panic(err)
				}
				short, cancel := context.WithTimeout(ctx, d)
				defer cancel()
				switch what {
				case "publish":
					err = b.Publish(short, "log.try", []byte(`{"Writer":"try"}`))
				case "end":
					err = b.Publish(short, "log.end", []byte(`{"Writer":"end"}`))
				case "subscribe":
					_, err = b.Subscribe(short, "log.>", func(context.Context, *bus.Message) error { return nil }, bus.All())
				case "uncaptured":
					err = b.Publish(short, "note", nil)
				}
				sayError("tried", what, 0, began, err)
			}()
		case "write":
			writing.Go(func() {
				for n := 1; life.Err() == nil; n++ {
					text, err := json.Marshal(said{Writer: rest, N: n})
					if err != nil {
						panic(err)
					}
					began := time.Now()
					if err := b.Publish(ctx, "log."+rest, text); err != nil {
						sayError("failed", rest, n, began, err)
						continue
					}
					say(said{What: "acked", Writer: rest, N: n, Took: time.Since(began)})
				}
			})
		case "rest":
			stop()
			writing.Wait()
			say(said{What: "resting"})
		case "health":
			sayError("health", "", 0, began, b.(bus.HealthChecker).Health(ctx))
		case "close":
			err := b.Close(ctx)
			sayError("closed", "", 0, began, err)
			return
		default:
			panic(word)
		}
	}
}

// process is a member that is a process of its own.
type process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{}

	mu   sync.Mutex
	said []said
	at   []time.Time
	more chan struct{} // closed when something was said
}

// members is a cluster of three processes.
type members struct {
	t     *testing.T
	dir   string
	extra string // parameters
	ports map[string]int
	procs map[string]*process
	wires *wires // nil: they reach each other directly
}

var names = []string{"n1", "n2", "n3"}

func newMembers(t *testing.T, extra string) *members {
	t.Helper()
	c := &members{t: t, dir: t.TempDir(), extra: extra, ports: map[string]int{}, procs: map[string]*process{}}
	for _, name := range names {
		c.ports[name], c.ports[name+" clients"] = freePort(t), freePort(t)
	}
	return c
}

var givenPorts sync.Map

// freePort is one that nobody listens on, and that neither the system gives to anybody by itself nor freePort gives again.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func (c *members) url(name string) string {
	advertise := ""
	if c.wires != nil {
		advertise = fmt.Sprint("&route-advertise=127.0.0.1:", c.wires.nowhere[name])
	}
	var routes []string
	for _, other := range names {
		port := c.ports[other]
		if c.wires != nil && other != name {
			port = c.wires.ports[[2]string{name, other}]
		}
		routes = append(routes, fmt.Sprint("127.0.0.1:", port))
	}
	return fmt.Sprintf("nats:%s?cluster=chat&member=%s&secret=geheim&route-listen=127.0.0.1:%d&routes=%s&listen=127.0.0.1:%d&token=geheim%s%s",
		filepath.Join(c.dir, name), name, c.ports[name], strings.Join(routes, ","), c.ports[name+" clients"], advertise, c.extra)
}

// start starts a member, without waiting for it.
func (c *members) start(name string) *process {
	c.t.Helper()
	p := &process{name: name, cmd: exec.Command(os.Args[0]), ended: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), memberURL+"="+c.url(name))
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(c.t, err)
	defer log.Close()
	p.cmd.Stderr = log
	p.in, err = p.cmd.StdinPipe()
	require.NoError(c.t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, p.cmd.Start())
	go p.read(out)
	c.procs[name] = p
	c.t.Cleanup(func() {
		p.kill()
		if c.t.Failed() {
			text, err := os.ReadFile(filepath.Join(c.dir, name+".log"))
			c.t.Logf("%s said (%v): %s", name, err, tailOf(text))
		}
	})
	return p
}

func tailOf(text []byte) []byte { return text[max(0, len(text)-4000):] }

func (c *members) startAll() {
	c.t.Helper()
	for _, name := range names {
		c.start(name)
	}
	for _, name := range names {
		c.procs[name].await(c.t, "open", 1)
	}
}

func (p *process) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var s said
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			continue // a line that the kill has cut
		}
		p.mu.Lock()
		p.said, p.at = append(p.said, s), append(p.at, time.Now())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
	_ = p.cmd.Wait() // it may have been killed
	close(p.ended)
}

// do tells the member to do something.
func (p *process) do(t *testing.T, what string) {
	t.Helper()
	_, err := io.WriteString(p.in, what+"\n")
	require.NoError(t, err, "%s: %s", p.name, what)
}

// all returns what the member has said about something.
func (p *process) all(what string) (all []said, at []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.said {
		if s.What == what {
			all, at = append(all, s), append(at, p.at[i])
		}
	}
	return all, at
}

// clusterPatience is how long something may take on a busy machine: two elections, and more.
const clusterPatience = 90 * time.Second

// await waits until the member has said something n times, and returns what it said the last time.
func (p *process) await(t *testing.T, what string, n int) said {
	t.Helper()
	late := time.After(clusterPatience)
	for {
		p.mu.Lock()
		more := p.more
		p.mu.Unlock()
		all, _ := p.all(what)
		if len(all) >= n {
			return all[n-1]
		}
		select {
		case <-more:
		case <-p.ended:
			if all, _ := p.all(what); len(all) >= n {
				return all[n-1]
			}
			t.Fatalf("%s has ended before it said %q %d times", p.name, what, n)
		case <-late:
			t.Fatalf("%s has said %q %d times, want %d", p.name, what, len(all), n)
		}
	}
}

// ask tells the member to do something, and waits for what it says then.
func (p *process) ask(t *testing.T, do, what string) said {
	t.Helper()
	all, _ := p.all(what)
	p.do(t, do)
	return p.await(t, what, len(all)+1)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// leader asks a member that runs who leads the log; "" when it isn't known.
func (c *members) leader(by string) string {
	nc, err := nats.Connect(fmt.Sprintf("nats://geheim@127.0.0.1:%d", c.ports[by+" clients"]))
	if err != nil {
		return ""
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(c.t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, logStream.Name)
	if err != nil || stream.CachedInfo().Cluster == nil {
		return ""
	}
	return stream.CachedInfo().Cluster.Leader
}
