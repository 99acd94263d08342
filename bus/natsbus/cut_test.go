package natsbus_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// wires are what members reach each other by: a relay from each of them to each other one. A member can be cut off from all others.
type wires struct {
	ports   map[[2]string]int // of the relay, by who dials and whom
	nowhere map[string]int    // by member: nothing answers there
	all     sync.WaitGroup

	mu    sync.Mutex
	cut   map[string]bool
	conns map[net.Conn][2]string // who has dialled whom
	done  bool
}

// newWires puts relays between the members. What each tells others of itself leads nowhere, so that there is no other way.
func newWires(t *testing.T, c *members) *wires {
	t.Helper()
	w := &wires{ports: map[[2]string]int{}, nowhere: map[string]int{}, cut: map[string]bool{}, conns: map[net.Conn][2]string{}}
	var fronts []net.Listener
	// serve returns the port whose connections answer gets.
	serve := func(answer func(conn net.Conn)) int {
		front, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		fronts = append(fronts, front)
		w.all.Go(func() {
			for {
				conn, err := front.Accept()
				if err != nil {
					return
				}
				w.all.Go(func() { answer(conn) })
			}
		})
		return front.Addr().(*net.TCPAddr).Port
	}
	for _, to := range names {
		w.nowhere[to] = serve(func(conn net.Conn) { conn.Close() })
		for _, from := range names {
			if from != to {
				w.ports[[2]string{from, to}] = serve(func(conn net.Conn) { w.relay(conn, from, to, c.ports[to]) })
			}
		}
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

// relay passes on what goes between a member that has dialled and one that listens at a port.
func (w *wires) relay(dialler net.Conn, from, to string, port int) {
	member, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
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
	if !w.keep(from, to, dialler, member) {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(dialler, member) // an error is an end
		dialler.Close()
	}()
	_, _ = io.Copy(member, dialler) // an error is an end
	member.Close()
	dialler.Close()
	<-back
}
