package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
)

// ensure creates streams.
func ensure(t *testing.T, b bus.Bus, streams ...bus.StreamConfig) {
	t.Helper()
	require.NoError(t, b.EnsureStreams(t.Context(), streams...))
}

// messages returns all that a pattern has stored, in order.
func messages(t *testing.T, b bus.Bus, pattern string) []*bus.Message {
	t.Helper()
	var all []*bus.Message
	sub, err := b.Subscribe(t.Context(), pattern, func(_ context.Context, m *bus.Message) error {
		all = append(all, m)
		return nil
	}, bus.All())
	require.NoError(t, err)
	require.NoError(t, sub.Unsubscribe(t.Context()))
	return all
}

func sortByCursor(all []*bus.Message) {
	slices.SortFunc(all, func(a, b *bus.Message) int { n, _ := a.Cursor.Compare(b.Cursor); return n })
}

// same fails unless the Bridge has found both ends equal with so many messages.
func same(t *testing.T, b *migrate.Bridge, count int) {
	t.Helper()
	summaries, err := b.Verify(t.Context())
	require.NoError(t, err)
	require.Len(t, summaries, 1)
	s := summaries[0]
	require.NoError(t, s.Err())
	require.Equal(t, s.Source, s.Destination)
	require.EqualValues(t, count, s.Source.Messages, "%+v", s)
}

var mixed = bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>", "news.*", "mail"}}

// fill publishes numbers to subjects of all patterns of mixed, some empty, some with headers.
func fill(t *testing.T, b bus.Bus, from, to int) {
	t.Helper()
	for _, m := range mixture(from, to) {
		var opts []bus.PublishOption
		for key, values := range m.Header {
			opts = append(opts, bus.WithHeader(key, values...))
		}
		require.NoError(t, b.Publish(t.Context(), m.Subject, m.Data, opts...))
	}
}

// fillMany does the same faster, where the bus is a bus.Appender.
func fillMany(t *testing.T, b bus.Bus, from, to int) {
	t.Helper()
	streams, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	_, err = b.(bus.Appender).Append(t.Context(), mixed.Name, streams[0].Last, mixture(from, to)...)
	require.NoError(t, err)
}

// mixture is what fill publishes.
func mixture(from, to int) []*bus.Message {
	var messages []*bus.Message
	for i := from; i <= to; i++ {
		m := &bus.Message{Subject: []string{"chat.a", "news.b", "mail", "chat.c.d"}[i*7%4]}
		if i%3 == 0 {
			m.Header = bus.Header{"K": {"v", fmt.Sprint(i)}}
		}
		if i%10 != 0 {
			m.Data = fmt.Append(nil, i)
		}
		messages = append(messages, m)
	}
	return messages
}

// isMixture fails unless messages are those that fill publishes.
func isMixture(t *testing.T, messages []*bus.Message, from, to int) {
	t.Helper()
	want := mixture(from, to)
	require.Len(t, messages, len(want))
	text := func(m *bus.Message) string { return fmt.Sprintf("%s %q %q", m.Subject, m.Data, m.Header["K"]) }
	for i, m := range messages {
		if have, want := text(m), text(want[i]); have != want {
			t.Fatalf("message %d of %d: want %s, have %s", i+1, len(messages), want, have)
		}
	}
}

func TestBridge_copiesEveryPatternInTheStreamsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, mixed, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
		fill(t, from, 1, 3000)
		var last migrate.Progress
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{
			Streams: []string{"CHAT"}, OnProgress: func(p migrate.Progress) { last = p },
		})
		<-time.After(time.Hour) // of the bubble's clock
		require.NoError(t, b.Copy(t.Context()))
		same(t, b, 3000)
		require.EqualValues(t, 3000, last.Done)
		require.Equal(t, last.Done, last.Total)

		streams, err := to.(bus.StreamLister).Streams(t.Context())
		require.NoError(t, err)
		require.Len(t, streams, 1)
		all := allOf(t, to, mixed)
		isMixture(t, all, 1, 3000)
		for i, m := range all {
			require.Equal(t, time.Hour, m.Time.Sub(migrate.Original(m)))
			source, err := bus.ParseCursor(m.Header.Value("Bridge-Source"))
			require.NoError(t, err)
			require.EqualValues(t, i+1, source.Sequence())
		}
		require.Equal(t, []string{"v", "3"}, all[2].Header["K"])
		require.Equal(t, last.At.String(), all[2999].Header.Value("Bridge-Source"))
		require.Equal(t, all[5].Time, migrate.Original(&bus.Message{Time: all[5].Time}))
	})
}

func TestBridge_goesOnWhereAnotherOneHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, mixed)
		for round := range 5 {
			fill(t, from, round*100+1, round*100+100)
			b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
			require.NoError(t, b.Copy(t.Context()))
			require.NoError(t, b.Copy(t.Context()))
			same(t, b, round*100+100)
			summaries, err := b.Verify(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 100, summaries[0].Copied)
		}
	})
}

// dying is a destination that ends its Bridge at a publish, before or after it was stored.
type dying struct {
	bus.Bus
	left  int // calls of Publish
	after bool
}

var errDied = errors.New("died")

func (d *dying) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if d.left--; d.left > 0 {
		return d.Bus.Publish(ctx, subject, data, opts...)
	}
	if d.after {
		if err := d.Bus.Publish(ctx, subject, data, opts...); err != nil {
			return err
		}
	}
	return errDied
}

func (d *dying) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	return d.Bus.(bus.StreamLister).Streams(ctx)
}

func TestBridge_endedAtAnyMessageLosesAndDoublesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, mixed)
		fill(t, from, 1, 60)
		for i := range 60 {
			b := migrate.NewBridge(from, &dying{Bus: to, left: 1 + i%2, after: i%3 > 0}, migrate.BridgeConfig{})
			if err := b.Copy(t.Context()); err != nil {
				require.ErrorIs(t, err, errDied)
			}
			<-time.After(time.Duration(i%3) * time.Minute) // also beyond the window of message IDs
		}
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		same(t, b, 60)
	})
}

// late is a destination that keeps one publish back and stores it when told, as a network does for a process that
// is dead by then.
type late struct {
	dying
	kept func() error
}

func (l *late) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if l.left--; l.left > 0 {
		return l.Bus.Publish(ctx, subject, data, opts...)
	}
	l.kept = func() error { return l.Bus.Publish(context.WithoutCancel(ctx), subject, data, opts...) }
	return errDied
}

func TestBridge_aPublishThatArrivesAfterItsBridgeHasDiedDoublesNothing(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "when its ID is forgotten": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, before := range []bool{true, false} {
					from, to := openMem(t), openMem(t)
					short := mixed
					short.Duplicates = time.Second
					ensure(t, from, short)
					fill(t, from, 1, 100)
					slow := &late{dying: dying{Bus: to, left: 50}}
					require.ErrorIs(t, migrate.NewBridge(from, slow, migrate.BridgeConfig{}).Copy(t.Context()), errDied)
					b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
					if before {
						// The next one has looked at the destination when it arrives.
						b = migrate.NewBridge(from, &first{Bus: to, do: slow.kept, wait: wait}, migrate.BridgeConfig{})
						require.NoError(t, b.Copy(t.Context()))
					} else {
						require.NoError(t, b.Copy(t.Context()))
						<-time.After(wait)
						if err := slow.kept(); err != nil {
							require.ErrorIs(t, err, bus.ErrConflict)
						}
					}
					same(t, b, 100)
				}
			})
		})
	}
}

// first is a destination at which something happens before the first publish.
type first struct {
	bus.Bus
	do   func() error
	wait time.Duration
}

func (f *first) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if f.do != nil {
		if err := f.do(); err != nil {
			return err
		}
		<-time.After(min(f.wait, 5*time.Second))
		f.do = nil
	}
	return f.Bus.Publish(ctx, subject, data, opts...)
}

func (f *first) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	return f.Bus.(bus.StreamLister).Streams(ctx)
}

func TestBridge_twoAtOnceLoseAndDoubleNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, mixed)
		fill(t, from, 1, 2000)
		ensure(t, to, mixed)
		errs := make(chan error)
		for range 2 {
			go func() { errs <- migrate.NewBridge(from, to, migrate.BridgeConfig{}).Copy(t.Context()) }()
		}
		for range 2 {
			if err := <-errs; err != nil {
				require.ErrorIs(t, err, bus.ErrConflict)
			}
		}
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		same(t, b, 2000)
	})
}

