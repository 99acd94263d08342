package chat_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/examples/chat"
	"github.com/jitney-go/jitney/presence"
	"github.com/jitney-go/jitney/ui"
	"github.com/jitney-go/jitney/ui/uitest"
)

// serve serves the chat on a bus in memory.
func serve(t *testing.T) *uitest.Site {
	t.Helper()
	b, err := membus.Open(0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	here, err := presence.Open(t.Context(), b, "here")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, here.Close(context.Background())) })
	streams := []ui.StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}}}
	return uitest.Serve(t, ui.Options{Bus: b, Streams: streams}, func(v *ui.App) { chat.Serve(v, here, "mem:") })
}

func TestChat_roomsAreApartAndMarkedWhenSomethingIsSaid(t *testing.T) {
	site := serve(t)
	ann, bob := site.Open("/"), site.Open("/")
	ann.WaitText("2 here")
	bob.Click("Rust")
	ann.WaitText("1 here")
	bob.Fill("Message to Rust", "hello, Rust")
	bob.Click("Send")
	bob.WaitText("hello, Rust")
	ann.WaitText("Rust, unread: 1")
	require.NotContains(t, ann.Text(), "hello, Rust")
	ann.Click("#room-Rust")
	ann.WaitText("hello, Rust")
	ann.WaitText("2 here")
	require.Equal(t, "Rust – Chatroom", ann.Title())
	require.NotContains(t, ann.Text(), "unread")
}

func TestChat_aMessageThatIsTooLongIsRefusedAndKept(t *testing.T) {
	ann := serve(t).Open("/")
	long := strings.Repeat("long ", 1000)
	ann.Fill("Message to Go", long)
	ann.Click("Send")
	require.Contains(t, ann.Text(), "this message has 4999 characters, and 4000 is the limit")
	require.Equal(t, long, ann.Value("Message to Go"))
}

func TestChat_showsTheLastFifty(t *testing.T) {
	site := serve(t)
	ann := site.Open("/")
	for range 51 {
		ann.Fill("Message to Go", "line")
		ann.Click("Send")
	}
	ann.Fill("Message to Go", "and the last")
	ann.Click("Send")
	ann.WaitText("and the last")
	require.Equal(t, 49, strings.Count(ann.Text(), "\nline"))
	require.Equal(t, 49, strings.Count(site.Open("/").Text(), "\nline"))
}
