package natsbus_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// deaf is a way to a server on which nothing gets there any more once it is told so.
type deaf struct {
	mu    sync.Mutex
	shut  bool
	lost  int // reads that didn't get there
	conns []net.Conn
	all   sync.WaitGroup
}

func newDeaf(t *testing.T, server string) (d *deaf, way string) {
	t.Helper()
	u, err := url.Parse(server)
	require.NoError(t, err)
	front, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d = &deaf{}
	d.all.Go(func() {
		for {
			client, err := front.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", u.Host)
			if err != nil {
				client.Close()
				continue
			}
			d.mu.Lock()
			d.conns = append(d.conns, client, back)
			d.mu.Unlock()
			d.all.Go(func() { _, _ = io.Copy(client, back) }) // until one is closed
			d.all.Go(func() {
				defer back.Close()
				for p := make([]byte, 1<<16); ; {
					n, err := client.Read(p)
					if err != nil {
						return
					}
					d.mu.Lock()
					shut := d.shut
					if shut {
						d.lost++
					}
					d.mu.Unlock()
					if !shut {
						_, _ = back.Write(p[:n]) // its end is seen by the other one
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		front.Close()
		d.cut()
		d.all.Wait()
	})
	return d, "nats://" + front.Addr().String()
}

// set has it let nothing through, and counts anew what is lost.
func (d *deaf) set(shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut, d.lost = shut, 0
}

func (d *deaf) lostSome() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost > 0
}

// cut ends the connections that stand.
func (d *deaf) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

func TestExternal_aQuestionDoesNotOutliveItsConnection(t *testing.T) {
	way, url := newDeaf(t, startServer(t, t.TempDir(), -1).ClientURL())
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	way.set(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	asked := make(chan error, 1)
	go func() {
		_, err := b.(bus.StreamLister).Streams(ctx)
		asked <- err
	}()
	require.Eventually(t, way.lostSome, 30*time.Second, time.Millisecond)
	way.set(false)
	way.cut()
	select {
	case err := <-asked:
		require.ErrorIs(t, err, bus.ErrUnavailable)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "it waited for an answer until its time was over")
	case <-time.After(2 * time.Minute):
		require.Fail(t, "it waits for ever")
	}
	require.Eventually(t, func() bool {
		_, err := b.(bus.StreamLister).Streams(ctx)
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
}
