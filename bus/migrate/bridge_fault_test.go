package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
)

func TestBridge_waitsForAnEndThatIsUnavailable(t *testing.T) {
	for name, fault := range map[string]struct {
		err   error
		hangs bool
	}{"refuses": {err: bus.ErrUnavailable}, "hangs": {hangs: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, to, told := &faulty{Bus: openMem(t)}, &faulty{Bus: openMem(t)}, &hook{}
				ensure(t, from, mixed)
				ensure(t, to, mixed)
				fill(t, from, 1, 200)
				b := migrate.NewBridge(from, &slowly{first: &first{Bus: to}}, migrate.BridgeConfig{OnError: told.tell})
				copied := make(chan error)
				from.is(fault.err, fault.hangs)
				go func() { copied <- b.Copy(t.Context()) }()
				<-time.After(time.Minute)
				from.is(nil, false)
				for n := range 3 {
					for len(allOf(t, to.Bus, mixed)) < 10+n*50 {
						<-time.After(20 * time.Millisecond)
					}
					to.is(fault.err, fault.hangs)
					<-time.After(time.Minute)
					to.is(nil, false)
				}
				require.NoError(t, <-copied)
				same(t, b, 200)
				require.Len(t, told.problems(), 4)
				require.ErrorContains(t, told.problems()[0].Err, "tried again")
			})
		})
	}
}

func TestBridge_endsWithItsContextWhileTheDestinationIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), &faulty{Bus: openMem(t)}
		ensure(t, from, mixed)
		fill(t, from, 1, 50)
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: func(bus.Problem) {}})
		require.NoError(t, b.Copy(t.Context()))
		fill(t, from, 51, 60)
		to.is(fmt.Errorf("%w: the disk is full", bus.ErrUnavailable), false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, b.Copy(ctx), context.DeadlineExceeded)
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, b.Follow(ctx))
		to.is(nil, false)
		require.NoError(t, b.Copy(t.Context()))
		same(t, b, 60)
	})
}

func TestBridge_saysWhyItsContextEndedInTheMiddleOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, mixed)
		ensure(t, to, mixed)
		fill(t, from, 1, 5)
		why := errors.New("somebody wants it")
		ctx, cancel := context.WithCancelCause(t.Context())
		b := migrate.NewBridge(from, &quitting{first: &first{Bus: to}, quit: func() { cancel(why) }}, migrate.BridgeConfig{})
		err := b.Copy(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, why)
		require.NoError(t, b.Copy(t.Context()))
		same(t, b, 5)
	})
}

// quitting is a destination at whose first publish the caller gives up.
type quitting struct {
	*first
	quit func()
}

func (q *quitting) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if q.quit != nil {
		q.quit()
		q.quit = nil
	}
	return q.first.Publish(ctx, subject, data, opts...)
}

func TestBridge_sourceThatStopsInTheMiddleIsAnErrorAndTheNextGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, err := membus.Open(0)
		require.NoError(t, err)
		to := openMem(t)
		ensure(t, from, mixed)
		fill(t, from, 1, 5000)
		b := migrate.NewBridge(from, &slowly{first: &first{Bus: to}}, migrate.BridgeConfig{})
		copied := make(chan error)
		go func() { copied <- b.Copy(t.Context()) }()
		<-time.After(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_ = from.Close(ctx) // the reader's handlers wait for the destination
		require.ErrorIs(t, <-copied, bus.ErrClosed)
		n := 0
		for i, m := range allOf(t, to, mixed) {
			n++
			if (i+1)%10 != 0 {
				require.Equal(t, fmt.Sprint(i+1), string(m.Data), "copied in order")
			}
		}
		require.Greater(t, n, 100)
		require.Less(t, n, 5000)
	})
}

// allOf returns all messages of a stream in its order.
func allOf(t *testing.T, b bus.Bus, cfg bus.StreamConfig) []*bus.Message {
	t.Helper()
	var all []*bus.Message
	for _, pattern := range cfg.Subjects {
		all = append(all, messages(t, b, pattern)...)
	}
	sortByCursor(all)
	return all
}

