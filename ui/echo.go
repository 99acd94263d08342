package ui

import (
	"time"

	g "maragu.dev/gomponents"
)

// Echo, inside a form with OnSubmit, is a row that the browser adds at the end of the element
// whose id is list as soon as the form is submitted, so that the user sees at once what was said.
// The row has no ids. It gives way to the element that is marked with [Made] as what the action has made,
// which takes over its place and its nodes. Until then it stands behind all rows of the server, in the order
// of the submits, and patches leave it alone.
//
// While the action isn't answered, the row's attribute data-echo-state is "sending"; then it is "accepted", or
// "refused" when the action has returned an error. A refused row keeps what the form's
// [Clear] took out of the fields.
func Echo(list string, row g.Node) g.Node {
	return g.El("template", g.Attr("data-echo", list), row)
}

// EchoOf makes the text of an element of an Echo the value of a signal at the submit.
func EchoOf(s *Signal) g.Node { return g.Attr("data-echo-of", s.id) }

// EchoIf shows an element of an Echo in one state only: "sending", "accepted" or "refused".
func EchoIf(state string) g.Node { return g.Attr("data-echo-if", state) }

// EchoRetry makes a button of a refused Echo: it calls the action again, with what the fields held.
func EchoRetry() g.Node { return g.Attr("data-echo-do", "retry") }

// EchoEdit makes a button of a refused Echo: it puts back into the fields what they held, and removes the row.
func EchoEdit() g.Node { return g.Attr("data-echo-do", "edit") }

// LocalTime shows t in the time zone and the language of its reader's browser: the time, and before it the
// day unless that is today. Without the runtime it is the time in UTC. In an Echo, it shows the time of the submit.
func LocalTime(t time.Time) g.Node {
	t = t.UTC()
	return g.El("time", g.Attr("datetime", t.Format(time.RFC3339)), g.Attr("data-local"), g.Text(t.Format("15:04 UTC")))
}

// Unseen is a place for a button that appears when rows have been added to the element whose id is list, which has a [Pin],
// while that isn't at its end. The button goes there. It says one for a single row and many for several, where # is their number:
//
//	ui.Unseen("log", "1 new message", "# new messages")
func Unseen(list, one, many string) g.Node {
	return g.El("div", g.Attr("data-unseen", list), g.Attr("data-one", one), g.Attr("data-many", many), Ignore())
}
