package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

var work = bus.StreamConfig{Name: "WORK", Subjects: []string{"work.>"}}

// once reports whether these messages were handled, each once.
func once(want []string, handled ...*collector) bool {
	var all []string
	for _, c := range handled {
		all = append(all, c.texts()...)
	}
	slices.Sort(all)
	return slices.Equal(all, slices.Sorted(slices.Values(want)))
}

func numberedTexts(n int) []string {
	var texts []string
	for i := range n {
		texts = append(texts, fmt.Sprintf("m%03d", i))
	}
	return texts
}

func TestGroup_isSharedByProcesses(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a, b := openURL(t, s.ClientURL()), openURL(t, s.ClientURL())
	require.NoError(t, a.EnsureStreams(t.Context(), work))
	require.NoError(t, b.EnsureStreams(t.Context(), work))
	for pattern, g := range map[string]struct {
		subject string
		option  bus.SubscribeOption
	}{
		"note.*":      {"note.a", bus.Group("g")},
		"work.some.*": {"work.some.a", bus.Group("g")},
		"work.more.*": {"work.more.a", bus.DurableGroup("d")},
	} {
		var onA, onB, outside collector
		for range 2 {
			_, err := a.Subscribe(t.Context(), pattern, onA.handle, g.option, bus.Attempts(0))
			require.NoError(t, err)
		}
		_, err := b.Subscribe(t.Context(), pattern, onB.handle, g.option, bus.Attempts(0))
		require.NoError(t, err)
		_, err = b.Subscribe(t.Context(), pattern, outside.handle)
		require.NoError(t, err)
		want := numberedTexts(100)
		for _, text := range want {
			require.NoError(t, a.Publish(t.Context(), g.subject, []byte(text)))
		}
		eventually(t, func() bool { return once(want, &onA, &onB) && once(want, &outside) }, "each message once in the group on "+pattern)
	}
}

func TestGroup_givesToTheProcessWhoseMembersAreFree(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a, b := openURL(t, s.ClientURL()), openURL(t, s.ClientURL())
	require.NoError(t, a.EnsureStreams(t.Context(), work))
	require.NoError(t, b.EnsureStreams(t.Context(), work)) // otherwise it learns within a second what is captured
	for _, option := range []bus.SubscribeOption{bus.Group("g"), bus.DurableGroup("d")} {
		gate, inside := make(chan struct{}), make(chan string, 1)
		blocked, err := a.Subscribe(t.Context(), "work.*", func(_ context.Context, m *bus.Message) error {
			inside <- string(m.Data)
			<-gate
			return nil
		}, option, bus.Attempts(0))
		require.NoError(t, err)
		require.NoError(t, a.Publish(t.Context(), "work.a", []byte("blocks")))
		require.Equal(t, "blocks", <-inside)
		var onB collector
		sub, err := b.Subscribe(t.Context(), "work.*", onB.handle, option, bus.Attempts(0))
		require.NoError(t, err)
		want := numberedTexts(50)
		for _, text := range want {
			require.NoError(t, a.Publish(t.Context(), "work.a", []byte(text)))
		}
		eventually(t, func() bool { return once(want, &onB) }, "the messages in the process that is free")
		close(gate)
		require.NoError(t, sub.Unsubscribe(t.Context()))
		require.NoError(t, blocked.Unsubscribe(t.Context()))
	}
}

func TestGroup_losesNothingWhenAProcessCloses(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a := openURL(t, s.ClientURL())
	require.NoError(t, a.EnsureStreams(t.Context(), work))
	for pattern, option := range map[string]bus.SubscribeOption{"work.some.*": bus.Group("g"), "work.more.*": bus.DurableGroup("d")} {
		var onA, onB collector
		_, err := a.Subscribe(t.Context(), pattern, onA.handle, option, bus.Attempts(0))
		require.NoError(t, err)
		want := numberedTexts(300)
		published := make(chan error, 1)
		subject := pattern[:len(pattern)-1] + "a"
		go func() {
			var errs []error
			for _, text := range want {
				errs = append(errs, a.Publish(context.Background(), subject, []byte(text)))
			}
			published <- errors.Join(errs...)
		}()
		for range 5 {
			b, err := bus.Open(t.Context(), s.ClientURL())
			require.NoError(t, err)
			_, err = b.Subscribe(t.Context(), pattern, onB.handle, option, bus.Attempts(0))
			require.NoError(t, err)
			require.NoError(t, b.Close(t.Context()))
		}
		require.NoError(t, <-published)
		eventually(t, func() bool { return once(want, &onA, &onB) }, "each message once while processes come and go, on "+pattern)
	}
}

