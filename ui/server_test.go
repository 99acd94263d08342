package ui_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/ui"
)

func TestServe_saysWhatFailsAtTheStartAndWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for name, test := range map[string]struct {
		options ui.Options
		says    []string
	}{
		"used port":      {ui.Options{BusURL: "mem:", ServerAddress: taken.Addr().String()}, []string{taken.Addr().String(), "Options.ServerAddress", "another program", "end it"}},
		"no such port":   {ui.Options{BusURL: "mem:", ServerAddress: "localhost:99999"}, []string{"99999", "such as localhost:7331"}},
		"two buses":      {ui.Options{BusURL: "mem:", Bus: openBus(t)}, []string{"Options.Bus", "Options.BusURL", "both"}},
		"no port":        {ui.Options{BusURL: "mem:", ServerAddress: "localhost"}, []string{`"localhost"`, "host:port"}},
		"unknown bus":    {ui.Options{BusURL: "carrier-pigeon:"}, []string{"Options.BusURL", "carrier-pigeon"}},
		"bad stream":     {ui.Options{BusURL: "mem:", Streams: []ui.StreamConfig{{Name: "a b"}}}, []string{"Options.Streams"}},
		"host with port": {ui.Options{BusURL: "mem:", Hosts: []string{"example.com:80"}}, []string{"Options.Hosts", "without scheme and port"}},
		"negative bound": {ui.Options{BusURL: "mem:", MaxTabs: -1}, []string{"Options.MaxTabs"}},
		"plugin":         {ui.Options{BusURL: "mem:", Plugins: []ui.Plugin{func(*ui.App) error { return errors.New("no licence") }}}, []string{"plugin", "no licence"}},
	} {
		v := ui.New()
		v.Config(test.options)
		err := v.Serve(t.Context())
		require.Error(t, err, name)
		for _, part := range test.says {
			require.ErrorContains(t, err, part, name)
		}
		require.Empty(t, v.Addr(), name)
		require.ErrorContains(t, v.Serve(t.Context()), "twice", name)
	}
}

func TestServe_opensAndClosesTheBusOfItsURL(t *testing.T) {
	v := ui.New()
	v.Config(ui.Options{BusURL: "mem:", ServerAddress: "127.0.0.1:0"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- v.Serve(ctx) }()
	require.NotEmpty(t, v.Addr())
	cancel()
	require.NoError(t, <-ended)
}

func TestServe_bringsThePluginsPagesAndAssets(t *testing.T) {
	var address string
	s := serve(t, ui.Options{Plugins: []ui.Plugin{func(v *ui.App) error {
		chat(v)
		v.Asset("chat.css", []byte("body{color:red}"))
		address = v.Asset("logo.svg", []byte("<svg/>"))
		return nil
	}}}, ui.Shorten{}, func(*ui.App) {})
	b := s.browser()
	d := b.open("/")
	for _, part := range strings.Split(d.source, `"`) {
		if !strings.HasPrefix(part, "/_ui/") {
			continue
		}
		res, _ := b.get(part)
		require.Equal(t, http.StatusOK, res.StatusCode, part)
		require.Contains(t, res.Header.Get("Cache-Control"), "immutable", part)
		require.NotEqual(t, "application/octet-stream", res.Header.Get("Content-Type"))
	}
	require.Regexp(t, `<link rel="stylesheet" href="/_ui/ui\.[^"]+\.css"><link rel="stylesheet" href="/_ui/chat\.[^"]+\.css">`, d.source)
	require.Regexp(t, `<script defer src="/_ui/morph\.[^"]+\.js"></script>.*<script defer src="/_ui/ui\.[^"]+\.js"></script>`, d.source)
	require.Equal(t, 4, strings.Count(d.source, "<script"))
	require.Contains(t, d.source, `<html lang="en" data-ui="connecting">`)
	require.Contains(t, d.source, `<div id="jitney-status" role="status" aria-live="polite"></div>`)
	res, body := b.get(address)
	require.Equal(t, "<svg/>", body)
	require.Equal(t, "image/svg+xml", res.Header.Get("Content-Type"))
	for _, odd := range []string{"/_ui/chat.000000000000.css", "/_ui/chat.css", "/_ui/ui.old.js"} {
		res, _ := b.get(odd)
		require.Equal(t, http.StatusOK, res.StatusCode, odd)
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"), odd)
	}
	for _, no := range []string{"/_ui/other.css", "/_ui/runtime", "/_ui/", "/nothing"} {
		res, _ := b.get(no)
		require.Equal(t, http.StatusNotFound, res.StatusCode, no)
	}
}

func TestServe_shutdownEndsInOrder(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := serve(t, ui.Options{}, ui.Shorten{Patience: 10 * time.Millisecond, Later: 40 * time.Millisecond}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error {
				close(entered)
				<-release
				return ui.Publish(c, "chat.last", message{"words"})
			})
			c.View(func() g.Node { return h.P() })
		})
	})
	var last []string
	_, err := bus.Subscribe(t.Context(), s.bus, "chat.last", func(_ context.Context, m message) error { last = append(last, m.Text); return nil })
	require.NoError(t, err)
	b := s.browser()
	d := b.open("/")
	st := d.connect("worker-1", 1, d)
	require.Equal(t, "running", d.act("a1", nil).Status)
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	e := st.got("later", func(e event) bool { return e.Later > 0 })
	require.InDelta(t, 40, e.Later, 21)
	<-st.ended
	s.eventually(func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		if err == nil {
			_ = conn.Close() // it was only a try
		}
		return err != nil
	}, "nobody new is let in")
	require.Empty(t, stopped, "it waits for the action")
	close(release)
	require.NoError(t, <-stopped)
	require.Zero(t, s.app.Tabs())
	require.NoError(t, s.bus.Close(t.Context()))
	require.Equal(t, []string{"words"}, last)
}

