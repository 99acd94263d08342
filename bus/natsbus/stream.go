package natsbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// streamConfig is what this package reads of a stream's config at the server.
type streamConfig struct {
	Name              string            `json:"name"`
	Subjects          []string          `json:"subjects"`
	MaxMsgs           int64             `json:"max_msgs"`
	MaxBytes          int64             `json:"max_bytes"`
	MaxAge            time.Duration     `json:"max_age"`
	MaxMsgsPerSubject int64             `json:"max_msgs_per_subject"`
	Duplicates        time.Duration     `json:"duplicate_window"`
	Retention         string            `json:"retention"`
	Replicas          int               `json:"num_replicas"`
	AllowDirect       bool              `json:"allow_direct"`
	AllowAtomic       bool              `json:"allow_atomic"`
	Metadata          map[string]string `json:"metadata"`
}

type streamInfo struct {
	Config  streamConfig `json:"config"`
	Cluster *clusterInfo `json:"cluster"`
	Created time.Time    `json:"created"`
	Now     time.Time    `json:"ts"` // by the server's clock
	State   struct {
		Msgs    uint64 `json:"messages"`
		Bytes   uint64 `json:"bytes"`
		First   uint64 `json:"first_seq"`
		Last    uint64 `json:"last_seq"`
		Deleted uint64 `json:"num_deleted"`

		Missing []uint64 `json:"deleted"` // if asked for
	} `json:"state"`
}

// epoch of a stream: when it was created and, if it has lost its end since, or may have, when that was found out.
func (b *backend) epoch(i *streamInfo) string {
	if b.server != nil {
		return b.server.lives.epoch(i.Config.Name, i.Created)
	}
	return epochOf(i.Created, i.Config.Metadata[lifeKey])
}

// first is the sequence of the oldest message, or the one that the next will have.
func (i *streamInfo) first() uint64 {
	if i.State.Msgs == 0 {
		return i.State.Last + 1
	}
	return i.State.First
}

func (b *backend) stream(i *streamInfo) driver.Stream {
	c := &i.Config
	s := driver.Stream{Epoch: b.epoch(i), Config: bus.StreamConfig{
		Name: c.Name, MaxMsgs: max(0, c.MaxMsgs), MaxBytes: max(0, c.MaxBytes), MaxAge: c.MaxAge,
		MaxMsgsPerSubject: max(0, c.MaxMsgsPerSubject), Duplicates: c.Duplicates,
	}}
	for _, subject := range c.Subjects {
		// What is reserved to the server ($KV.users.>) no pattern of ours can match.
		if bus.CheckPattern(subject) == nil {
			s.Config.Subjects = append(s.Config.Subjects, subject)
		}
	}
	return s
}

// Streams implements driver.Backend.
func (b *backend) Streams(ctx context.Context) ([]driver.Stream, error) {
	var streams []driver.Stream
	led, leaderless := map[string]uint64{}, map[string]struct{}{}
	var unfinished []string // of what a crash has to be settled here
	for offset := 0; ; {
		var page struct {
			Total   int               `json:"total"`
			Limit   int               `json:"limit"`
			Streams []streamInfo      `json:"streams"`
			Missing []string          `json:"missing"`
			Offline map[string]string `json:"offline"` // why
		}
		if err := b.ask(ctx, "$JS.API.STREAM.LIST", map[string]int{"offset": offset}, &page); err != nil {
			return nil, err
		}
		if b.server != nil {
			for i := range page.Streams {
				info := &page.Streams[i]
				name, life := info.Config.Name, info.Config.Metadata[lifeKey]
				if err := b.server.lives.created(name, info.Created, life); err != nil {
					return nil, fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
				}
				if life != b.server.lives.life(name, info.Created) {
					b.lifeUntold.Store(true) // somebody has replaced the config
				}
			}
		}
		b.mu.Lock()
		listed := map[string]bool{}
		for i := range page.Streams {
			listed[page.Streams[i].Config.Name] = true
			if name := page.Streams[i].Config.Name; page.Streams[i].doubt() != nil {
				leaderless[name] = struct{}{}
			} else if b.isMember() && page.Streams[i].holds(b.node.cfg.Cluster.Member) {
				led[name] = page.Streams[i].State.Last
				metadata := page.Streams[i].Config.Metadata
				if metadata[rewindKey] != "" || b.node.review.life(&page.Streams[i]) != metadata[lifeKey] || slices.Contains(strings.Fields(metadata[absentKey]), b.node.server.Load().Node()) {
					unfinished = append(unfinished, name)
				}
			}
			if page.Streams[i].undecided() {
				continue
			}
			s := b.stream(&page.Streams[i])
			if old, ok := b.epochs[s.Config.Name]; ok && old != s.Epoch {
				b.known.Delete(s.Config.Name)
				for p := range b.shares {
					if p.stream.Config.Name == s.Config.Name {
						p.stopped.Go(func() { p.follow(s.Epoch) })
					}
				}
			}
			b.epochs[s.Config.Name] = s.Epoch
			if _, uses := b.known.Load(s.Config.Name); uses && b.elects && page.Streams[i].doubt() == nil {
				b.reached(s.Config.Name, page.Streams[i].State.Last)
			}
			streams = append(streams, s)
		}
		n := len(page.Streams)
		for _, name := range page.Missing { // its leader is being elected, or all who hold it are away
			leaderless[name] = struct{}{}
			if listed[name] {
				continue
			}
			n++
			why := cmp.Or(page.Offline[name], "nobody who has it answers; it may have no leader now")
			streams = append(streams, driver.Stream{Config: bus.StreamConfig{Name: name}, Unknown: why})
		}
		offset += n
		over := n == 0 || offset >= page.Total
		if over { // Health isn't to see a part
			maps.DeleteFunc(leaderless, func(name string, _ struct{}) bool { return !b.concerns(name) })
			b.led, b.leaderless = led, leaderless
		}
		b.mu.Unlock()
		if over {
			if len(unfinished) > 0 {
				b.node.review.poke(unfinished)
			}
			return streams, nil
		}
	}
}

