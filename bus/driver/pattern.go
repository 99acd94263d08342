package driver

import "strings"

// Covers reports whether pattern a matches every subject that pattern b matches.
func Covers(a, b string) bool {
	for {
		x, restA, moreA := strings.Cut(a, ".")
		y, restB, moreB := strings.Cut(b, ".")
		switch {
		case x == ">":
			return true
		case y == ">", x != "*" && x != y, moreA != moreB:
			return false
		case !moreA:
			return true
		}
		a, b = restA, restB
	}
}

// isSubject reports whether a pattern is a subject: without a wildcard.
func isSubject(pattern string) bool {
	return strings.IndexByte(pattern, '*') < 0 && strings.IndexByte(pattern, '>') < 0
}

// Overlap reports whether a subject exists that both patterns match.
func Overlap(a, b string) bool {
	for {
		x, restA, moreA := strings.Cut(a, ".")
		y, restB, moreB := strings.Cut(b, ".")
		switch {
		case x == ">" || y == ">":
			return true
		case x != y && x != "*" && y != "*", moreA != moreB:
			return false
		case !moreA:
			return true
		}
		a, b = restA, restB
	}
}

// Index finds the values whose patterns match a subject, in time that depends on the
// subject's tokens and not on the number of patterns. It isn't safe for concurrent use.
type Index[T comparable] struct {
	exact map[string][]T // patterns without wildcards
	root  node[T]        // the others
}

type node[T comparable] struct {
	tokens map[string]*node[T] // by next token, "*" among them
	here   []T                 // patterns that end here
	tail   []T                 // patterns that end with ">" behind here
}

// Add adds v under a valid pattern.
func (x *Index[T]) Add(pattern string, v T) {
	if isSubject(pattern) {
		if x.exact == nil {
			x.exact = map[string][]T{}
		}
		x.exact[pattern] = append(x.exact[pattern], v)
		return
	}
	n := &x.root
	for {
		token, rest, more := strings.Cut(pattern, ".")
		if token == ">" {
			n.tail = append(n.tail, v)
			return
		}
		next := n.tokens[token]
		if next == nil {
			if n.tokens == nil {
				n.tokens = map[string]*node[T]{}
			}
			next = &node[T]{}
			n.tokens[token] = next
		}
		n = next
		if !more {
			n.here = append(n.here, v)
			return
		}
		pattern = rest
	}
}

// Remove removes v from under pattern.
func (x *Index[T]) Remove(pattern string, v T) {
	if !isSubject(pattern) {
		x.root.remove(pattern, v)
	} else if x.exact[pattern] = without(x.exact[pattern], v); len(x.exact[pattern]) == 0 {
		delete(x.exact, pattern)
	}
}

func (n *node[T]) remove(pattern string, v T) {
	token, rest, more := strings.Cut(pattern, ".")
	if token == ">" {
		n.tail = without(n.tail, v)
		return
	}
	next := n.tokens[token]
	if next == nil {
		return
	}
	if more {
		next.remove(rest, v)
	} else {
		next.here = without(next.here, v)
	}
	if len(next.tokens) == 0 && len(next.here) == 0 && len(next.tail) == 0 {
		delete(n.tokens, token)
	}
}

// without removes the first v from s, whose order doesn't matter.
func without[T comparable](s []T, v T) []T {
	for i := range s {
		if s[i] == v {
			last := len(s) - 1
			s[i] = s[last]
			var zero T
			s[last] = zero
			return s[:last]
		}
	}
	return s
}

// Match appends the values whose patterns match a valid subject to found.
func (x *Index[T]) Match(subject string, found []T) []T {
	if len(x.exact) > 0 {
		found = append(found, x.exact[subject]...)
	}
	return x.root.match(subject, found)
}

func (n *node[T]) match(subject string, found []T) []T {
	found = append(found, n.tail...)
	if n.tokens == nil {
		return found
	}
	token, rest, more := strings.Cut(subject, ".")
	for _, next := range [2]*node[T]{n.tokens[token], n.tokens["*"]} {
		switch {
		case next == nil:
		case more:
			found = next.match(rest, found)
		default:
			found = append(found, next.here...)
		}
	}
	return found
}