func TestServe_shutdownDoesNotWaitForConnectionsThatAskForNothing(t *testing.T) {
	var took time.Duration
	for range 5 { // a machine may be busy for seconds, but not each time
		s := serve(t, ui.Options{}, ui.Shorten{}, func(*ui.App) {})
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		require.NoError(t, err)
		s.browser().get("/healthz") // and so the server has taken in who came before
		began := time.Now()
		require.NoError(t, s.stop())
		took = time.Since(began)
		require.NoError(t, conn.Close())
		if took < 4*time.Second {
			break
		}
	}
	require.Less(t, took, 4*time.Second)
}

// sick is a bus that isn't well.
type sick struct{ bus.Bus }

func (sick) Health(context.Context) error { return bus.ErrUnavailable }

func TestProbes_tellLifeAndReadiness(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(*ui.App) {})
	ill := serve(t, ui.Options{Bus: sick{openBus(t)}}, ui.Shorten{}, func(*ui.App) {})
	for _, test := range []struct {
		site *site
		path string
		want int
	}{{s, "/healthz", 200}, {s, "/readyz", 200}, {ill, "/healthz", 200}, {ill, "/readyz", 503}} {
		res, _ := test.site.browser().get(test.path, "Host", "10.1.2.3:7331")
		require.Equal(t, test.want, res.StatusCode, test.path)
	}
}

func TestGuard_documentsComeUnderAStrictPolicy(t *testing.T) {
	s := serve(t, ui.Options{DocumentTitle: "<Chat> & \"co\""}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Signal(`"><script>alert(1)</script>`)
			c.View(func() g.Node { return h.P(g.Text("<script>alert(1)</script>"), h.Title(`"><i>`)) })
		})
	})
	b := s.browser()
	res, body := b.get("/")
	policy := res.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.Contains(t, policy, "script-src 'self';")
	require.NotContains(t, policy, "unsafe")
	require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	require.NotContains(t, body, "<script>")
	require.NotContains(t, body, "style=")
	require.Contains(t, body, "<title>&lt;Chat&gt; &amp; &#34;co&#34;</title>")
	cookie := res.Cookies()[0]
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
	require.Regexp(t, `^jitney-\d+$`, cookie.Name)
	res, _ = b.get("/")
	require.Empty(t, res.Cookies(), "a session goes on")
	req, err := http.NewRequest("HEAD", s.base+"/", nil)
	require.NoError(t, err)
	before := s.app.Tabs()
	res, _ = b.do(req)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, before, s.app.Tabs())
}

