package migrate_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/bus/migrate"
)

// open returns a bus with a stream of chats. In a program it is bus.Open with the old URL and with the new one.
func open(ctx context.Context) bus.Bus {
	b, err := membus.Open(0)
	if err == nil {
		err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}})
	}
	if err != nil {
		log.Fatal(err)
	}
	return b
}

// print subscribes to what a bus has and gets.
func printAll(ctx context.Context, b bus.Bus, name string) {
	_, err := b.Subscribe(ctx, "chat.>", func(_ context.Context, m *bus.Message) error {
		fmt.Printf("%s: %s\n", name, m.Data)
		return nil
	}, bus.All())
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleTee() {
	ctx := context.Background()
	old, fresh := open(ctx), open(ctx)
	tee, err := migrate.NewTee(ctx, old, fresh, migrate.TeeConfig{
		OnError: func(p bus.Problem) { log.Print(p.Subject, ": ", p.Err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tee.Close(ctx)

	// The program uses the Tee as it has used the old bus.
	if err := tee.Publish(ctx, "chat.room.Go", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	printAll(ctx, tee, "old")

	if err := tee.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	printAll(ctx, fresh, "new")
	fmt.Printf("%+v\n", tee.Stats())
	// Output:
	// old: hello
	// new: hello
	// {Written:1 Lost:0 Waiting:0}
}
