package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

const chatroom = "nats-chatroom"

// onBothBuses runs a test with the chat in memory, as chatroom has it, and with the one on disk.
func onBothBuses(t *testing.T, test func(t *testing.T, c *child)) {
	t.Run("mem", func(t *testing.T) { test(t, startExample(t, "chatroom")) })
	t.Run("nats", func(t *testing.T) { test(t, startExample(t, chatroom)) })
}

// enterChat opens the chat and waits for its stream.
func (b *tab) enterChat(c *child) {
	b.t.Helper()
	b.open(c.url)
	b.waitOpen()
}

// waitOpen waits for the stream and the view, which isn't in the document when the server takes long.
func (b *tab) waitOpen() {
	b.t.Helper()
	b.waitFor("document.documentElement.dataset.ui === 'open' && document.getElementById('jitney-root').childElementCount > 0")
}

// say types a line into the chat and sends it.
func (b *tab) say(line string) {
	b.t.Helper()
	b.focus("#text")
	b.typeText(line + "\r")
}

const linesJS = "[...document.querySelectorAll('[role=log] article[id] .text')].map(p => p.textContent)"

// lines returns the messages of the server that the tab shows, without those that are on their way to it.
func (b *tab) lines() []string {
	b.t.Helper()
	return eval[[]string](b, linesJS)
}

// waitLines waits until the tab shows these messages and no others.
func (b *tab) waitLines(want ...string) {
	b.t.Helper()
	var got []string
	var err error
	eventually(b.t, fmt.Sprintf("the lines %q", want), func() bool {
		got, err = try[[]string](b, linesJS)
		return err == nil && strings.Join(got, "\n") == strings.Join(want, "\n")
	}, func() string { return fmt.Sprintf("and not %q %v", got, err) })
}

func (b *tab) waitSent() {
	b.t.Helper()
	b.waitFor("!('uiPending' in document.documentElement.dataset)")
}

func TestChat_twoPeopleSeeEachOther(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		ann.waitText(".empty", "Nobody has said anything in Go")
		bob.enterChat(c)
		second := ann.another()
		second.enterChat(c)
		ann.say("hello")
		bob.waitLines("hello")
		bob.say("hi <b>there</b>")
		for _, b := range []*tab{ann, second, bob} {
			b.waitLines("hello", "hi <b>there</b>")
		}
		ann.waitFor("document.querySelectorAll('.mine').length === 1 && !document.querySelector('.empty')")
		bob.do(chromedp.Reload())
		bob.waitOpen()
		bob.waitLines("hello", "hi <b>there</b>")
	})
}

func TestChat_roomsAreApart(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		bob.enterChat(c)
		ann.click("#room-Rust")
		ann.waitFor("document.querySelector('#room-Rust').getAttribute('aria-current') === 'page'")
		ann.waitFor("document.title === 'Rust – Chatroom'")
		ann.say("in Rust")
		ann.waitLines("in Rust")
		bob.say("in Go")
		bob.waitLines("in Go")
		require.Equal(t, []string{"in Rust"}, ann.lines())
		bob.click("#room-Rust")
		bob.waitLines("in Rust")
		ann.click("#room-Go")
		ann.waitLines("in Go")
	})
}

func TestChat_aHalfWrittenLineSurvivesTheOthers(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		bob.enterChat(c)
		ann.focus("#text")
		ann.typeText("half written")
		ann.js("text.mark = 1; text.setSelectionRange(4, 6); window.blurs = 0; text.onblur = () => blurs++")
		var want []string
		for i := range 10 {
			line := fmt.Sprint("line ", i)
			want = append(want, line)
			bob.say(line)
			if i == 5 {
				ann.waitLines(want...)
			}
		}
		ann.waitLines(want...)
		require.Equal(t, "half written 4 6 1 0", eval[string](ann, "(e => [e.value, e.selectionStart, e.selectionEnd, e.mark, blurs].join(' '))(document.activeElement)"))
	})
}

func TestChat_aCompositionSurvivesTheOthers(t *testing.T) {
	c := startExample(t, chatroom, "-bus", "mem:")
	ann, bob := newPerson(t), newPerson(t)
	ann.enterChat(c)
	bob.enterChat(c)
	ann.focus("#text")
	ann.compose("に")
	bob.say("one")
	ann.waitLines("one")
	ann.compose("にほ")
	bob.say("two")
	ann.waitLines("one", "two")
	require.Equal(t, "にほ", value(ann, "#text"))
	ann.commit("日本")
	ann.typeText("\r")
	bob.waitLines("one", "two", "日本")
}

