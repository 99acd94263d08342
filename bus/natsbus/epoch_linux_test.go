package natsbus_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// sharedLog is a log that several write.
type sharedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *sharedLog) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(text)
}

func (w *sharedLog) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func TestLives_whatClientsCantBeToldIsLoggedAndToldAtTheNextOpening(t *testing.T) {
	disk := &thinDisk{dir: smallDisk(t, 64<<20)}
	disk.ballast = filepath.Join(disk.dir, "ballast")
	s := serveStore(t, disk.dir)
	c := s.lose(t)
	disk.fill(t, 48<<10) // for what the store itself writes when it is opened
	var log sharedLog
	s.start(t, bus.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.Contains(t, log.String(), "clients can't be told yet that streams have lost their end")
	require.Contains(t, log.String(), "no space left")
	disk.free(t)
	s.stop(t)
	s.start(t)
	require.NotEqual(t, c.Epoch(), requireAgreed(t, s.open, s.client(t)))
	s.end(t)
}
