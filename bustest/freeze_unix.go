//go:build unix

package bustest

import (
	"errors"
	"os"
	"syscall"
)

// freeze returns when the process, a child of this one, has stopped.
func freeze(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		_, err := syscall.Wait4(p.Pid, nil, syscall.WUNTRACED, nil)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func thaw(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
