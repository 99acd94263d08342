package migrate_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
)

// shadowed calls f with a Shadow of two buses in memory, in a bubble, when the beginning is over.
func shadowed(t *testing.T, cfg migrate.ShadowConfig, f func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus)) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := openMem(t), openMem(t)
		if cfg.Patterns == nil {
			cfg.Patterns = []string{"chat.>"}
		}
		s, err := migrate.NewShadow(t.Context(), old, fresh, cfg)
		require.NoError(t, err)
		t.Cleanup(func() { s.Close(context.Background()) })
		<-time.After(2 * time.Second)
		f(t, s, old, fresh)
	})
}

func send(t *testing.T, b bus.Bus, subject string, data ...string) {
	t.Helper()
	for _, d := range data {
		require.NoError(t, b.Publish(t.Context(), subject, []byte(d)))
	}
	synctest.Wait()
}

// kinds counts the examples of each kind by their subjects.
func kinds(r migrate.Report) map[migrate.Kind][]string {
	found := map[migrate.Kind][]string{}
	for _, d := range r.Examples {
		found[d.Kind] = append(found[d.Kind], d.Subject)
	}
	return found
}

func TestShadow_findsNothingWhereATeeWritesBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, err := membus.Open(100 * time.Millisecond) // delivers later than the new one
		require.NoError(t, err)
		fresh := openMem(t)
		tee, err := migrate.NewTee(t.Context(), old, fresh, migrate.TeeConfig{})
		require.NoError(t, err)
		require.NoError(t, tee.EnsureStreams(t.Context(), chat))
		require.NoError(t, tee.Flush(t.Context()))
		s, err := migrate.NewShadow(t.Context(), old, fresh, migrate.ShadowConfig{Patterns: []string{"chat.>", "live.*"}})
		require.NoError(t, err)
		var publishers sync.WaitGroup
		for p := range 5 {
			publishers.Go(func() {
				for i := range 200 {
					send := func(subject string) {
						require.NoError(t, tee.Publish(t.Context(), subject, fmt.Append(nil, i%7), bus.WithHeader("K", "v")))
					}
					send("chat.all") // equal messages of several publishers
					send(fmt.Sprintf("live.%d", p))
					<-time.After(time.Millisecond)
				}
			})
		}
		publishers.Wait()
		r := s.Close(t.Context())
		require.NoError(t, r.Err())
		require.EqualValues(t, 2000, r.Same)
		require.Equal(t, migrate.Report{Old: 2000, New: 2000, Same: 2000, LongestLag: r.LongestLag}, r)
		require.Contains(t, r.String(), "2000 messages on the old bus, 2000 on the new one, 2000 on both")
		require.NoError(t, tee.Close(t.Context()))
	})
}

func TestShadow_findsNothingWhereABridgeFollows(t *testing.T) {
	shadowed(t, migrate.ShadowConfig{}, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		ensure(t, old, chat)
		b := migrate.NewBridge(old, fresh, migrate.BridgeConfig{})
		require.NoError(t, b.Copy(t.Context()))
		<-time.After(5 * time.Second) // both buses are subscribed to again, as the streams are new
		settled := s.Report()
		followed := make(chan error)
		go func() { followed <- b.Follow(t.Context()) }()
		send(t, old, "chat.a", "1", "2", "3")
		_, err := b.CutOver(t.Context())
		require.NoError(t, err)
		require.NoError(t, <-followed)
		r := s.Close(t.Context())
		require.EqualValues(t, 3, r.Same-settled.Same)
		require.Zero(t, r.Missing+r.Extra+r.Late+r.Reordered)
	})
}

