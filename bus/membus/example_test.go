package membus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
)

// Chat is what a room holds.
type Chat struct{ Lines []string }

// add is for UpdateData: the oldest lines go, so that the room doesn't grow forever.
func add(line string) func(*Chat) {
	return func(c *Chat) { c.Lines = append(c.Lines[max(0, len(c.Lines)-999):], line) }
}

// last is for GetData.
func last(n int) func(*Chat) Chat {
	return func(c *Chat) Chat { return Chat{slices.Clone(c.Lines[max(0, len(c.Lines)-n):])} }
}

// Tab is a member, such as the page of a browser tab.
type Tab struct {
	room  *membus.Room[Chat, string]
	views chan string
}

// Sync renders the room. In package ui, Context.Sync does that.
func (t *Tab) Sync() { t.views <- strings.Join(t.room.GetData(last(2)).Lines, ", ") }

func ExampleRooms() {
	ctx := context.Background() // in a page that of its tab, with which the membership ends
	rooms := membus.NewRooms[Chat, string](100*time.Millisecond, "Go", "Rust")
	rooms.Start()
	defer rooms.Stop()

	room, ok := rooms.Get("Go")
	if !ok {
		panic("no such room")
	}
	tab := &Tab{room, make(chan string)}
	room.Join(ctx, "Ada", tab)
	for _, line := range []string{"one", "two", "three"} {
		room.UpdateData(add(line))
	}
	fmt.Println(room.Members(), <-tab.views) // all three at one tick
	room.Leave(tab)
	// Output: [Ada] two, three
}

func ExampleRooms_OpenBus() {
	ctx := context.Background()
	rooms := membus.NewRooms[Chat, string](100*time.Millisecond, "Go")
	rooms.Start()
	defer rooms.Stop()
	b, err := rooms.OpenBus()
	if err != nil {
		panic(err)
	}
	defer b.Close(ctx)

	// Half of the program has moved: lines are published. The other half still looks at the room, which follows them.
	room, _ := rooms.Get("Go")
	_, err = bus.Subscribe(ctx, b, "chat.room.Go", func(_ context.Context, line string) error {
		room.UpdateData(add(line))
		return nil
	})
	if err != nil {
		panic(err)
	}
	tab := &Tab{room, make(chan string)}
	room.Join(ctx, "Ada", tab)
	if err := bus.Publish(ctx, b, "chat.room.Go", "hello"); err != nil {
		panic(err)
	}
	fmt.Println(<-tab.views)
	// Output: hello
}
