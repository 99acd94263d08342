package chat

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/presence"
	"github.com/jitney-go/jitney/ui"
)

// Robots lets n robots chat when v serves: each about every five seconds, all together
// at most twenty times a second. stop ends them and waits until they have.
func Robots(v *ui.App, b bus.Bus, here *presence.Rooms, n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n > 0 && v.Addr() != "" {
			chatter(ctx, b, here, n)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func chatter(ctx context.Context, b bus.Bus, here *presence.Rooms, n int) {
	robots := make([]presence.Member, n)
	for i := range robots {
		robots[i] = presence.Member{ID: "robot-" + rand.Text(), Name: fmt.Sprintf("Robot %d", i+1), Info: "🤖"}
		if _, err := here.Join(ctx, rooms[i%len(rooms)], robots[i], nil); err != nil {
			slog.Warn("chat: a robot can't enter", "error", err)
		}
	}
	lines := []string{"Has anybody tried %s?", "I like %s.", "Who can explain %s?", "Today I have learnt about %s.", "I'd never do without %s."}
	things := []string{"range over functions", "the borrow checker", "list comprehensions", "promises", "transducers", "a bus of one's own"}
	tick := time.NewTicker(max(5*time.Second/time.Duration(n), 50*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		i := mathrand.N(n)
		m := Message{
			ID: rand.Text(), By: robots[i].ID, Name: robots[i].Name, Emoji: robots[i].Info, Time: time.Now().UTC(),
			Text: fmt.Sprintf(lines[mathrand.N(len(lines))], things[mathrand.N(len(things))]),
		}
		if err := bus.Publish(ctx, b, subject(rooms[i%len(rooms)]), m); err != nil && !errors.Is(err, context.Canceled) {
			slog.Warn("chat: a robot wasn't heard", "error", err)
		}
	}
}