// A process that closes isn't given again what it gives back, although another member has asked for a message.
func TestGroup_whatAClosingProcessGivesBackIsDeliveredOnce(t *testing.T) {
	dir := t.TempDir()
	for n := range 10 {
		b, err := natsbus.Open(t.Context(), dir, bus.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		require.NoError(t, b.EnsureStreams(t.Context(), work))
		subject, option := fmt.Sprint("work.", n, ".a"), bus.DurableGroup(fmt.Sprint("d", n))
		inside := make(chan struct{})
		for range 2 {
			_, err := b.Subscribe(t.Context(), subject, func(ctx context.Context, m *bus.Message) error {
				close(inside)
				<-ctx.Done()
				return ctx.Err()
			}, option, bus.Attempts(0))
			require.NoError(t, err)
		}
		require.NoError(t, b.Publish(t.Context(), subject, []byte("cut short")))
		<-inside
		soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		require.NoError(t, ignore(b.Close(soon), bus.ErrHandlersRunning))
		cancel()
		b, err = natsbus.Open(t.Context(), dir)
		require.NoError(t, err)
		var again collector
		_, err = b.Subscribe(t.Context(), subject, again.handle, option, bus.Attempts(0))
		require.NoError(t, err)
		eventually(t, func() bool { return len(again.texts()) == 1 }, "the message")
		require.Equal(t, 2, again.messages[0].Attempt)
		require.NoError(t, b.Close(t.Context()))
	}
}

// ignore is nil for an error that may be.
func ignore(err, may error) error {
	if errors.Is(err, may) {
		return nil
	}
	return err
}

func TestGroup_isOfOnePatternInAllProcesses(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a, b := openURL(t, s.ClientURL()), openURL(t, s.ClientURL())
	require.NoError(t, a.EnsureStreams(t.Context(), work, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other.>"}}))
	var got collector
	sub, err := a.Subscribe(t.Context(), "work.*", got.handle, bus.DurableGroup("d"), bus.Attempts(0))
	require.NoError(t, err)
	refused := func() {
		for _, pattern := range []string{"work.>", "work.a", "other.*"} {
			_, err := b.Subscribe(t.Context(), pattern, got.handle, bus.DurableGroup("d"), bus.Attempts(0))
			require.ErrorIs(t, err, bus.ErrConflict, pattern)
		}
	}
	refused()
	require.NoError(t, sub.Unsubscribe(t.Context()))
	refused()
}

func TestGroup_endsWhenAnotherProcessRemovesIt(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	a, b := openURL(t, s.ClientURL()), openURL(t, s.ClientURL())
	require.NoError(t, a.EnsureStreams(t.Context(), work))
	for what, remove := range map[string]func(r bus.Remover) error{
		"group":  func(r bus.Remover) error { return r.RemoveGroup(t.Context(), "d") },
		"stream": func(r bus.Remover) error { return r.RemoveStream(t.Context(), "WORK") },
	} {
		require.NoError(t, a.EnsureStreams(t.Context(), work))
		var got collector
		sub, err := a.Subscribe(t.Context(), "work.*", got.handle, bus.DurableGroup("d"), bus.Attempts(0), bus.OnError(got.hook))
		require.NoError(t, err)
		require.NoError(t, remove(b.(bus.Remover)))
		select {
		case <-sub.Done():
		case <-time.After(10 * time.Second):
			require.Fail(t, "the group's member still stands", what)
		}
		require.ErrorIs(t, sub.Err(), bus.ErrStreamChanged, what)
		eventually(t, func() bool { return got.told(bus.ErrStreamChanged) == 1 }, "the member's hook to be told")
	}
}

// After a crash a group may be made once more, further back, and isn't there for a moment.
func TestGroup_asksAgainSoonWhereItIsMadeOnceMore(t *testing.T) {
	f := newFront(t, "front", "log.>")
	asked := make(chan time.Time, 100)
	var refused, away atomic.Bool
	f.forward(t, "$JS.API.>", func(m *nats.Msg) bool {
		var err error
		switch {
		case strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.MSG.NEXT."):
			asked <- time.Now()
			if !refused.Swap(true) {
				away.Store(true)
				err = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}}})
			}
		case strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.INFO.") && away.Swap(false):
			err = m.Respond([]byte(`{"error":{"code":404,"err_code":10014,"description":"consumer not found"}}`))
		default:
			return false
		}
		if err != nil {
			t.Error(err)
		}
		return true
	})
	b := openURL(t, f.url)
	_, err := f.js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log.>"}, AllowDirect: true, Metadata: map[string]string{"jitney-rewind": "1"}})
	require.NoError(t, err)
	_, err = b.Subscribe(t.Context(), "log.*", new(collector).handle, bus.DurableGroup("readers"), bus.Attempts(0))
	require.NoError(t, err)
	var times [2]time.Time
	for i := range times {
		select {
		case times[i] = <-asked:
		case <-time.After(20 * time.Second):
			require.Fail(t, "it isn't asked for messages")
		}
	}
	require.False(t, away.Load())
	require.Less(t, times[1].Sub(times[0]), 5*time.Second)
}

