package ui_test

import (
	"bytes"
	"context"
	"errors"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/ui"
)

// guestbook is a page that is used without JavaScript, too.
func guestbook(ran *atomic.Int32) func(v *ui.App) {
	return func(v *ui.App) {
		v.Page("/book", func(c *ui.Context) {
			text, loud, tone, size := c.Signal(""), c.Signal(true), c.Signal("kind"), c.Signal(7)
			row := c.Signal("")
			var log []string
			wrong := ""
			ui.Subscribe(c, "chat.book", func(m message) { log = append(log, m.Text); c.Sync() }, bus.All())
			c.Title("Book " + c.Request().URL.Query().Get("q"))
			say := c.Action(func() error {
				ran.Add(1)
				if text.String() == "" {
					wrong = "say something"
					c.Focus("text")
					return errors.New("look at the <text>")
				}
				line := text.String() + "|" + tone.String() + "|" + row.String()
				if loud.Bool() {
					line += "|loud"
				}
				if size.Int() != 7 {
					line += "|" + size.String()
				}
				return ui.Publish(c, "chat.book", message{line})
			})
			shout := c.Action(func() error { return ui.Publish(c, "chat.book", message{"SHOUT " + row.String()}) })
			c.View(func() g.Node {
				return h.Main(
					h.Ol(g.Map(log, func(l string) g.Node { return h.Li(g.Text(l)) })),
					h.Form(say.OnSubmit(ui.Set(row, `a "b" <c>`), ui.Clear(text)),
						h.Textarea(h.ID("text"), h.Name("other"), text.Bind()), h.P(g.Text(wrong)),
						h.Input(h.Type("checkbox"), loud.Bind()), h.Input(h.Type("number"), size.Bind()),
						h.Input(h.Type("radio"), h.Value("kind"), tone.Bind()), h.Input(h.Type("radio"), h.Value("rude"), tone.Bind()),
						h.Select(tone.Bind(), h.Option(g.Text("kind")), h.Option(h.Value("rude"), g.Text("not kind"))),
						h.Input(h.Type("password"), text.Bind()), h.AutoFocus(),
						h.Button(g.Text("Say")), h.Button(shout.OnClick(ui.Set(row, "it")), g.Text("Shout"))),
					h.Form(h.Method("get"), h.Input(h.Name("q"), row.Bind())),
				)
			})
		})
	}
}

var fieldPattern = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// form returns the hidden fields of a page's first form that calls an action.
func form(t *testing.T, source string) url.Values {
	t.Helper()
	_, rest, ok := strings.Cut(source, `method="post"`)
	require.True(t, ok, source)
	rest, _, _ = strings.Cut(rest, "</form>")
	fields := url.Values{}
	for _, m := range fieldPattern.FindAllStringSubmatch(rest, -1) {
		fields.Add(m[1], html.UnescapeString(m[2]))
	}
	require.NotEmpty(t, fields.Get("jitney-act"), source)
	return fields
}

// submit posts a form as a browser does that runs no script. It doesn't follow the answer.
func (b *browser) submit(path string, fields url.Values, header ...string) (*http.Response, string) {
	b.Helper()
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	req, err := http.NewRequestWithContext(b.Context(), "POST", b.base+path, strings.NewReader(fields.Encode()))
	require.NoError(b, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req, header...)
}

// with returns fields with others before them, as a browser sends those that stand first.
func with(fields url.Values, pairs ...string) url.Values {
	all := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		all.Add(pairs[i], pairs[i+1])
	}
	for name, values := range fields {
		all[name] = append(all[name], values...)
	}
	return all
}

