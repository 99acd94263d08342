package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// asChild is set in the environment of a process that does one task for this command.
const asChild = "JITNEY_COMPARE_CHILD"

// task is what a child is to do. It comes on its standard input, which ends when the child is to end.
type task struct {
	Do     string `json:"do"`
	URL    string `json:"url"`
	Stream string `json:"stream"`
	Prefix string `json:"prefix"` // of the stream's subjects
	Load   load   `json:"load"`
	Acked  []int  `json:"acked,omitempty"` // of doCount: how many messages of each robot must be there
}

// The tasks.
const (
	doLoad  = "load"  // measure all phases but the kill
	doKill  = "kill"  // publish until killed
	doCount = "count" // look for what was published
)

// saying is what a child writes to its standard output, one a line.
type saying struct {
	Phase   string   `json:"phase,omitempty"`   // that begins
	Figures *figures `json:"figures,omitempty"` // the result of doLoad
	Acked   *acked   `json:"acked,omitempty"`   // of doKill, each time
	Present *int     `json:"present,omitempty"` // the result of doCount
	Error   string   `json:"error,omitempty"`   // the task can't be done
}

// acked is that a message was acknowledged.
type acked struct {
	Robot int `json:"robot"`
	N     int `json:"n"` // from 0
}

// runChild does the task that comes on in, and returns when its parent has heard of the result.
func runChild(in io.Reader, out io.Writer) int {
	// Control-C in a terminal is for the parent, too, which then ends this process.
	signal.Ignore(os.Interrupt)
	commands := json.NewDecoder(in)
	var t task
	if err := commands.Decode(&t); err != nil {
		fmt.Fprintln(os.Stderr, "compare: a child's task:", err)
		return exitNothing
	}
	var mu sync.Mutex
	done := false
	parent := make(chan struct{})
	go func() {
		defer close(parent)
		_, _ = io.Copy(io.Discard, commands.Buffered()) // it reads what is in memory
		_, _ = io.Copy(io.Discard, in)                  // however it ends, the parent is gone
		mu.Lock()
		defer mu.Unlock()
		if !done {
			os.Exit(exitFailed)
		}
	}()
	say := func(s saying) {
		mu.Lock()
		defer mu.Unlock()
		done = s.Figures != nil || s.Present != nil || s.Error != ""
		// A parent that doesn't read has gone, which is noticed above.
		_ = json.NewEncoder(out).Encode(s)
	}
	t.run(context.Background(), say)
	<-parent
	return exitDone
}

// run says the result, or an error.
func (t task) run(ctx context.Context, say func(saying)) {
	problems := &problems{}
	b, err := bus.Open(ctx, t.URL, bus.OnError(problems.add))
	if err != nil {
		say(saying{Error: err.Error()})
		return
	}
	var result saying
	if err = b.EnsureStreams(ctx, stream(t.Stream, t.Prefix)); err == nil {
		switch t.Do {
		case doLoad:
			result.Figures, err = t.load(ctx, b, say, problems)
		case doKill:
			err = t.publishUntilKilled(ctx, b, say)
		case doCount:
			var present int
			present, err = t.count(ctx, b)
			result.Present = &present
		default:
			err = fmt.Errorf("no task %q", t.Do)
		}
	}
	if err = errors.Join(err, b.Close(ctx)); err != nil {
		result = saying{Error: err.Error()}
	}
	if result.Figures != nil {
		result.Figures.Problems = problems.list()
	}
	say(result)
}

// stream holds what one part of the load publishes. Should its process and its parent be killed, it is empty soon.
func stream(name, prefix string) bus.StreamConfig {
	return bus.StreamConfig{Name: name, Subjects: []string{prefix + ".>"}, MaxAge: time.Hour}
}

