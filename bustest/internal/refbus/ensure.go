package refbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// EnsureStreams implements bus.Bus.
func (b *Bus) EnsureStreams(ctx context.Context, configs ...bus.StreamConfig) error {
	b.mu.Lock()
	before := map[*subscription]string{}
	for _, s := range b.subs {
		before[s] = b.touched(s.pattern)
	}
	b.mu.Unlock()
	err := b.over(ctx, nil, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.ensureAll(ctx, configs)
	})
	b.mu.Lock()
	var changed []*subscription
	for s, touched := range before {
		if b.touched(s.pattern) != touched && !b.bug("deafWhenCaptured") && !(s.inGroup() && b.bug("groupDeafWhenCaptured")) &&
			!(s.stranger(ctx) && (b.bug("changeUntoldElsewhere") || touched != "" && b.bug("releaseUntoldElsewhere") ||
				touched == "" && b.bug("addUntoldElsewhere"))) {
			changed = append(changed, s)
		}
	}
	b.mu.Unlock()
	for _, s := range changed {
		if b.bug("changesLater") {
			time.AfterFunc(20*time.Millisecond, func() { s.end(bus.ErrStreamChanged) })
			continue
		}
		if b.bug("changeLateElsewhere") && s.stranger(ctx) {
			time.AfterFunc(1200*time.Millisecond, s.change)
			continue
		}
		if b.bug("capturedTwice") {
			s.follow()
			continue
		}
		s.change()
	}
	return err
}

// follow gives the subscription a leg for each stream that it touches now, of the bug capturedTwice.
func (s *subscription) follow() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	for _, st := range s.b.streams {
		if slices.ContainsFunc(st.cfg.Subjects, func(captured string) bool { return overlap(captured, s.pattern) }) {
			s.legs = append(s.legs, &leg{st: st, pos: st.seq, past: st.seq, open: st.seq})
		}
	}
}

// touched says which streams a pattern touches and which captures it as a whole.
func (b *Bus) touched(pattern string) string {
	var names []string
	for _, st := range b.streams {
		for _, captured := range st.cfg.Subjects {
			if contains(captured, pattern) {
				names = append(names, st.cfg.Name+" as a whole")
			} else if overlap(captured, pattern) {
				names = append(names, st.cfg.Name)
			}
		}
	}
	return strings.Join(names, ", ")
}

// ensureAll checks all configs before the first is applied. b.mu is held.
func (b *Bus) ensureAll(ctx context.Context, configs []bus.StreamConfig) error {
	if err := b.refuse(ctx); err != nil {
		return b.wrap("ensure", "streams", err, nil)
	}
	if b.cfg.NoStreams {
		if b.bug("streamsIgnored") {
			return nil
		}
		return b.wrap("ensure", "", b.lacks("streams"), nil)
	}
	if b.bug("halfEnsure") && len(configs) > 1 && slices.ContainsFunc(b.streams, func(st *stream) bool { return st.cfg.Name == configs[0].Name }) {
		return errors.Join(b.ensureAll(ctx, configs[:1]), b.ensureAll(ctx, configs[1:]))
	}
	planned := map[string][]string{}
	for _, st := range b.streams {
		planned[st.cfg.Name] = st.cfg.Subjects
	}
	for _, cfg := range configs {
		if err := checkConfig(cfg); err != nil && !b.bug("negOK") && !(b.bug("noValidate") && errors.Is(err, bus.ErrBadSubject)) {
			return b.wrap("ensure", cfg.Name, err, nil)
		}
		planned[cfg.Name] = cfg.Subjects
	}
	for _, cfg := range configs {
		for name, subjects := range planned {
			for i, p := range cfg.Subjects {
				for k, q := range subjects {
					if (name != cfg.Name || i != k) && overlap(p, q) && !b.bug("overlapOK") {
						return b.wrap("ensure", cfg.Name, fmt.Errorf("%w with %s: %s, %s", bus.ErrStreamOverlap, name, p, q), nil)
					}
				}
			}
		}
	}
	if b.bug("ensureRace") {
		b.yield()
	}
	if b.bug("ensureDeletes") {
		b.streams = slices.DeleteFunc(b.streams, func(st *stream) bool {
			return !slices.ContainsFunc(configs, func(cfg bus.StreamConfig) bool { return cfg.Name == st.cfg.Name })
		})
	}
	for _, cfg := range configs {
		if err := b.ensure(cfg); err != nil {
			return b.wrap("ensure", cfg.Name, err, nil)
		}
	}
	return nil
}

// newEpoch names a life of a stream.
func (b *Bus) newEpoch(stream string) string {
	if b.bug("epochKept") {
		return stream
	}
	return fmt.Sprintf("e%x", rand.Uint64())
}