func TestBridge_refusesWhatWouldMixStreams(t *testing.T) {
	foreign := bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}
	for name, c := range map[string]struct {
		at   func(t *testing.T, to bus.Bus)
		want string
	}{
		"other contents": {func(t *testing.T, to bus.Bus) {
			ensure(t, to, foreign)
			publishNumbers(t, to, "chat.x", 1, 3)
		}, "isn't a copy from this source"},
		"copies from elsewhere": {func(t *testing.T, to bus.Bus) {
			elsewhere := openMem(t)
			ensure(t, elsewhere, foreign)
			publishNumbers(t, elsewhere, "chat.x", 1, 3)
			require.NoError(t, migrate.NewBridge(elsewhere, to, migrate.BridgeConfig{}).Copy(t.Context()))
		}, "isn't a copy from this source"},
		"other subjects": {func(t *testing.T, to bus.Bus) {
			ensure(t, to, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.*"}})
		}, "it captures [chat.*], not [chat.>]"},
		"overlap": {func(t *testing.T, to bus.Bus) {
			ensure(t, to, bus.StreamConfig{Name: "ALL", Subjects: []string{">"}})
		}, "ALL"},
		"emptied": {func(t *testing.T, to bus.Bus) {
			ensure(t, to, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, MaxAge: time.Second, Duplicates: time.Second})
			publishNumbers(t, to, "chat.x", 1, 3)
			<-time.After(time.Minute)
		}, "is empty now"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, to := openMem(t), openMem(t)
				ensure(t, from, foreign)
				publishNumbers(t, from, "chat.a", 1, 10)
				c.at(t, to)
				before, err := to.(bus.StreamLister).Streams(t.Context())
				require.NoError(t, err)
				b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
				err = b.Copy(t.Context())
				require.ErrorContains(t, err, c.want)
				require.ErrorContains(t, err, "stream CHAT")
				after, err := to.(bus.StreamLister).Streams(t.Context())
				require.NoError(t, err)
				require.Equal(t, before, after, "nothing was changed")
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		from := openMem(t)
		ensure(t, from, foreign)
		publishNumbers(t, from, "chat.a", 1, 1)
		require.ErrorContains(t, migrate.NewBridge(from, from, migrate.BridgeConfig{}).Copy(t.Context()), "are the same")
		err := migrate.NewBridge(from, openMem(t), migrate.BridgeConfig{Streams: []string{"CHAR"}}).Copy(t.Context())
		require.ErrorIs(t, err, bus.ErrNoStream)
		require.ErrorContains(t, err, "CHAR: the source has none of that name, but CHAT")
	})
}

func TestBridge_noticesWhoElsePublishesToTheDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, chat)
		publishNumbers(t, from, "chat.a", 1, 10)
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		publishNumbers(t, to, "chat.a", 100, 100)
		publishNumbers(t, from, "chat.a", 11, 11)
		require.ErrorContains(t, b.Copy(t.Context()), "somebody else publishes")
		summaries, err := b.Verify(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, summaries[0].Foreign)
		require.ErrorContains(t, summaries[0].Err(), "1 at the destination that aren't copies")
	})
}

func TestBridge_tellsASourceThatWasMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, chat)
		publishNumbers(t, from, "chat.a", 1, 10)
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		require.NoError(t, from.(bus.Remover).RemoveStream(t.Context(), "CHAT"))
		require.ErrorIs(t, b.Copy(t.Context()), bus.ErrNoStream)
		ensure(t, from, chat)
		publishNumbers(t, from, "chat.a", 1, 20)
		for _, bridge := range []*migrate.Bridge{b, migrate.NewBridge(from, to, migrate.BridgeConfig{})} {
			require.ErrorIs(t, bridge.Copy(t.Context()), bus.ErrConflict)
		}
		require.Equal(t, numbered("chat.a", 1, 10), stored(t, to, "chat.a"))
	})
}

