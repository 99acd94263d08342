// Package driver is what every backend of package bus needs and none should write twice:
// validation, what captures what, fan-out, the serial runner and the fence of each
// subscription, the join of replay and live, slow handlers, gaps, panics, closing.
//
// A backend implements [Backend], which only moves bytes, and returns the [Bus] that
// [New] makes of it:
//
//	func Open(...) (*Bus, error) {
//		b := &backend{...}
//		return driver.New(ctx, b, driver.Config{OpenOptions: o})
//	}
//
// Sequences are the backend's: they grow with the order of a stream and may skip numbers,
// and one is shown to readers only when every lower one is decided. An epoch names one
// life of a stream; it must differ after the stream was deleted and created again.
//
// The contract that the result keeps is in package bus; package bustest checks it.
package driver
