package otel_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/metrics/otel"
	"github.com/jitney-go/jitney/ui"
)

func TestMetrics_countWhatABusDoes(t *testing.T) {
	reader := metric.NewManualReader()
	metrics, err := otel.New(metric.NewMeterProvider(metric.WithReader(reader)).Meter("jitney"))
	require.NoError(t, err)
	b, err := membus.Open(0, bus.WithMetrics(metrics), bus.OnError(func(bus.Problem) {}))
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	_, err = b.Subscribe(t.Context(), ">", func(context.Context, *bus.Message) error { return errors.New("no") })
	require.NoError(t, err)
	require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("hello")))
	require.Error(t, b.Publish(t.Context(), "a b", nil))
	require.NoError(t, b.Close(t.Context()))

	sums, counts := collect(t, reader)
	require.Equal(t, map[string]int64{
		"jitney.published": 1, "jitney.published.bytes": 5, "jitney.publish.errors": 1, "jitney.handler.errors": 1, "jitney.subscriptions": 0,
	}, sums)
	require.Equal(t, map[string]uint64{"jitney.publish.duration": 2, "jitney.handle.duration": 1, "jitney.message.age": 1}, counts)
}

func TestMetrics_countWhatPagesDo(t *testing.T) {
	reader := metric.NewManualReader()
	metrics, err := otel.New(metric.NewMeterProvider(metric.WithReader(reader)).Meter("jitney"))
	require.NoError(t, err)
	var _ ui.Metrics = metrics
	metrics.Tabs("/", 2)
	metrics.Tabs("/", -1)
	metrics.Sent("/", 100)
	metrics.Sent("/", 11)
	metrics.Rendered("/", time.Millisecond, nil)
	metrics.Rendered("/", time.Millisecond, errors.New("no"))
	metrics.Acted("/", time.Millisecond, errors.New("no"))
	sums, counts := collect(t, reader)
	require.Equal(t, map[string]int64{
		"jitney.tabs": 1, "jitney.frames": 2, "jitney.frames.bytes": 111, "jitney.render.errors": 1, "jitney.action.errors": 1,
	}, sums)
	require.Equal(t, map[string]uint64{"jitney.render.duration": 2, "jitney.action.duration": 1}, counts)
}

// collect returns the sums, and the counts of histograms, by name.
func collect(t *testing.T, reader metric.Reader) (sums map[string]int64, counts map[string]uint64) {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	sums, counts = map[string]int64{}, map[string]uint64{}
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				sums[m.Name] += p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				counts[m.Name] += p.Count
			}
		}
	}
	return sums, counts
}

func TestPropagator_carriesTheTrace(t *testing.T) {
	b, err := membus.Open(0, bus.WithPropagator(otel.Propagator(propagation.TraceContext{})))
	require.NoError(t, err)
	got := make(chan trace.SpanContext, 2)
	_, err = b.Subscribe(t.Context(), "a", func(ctx context.Context, _ *bus.Message) error {
		got <- trace.SpanContextFromContext(ctx)
		return nil
	})
	require.NoError(t, err)
	sent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	require.NoError(t, b.Publish(trace.ContextWithSpanContext(t.Context(), sent), "a", nil))
	require.NoError(t, b.Publish(t.Context(), "a", nil))
	require.NoError(t, b.Close(t.Context()))
	first, second := <-got, <-got
	require.Equal(t, sent.TraceID(), first.TraceID())
	require.Equal(t, sent.SpanID(), first.SpanID())
	require.True(t, first.IsRemote())
	require.False(t, second.IsValid())
}
