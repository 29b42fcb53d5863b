package compare

import (
	"context"
	"errors"
	"time"
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
			Name:    wholeCall,
			Note:    "A tool that returns at once, through a registry, a breaker, a concurrency limit, a rate, a priority queue, panic capture and three events to a sink that drops them. No limit binds. Hand-made, sentinel-golang and failsafe-go without listeners send no events: beside them stands Invoke with a nil sink, too.",
			Loads:   []Load{alone, {1, 2}, hundred, thousand},
			Contestants: []Contestant{
				{byInvoke, Ours, oursCall(tool, oursConfig{limit: wide, sink: discard{}})},
				{byInvokeNil, Ours, oursCall(tool, oursConfig{limit: wide})},
				{byTyped, Ours, oursTyped(tool, oursConfig{limit: wide, sink: discard{}})},
				{fusedOne, Floor, fusedCall(tool, wide, dropSink{}, 0)},
				{chained, Floor, func(int) (Body, func(), error) {
					return floorBody(newChain(tool, wide, dropSink{}).invoke), nil, nil
				}},
				{byHand, Peer, handmadeCall(tool, wide, 0)},
				{byFail, Peer, failCall(tool, failConfig{limit: wide})},
				{byFail + ", 3 listeners", Peer, failCall(tool, failConfig{limit: wide, listeners: true})},
				{"sentinel-golang, 3 rules", Peer, func(int) (Body, func(), error) {
					call, err := newSentinel(tool, wide)
					if err != nil {
						return nil, nil, err
					}
					return callBody(call), nil, nil
				}},
			},
		},
		{
			Section: "The whole call",
			Name:    withTimeout,
			Note:    "The same with a timeout of a minute on the attempt. The tool does not look at its context. Invoke and hystrix-go answer when the time is up, whatever the tool does; the others, and Invoke of a tool that is declared cooperative, wait for the tool.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{byInvoke, Ours, oursCall(tool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout})},
				{"Invoke, cooperative tool", Ours, oursCall(tool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout, cooperative: true})},
				{byTyped, Ours, oursTyped(tool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout})},
				{"fused, lazy deadline", Floor, fusedCall(tool, wide, dropSink{}, longTimeout)},
				{byHand + " + WithTimeout", Peer, handmadeCall(tool, wide, longTimeout)},
				{byFail + " and timeout", Peer, failCall(tool, failConfig{limit: wide, timeout: longTimeout})},
				{"hystrix-go (no rate)", Peer, func(int) (Body, func(), error) {
					return callBody(newHystrix(tool, "call", wide)), nil, nil
				}},
			},
		},
		{
			Section: "The whole call",
			Name:    withTimeout + " that the tool watches",
			Note:    "The same with a tool that asks its context for Done, so that a lazy deadline has to start its timer.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{byInvoke, Ours, oursCall(watchingTool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout})},
				{"Invoke, cooperative tool", Ours, oursCall(watchingTool, oursConfig{limit: wide, sink: discard{}, timeout: longTimeout, cooperative: true})},
				{"fused, lazy deadline", Floor, fusedCall(watchingTool, wide, dropSink{}, longTimeout)},
				{byHand + " + WithTimeout", Peer, handmadeCall(watchingTool, wide, longTimeout)},
				{byFail + " and timeout", Peer, failCall(watchingTool, failConfig{limit: wide, timeout: longTimeout})},
			},
		},
	}
}