func TestShadow_countsEachKindOfDifference(t *testing.T) {
	var mu sync.Mutex
	told := map[migrate.Kind]int{}
	cfg := migrate.ShadowConfig{OnDifference: func(d migrate.Difference) {
		mu.Lock()
		defer mu.Unlock()
		told[d.Kind]++
	}}
	shadowed(t, cfg, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		send(t, old, "chat.missing", "1", "2", "3")
		send(t, fresh, "chat.missing", "1", "3")
		send(t, old, "chat.extra", "1")
		send(t, fresh, "chat.extra", "1", "1", "other")
		send(t, old, "chat.reordered", "1", "2", "3", "4")
		send(t, fresh, "chat.reordered", "2", "3", "1", "4")
		send(t, old, "chat.late", "1")
		<-time.After(1500 * time.Millisecond)
		send(t, fresh, "chat.late", "1")
		require.EqualValues(t, 3, s.Report().Waiting)
		began := time.Now()
		r := s.Close(t.Context())
		require.Less(t, time.Since(began), 11*time.Second)
		require.Equal(t, map[migrate.Kind][]string{
			migrate.Missing: {"chat.missing"}, migrate.Extra: {"chat.extra", "chat.extra"},
			migrate.Reordered: {"chat.reordered"}, migrate.Late: {"chat.late"},
		}, kinds(r))
		require.Equal(t, migrate.Report{
			Old: 9, New: 10, Same: 8, Missing: 1, Extra: 2, Late: 1, Reordered: 1, LongestLag: 1500 * time.Millisecond, Examples: r.Examples,
		}, r)
		require.EqualError(t, r.Err(), "the new bus differs: 1 missing, 2 extra, 1 late, 1 reordered, of 9 messages")
		require.Equal(t, map[migrate.Kind]int{migrate.Missing: 1, migrate.Extra: 2, migrate.Late: 1, migrate.Reordered: 1}, told)
		require.Contains(t, r.String(), "  late: chat.late, by 1.5s\n")
	})
}

func TestShadow_comparesOrderPerPublisherAlsoWhenTheNewBusIsFirst(t *testing.T) {
	cfg := migrate.ShadowConfig{Publisher: func(m *bus.Message) string { return string(m.Data[:1]) }}
	shadowed(t, cfg, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		send(t, fresh, "chat.x", "b1", "a1", "b2", "a2") // interleaved otherwise, which is allowed
		send(t, old, "chat.x", "a1", "a2", "b1", "b2")
		require.Zero(t, s.Report().Reordered)
		send(t, fresh, "chat.x", "a4", "b3", "a3")
		send(t, old, "chat.x", "a3", "b3", "a4")
		r := s.Close(t.Context())
		require.EqualValues(t, 1, r.Reordered)
		require.Equal(t, "a", r.Examples[0].Publisher)
		require.Contains(t, r.String(), "reordered: chat.x of a")
		require.EqualValues(t, 7, r.Same)
	})
}

func TestShadow_aMessageThatComesAfterItsWindowIsLateNotMissing(t *testing.T) {
	shadowed(t, migrate.ShadowConfig{Window: time.Second, Late: 100 * time.Millisecond}, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		send(t, old, "chat.a", "1", "2")
		<-time.After(5 * time.Second)
		require.EqualValues(t, 2, s.Report().Missing)
		send(t, fresh, "chat.a", "2")
		r := s.Close(t.Context())
		require.EqualValues(t, 1, r.Missing)
		require.EqualValues(t, 1, r.Late)
		require.EqualValues(t, 5*time.Second, r.LongestLag)
	})
}

func TestShadow_doesNotBlameTheNewBusForTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, err := membus.Open(100 * time.Millisecond)
		require.NoError(t, err)
		fresh := openMem(t)
		s, err := migrate.NewShadow(t.Context(), &before{Bus: old}, fresh, migrate.ShadowConfig{Patterns: []string{"chat.>"}})
		require.NoError(t, err)
		r := s.Close(t.Context())
		require.NoError(t, r.Err())
		require.EqualValues(t, 1, r.Unsettled)
		require.NoError(t, old.Close(t.Context()))
	})
}

// before is a bus on which something is published when it is subscribed to, so before the other one is.
type before struct{ bus.Bus }

func (b *before) Subscribe(ctx context.Context, pattern string, handler bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	sub, err := b.Bus.Subscribe(ctx, pattern, handler, opts...)
	if err == nil {
		err = b.Bus.Publish(ctx, "chat.a", nil)
	}
	return sub, err
}

func TestShadow_tellsWhereItIsBlind(t *testing.T) {
	told := &hook{}
	shadowed(t, migrate.ShadowConfig{OnError: told.tell}, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		ensure(t, old, chat)
		require.NoError(t, old.(bus.Remover).RemoveStream(t.Context(), "CHAT")) // its subscriptions end
		<-time.After(time.Second)
		require.EqualValues(t, 2, s.Report().Blind) // told by the bus, and that it isn't compared for the moment
		send(t, old, "chat.a", "1")
		send(t, fresh, "chat.a", "1")
		require.EqualValues(t, 1, s.Report().Same, "it was subscribed to again")
		require.NoError(t, fresh.Close(t.Context()))
		send(t, old, "chat.a", "2")
		r := s.Close(t.Context())
		require.EqualValues(t, 1, r.Missing)
		require.Greater(t, r.Blind, uint64(2))
		require.ErrorIs(t, told.problems()[0].Err, bus.ErrStreamChanged)
		require.ErrorIs(t, told.problems()[len(told.problems())-1].Err, bus.ErrClosed)
		require.ErrorContains(t, r.Err(), "times not seen in full")
	})
}