func TestBridge_tellsLimitsThatAreSmallerAndWhatTheyTook(t *testing.T) {
	for name, c := range map[string]struct {
		to      bus.StreamConfig
		want    string
		missing int
	}{
		"messages": {bus.StreamConfig{MaxMsgs: 40}, "limit of messages is smaller: 40, at the source none", 60},
		"bytes":    {bus.StreamConfig{MaxBytes: 5000}, "limit of bytes is smaller: 5000, at the source none", -1},
		"age": {bus.StreamConfig{MaxAge: time.Hour, Duplicates: time.Second},
			"limit of age is smaller: 1h0m0s, at the source none", 0},
		"messages per subject": {bus.StreamConfig{MaxMsgsPerSubject: 10}, "limit of messages per subject is smaller: 10", 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, to, told := openMem(t), openMem(t), &hook{}
				ensure(t, from, mixed)
				fill(t, from, 1, 100)
				c.to.Name, c.to.Subjects = mixed.Name, mixed.Subjects
				ensure(t, to, c.to)
				b := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: told.tell})
				require.NoError(t, b.Copy(t.Context()))
				synctest.Wait()
				require.ErrorContains(t, told.problems()[0].Err, c.want)
				summaries, err := b.Verify(t.Context())
				require.NoError(t, err)
				s := summaries[0]
				require.Contains(t, s.Warnings[0], c.want)
				if c.missing == 0 {
					require.NoError(t, s.Err())
					return
				}
				if c.missing > 0 {
					require.EqualValues(t, c.missing, s.Missing)
				}
				require.NotZero(t, s.Missing)
				require.EqualValues(t, 100, s.Missing+s.Destination.Messages)
				require.NotEqual(t, s.Source.Sum, s.Destination.Sum)
				require.ErrorContains(t, s.Err(), "missing at the destination")
				// What limits have taken isn't copied again.
				again := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: told.tell})
				require.NoError(t, again.Copy(t.Context()))
				summaries, err = again.Verify(t.Context())
				require.NoError(t, err)
				require.Zero(t, summaries[0].Copied)
				_, err = again.CutOver(t.Context())
				require.ErrorContains(t, err, "missing at the destination")
			})
		})
	}
	t.Run("bytes of the stamps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			from, to, told := openMem(t), openMem(t), &hook{}
			full := chat
			full.MaxBytes = 1000
			ensure(t, from, full)
			ensure(t, to, full)
			publishNumbers(t, from, "chat.a", 1, 100)
			b := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: told.tell})
			require.NoError(t, b.Copy(t.Context()))
			synctest.Wait()
			require.ErrorContains(t, told.problems()[0].Err, "bytes with their stamps")
		})
	})
}

func TestBridge_givesFullStreamsRoomForTheStamps(t *testing.T) {
	full := chat
	full.MaxBytes = 10_000
	from, to := openMem(t), openURL(t, "nats:"+t.TempDir())
	ensure(t, from, full)
	publishNumbers(t, from, "chat.a", 1, 2000)
	held := len(messages(t, from, "chat.a"))
	require.Less(t, held, 2000)
	b := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: func(bus.Problem) {}})
	require.NoError(t, b.Copy(t.Context()))
	publishNumbers(t, from, "chat.a", 2001, 2100)
	summaries, err := b.CutOver(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, held, summaries[0].Source.Messages)
	require.Contains(t, summaries[0].Warnings[0], "created with a limit of")
	ensure(t, to, full) // as a program does that starts on the new bus
	require.Less(t, len(messages(t, to, "chat.a")), held)
}