func TestBridge_followsUntilItIsCutOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, mixed)
		fill(t, from, 1, 100)
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
		followed := make(chan error)
		go func() { followed <- b.Follow(t.Context()) }()
		for i := range 10 {
			fill(t, from, 101+10*i, 110+10*i)
			synctest.Wait() // no clock is needed for what is published
			info, err := to.(bus.StreamLister).Streams(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 110+10*i, info[0].Msgs)
		}
		source := messages(t, from, "chat.a")
		fill(t, from, 201, 210)
		summaries, err := b.CutOver(t.Context())
		require.NoError(t, err)
		require.NoError(t, <-followed)
		require.EqualValues(t, 210, summaries[0].Copied)
		require.Equal(t, summaries[0].Source, summaries[0].Destination)
		require.ErrorIs(t, b.Copy(t.Context()), bus.ErrClosed)
		require.NoError(t, b.Follow(t.Context()))

		// Cursors of the old bus are one gap, wherever they stood; then the new stream follows from its start.
		for _, m := range []*bus.Message{source[0], source[len(source)/2], source[len(source)-1]} {
			told := &hook{}
			var got []string
			_, err := to.Subscribe(t.Context(), "chat.a", func(_ context.Context, m *bus.Message) error {
				got = append(got, string(m.Data))
				return nil
			}, bus.After(m.Cursor), bus.OnError(told.tell))
			require.NoError(t, err)
			require.NoError(t, to.Publish(t.Context(), "chat.a", []byte("first of the new")))
			synctest.Wait()
			require.Len(t, told.problems(), 1)
			require.ErrorIs(t, told.problems()[0].Err, bus.ErrGap)
			all := messages(t, to, "chat.a")
			require.Len(t, got, len(all))
			require.Equal(t, string(all[0].Data), got[0])
		}
		// The old Bridge's command, run again by mistake, is refused.
		err = migrate.NewBridge(from, to, migrate.BridgeConfig{}).Copy(t.Context())
		require.ErrorIs(t, err, bus.ErrConflict)
		require.ErrorContains(t, err, "isn't a copy from this source")
	})
}

func TestBridge_cutOverWaitsForPublishersToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, chat)
		publishNumbers(t, from, "chat.a", 0, 0)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 1; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					_ = from.Publish(t.Context(), "chat.a", fmt.Append(nil, i))
				}
			}
		}()
		slow := &first{Bus: to}
		b := migrate.NewBridge(from, &slowly{first: slow}, migrate.BridgeConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.CutOver(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(stop)
		<-stopped
		_, err = b.CutOver(t.Context())
		require.NoError(t, err)
		require.Equal(t, len(messages(t, from, "chat.a")), len(messages(t, to, "chat.a")))
	})
}

// slowly is a destination that takes 2 ms for each message.
type slowly struct{ *first }

func (s *slowly) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	<-time.After(2 * time.Millisecond)
	return s.first.Publish(ctx, subject, data, opts...)
}

func TestBridge_goesBackAndForthWithoutLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := openMem(t), openMem(t)
		ensure(t, old, chat)
		cutOver := func(from, to bus.Bus) migrate.Summary {
			t.Helper()
			summaries, err := migrate.NewBridge(from, to, migrate.BridgeConfig{}).CutOver(t.Context())
			require.NoError(t, err)
			return summaries[0]
		}
		publishNumbers(t, old, "chat.a", 1, 10)
		require.EqualValues(t, 10, cutOver(old, fresh).Copied)
		publishNumbers(t, fresh, "chat.a", 11, 20)
		require.ErrorIs(t, migrate.NewBridge(old, fresh, migrate.BridgeConfig{}).Copy(t.Context()), bus.ErrConflict)

		back := cutOver(fresh, old)
		require.EqualValues(t, 10, back.Copied)
		require.EqualValues(t, 10, back.Loops)
		require.Zero(t, cutOver(fresh, old).Copied)
		publishNumbers(t, old, "chat.a", 21, 30)
		again := cutOver(old, fresh)
		require.EqualValues(t, 10, again.Copied)
		require.Zero(t, cutOver(old, fresh).Copied)
		require.Equal(t, numbered("chat.a", 1, 30), stored(t, old, "chat.a"))
		require.Equal(t, numbered("chat.a", 1, 30), stored(t, fresh, "chat.a"))
		require.Len(t, messages(t, old, "chat.a")[15].Header["Bridge-Source"], 1)
	})
}

func TestBridge_aRingOfThreeDropsWhatComesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := openMem(t), openMem(t), openMem(t)
		ensure(t, a, chat)
		publishNumbers(t, a, "chat.a", 1, 10)
		for _, hop := range [][2]bus.Bus{{a, b}, {b, c}, {c, a}} {
			_, err := migrate.NewBridge(hop[0], hop[1], migrate.BridgeConfig{}).CutOver(t.Context())
			require.NoError(t, err)
		}
		require.Equal(t, numbered("chat.a", 1, 10), stored(t, a, "chat.a"))
		last := messages(t, c, "chat.a")[9]
		require.Len(t, last.Header["Bridge-Source"], 2)
		require.Len(t, last.Header["Bridge-Time"], 1)
	})
}
