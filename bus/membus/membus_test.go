package membus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
)

func Example() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "mem:")
	if err != nil {
		panic(err)
	}
	defer b.Close(ctx)
	err = b.EnsureStreams(ctx, bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgs: 1000})
	if err != nil {
		panic(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		if err := b.Publish(ctx, "chat.room.Go", []byte(text)); err != nil {
			panic(err)
		}
	}
	_, err = b.Subscribe(ctx, "chat.*.Go", func(ctx context.Context, m *bus.Message) error {
		fmt.Println(m.Subject, string(m.Data), m.Replayed)
		return nil
	}, bus.Last(2))
	if err != nil {
		panic(err)
	}
	// Output:
	// chat.room.Go two true
	// chat.room.Go three true
}

func TestOpen_refusesWhatItDoesNotKnowByName(t *testing.T) {
	for url, want := range map[string]string{
		"mem:./data":             "has no place",
		"mem://host":             "has no place",
		"mem:?tik=100ms":         `"tik"`,
		"mem:?tick=fast":         `"tick"`,
		"mem:?tick=-1s":          `"tick"`,
		"mem:?tick=1us":          `"tick"`,
		"mem:?tick=1s&tick=2s":   `"tick"`,
		"mem:?tick=%zz":          "malformed",
		"mem:?tick=100ms#anchor": "'#'",
	} {
		_, err := bus.Open(t.Context(), url)
		require.ErrorContains(t, err, want, url)
		require.ErrorContains(t, err, "mem:", url)
	}
}
