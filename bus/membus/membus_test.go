package membus_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

func Example() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "mem:")
	if err != nil {
		panic(err)
	}
	defer b.Close(ctx)
	err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 1000})
	if err != nil {
		panic(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		if err := b.Publish(ctx, "chat.room.Go", []byte(text)); err != nil {
			panic(err)
		}
	}
	_, err = b.Subscribe(ctx, "chat.*.Go", func(ctx context.Context, m *bus.Message) error {
		fmt.Println(m.Subject, string(m.Data), m.Replayed)
		return nil
	}, bus.Last(2))
	if err != nil {
		panic(err)
	}
	// Output:
	// chat.room.Go two true
	// chat.room.Go three true
}

func TestOpen_refusesWhatItDoesNotKnowByName(t *testing.T) {
	for url, want := range map[string]string{
		"mem:./data":             "has no place",
		"mem://host":             "has no place",
		"mem:?tik=100ms":         `"tik"`,
		"mem:?tick=fast":         `"tick"`,
		"mem:?tick=-1s":          `"tick"`,
		"mem:?tick=1us":          `"tick"`,
		"mem:?tick=1s&tick=2s":   `"tick"`,
		"mem:?tick=%zz":          "malformed",
		"mem:?tick=100ms#anchor": "'#'",
	} {
		_, err := bus.Open(t.Context(), url)
		require.ErrorContains(t, err, want, url)
		require.ErrorContains(t, err, "mem:", url)
	}
}

// late holds the publishes of those up whose context says so, in the middle of the call.
type late struct{ inside, proceed chan struct{} }

func (l late) Inject(ctx context.Context, _ bus.Header) {
	if ctx.Value(l) != nil {
		l.inside <- struct{}{}
		<-l.proceed
	}
}

func (late) Extract(ctx context.Context, _ bus.Header) context.Context { return ctx }

func TestClose_refusesAPublishWithAKeptHandlerContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := late{make(chan struct{}), make(chan struct{})}
		b, err := membus.Open(0, bus.WithPropagator(l))
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"held.>"}}))
		kept, finish := make(chan context.Context), make(chan struct{})
		_, err = b.Subscribe(t.Context(), "free", func(ctx context.Context, _ *bus.Message) error {
			kept <- context.WithoutCancel(ctx)
			<-finish
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, b.Publish(t.Context(), "free", nil))
		ctx := <-kept
		closed, published := make(chan error), make(chan error)
		go func() { closed <- b.Close(t.Context()) }()
		synctest.Wait() // Close waits for the handler, and handlers may publish
		go func() { published <- b.Publish(context.WithValue(ctx, l, true), "held.x", nil) }()
		<-l.inside
		close(finish)
		require.NoError(t, <-closed)
		close(l.proceed)
		require.ErrorIs(t, <-published, bus.ErrClosed)
	})
}