func TestChat_aFastTypistsLinesStayApart(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann := newPerson(t)
		ann.enterChat(c)
		ann.focus("#text")
		ann.typeText("one\rtwo\rthree\r")
		ann.waitLines("one", "two", "three")
	})
}

func TestChat_nothingIsNotSent(t *testing.T) {
	c := startExample(t, chatroom, "-bus", "mem:")
	ann := newPerson(t)
	ann.enterChat(c)
	ann.say("")
	ann.say("   ")
	ann.focus("#text")
	ann.js("text.value = ''")
	ann.say("something")
	ann.waitLines("something")
}

func TestChat_aMessageTooLargeIsRefusedAndKept(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann := newPerson(t)
		ann.mayBeOffline() // the browser notes the 413
		ann.enterChat(c)
		for _, size := range []int{5000, 900_000, 2_000_000} {
			ann.focus("#text")
			ann.js(fmt.Sprintf("text.value = 'x'.repeat(%d); text.dispatchEvent(new Event('input', {bubbles: true}))", size))
			ann.typeText("\r")
			ann.waitFor("document.querySelector('[role=alert]')")
			require.Regexp(t, `5000 characters.*4000|900000 characters.*4000|too large`, eval[string](ann, "document.querySelector('[role=alert]').textContent"))
			require.Empty(t, value(ann, "#text"))
			ann.waitText("[data-echo-state=refused]", "Not sent.")
			ann.waitSent()
			ann.click("[role=alert] button")
			ann.click("[data-echo-do=edit]")
			require.Equal(t, size, eval[int](ann, "text.value.length"))
			require.Zero(t, eval[int](ann, "document.querySelectorAll('[role=log] article').length"))
			ann.js("text.value = ''; text.dispatchEvent(new Event('input', {bubbles: true}))")
		}
		ann.say("short")
		ann.waitLines("short")
	})
}

// TestChat_aKilledServerComesBack kills the server after it has acknowledged a message, and
// starts it again on the same port.
func TestChat_aKilledServerComesBack(t *testing.T) {
	c := startExample(t, chatroom, "-data", t.TempDir())
	ann, bob := newPerson(t), newPerson(t)
	for _, b := range []*tab{ann, bob} {
		b.mayBeOffline()
		b.enterChat(c)
		b.click("#room-Clojure")
		b.waitFor("document.title === 'Clojure – Chatroom'")
	}
	who := eval[string](ann, "document.querySelector('.who').textContent")
	ann.say("before")
	ann.waitLines("before")
	ann.waitSent()
	ann.typeText("half")
	ann.js("text.mark = 1; text.setSelectionRange(1, 2)")
	c.kill()
	ann.waitText("#jitney-status", "No connection to the server")
	ann.picture("chat-lost")
	c.start()
	ann.waitOpen()
	bob.waitOpen()
	require.Equal(t, "half 1 1 2", eval[string](ann, "(e => [e.value, e.mark, e.selectionStart, e.selectionEnd].join(' '))(document.activeElement)"))
	require.Equal(t, who, eval[string](ann, "document.querySelector('.who').textContent"))
	require.Equal(t, "Clojure – Chatroom", eval[string](ann, "document.title"))
	require.Equal(t, []string{"before"}, ann.lines())
	bob.say("after")
	ann.waitLines("before", "after")
	ann.typeText("\r")
	bob.waitLines("before", "after", "half")
}

func TestChat_whatIsSaidWhileTheServerIsDownIsSentOnce(t *testing.T) {
	for name, bus := range map[string]string{"mem": "mem:", "nats": "nats:"} {
		t.Run(name, func(t *testing.T) {
			c := startExample(t, chatroom, "-bus", bus, "-data", t.TempDir())
			ann := newPerson(t)
			ann.mayBeOffline()
			ann.enterChat(c)
			ann.say("stored")
			ann.waitLines("stored")
			c.kill()
			ann.say("one")
			ann.say("two")
			ann.typeText("three")
			require.Equal(t, "three", value(ann, "#text"))
			c.start()
			want := []string{"stored", "one", "two"}
			if name == "mem" {
				want = want[1:] // memory forgets
			}
			ann.waitLines(want...)
			ann.waitSent()
			require.Equal(t, "three", value(ann, "#text"))
			ann.do(chromedp.Reload())
			ann.waitOpen()
			ann.waitLines(want...)
		})
	}
}