func TestForm_worksWithoutScript(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, guestbook(&ran))
	b := s.browser()
	_, source := b.get("/book?q=1")
	for _, part := range []string{
		`<textarea id="text" name="s1" data-bind="s1">`, "name=\"s2\" checked value=\"true\"", `data-bind="s4" name="s4" value="7"`,
		`value="kind" data-bind="s3" name="s3" checked>`, `value="rude" data-bind="s3" name="s3">`,
		`<option selected>kind</option>`, `<option value="rude">not kind</option>`, `<input type="password" data-bind="s1" name="s1">`,
		`<form method="get"><input name="q" data-bind="s5" value=""></form>`,
		`name="jitney-act" value="a2 {&#34;s5&#34;:&#34;it&#34;}">Shout`,
	} {
		require.Contains(t, source, part)
	}
	fields := form(t, source)
	require.Equal(t, `a1 {"s5":"a \"b\" \u003cc\u003e"}`, fields.Get("jitney-act"))
	res, body := b.submit("/book?q=1", with(fields, "s1", "hello\r\nyou", "s2", "true", "s3", "rude", "s4", "8"))
	require.Equal(t, http.StatusSeeOther, res.StatusCode, body)
	require.Equal(t, "./book?q=1", res.Header.Get("Location"))
	at, err := res.Location()
	require.NoError(t, err)
	require.Equal(t, s.base+"/book?q=1", at.String())
	s.eventually(func() bool { return s.app.Tabs() == 1 }, "the tab of the request ends")
	_, source = b.get("/book?q=1")
	require.Contains(t, source, "<li>hello\nyou|rude|a &#34;b&#34; &lt;c&gt;|loud|8</li>")

	res, _ = b.submit("/book", with(form(t, source), "s1", "quiet", "s3", "kind", "s4", "7"))
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	res, _ = b.submit("/book", with(form(t, source), "jitney-act", `a2 {"s5":"it"}`, "s1", "quiet"))
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	_, source = b.get("/book")
	require.Contains(t, source, "<li>quiet|kind|a &#34;b&#34; &lt;c&gt;</li><li>SHOUT it</li>")
}

func TestForm_tooMuchTextIsRefusedAndKept(t *testing.T) {
	s := serve(t, ui.Options{}, ui.Shorten{}, fields(nil))
	b := s.browser()
	_, source := b.get("/")
	long := strings.Repeat("x", 70<<10)
	res, body := b.submit("/", with(form(t, source), "s1", long))
	require.Equal(t, http.StatusUnprocessableEntity, res.StatusCode)
	require.Contains(t, body, `role="alert">This is too large: 71 KB of text`)
	require.Contains(t, body, ">\n"+long+"</textarea>")
	require.NotContains(t, body, "and 0.", "the action hasn't run")
	s.eventually(func() bool { return s.app.Tabs() == 1 }, "nothing of it stays")
}

func TestForm_anErrorIsShownAndWhatWasTypedIsKept(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, guestbook(&ran))
	b := s.browser()
	_, source := b.get("/book")
	for range 2 { // a reload of the answer tries again
		res, body := b.submit("/book?q=x", with(form(t, source), "s1", "", "s3", "rude", "s4", "<9>"))
		require.Equal(t, http.StatusUnprocessableEntity, res.StatusCode)
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
		for _, part := range []string{
			`<p class="jitney-error" role="alert">look at the &lt;text&gt;</p>`, "<p>say something</p>", `value="&lt;9&gt;"`,
			`<option value="rude" selected>`, `value="rude" data-bind="s3" name="s3" checked>`, `id="text" name="s1" data-bind="s1" autofocus="">`,
			"<title>Book x</title>",
		} {
			require.Contains(t, body, part)
		}
		require.NotContains(t, body, `checked value="true"`, "the box wasn't ticked")
		require.NotContains(t, body, " autofocus>")
		require.NotEqual(t, form(t, source).Get("jitney-once"), form(t, body).Get("jitney-once"))
		require.Contains(t, body, html.EscapeString(`"s4":["<9>",0]`), "a script that runs goes on from there")
	}
	require.EqualValues(t, 2, ran.Load())
	s.eventually(func() bool { return s.app.Tabs() == 1 }, "the tabs of the requests end")
}

func TestForm_sentTwiceTakesEffectOnce(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, guestbook(&ran))
	b := s.browser()
	_, source := b.get("/book")
	fields := with(form(t, source), "s1", "hello", "s3", "kind", "s4", "7")
	answers := make(chan int, 5)
	for range cap(answers) {
		go func() {
			res, err := http.Post(s.base+"/book", "application/x-www-form-urlencoded", strings.NewReader(fields.Encode()))
			if err != nil {
				answers <- 0
				return
			}
			_ = res.Body.Close() // only the page that follows is of interest
			answers <- res.StatusCode
		}()
	}
	for range cap(answers) {
		require.Equal(t, http.StatusOK, <-answers)
	}
	http.DefaultClient.CloseIdleConnections()
	require.EqualValues(t, 1, ran.Load())
	res, _ := b.submit("/book", with(form(t, source), "s1", "goodbye", "s3", "kind", "s4", "7"))
	require.Equal(t, http.StatusSeeOther, res.StatusCode, "who goes back and sends something else means it")
	_, body := b.get("/book")
	require.Equal(t, 1, strings.Count(body, "<li>hello"))
	require.Equal(t, 1, strings.Count(body, "<li>goodbye"))
}

