package bustest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A check that must die runs in a child: this program, started again with these variables
// set. It gets to the same check by its name, and finds its role there.
const (
	childRole   = "BUSTEST_CHILD_ROLE"
	childDir    = "BUSTEST_CHILD_DIR"
	childPrefix = "BUSTEST_CHILD_PREFIX"
	childArg    = "BUSTEST_CHILD_ARG"
	childSays   = "bustest-child "

	// childPatience is the least time that a child has until it is killed: on a busy machine
	// starting it takes a while.
	childPatience = 20 * time.Second
)

// child is this check in a process of its own.
type child struct {
	c      *C
	cmd    *exec.Cmd
	out    *bufio.Scanner
	late   *time.Timer // kills it when it has said nothing for so long
	mu     sync.Mutex
	output strings.Builder // what it wrote otherwise
	ended  bool
}

// spawn runs this check in a child that opens e's store. The check there finds role and arg by inChild.
func (c *C) spawn(e *Env, role, arg string) *child {
	cmd := c.child(childRole+"="+role, childArg+"="+arg, childDir+"="+e.Dir, childPrefix+"="+c.prefix)
	return c.started(cmd)
}

func (c *C) started(cmd *exec.Cmd) *child {
	p := &child{c: c, cmd: cmd}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatalf("the child's output: %v", err)
	}
	cmd.Stderr = p
	if err := cmd.Start(); err != nil {
		c.Fatalf("start the child: %v", err)
	}
	p.out = bufio.NewScanner(out)
	p.late = time.AfterFunc(max(c.h.Patience, childPatience), p.kill)
	c.Cleanup(func() { p.kill(); p.wait() })
	return p
}

// Write takes what the child writes to its standard error.
func (p *child) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(text)
}

// next returns what the child says next; ok is false when it has ended.
func (p *child) next() (words []string, ok bool) {
	for p.out.Scan() {
		p.late.Reset(max(p.c.h.Patience, childPatience))
		if text, said := strings.CutPrefix(p.out.Text(), childSays); said {
			return strings.Fields(text), true
		}
		_, _ = p.Write([]byte(p.out.Text() + "\n")) // never fails
	}
	p.wait()
	return nil, false
}

// expect fails the check unless the child says word next.
func (p *child) expect(word string) {
	words, ok := p.next()
	if !ok || words[0] != word {
		p.kill()
		p.c.Fatalf("the child should say %q, it said %q:\n%s", word, words, p.said())
	}
}

// kill ends the child as a crash does.
func (p *child) kill() { _ = p.cmd.Process.Kill() } // it may have ended

func (p *child) wait() {
	p.mu.Lock()
	ended := p.ended
	p.ended = true
	p.mu.Unlock()
	if ended {
		return
	}
	for p.out.Scan() { // the rest, so that nothing blocks
	}
	_ = p.cmd.Wait() // it was killed, or has said why it ended
	p.late.Stop()
}

// said is what the child wrote besides what it says, for the message of a failure.
func (p *child) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// inChild returns what this process is to do when it is a child of the check; role is "" in the check itself.
func (c *C) inChild() (e *Env, role, arg string) {
	role = os.Getenv(childRole)
	if role == "" {
		return nil, "", ""
	}
	c.prefix = os.Getenv(childPrefix)
	// What is logged goes to the parent. There is no directory to remove when it is killed.
	return &Env{Dir: os.Getenv(childDir), ctx: c.ctx}, role, os.Getenv(childArg)
}

// say tells the parent of a child something, in one write.
func (c *C) say(words ...any) {
	fmt.Println(strings.TrimSuffix(childSays+fmt.Sprintln(words...), "\n"))
}