// load measures the phases.
func (t task) load(ctx context.Context, b bus.Bus, say func(saying), problems *problems) (*figures, error) {
	l := t.Load
	c, err := openChat(ctx, b, t.Prefix, l)
	if err != nil {
		return nil, err
	}
	var f figures
	for _, p := range []struct {
		name   string
		into   **phase
		effort int
		speak  func(ctx context.Context, r *run)
	}{
		{"conversation", &f.Conversation, 0, openLoop(l.schedule(l.Rate, l.Conversation))},
		{"burst", &f.Burst, l.Effort, openLoop(l.schedule(l.BurstRate, l.Burst))},
		{"flood", &f.Flood, 0, closedLoop(flooders, l.FloodMessages, l.Flood)},
	} {
		say(saying{Phase: p.name})
		got, err := c.measure(ctx, l.Rooms, p.effort, p.speak)
		if err == nil && got.Deliveries == 0 {
			err = fmt.Errorf("nothing was delivered; %s", got.problem())
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if got.Refused > 0 {
			problems.note(p.name+": ", got.problem())
		}
		*p.into = got
		if p.name == "burst" { // what the flood leaves in memory says more about its length than about the bus
			f.Memory = readMemory()
		}
	}
	return &f, nil
}

// publishUntilKilled says each message that was acknowledged.
func (t task) publishUntilKilled(ctx context.Context, b bus.Bus, say func(saying)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return together(killed, func(robot int) error {
		for n := 0; ; n++ {
			m := said(robot, 0, n)
			if err := bus.Publish(ctx, b, fmt.Sprintf("%s.robot.%d", t.Prefix, robot), m); err != nil {
				cancel() // none is to go on
				return err
			}
			say(saying{Acked: &acked{robot, n}})
		}
	})
}

// count returns how many of the messages that were acknowledged are there.
func (t task) count(ctx context.Context, b bus.Bus) (present int, err error) {
	seen := make([]numbers, len(t.Acked))
	_, err = bus.Subscribe(ctx, b, t.Prefix+".>", func(_ context.Context, m message) error {
		if m.Phase < len(seen) && m.N < t.Acked[m.Phase] && seen[m.Phase].add(m.N) {
			present++
		}
		return nil
	}, bus.All())
	return present, err
}

// problems are what the error hook was told and the like, the first few.
type problems struct {
	mu    sync.Mutex
	texts []string
	more  int
}

func (p *problems) add(problem bus.Problem) {
	where := ""
	if problem.Pattern != "" {
		where = problem.Pattern + ": "
	}
	p.note(where, problem.Err.Error())
}

func (p *problems) note(where, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const most = 5
	if len(p.texts) == most {
		p.more++
		return
	}
	p.texts = append(p.texts, where+text)
}

func (p *problems) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.more == 0 {
		return p.texts
	}
	return append(p.texts[:len(p.texts):len(p.texts)], fmt.Sprintf("and %d more", p.more))
}

// child is a process that does a task, as its parent sees it.
type child struct {
	cmd  *exec.Cmd
	in   io.Closer
	said *json.Decoder
}

// start begins a task in a process of its own, which ends with ctx.
func (cmd *command) start(ctx context.Context, t task) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &child{cmd: exec.CommandContext(ctx, self, os.Args[1:]...)}
	p.cmd.Env = append(p.cmd.Environ(), asChild+"=1")
	p.cmd.Stderr = cmd.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.in, p.said = in, json.NewDecoder(out)
	if err := json.NewEncoder(in).Encode(t); err != nil {
		return nil, errors.Join(err, p.end())
	}
	return p, nil
}

// next is what the child says next; its error is io.EOF or io.ErrUnexpectedEOF when it has ended.
func (p *child) next() (saying, error) {
	var s saying
	err := p.said.Decode(&s)
	if err == nil && s.Error != "" {
		err = errors.New(s.Error)
	}
	return s, err
}

// kill ends the child as a crash does.
func (p *child) kill() { _ = p.cmd.Process.Kill() } // it may have ended

// end tells the child that it may end, and waits until it has.
func (p *child) end() error {
	return errors.Join(p.in.Close(), p.cmd.Wait())
}

// do has a child do a task, and returns its result.
func (cmd *command) do(ctx context.Context, t task, begins func(phase string)) (result saying, err error) {
	p, err := cmd.start(ctx, t)
	if err != nil {
		return result, err
	}
	for {
		s, err := p.next()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return s, errors.Join(errors.New("its process has ended early"), p.end(), ctx.Err())
		case err != nil:
			return s, errors.Join(err, p.end())
		case s.Figures != nil || s.Present != nil:
			return s, p.end()
		}
		begins(s.Phase)
	}
}
