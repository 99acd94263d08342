package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// foreignHeader is one that nats.go writes as it is: cases are kept, values and their order, too.
var foreignHeader = nats.Header{"lower-Case": {"one", "two"}, "X-Empty": {""}, "X-Text": {"a: b, \"c\" – ü"}}

func foreignOptions() []bus.PublishOption {
	var opts []bus.PublishOption
	for key, values := range foreignHeader {
		opts = append(opts, bus.WithHeader(key, values...))
	}
	return opts
}

// An embedded server that listens serves a plain nats.go program, which knows nothing of jitney.
func TestForeign_readsWhatWeWriteAndWeReadWhatItWrites(t *testing.T) {
	ctx := t.Context()
	addr := fmt.Sprint("127.0.0.1:", freePort(t))
	b := openURL(t, "nats:"+t.TempDir()+"?listen="+addr+"&token=geheim")
	_, js := raw(t, "nats://geheim@"+addr)
	require.NoError(t, b.EnsureStreams(ctx, chat))
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"theirs.>"}})
	require.NoError(t, err)
	for _, name := range []string{"CHAT", "THEIRS"} { // which each of us has made
		root := strings.ToLower(name)
		s, err := js.Stream(ctx, name)
		require.NoError(t, err)
		reader, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		require.NoError(t, err)
		read := make(chan jetstream.Msg, 100)
		consuming, err := reader.Consume(func(m jetstream.Msg) { read <- m })
		require.NoError(t, err)

		var live collector
		eventually(t, func() bool {
			_, err := b.Subscribe(ctx, root+".*", live.handle, bus.Last(1))
			return !errors.Is(err, bus.ErrNoStream) // until it is known that there is one
		}, "the stream")
		require.NoError(t, b.Publish(ctx, root+".Go", []byte("ours"), append(foreignOptions(), bus.MessageID("1"))...))
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: root + ".Go", Data: []byte("theirs"), Header: maps.Clone(foreignHeader)}, jetstream.WithMsgID("2"))
		require.NoError(t, err)
		require.NoError(t, b.Publish(ctx, root+".empty", nil))
		_, err = js.Publish(ctx, root+".empty", nil)
		require.NoError(t, err)

		want := []string{root + ".Go ours", root + ".Go theirs", root + ".empty ", root + ".empty "}
		for i, text := range want {
			m := <-read
			require.Equal(t, text, m.Subject()+" "+string(m.Data()))
			h := m.Headers()
			h.Del(nats.MsgIdHdr)
			for key := range h { // what is ours beside the user's has the reserved prefix
				if strings.HasPrefix(key, "Nats-") {
					h.Del(key)
				}
			}
			if i < 2 {
				require.Equal(t, foreignHeader, h)
			} else {
				require.Empty(t, h)
			}
		}
		consuming.Stop()
		<-consuming.Closed()

		var all collector
		_, err = b.Subscribe(ctx, root+".*", all.handle, bus.All())
		require.NoError(t, err)
		eventually(t, func() bool { return len(live.texts()) == len(want) }, "what was published, live")
		for _, c := range []*collector{&live, &all} {
			for i, m := range c.messages {
				require.Equal(t, want[i], m.Subject+" "+string(m.Data))
				if i < 2 {
					require.Equal(t, bus.Header(foreignHeader), m.Header)
				} else {
					require.Empty(t, m.Header)
				}
			}
		}

		// Each side's IDs are the other's, too.
		var receipt bus.Receipt
		require.NoError(t, b.Publish(ctx, root+".Go", []byte("again"), bus.MessageID("2"), bus.WithReceipt(&receipt)))
		require.True(t, receipt.Duplicate)
		ack, err := js.Publish(ctx, root+".Go", []byte("again"), jetstream.WithMsgID("1"))
		require.NoError(t, err)
		require.True(t, ack.Duplicate)
	}

	// What no stream captures goes both ways, too.
	nc, _ := raw(t, "nats://geheim@"+addr)
	sub, err := nc.SubscribeSync("note.*")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	var notes collector
	_, err = b.Subscribe(ctx, "note.*", notes.handle)
	require.NoError(t, err)
	require.NoError(t, b.Publish(ctx, "note.ours", []byte("ours"), foreignOptions()...))
	m, err := sub.NextMsg(10 * time.Second)
	require.NoError(t, err)
	require.Equal(t, foreignHeader, m.Header)
	require.NoError(t, nc.PublishMsg(&nats.Msg{Subject: "note.theirs", Header: foreignHeader}))
	eventually(t, func() bool { return len(notes.texts()) == 2 }, "the notes")
	require.Equal(t, bus.Header(foreignHeader), notes.messages[1].Header)
}

