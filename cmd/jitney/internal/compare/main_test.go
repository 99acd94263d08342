package compare_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	_ "github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/cmd/jitney/internal/compare"
)

// asCommand makes this test binary the command.
const asCommand = "COMPARE_TEST_COMMAND"

func TestMain(m *testing.M) {
	bus.Register("losing", openFaulty("", func(string) int { return 0 }))
	bus.Register("twice", openFaulty("", func(string) int { return 2 }))
	bus.Register("forgetful", openFaulty("nats", func(subject string) int {
		if strings.Contains(subject, ".kill.") {
			return 0
		}
		return 1
	}))
	bus.Register("dying", openFaulty("", func(string) int { os.Exit(7); return 0 }))
	bus.Register("refusing", openFaulty("", func(string) int { return -1 }))
	bus.Register("streamless", func(context.Context, *url.URL, bus.OpenOptions) (bus.Bus, error) {
		b, err := membus.Open(0)
		return streamless{b}, err
	})
	bus.Register("keeping", func(ctx context.Context, u *url.URL, _ bus.OpenOptions) (bus.Bus, error) {
		b, err := bus.Open(ctx, "nats://"+u.Host)
		return struct{ bus.Bus }{b}, err
	})
	if os.Getenv(asCommand) != "" {
		status := compare.Main("compare", os.Args[1:])
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 99
		}
		os.Exit(status)
	}
	goleak.VerifyTestMain(m)
}

// faulty publishes each tenth message as often as copies says: -1 is an error.
type faulty struct {
	bus.Bus
	n      atomic.Uint64
	copies func(subject string) int
}

// openFaulty opens a bus of another scheme, or one in memory, with a fault.
func openFaulty(scheme string, copies func(subject string) int) bus.Opener {
	return func(ctx context.Context, u *url.URL, o bus.OpenOptions) (bus.Bus, error) {
		open := "mem:"
		if scheme != "" {
			open = scheme + ":" + u.Opaque + u.Path
		}
		b, err := bus.Open(ctx, open, bus.OnError(o.ErrorHook))
		return &faulty{Bus: b, copies: copies}, err
	}
}

func (f *faulty) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	copies := 1
	if f.n.Add(1)%10 == 0 {
		copies = f.copies(subject)
	}
	if copies < 0 {
		return fmt.Errorf("publish %s: %w", subject, bus.ErrUnavailable)
	}
	for range copies {
		if err := f.Bus.Publish(ctx, subject, data, opts...); err != nil {
			return err
		}
	}
	return nil
}

// streamless has no streams.
type streamless struct{ bus.Bus }

func (streamless) EnsureStreams(context.Context, ...bus.StreamConfig) error {
	return fmt.Errorf("streams: %w", bus.ErrUnsupported)
}
