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
// Sequences are the backend's: from 1, they grow with the order of a stream and may skip numbers,
// and one is shown to readers only when every lower one is decided. An epoch names one
// life of a stream (ASCII letters, digits, '-' and '_', at most 64); it must differ after the
// stream was deleted and created again, or may have lost its end.
//
// What only some backends can do is an optional interface: [Remover], [Grouper], [Pipeliner]. A backend
// that learns that others have changed the streams, or of a problem, tells the Bus:
// [Bus.Changed], [Bus.Report].
//
// How to write one, step by step and with what goes wrong, is told in docs/backends.md; its example is
// examples/filebus.
//
// The contract that the result keeps is in package bus; package bustest checks it.
package driver