func (b *Bus) ensure(cfg bus.StreamConfig) error {
	cfg.Subjects = slices.Clone(cfg.Subjects)
	if cfg.Duplicates == 0 {
		cfg.Duplicates = defaultDuplicates
		if cfg.MaxAge > 0 {
			cfg.Duplicates = min(cfg.Duplicates, cfg.MaxAge)
		}
	}
	i := slices.IndexFunc(b.streams, func(st *stream) bool { return st.cfg.Name == cfg.Name })
	if i < 0 || b.bug("recreate") {
		st := &stream{ageless: b.bug("neverExpire"), bug: b.cfg.Bug, cfg: cfg, epoch: b.newEpoch(cfg.Name), seq: 1, lost: 1, ids: map[string]remembered{}, ever: map[string]bus.Cursor{}}
		if i < 0 {
			b.streams = append(b.streams, st)
		} else {
			b.streams[i] = st
		}
		return b.write(line{Config: &cfg, Epoch: st.epoch})
	}
	st := b.streams[i]
	if b.bug("noUpdate") {
		return nil
	}
	before := len(st.msgs)
	st.change(cfg, b)
	if gone := before - len(st.msgs); gone > 0 && !b.bug("discardUnlogged") {
		if b.bug("discardMiscounted") {
			gone = 1
		}
		b.o.Logger.Warn("refbus: new limits discarded messages", "stream", cfg.Name, "count", gone)
	}
	if b.bug("updateForgotten") {
		return nil
	}
	return b.write(line{Config: &cfg, Epoch: st.epoch})
}

// Streams implements bus.StreamLister.
func (b *Bus) Streams(ctx context.Context) (infos []bus.StreamInfo, err error) {
	ctx = b.heeded(ctx, "listHeedsNothing")
	err = b.over(ctx, nil, func() error {
		infos, err = b.list(ctx)
		return err
	})
	return infos, b.wrap("list", "streams", err, nil)
}

func (b *Bus) list(ctx context.Context) ([]bus.StreamInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refuse(ctx); err != nil {
		return nil, err
	}
	var infos []bus.StreamInfo
	for _, st := range b.streams {
		info := bus.StreamInfo{Config: st.cfg, Msgs: uint64(len(st.msgs))}
		for _, m := range st.msgs {
			info.Bytes += uint64(size(m.Data, m.Header, true))
		}
		if !b.bug("listAliases") {
			info.Config.Subjects = slices.Clone(st.cfg.Subjects)
		}
		if len(st.msgs) > 0 {
			info.First = st.msgs[0].Cursor
		}
		if st.seq > 1 {
			info.Last = st.cursor(st.seq)
		}
		if b.bug("listMiscounts") {
			info.Msgs = max(0, st.seq-1)
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, c bus.StreamInfo) int { return strings.Compare(a.Config.Name, c.Config.Name) })
	return infos, nil
}

func checkConfig(cfg bus.StreamConfig) error {
	const letters = "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	bad := cfg.Name == "" || len(cfg.Name) > 64 || strings.Trim(cfg.Name, letters) != "" || len(cfg.Subjects) == 0 ||
		cfg.MaxMsgs < 0 || cfg.MaxBytes < 0 || cfg.MaxMsgsPerSubject < 0 || cfg.MaxAge < 0 || cfg.Duplicates < 0 ||
		cfg.MaxAge > 0 && cfg.MaxAge < time.Second || cfg.Duplicates > 0 && cfg.Duplicates < 100*time.Millisecond ||
		cfg.MaxAge > 0 && cfg.Duplicates > cfg.MaxAge
	if bad {
		return bus.ErrBadStream
	}
	for _, pattern := range cfg.Subjects {
		if err := bus.CheckPattern(pattern); err != nil {
			return fmt.Errorf("%w: %w", bus.ErrBadStream, err)
		}
	}
	return nil
}

// overlap reports whether a subject can match both patterns.
func overlap(p, q string) bool {
	ps, qs := strings.Split(p, "."), strings.Split(q, ".")
	for i := 0; ; i++ {
		if i == len(ps) || i == len(qs) {
			return len(ps) == len(qs)
		}
		if ps[i] == ">" || qs[i] == ">" {
			return true
		}
		if ps[i] != qs[i] && ps[i] != "*" && qs[i] != "*" {
			return false
		}
	}
}

// contains reports whether every subject that q matches is matched by p.
func contains(p, q string) bool {
	ps, qs := strings.Split(p, "."), strings.Split(q, ".")
	for i := 0; ; i++ {
		if i == len(ps) || i == len(qs) {
			return len(ps) == len(qs)
		}
		switch {
		case ps[i] == ">":
			return true
		case qs[i] == ">", ps[i] != "*" && ps[i] != qs[i]:
			return false
		}
	}
}
