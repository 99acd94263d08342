package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

func (b *tab) name() string {
	b.t.Helper()
	return eval[string](b, "document.querySelector('.who').textContent")
}

// waitHere waits until the tab shows these names, in any order.
func (b *tab) waitHere(want ...string) {
	b.t.Helper()
	var got []string
	var err error
	eventually(b.t, fmt.Sprint("who is here: ", want), func() bool {
		got, err = try[[]string](b, "[...document.querySelectorAll('.here li')].map(l => l.textContent)")
		if err != nil || len(got) != len(want) {
			return false
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(got, "|"), w) {
				return false
			}
		}
		return true
	}, func() string { return fmt.Sprintf("and not %q %v", got, err) })
}

func TestChat_theNameSurvivesAReload(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		bob.enterChat(c)
		who := ann.name()
		ann.say("mine")
		bob.waitLines("mine")
		ann.do(chromedp.Reload())
		ann.waitOpen()
		require.Equal(t, who, ann.name())
		ann.waitFor("document.querySelectorAll('.mine').length === 1")
		second := ann.another()
		second.enterChat(c)
		require.Equal(t, who, second.name())
		require.Equal(t, 0, eval[int](bob, "document.querySelectorAll('.mine').length"))
	})
}

func TestChat_saysWhoIsHere(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		ann.waitHere(ann.name())
		bob.enterChat(c)
		for _, b := range []*tab{ann, bob} {
			b.waitHere(ann.name(), bob.name())
		}
		ann.js("window.most = 9; new MutationObserver(() => most = Math.min(most, document.querySelectorAll('.here li').length)).observe(document.querySelector('.here'), {subtree: true, childList: true})")
		bob.do(chromedp.Reload())
		bob.waitOpen()
		bob.waitHere(ann.name(), bob.name())
		bob.click("#room-Rust")
		bob.waitHere(bob.name())
		ann.waitHere(ann.name())
		require.Equal(t, 1, eval[int](ann, "most"))
		bob.click("#room-Go")
		ann.waitHere(ann.name(), bob.name())
	})
}

func TestChat_unreadRoomsAreMarked(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		bob.enterChat(c)
		bob.click("#room-Rust")
		bob.waitFor("document.title === 'Rust – Chatroom'")
		places := "[...document.querySelectorAll('nav button')].map(b => b.getBoundingClientRect().x).join()"
		before := eval[string](ann, places)
		bob.say("one")
		bob.say("two")
		ann.waitFor("document.querySelector('#room-Rust .unread')?.textContent === '2'")
		require.Equal(t, 1, eval[int](ann, "document.querySelectorAll('.unread').length"))
		require.Zero(t, eval[int](bob, "document.querySelectorAll('.unread').length"))
		for i := range 9 {
			bob.say(fmt.Sprint(i))
		}
		ann.waitFor("document.querySelector('#room-Rust .unread').textContent === '9+'")
		require.Equal(t, before, eval[string](ann, places), "a mark moves what somebody is about to click")
		ann.focus("#room-Rust")
		ann.typeText("\r")
		ann.waitFor("document.title === 'Rust – Chatroom' && !document.querySelector('.unread')")
		ann.waitFor("document.querySelectorAll('.log article').length === 11")
	})
}

func TestChat_whatCameMeanwhileIsCounted(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		bob.enterChat(c)
		for i := range 20 {
			bob.say(fmt.Sprint("line ", i))
		}
		ann.waitFor("document.querySelectorAll('.log article').length === 20")
		ann.js("document.querySelector('.log').scrollTop = 0")
		bob.say("a")
		bob.say("b")
		bob.say("c")
		ann.waitText("[data-unseen] button", "3 new messages")
		require.Zero(t, eval[int](ann, "document.querySelector('.log').scrollTop"))
		ann.focus("[data-unseen] button")
		ann.typeText("\r")
		ann.waitFor("!document.querySelector('[data-unseen] button') && (l => l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('.log'))")
		ann.js("document.querySelector('.log').scrollTop = 0")
		ann.say("mine")
		ann.waitFor("(l => l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('.log'))")
	})
}

