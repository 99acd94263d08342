package natsbus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// consumerInfo is what this package reads of a consumer.
type consumerInfo struct {
	Config struct {
		Filter  string `json:"filter_subject"`
		Deliver string `json:"deliver_subject"`
		Ack     string `json:"ack_policy"`
		Start   uint64 `json:"opt_start_seq"`
	} `json:"config"`
	Delivered struct {
		Sequence uint64 `json:"stream_seq"`
	} `json:"delivered"`
}

// given is the highest sequence that the group has been given.
func (i *consumerInfo) given() uint64 { return max(i.Delivered.Sequence, max(i.Config.Start, 1)-1) }

// listedConsumer is a consumer as the list has it.
type listedConsumer struct {
	Name         string          `json:"name"`
	Created      time.Time       `json:"created"`
	Config       json.RawMessage `json:"config"`
	Acknowledged struct {
		Sequence uint64 `json:"stream_seq"` // all up to here
	} `json:"ack_floor"`
}

// consumers lists those of a stream that answer. It is an error if another one doesn't that may have a position on a disk.
func (b *backend) consumers(ctx context.Context, stream string) (all []listedConsumer, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var silent error
	for offset := 0; ; {
		var page struct {
			Total     int              `json:"total"`
			Consumers []listedConsumer `json:"consumers"`
			Missing   []string         `json:"missing"`
		}
		if err := b.ask(ctx, "$JS.API.CONSUMER.LIST."+stream, map[string]int{"offset": offset}, &page); err != nil {
			return all, err
		}
		n := len(page.Missing)
		for _, name := range page.Missing {
			if !strings.HasPrefix(name, ownPrefix) {
				silent = fmt.Errorf("%w: consumer %s of stream %s doesn't answer", bus.ErrUnavailable, name, stream)
			}
		}
		for _, c := range page.Consumers {
			if !slices.Contains(page.Missing, c.Name) {
				all = append(all, c)
				n++
			}
		}
		if offset += n; n == 0 || offset >= page.Total {
			return all, silent
		}
	}
}

const (
	// ownPrefix begins the name of a consumer that isn't a durable group's.
	ownPrefix = "jitney-"
	// groupPrefix begins that of a group without a position.
	groupPrefix = ownPrefix + "group-"
)

// consumerName of a group: operators find a durable one under its name. Others are told apart by their pattern, too.
func consumerName(g driver.Group) string {
	if g.Durable {
		return g.Name
	}
	sum := sha256.Sum256([]byte(g.Name + " " + g.Pattern))
	return groupPrefix + hex.EncodeToString(sum[:8])
}

// room is where the processes of a group without a position hear each other.
func (p *groupShare) room() string {
	return "_INBOX.jitney-group." + p.stream.Config.Name + "." + p.consumer
}

// answer says that this process is in the group to whoever asks.
func (p *groupShare) answer(ctx context.Context) error {
	if p.group.Durable {
		return nil
	}
	var err error
	p.here, err = p.b.nc.Subscribe(p.room(), func(m *nats.Msg) {
		if err := m.Respond(nil); err != nil && p.b.nc.IsConnected() {
			p.b.log.Warn("natsbus: answering in a group", "group", p.group.Name, "error", err)
		}
	})
	if err != nil {
		return err
	}
	return p.b.ping(ctx)
}

// leaveRoom stops answering.
func (p *groupShare) leaveRoom() error {
	if p.here == nil || p.b.nc.IsClosed() {
		return nil
	}
	return p.here.Unsubscribe()
}

// deserted reports whether no process is in the group; this one has left the room.
func (p *groupShare) deserted(ctx context.Context) bool {
	_, err := p.b.nc.RequestWithContext(ctx, p.room(), nil)
	return errors.Is(err, nats.ErrNoResponders)
}

