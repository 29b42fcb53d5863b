package sluiceotel

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
)

// Buckets of durations: those of the conventions, and of waits.
var (
	genAIBuckets = []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
	mcpBuckets   = []float64{.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300}
	waitBuckets  = []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300}
)

// instruments count what events tell.
type instruments struct {
	duration, wait                                              metric.Float64Histogram
	rejections, retries, transitions, pauses, stalls, abandoned metric.Int64Counter
}

func (i *instruments) make(m metric.Meter, mcp trace.SpanKind) error {
	var errs []error
	histogram := func(name, what string, buckets []float64) metric.Float64Histogram {
		h, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what),
			metric.WithExplicitBucketBoundaries(buckets...))
		errs = append(errs, err)
		return h
	}
	counter := func(name, unit, what string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
		return c
	}
	switch mcp {
	case trace.SpanKindServer:
		i.duration = histogram("mcp.server.operation.duration", "How long requests took, as the server saw them.", mcpBuckets)
	case trace.SpanKindClient:
		i.duration = histogram("mcp.client.operation.duration", "How long requests took, as the client saw them.", mcpBuckets)
	default:
		i.duration = histogram("gen_ai.execute_tool.duration", "How long calls of tools took, waits and retries included.", genAIBuckets)
	}
	i.wait = histogram("sluice.queue.wait", "How long calls that had to wait waited for admission.", waitBuckets)
	i.rejections = counter("sluice.rejections", "{call}", "Calls that ended without the tool's code having run.")
	i.retries = counter("sluice.retries", "{attempt}", "Attempts that others followed.")
	i.abandoned = counter("sluice.abandoned", "{attempt}", "Attempts that went on when nobody waited for them any more.")
	i.transitions = counter("sluice.breaker.transitions", "{transition}", "Changes of a circuit breaker's state.")
	i.pauses = counter("sluice.rate_limit.pauses", "{pause}", "Pauses of a rate limit, which an upstream or an operator asked for.")
	i.stalls = counter("sluice.limit.stalls", "{stall}", "Limits found to have released nothing for a minute while calls waited.")
	return errors.Join(errs...)
}

// rejected reports whether the code of a call that ended with err has not run. An error whose own code panics does
// not say so.
func rejected(err error) (yes bool) {
	defer func() { _ = recover() }()
	return err != nil && errors.Is(err, sluice.ErrRejected)
}
