// Package uitest drives pages from go test, without a browser. It serves them on a bus in memory, loads them as visitors do, reads
// their event streams, fills in fields, clicks, and waits for what people would read.
//
//	func TestChat(t *testing.T) {
//		site := uitest.Serve(t, ui.Options{}, chat.Pages)
//		ann, bob := site.Open("/"), site.Open("/")
//		ann.Fill("Message", "hello")
//		ann.Click("Send")
//		bob.WaitText("hello")
//	}
//
// # Finding things
//
// Fields, buttons and links are found as people find them: a field by its label (or what stands in it while it is empty), the
// others by what is written on them; all of them by an aria-label, too, and by "#id". The whole name counts, and one element
// must have it. What isn't there fails the test with the names of what is.
//
// # What there is not
//
// There is no script, no style and no layout. What style hides is text like any other; rows that the browser shows by itself
// ([ui.Echo]), debounces, the focus, reconnecting and local times are the runtime's. Those are for a test in a browser.
//
// The methods of a Page and of a Site fail their test by FailNow, and so are for the goroutine of the test.
package uitest