func TestChat_whatSomebodySaysInARowHasOneName(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.enterChat(c)
		bob.enterChat(c)
		shown := "[...document.querySelectorAll('.log article[id]')].map(a => a.querySelector('.by').offsetWidth > 1 ? a.querySelector('.name').textContent : '').join()"
		b := strings.SplitN(bob.name(), " ", 2)[1]
		a := strings.SplitN(ann.name(), " ", 2)[1]
		bob.say("one")
		bob.say("two")
		ann.waitLines("one", "two")
		require.Equal(t, b+",", eval[string](ann, shown))
		ann.say("three")
		ann.say("four")
		bob.waitLines("one", "two", "three", "four")
		bob.say("five")
		ann.waitLines("one", "two", "three", "four", "five")
		ann.waitSent()
		for _, p := range []*tab{ann, bob} {
			p.waitFor("!document.querySelector('[data-echo-state]')")
			require.Equal(t, b+",,"+a+",,"+b, eval[string](p, shown))
			require.Contains(t, eval[string](p, "document.querySelectorAll('.log article')[3].textContent"), a, "who listens is told")
		}
	})
}

// TestChat_aRowStaysWhereItIsWhenTheServerHasIt has the server away while lines are said.
func TestChat_aRowStaysWhereItIsWhenTheServerHasIt(t *testing.T) {
	c := startExample(t, chatroom, "-data", t.TempDir())
	ann := newPerson(t)
	ann.mayBeOffline()
	ann.enterChat(c)
	ann.say("one")
	ann.waitFor("document.querySelector('.log article[id]') && !document.querySelector('[data-echo-state]')")
	c.kill()
	ann.waitFor("document.documentElement.dataset.ui === 'lost'")
	ann.say("two")
	ann.say("three")
	places := "[...document.querySelectorAll('.log .line')].slice(0, 2).map(l => l.getBoundingClientRect().y).join()"
	before := eval[string](ann, places)
	require.Equal(t, 1, eval[int](ann, "[...document.querySelectorAll('.log .by')].filter(p => p.offsetWidth > 1).length"))
	c.start()
	ann.waitFor("document.querySelectorAll('.log article[id]').length === 3 && !document.querySelector('[data-echo-state]')")
	require.Equal(t, before, eval[string](ann, places))
}

func TestChat_ownMessagesAreThereAtOnceAndMarkedUntilTheyAreAccepted(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann := newPerson(t)
		ann.mayBeOffline()
		ann.enterChat(c)
		c.kill()
		ann.waitFor("document.documentElement.dataset.ui === 'lost'")
		ann.say("one")
		ann.say("two")
		require.Equal(t, []string{"one", "two"}, eval[[]string](ann, "[...document.querySelectorAll('.log .text')].map(p => p.textContent)"))
		require.Equal(t, 2, eval[int](ann, "document.querySelectorAll('[data-echo-state=sending]').length"))
		require.Contains(t, eval[string](ann, "document.querySelector('.log').innerText"), "sending…")
		c.start()
		ann.waitFor("!document.querySelector('[data-echo-state]')")
		require.Equal(t, []string{"one", "two"}, ann.lines())
		require.NotContains(t, eval[string](ann, "document.querySelector('.log').innerText"), "sending…")
		require.Equal(t, 2, eval[int](ann, "document.querySelectorAll('.log article[id].mine').length"))
	})
}

func TestChat_timesAreThoseOfTheReader(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann := newPerson(t)
		_, err := chromedp.Call(ann.ctx, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Asia/Kolkata"})
		require.NoError(t, err)
		ann.enterChat(c)
		ann.say("when?")
		ann.waitFor("document.querySelector('.log article[id] time')")
		shown := `(time => {
			const format = o => new Intl.DateTimeFormat([], {...o, timeZone: 'Asia/Kolkata'}), day = format({dateStyle: 'short'});
			const at = new Date(time.dateTime), want = format({timeStyle: 'short'}).format(at);
			return time.textContent === want || day.format(at) !== day.format() && time.textContent.endsWith(want); // it is midnight
		})(document.querySelector('.log time'))`
		require.True(t, eval[bool](ann, shown))
		ann.do(chromedp.Reload())
		ann.waitOpen()
		ann.waitFor(shown)
	})
}

