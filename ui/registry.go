package ui

import (
	"crypto/rand"
	"errors"
	"regexp"
	"sync"
)

var (
	keyForm  = regexp.MustCompile(`^[A-Za-z0-9_-]{8,64}$`)
	onceForm = regexp.MustCompile(`^[A-Za-z0-9_-]{16,80}$`)
)

// newID returns an id with at least 128 random bits.
func newID() string { return rand.Text() }

func validKey(key string) bool { return keyForm.MatchString(key) }

var errTooManyTabs = errors.New("too many tabs are open")

// owner is a key of a session.
type owner struct{ session, key string }

// registry knows the tabs and streams that live.
type registry struct {
	mu       sync.Mutex
	byID     map[string]*tab
	byOwner  map[owner]*tab // tabs that were opened for a document that had lost its own
	sessions map[string]map[*tab]struct{}
	streams  map[string]map[string]*stream // by session and worker: each newer one of a worker replaces the one before
	closed   bool
}

// add takes in a tab, and ends another one whose document never attached if there are too
// many. It returns the tab that is there already for the same key.
func (r *registry) add(t *tab) (existing *tab, err error) {
	existing, victim, err := r.insert(t)
	if victim != nil {
		victim.log.Debug("ui: tab made room for another one")
		victim.end()
	}
	return existing, err
}

func (r *registry) insert(t *tab) (existing, victim *tab, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, errClosing
	}
	if r.byID == nil {
		r.byID, r.byOwner = map[string]*tab{}, map[owner]*tab{}
		r.sessions = map[string]map[*tab]struct{}{}
	}
	if other := r.byOwner[owner{t.origin, t.openKey}]; other != nil {
		other.mu.Lock()
		used := other.attached
		other.mu.Unlock()
		if !used && other.page == t.page {
			return other, nil, nil
		}
		// Its document had it and has lost it: it counts its actions from 1 again.
		r.take(other)
		r.put(t)
		return nil, other, nil
	}
	switch {
	case len(r.sessions[t.origin]) >= t.app.opts.MaxTabsPerSession:
		victim = dispensable(r.sessions[t.origin])
	case len(r.byID) >= t.app.opts.MaxTabs:
		all := make(map[*tab]struct{}, len(r.byID))
		for _, other := range r.byID {
			all[other] = struct{}{}
		}
		victim = dispensable(all)
	default:
		r.put(t)
		return nil, nil, nil
	}
	if victim == nil {
		return nil, nil, errTooManyTabs
	}
	r.take(victim)
	r.put(t)
	return nil, victim, nil
}

// dispensable returns the oldest tab that never attached, or else the oldest without a stream.
func dispensable(tabs map[*tab]struct{}) *tab {
	var best *tab
	var bestAttached bool
	for t := range tabs {
		t.mu.Lock()
		attached, seated := t.attached, t.seat != nil
		t.mu.Unlock()
		if seated {
			continue
		}
		if best == nil || bestAttached && !attached || bestAttached == attached && t.born.Before(best.born) {
			best, bestAttached = t, attached
		}
	}
	return best
}

func (r *registry) put(t *tab) {
	r.byID[t.id] = t
	if t.openKey != "" {
		r.byOwner[owner{t.origin, t.openKey}] = t
	}
	if r.sessions[t.origin] == nil {
		r.sessions[t.origin] = map[*tab]struct{}{}
	}
	r.sessions[t.origin][t] = struct{}{}
	t.app.opts.Metrics.Tabs(t.page.path, 1)
}

func (r *registry) take(t *tab) {
	if r.byID[t.id] != t {
		return // it was taken to make room
	}
	t.app.opts.Metrics.Tabs(t.page.path, -1)
	delete(r.byID, t.id)
	if o := (owner{t.origin, t.openKey}); r.byOwner[o] == t {
		delete(r.byOwner, o)
	}
	delete(r.sessions[t.origin], t)
	if len(r.sessions[t.origin]) == 0 {
		delete(r.sessions, t.origin)
	}
}

func (r *registry) remove(t *tab) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(t)
}

// find returns the tab of an id, or nil.
func (r *registry) find(id string) *tab {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

// stream makes st the stream of its browser and returns the one that it replaces, or, when a
// newer one is there, that one and false. When the session has more than most streams now, excess is
// the one that its browser hasn't been heard of for longest.
func (r *registry) stream(st *stream, most int) (other, excess *stream, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.streams == nil {
		r.streams = map[string]map[string]*stream{}
	}
	mine := r.streams[st.session]
	if mine == nil {
		mine = map[string]*stream{}
		r.streams[st.session] = mine
	}
	other = mine[st.w]
	if other != nil && other.s > st.s {
		return other, nil, false
	}
	mine[st.w] = st
	if len(mine) <= most {
		return other, nil, true
	}
	for _, s := range mine {
		if s != st && (excess == nil || s.seen.Load() < excess.seen.Load()) {
			excess = s
		}
	}
	if excess != nil {
		delete(mine, excess.w)
	}
	return other, excess, true
}

// current returns the stream of a browser, or nil.
func (r *registry) current(session, w string) *stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.streams[session][w]
}

// forget removes st if it is still the stream of its browser.
func (r *registry) forget(st *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if mine := r.streams[st.session]; mine[st.w] == st {
		delete(mine, st.w)
		if len(mine) == 0 {
			delete(r.streams, st.session)
		}
	}
}

// close ends all tabs and lets no others in.
func (r *registry) close() {
	r.mu.Lock()
	r.closed = true
	all := make([]*tab, 0, len(r.byID))
	for _, t := range r.byID {
		all = append(all, t)
	}
	r.mu.Unlock()
	for _, t := range all {
		t.end()
	}
}