func TestGroup_whoJoinsWhereNothingIsMissingIsToldNothing(t *testing.T) {
	ctx := t.Context()
	url := startServer(t, t.TempDir(), -1).ClientURL()
	first, second := openURL(t, url), openURL(t, url)
	require.NoError(t, first.EnsureStreams(ctx, bus.StreamConfig{Name: "WORK", Subjects: []string{"work.>"}, MaxMsgs: 1}))
	var before, after collector
	_, err := first.Subscribe(ctx, "work.*", before.handle, bus.DurableGroup("d"), bus.Attempts(0))
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, first.Publish(ctx, "work.a", fmt.Append(nil, i)))
		eventually(t, func() bool { return len(before.texts()) == i+1 }, "one after the other")
	}
	require.NoError(t, first.Close(ctx))
	require.NoError(t, second.Publish(ctx, "work.a", []byte("next")))
	_, err = second.Subscribe(ctx, "work.*", after.handle, bus.DurableGroup("d"), bus.Attempts(0), bus.OnError(after.hook))
	require.NoError(t, err)
	eventually(t, func() bool { return once([]string{"next"}, &after) }, "the next one")
	require.NoError(t, second.Close(ctx))
	require.Zero(t, after.told(bus.ErrGap))
}

// Each Close that interrupts a handler counts as a delivery at the server.
func TestGroup_aMessageThatWasHandedOverOftenIsStillGivenToAHandler(t *testing.T) {
	ctx := t.Context()
	url := startServer(t, t.TempDir(), -1).ClientURL()
	last := openURL(t, url)
	require.NoError(t, last.EnsureStreams(ctx, work, bus.StreamConfig{Name: "DEAD", Subjects: []string{"dead.>"}}))
	require.NoError(t, last.Publish(ctx, "work.a", []byte("precious")))
	for range 5 {
		b, err := bus.Open(ctx, url, quietly(t))
		require.NoError(t, err)
		begun := make(chan struct{}, 1)
		_, err = b.Subscribe(ctx, "work.*", func(ctx context.Context, _ *bus.Message) error {
			begun <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}, bus.DurableGroup("d"), bus.Attempts(1), bus.All())
		require.NoError(t, err)
		eventually(t, func() bool { return len(begun) > 0 }, "its turn")
		require.NoError(t, b.Close(ctx))
	}
	var got collector
	_, err := last.Subscribe(ctx, "work.*", got.handle, bus.DurableGroup("d"), bus.Attempts(1))
	require.NoError(t, err)
	eventually(t, func() bool { return once([]string{"precious"}, &got) }, "the message")
}

// stuck is a context that never ends. Whoever doesn't want to be called any more when it does is held up.
type stuck struct {
	context.Context
	release chan struct{}
}

func (s stuck) Done() <-chan struct{} { return make(chan struct{}) }

func (s stuck) AfterFunc(func()) (stop func() bool) {
	return func() bool { <-s.release; return true }
}

// A member has ended a moment before the group is without it.
func TestGroup_whoseMembersHaveEndedIsNobodysAnyMore(t *testing.T) {
	b := openURL(t, "nats:"+t.TempDir())
	require.NoError(t, b.EnsureStreams(t.Context(), chat))
	until, removed := stuck{t.Context(), make(chan struct{})}, make(chan error, 1)
	group := func(pattern string, opts ...bus.SubscribeOption) (bus.Subscription, error) {
		opts = append(opts, bus.DurableGroup("workers"), bus.Attempts(0))
		return b.Subscribe(t.Context(), pattern, func(context.Context, *bus.Message) error { return nil }, opts...)
	}
	member, err := group("chat.*", bus.Until(until))
	require.NoError(t, err)
	go func() { removed <- b.(bus.Remover).RemoveGroup(t.Context(), "workers") }()
	eventually(t, func() bool { return member.Err() != nil }, "its end")
	<-member.Done()
	_, err = group("chat.>")
	close(until.release)
	require.NoError(t, err)
	require.NoError(t, <-removed)
}