func TestGuard_refusesWhatIsNotOurs(t *testing.T) {
	s := serve(t, ui.Options{MaxBody: 4096, Hosts: []string{"chat.example.com"}}, ui.Shorten{}, counter)
	b := s.browser()
	d := b.open("/")
	body := map[string]any{"tab": d.Tab, "key": d.key, "n": 1, "act": "a1", "once": d.once(1)}
	for name, test := range map[string]struct {
		header []string
		want   int
	}{
		"cross-site fetch": {[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"same-site fetch":  {[]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"foreign origin":   {[]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"form":             {[]string{"Content-Type", "text/plain"}, http.StatusUnsupportedMediaType},
		"no X-Jitney":      {[]string{"X-Jitney", ""}, http.StatusUnsupportedMediaType},
		"another host":     {[]string{"Host", "evil.example"}, http.StatusMisdirectedRequest},
		"another address":  {[]string{"Host", "192.0.2.7:7331"}, http.StatusMisdirectedRequest},
	} {
		for _, path := range []string{"/_ui/act", "/_ui/bye", "/_ui/seen", "/"} {
			want := test.want
			if name == "no X-Jitney" && path == "/" {
				want = http.StatusMethodNotAllowed
			}
			res, _ := b.post(path, "open", body, test.header...)
			require.Equal(t, want, res.StatusCode, name+" "+path)
		}
	}
	for name, test := range map[string]struct {
		header []string
		want   int
	}{
		"frame":          {[]string{"Sec-Fetch-Dest", "iframe"}, http.StatusForbidden},
		"fetch":          {[]string{"Sec-Fetch-Dest", "empty"}, http.StatusForbidden},
		"document":       {[]string{"Sec-Fetch-Dest", "document"}, http.StatusOK},
		"rebound host":   {[]string{"Host", "evil.example"}, http.StatusMisdirectedRequest},
		"suffix host":    {[]string{"Host", "evillocalhost"}, http.StatusMisdirectedRequest},
		"our host":       {[]string{"Host", "chat.example.com"}, http.StatusOK},
		"our host, port": {[]string{"Host", "Chat.Example.com:443"}, http.StatusOK},
		"localhost":      {[]string{"Host", "localhost:1"}, http.StatusOK},
		"sub.localhost":  {[]string{"Host", "chat.localhost"}, http.StatusOK},
		"loopback":       {[]string{"Host", "[::1]:7331"}, http.StatusOK},
	} {
		res, _ := b.get("/", test.header...)
		require.Equal(t, test.want, res.StatusCode, name)
	}

	body["signals"] = signals{"s1": {V: strings.Repeat("x", 5000), Rev: 1}}
	res, _ := b.post("/_ui/act", "act", body)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	for _, odd := range []string{``, `{`, `[]`, `{"n":-1}`, `{"signals":{"s1":"x"}}`, `{"signals":{"s1":[{},1]}}`, `{"signals":{"s1":["x",1,2]}}`} {
		req, err := http.NewRequest("POST", s.base+"/_ui/act", bytes.NewReader([]byte(odd)))
		require.NoError(t, err)
		res, _ := b.do(req, "Content-Type", "application/json", "X-Jitney", "act")
		require.Equal(t, http.StatusBadRequest, res.StatusCode, odd)
	}
	res, _ = b.post("/", "form", body)
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	delete(body, "signals")
	body["once"] = "short"
	res, _ = b.post("/_ui/act", "act", body)
	require.Equal(t, http.StatusBadRequest, res.StatusCode)

	require.Equal(t, "done", d.send(1, "a1", nil).Status)
}

func TestPage_pathsMatchExactly(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		chat(v)
		v.Page("/folder/", func(c *ui.Context) { c.View(func() g.Node { return h.P() }) })
		require.Panics(t, func() { v.Page("/", func(*ui.Context) {}) })
		require.Panics(t, func() { v.Page("relative", func(*ui.Context) {}) })
		require.Panics(t, func() { v.Page("/healthz", func(*ui.Context) {}) })
		require.Panics(t, func() { v.Asset("../x.css", nil) })
		require.Panics(t, func() { v.Asset("ui.css", nil) })
	})
	b := s.browser()
	for path, want := range map[string]int{"/": 200, "/x": 404, "/folder/": 200, "/folder/x": 404} {
		res, _ := b.get(path)
		require.Equal(t, want, res.StatusCode, path)
	}
}

func TestContext_refusesSignalsOutsideThePageFunction(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Action(func() error { c.Signal(""); return nil })
			c.Action(func() error { c.Action(nil); return nil })
			c.View(func() g.Node { return h.P() })
		})
	})
	d := s.browser().open("/")
	require.Contains(t, d.act("a1", nil).Error, "failed unexpectedly")
	require.Contains(t, d.act("a2", nil).Error, "failed unexpectedly")
	require.Contains(t, s.log.String(), "outside the page function")
}
