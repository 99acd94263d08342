package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	_ "github.com/jitney-go/jitney/bus/membus"
)

func TestCursor_isReadAsItWasWritten(t *testing.T) {
	for _, c := range []bus.Cursor{{}, bus.NewCursor("e-1_Z", 1), bus.NewCursor("0", 1<<64-1)} {
		got, err := bus.ParseCursor(c.String())
		require.NoError(t, err)
		require.Equal(t, c, got)
		text, err := json.Marshal(c)
		require.NoError(t, err)
		var back bus.Cursor
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, c, back)
	}
	for _, text := range []string{".", "a", "a.", ".1", "a.0", "a.01", "a.-1", "a.1.2", "a b.1", "a.18446744073709551616"} {
		_, err := bus.ParseCursor(text)
		require.Error(t, err, text)
	}
}

func TestCursor_hasNoOrderAcrossEpochs(t *testing.T) {
	a1, a2, b1 := bus.NewCursor("a", 1), bus.NewCursor("a", 2), bus.NewCursor("b", 1)
	order, ok := a1.Compare(a2)
	require.True(t, ok)
	require.Equal(t, -1, order)
	_, ok = a1.Compare(b1)
	require.False(t, ok)
}

func TestOpen_namesTheImportThatIsMissing(t *testing.T) {
	_, err := bus.Open(t.Context(), "nats:./data")
	require.ErrorIs(t, err, bus.ErrUnknownScheme)
	require.ErrorContains(t, err, "github.com/jitney-go/jitney/bus/natsbus")
	require.ErrorContains(t, err, "mem:")
}

func TestOpen_hidesPasswords(t *testing.T) {
	for _, url := range []string{"kafka://user:geheim@host/x", "kafka://user:ge/heim@host", "kafka://user:geheim@host:port", "kafka://u:geheim@h#x", "kafka:./a?x=1&token=geheim", "kafka://h?password=geheim%zz"} {
		_, err := bus.Open(t.Context(), url)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "heim")
	}
}

func TestOpen_refusesWhatWouldCutAPath(t *testing.T) {
	for _, url := range []string{"nats:./a#b", "nats:./a%20b", "chat", ""} {
		_, err := bus.Open(t.Context(), url)
		require.Error(t, err, url)
	}
}

func TestMessage_cloneSharesNothing(t *testing.T) {
	m := &bus.Message{Subject: "a", Data: []byte("data"), Header: bus.Header{"K": {"v"}}}
	c := m.Clone()
	c.Data[0], c.Header["K"][0] = 'X', "w"
	require.Equal(t, "data", string(m.Data))
	require.Equal(t, "v", m.Header.Value("K"))
}

func TestWithHeader_withoutValuesAddsNothing(t *testing.T) {
	o := bus.NewPublishOptions([]bus.PublishOption{bus.WithHeader("Alone")})
	require.Nil(t, o.Header, "not every transport carries a key without values")
	o = bus.NewPublishOptions([]bus.PublishOption{bus.WithHeader("K", ""), bus.WithHeader("K"), bus.WithHeader("K", "v")})
	require.Equal(t, bus.Header{"K": {"", "v"}}, o.Header)
}

type point struct{ X, Y int }

func Example() {
	ctx := context.Background()
	b, err := bus.Open(ctx, "mem:")
	if err != nil {
		panic(err)
	}
	if err := b.EnsureStreams(ctx, bus.StreamConfig{Name: "POINTS", Subjects: []string{"points.>"}}); err != nil {
		panic(err)
	}
	if err := bus.Publish(ctx, b, "points.a", point{1, 2}); err != nil {
		panic(err)
	}
	_, err = bus.Subscribe(ctx, b, "points.*", func(_ context.Context, p point) error {
		fmt.Println(p.X + p.Y)
		return nil
	}, bus.All())
	if err != nil {
		panic(err)
	}
	if err := b.Close(ctx); err != nil {
		panic(err)
	}
	// Output: 3
}