// TestForm_sentAgainToTheNextServerTakesEffectOnce has two servers on one bus: the one that was
// killed after it had stored, and the next one.
func TestForm_sentAgainToTheNextServerTakesEffectOnce(t *testing.T) {
	var ran atomic.Int32
	b := openBus(t)
	first := serve(t, ui.Options{Bus: b}, ui.Shorten{}, guestbook(&ran))
	next := serve(t, ui.Options{Bus: b}, ui.Shorten{}, guestbook(&ran))
	_, source := first.browser().get("/book")
	fields := with(form(t, source), "s1", "hello", "s3", "kind", "s4", "7")
	for _, s := range []*site{first, next} {
		res, _ := s.browser().submit("/book", fields)
		require.Equal(t, http.StatusSeeOther, res.StatusCode)
	}
	require.EqualValues(t, 2, ran.Load())
	_, body := next.browser().get("/book")
	require.Equal(t, 1, strings.Count(body, "<li>hello"))
}

func TestForm_refusesWhatIsNotOurs(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{MaxBody: 4096, ActionsPerSecond: 0.01}, ui.Shorten{}, guestbook(&ran))
	b := s.browser()
	_, source := b.get("/book")
	good := with(form(t, source), "s1", "hello")
	for name, test := range map[string]struct {
		header []string
		want   int
	}{
		"cross-site":     {[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"same-site":      {[]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"foreign origin": {[]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"no origin":      {[]string{"Origin", "null"}, http.StatusForbidden},
		"frame":          {[]string{"Sec-Fetch-Dest", "iframe"}, http.StatusForbidden},
		"another host":   {[]string{"Host", "evil.example"}, http.StatusMisdirectedRequest},
		"text":           {[]string{"Content-Type", "text/plain"}, http.StatusMethodNotAllowed},
		"parts":          {[]string{"Content-Type", "multipart/form-data; boundary=x"}, http.StatusMethodNotAllowed},
	} {
		res, _ := s.browser().submit("/book", good, test.header...)
		require.Equal(t, test.want, res.StatusCode, name)
	}
	for name, test := range map[string]struct {
		fields url.Values
		want   int
	}{
		"no action":      {url.Values{"s1": {"x"}}, http.StatusBadRequest},
		"broken set":     {url.Values{"jitney-act": {"a1 {"}}, http.StatusBadRequest},
		"odd set":        {url.Values{"jitney-act": {`a1 {"s1":[1]}`}}, http.StatusBadRequest},
		"unknown action": {url.Values{"jitney-act": {"a9"}}, http.StatusUnprocessableEntity},
		"large":          {url.Values{"s1": {strings.Repeat("x", 5000)}}, http.StatusRequestEntityTooLarge},
	} {
		res, _ := s.browser().submit("/book", test.fields)
		require.Equal(t, test.want, res.StatusCode, name)
	}
	res, _ := s.browser().submit("/other", good)
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	require.Zero(t, ran.Load())

	limited := 0
	for range 30 {
		if res, _ := b.submit("/book", with(form(t, source), "s1", newKey())); res.StatusCode == http.StatusTooManyRequests {
			require.Equal(t, "1", res.Header.Get("Retry-After"))
			limited++
		}
	}
	require.Positive(t, limited, "a session's forms are limited") // to one in 100 seconds
	res, _ = s.browser().submit("/book", good)
	require.Equal(t, http.StatusSeeOther, res.StatusCode, "and not those of others")
}

func TestForm_pagesWithFormsStillTravelLean(t *testing.T) {
	var ran atomic.Int32
	s := serve(t, ui.Options{}, ui.Shorten{}, guestbook(&ran))
	d := s.browser().open("/book")
	require.Contains(t, d.HTML, "jitney-once")
	d.connect("worker-1", 1, d)
	require.Equal(t, "done", d.act("a1", signals{"s1": {V: "hello", Rev: 1}}).Status)
	d.shows("<li>hello|")
	require.NotContains(t, d.view(), "jitney-once")
	require.NotContains(t, d.view(), "method=\"post\"")
	require.NotContains(t, d.view(), "value=\"hello\"")
}

func TestForm_aPageThatFailsSaysSo(t *testing.T) {
	hang := make(chan struct{})
	pages := func(v *ui.App) {
		v.Page("/panics", func(c *ui.Context) { panic("secret") })
		v.Page("/action", func(c *ui.Context) {
			c.Action(func() error { panic("secret") })
			c.View(func() g.Node { return h.P(g.Text("still here")) })
		})
		v.Page("/hangs", func(c *ui.Context) {
			c.Action(func() error { <-hang; return nil })
			c.View(func() g.Node { return h.P() })
		})
	}
	s := serve(t, ui.Options{}, ui.Shorten{}, pages)
	hasty := serve(t, ui.Options{}, ui.Shorten{Form: 20 * time.Millisecond}, pages)
	for path, test := range map[string]struct {
		site *site
		want int
	}{"/panics": {s, 500}, "/action": {s, 422}, "/hangs": {hasty, 503}} {
		res, body := test.site.browser().submit(path, url.Values{"jitney-act": {"a1"}})
		require.Equal(t, test.want, res.StatusCode, path)
		require.NotContains(t, body, "secret")
	}
	close(hang)
}

// TestForm_leavesOddMarkupAsItIs: what isn't a form is the page's own business.
func TestForm_leavesOddMarkupAsItIs(t *testing.T) {
	odd := `<!-- <form data-on-submit="a1"> --><script type="x">if (a<b) "<form data-on-submit='a1'>"</script>` +
		`<P TITLE='"<form data-on-submit=a1>"' a=b/c / >1 < 2 & 3</P><br/><svg viewBox="0 0 1 1"/><form data-on-submit=a1 ><input data-bind=s1 value='"'/></FORM>` +
		`<textarea>&lt;/form></textarea><p title="`
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
		v.Page("/", func(c *ui.Context) {
			c.Signal("x\"y")
			c.Action(func() error { return nil })
			c.View(func() g.Node { return g.Raw(odd) })
		})
	})
	d := s.browser().open("/")
	want := strings.Replace(odd, `<form data-on-submit=a1 ><input data-bind=s1 value='"'/>`,
		`<form data-on-submit="a1" method="post"><input data-bind="s1" value="x&#34;y" name="s1"/>`, 1)
	got := fieldPattern.ReplaceAllString(d.HTML, "")
	got, _, _ = strings.Cut(got, `<p title="`)
	want, _, _ = strings.Cut(want, `<p title="`)
	require.Equal(t, want, got)
	require.Len(t, fieldPattern.FindAllString(d.HTML, -1), 2)
}

func FuzzForms(f *testing.F) {
	for _, seed := range []string{
		`<form data-on-submit="a1"><input data-bind="s1"></form>`, `<`, `<a`, `<a b`, `<a b=`, `<a b="`, `<!--`, `</`, `<textarea data-bind=s1>`, `<select data-bind=s1><option>`, "<\u212a=\u212a>",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, view string) {
		out := ui.Forms(view, map[string]string{"s1": "v"}, "x", "once")
		if !bytes.ContainsAny([]byte(view), "<") && out != view {
			t.Fatalf("%q became %q", view, out)
		}
		if again := ui.Forms(view, nil, "", "once"); !strings.Contains(view, "data-") && again != view {
			t.Fatalf("%q became %q", view, again)
		}
	})
}

func TestForm_isAnsweredWhenTheServerStops(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := serve(t, ui.Options{}, ui.Shorten{}, func(v *ui.App) {
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
	code := make(chan int, 1)
	go func() {
		res, _ := b.submit("/", url.Values{"jitney-act": {"a1"}})
		code <- res.StatusCode
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	close(release)
	require.Equal(t, http.StatusSeeOther, <-code)
	require.NoError(t, <-stopped)
	require.NoError(t, s.bus.Close(t.Context()))
	require.Equal(t, []string{"words"}, last)
}
