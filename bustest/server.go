package bustest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"time"
)

// Server is what the buses of a check are clients of, and what the checks of faults break.
// A method returns when it is done; of each pair the second comes after the first.
type Server interface {
	Addr() string // HOST:PORT, for as long as it lives

	Cut() error // ends all connections at once; the server goes on and takes new ones

	Kill() error  // ends the server without a warning
	Start() error // starts it again, with the same address and what it had stored

	Freeze() error // keeps it from answering, with its connections open; errors.ErrUnsupported: it can't be
	Thaw() error

	Close() error // ends it for good, in whatever state it is
}

// Process returns a Harness.Serve that runs a command: a server that keeps its data in dir and
// listens on addr, which is a free port of 127.0.0.1. Buses are given the address of a relay
// in front of it, which is what cuts connections.
func Process(command func(dir, addr string) *exec.Cmd) func(e *Env) (Server, error) {
	return func(e *Env) (Server, error) {
		addr, err := freeAddr()
		if err != nil {
			return nil, fmt.Errorf("bustest: a port for the server: %w", err)
		}
		front, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("bustest: a port for the relay: %w", err)
		}
		p := &process{command: func() *exec.Cmd { return command(e.Dir, addr) }, back: addr, front: front, conns: map[net.Conn]bool{}}
		p.relays.Go(p.accept)
		if err := p.Start(); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		return p, nil
	}
}

// freeAddr is an address on which nobody listens now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// process is a server that is a child process, behind a relay.
type process struct {
	command func() *exec.Cmd
	back    string // where it listens
	front   net.Listener
	relays  sync.WaitGroup

	cmd *exec.Cmd // nil: it doesn't run

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func (p *process) Addr() string { return p.front.Addr().String() }

func (p *process) Start() error {
	cmd := p.command()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("bustest: start the server: %w", err)
	}
	p.cmd = cmd
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(childPatience)
	for {
		conn, err := net.Dial("tcp", p.back)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("bustest: the server doesn't listen on %s: %w", p.back, err)
		}
	}
}

func (p *process) Kill() error {
	if p.cmd == nil {
		return nil
	}
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
	return err
}

func (p *process) Freeze() error { return freeze(p.cmd.Process) }

func (p *process) Thaw() error { return thaw(p.cmd.Process) }

func (p *process) Cut() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close() // it may be closed already
	}
	return nil
}

func (p *process) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := errors.Join(p.front.Close(), p.Kill(), p.Cut())
	p.relays.Wait()
	return err
}

// accept relays connections until the front is closed.
func (p *process) accept() {
	for {
		client, err := p.front.Accept()
		if err != nil {
			return
		}
		p.relays.Go(func() { p.relay(client) })
	}
}

func (p *process) relay(client net.Conn) {
	defer p.drop(client)
	if !p.keep(client) {
		return
	}
	server, err := net.Dial("tcp", p.back)
	if err != nil {
		return
	}
	defer p.drop(server)
	if !p.keep(server) {
		return
	}
	there := make(chan struct{})
	go func() {
		defer close(there)
		_, _ = io.Copy(server, client) // an error is an end
		p.drop(server)
	}()
	_, _ = io.Copy(client, server)
	p.drop(client)
	<-there
}

func (p *process) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = true
	return !p.closed
}

func (p *process) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	_ = conn.Close() // the second time it says so
}
