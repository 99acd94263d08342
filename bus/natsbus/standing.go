package natsbus

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// pokedFor is how long a member looks at a stream that another one suspects.
	pokedFor = 5 * time.Second
	// peerTimeout is how long the others have to say how they stand.
	peerTimeout = 500 * time.Millisecond
)

// standing is what a member says of its replica of a stream.
type standing struct {
	Crash     string `json:"crash,omitempty"` // empty: it isn't suspected
	Differs   bool   `json:"differs,omitempty"`
	Replacing bool   `json:"replacing,omitempty"`
	Replaced  bool   `json:"replaced,omitempty"`
	Misled    bool   `json:"misled,omitempty"`
	Lead      string `json:"lead,omitempty"`   // under whose lead it was what the leader had
	Marked    bool   `json:"marked,omitempty"` // by Mark
	Mark      uint64 `json:"mark,omitempty"`   // the least of the last sequences that crashes have left

	Holds   bool   `json:"holds,omitempty"` // it has one
	First   uint64 `json:"first,omitempty"`
	Last    uint64 `json:"last,omitempty"`
	Deleted int    `json:"deleted,omitempty"`
}

// sound reports whether a replica is what the leader has, under a lead.
func (x standing) sound(lead string) bool { return x.Crash == "" || x.Lead == lead }

// peerQuestion is what members ask each other.
type peerQuestion struct {
	Streams   []string `json:"streams,omitempty"`   // how they stand
	Suspected []string `json:"suspected,omitempty"` // of these, by who asks
	Log       bool     `json:"log,omitempty"`       // how it stands to the cluster's log
	Claims    []claim  `json:"claims,omitempty"`    // of it, by who asks
}

// peerAnswer is what they say.
type peerAnswer struct {
	Streams map[string]standing `json:"streams,omitempty"`
	Log     *logStanding        `json:"log,omitempty"`
}

// peerSubject is where a member answers.
func peerSubject(cluster, member string) string {
	return "_INBOX.jitney-standing." + cluster + "." + member
}

// answerPeers has this member tell the others how it stands, and look itself at what they suspect.
func (b *backend) answerPeers() error {
	m := b.node.cfg.Cluster
	_, err := b.rc.Subscribe(peerSubject(m.Name, m.Member), func(msg *nats.Msg) {
		var question peerQuestion
		if json.Unmarshal(msg.Data, &question) != nil {
			return // nobody of ours
		}
		b.node.review.poke(question.Suspected)
		var answer peerAnswer
		if len(question.Streams) > 0 {
			answer.Streams = b.standings(question.Streams)
		}
		if question.Log {
			answer.Log = b.node.logStanding(question.Claims)
		}
		text, err := json.Marshal(answer)
		if err == nil {
			err = msg.Respond(text)
		}
		if err != nil && b.rc.IsConnected() {
			b.log.Warn("natsbus: answering another member", "error", err)
		}
	})
	return err
}

// poke has this member look at streams for a while.
func (r *review) poke(streams []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range streams {
		r.poked[name] = time.Now().Add(pokedFor)
	}
}

// standings are this member's.
func (b *backend) standings(streams []string) map[string]standing {
	local := map[string]server.StreamDetail{}
	if all, err := b.node.server.Load().streams(); err == nil { // otherwise it has none yet
		for _, d := range all {
			local[d.Name] = d
		}
	}
	r := b.node.review
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]standing{}
	for _, name := range streams {
		var x standing
		if p := r.record.Suspects[name]; p != nil {
			x = standing{Crash: p.Crash, Differs: p.Differs, Replacing: p.replacing, Replaced: p.Replaced, Misled: p.Misled, Lead: p.Sound, Marked: p.Ended, Mark: p.Least}
		}
		if d, ok := local[name]; ok {
			x.Holds, x.First, x.Last, x.Deleted = true, d.State.FirstSeq, d.State.LastSeq, d.State.NumDeleted
		}
		all[name] = x
	}
	return all
}

// hear asks the members that hold streams how they stand, and last this one.
func (b *backend) hear(ctx context.Context, holders map[string][]string) (heard map[string]map[string]standing) {
	r := b.node.review
	r.mu.Lock()
	suspected := sortedKeys(r.record.Suspects)
	r.mu.Unlock()
	me := b.node.cfg.Cluster.Member
	heard = map[string]map[string]standing{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for member, streams := range holders {
		if member == me {
			continue
		}
		asking.Go(func() {
			question := peerQuestion{Streams: streams}
			for _, name := range streams {
				if _, ours := slices.BinarySearch(suspected, name); ours {
					question.Suspected = append(question.Suspected, name)
				}
			}
			if answer := b.askPeer(ctx, member, question); answer != nil {
				mu.Lock()
				defer mu.Unlock()
				heard[member] = answer.Streams
			}
		})
	}
	asking.Wait()
	heard[me] = b.standings(holders[me]) // last: otherwise it would seem to be behind
	r.mu.Lock()
	defer r.mu.Unlock()
	for member := range heard {
		r.heard[member] = time.Now()
	}
	return heard
}

// askPeer returns what another member says; nil: nothing.
func (b *backend) askPeer(ctx context.Context, member string, question peerQuestion) *peerAnswer {
	body, err := json.Marshal(question)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var answer peerAnswer
	m, err := b.rc.RequestWithContext(ctx, peerSubject(b.node.cfg.Cluster.Name, member), body)
	if err != nil || json.Unmarshal(m.Data, &answer) != nil {
		return nil
	}
	return &answer
}

// awaits reports whether a member that doesn't answer may do so soon.
func (r *review) awaits(member string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.heard[member]; at.After(r.began) {
		return time.Since(at) < absence
	}
	return time.Since(r.began) < gathering
}
