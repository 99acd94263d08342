package natsbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// The clients of an embedded server learn from a stream's metadata in which life it is, as those of a cluster do. The lives decide,
// and the metadata is made to say the same: after the store was opened, and when somebody has replaced it with a config of his own.

// tellPause is how long after a failure that is tried again.
const tellPause = 30 * time.Second

// tellLife notes in a stream's metadata in which life it is; empty: in its first one.
func tellLife(metadata map[string]string, life string) {
	if life == "" {
		delete(metadata, lifeKey)
	} else {
		metadata[lifeKey] = life
	}
}

// untoldLives returns the streams whose metadata doesn't say in which life they are.
func (e *embedded) untoldLives() (names []string, err error) {
	streams, err := e.server.Load().streams()
	for _, s := range streams {
		if s.Config != nil && s.Config.Metadata[lifeKey] != e.lives.life(s.Name, s.Created) {
			names = append(names, s.Name)
		}
	}
	return names, err
}

// tellLives has the clients of the embedded server see the epochs that this bus sees. What fails is logged, and tried again later.
func (b *backend) tellLives(ctx context.Context) {
	err := b.tryTellLives(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, bus.ErrClosed) {
		return
	}
	b.tellLifeNext.Store(time.Now().Add(tellPause).UnixNano())
	b.log.Warn("natsbus: clients can't be told yet that streams have lost their end; cursors of before may miss messages in silence there", "error", err)
}

func (b *backend) tryTellLives(ctx context.Context) error {
	told := map[string]bool{}
	for try := 1; ; try++ {
		names, err := b.server.untoldLives()
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return b.keepTold(ctx, told)
		}
		// The server would leave half a config behind.
		if err := b.server.tryRoom(streamRoom); err != nil {
			return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
		}
		if try > changeTries {
			return fmt.Errorf("%w: the metadata of streams %v is changed by somebody else at the same time", bus.ErrUnavailable, names)
		}
		errs := make([]error, len(names))
		asking := make(chan struct{}, asksAtOnce)
		var telling sync.WaitGroup
		for i, name := range names {
			asking <- struct{}{}
			telling.Go(func() {
				errs[i] = b.tellLifeOf(ctx, name)
				<-asking
			})
			told[name] = true
		}
		telling.Wait()
		if err := errors.Join(errs...); err != nil {
			return errors.Join(err, b.keepTold(ctx, told))
		}
		if b.listened && !sleep(ctx, changeLook) { // for an update that somebody had begun before
			return context.Cause(ctx)
		}
	}
}

func (b *backend) tellLifeOf(ctx context.Context, name string) error {
	_, err := b.changeOnce(ctx, name, func(info *streamInfo, m map[string]string) {
		tellLife(m, b.server.lives.life(name, info.Created))
	})
	if errors.Is(err, driver.ErrNotCaptured) {
		return nil // it was removed
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	return nil
}

// keepTold has the copies of the configs say it, too.
func (b *backend) keepTold(ctx context.Context, told map[string]bool) error {
	if len(told) == 0 {
		return nil
	}
	err := b.server.syncAll(ctx)
	for name := range told {
		if err != nil {
			return err
		}
		err = b.server.copies.keep(configOf{stream: name})
	}
	return err
}

// tellAgain tells what was seen to be untold, if it is time.
func (b *backend) tellAgain() {
	if !b.lifeUntold.Load() || time.Now().UnixNano() < b.tellLifeNext.Load() {
		return
	}
	b.lifeUntold.Store(false)
	ctx, cancel := b.untilClosed(askTimeout)
	defer cancel()
	b.tellLives(ctx)
}

// changeOnce changes a stream's metadata as the server has it, and reports whether there was something to change.
func (b *backend) changeOnce(ctx context.Context, name string, change func(info *streamInfo, m map[string]string)) (changed bool, err error) {
	info, raw, err := b.rawInfo(ctx, name)
	if err != nil {
		return false, err
	}
	metadata := maps.Clone(info.Config.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	change(info, metadata)
	if maps.Equal(metadata, info.Config.Metadata) {
		return false, nil
	}
	config, err := decodeConfig(raw)
	if err != nil {
		return false, err
	}
	config["metadata"] = metadata
	return true, b.ask(ctx, "$JS.API.STREAM.UPDATE."+name, config, nil)
}
