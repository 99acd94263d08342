package presence_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/presence"
)

func TestMessages_thatAreNotOursAreIgnoredAndLogged(t *testing.T) {
	onMem(t, func(t *testing.T, url string) {
		b := openBus(t, url)
		var log logs
		x := open(t, b, log.option())
		v := join(t, x, "Go", "a")
		time.Sleep(settled)
		for _, data := range strange {
			require.NoError(t, b.Publish(t.Context(), "here.Go", []byte(data)))
		}
		time.Sleep(settled)
		require.Equal(t, []string{"a"}, ids(v))
		require.Equal(t, 1, strings.Count(log.String(), "\n"), "told, and not a thousand times")
		require.NotContains(t, log.String(), "secret")
		require.NoError(t, b.Publish(t.Context(), "here.Go", []byte(`{"p":"x","op":"state","n":9,"v":9,"of":1,"t":6500,"m":[{"i":"b","n":"secret"}],"new":1}`)))
		time.Sleep(settled)
		require.Equal(t, []string{"a", "b"}, ids(v), "fields of a later version do no harm")
	})
}

var strange = []string{
	"", "secret", "[]", "null", `{"p":1}`, `{"op":"beat","n":1,"v":1}`,
	`{"p":"x","op":"secret"}`,
	`{"p":"` + strings.Repeat("x", 65) + `","op":"beat","n":1,"v":1}`,
	`{"p":"x","op":"beat","n":1,"v":2,"t":1}`,
	`{"p":"x","op":"beat","n":1,"v":1,"t":-1}`,
	`{"p":"x","op":"beat","n":1,"v":1,"t":99999999999}`,
	`{"p":"x","op":"change","n":5,"v":5,"t":6500,"m":[{"i":"b"}]}`,
	`{"p":"x","op":"change","n":5,"v":5,"b":7,"t":6500,"m":[{"i":"b"}]}`,
	`{"p":"x","op":"state","n":5,"v":5,"t":6500,"m":[{"i":"b"}]}`,
	`{"p":"x","op":"state","n":6,"v":5,"k":1,"of":1,"t":6500,"m":[{"i":"b"}]}`,
	`{"p":"x","op":"state","n":4,"v":5,"k":-1,"of":1,"t":6500,"m":[{"i":"b"}]}`,
	`{"p":"x","op":"state","n":5,"v":5,"of":1,"t":6500,"m":[{"i":"b"},{"i":""}]}`,
	`{"p":"x","op":"state","n":5,"v":5,"of":1,"t":6500,"m":[{"i":"b","n":"` + strings.Repeat("n", 257) + `"}]}`,
}

// Somebody who makes up processes and members without end fills what there is, and no more.
func TestFloods_areBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, "mem:")
		x := open(t, b, quiet)
		v := join(t, x, "Go", "a")
		time.Sleep(settled)
		for i := range 4100 {
			require.NoError(t, b.Publish(t.Context(), "here.Go", fmt.Appendf(nil, `{"p":"x%d","op":"state","n":1,"v":1,"of":1,"t":6500,"m":[{"i":"m%d"}]}`, i, i)))
			synctest.Wait()
		}
		require.Len(t, v.List(), 4096+1)
		for k := range 40 {
			var members strings.Builder
			for i := range 3000 {
				fmt.Fprintf(&members, `,{"i":"%d-%d"}`, k, i)
			}
			require.NoError(t, b.Publish(t.Context(), "here.Go", fmt.Appendf(nil, `{"p":"x1","op":"change","n":%d,"v":%d,"b":%d,"t":6500,"m":[%s]}`, k+2, k+2, k+1, members.String()[1:])))
			synctest.Wait()
		}
		require.Len(t, v.List(), 100_000)
		_, err := x.Join(t.Context(), "Go", presence.Member{ID: "one more"}, nil)
		require.ErrorIs(t, err, presence.ErrFull)
		time.Sleep(7 * time.Second)
		require.Equal(t, []string{"a"}, ids(v), "it is over when it is over")
		w := watch(t, open(t, b), "Go", nil)
		time.Sleep(settled)
		require.Equal(t, []string{"a"}, ids(w))
	})
}

// direct is a bus whose one handler is called by a test.
type direct struct {
	bus.Bus
	handler chan bus.Handler
}

func (d direct) Subscribe(ctx context.Context, pattern string, h bus.Handler, opts ...bus.SubscribeOption) (bus.Subscription, error) {
	sub, err := d.Bus.Subscribe(ctx, pattern, h, opts...)
	d.handler <- h
	return sub, err
}

func FuzzMessage(f *testing.F) {
	for _, data := range strange {
		f.Add([]byte(data), []byte(data))
	}
	state := []byte(`{"p":"x","op":"state","n":5,"v":5,"of":1,"t":6500,"m":[{"i":"b"}]}`)
	f.Add(state, []byte(`{"p":"x","op":"change","n":6,"v":6,"b":5,"t":6500,"m":[{"i":"c"}],"d":["b"]}`))
	f.Add(state, []byte(`{"p":"x","op":"beat","n":6,"v":5,"t":0}`))
	f.Add(state, []byte(`{"p":"y","op":"ask","q":["x"]}`))
	f.Add([]byte(`{"p":"x","op":"state","n":5,"v":5,"of":2,"t":1}`), []byte(`{"p":"x","op":"state","n":6,"v":5,"k":1,"of":2,"t":1,"m":[{"i":"b"}]}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		d := direct{openBus(t, "mem:"), make(chan bus.Handler, 1)}
		v := join(t, open(t, d, quiet), "Go", "a")
		h := <-d.handler
		for _, data := range [][]byte{first, second} {
			require.NoError(t, h(t.Context(), &bus.Message{Subject: "here.Go", Data: data}))
			list := v.List()
			require.Contains(t, list, presence.Member{ID: "a", Name: "Na"})
			for _, m := range list {
				require.True(t, m.ID != "" && len(m.ID) <= 128 && len(m.Name) <= 256 && len(m.Info) <= 1024)
				require.True(t, utf8.ValidString(m.ID+m.Name+m.Info))
			}
		}
	})
}