// TestChat_theCornerTellsTheBusAndTheTime also says how long it took.
func TestChat_theCornerTellsTheBusAndTheTime(t *testing.T) {
	onBothBuses(t, func(t *testing.T, c *child) {
		ann := newPerson(t)
		ann.enterChat(c)
		want := map[bool]string{true: "mem:?tick=100ms ticker 100 ms", false: "nats:./data/nats-chatroom instant"}[c.name == "chatroom"]
		require.Equal(t, want, eval[string](ann, "document.querySelector('.corner code').textContent + ' ' + document.querySelector('.corner code + span').textContent"))
		for i := range 32 {
			ann.say(fmt.Sprint("line ", i))
			ann.waitFor(fmt.Sprintf("document.querySelectorAll('.log article[id]').length === %d && !document.querySelector('[data-echo-state]')", i+1))
		}
		ann.waitText("[data-latency]", "(last 30)")
		require.Equal(t, 30, eval[int](ann, "document.querySelectorAll('[data-latency] rect').length"))
		p50, most := eval[float64](ann, "Number(document.querySelector('[data-latency]').dataset.p50)"), eval[float64](ann, "Number(document.querySelector('[data-latency]').dataset.max)")
		t.Logf("%s: p50 %.1f ms, max %.1f ms", want, p50, most)
		require.Positive(t, p50)
		require.GreaterOrEqual(t, most, p50)
		require.Less(t, most, float64(patience.Milliseconds())) // on a busy machine; it is in milliseconds
		ann.picture("corner-" + c.name)
	})
}

func TestChat_robotsChat(t *testing.T) {
	for _, name := range []string{"chatroom", "nats-chatroom"} {
		t.Run(name, func(t *testing.T) {
			c := startExample(t, name, "-load", "100")
			ann := newPerson(t)
			ann.enterChat(c)
			ann.waitFor("document.querySelectorAll('.log article[id]').length > 3 && document.querySelectorAll('.unread').length === 4")
			ann.waitText(".here h2", "21 here")
			require.True(t, eval[bool](ann, "[...document.querySelectorAll('.log .text')].every(p => /^(Has|Who)/.test(p.textContent) === p.textContent.endsWith('?'))"))
			ann.say("hello, robots")
			ann.waitFor("document.querySelector('.log article[id].mine')")
		})
	}
}

// TestChat_twoProcessesOnOneServer has a third process as the server.
func TestChat_twoProcessesOnOneServer(t *testing.T) {
	nats := freeAddress(t)
	startExample(t, chatroom, "-bus", "nats:"+t.TempDir()+"?listen="+nats)
	one := startExample(t, chatroom, "-bus", "nats://"+nats)
	two := startExample(t, chatroom, "-bus", "nats://"+nats)
	ann, bob := newPerson(t), newPerson(t)
	ann.enterChat(one)
	ann.say("before")
	ann.waitLines("before")
	bob.enterChat(two)
	bob.waitLines("before")
	for _, b := range []*tab{ann, bob} {
		b.waitHere(ann.name(), bob.name())
	}
	bob.say("hello")
	ann.say("hi")
	for _, b := range []*tab{ann, bob} {
		b.waitFor("document.querySelectorAll('.log article[id]').length === 3")
	}
	require.ElementsMatch(t, []string{"before", "hello", "hi"}, ann.lines())
	require.Equal(t, ann.lines(), bob.lines())
	bob.mayBeOffline()
	two.kill()
	ann.waitHere(ann.name())
}

func TestChat_axeHasNothingToSay(t *testing.T) {
	source := axe(t)
	onBothBuses(t, func(t *testing.T, c *child) {
		ann, bob := newPerson(t), newPerson(t)
		ann.mayBeOffline()
		ann.enterChat(c)
		bob.mayBeOffline()
		bob.enterChat(c)
		ann.accessible(source)
		bob.click("#room-Rust")
		bob.waitFor("document.title === 'Rust – Chatroom'")
		bob.say("Anybody here?")
		ann.waitFor("document.querySelector('#room-Rust .unread')")
		bob.click("#room-Go")
		bob.waitFor("document.title === 'Go – Chatroom'")
		for i := range 20 {
			bob.say(fmt.Sprint("line ", i))
		}
		ann.say("mine")
		ann.js("text.value = 'x'.repeat(5000); text.dispatchEvent(new Event('input', {bubbles: true}))")
		ann.say("")
		ann.waitFor("document.querySelector('[data-echo-state=refused]')")
		ann.js("document.querySelector('.log').scrollTop = 0")
		bob.say("the last")
		ann.waitFor("document.querySelector('[data-unseen] button')")
		c.kill()
		ann.waitText("#jitney-status", "No connection")
		ann.say("on its way")
		ann.accessible(source)
	})
}
