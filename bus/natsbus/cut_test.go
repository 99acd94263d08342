package natsbus_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"regexp"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// wires are what members reach each other by: a relay before each of them, which can cut one off from all others.
type wires struct {
	ports map[string]int // by member, of its relay
	real  map[string]int
	all   sync.WaitGroup

	mu    sync.Mutex
	cut   map[string]bool
	conns map[net.Conn][2]string // who has dialled whom
	done  bool
}

// newWires puts relays before the members, which are told to advertise them.
func newWires(t *testing.T, c *members) *wires {
	t.Helper()
	w := &wires{ports: map[string]int{}, real: map[string]int{}, cut: map[string]bool{}, conns: map[net.Conn][2]string{}}
	var fronts []net.Listener
	for _, name := range names {
		front, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		fronts = append(fronts, front)
		w.ports[name], w.real[name] = front.Addr().(*net.TCPAddr).Port, c.ports[name]
	}
	for i, name := range names {
		front := fronts[i]
		w.all.Go(func() {
			for {
				conn, err := front.Accept()
				if err != nil {
					return
				}
				w.all.Go(func() { w.relay(conn, name) })
			}
		})
	}
	t.Cleanup(func() {
		for _, front := range fronts {
			front.Close()
		}
		w.mu.Lock()
		w.done = true
		for conn := range w.conns {
			conn.Close()
		}
		w.mu.Unlock()
		w.all.Wait()
	})
	return w
}

// set cuts a member off, or lets it in again.
func (w *wires) set(name string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[name] = cut
	for conn, ends := range w.conns {
		if w.cut[ends[0]] || w.cut[ends[1]] {
			conn.Close()
		}
	}
}

// keep notes a connection; false: it can't stand.
func (w *wires) keep(from, to string, conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range conns {
		w.conns[conn] = [2]string{from, to}
	}
	return !w.cut[from] && !w.cut[to] && !w.done
}

var serverName = regexp.MustCompile(`"server_name":"(n\d)"`)

// relay passes on what goes between the one who dials and a member. What both say is held back until the dialler has
// told its name: the member's first words alone make a connection in the dialler's eyes.
func (w *wires) relay(dialler net.Conn, to string) {
	member, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", w.real[to]))
	if err != nil {
		dialler.Close()
		return
	}
	defer func() {
		dialler.Close()
		member.Close()
		w.mu.Lock()
		delete(w.conns, dialler)
		delete(w.conns, member)
		w.mu.Unlock()
	}()
	if !w.keep("", to, dialler, member) {
		return
	}
	var first bytes.Buffer
	chunk := make([]byte, 4096)
	var from string
	for from == "" {
		n, err := dialler.Read(chunk)
		if err != nil {
			break
		}
		first.Write(chunk[:n])
		if found := serverName.FindSubmatch(first.Bytes()); found != nil {
			from = string(found[1])
		}
	}
	if from == "" || !w.keep(from, to, dialler, member) {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(dialler, member) // an error is an end
		dialler.Close()
	}()
	_, _ = io.Copy(member, io.MultiReader(&first, dialler)) // an error is an end
	member.Close()
	dialler.Close()
	<-back
}
