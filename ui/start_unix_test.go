//go:build unix

package ui_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/ui"
)

func TestStart_endsInOrderAtASignal(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		v := ui.New()
		v.Config(ui.Options{BusURL: "mem:", ServerAddress: "127.0.0.1:0"})
		ended := make(chan error, 1)
		go func() { ended <- v.Start() }()
		require.NotEmpty(t, v.Addr())
		self, err := os.FindProcess(os.Getpid())
		require.NoError(t, err)
		require.NoError(t, self.Signal(signal))
		require.NoError(t, <-ended)
	}
}
