package prometheus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	"github.com/jitney-go/jitney/metrics/prometheus"
	"github.com/jitney-go/jitney/ui"
)

func TestMetrics_countWhatABusDoes(t *testing.T) {
	metrics := prometheus.New()
	registry := prom.NewRegistry()
	registry.MustRegister(metrics)
	b, err := membus.Open(0, bus.WithMetrics(metrics), bus.OnError(func(bus.Problem) {}))
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	_, err = b.Subscribe(t.Context(), ">", func(_ context.Context, m *bus.Message) error {
		if m.Subject == "note" {
			return errors.New("no")
		}
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, b.Publish(t.Context(), "chat.Go", []byte("hello")))
	require.NoError(t, b.Publish(t.Context(), "note", []byte("x")))
	require.Error(t, b.Publish(t.Context(), "a b", nil))
	require.Equal(t, 1.0, gauge(t, registry, "jitney_subscriptions"))
	require.NoError(t, b.Close(t.Context()))

	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP jitney_handler_errors_total Calls of handlers that returned an error or panicked.
# TYPE jitney_handler_errors_total counter
jitney_handler_errors_total{stream=""} 1
# HELP jitney_publish_errors_total Publishes that returned an error.
# TYPE jitney_publish_errors_total counter
jitney_publish_errors_total{stream=""} 1
# HELP jitney_published_bytes_total Bytes of data that were accepted.
# TYPE jitney_published_bytes_total counter
jitney_published_bytes_total{stream=""} 1
jitney_published_bytes_total{stream="CHAT"} 5
# HELP jitney_subscriptions Subscriptions that stand.
# TYPE jitney_subscriptions gauge
jitney_subscriptions 0
`), "jitney_handler_errors_total", "jitney_publish_errors_total", "jitney_published_bytes_total", "jitney_subscriptions"))
	count, err := testutil.GatherAndCount(registry, "jitney_handle_seconds", "jitney_publish_seconds", "jitney_message_age_seconds")
	require.NoError(t, err)
	require.Equal(t, 5, count)
	requireLint(t, registry)
}

// requireLint wants names and units that are as Prometheus has them.
func requireLint(t *testing.T, registry prom.Gatherer) {
	t.Helper()
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestMetrics_countWhatPagesDo(t *testing.T) {
	metrics := prometheus.New()
	registry := prom.NewRegistry()
	registry.MustRegister(metrics)
	var _ ui.Metrics = metrics

	metrics.Tabs("/", 1)
	metrics.Tabs("/", 1)
	metrics.Tabs("/", -1)
	metrics.Sent("/", 100)
	metrics.Sent("/", 11)
	metrics.Rendered("/", time.Millisecond, nil)
	metrics.Rendered("/", time.Millisecond, errors.New("no"))
	metrics.Acted("/room/{name}", time.Millisecond, errors.New("no"))
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP jitney_action_errors_total Actions that returned an error or panicked.
# TYPE jitney_action_errors_total counter
jitney_action_errors_total{page="/room/{name}"} 1
# HELP jitney_frame_bytes_total Bytes of those frames.
# TYPE jitney_frame_bytes_total counter
jitney_frame_bytes_total{page="/"} 111
# HELP jitney_frames_total Frames that were handed to streams of browsers.
# TYPE jitney_frames_total counter
jitney_frames_total{page="/"} 2
# HELP jitney_render_errors_total Views that failed or panicked.
# TYPE jitney_render_errors_total counter
jitney_render_errors_total{page="/"} 1
# HELP jitney_tabs Tabs that live.
# TYPE jitney_tabs gauge
jitney_tabs{page="/"} 1
`), "jitney_action_errors_total", "jitney_frame_bytes_total", "jitney_frames_total", "jitney_render_errors_total", "jitney_tabs"))
	count, err := testutil.GatherAndCount(registry, "jitney_render_seconds", "jitney_action_seconds")
	require.NoError(t, err)
	require.Equal(t, 2, count)
	requireLint(t, registry)
}

func gauge(t *testing.T, from prom.Gatherer, name string) float64 {
	t.Helper()
	families, err := from.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
