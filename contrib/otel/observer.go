package sluiceotel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
)

// scope is the name of the tracer and the meter.
const scope = "github.com/sluice-go/sluice/contrib/otel"

// Config says how calls are shown. The zero value gives each call a span execute_tool NAME and a duration, by the
// GenAI conventions, with the global providers.
type Config struct {
	TracerProvider trace.TracerProvider // nil means otel.GetTracerProvider()
	MeterProvider  metric.MeterProvider // nil means otel.GetMeterProvider()

	// Annotate is for frameworks that open the tool's span themselves: what there is to say of a call goes on the
	// span that its context has. A nested call, and one without a span, has its own.
	Annotate bool

	// MCP is trace.SpanKindServer or trace.SpanKindClient where calls are requests tools/call of the Model Context
	// Protocol: spans and durations are those of its conventions. Zero means GenAI's.
	MCP trace.SpanKind

	Agent string // gen_ai.agent.name of spans and durations; empty means none

	// Attributes are more of a call's span, say jsonrpc.request.id. It runs on the goroutine of the call, before
	// that is admitted, and must be quick; a panic adds none. c has no Input. nil adds none.
	Attributes func(ctx context.Context, c sluice.Call) []attribute.KeyValue
	_          struct{}
}

// Observer shows the calls of executors as OpenTelemetry spans and metrics. List it in Config.Interceptors, so that
// what a tool does is inside the span of its call, and as a sink, which does the rest. Make one with [New], for any
// number of executors; it is safe for concurrent use. Nothing of it waits.
type Observer struct {
	conf   Config
	tracer trace.Tracer
	meter  metric.Meter
	counts instruments
	gauges gauges
	calls  calls
	tools  tools
	codes  names // error.type
	limits names // sluice.limiter

	mu      sync.Mutex
	watched map[string]bool // names given to Watch
}

var (
	_ sluice.Interceptor = (*Observer)(nil)
	_ sluice.EventSink   = (*Observer)(nil)
)

// New returns an observer, or an error that names the wrong field of c, or what the MeterProvider has against an
// instrument. It starts nothing.
func New(c Config) (*Observer, error) {
	switch c.MCP {
	case trace.SpanKindUnspecified, trace.SpanKindServer, trace.SpanKindClient:
	default:
		return nil, fmt.Errorf("sluiceotel: Config.MCP is %v: must be zero, trace.SpanKindServer or trace.SpanKindClient", c.MCP)
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	o := &Observer{
		conf:    c,
		tracer:  c.TracerProvider.Tracer(scope),
		meter:   c.MeterProvider.Meter(scope),
		codes:   names{max: maxCodes},
		limits:  names{max: maxLimiters},
		watched: make(map[string]bool),
	}
	o.tools.init(o)
	if err := errors.Join(o.counts.make(o.meter, c.MCP), o.gauges.make(o.meter)); err != nil {
		return nil, fmt.Errorf("sluiceotel: an instrument cannot be made: %w", err)
	}
	return o, nil
}

// String is what Executor.Plan calls it.
func (o *Observer) String() string { return "otel" }

// Wrap puts the span of each call into the context that goes further in, and says on it who has answered instead of
// the tool.
func (o *Observer) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	o.tools.describe(tool)
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		x := o.calls.find(c.Key)
		if x == nil {
			return next(ctx, c)
		}
		if x.own && x.span.SpanContext().IsValid() {
			ctx = trace.ContextWithSpan(ctx, x.span)
		}
		res, err := next(ctx, c)
		if by := res.AnsweredBy(); by != "" {
			x.span.SetAttributes(answeredByKey.String(by))
		}
		return res, err
	}
}

// Enabled is false for what is neither on spans nor counted.
func (o *Observer) Enabled(k sluice.EventKind) bool {
	return k != sluice.LimitChanged && k != sluice.RateLimitDebt
}

// Emit writes e on the span of its call, and counts it. It answers nil.
func (o *Observer) Emit(ctx context.Context, e *sluice.Event) error {
	switch e.Kind {
	case sluice.ToolInvoked:
		o.invoked(ctx, e)
	case sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied:
		o.ended(ctx, e)
	case sluice.BreakerStateChanged, sluice.RateLimitPaused, sluice.LimitStalled:
		o.changed(ctx, e)
	default:
		o.during(ctx, e)
	}
	return nil
}

// invoked opens the span of a call that begins.
func (o *Observer) invoked(ctx context.Context, e *sluice.Event) {
	if e.CallKey == 0 || o.calls.full(e.CallKey) { // it is made by hand, or one too many: its span is opened at its end
		return
	}
	x := o.open(ctx, e, e.Time)
	o.calls.put(e.CallKey, x)
	o.describe(ctx, e, x)
}

