package presence_test

import (
	"context"
	"fmt"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/presence"
)

func Example() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "mem:")
	if err != nil {
		panic(err)
	}
	defer b.Close(ctx)
	here, err := presence.Open(ctx, b, "here")
	if err != nil {
		panic(err)
	}
	defer here.Close(ctx)

	tab, closeTab := context.WithCancel(ctx)
	defer closeTab() // ends the visit, as Leave does
	_, err = here.Join(tab, "Go", presence.Member{ID: "7", Name: "Witty Otter"}, nil)
	if err != nil {
		panic(err)
	}
	visit, err := here.Join(tab, "Go", presence.Member{ID: "3", Name: "Calm Owl"}, func() {
		// The list has changed: in a page of package ui this function is c.Sync.
	})
	if err != nil {
		panic(err)
	}
	for _, m := range visit.List() {
		fmt.Println(m.Name)
	}
	// Output:
	// Calm Owl
	// Witty Otter
}