// TestChat_aMessageWhoseAnswerIsLostIsThereOnce lets the server store a message, loses the
// answer, and in the worse case kills the server before the browser can ask again.
func TestChat_aMessageWhoseAnswerIsLostIsThereOnce(t *testing.T) {
	for name, kill := range map[string]bool{"the server lives": false, "the server is killed": true} {
		t.Run(name, func(t *testing.T) {
			c := startExample(t, chatroom, "-data", t.TempDir())
			p := startProxy(t, c.url)
			ann, bob := newPerson(t), newPerson(t)
			ann.mayBeOffline()
			bob.enterChat(c)
			ann.open(p.url)
			ann.waitOpen()
			p.setLose(true)
			ann.say("once")
			eventually(t, "the loss", p.hasLost)
			bob.waitLines("once")
			if kill {
				bob.mayBeOffline()
				c.kill()
				c.start()
			}
			p.setLose(false)
			ann.waitSent()
			ann.say("twice")
			ann.waitLines("once", "twice")
			bob.waitLines("once", "twice")
		})
	}
}

func TestChat_onlyWhatChangedTravels(t *testing.T) {
	c := startExample(t, chatroom, "-bus", "mem:")
	p := startProxy(t, c.url)
	ann, bob := newPerson(t), newPerson(t)
	ann.open(p.url)
	ann.waitOpen()
	bob.enterChat(c)
	var want []string
	for i := range 60 {
		line := fmt.Sprintf("Zeile %d: 😀 <&> \"quoted\"", i)
		want = append(want, line)
		bob.say(line)
		ann.waitLines(want[max(0, len(want)-50):]...)
	}
	streams, events := p.seen()
	require.Equal(t, 1, streams, "every frame has fitted")
	require.Contains(t, events[0], `"html"`)
	for _, e := range events[1:] {
		require.Contains(t, e, `"edits"`)
		require.Less(t, len(e), 800, e)
	}
}

// TestChat_aServerKilledWhileItIsSpokenToKeepsEachMessageOnce kills the server at about the
// time when it stores a message or answers.
func TestChat_aServerKilledWhileItIsSpokenToKeepsEachMessageOnce(t *testing.T) {
	c := startExample(t, chatroom, "-data", t.TempDir())
	ann := newPerson(t)
	ann.mayBeOffline()
	ann.enterChat(c)
	var want []string
	for i := range 5 {
		line := fmt.Sprint("round ", i)
		want = append(want, line)
		ann.focus("#text")
		ann.typeText(line + "\r")
		c.kill() // about when it is stored and answered
		c.start()
		ann.waitLines(want...)
		ann.waitSent()
	}
	require.Equal(t, want, ann.lines())
}

func TestChat_aServerThatEndsInOrderIsComeBackTo(t *testing.T) {
	c := startExample(t, chatroom, "-data", t.TempDir())
	ann := newPerson(t)
	ann.mayBeOffline()
	ann.enterChat(c)
	ann.say("before")
	ann.waitLines("before")
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "its end", func() bool { return closed(c.ended) })
	require.Zero(t, c.cmd.ProcessState.ExitCode(), c.output)
	c.start()
	ann.say("after")
	ann.waitLines("before", "after")
}

func TestChat_twentyTabsOfOneBrowser(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		first := newPerson(t)
		first.enterChat(c)
		tabs := []*tab{first}
		for range 19 {
			b := first.another()
			b.enterChat(c)
			tabs = append(tabs, b)
		}
		tabs[19].say("from the last")
		tabs[0].waitLines("from the last")
		tabs[0].say("from the first")
		for _, b := range tabs {
			b.waitLines("from the last", "from the first")
		}
	})
}

func TestChat_twentyNavigationsAndBack(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann := newPerson(t)
		for i := range 20 {
			ann.open(fmt.Sprintf("%s/?visit=%d", c.url, i)) // the one before goes into the back/forward cache
			ann.waitOpen()
			if i%5 == 0 {
				ann.say(fmt.Sprint("visit ", i))
				ann.waitSent()
			}
		}
		want := []string{"visit 0", "visit 5", "visit 10", "visit 15"}
		for i := 18; i >= 15; i-- {
			ann.back(fmt.Sprintf("%s/?visit=%d", c.url, i))
			ann.waitOpen()
			ann.waitLines(want...)
		}
		ann.say("back again")
		ann.waitLines(append(want, "back again")...)
	})
}

