package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

const (
	// resetTimeout is how long a consumer has to answer that it has gone back. It may have no leader.
	resetTimeout = 3 * time.Second
	// clockMargin is how long after a stream's new life a consumer may have been made by another member's clock that was made before.
	clockMargin = time.Minute
	// A change of the metadata is looked at so long after it was made, as another one may have undone it, and made so often.
	changeLook  = 200 * time.Millisecond
	changeTries = 5
)

// newLife is a number that no life of a stream had before.
func newLife(before string) string {
	last, err := strconv.ParseInt(before, 36, 64)
	if err != nil {
		last = 0
	}
	return strconv.FormatInt(max(time.Now().UnixNano(), last+1), 36)
}

// rewindTo is the first sequence that may have been given a second time: no leader had less than the holder that had least after the
// crash. Where none of them knows, it is as after the crash before.
func (v *view) rewindTo() uint64 {
	from, _ := strconv.ParseUint(v.info.Config.Metadata[fromKey], 10, 64) // 0: there was none
	pending, err := strconv.ParseUint(v.info.Config.Metadata[rewindKey], 10, 64)
	marked := err == nil
	to := pending
	for _, x := range v.all {
		if x.Marked && (!marked || x.Mark+1 < to) {
			marked, to = true, x.Mark+1
		}
	}
	if !marked {
		to = from
	}
	return max(1, to)
}

// firstSince is the sequence of the first message since a time, or the one that the next will have.
func (b *backend) firstSince(ctx context.Context, v *view, since time.Time) (uint64, error) {
	if v.info.State.Msgs == 0 {
		return v.info.State.Last + 1, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	after, err := b.seek(ctx, driver.Stream{Config: bus.StreamConfig{Name: v.name}}, driver.Query{Since: since, UpTo: v.info.State.Last, Pattern: ">"})
	return after + 1, err
}

// rewind has the groups that are further than the stream was begin there. It may be interrupted.
func (b *backend) rewind(ctx context.Context, v *view) error {
	metadata := v.info.Config.Metadata
	if config := metadata[againKey]; config != "" {
		return b.makeAgain(ctx, v.name, config)
	}
	to, err := strconv.ParseUint(metadata[rewindKey], 10, 64)
	if err != nil {
		to = 1
	}
	life, err := strconv.ParseInt(metadata[lifeKey], 36, 64)
	if err != nil {
		life = math.MaxInt64
	}
	consumers, err := b.consumers(ctx, v.name) // those that answer, also with an error
	done := b.node.review.rewound
	errs := err
	for i := range consumers {
		c := &consumers[i]
		key := v.name + " " + metadata[lifeKey] + " " + c.Name
		if done[key] || c.Created.UnixNano() > life && c.Created.Sub(time.Unix(0, life)) > clockMargin {
			continue
		}
		if err := b.rewindConsumer(ctx, v, c, to); err != nil {
			errs = errors.Join(errs, fmt.Errorf("group %s can't go back yet: %w", c.Name, err))
			continue
		}
		done[key] = true
	}
	if errs != nil {
		return errs
	}
	err = b.changeMetadata(ctx, v.name, func(m map[string]string) { delete(m, rewindKey) })
	if err == nil {
		maps.DeleteFunc(done, func(key string, _ bool) bool { return strings.HasPrefix(key, v.name+" ") })
	}
	return err
}

// rewindConsumer has a group's consumer begin at a sequence, if it is further, or with the first message that isn't acknowledged.
func (b *backend) rewindConsumer(ctx context.Context, v *view, c *listedConsumer, to uint64) error {
	config, err := decodeConfig(c.Config)
	if err != nil {
		return err
	}
	first := uint64(0) // that it is to get at all
	if start, ok := config["opt_start_seq"].(json.Number); ok {
		if first, err = strconv.ParseUint(start.String(), 10, 64); err != nil {
			return err
		}
	}
	group := config["durable_name"] != nil || strings.HasPrefix(c.Name, groupPrefix)
	if !group {
		return nil
	}
	if first > to {
		// It may have begun behind what the stream has lost. What came after it was made is its own.
		since, err := b.firstSince(ctx, v, c.Created)
		if err != nil {
			return err
		}
		if to = max(to, since); to < first {
			config["opt_start_seq"] = to
			return b.askAgain(ctx, v.name, c.Name, config)
		}
	}
	// Also if it isn't further: another replica of it may be.
	to = max(first, min(to, c.Acknowledged.Sequence+1))
	ctx, cancel := context.WithTimeout(ctx, resetTimeout)
	defer cancel()
	err = b.ask(ctx, "$JS.API.CONSUMER.RESET."+v.name+"."+c.Name, map[string]uint64{"seq": to}, nil)
	var refused *apiError
	if errors.As(err, &refused) && refused.Unwrap() == nil {
		b.log.Error("natsbus: a consumer can't go back to before a crash of its stream", "stream", v.name, "consumer", c.Name, "to", to, "error", err)
		return nil // it is somebody else's, of a kind that can't
	}
	return err
}

// errAgain says that a consumer is made once more, before anything else.
var errAgain = errors.New("it is made once more")

// askAgain has a consumer made once more with another config: the sequence with which it begins can't be changed. The config is noted before, so that
// it isn't lost on the way.
func (b *backend) askAgain(ctx context.Context, stream, consumer string, config map[string]any) error {
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := b.changeMetadata(ctx, stream, func(m map[string]string) { m[againKey] = string(text) }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := b.ask(ctx, "$JS.API.CONSUMER.DELETE."+stream+"."+consumer, nil, nil); err != nil && !isGone(err) {
		return err
	}
	return errAgain
}

// makeAgain makes a consumer of a config that was noted.
func (b *backend) makeAgain(ctx context.Context, stream, text string) error {
	config, err := decodeConfig(json.RawMessage(text))
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	consumer := stream + "." + fmt.Sprint(config["name"])
	err = b.ask(bounded, "$JS.API.CONSUMER.DELETE."+consumer, nil, nil)
	if err == nil || isGone(err) {
		err = b.ask(bounded, "$JS.API.CONSUMER.CREATE."+consumer, map[string]any{"stream_name": stream, "config": config, "action": "create"}, nil)
	}
	if err != nil {
		return err
	}
	return b.changeMetadata(ctx, stream, func(m map[string]string) { delete(m, againKey) })
}

// errContended is also what a server says by doing that knows no metadata (before 2.10).
var errContended = errors.New("somebody else changes it at the same time")

// changeMetadata changes a stream's metadata as the server has it. There is no way to do it in one step: what somebody else has
// changed meanwhile is looked for afterwards.
func (b *backend) changeMetadata(ctx context.Context, name string, change func(m map[string]string)) error {
	for try := 1; ; try++ {
		if try > changeTries+1 {
			return fmt.Errorf("%w: the metadata of stream %s: %w", bus.ErrUnavailable, name, errContended)
		}
		changed, err := b.changeOnce(ctx, name, func(_ *streamInfo, m map[string]string) { change(m) })
		if err != nil || !changed {
			return err
		}
		if !sleep(ctx, changeLook) {
			return context.Cause(ctx)
		}
	}
}
