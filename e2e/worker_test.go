package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fasterTimers lets the timers of a page, though not those of its worker, run fifty times as fast.
const fasterTimers = "{ const real = setTimeout; window.setTimeout = (f, ms, ...args) => real(f, ms / 50, ...args) }"

func TestWorker_thatCantBeLoadedIsSaidAndTriedAgain(t *testing.T) {
	f := &fake{t: t, body: "<p>x</p>"}
	var away, refused atomic.Bool
	away.Store(true)
	b := newPerson(t)
	b.mayBeOffline()
	b.mayComplainOf("worker")
	f.serve()
	inner := f.srv.Config.Handler
	f.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "worker") {
			// A page that has got no shared worker asks for the script at once: it mustn't find us back between the two.
			if r.Header.Get("Sec-Fetch-Dest") == "sharedworker" {
				refused.Store(away.Load())
			}
			if refused.Load() {
				http.Error(w, "restarting", http.StatusServiceUnavailable)
				return
			}
		}
		inner.ServeHTTP(w, r)
	})
	b.open(f.srv.URL)
	b.waitFor("document.documentElement.dataset.ui === 'lost'")
	b.waitText("#jitney-status", "No connection to the server.")
	away.Store(false)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	require.Equal(t, 1, f.streamCount())
	require.Empty(t, eval[string](b, "[...document.head.querySelectorAll('script[src*=worker]')].join()"), "it is a shared one again")
}

func TestWorker_tabThatWasLeftForGoodJoinsAgain(t *testing.T) {
	f := &fake{t: t, body: "<p>x</p>"}
	f.serve()
	b := newPerson(t)
	b.beforeLoad(fasterTimers)
	b.open(f.srv.URL)
	b.waitFor("document.documentElement.dataset.ui === 'open'")
	f.showIn(b, "<p>one</p>")
	f.send(map[string]any{"tab": f.tab, "left": true, "s": uint64(1<<53 - 1)})
	eventually(t, "another stream", func() bool { return f.streamCount() == 2 })
	require.Equal(t, "2", f.lastStream().query.Get("s"))
	f.showIn(b, "<p>two</p>")
}

func TestWorker_streamsThatEndAfterAnEventAreOpenedLessAndLess(t *testing.T) {
	f, b := newFake(t, "<p>x</p>", nil)
	b.mayBeOffline()
	began := time.Now()
	for n := 1; n < 6; n++ {
		f.send(map[string]any{"hb": true, "v": map[string]any{}})
		close(f.lastStream().events)
		eventually(t, "another stream", func() bool { return f.streamCount() == n+1 })
	}
	require.Greater(t, time.Since(began), 3*time.Second) // 125, 250, 500, 1000 and 2000 ms are the least
}

// TestWorker_leavesAloneWhoHasLeft speaks to a worker, run in a page, as two documents do. One leaves: a message would
// drive it out of the back/forward cache.
func TestWorker_leavesAloneWhoHasLeft(t *testing.T) {
	f, b := newFake(t, "<p>x</p>", nil)
	b.js(`window.heard = [[], []];
		const script = document.createElement('script');
		script.src = '/_ui/worker.js';
		script.onload = () => {
			window.ports = heard.map((list, n) => {
				const {port1, port2} = new MessageChannel();
				jitneyConnect(port2);
				port1.onmessage = ({data}) => list.push(data);
				port1.postMessage({hello: {base: location.origin + '/_ui/', lock: '', name: 'a-worker'}});
				port1.postMessage({join: {tab: 'T' + n, key: 'key', v: 1}});
				return port1;
			});
		};
		document.head.append(script);`)
	b.waitFor("heard.every(list => list.some(m => m.state === 'open'))")
	b.js("heard[0].length = 0; ports[0].postMessage({leave: true})")
	eventually(t, "a stream of one tab", func() bool { return f.lastStream().query.Get("w") == "a-worker" && len(f.lastStream().query["t"]) == 1 })
	f.send(map[string]any{"later": 1})
	b.waitFor("heard[1].some(m => m.state === 'lost') && heard[1].at(-1).state === 'open'")
	require.Empty(t, eval[[]any](b, "heard[0]"))
}

// TestWorker_tabThatJoinsIsNotHeldUpByOthers speaks to a worker, run in a page, as seven documents do. What it puts
// off by seconds is put off for ever.
func TestWorker_tabThatJoinsIsNotHeldUpByOthers(t *testing.T) {
	f, b := newFake(t, "<p>x</p>", nil)
	b.js("const set = setTimeout; window.setTimeout = (f, ms, ...args) => ms < 1000 ? set(f, ms, ...args) : -1")
	b.js(`window.docs = [];
		window.meet = () => {
			const channel = new MessageChannel(), n = docs.length;
			jitneyConnect(channel.port2);
			channel.port1.postMessage({hello: {base: location.origin + '/_ui/', lock: '', name: 'a-worker'}});
			channel.port1.postMessage({join: {tab: 'T' + n, key: 'key', v: 1}});
			docs.push(channel.port1);
		};
		const script = document.createElement('script');
		script.src = '/_ui/worker.js';
		script.onload = () => { for (let i = 0; i < 6; i++) meet(); };
		document.head.append(script);`)
	waitTabs := func(n int, first string) {
		t.Helper()
		eventually(t, fmt.Sprintf("a stream of %d tabs", n), func() bool {
			q := f.lastStream().query
			return q.Get("w") == "a-worker" && len(q["t"]) == n && q.Get("t") == first
		})
	}
	waitTabs(6, "T0.key.1")
	// Six tabs ask for their views again: the last of them is to wait for five seconds, and the next one that asks for eight.
	b.js("docs.forEach(d => d.postMessage({resync: true}))")
	waitTabs(6, "T0.key.0")
	b.js("meet(); docs[0].postMessage({resync: true})")
	waitTabs(7, "T0.key.0")
}