func TestSubscribe_reportsWhatDoesNotDecodeWithoutItsPayload(t *testing.T) {
	ctx := t.Context()
	b, err := bus.Open(ctx, "mem:")
	require.NoError(t, err)
	problems := make(chan bus.Problem, 10)
	points := make(chan point, 10)
	_, err = bus.Subscribe(ctx, b, "points.*", func(_ context.Context, p point) error { points <- p; return nil },
		bus.OnError(func(p bus.Problem) { problems <- p }))
	require.NoError(t, err)
	require.NoError(t, b.Publish(ctx, "points.a", []byte(`{"X": "geheim"}`)))
	require.NoError(t, b.Publish(ctx, "points.b", []byte(`geheim`)))
	require.NoError(t, bus.Publish(ctx, b, "points.c", point{3, 4}))
	require.Equal(t, point{3, 4}, <-points)
	for _, subject := range []string{"points.a", "points.b"} {
		p := <-problems
		require.Equal(t, subject, p.Subject)
		require.Equal(t, "points.*", p.Pattern)
		require.ErrorContains(t, p.Err, "point")
		require.NotContains(t, p.Err.Error(), "geheim")
	}
	require.NoError(t, b.Close(ctx))
}

func TestPublish_ofAMessageSendsItAsItIs(t *testing.T) {
	ctx := t.Context()
	b, err := bus.Open(ctx, "mem:")
	require.NoError(t, err)
	got := make(chan bus.Message, 1)
	_, err = bus.Subscribe(ctx, b, "raw", func(_ context.Context, m bus.Message) error { got <- m; return nil })
	require.NoError(t, err)
	require.NoError(t, bus.Publish(ctx, b, "raw", bus.Message{Data: []byte{0, 1}, Header: bus.Header{"k": {"1", "2"}}}))
	m := <-got
	require.Equal(t, []byte{0, 1}, m.Data)
	require.Equal(t, []string{"1", "2"}, m.Header["k"])
	require.NoError(t, b.Close(ctx))
}

type upper struct{}

func (upper) Marshal(v any) ([]byte, error) { return fmt.Append(nil, "<", v, ">"), nil }
func (upper) Unmarshal(data []byte, v any) error {
	s, ok := v.(*string)
	if !ok {
		return errors.New("not a string")
	}
	*s = string(data)
	return nil
}

func TestWithCodec_replacesJSON(t *testing.T) {
	ctx := t.Context()
	b, err := bus.Open(ctx, "mem:")
	require.NoError(t, err)
	got := make(chan string, 1)
	_, err = bus.Subscribe(ctx, b, "text", func(_ context.Context, s string) error { got <- s; return nil }, bus.WithCodec(upper{}))
	require.NoError(t, err)
	require.NoError(t, bus.Publish(ctx, b, "text", "hello", bus.WithCodec(upper{})))
	require.Equal(t, "<hello>", <-got)
	require.NoError(t, b.Close(ctx))
}

type traceKey struct{}

// baton is a propagator of one text.
type baton struct{}

func (baton) Inject(ctx context.Context, h bus.Header) {
	if id, ok := ctx.Value(traceKey{}).(string); ok {
		h["Trace"] = []string{id}
	}
}

func (baton) Extract(ctx context.Context, h bus.Header) context.Context {
	return context.WithValue(ctx, traceKey{}, h.Value("Trace"))
}

func TestWithPropagator_givesHandlersThePublishersTrace(t *testing.T) {
	b, err := bus.Open(t.Context(), "mem:", bus.WithPropagator(baton{}))
	require.NoError(t, err)
	got := make(chan any, 2)
	_, err = b.Subscribe(t.Context(), "a", func(ctx context.Context, m *bus.Message) error {
		got <- ctx.Value(traceKey{})
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, b.Publish(context.WithValue(t.Context(), traceKey{}, "trace-1"), "a", nil))
	require.NoError(t, b.Publish(t.Context(), "a", nil))
	require.Equal(t, "trace-1", <-got)
	require.Nil(t, <-got)
	require.NoError(t, b.Close(t.Context()))
}

func TestRedacted_hidesSecrets(t *testing.T) {
	for url, want := range map[string]string{
		"mem:?tick=100ms":                 "mem:?tick=100ms",
		"nats://user:hu/sh@host:4222":     "nats://xxxxx@host:4222",
		"nats:./data?listen=x&token=hush": "nats:./data?listen=x&token=xxxxx",
		"nats:./d?leaf-token=hush&x":      "nats:./d?leaf-token=xxxxx&x",
		"nats:?leaf=nats://u:hush@h:1&a=": "nats:?leaf=nats://xxxxx@h:1&a=",
		"nats:./a@b?servers=u:hush@h:1":   "nats:./a@b?servers=xxxxx@h:1",
		"nats:./d?%74oken=hush&token-%=x": "nats:./d?%74oken=xxxxx&token-%=x",
		"nats:./d?secret-file=/run/hush":  "nats:./d?secret-file=/run/hush",
		"not a URL":                       "not a URL",
	} {
		require.Equal(t, want, bus.Redacted(url))
	}
}
