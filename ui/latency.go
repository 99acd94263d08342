package ui

import g "maragu.dev/gomponents"

// Latency is an element that shows how long the last thirty things that the user of this tab has
// done took, by the browser's clock: from the click or submit until the view that shows what came of it was
// in place, as a plot with median and maximum. What an action has made is known by [Made]. Before the first, it shows text.
func Latency(text string) g.Node {
	return g.El("span", g.Attr("data-latency"), Ignore(), g.Text(text))
}

// Made marks an element as what an action has made: once is what [Context.Once] was there.
// The browser that has called the action finds it by this mark. Of several elements with one mark the first counts.
func Made(once string) g.Node { return g.Attr("data-made", once) }
