// Package prometheus gives the metrics of a bus, and of pages, to Prometheus:
//
//	metrics := prometheus.New()
//	prom.MustRegister(metrics)
//	b, err := bus.Open(ctx, "nats:./data/chat", bus.WithMetrics(metrics))
//	v.Config(ui.Options{Bus: b, Metrics: metrics})
//
// Series of a bus are told apart by stream ("" for what no stream holds), those of pages by the path that App.Page was
// given; never by subject, pattern or address, whose number a program's users may decide.
package prometheus

import (
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/jitney-go/jitney/bus"
)

// Metrics is a bus.Metrics, a ui.Metrics and a prometheus.Collector.
type Metrics struct {
	published, publishedBytes, publishErrors, handlerErrors *prom.CounterVec
	dropped                                                 prom.Counter
	subscriptions                                           prom.Gauge
	publishing, age, handling                               *prom.HistogramVec

	tabs                                           *prom.GaugeVec
	frames, frameBytes, renderErrors, actionErrors *prom.CounterVec
	rendering, acting                              *prom.HistogramVec
}

var _ bus.Metrics = (*Metrics)(nil)

// New returns metrics that aren't registered anywhere yet. Their names begin with jitney_; times
// are in seconds.
func New() *Metrics {
	counter := func(by, name, help string) *prom.CounterVec {
		return prom.NewCounterVec(prom.CounterOpts{Namespace: "jitney", Name: name, Help: help}, []string{by})
	}
	histogram := func(by, name, help string) *prom.HistogramVec {
		// From 10 microseconds, below which nothing is published, by threes.
		return prom.NewHistogramVec(prom.HistogramOpts{Namespace: "jitney", Name: name, Help: help, Buckets: prom.ExponentialBuckets(10e-6, 3, 14)}, []string{by})
	}
	return &Metrics{
		published:      counter("stream", "published_total", "Messages that were accepted."),
		publishedBytes: counter("stream", "published_bytes_total", "Bytes of data that were accepted."),
		publishErrors:  counter("stream", "publish_errors_total", "Publishes that returned an error."),
		handlerErrors:  counter("stream", "handler_errors_total", "Calls of handlers that returned an error or panicked."),
		dropped: prom.NewCounter(prom.CounterOpts{
			Namespace: "jitney", Name: "dropped_total", Help: "Messages that were dropped because a handler was too slow.",
		}),
		subscriptions: prom.NewGauge(prom.GaugeOpts{Namespace: "jitney", Name: "subscriptions", Help: "Subscriptions that stand."}),
		publishing:    histogram("stream", "publish_seconds", "Time that a publish took."),
		age:           histogram("stream", "message_age_seconds", "Age of a live message when its handler was called."),
		handling:      histogram("stream", "handle_seconds", "Time that a handler took."),

		tabs:         prom.NewGaugeVec(prom.GaugeOpts{Namespace: "jitney", Name: "tabs", Help: "Tabs that live."}, []string{"page"}),
		frames:       counter("page", "frames_total", "Frames that were handed to streams of browsers."),
		frameBytes:   counter("page", "frame_bytes_total", "Bytes of those frames."),
		renderErrors: counter("page", "render_errors_total", "Views that failed or panicked."),
		actionErrors: counter("page", "action_errors_total", "Actions that returned an error or panicked."),
		rendering:    histogram("page", "render_seconds", "Time that a view took."),
		acting:       histogram("page", "action_seconds", "Time that an action took."),
	}
}

// Published implements bus.Metrics.
func (m *Metrics) Published(stream string, bytes int, took time.Duration, err error) {
	m.publishing.WithLabelValues(stream).Observe(took.Seconds())
	if err != nil {
		m.publishErrors.WithLabelValues(stream).Inc()
		return
	}
	m.published.WithLabelValues(stream).Inc()
	m.publishedBytes.WithLabelValues(stream).Add(float64(bytes))
}

// Handled implements bus.Metrics.
func (m *Metrics) Handled(stream, _ string, age, took time.Duration, err error) {
	m.handling.WithLabelValues(stream).Observe(took.Seconds())
	if age > 0 {
		m.age.WithLabelValues(stream).Observe(age.Seconds())
	}
	if err != nil {
		m.handlerErrors.WithLabelValues(stream).Inc()
	}
}

// Dropped implements bus.Metrics.
func (m *Metrics) Dropped(_ string, messages uint64) { m.dropped.Add(float64(messages)) }

// Subscriptions implements bus.Metrics.
func (m *Metrics) Subscriptions(change int) { m.subscriptions.Add(float64(change)) }

// Tabs implements ui.Metrics.
func (m *Metrics) Tabs(page string, change int) { m.tabs.WithLabelValues(page).Add(float64(change)) }

// Rendered implements ui.Metrics.
func (m *Metrics) Rendered(page string, took time.Duration, err error) {
	m.rendering.WithLabelValues(page).Observe(took.Seconds())
	if err != nil {
		m.renderErrors.WithLabelValues(page).Inc()
	}
}

// Sent implements ui.Metrics.
func (m *Metrics) Sent(page string, bytes int) {
	m.frames.WithLabelValues(page).Inc()
	m.frameBytes.WithLabelValues(page).Add(float64(bytes))
}

// Acted implements ui.Metrics.
func (m *Metrics) Acted(page string, took time.Duration, err error) {
	m.acting.WithLabelValues(page).Observe(took.Seconds())
	if err != nil {
		m.actionErrors.WithLabelValues(page).Inc()
	}
}

func (m *Metrics) collectors() []prom.Collector {
	return []prom.Collector{
		m.published, m.publishedBytes, m.publishErrors, m.handlerErrors, m.dropped, m.subscriptions, m.publishing, m.age, m.handling,
		m.tabs, m.frames, m.frameBytes, m.renderErrors, m.actionErrors, m.rendering, m.acting,
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prom.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prom.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}
