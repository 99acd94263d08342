package bustest

import (
	"errors"
	"testing"

	"github.com/jitney-go/jitney/bus"
	"github.com/stretchr/testify/require"
)

func got(text string) event { return event{kind: delivered, text: text} }
func end(text string) event { return event{kind: returned, text: text} }

func at(seq uint64) event {
	return event{kind: delivered, text: bus.NewCursor("e", seq).String(), cursor: bus.NewCursor("e", seq)}
}

func placed(text, epoch string, seq uint64) event {
	return event{kind: delivered, text: text, cursor: bus.NewCursor(epoch, seq)}
}

func stored(e event) event {
	e.replayed = true
	return e
}

func told(err error) event { return event{kind: problem, problem: bus.Problem{Err: err}} }

func hole(after, before uint64) event {
	gap := &bus.GapError{Stream: "S", Before: bus.NewCursor("e", before)}
	if after > 0 {
		gap.After = bus.NewCursor("e", after)
	}
	return told(gap)
}

func cursors(seqs ...uint64) []bus.Cursor {
	var cs []bus.Cursor
	for _, seq := range seqs {
		cs = append(cs, bus.NewCursor("e", seq))
	}
	return cs
}

func TestJudges_decideAboutHandWrittenHistories(t *testing.T) {
	unsubscribed := event{kind: mark, text: "unsubscribed"}
	kept := &bus.Message{Data: []byte("a")}
	const passes = -1
	for _, tc := range []struct {
		name   string
		judge  judge
		events []event
		fault  int // the offending event
	}{
		{"exactly: as published", exactly("a", "b"), []event{got("a"), end("a"), got("b")}, passes},
		{"exactly: nothing", exactly(), nil, passes},
		{"exactly: nothing wanted", exactly(), []event{got("a")}, 0},
		{"exactly: swapped", exactly("a", "b"), []event{got("b"), got("a")}, 0},
		{"exactly: one too many", exactly("a"), []event{got("a"), got("a")}, 1},
		{"exactly: one lacks", exactly("a", "b"), []event{got("a")}, 1},
		{"complete: in any order", complete("a", "b"), []event{got("b"), got("x"), got("a")}, passes},
		{"complete: one lacks", complete("a", "b"), []event{got("b")}, 1},
		{"complete: one lacks before another", complete("p#1", "p#2", "p#10"), []event{got("p#1"), got("q#9"), got("p#10"), got("p#11")}, 2},
		{"unique", unique, []event{got("a"), got("b")}, passes},
		{"unique: twice", unique, []event{got("a"), got("b"), got("a")}, 2},
		{"ordered: two publishers", ordered, []event{got("p#1"), got("q#7"), got("p#3"), got("q#8"), got("end")}, passes},
		{"ordered: back", ordered, []event{got("p#1"), got("p#3"), got("p#2")}, 2},
		{"ordered: again", ordered, []event{got("p#1"), got("p#1")}, 1},
		{"ordered: ten is behind nine", ordered, []event{got("p#9"), got("p#10")}, passes},
		{"inStreamOrder: with gaps", inStreamOrder, []event{at(3), at(7), at(12)}, passes},
		{"inStreamOrder: back", inStreamOrder, []event{at(3), at(7), at(5)}, 2},
		{"inStreamOrder: no cursor", inStreamOrder, []event{at(3), got("a")}, 1},
		{"replayedFirst", replayedFirst, []event{stored(at(1)), stored(at(2)), at(3)}, passes},
		{"replayedFirst: live between", replayedFirst, []event{stored(at(1)), at(3), stored(at(2))}, 2},
		{"agreesWith", agreesWith([]event{got("a"), told(bus.ErrSlow), got("b")}), []event{got("a"), got("b")}, passes},
		{"agreesWith: swapped", agreesWith([]event{got("a"), got("b")}), []event{got("b"), got("a")}, 0},
		{"serial", serial, []event{got("a"), end("a"), got("b"), end("b")}, passes},
		{"serial: overlaps", serial, []event{got("a"), got("b"), end("a"), end("b")}, 1},
		{"fenced", fenced("unsubscribed"), []event{got("a"), end("a"), unsubscribed}, passes},
		{"fenced: still running", fenced("unsubscribed"), []event{got("a"), unsubscribed, end("a")}, 1},
		{"fenced: called afterwards", fenced("unsubscribed"), []event{got("a"), end("a"), unsubscribed, got("b")}, 3},
		{"fenced: never returned", fenced("unsubscribed"), []event{got("a"), end("a")}, 2},
		{"notRefused", notRefused(map[string]error{"a": bus.ErrClosed}), []event{got("b")}, passes},
		{"notRefused: there it is", notRefused(map[string]error{"a": bus.ErrClosed}), []event{got("b"), got("a")}, 1},
		{"asStored", asStored(cursors(3, 7)), []event{placed("p#1", "e", 3), placed("p#2", "e", 7), placed("next", "e", 8)}, passes},
		{"asStored: moved", asStored(cursors(3, 7)), []event{placed("p#2", "e", 3)}, 0},
		{"asStored: another epoch", asStored(cursors(3, 7)), []event{placed("p#2", "f", 3)}, passes},
		{"behindCursor", behindCursor(bus.NewCursor("e", 3)), []event{at(4), at(9)}, passes},
		{"behindCursor: at it", behindCursor(bus.NewCursor("e", 3)), []event{at(3)}, 0},
		{"behindCursor: another epoch", behindCursor(bus.NewCursor("e", 3)), []event{at(4), placed("p#1", "f", 1)}, 1},
		{"behindCursor: another epoch, told", behindCursor(bus.NewCursor("e", 3)), []event{hole(3, 9), placed("p#1", "f", 1)}, passes},
		{"quiet", quiet, []event{got("a")}, passes},
		{"quiet: told", quiet, []event{got("a"), told(bus.ErrSlow)}, 1},
		{"unchanged", unchanged, []event{{kind: delivered, text: "a", msg: kept}}, passes},
		{"unchanged: overwritten", unchanged, []event{{kind: delivered, text: "b", msg: kept}}, 0},
		{"onlyMarkers", onlyMarkers, []event{got("end#1"), got("end#2")}, passes},
		{"onlyMarkers: leaked", onlyMarkers, []event{got("end#1"), got("bad")}, 1},
		{"onSubjects", onSubjects("a"), []event{{kind: delivered, subject: "a"}}, passes},
		{"onSubjects: another", onSubjects("a"), []event{{kind: delivered, subject: "b"}}, 0},

		{"accountedFor: all", accountedFor(cursors(1, 2, 3)), []event{at(1), at(2), at(3)}, passes},
		{"accountedFor: told", accountedFor(cursors(1, 2, 3, 4)), []event{at(1), hole(1, 4), at(4)}, passes},
		{"accountedFor: told from the start", accountedFor(cursors(1, 2, 3)), []event{hole(0, 3), at(3)}, passes},
		{"accountedFor: false alarm", accountedFor(cursors(1, 2)), []event{at(1), hole(1, 2), at(2)}, passes},
		{"accountedFor: two holes", accountedFor(cursors(1, 2, 3, 4, 5)), []event{hole(0, 2), at(2), hole(2, 5), at(5)}, passes},
		{"accountedFor: not told", accountedFor(cursors(1, 2, 3)), []event{at(1), at(3)}, 1},
		{"accountedFor: told too late", accountedFor(cursors(1, 2, 3)), []event{at(1), at(3), hole(1, 3)}, 1},
		{"accountedFor: told too little", accountedFor(cursors(1, 2, 3, 4)), []event{at(1), hole(2, 4), at(4)}, 2},
		{"accountedFor: the newest lacks", accountedFor(cursors(1, 2, 3)), []event{at(1), hole(1, 4)}, 2},
		{"accountedFor: twice", accountedFor(cursors(1, 2)), []event{at(1), at(1), at(2)}, 1},
		{"accountedFor: back", accountedFor(cursors(1, 2, 3)), []event{hole(0, 2), at(2), at(1), at(3)}, 2},
		{"accountedFor: unknown", accountedFor(cursors(1)), []event{at(9)}, 0},
		{"accountedFor: a gap without cursors", accountedFor(cursors(1)), []event{told(bus.ErrGap), at(1)}, 0},
		{"accountedFor: other problems", accountedFor(cursors(1)), []event{told(errors.New("x")), at(1)}, passes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.judge(tc.events)
			if tc.fault == passes {
				require.Nil(t, f)
				return
			}
			require.NotNil(t, f)
			require.Equal(t, tc.fault, f.at, f.text)
			require.Contains(t, around(tc.events, f.at), ">")
		})
	}
}