// badMessages are what a foreign client can store and our grammar forbids, by hand, as some of it no client library writes.
var badMessages = []struct {
	what, subject, header string
	is                    error
}{
	{"a wildcard in a token", "chat.a*", "", bus.ErrBadSubject},
	{"a wildcard", "chat.>", "", bus.ErrBadSubject},
	{"what isn't UTF-8", "chat.\xff", "", bus.ErrBadSubject},
	{"a control character", "chat.a\x01b", "", bus.ErrBadSubject},
	{"white space of another script", "chat.a\u3000b", "", bus.ErrBadSubject},
	{"a long subject", "chat." + strings.Repeat("x", 300), "", bus.ErrBadSubject},
	{"a key that is no HTTP token", "chat.key", "a(b): c", bus.ErrBadHeader},
	{"a key with a letter beyond ASCII", "chat.key", "\u00fc: c", bus.ErrBadHeader},
	{"a value with a NUL", "chat.value", "a: b\x00c", bus.ErrBadHeader},
	{"a line without a key", "chat.none", "no header at all", bus.ErrBadHeader},
}

func TestForeign_whatBreaksTheGrammarIsSkippedAndReportedHoweverItIsRead(t *testing.T) {
	for _, bad := range badMessages {
		t.Run(bad.what, func(t *testing.T) {
			s := startServer(t, t.TempDir(), -1)
			ctx := t.Context()
			var problems collector
			b := openURL(t, s.ClientURL(), bus.OnError(problems.hook))
			require.NoError(t, b.EnsureStreams(ctx, chat))
			conn, err := net.Dial("tcp", s.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			store := func(subject string) {
				header := "NATS/1.0\r\n\r\n"
				if bad.header != "" {
					header = "NATS/1.0\r\n" + bad.header + "\r\n\r\n"
				}
				_, err := fmt.Fprintf(conn, "HPUB %s %d %d\r\n%sbad\r\n", subject, len(header), len(header)+3, header)
				require.NoError(t, err)
			}
			_, err = fmt.Fprint(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\n")
			require.NoError(t, err)
			_, js := raw(t, s.ClientURL())
			holds := func(n uint64) {
				eventually(t, func() bool {
					stream, err := js.Stream(ctx, "CHAT")
					return err == nil && stream.CachedInfo().State.Msgs == n
				}, "the messages are stored")
			}

			var first bus.Receipt
			var live collector
			_, err = b.Subscribe(ctx, "chat.>", live.handle)
			require.NoError(t, err)
			require.NoError(t, b.Publish(ctx, "chat.a", []byte("1"), bus.WithReceipt(&first)))
			store(bad.subject)
			holds(2)
			require.NoError(t, b.Publish(ctx, "chat.b", []byte("2")))
			store(bad.subject)
			holds(4)
			require.NoError(t, b.Publish(ctx, "chat.c", []byte("3")))
			want := []string{"1", "2", "3"}
			eventually(t, func() bool { return len(live.texts()) >= 3 }, "the good messages, live")
			require.Equal(t, want, live.texts())
			eventually(t, func() bool { return problems.told(bad.is) > 0 }, "a report")

			// Another process, which remembers nothing.
			fresh := openURL(t, s.ClientURL(), bus.OnError(problems.hook))
			for name, c := range map[string]struct {
				start bus.SubscribeOption
				want  []string
			}{
				"all":              {bus.All(), want},
				"after":            {bus.After(first.Cursor), want[1:]},
				"last per subject": {bus.LastPerSubject(), want},
				"since":            {bus.Since(time.Now().Add(-time.Hour)), want},
			} {
				var got collector
				_, err := fresh.Subscribe(ctx, "chat.>", got.handle, c.start, bus.OnError(got.hook))
				require.NoError(t, err, name)
				require.Equal(t, c.want, got.texts(), name)
				require.Empty(t, got.problems, "%s: no gap", name)
			}
			var group collector
			_, err = fresh.Subscribe(ctx, "chat.>", group.handle, bus.DurableGroup("g"), bus.Attempts(0), bus.All(), bus.OnError(group.hook))
			require.NoError(t, err)
			eventually(t, func() bool { return len(group.texts()) >= 3 }, "the good messages of a group")
			require.ElementsMatch(t, want, group.texts())
			eventually(t, func() bool {
				stream, err := js.Stream(ctx, "CHAT")
				require.NoError(t, err)
				left := uint64(0)
				for info := range stream.ListConsumers(ctx).Info() {
					if info.Config.AckPolicy == jetstream.AckExplicitPolicy {
						left += info.NumPending + uint64(info.NumAckPending)
					}
				}
				return left == 0
			}, "the group is done with what it skips")

			// Of uncaptured messages the same.
			var free collector
			_, err = b.Subscribe(ctx, "free.>", free.handle)
			require.NoError(t, err)
			store("free." + strings.TrimPrefix(bad.subject, "chat."))
			_, err = fmt.Fprint(conn, "PUB free.good 4\r\ngood\r\n")
			require.NoError(t, err)
			eventually(t, func() bool { return slices.Equal(free.texts(), []string{"good"}) }, "the good one")
			about := func(what string) (n int) {
				problems.mu.Lock()
				defer problems.mu.Unlock()
				for _, p := range problems.problems {
					if errors.Is(p.Err, bad.is) && (p.Pattern == what || strings.HasPrefix(p.Err.Error(), what)) {
						n++
					}
				}
				return n
			}
			eventually(t, func() bool { return about("free.>") == 1 }, "a report of the pattern")
			require.Equal(t, 2, about("stream CHAT:"), "one for each bus, however often it came past")
		})
	}
}

// What an operator has the server publish again is told from what the server says of a message that it reads.
func TestForeign_aStoredHeaderOfTheServersOwnNamesIsNotTakenForWhatTheServerSays(t *testing.T) {
	s := startServer(t, t.TempDir(), -1)
	ctx := t.Context()
	b := openURL(t, s.ClientURL())
	require.NoError(t, b.EnsureStreams(ctx, chat))
	_, js := raw(t, s.ClientURL())
	for i := range 3 {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: fmt.Sprint("chat.", i), Data: fmt.Append(nil, i), Header: nats.Header{
			"Nats-Stream": {"OTHER"}, "Nats-Subject": {"other.subject"}, "Nats-Sequence": {"4711"}, "Nats-Last-Sequence": {"4710"},
			"Nats-Num-Pending": {"17"}, "Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}, "Status": {"503"}, "Color": {"blue"},
		}})
		require.NoError(t, err)
	}
	for name, start := range map[string]bus.SubscribeOption{
		"all": bus.All(), "last": bus.Last(3), "since": bus.Since(time.Now().Add(-time.Hour)), "last per subject": bus.LastPerSubject(),
	} {
		var got collector
		_, err := b.Subscribe(ctx, "chat.*", got.handle, start, bus.OnError(got.hook))
		require.NoError(t, err, name)
		require.Equal(t, []string{"0", "1", "2"}, got.texts(), name)
		require.Empty(t, got.problems, name)
		for i, m := range got.messages {
			require.Equal(t, fmt.Sprint("chat.", i), m.Subject, name)
			require.Equal(t, uint64(i+1), m.Cursor.Sequence(), name)
			require.WithinDuration(t, time.Now(), m.Time, time.Minute, name)
			require.Equal(t, bus.Header{"Status": {"503"}, "Color": {"blue"}}, m.Header, name)
		}
	}
}

