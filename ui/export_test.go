package ui

import "time"

// Shorten lets tests wait less, or as long as a busy machine takes. Zero durations stay as they are.
type Shorten struct {
	Patience, Unattached, Heartbeat, Unseen, Write, OnceMemory, Later, Form, Shutdown time.Duration
}

func (v *App) Shorten(s Shorten) {
	for _, d := range []struct {
		from time.Duration
		to   *time.Duration
	}{
		{s.Patience, &v.limits.patience}, {s.Unattached, &v.limits.unattached}, {s.Heartbeat, &v.limits.heartbeat},
		{s.Unseen, &v.limits.unseen}, {s.Write, &v.limits.write}, {s.OnceMemory, &v.limits.onceMemory}, {s.Later, &v.limits.later}, {s.Form, &v.limits.form},
		{s.Shutdown, &v.limits.shutdown},
	} {
		if d.from > 0 {
			*d.to = d.from
		}
	}
}

// Tabs, Streams and Outcomes count what lives.
func (v *App) Tabs() int {
	v.tabs.mu.Lock()
	defer v.tabs.mu.Unlock()
	return len(v.tabs.byID)
}

func (v *App) Streams() int {
	v.tabs.mu.Lock()
	defer v.tabs.mu.Unlock()
	n := 0
	for _, mine := range v.tabs.streams {
		n += len(mine)
	}
	return n
}

func (v *App) Outcomes() int {
	v.onces.mu.Lock()
	defer v.onces.mu.Unlock()
	return len(v.onces.byOnce)
}

// Splice is one of Diff's edits.
type Splice = edit

// Diff is what makes edits of two views.
func Diff(old, next string, effort int) ([]Splice, bool) { return diff(old, next, effort) }

// Checksum is what frames say about their text.
func Checksum(s string) (int, uint32) { return checksum(s) }

// Forms is what makes a view's forms work in a document.
func Forms(view string, signals map[string]string, focus, once string) string {
	values := map[string]signalValue{}
	for id, v := range signals {
		values[id] = signalValue{value: v}
	}
	return forms(view, values, focus, once)
}
