// Package otel gives the metrics of a bus, and of pages, to OpenTelemetry, and carries the traces of a bus:
//
//	metrics, err := otel.New(provider.Meter("jitney"))
//	b, err := bus.Open(ctx, "nats:./data/chat", bus.WithMetrics(metrics), bus.WithPropagator(otel.Propagator(propagation.TraceContext{})))
//	v.Config(ui.Options{Bus: b, Metrics: metrics})
//
// Measurements of a bus are told apart by the attribute jitney.stream ("" for what no stream holds), those of pages by
// jitney.page, the path that App.Page was given; never by subject, pattern or address, whose number
// a program's users may decide.
package otel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"

	"github.com/jitney-go/jitney/bus"
)

// Metrics is a bus.Metrics and a ui.Metrics.
type Metrics struct {
	published, publishedBytes, publishErrors, handlerErrors, dropped metric.Int64Counter
	subscriptions                                                    metric.Int64UpDownCounter
	publishing, age, handling                                        metric.Float64Histogram

	tabs                                           metric.Int64UpDownCounter
	frames, frameBytes, renderErrors, actionErrors metric.Int64Counter
	rendering, acting                              metric.Float64Histogram
}

var _ bus.Metrics = (*Metrics)(nil)

// New returns what records with a meter. The names of the instruments begin with jitney.;
// times are in seconds.
func New(meter metric.Meter) (*Metrics, error) {
	var m Metrics
	var errs [16]error
	m.published, errs[0] = meter.Int64Counter("jitney.published", metric.WithDescription("Messages that were accepted."))
	m.publishedBytes, errs[1] = meter.Int64Counter("jitney.published.bytes", metric.WithUnit("By"), metric.WithDescription("Bytes of data that were accepted."))
	m.publishErrors, errs[2] = meter.Int64Counter("jitney.publish.errors", metric.WithDescription("Publishes that returned an error."))
	m.handlerErrors, errs[3] = meter.Int64Counter("jitney.handler.errors", metric.WithDescription("Calls of handlers that returned an error or panicked."))
	m.dropped, errs[4] = meter.Int64Counter("jitney.dropped", metric.WithDescription("Messages that were dropped because a handler was too slow."))
	m.subscriptions, errs[5] = meter.Int64UpDownCounter("jitney.subscriptions", metric.WithDescription("Subscriptions that stand."))
	m.publishing, errs[6] = meter.Float64Histogram("jitney.publish.duration", metric.WithUnit("s"), metric.WithDescription("Time that a publish took."))
	m.age, errs[7] = meter.Float64Histogram("jitney.message.age", metric.WithUnit("s"), metric.WithDescription("Age of a live message when its handler was called."))
	m.handling, errs[8] = meter.Float64Histogram("jitney.handle.duration", metric.WithUnit("s"), metric.WithDescription("Time that a handler took."))
	m.tabs, errs[9] = meter.Int64UpDownCounter("jitney.tabs", metric.WithDescription("Tabs that live."))
	m.frames, errs[10] = meter.Int64Counter("jitney.frames", metric.WithDescription("Frames that were handed to streams of browsers."))
	m.frameBytes, errs[11] = meter.Int64Counter("jitney.frames.bytes", metric.WithUnit("By"), metric.WithDescription("Bytes of those frames."))
	m.renderErrors, errs[12] = meter.Int64Counter("jitney.render.errors", metric.WithDescription("Views that failed or panicked."))
	m.actionErrors, errs[13] = meter.Int64Counter("jitney.action.errors", metric.WithDescription("Actions that returned an error or panicked."))
	m.rendering, errs[14] = meter.Float64Histogram("jitney.render.duration", metric.WithUnit("s"), metric.WithDescription("Time that a view took."))
	m.acting, errs[15] = meter.Float64Histogram("jitney.action.duration", metric.WithUnit("s"), metric.WithDescription("Time that an action took."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("otel: %w", err)
	}
	return &m, nil
}

func of(stream string) metric.MeasurementOption { return by("jitney.stream", stream) }
func on(page string) metric.MeasurementOption   { return by("jitney.page", page) }

func by(key, value string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))
}

// Published implements bus.Metrics.
func (m *Metrics) Published(stream string, bytes int, took time.Duration, err error) {
	ctx, with := context.Background(), of(stream)
	m.publishing.Record(ctx, took.Seconds(), with)
	if err != nil {
		m.publishErrors.Add(ctx, 1, with)
		return
	}
	m.published.Add(ctx, 1, with)
	m.publishedBytes.Add(ctx, int64(bytes), with)
}

// Handled implements bus.Metrics.
func (m *Metrics) Handled(stream, _ string, age, took time.Duration, err error) {
	ctx, with := context.Background(), of(stream)
	m.handling.Record(ctx, took.Seconds(), with)
	if age > 0 {
		m.age.Record(ctx, age.Seconds(), with)
	}
	if err != nil {
		m.handlerErrors.Add(ctx, 1, with)
	}
}

// Dropped implements bus.Metrics.
func (m *Metrics) Dropped(_ string, messages uint64) {
	m.dropped.Add(context.Background(), int64(messages))
}

// Subscriptions implements bus.Metrics.
func (m *Metrics) Subscriptions(change int) { m.subscriptions.Add(context.Background(), int64(change)) }

// Tabs implements ui.Metrics.
func (m *Metrics) Tabs(page string, change int) {
	m.tabs.Add(context.Background(), int64(change), on(page))
}

// Rendered implements ui.Metrics.
func (m *Metrics) Rendered(page string, took time.Duration, err error) {
	ctx, with := context.Background(), on(page)
	m.rendering.Record(ctx, took.Seconds(), with)
	if err != nil {
		m.renderErrors.Add(ctx, 1, with)
	}
}

// Sent implements ui.Metrics.
func (m *Metrics) Sent(page string, bytes int) {
	ctx, with := context.Background(), on(page)
	m.frames.Add(ctx, 1, with)
	m.frameBytes.Add(ctx, int64(bytes), with)
}

// Acted implements ui.Metrics.
func (m *Metrics) Acted(page string, took time.Duration, err error) {
	ctx, with := context.Background(), on(page)
	m.acting.Record(ctx, took.Seconds(), with)
	if err != nil {
		m.actionErrors.Add(ctx, 1, with)
	}
}

// Propagator returns what carries traces, as p writes them, from publishers to handlers.
func Propagator(p propagation.TextMapPropagator) bus.Propagator { return propagator{p} }

type propagator struct{ p propagation.TextMapPropagator }

// Inject implements bus.Propagator.
func (p propagator) Inject(ctx context.Context, h bus.Header) { p.p.Inject(ctx, carrier(h)) }

// Extract implements bus.Propagator.
func (p propagator) Extract(ctx context.Context, h bus.Header) context.Context {
	return p.p.Extract(ctx, carrier(h))
}

// carrier is a header whose keys keep their case: propagators write and read them in lower case.
type carrier bus.Header

func (c carrier) Get(key string) string { return bus.Header(c).Value(key) }
func (c carrier) Set(key, value string) { c[key] = []string{value} }
func (c carrier) Keys() []string        { return slices.Collect(maps.Keys(c)) }