// ensure creates the consumer, unless it is there.
func (p *groupShare) ensure(ctx context.Context) error {
	for {
		info, err := p.info(ctx)
		switch {
		case err == nil && info.Config.Filter == p.group.Pattern && info.Config.Deliver == "" && info.Config.Ack == "explicit":
			p.mu.Lock()
			p.base, p.unsure = info.given(), true
			p.seen = p.base
			p.mu.Unlock()
			return p.current(ctx)
		case err == nil:
			return fmt.Errorf("%w: stream %s has a consumer %s for %q", bus.ErrConflict, p.stream.Config.Name, p.consumer, info.Config.Filter)
		case !isCode(err, codeConsumerNotFound):
			return err
		}
		if err := p.unique(ctx); err != nil {
			return err
		}
		if err := p.mayCreate(ctx); err != nil {
			return err
		}
		config := map[string]any{
			"name": p.consumer, "filter_subject": p.group.Pattern, "deliver_policy": "by_start_sequence", "opt_start_seq": p.group.After + 1,
			"ack_policy": "explicit", "ack_wait": ackWait, "max_deliver": -1, "replay_policy": "instant",
		}
		if p.group.Durable {
			config["durable_name"] = p.consumer
		} else {
			info, err := p.b.info(ctx, p.stream.Config.Name)
			if err != nil {
				return err
			}
			config["inactive_threshold"] = groupInactive
			config["mem_storage"] = true
			config["num_replicas"] = max(1, info.Config.Replicas) // the server's own choice is one, with which the position goes
		}
		request := map[string]any{"stream_name": p.stream.Config.Name, "config": config, "action": "create"}
		err = p.b.ask(ctx, "$JS.API.CONSUMER.CREATE."+p.stream.Config.Name+"."+p.consumer, request, nil)
		if err == nil && p.group.Durable && p.b.server != nil {
			err = p.b.server.made(ctx, configOf{p.stream.Config.Name, p.consumer})
		}
		if err == nil {
			if err = p.current(ctx); errors.Is(err, driver.ErrEpoch) {
				// It begins where another epoch was.
				err = errors.Join(err, p.b.removeConfig(ctx, configOf{p.stream.Config.Name, p.consumer}))
			}
			return err
		}
		if !isCode(err, codeConsumerExists) && !isCode(err, codeConsumerNameInUse) {
			return err
		}
		// Another process has just created it.
	}
}

// current returns driver.ErrEpoch when the stream has begun another life.
func (p *groupShare) current(ctx context.Context) error {
	s := p.stream
	p.mu.Lock()
	s.Epoch = p.epoch
	p.mu.Unlock()
	return p.b.sameEpoch(ctx, s)
}

// mayCreate returns when no group of the stream is being made once more.
func (p *groupShare) mayCreate(ctx context.Context) error {
	if !p.b.elects {
		return nil // only members of a cluster do that
	}
	ctx, cancel := p.b.inTime(ctx)
	defer cancel()
	for {
		info, err := p.b.info(ctx, p.stream.Config.Name)
		if err != nil || info.Config.Metadata[againKey] == "" {
			return err
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w: groups of stream %s go back to before a crash: %w", bus.ErrUnavailable, p.stream.Config.Name, context.Cause(ctx))
		}
	}
}

// unique makes sure that no other stream has a durable group of the name.
func (p *groupShare) unique(ctx context.Context) error {
	if !p.group.Durable {
		return nil
	}
	streams, err := p.b.Streams(ctx)
	if err != nil {
		return err
	}
	for _, s := range streams {
		if s.Config.Name == p.stream.Config.Name {
			continue
		}
		info, err := p.b.consumer(ctx, s.Config.Name, p.consumer)
		if err == nil {
			return fmt.Errorf("%w: stream %s has the group %s, for %q", bus.ErrConflict, s.Config.Name, p.consumer, info.Config.Filter)
		}
		if !isGone(err) {
			return err
		}
	}
	return nil
}

func (b *backend) consumer(ctx context.Context, stream, name string) (*consumerInfo, error) {
	var info consumerInfo
	if err := b.ask(ctx, "$JS.API.CONSUMER.INFO."+stream+"."+name, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

func (p *groupShare) info(ctx context.Context) (*consumerInfo, error) {
	return p.b.consumer(ctx, p.stream.Config.Name, p.consumer)
}
