package compare

import (
	"context"
	"errors"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"
)

const (
	wide        = 4096 // slots that never bind
	longTimeout = time.Minute
)

// callBody is n calls that must give the answer.
func callBody(call func(context.Context) (int, error)) Body {
	ctx := context.Background()
	return func(_, n int) error {
		for range n {
			v, err := call(ctx)
			if err != nil {
				return err
			}
			if v != answer {
				return errWrong
			}
		}
		return nil
	}
}

// refusedBody is n calls that must be refused for the reason.
func refusedBody(call func(context.Context) (int, error), reason error) Body {
	ctx := context.Background()
	return func(_, n int) error {
		for range n {
			if _, err := call(ctx); !errors.Is(err, reason) {
				return errWrong
			}
		}
		return nil
	}
}

func handmadeCall(f toolFunc, limit int, timeout time.Duration) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		h := newHandmade(f, limit)
		h.timeout = timeout
		return callBody(h.call), nil, nil
	}
}

func failCall(f toolFunc, c failConfig) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) { return callBody(newFail(f, c).call), nil, nil }
}

func fusedCall(f toolFunc, limit int, sink floorSink, timeout time.Duration) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		x := newFused(f, limit, sink)
		x.timeout = timeout
		return floorBody(x.invoke), nil, nil
	}
}

type floorInvoke = func(ctx context.Context, id, name string, in any) (any, error)

// floorBody boxes the input once, as ours has its request built once.
func floorBody(invoke floorInvoke) Body {
	var in any = input
	return callBody(func(ctx context.Context) (int, error) {
		out, err := invoke(ctx, "call_1", toolName, in)
		v, _ := out.(int)
		return v, err
	})
}

func callRows() []Row {
	return []Row{
		{
			Section: "The whole call",
			Name:    "whole call",
			Note:    "A tool that returns at once, through a registry, a breaker, a concurrency limit, a rate, a priority queue, panic capture and three events to a sink that drops them. No limit binds.",
			Loads:   []Load{alone, {1, 2}, hundred, thousand},
			Contestants: []Contestant{
				{"Invoke", Ours, oursCall(tool, oursConfig{limit: wide, sink: discard{}})},
				{"Invoke, nil sink", Ours, oursCall(tool, oursConfig{limit: wide})},
				{"Tool.Invoke (typed)", Ours, oursTyped(tool, oursConfig{limit: wide, sink: discard{}})},
				{"fused: all in one function", Floor, fusedCall(tool, wide, dropSink{}, 0)},
				{"chain: six compiled closures", Floor, func(int) (Body, func(), error) {
					return floorBody(newChain(tool, wide, dropSink{}).invoke), nil, nil
				}},
				{"fused, no registry, no events", Floor, func(int) (Body, func(), error) {
					x := newFused(tool, wide, nil)
					t := (*x.tools.Load())[toolName]
					return floorBody(func(ctx context.Context, id, _ string, in any) (any, error) {
						now := clock()
						if err := x.admit(ctx, now); err != nil {
							return nil, err
						}
						return x.call(ctx, t, id, in, now)
					}), nil, nil
				}},
				{"the tool alone", Floor, func(int) (Body, func(), error) {
					return callBody(func(ctx context.Context) (int, error) { return tool(ctx, input) }), nil, nil
				}},
				{"gobreaker + x/time + x/sync", Peer, handmadeCall(tool, wide, 0)},
				{"failsafe-go, 3 policies", Peer, failCall(tool, failConfig{limit: wide})},
				{"failsafe-go, 3 policies, 3 listeners", Peer, failCall(tool, failConfig{limit: wide, listeners: true})},
				{"sentinel-golang, 3 rules", Peer, func(int) (Body, func(), error) {
					call, err := newSentinel(tool, wide)
					if err != nil {
						return nil, nil, err
					}
					return callBody(call), nil, nil
				}},
				{"hystrix-go", Peer, func(int) (Body, func(), error) {
					return callBody(newHystrix(tool, "call", wide)), nil, nil
				}},
			},
		},
		{
			Section: "The whole call",
			Name:    "whole call with an attempt timeout",
			Note:    "The same with a timeout of a minute on the attempt. The tool does not look at its context.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{"Invoke", Ours, oursCall(tool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout})},
				{"Tool.Invoke (typed)", Ours, oursTyped(tool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout})},
				{"fused, lazy deadline", Floor, fusedCall(tool, wide, dropSink{}, longTimeout)},
				{"gobreaker + x/time + x/sync + WithTimeout", Peer, handmadeCall(tool, wide, longTimeout)},
				{"failsafe-go, 3 policies and timeout", Peer, failCall(tool, failConfig{limit: wide, timeout: longTimeout})},
			},
		},
		{
			Section: "The whole call",
			Name:    "whole call with an attempt timeout that the tool watches",
			Note:    "The same with a tool that asks its context for Done, so that a lazy deadline has to start its timer.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{"Invoke", Ours, oursCall(watchingTool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout})},
				{"fused, lazy deadline", Floor, fusedCall(watchingTool, wide, dropSink{}, longTimeout)},
				{"gobreaker + x/time + x/sync + WithTimeout", Peer, handmadeCall(watchingTool, wide, longTimeout)},
				{"failsafe-go, 3 policies and timeout", Peer, failCall(watchingTool, failConfig{limit: wide, timeout: longTimeout})},
			},
		},
		{
			Section: "The whole call",
			Name:    "whole call refused",
			Note:    "The breaker is open. Sluice says which constraint refused and when to retry, and sends two events.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{"Invoke", Ours, oursRefused(oursConfig{limit: wide, sink: discard{}})},
				{"Invoke, nil sink", Ours, oursRefused(oursConfig{limit: wide})},
				{"fused", Floor, func(int) (Body, func(), error) {
					x := newFused(tool, wide, dropSink{})
					x.open = clock() + int64(time.Hour)
					var in any = input
					return refusedBody(func(ctx context.Context) (int, error) {
						_, err := x.invoke(ctx, "call_1", toolName, in)
						return 0, err
					}, errFloorOpen), nil, nil
				}},
				{"gobreaker + x/time + x/sync", Peer, func(int) (Body, func(), error) {
					h := newHandmade(tool, wide)
					h.open()
					return refusedBody(h.call, gobreaker.ErrOpenState), nil, nil
				}},
				{"failsafe-go, 3 policies", Peer, func(int) (Body, func(), error) {
					x := newFail(tool, failConfig{limit: wide})
					x.breaker.Open()
					return refusedBody(x.call, circuitbreaker.ErrOpen), nil, nil
				}},
			},
		},
	}
}
