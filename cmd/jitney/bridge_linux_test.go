package main_test

import (
	"fmt"
	"io"
	"net"
	neturl "net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// screen is a terminal window in which a command runs.
type screen struct {
	keys *os.File
	buffer
	ended chan struct{} // the command has closed it
}

// onScreen starts a command in a window of its own.
func onScreen(t *testing.T, columns int, cmd *exec.Cmd) *screen {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	s := &screen{keys: os.NewFile(uintptr(fd), "ptmx"), ended: make(chan struct{})}
	t.Cleanup(func() { _ = s.keys.Close() }) // it may be closed
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	s.resize(t, columns)
	window, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	defer window.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = window, window, window
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it is dead already, unless the test has failed
	go func() {
		defer close(s.ended)
		_, _ = io.Copy(&s.buffer, s.keys) // EIO when nobody has the window any more
	}()
	return s
}

func (s *screen) resize(t *testing.T, columns int) {
	t.Helper()
	require.NoError(t, unix.IoctlSetWinsize(int(s.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}))
}

func (s *screen) shows(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.String(), text) }, time.Minute, time.Millisecond, "%s", text)
}

// wait returns the exit status when all that the command has written is there.
func (s *screen) wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	_ = cmd.Wait() // the status is returned
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		require.Fail(t, "the window is still open")
	}
	return cmd.ProcessState.ExitCode()
}

// left is what a person sees at the end, and drawn every line that was there before it was overwritten.
func (s *screen) left() (left string, drawn []string) {
	var lines []string
	for line := range strings.SplitSeq(s.String(), "\r\n") {
		states := strings.Split(line, "\r\x1b[K")
		drawn = append(drawn, states[:len(states)-1]...)
		lines = append(lines, states[len(states)-1])
	}
	return strings.Join(lines, "\n"), drawn
}

// sluice is a way to a server that lets n bytes through, and the others when it is opened.
type sluice struct {
	mu     sync.Mutex
	n      int
	opened chan struct{}
}

// behindSluice returns the URL of the way and the function that opens it.
func behindSluice(t *testing.T, server string, n int) (url string, open func()) {
	t.Helper()
	u, err := neturl.Parse(server)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &sluice{n: n, opened: make(chan struct{})}
	var running sync.WaitGroup
	open = sync.OnceFunc(func() { close(s.opened) })
	t.Cleanup(func() {
		open()
		_ = l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = client.Close()
				continue
			}
			running.Go(func() {
				_, _ = io.Copy(there, &through{client, s}) // until the client has gone
				_ = there.Close()
			})
			running.Go(func() {
				_, _ = io.Copy(client, there) // until the server has
				_ = client.Close()
			})
		}
	})
	return "nats://" + l.Addr().String(), open
}

// through is what comes through a sluice.
type through struct {
	io.Reader
	s *sluice
}

func (r *through) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.s.mu.Lock()
	r.s.n -= n
	shut := r.s.n < 0
	r.s.mu.Unlock()
	if shut {
		<-r.s.opened
	}
	return n, err
}

var progress = regexp.MustCompile(`^CHAT (copied|compared) (\[#*\.*\] )?(\d+) of 6000$`)

func TestBridge_onATerminalABarGrowsAndMakesRoomForTheSummary(t *testing.T) {
	jitney := build(t)
	const n = 6000
	from := store(t, n)
	for _, c := range []struct {
		name            string
		before, columns int
		bar             bool
	}{
		{"of 80 columns", 80, 80, true}, {"of 40", 40, 40, true}, {"of 28, without the bar", 28, 28, false}, {"that gets narrower", 80, 40, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			to, open := behindSluice(t, natsServer(t), 600_000)
			cmd := exec.Command(jitney, "bridge", "-from", "nats:"+from, "-to", to, "-streams", "CHAT")
			s := onScreen(t, c.before, cmd)
			s.shows(t, "of 6000")
			s.resize(t, c.columns)
			open()
			require.Zero(t, s.wait(t, cmd), s.String())

			left, drawn := s.left()
			require.Equal(t, "CHAT: 6000 messages, the same at both ends (sum S), 6000 copied now\n", sums.ReplaceAllString(left, "sum S"))
			done, hashes := map[string]int{}, map[string]int{}
			for _, line := range drawn {
				if line == "" {
					continue // the bar makes room
				}
				p := progress.FindStringSubmatch(line)
				require.NotNil(t, p, line)
				require.Equal(t, c.bar, p[2] != "", line)
				switch {
				case !c.bar:
					require.Less(t, len(line), c.columns, line)
				case c.before != c.columns && p[1] == "copied": // before or after the window was changed
					require.Contains(t, []int{c.before - 1, c.columns - 1}, len(line), line)
				default:
					require.Len(t, line, c.columns-1, "as wide as there is room")
				}
				now, err := strconv.Atoi(p[3])
				require.NoError(t, err)
				require.GreaterOrEqual(t, now, done[p[1]], line)
				done[p[1]], hashes[p[1]] = now, strings.Count(line, ".")
			}
			require.Equal(t, map[string]int{"copied": n, "compared": n}, done)
			require.Equal(t, map[string]int{"copied": 0, "compared": 0}, hashes, "bars are full at the end")
		})
	}
}

func TestBridge_ctrlCInTheMiddleSaysThatNothingIsLostAndTheNextGoesOn(t *testing.T) {
	jitney := build(t)
	const n = 6000
	from, to := store(t, n), natsServer(t)
	slow, open := behindSluice(t, to, 600_000)
	cmd := exec.Command(jitney, "bridge", "-from", "nats:"+from, "-to", slow, "-streams", "CHAT")
	s := onScreen(t, 80, cmd)
	s.shows(t, "CHAT copied [")
	_, err := s.keys.WriteString("\x03")
	require.NoError(t, err)
	s.shows(t, "^C") // the signal is sent
	open()
	require.Equal(t, 1, s.wait(t, cmd), s.String())
	left, _ := s.left()
	require.Regexp(t, `(?s)^jitney bridge: .*interrupted; nothing is lost: the same command goes on from here\n$`, left)

	status, out, stderr := bridge(t, jitney, "-from", "nats:"+from, "-to", to, "-streams", "CHAT")
	require.Zero(t, status, out+stderr)
	var copied int
	_, err = fmt.Sscanf(sums.ReplaceAllString(out, "sum S"), "CHAT: 6000 messages, the same at both ends (sum S), %d copied now", &copied)
	require.NoError(t, err, out)
	require.Greater(t, copied, 0)
	require.Less(t, copied, n)
	said(t, to, n)
}
