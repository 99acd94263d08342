package ui

import "time"

// Metrics is told what an App does (see Options.Metrics). Its methods are called while pages are served: they are quick,
// don't block and are safe for concurrent use. A page is the path that [App.Page] was given: there are as many as
// that was called, however many addresses they have.
type Metrics interface {
	// Tabs is called with +1 and -1 as tabs begin and end. A form that is sent without script is one for as long as
	// its request takes.
	Tabs(page string, change int)

	// Rendered is called after each run of a page's view. took is the time of the view alone, without the wait for its turn;
	// err is why there is none.
	Rendered(page string, took time.Duration, err error)

	// Sent is called when a frame is handed to a browser's stream; bytes are those of the frame as it is written.
	Sent(page string, bytes int)

	// Acted is called at the end of each action. took is the time that it ran, without the wait for the tab's thread; err
	// is what its user is told.
	Acted(page string, took time.Duration, err error)
}

// unmeasured is the Metrics of an App that has none.
type unmeasured struct{}

func (unmeasured) Tabs(string, int)                      {}
func (unmeasured) Rendered(string, time.Duration, error) {}
func (unmeasured) Sent(string, int)                      {}
func (unmeasured) Acted(string, time.Duration, error)    {}
