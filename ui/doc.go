// Package ui makes web pages whose state and view live in Go: the browser shows what
// the server has rendered and sends back what its user does.
//
//	v := ui.New()
//	v.Config(ui.Options{DocumentTitle: "Counter"})
//	v.Page("/", func(c *ui.Context) {
//		count := 0
//		more := c.Action(func() error { count++; return nil })
//		c.View(func() g.Node {
//			return h.Button(more.OnClick(), g.Textf("clicked %d times", count))
//		})
//	})
//	if err := v.Start(); err != nil {
//		log.Fatal(err)
//	}
//
// # Tabs
//
// The page function runs once for each browser tab that opens the page. It creates
// signals (values that the browser shows in fields and sends back), actions (functions
// that the browser may call) and subscriptions, and sets the view. What it keeps in
// variables belongs to that tab and lives as long as the tab.
//
// A tab has one thread: its page function, actions, subscription handlers and view never
// run at the same time, so that page code needs no mutex. A goroutine that page code starts
// is outside; of a [Context] it may call Sync, and nothing else.
//
// A page function must be able to run again from its signals and the bus alone: that is
// what happens when the server restarts, or when a tab that slept past its time to live
// wakes up. So what the user chose is a signal, what others share is on the bus, and a
// variable holds what can be had again from these two.
//
// # Views
//
// A view is a tree of gomponents nodes. [Context.Sync] asks for it to be rendered again
// and returns at once; the tab's stream renders the newest state when the connection can
// take it, and sends what has changed. An action that returns has synced. Elements with an
// id keep their identity when they move, so rows of a list should have one.
//
// Text is escaped, except what gomponents' Raw is given. Pages are served under a
// Content-Security-Policy that allows no inline script, no inline style (also no style
// attributes) and nothing from other hosts.
//
// # Without JavaScript
//
// In a document, a form with [Action.OnSubmit] is one that a browser can send by itself. Then the page
// function runs anew for that one request, with the form's fields and the values of [Set] as its
// signals, then the action; the browser is sent back to the same address, or, when the action returns an error, shown the
// page with it (status 422) and with what was typed. The address is the document's unless the form has
// an action attribute. A submit button of such a form that has [Action.OnClick] calls its own
// action instead. What a page is to know then is in its address, its form or the bus: there are no tabs.
//
// # In operation
//
// /healthz is answered with 200 while the server lives, /readyz while it can do its work as well: with 503 when
// the bus says that it isn't healthy, and from the beginning of a shutdown. Both answer to any host name, and tell no details; the
// log has them. Options.Logger has what goes wrong, with the page and the first letters of the tab's id, never what users
// enter. Options.Metrics is told of tabs, frames and their bytes, views, actions.
//
// # Tests
//
// Package uitest drives pages from go test as visitors do, without a browser.
//
// # Trust
//
// Signals and calls of actions come from the browser and are what form fields are: input to be checked.
// An action id is no permission: an action checks whether its user may do what it does.
package ui
