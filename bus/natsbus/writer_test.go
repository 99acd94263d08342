package natsbus_test

import (
	"context"
	"fmt"

	"github.com/jitney-go/jitney/bus"
)

// writeURL makes this program a child that publishes on a bus until it is killed, and says what was acknowledged.
const writeURL = "JITNEY_TEST_WRITE_URL"

const writers = 16

func write(url string) {
	ctx := context.Background()
	b, err := bus.Open(ctx, url)
	if err == nil {
		err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "S", Subjects: []string{"a.*"}})
	}
	if err != nil {
		panic(err)
	}
	for w := range writers {
		go func() {
			for n := 1; ; n++ {
				if err := b.Publish(ctx, fmt.Sprintf("a.%d", w), fmt.Append(nil, n)); err != nil {
					panic(err)
				}
				fmt.Println(w, n) // one write, so that lines stay whole
			}
		}()
	}
	select {}
}