func TestChat_backFindsTheHalfWrittenLine(t *testing.T) {
	c := startExample(t, chatroom, "-bus", "mem:")
	ann, bob := newPerson(t), newPerson(t)
	ann.enterChat(c)
	bob.enterChat(c)
	ann.say("see you")
	ann.waitLines("see you")
	ann.waitSent()
	ann.typeText("half")
	ann.js("window.mark = 1")
	ann.open(c.url + "/?elsewhere")
	ann.waitOpen()
	bob.say("meanwhile")
	ann.back(c.url + "/")
	ann.waitLines("see you", "meanwhile")
	ann.waitValue("#text", "half")
	ann.waitOpen()
	if !eval[bool](ann, "window.mark === 1") { // the browser may give a kept page up when it wants, but not on our account
		why := eval[string](ann, "JSON.stringify(performance.getEntriesByType('navigation')[0].notRestoredReasons)")
		t.Log("not from the back/forward cache: ", why)
		require.NotContains(t, why, `"src":"`+c.url)
		require.Contains(t, why, `"reason":"masked"`)
	}
}

func TestChat_theLogStaysAtItsEndAndShowsFifty(t *testing.T) {
	c := startExample(t, chatroom, "-bus", "mem:")
	ann := newPerson(t)
	ann.mayBeOffline() // the browser notes a 429: they may be too many in a second
	ann.enterChat(c)
	var want []string
	for i := range 60 {
		want = append(want, fmt.Sprint("line ", i))
	}
	for _, line := range want {
		ann.say(line)
	}
	ann.waitLines(want[10:]...)
	ann.waitFor("(l => l.scrollHeight > l.clientHeight && l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('[role=log]'))")
	ann.do(chromedp.Reload())
	ann.waitOpen()
	ann.waitLines(want[10:]...)
	ann.waitFor("(l => l.scrollHeight > l.clientHeight && l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('[role=log]'))")
}

func TestChat_aDirectoryThatCantBeWrittenIsSaidInALine(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 { // modes don't bind root
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", dir).CombinedOutput(); err != nil {
			require.NotEqual(t, "true", os.Getenv("CI"), "can't make a read-only directory: %v: %s", err, out)
			t.Skipf("can't make a read-only directory here: %v: %s", err, out)
		}
		t.Cleanup(func() { require.NoError(t, exec.Command("umount", dir).Run()) })
	} else {
		require.NoError(t, os.Chmod(dir, 0o500))
	}
	for _, data := range []string{dir, filepath.Join(dir, "below")} {
		out := fails(t, chatroom, "-addr", freeAddress(t), "-data", data)
		require.Regexp(t, "read-only|permission denied", out)
		require.NotContains(t, out, "\n", "one line")
		t.Log(out)
	}
}

func TestChat_whatCantWorkIsSaidInALine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	used, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer used.Close()
	locked := t.TempDir()
	startExample(t, chatroom, "-data", locked)
	free := freeAddress(t)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"used port":         {[]string{"-bus", "mem:", "-addr", used.Addr().String()}, "address already in use"},
		"bad address":       {[]string{"-bus", "mem:", "-addr", "nowhere"}, "want host:port"},
		"unknown host":      {[]string{"-bus", "mem:", "-addr", "host.invalid:80"}, "can't listen"},
		"locked directory":  {[]string{"-addr", free, "-data", locked}, "locked"},
		"file as directory": {[]string{"-addr", free, "-data", file}, "not a directory"},
		"file above":        {[]string{"-addr", free, "-data", file + "/below"}, "not a directory"},
		"unknown scheme":    {[]string{"-addr", free, "-bus", "kafka:x"}, "kafka"},
		"no scheme":         {[]string{"-addr", free, "-bus", "localhost"}, "localhost"},
		"bad parameter":     {[]string{"-addr", free, "-bus", "mem:?tick=soon"}, "tick"},
		"unknown parameter": {[]string{"-addr", free, "-bus", "mem:?tack=1ms"}, "tack"},
		"a space in it":     {[]string{"-addr", free, "-bus", "nats://a b:4222"}, "a b"},
		"nobody there":      {[]string{"-addr", free, "-bus", "nats://127.0.0.1:1"}, "is the server running"},
		"unknown flag":      {[]string{"-colour"}, "-h shows the flags"},
		"unexpected word":   {[]string{"serve"}, "unexpected \"serve\""},
	} {
		t.Run(name, func(t *testing.T) {
			out := fails(t, chatroom, test.args...)
			require.Contains(t, out, test.want)
			require.NotContains(t, out, "\n", "one line")
			require.True(t, strings.HasPrefix(out, "nats-chatroom: "), out)
			t.Log(out)
		})
	}
}