func TestShadow_seesANewBusThatIsDownSlowOrFull(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		hangs bool
		want  migrate.Kind
	}{
		"down for good": {bus.ErrForbidden, false, migrate.Missing},
		"down for 5 s":  {bus.ErrUnavailable, false, migrate.Late},
		"hanging":       {nil, true, migrate.Late},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, migrate.TeeConfig{}, func(t *testing.T, tee *migrate.Tee, old, fresh bus.Bus, f *faulty, _ *hook) {
				s, err := migrate.NewShadow(t.Context(), old, fresh, migrate.ShadowConfig{Patterns: []string{"chat.>"}})
				require.NoError(t, err)
				<-time.After(2 * time.Second)
				f.is(c.err, c.hangs)
				publishNumbers(t, tee, "chat.a", 1, 10)
				<-time.After(4 * time.Second)
				f.is(nil, false)
				publishNumbers(t, tee, "chat.a", 11, 20)
				require.NoError(t, tee.Flush(t.Context()))
				r := s.Close(t.Context())
				if c.want == migrate.Missing {
					require.EqualValues(t, 10, r.Missing)
					require.EqualValues(t, 10, r.Same)
				} else {
					require.GreaterOrEqual(t, r.Late, uint64(10))
					require.EqualValues(t, 20, r.Same)
				}
				require.Zero(t, r.Extra+r.Reordered)
				require.Equal(t, c.want, r.Examples[0].Kind)
				require.Len(t, r.Examples, 5)
				require.False(t, r.Examples[0].Old.IsZero())
			})
		})
	}
}

func TestShadow_boundsWhatItRemembers(t *testing.T) {
	shadowed(t, migrate.ShadowConfig{}, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		send(t, fresh, "chat.a", "only here")
		for i := range 201_000 {
			for _, b := range []bus.Bus{old, fresh} {
				require.NoError(t, b.Publish(t.Context(), "chat.a", fmt.Append(nil, i)))
			}
			if i%10_000 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		r := s.Report() // long before the window's end
		require.EqualValues(t, 1, r.Extra)
		require.EqualValues(t, 201_000, r.Same)
		require.Zero(t, r.Missing+r.Reordered)
	})
}

func TestShadow_seesAnOldBusThatStopsInTheMiddle(t *testing.T) {
	told := &hook{}
	shadowed(t, migrate.ShadowConfig{OnError: told.tell}, func(t *testing.T, s *migrate.Shadow, old, fresh bus.Bus) {
		for i := range 20 {
			if i == 10 {
				require.NoError(t, old.Close(t.Context()))
			}
			if i < 10 {
				send(t, old, "chat.a", fmt.Sprint(i))
			}
			send(t, fresh, "chat.a", fmt.Sprint(i))
		}
		r := s.Close(t.Context())
		require.EqualValues(t, 10, r.Same)
		require.EqualValues(t, 10, r.Extra)
		require.Zero(t, r.Missing+r.Late+r.Reordered)
		require.Greater(t, r.Blind, uint64(0))
		require.ErrorContains(t, r.Err(), "10 extra, ")
		require.ErrorIs(t, told.problems()[len(told.problems())-1].Err, bus.ErrClosed)
	})
}

func TestShadow_wantsAPattern(t *testing.T) {
	b := openMem(t)
	_, err := migrate.NewShadow(t.Context(), b, b, migrate.ShadowConfig{})
	require.ErrorContains(t, err, "no pattern")
	_, err = migrate.NewShadow(t.Context(), b, b, migrate.ShadowConfig{Patterns: []string{"a..b"}})
	require.ErrorIs(t, err, bus.ErrBadSubject)
}

func TestReport_saysWhichBusWasEarlier(t *testing.T) {
	r := migrate.Report{Old: 3, New: 3, Same: 3, LongestLag: 1500 * time.Microsecond}
	require.Equal(t, "3 messages on the old bus, 3 on the new one, 3 on both, at most 1.5ms later on the new one\n", r.String())
	r.LongestLag = -67700 * time.Microsecond
	require.Equal(t, "3 messages on the old bus, 3 on the new one, 3 on both, at least 67.7ms earlier on the new one\n", r.String())
}
