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

// printAll subscribes to what a bus has and gets.
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

func ExampleShadow() {
	ctx := context.Background()
	old, fresh := open(ctx), open(ctx)
	tee, err := migrate.NewTee(ctx, old, fresh, migrate.TeeConfig{})
	if err != nil {
		log.Fatal(err)
	}
	shadow, err := migrate.NewShadow(ctx, old, fresh, migrate.ShadowConfig{
		Patterns:     []string{"chat.>"},
		OnDifference: func(d migrate.Difference) { log.Print(d.Kind, " ", d.Subject) }, // a counter for each kind
	})
	if err != nil {
		log.Fatal(err)
	}

	// The program runs, on a quiet day and on a busy one.
	for range 1000 {
		if err := tee.Publish(ctx, "chat.room.Go", []byte("hello")); err != nil {
			log.Fatal(err)
		}
	}
	if err := tee.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	report := shadow.Close(ctx) // or shadow.Report(), now and then
	fmt.Println(report.Same, "on both,", report.Err())
	if err := tee.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: 1000 on both, <nil>
}

func ExampleBridge() {
	ctx := context.Background()
	old, fresh := open(ctx), open(ctx)
	if err := old.Publish(ctx, "chat.room.Go", []byte("stored long ago")); err != nil {
		log.Fatal(err)
	}
	bridge := migrate.NewBridge(old, fresh, migrate.BridgeConfig{Streams: []string{"CHAT"}})
	done := make(chan error)
	go func() { done <- bridge.Follow(ctx) }()

	// The program runs on the old bus meanwhile, until its publishers stop.
	if err := old.Publish(ctx, "chat.room.Go", []byte("published meanwhile")); err != nil {
		log.Fatal(err)
	}
	summaries, err := bridge.CutOver(ctx)
	if err != nil {
		log.Fatal(err) // the old bus is as it was
	}
	if err := <-done; err != nil {
		log.Fatal(err)
	}
	s := summaries[0]
	fmt.Println(s.Stream, s.Source.Messages, "messages, the same at both ends:", s.Source == s.Destination)

	// From here on the program runs on the new bus.
	if err := fresh.Publish(ctx, "chat.room.Go", []byte("on the new bus")); err != nil {
		log.Fatal(err)
	}
	printAll(ctx, fresh, "new")
	// Output:
	// CHAT 2 messages, the same at both ends: true
	// new: stored long ago
	// new: published meanwhile
	// new: on the new bus
}

func ExampleBridge_Verify() {
	ctx := context.Background()
	old, fresh := open(ctx), open(ctx)
	if err := old.Publish(ctx, "chat.room.Go", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	bridge := migrate.NewBridge(old, fresh, migrate.BridgeConfig{
		OnProgress: func(p migrate.Progress) {
			what := map[bool]string{true: "compared", false: "copied"}[p.Comparing]
			fmt.Printf("%s: %s %d of %d\n", p.Stream, what, p.Done, p.Total)
		},
	})
	if err := bridge.Copy(ctx); err != nil {
		log.Fatal(err)
	}
	if err := fresh.Publish(ctx, "chat.room.Go", []byte("too early")); err != nil {
		log.Fatal(err)
	}
	summaries, err := bridge.Verify(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(summaries[0].Err())
	// Output:
	// CHAT: copied 1 of 1
	// CHAT: compared 1 of 1
	// stream CHAT: 1 at the destination that aren't copies from this source
}

func ExampleOriginal() {
	ctx := context.Background()
	old, fresh := open(ctx), open(ctx)
	if err := old.Publish(ctx, "chat.room.Go", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	if err := migrate.NewBridge(old, fresh, migrate.BridgeConfig{}).Copy(ctx); err != nil {
		log.Fatal(err)
	}
	_, err := fresh.Subscribe(ctx, "chat.>", func(_ context.Context, m *bus.Message) error {
		fmt.Println("said before it was copied:", migrate.Original(m).Before(m.Time))
		return nil
	}, bus.All())
	if err != nil {
		log.Fatal(err)
	}
	// Output: said before it was copied: true
}