func TestBridge_aSourceThatDiscardsMeanwhileIsAGapInTheSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to, told := openMem(t), openMem(t), &hook{}
		small := mixed
		small.MaxMsgs = 100
		ensure(t, from, small)
		fill(t, from, 1, 50)
		b := migrate.NewBridge(from, to, migrate.BridgeConfig{OnError: told.tell})
		require.NoError(t, b.Copy(t.Context()))
		fill(t, from, 51, 250) // 51 to 150 are gone
		require.NoError(t, b.Copy(t.Context()))
		summaries, err := b.Verify(t.Context())
		require.NoError(t, err)
		s := summaries[0]
		require.NoError(t, s.Err())
		require.Len(t, s.Gaps, 1)
		require.EqualValues(t, 50, s.Gaps[0].After.Sequence())
		require.EqualValues(t, 151, s.Gaps[0].Before.Sequence())
		require.EqualValues(t, 100, s.Destination.Messages)
		require.EqualValues(t, 0, s.Discarded) // the destination has the same limit
		synctest.Wait()
		require.ErrorIs(t, told.problems()[0].Err, bus.ErrGap)
	})
}

func TestBridge_tablesOfLastValuesKeepOrderAndDeletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := bus.StreamConfig{Name: "USERS", Subjects: []string{"users.*"}, MaxMsgsPerSubject: 1}
		from, to := openMem(t), openMem(t)
		ensure(t, from, table)
		put := func(user string, value string) {
			require.NoError(t, from.Publish(t.Context(), "users."+user, []byte(value)))
		}
		for i := range 50 {
			put(fmt.Sprint(i), "first")
		}
		b := migrate.NewBridge(from, &slowly{first: &first{Bus: to}}, migrate.BridgeConfig{})
		copied := make(chan error)
		go func() { copied <- b.Copy(t.Context()) }()
		<-time.After(30 * time.Millisecond) // in the middle
		for i := 49; i >= 0; i -= 2 {
			put(fmt.Sprint(i), "second")
		}
		put("7", "") // an empty message is how a value is deleted
		require.NoError(t, <-copied)
		put("8", "")
		_, err := b.CutOver(t.Context())
		require.NoError(t, err)
		require.Equal(t, stored(t, from, "users.*"), stored(t, to, "users.*"))
		require.Contains(t, stored(t, to, "users.*"), "users.7=")
		last := stored(t, to, "users.*")[49]
		require.Equal(t, "users.8=", last)
	})
}

func TestBridge_tellsWhatWasDamagedAtTheDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := openMem(t), openMem(t)
		ensure(t, from, chat)
		publishNumbers(t, from, "chat.a", 1, 10)
		b := migrate.NewBridge(from, &changing{first: &first{Bus: to}, data: "5"}, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		summaries, err := b.Verify(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, summaries[0].Different)
		require.NotEqual(t, summaries[0].Source.Sum, summaries[0].Destination.Sum)
		require.ErrorContains(t, summaries[0].Err(), "1 different")
	})
}

// changing is a destination that stores something else for some data.
type changing struct {
	*first
	data string
}

func (c *changing) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	if string(data) == c.data {
		data = []byte("changed")
	}
	return c.first.Publish(ctx, subject, data, opts...)
}

func TestBridge_needsListsOfStreams(t *testing.T) {
	b := openMem(t)
	err := migrate.NewBridge(struct{ bus.Bus }{b}, b, migrate.BridgeConfig{}).Copy(t.Context())
	require.ErrorIs(t, err, bus.ErrUnsupported)
	require.ErrorContains(t, err, "source can't list")
}

func TestBridge_leavesTracesAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := traced(t), traced(t)
		ensure(t, from, chat)
		require.NoError(t, from.Publish(context.WithValue(t.Context(), traceKey{}, "the publisher's"), "chat.a", nil))
		require.NoError(t, from.Publish(t.Context(), "chat.a", nil))
		ctx := context.WithValue(t.Context(), traceKey{}, "the Bridge's")
		summaries, err := migrate.NewBridge(from, to, migrate.BridgeConfig{}).CutOver(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, summaries[0].Destination.Messages)
		require.Equal(t, "the publisher's", messages(t, to, "chat.a")[0].Header.Value("Traceparent"))
	})
}