// during tells of what happens to a call under way.
func (o *Observer) during(ctx context.Context, e *sluice.Event) {
	x := o.calls.find(e.CallKey)
	if x == nil { // it is over, or its beginning was lost
		return
	}
	switch e.Kind {
	case sluice.ToolQueued, sluice.ToolStarted:
		if e.Kind == sluice.ToolStarted {
			x.started = true
		} else {
			x.queuedBy = o.limits.of(e.By)
		}
		if x.tool == o.tools.other {
			o.rename(x, o.tools.learn(e.Call.Tool)) // nothing waits or runs that is not registered
		}
	case sluice.ToolRetrying:
		labels := add([]attribute.KeyValue{toolNameKey.String(x.tool.name)}, errorTypeKey, o.codeOf(e.Err))
		o.counts.retries.Add(ctx, 1, metric.WithAttributes(labels...))
	case sluice.ToolAbandoned:
		o.counts.abandoned.Add(ctx, 1, metric.WithAttributes(toolNameKey.String(x.tool.name)))
	}
	if x.span.IsRecording() {
		o.mark(x, e)
	}
}

// ended tells of the end of a call.
func (o *Observer) ended(ctx context.Context, e *sluice.Event) {
	x := o.calls.take(e.CallKey)
	late := x == nil
	if late {
		x = o.open(ctx, e, e.Time.Add(-e.Elapsed))
	}
	if x.own {
		defer x.span.End(trace.WithTimestamp(e.Time))
	}
	if late {
		o.describe(ctx, e, x)
	}
	code := o.codeOf(e.Err)
	if code == unknownTool { // it may have been registered once
		o.rename(x, o.tools.other)
	}
	if x.span.IsRecording() {
		x.finish(e, code)
	}
	o.count(ctx, x, e, code)
}

// count counts a call that has ended.
func (o *Observer) count(ctx context.Context, x *call, e *sluice.Event, code string) {
	if x.own && x.span.SpanContext().IsSampled() {
		ctx = trace.ContextWithSpan(ctx, x.span) // for exemplars
	}
	o.counts.duration.Record(ctx, e.Elapsed.Seconds(), x.tool.outcome(code)...)
	name := toolNameKey.String(x.tool.name)
	if x.queuedBy != "" {
		o.counts.wait.Record(ctx, e.Queued.Seconds(), metric.WithAttributes(
			name, limiterKey.String(x.queuedBy), priorityKey.Int(int(e.Call.Priority))))
	}
	if rejected(e.Err) {
		labels := []attribute.KeyValue{name, errorTypeKey.String(code)}
		if e.By != "" {
			labels = append(labels, limiterKey.String(o.limits.of(e.By)))
		}
		o.counts.rejections.Add(ctx, 1, metric.WithAttributes(labels...))
	}
}

// changed counts what happens outside calls.
func (o *Observer) changed(ctx context.Context, e *sluice.Event) {
	by := o.limits.of(e.By)
	switch e.Kind {
	case sluice.BreakerStateChanged:
		o.counts.transitions.Add(ctx, 1, metric.WithAttributes(
			limiterKey.String(by), breakerFromKey.String(e.From.String()), breakerToKey.String(e.To.String())))
	case sluice.RateLimitPaused:
		o.counts.pauses.Add(ctx, 1, metric.WithAttributes(limiterKey.String(by)))
	case sluice.LimitStalled:
		o.counts.stalls.Add(ctx, 1, metric.WithAttributes(limiterKey.String(by)))
	}
}

// codeOf is the error.type of err; empty for nil.
func (o *Observer) codeOf(err error) string {
	if err == nil {
		return ""
	}
	return o.codes.of(sluice.CodeOf(err))
}

// call is a call under way. Its span does not change, so that [Observer.Wrap] may read it at any time; its events,
// which come one after the other, change the rest.
type call struct {
	span trace.Span
	own  bool // opened here, and to be ended here

	tool     *tool
	attrs    []attribute.KeyValue // of its span, to be written at the end
	started  bool                 // its code has run, if maybe not in the attempt that counts
	queuedBy string               // what it has waited for last; empty if it has not
}

// Bounds.
const (
	maxCalls    = 1 << 20 // under way
	maxTools    = 10_000  // of which a name is a label
	maxCodes    = 100
	maxLimiters = 1000
	shards      = 64
)

// calls are those under way, by their keys.
type calls struct {
	shards [shards]struct {
		mu sync.Mutex
		of map[sluice.CallKey]*call
		_  [48]byte // so that two are not on one line of the processor's cache
	}
}

func shardOf(k sluice.CallKey) int { return int(uint64(k) * 0x9e3779b97f4a7c15 >> 58) }

// full reports whether there are too many to add another of that key: a sink that drops events has lost their ends.
func (l *calls) full(k sluice.CallKey) bool {
	s := &l.shards[shardOf(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.of) >= maxCalls/shards
}

// put adds a call.
func (l *calls) put(k sluice.CallKey, x *call) {
	s := &l.shards[shardOf(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = make(map[sluice.CallKey]*call)
	}
	s.of[k] = x
}

// find is the call of that key; nil if there is none.
func (l *calls) find(k sluice.CallKey) *call {
	s := &l.shards[shardOf(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[k]
}

// take is find for the last time.
func (l *calls) take(k sluice.CallKey) *call {
	s := &l.shards[shardOf(k)]
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.of[k]
	delete(s.of, k)
	return x
}
