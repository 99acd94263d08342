// Package bustest is the contract of package bus as checks that run against any backend.
//
// A backend's author writes one test:
//
//	func TestConformance(t *testing.T) {
//		bustest.Run(t, bustest.Harness{
//			Open: func(e *bustest.Env) (bus.Bus, error) {
//				return bus.Open(e.Context(), "mine:"+e.Dir, e.Options...)
//			},
//			Claims: []bustest.Ability{bustest.Headers, bustest.Streams, bustest.Durable},
//		})
//	}
//
// Each check is a subtest with a fresh bus: go test -run 'TestConformance/^Fence$' runs
// one. Examine does the same without a testing.T and returns a Report.
// Package bustest/conformance is a command around it, which finds out what a bus can do by Probe.
//
// docs/backends.md tells how a backend is written, what to claim, and how to read a failure.
//
// # What is checked
//
// Checks is the table. A check has a name, a rule, which is the sentence that a failure
// violates, and the abilities that it needs. A harness claims abilities; a check that
// needs one which isn't claimed doesn't run and is reported with that reason. What isn't
// claimed must still fail clearly: without Groups, bus.Group has to be bus.ErrUnsupported.
// A backend can have checks of its own in Harness.Extra.
//
// # What Open must do
//
// Pass Env.Options on, keep everything below Env.Dir or in memory, and share nothing with
// the buses before it. (On a server that several buses share, subjects and streams of the
// checks don't collide; with Harness.Shared they are removed.) A harness that claims Durable is asked to Open the same Env again
// after Close, and must find its store.
//
// Kill, for a harness that claims CrashSafe, runs this test binary again with -test.run set
// to the running subtest: the child opens the same directory, publishes, and is killed.
// There is nothing to write for it. If the test does other things before Run, they happen
// in the child, too. Examine wants Harness.Child for that.
//
// # Time
//
// Nothing sleeps. What must come is waited for, at most Patience. What must not come is
// looked for behind a marker that was published last, or, where there is no such order,
// for Settle. A backend that lives in the memory of this process sets Bubble: its checks
// then run under testing/synctest, where an hour of Settle costs nothing and a goroutine
// that is left behind fails. A check that hangs ends with the stacks of all goroutines.
//
// # When a check fails
//
// It prints its rule, what was violated, the offending event among its neighbours, and the
// seed of its random choices, which Harness.Seed repeats. A check is never run again to
// see whether it passes the second time. A failure that isn't the backend's is a bug of
// this package; the checks may miss faults, but must not invent any.
//
// # Why to trust it
//
// The suite is tested against a small reference bus that has a switch for each of some
// 250 bugs: TestMutants demands that each bug is caught by the check that names it and
// that each check catches one. Odd buses that conform (delays, ticks, sequences with gaps,
// wrapped errors) must pass.
package bustest