// Find implements driver.Finder: it needs no stream's leader.
func (b *backend) Find(ctx context.Context, pattern string) (names []string, err error) {
	for {
		var page struct {
			Total   int      `json:"total"`
			Streams []string `json:"streams"`
		}
		request := map[string]any{"subject": pattern, "offset": len(names)}
		if err := b.ask(ctx, "$JS.API.STREAM.NAMES", request, &page); err != nil {
			return nil, err
		}
		names = append(names, page.Streams...)
		if len(page.Streams) == 0 || len(names) >= page.Total {
			return names, nil
		}
	}
}

func (b *backend) info(ctx context.Context, name string) (*streamInfo, error) {
	var info streamInfo
	if err := b.ask(ctx, "$JS.API.STREAM.INFO."+name, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// missing is info with the sequences that are missing from the middle.
func (b *backend) missing(ctx context.Context, name string) (*streamInfo, error) {
	var info streamInfo
	if err := b.ask(ctx, "$JS.API.STREAM.INFO."+name, map[string]bool{"deleted_details": true}, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// rawInfo is info with the config as the server has it.
func (b *backend) rawInfo(ctx context.Context, name string) (*streamInfo, json.RawMessage, error) {
	var answer json.RawMessage
	if err := b.ask(ctx, "$JS.API.STREAM.INFO."+name, nil, &answer); err != nil {
		return nil, nil, err
	}
	var info streamInfo
	var raw struct {
		Config json.RawMessage `json:"config"`
	}
	err := errors.Join(json.Unmarshal(answer, &info), json.Unmarshal(answer, &raw))
	return &info, raw.Config, err
}

// sameEpoch returns driver.ErrEpoch when the stream has begun another life.
func (b *backend) sameEpoch(ctx context.Context, s driver.Stream) error {
	info, err := b.info(ctx, s.Config.Name)
	if err == nil && b.epoch(info) != s.Epoch {
		return driver.ErrEpoch
	}
	return err
}

// State implements driver.Backend.
func (b *backend) State(ctx context.Context, name string) (driver.State, error) {
	info, err := b.info(ctx, name)
	if err != nil {
		return driver.State{}, err
	}
	st := &info.State
	return driver.State{Epoch: b.epoch(info), First: info.first(), Last: st.Last, Msgs: st.Msgs, Bytes: st.Bytes, Dense: st.Deleted == 0}, nil
}

// Ensure implements driver.Backend.
func (b *backend) Ensure(ctx context.Context, cfg bus.StreamConfig) error {
	b.knownOf(cfg.Name) // it is one of those that this bus uses
	err := b.ensure(ctx, cfg)
	if err == nil && b.server != nil {
		err = b.server.made(ctx, configOf{stream: cfg.Name})
	}
	return err
}

// createTries is how often it is tried to make a stream that the server can't find the place for.
const createTries = 5

// ensure makes an update of the config at the server with our fields changed, so that
// what an operator has set stays.
func (b *backend) ensure(ctx context.Context, cfg bus.StreamConfig) error {
	pause := time.NewTicker(decidePause)
	defer pause.Stop()
	for tries := 1; ; tries++ {
		made, err := b.ensureOnce(ctx, cfg)
		if made {
			err = b.decide(ctx, cfg.Name)
		}
		// When its last stream was removed, the server removes the directory of all, also while another one is being made.
		removing := isCode(err, codeCreateFailed) && tries < createTries
		if !errors.Is(err, errUndecided) && !removing {
			return err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ensureOnce reports whether it has made a stream about which decide has to decide.
func (b *backend) ensureOnce(ctx context.Context, cfg bus.StreamConfig) (made bool, err error) {
	have, raw, err := b.rawInfo(ctx, cfg.Name)
	switch {
	case err == nil && have.undecided():
		return false, errUndecided
	case err == nil:
		return false, b.update(ctx, cfg, &have.Config, raw)
	case !errors.Is(err, driver.ErrNotCaptured):
		return false, err
	}
	if b.server != nil {
		// The server would leave a goroutine and an open file behind, and not say why.
		if err := b.server.tryRoom(streamRoom); err != nil {
			return false, fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
		}
	}
	config := map[string]any{
		"retention": "limits", "storage": "file", "discard": "old", "num_replicas": b.replicas, "max_consumers": -1, "allow_direct": true,
	}
	put(config, cfg)
	if b.shared {
		config["metadata"] = map[string]string{undecidedKey: rand.Text()} // so that of several who make it one has
	}
	err = b.ask(ctx, "$JS.API.STREAM.CREATE."+cfg.Name, config, nil)
	var refused *apiError
	switch {
	case err == nil:
		return b.shared, nil
	case errors.As(err, &refused) && refused.Code == codeNameInUse: // another process has just created it with another config
		return false, errUndecided
	case errors.Is(err, bus.ErrStreamOverlap) && b.shared:
		other, lookErr := b.overlapping(ctx, cfg)
		if lookErr == nil && (other == nil || other.undecided()) {
			return false, errUndecided // it may be gone soon
		}
		if lookErr == nil {
			return false, fmt.Errorf("%w with stream %q", err, other.Config.Name)
		}
	}
	return false, badStream(err)
}

// Remove implements driver.Remover.
func (b *backend) Remove(ctx context.Context, name string) error {
	err := b.removeConfig(ctx, configOf{stream: name})
	if err == nil {
		b.loseShares(func(p *groupShare) bool { return p.stream.Config.Name == name })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.tails {
		if t.stream.Config.Name == name {
			t.again() // it finds out
		}
	}
	return err
}

// removeConfig has the server remove a stream or a consumer.
func (b *backend) removeConfig(ctx context.Context, of configOf) error {
	subject := "$JS.API.STREAM.DELETE." + of.stream
	if of.consumer != "" {
		subject = "$JS.API.CONSUMER.DELETE." + of.stream + "." + of.consumer
	}
	if b.server != nil {
		if err := b.server.copies.forget(of); err != nil {
			return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
		}
	}
	err := b.ask(ctx, subject, nil, nil)
	if err == nil && b.server != nil {
		err = b.server.removed(ctx, of)
	}
	return err
}

// put sets the fields that are ours.
func put(config map[string]any, cfg bus.StreamConfig) {
	unlimited := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	config["name"] = cfg.Name
	config["subjects"] = cfg.Subjects
	config["max_msgs"] = unlimited(cfg.MaxMsgs)
	config["max_bytes"] = unlimited(cfg.MaxBytes)
	config["max_age"] = cfg.MaxAge
	config["max_msgs_per_subject"] = unlimited(cfg.MaxMsgsPerSubject)
	config["duplicate_window"] = cfg.Duplicates
}

func (b *backend) update(ctx context.Context, cfg bus.StreamConfig, have *streamConfig, raw json.RawMessage) error {
	x, y := slices.Clone(have.Subjects), slices.Clone(cfg.Subjects)
	slices.Sort(x)
	slices.Sort(y)
	if slices.Equal(x, y) && max(0, have.MaxMsgs) == cfg.MaxMsgs && max(0, have.MaxBytes) == cfg.MaxBytes && have.MaxAge == cfg.MaxAge &&
		max(0, have.MaxMsgsPerSubject) == cfg.MaxMsgsPerSubject && have.Duplicates == cfg.Duplicates {
		return nil
	}
	config, err := decodeConfig(raw)
	if err != nil {
		return err
	}
	put(config, cfg)
	return badStream(b.ask(ctx, "$JS.API.STREAM.UPDATE."+cfg.Name, config, nil))
}

// badStream says that a config which the server refuses for any other reason is a bad one.
func badStream(err error) error {
	var refused *apiError
	if errors.As(err, &refused) && refused.Unwrap() == nil {
		return errors.Join(bus.ErrBadStream, err)
	}
	return err
}
