package ui

import (
	"hash/maphash"
	"strings"
	"unicode/utf8"
)

var chunkSeed = maphash.MakeSeed()

// diff returns the edits that turn the view old into next, ascending in old, both valid UTF-8. Texts are compared by
// chunks, each a tag with the text behind it, so that the effort is that of the rows and
// not of the letters. ok is false when more than about effort chunks differ: then the whole text is
// the better frame.
func diff(old, next string, effort int) (edits []edit, ok bool) {
	if old == next {
		return nil, true
	}
	// What the two have in common at their ends is most of them.
	prefix := commonPrefix(old, next)
	suffix := commonSuffix(old[prefix:], next[prefix:])
	a, b := old[prefix:len(old)-suffix], next[prefix:len(next)-suffix]
	if a == "" || b == "" {
		return []edit{{At: units(old[:prefix]), Remove: units(a), Insert: b}}, true
	}
	// They may end within a tag; chunks begin at one.
	prefix = max(0, strings.LastIndexByte(old[:prefix], '<'))
	suffix -= suffixToTag(old[len(old)-suffix:])
	a, b = old[prefix:len(old)-suffix], next[prefix:len(next)-suffix]
	at := units(old[:prefix])
	ac, bc := chunks(a), chunks(b)
	script, ok := shortest(hashes(ac), hashes(bc), effort)
	if !ok {
		return nil, false
	}
	i := 0
	for _, run := range script {
		for ; i < run.fromOld; i++ {
			at += units(ac[i])
		}
		removed := strings.Join(ac[run.fromOld:run.toOld], "")
		inserted := strings.Join(bc[run.fromNew:run.toNew], "")
		i = run.toOld
		edits = append(edits, refine(at, removed, inserted))
		at += units(removed)
	}
	return edits, true
}

// suffixToTag returns how many bytes of s come before its first tag.
func suffixToTag(s string) int {
	if i := strings.IndexByte(s, '<'); i >= 0 {
		return i
	}
	return len(s)
}

// refine makes an edit smaller where what it removes and inserts begin or end alike.
func refine(at int, removed, inserted string) edit {
	prefix := commonPrefix(removed, inserted)
	at += units(removed[:prefix])
	removed, inserted = removed[prefix:], inserted[prefix:]
	suffix := commonSuffix(removed, inserted)
	removed, inserted = removed[:len(removed)-suffix], inserted[:len(inserted)-suffix]
	return edit{At: at, Remove: units(removed), Insert: inserted}
}

// commonPrefix returns how many bytes a and b begin with alike, whole characters only.
func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i+64 <= n && a[i:i+64] == b[i:i+64] {
		i += 64
	}
	for i < n && a[i] == b[i] {
		i++
	}
	for i > 0 && (i < len(a) && !utf8.RuneStart(a[i]) || i < len(b) && !utf8.RuneStart(b[i])) {
		i--
	}
	return i
}

// commonSuffix returns how many bytes a and b end with alike, whole characters only.
func commonSuffix(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i+64 <= n && a[len(a)-i-64:len(a)-i] == b[len(b)-i-64:len(b)-i] {
		i += 64
	}
	for i < n && a[len(a)-i-1] == b[len(b)-i-1] {
		i++
	}
	for i > 0 && !utf8.RuneStart(a[len(a)-i]) {
		i--
	}
	return i
}

// chunks splits s before each "<".
func chunks(s string) []string {
	parts := make([]string, 0, strings.Count(s, "<")+1)
	for len(s) > 0 {
		n := strings.IndexByte(s[1:], '<') + 1
		if n == 0 {
			n = len(s)
		}
		parts = append(parts, s[:n])
		s = s[n:]
	}
	return parts
}

func hashes(parts []string) []uint64 {
	sums := make([]uint64, len(parts))
	for i, part := range parts {
		sums[i] = maphash.String(chunkSeed, part)
	}
	return sums
}

// span says that the chunks of old between two places become those of next between two others.
type span struct{ fromOld, toOld, fromNew, toNew int }

// shortest finds the fewest chunks to remove and insert (Myers, "An O(ND) difference algorithm", 1986),
// as spans in order. It gives up beyond limit of them.
func shortest(a, b []uint64, limit int) (script []span, ok bool) {
	// furthest[k+limit+1] is how far into a the best path on diagonal k = x-y has come;
	// trace keeps the part of it that each round could change.
	limit = min(limit, len(a)+len(b))
	furthest := make([]int32, 2*limit+3)
	trace := make([][]int32, 0, 16)
	mid := limit + 1
	for d := 0; d <= limit; d++ {
		for k := -d; k <= d; k += 2 {
			var x int
			if k == -d || k != d && furthest[mid+k-1] < furthest[mid+k+1] {
				x = int(furthest[mid+k+1])
			} else {
				x = int(furthest[mid+k-1]) + 1
			}
			y := x - k
			for x < len(a) && y < len(b) && y >= 0 && a[x] == b[y] {
				x, y = x+1, y+1
			}
			furthest[mid+k] = int32(x)
			if x >= len(a) && y >= len(b) {
				return walkBack(trace, len(a), len(b)), true
			}
		}
		trace = append(trace, append([]int32(nil), furthest[mid-d:mid+d+1]...))
	}
	return nil, false
}

// walkBack follows the trace of shortest from the ends of both texts to their beginnings.
func walkBack(trace [][]int32, x, y int) []span {
	var back []span
	for d := len(trace); d > 0; d-- {
		last := trace[d-1] // of the diagonals -(d-1)..d-1
		at := func(k int) int32 {
			if i := k + d - 1; i >= 0 && i < len(last) {
				return last[i]
			}
			return -1
		}
		k := x - y
		var prevK int
		if k == -d || k != d && at(k-1) < at(k+1) {
			prevK = k + 1
		} else {
			prevK = k - 1
		}
		prevX := int(at(prevK))
		prevY := prevX - prevK
		// The step from (prevX, prevY) removes or inserts one chunk; what follows it is common.
		step := span{prevX, prevX, prevY, prevY}
		if prevK == k+1 {
			step.toNew++
		} else {
			step.toOld++
		}
		if n := len(back); n > 0 && back[n-1].fromOld == step.toOld && back[n-1].fromNew == step.toNew {
			back[n-1].fromOld, back[n-1].fromNew = step.fromOld, step.fromNew
		} else {
			back = append(back, step)
		}
		x, y = prevX, prevY
	}
	for i, j := 0, len(back)-1; i < j; i, j = i+1, j-1 {
		back[i], back[j] = back[j], back[i]
	}
	return back
}
