package driver

import (
	"slices"
	"strings"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// table says what captures what. It is replaced, never modified.
type table struct {
	streams  map[string]Stream
	subjects Index[*captor]
	unknown  map[string]string // streams of which only the name is known, and why
	stale    map[string]string // streams that are as they were known before, and why

	mu    sync.Mutex
	apart map[string]struct{} // patterns that what isn't known doesn't touch
	deaf  bool                // nobody answers what stale streams have come to capture
}

// maxApart bounds what a table remembers.
const maxApart = 4096

// captor is a stream, and the route of what it captures.
type captor struct {
	Stream
	route route
}

// newTable makes one of what a backend has listed. What it couldn't say of a stream, the table before may know.
func newTable(streams []Stream, before *table) *table {
	t := &table{streams: make(map[string]Stream, len(streams)), unknown: map[string]string{}, stale: map[string]string{}}
	for _, s := range streams {
		if why := s.Unknown; why != "" {
			known, ok := before.streams[s.Config.Name]
			if !ok {
				t.unknown[s.Config.Name] = why
				continue
			}
			s = known
			t.stale[s.Config.Name] = why
		}
		t.streams[s.Config.Name] = s
		c := &captor{s, route{streams: []string{s.Config.Name}, captured: true}}
		for _, subject := range s.Config.Subjects {
			t.subjects.Add(subject, c)
		}
	}
	return t
}

// captures returns the stream that captures a subject.
func (t *table) captures(subject string) (Stream, bool) {
	if c := t.captor(subject); c != nil {
		return c.Stream, true
	}
	return Stream{}, false
}

// isApart reports whether it is known that what isn't known of streams doesn't touch a pattern.
func (t *table) isApart(pattern string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.apart[pattern]
	return ok || t.deaf
}

func (t *table) setDeaf() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deaf = true
}

func (t *table) setApart(pattern string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.apart == nil || len(t.apart) >= maxApart {
		t.apart = map[string]struct{}{}
	}
	t.apart[pattern] = struct{}{}
}

func (t *table) captor(subject string) *captor {
	if len(t.streams) == 0 {
		return nil
	}
	var buf [4]*captor
	if found := t.subjects.Match(subject, buf[:0]); len(found) > 0 {
		return found[0]
	}
	return nil
}

// route is how a pattern's messages arrive. It isn't modified.
type route struct {
	streams  []string // those that it touches, sorted
	captured bool     // one stream captures every subject that it can match
}

func (t *table) route(pattern string) route {
	if isSubject(pattern) {
		if c := t.captor(pattern); c != nil {
			return c.route
		}
		return route{}
	}
	var r route
	for name, s := range t.streams {
		touches := false
		for _, subject := range s.Config.Subjects {
			touches = touches || Overlap(subject, pattern)
			r.captured = r.captured || Covers(subject, pattern)
		}
		if touches {
			r.streams = append(r.streams, name)
		}
	}
	slices.Sort(r.streams)
	return r
}

func (r route) equal(other route) bool {
	return r.captured == other.captured && slices.Equal(r.streams, other.streams)
}

// String names the streams that a pattern touches.
func (r route) String() string {
	if len(r.streams) == 0 {
		return "it touches no stream"
	}
	return "it touches " + strings.Join(r.streams, ", ")
}

// overlapping returns a stream other than cfg's that captures something that cfg does, and the two patterns.
func (t *table) overlapping(cfg bus.StreamConfig) (name, theirs, ours string) {
	for _, s := range t.streams {
		if s.Config.Name == cfg.Name {
			continue
		}
		for _, theirs := range s.Config.Subjects {
			for _, ours := range cfg.Subjects {
				if Overlap(theirs, ours) {
					return s.Config.Name, theirs, ours
				}
			}
		}
	}
	return "", "", ""
}