// A subscription ends when what captures its pattern changes; how soon is how soon that is known.
func TestForeign_whatItCapturesIsKnownWithinASecond(t *testing.T) {
	deaf := &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"$JS.EVENT.>"}}}
	s := startServerWith(t, server.Options{Port: -1, StoreDir: t.TempDir(), Users: []*server.User{
		{Username: "all", Password: "all"}, {Username: "deaf", Password: "deaf", Permissions: deaf},
	}})
	ctx := t.Context()
	_, js := raw(t, "nats://all:all@"+s.Addr().String())
	keepStream(t, js)
	for user, rounds := range map[string]int{"all": 5, "deaf": 2} { // by advisories, and by the poll alone
		b := openURL(t, "nats://"+user+":"+user+"@"+s.Addr().String())
		// changed returns how long it takes until a change is known.
		changed := func(what string, change func() error) time.Duration {
			sub, err := b.Subscribe(ctx, "chat.>", func(context.Context, *bus.Message) error { return nil })
			require.NoError(t, err)
			require.NoError(t, change())
			start := time.Now()
			select {
			case <-sub.Done():
			case <-time.After(10 * time.Second):
				require.Fail(t, "the subscription still stands", "%s: %s", user, what)
			}
			took := time.Since(start)
			require.ErrorIs(t, sub.Err(), bus.ErrStreamChanged)
			require.Less(t, took, time.Second, "%s: %s", user, what)
			return took
		}
		total := time.Duration(0)
		for range rounds {
			total += changed("created", func() error {
				_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}})
				return err
			})
			var receipt bus.Receipt
			require.NoError(t, b.Publish(ctx, "chat.Go", nil, bus.WithReceipt(&receipt)), "it is captured")
			require.False(t, receipt.Cursor.IsZero())
			total += changed("deleted", func() error { return js.DeleteStream(ctx, "CHAT") })
			require.ErrorIs(t, b.Publish(ctx, "chat.Go", nil, bus.WithReceipt(&receipt)), bus.ErrNoStream)
		}
		if user == "all" {
			require.Less(t, total, 3*time.Second, "%d changes: the poll alone would take most of a second each", 2*rounds)
		}
		t.Logf("%s: %s a change", user, (total / time.Duration(2*rounds)).Round(time.Millisecond))
	}
}
