// Package look is what the example programs look like: a stylesheet, the frame of a page, and a
// corner that tells over which bus the page speaks, and how fast.
package look

import (
	_ "embed"
	"net/url"
	"strings"
	"time"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/jitney-go/jitney/ui"
)

//go:embed look.css
var style []byte

// Style adds the stylesheet to all pages of v. Call it before Start, and before the program's
// own stylesheet is added, which can then override it.
func Style(v *ui.App) { v.Asset("look.css", style) }

// Page is the frame of a page: its title, what stands beside it in the header (or nil), the content, and
// the corner.
func Page(title string, beside g.Node, corner g.Node, content ...g.Node) g.Node {
	return frame("frame", title, beside, corner, content)
}

// TallPage is a Page that fills the window: the element main in content takes the room that is left, and scrolls.
func TallPage(title string, beside g.Node, corner g.Node, content ...g.Node) g.Node {
	return frame("frame tall", title, beside, corner, content)
}

func frame(class, title string, beside, corner g.Node, content []g.Node) g.Node {
	return h.Div(h.Class(class), h.Header(h.H1(g.Text(title)), beside), g.Group(content), corner)
}

// Spoken is text that only screen readers say.
func Spoken(text string) g.Node { return h.Span(h.Class("spoken"), g.Text(text)) }

// Corner shows the bus, whether it delivers at once, and what [ui.Latency] measures: how long each thing
// that the page's user makes is on its way.
func Corner(busURL, thing string) g.Node {
	backend, pace := Backend(busURL)
	return h.Footer(h.ID("corner"), h.Class("corner"),
		h.Code(g.Text(backend)), h.Span(g.Text(pace)), ui.Latency("Your next "+thing+" is timed here."))
}

// Backend returns the URL of a bus without what may be secret, and when the bus
// delivers: "instant" or, say, "ticker 100 ms".
func Backend(busURL string) (backend, pace string) {
	place, query, _ := strings.Cut(busURL, "?")
	if scheme, rest, ok := strings.Cut(place, "//"); ok {
		// The last '@', since a password may hold others.
		place = scheme + "//" + rest[strings.LastIndex(rest, "@")+1:]
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return place, "instant" // the bus has refused it, too
	}
	if tick, err := time.ParseDuration(params.Get("tick")); err == nil && tick > 0 {
		return place + "?tick=" + params.Get("tick"), "ticker " + strings.Replace(tick.String(), "ms", " ms", 1)
	}
	return place, "instant"
}
