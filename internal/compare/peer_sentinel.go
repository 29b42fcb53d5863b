package compare

import (
	"context"

	sentinel "github.com/alibaba/sentinel-golang/api"
	"github.com/alibaba/sentinel-golang/core/circuitbreaker"
	"github.com/alibaba/sentinel-golang/core/flow"
	"github.com/alibaba/sentinel-golang/core/isolation"
	"github.com/alibaba/sentinel-golang/logging"
)

// newSentinel is sentinel-golang with a flow, an isolation and a breaker rule for the tool.
// Its rules are global to the process. It refuses instead of queueing, has no context, no
// events, and lets panics through. Its metric log and system collectors do not run.
func newSentinel(f toolFunc, limit int) (func(context.Context) (int, error), error) {
	logging.ResetGlobalLoggerLevel(logging.ErrorLevel)
	if _, err := flow.LoadRules([]*flow.Rule{{
		Resource: toolName, TokenCalculateStrategy: flow.Direct, ControlBehavior: flow.Reject,
		Threshold: 1e9, StatIntervalInMs: 1000,
	}}); err != nil {
		return nil, err
	}
	if _, err := isolation.LoadRules([]*isolation.Rule{{
		Resource: toolName, MetricType: isolation.Concurrency, Threshold: uint32(limit),
	}}); err != nil {
		return nil, err
	}
	if _, err := circuitbreaker.LoadRules([]*circuitbreaker.Rule{{
		Resource: toolName, Strategy: circuitbreaker.ErrorCount, RetryTimeoutMs: 30_000,
		MinRequestAmount: 5, StatIntervalMs: 10_000, Threshold: 5,
	}}); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (int, error) {
		entry, blocked := sentinel.Entry(toolName)
		if blocked != nil {
			return 0, blocked
		}
		defer entry.Exit()
		out, err := f(ctx, input)
		if err != nil {
			sentinel.TraceError(entry, err)
		}
		return out, err
	}, nil
}
