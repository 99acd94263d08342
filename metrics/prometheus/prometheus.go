// Package prometheus gives the metrics of a bus to Prometheus:
//
//	metrics := prometheus.New()
//	prom.MustRegister(metrics)
//	b, err := bus.Open(ctx, "nats:./data/chat", bus.WithMetrics(metrics))
//
// Series are told apart by stream ("" for what no stream holds) and never by subject or
// pattern, whose number a program's users may decide.
package prometheus

import (
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/jitney-go/jitney/bus"
)

// Metrics is a bus.Metrics and a prometheus.Collector.
type Metrics struct {
	published, publishedBytes, publishErrors, handlerErrors *prom.CounterVec
	dropped                                                 prom.Counter
	subscriptions                                           prom.Gauge
	publishing, age, handling                               *prom.HistogramVec
}

var _ bus.Metrics = (*Metrics)(nil)

// New returns metrics that aren't registered anywhere yet. Their names begin with jitney_; times
// are in seconds.
func New() *Metrics {
	stream := []string{"stream"}
	counter := func(name, help string) *prom.CounterVec {
		return prom.NewCounterVec(prom.CounterOpts{Namespace: "jitney", Name: name, Help: help}, stream)
	}
	histogram := func(name, help string) *prom.HistogramVec {
		// From 10 microseconds, below which nothing is published, by threes.
		return prom.NewHistogramVec(prom.HistogramOpts{Namespace: "jitney", Name: name, Help: help, Buckets: prom.ExponentialBuckets(10e-6, 3, 14)}, stream)
	}
	return &Metrics{
		published:      counter("published_total", "Messages that were accepted."),
		publishedBytes: counter("published_bytes_total", "Bytes of data that were accepted."),
		publishErrors:  counter("publish_errors_total", "Publishes that returned an error."),
		handlerErrors:  counter("handler_errors_total", "Calls of handlers that returned an error or panicked."),
		dropped: prom.NewCounter(prom.CounterOpts{
			Namespace: "jitney", Name: "dropped_total", Help: "Messages that were dropped because a handler was too slow.",
		}),
		subscriptions: prom.NewGauge(prom.GaugeOpts{Namespace: "jitney", Name: "subscriptions", Help: "Subscriptions that stand."}),
		publishing:    histogram("publish_seconds", "Time that a publish took."),
		age:           histogram("message_age_seconds", "Age of a live message when its handler was called."),
		handling:      histogram("handle_seconds", "Time that a handler took."),
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

func (m *Metrics) collectors() []prom.Collector {
	return []prom.Collector{
		m.published, m.publishedBytes, m.publishErrors, m.handlerErrors, m.dropped, m.subscriptions, m.publishing, m.age, m.handling,
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
