package compare

import (
	"context"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// The names of what is measured with layers around.
const (
	layered      = "whole call with layers around"
	withRetry    = "Invoke, Retry"
	standard     = "Invoke, Standard: total time, retry, attempt's time, 3 gates and scheduler"
	failRetry    = "failsafe-go, retry alone"
	failStandard = byFail + ", total time, retry and attempt's time"
)

// layerRows is the whole call with what stands around admission, beside itself without that.
func layerRows() []Row {
	with := func(layers ...sluice.Interceptor) func(int) (Body, func(), error) {
		return oursCall(tool, oursConfig{limit: wide, more: layers})
	}
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
	total := sluice.Must(resilience.NewTimeout(resilience.TimeoutConfig{Total: longTimeout}))
	join := sluice.Must(resilience.NewJoin(resilience.JoinConfig{Tools: func(sluice.Spec) bool { return true }}))
	cache := sluice.Must(resilience.NewCache(resilience.CacheConfig{Tools: func(sluice.Spec) bool { return true }}))
	return []Row{{
		Section: "Layers",
		Name:    layered,
		Note:    "The whole call, without a sink, of a tool that succeeds. What a layer adds is the difference to the call without one. The tool does not look at its context: where a time is set, Invoke answers when that is over whatever the tool does, unless it is declared cooperative; failsafe-go waits for it. The cache answers.",
		Loads:   []Load{alone},
		Contestants: []Contestant{
			{byInvokeNil, Ours, with()},
			{withRetry, Ours, with(retry)},
			{"Invoke, Join", Ours, with(join)},
			{"Invoke, Cache", Ours, with(cache)},
			{"Invoke, Timeout", Ours, with(total)},
			{standard, Ours, oursStandard(sluice.Policy{})},
			{standard + ", cooperative", Ours, oursStandard(sluice.Policy{Cooperative: true})},
			{failRetry, Peer, failRetryAlone(tool)},
			{byFail, Peer, failCall(tool, failConfig{limit: wide})},
			{byFail + " and retry", Peer, failCall(tool, failConfig{limit: wide, retry: true})},
			{failStandard, Peer, failCall(tool, failConfig{limit: wide, retry: true, timeout: time.Minute, total: 3 * time.Minute})},
		},
	}}
}

// oursStandard is exec.Invoke with the standard layers.
func oursStandard(p sluice.Policy) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		gates, _, err := newGates(oursConfig{limit: wide})
		if err != nil {
			return nil, nil, err
		}
		conf, err := resilience.Standard(resilience.StandardConfig{Gates: gates[1:]}) // which has a breaker of its own
		if err != nil {
			return nil, nil, err
		}
		reg := sluice.NewToolRegistry()
		if _, err := sluice.Register(reg, sluice.Spec{Name: toolName, Policy: p}, tool); err != nil {
			return nil, nil, err
		}
		exec, err := sluice.NewExecutor(reg, conf)
		if err != nil {
			return nil, nil, err
		}
		return func(_, n int) error { return invokes(context.Background(), exec, request, n) }, func() { exec.Close(context.Background()) }, nil
	}
}
