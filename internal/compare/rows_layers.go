package compare

import (
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// layerRows is the whole call with what stands around admission, beside itself without that.
func layerRows() []Row {
	with := func(layers ...sluice.Interceptor) func(int) (Body, func(), error) {
		return oursCall(tool, oursConfig{limit: wide, more: layers})
	}
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
	total := sluice.Must(resilience.NewTimeout(resilience.TimeoutConfig{Total: longTimeout}))
	join := sluice.Must(resilience.NewJoin(resilience.JoinConfig{Tools: func(sluice.Spec) bool { return true }}))
	return []Row{{
		Section: "Layers",
		Name:    "whole call with layers around",
		Note:    "The whole call, without a sink, of a tool that succeeds. What a layer adds is the difference to the call without one. The tool of the timeout does not look at its context.",
		Loads:   []Load{alone},
		Contestants: []Contestant{
			{byInvokeNil, Ours, with()},
			{"Invoke, Retry", Ours, with(retry)},
			{"Invoke, Join", Ours, with(join)},
			{"Invoke, Timeout", Ours, with(total)},
			{"Invoke, Timeout and Retry", Ours, with(total, retry)},
			{byFail, Peer, failCall(tool, failConfig{limit: wide})},
			{byFail + " and retry", Peer, failCall(tool, failConfig{limit: wide, retry: true})},
			{byFail + ", timeout and retry", Peer, failCall(tool, failConfig{limit: wide, retry: true, timeout: time.Minute})},
		},
	}}
}
