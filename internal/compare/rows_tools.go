package compare

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

const (
	arithmetic = "arithmetic of about the same length"
	manyTools  = 64
)

func toolRows() []Row {
	ours := oursConfig{limit: 8, sink: discard{}}
	return []Row{
		{
			Section: "The whole call",
			Name:    independent,
			Note:    "64 tools, each with a limit of 8 of its own and a caller of its own; no sink. Arithmetic shares nothing: it shows what the second core of this machine gives, which on a virtual machine may be little.",
			Loads:   []Load{{manyTools, 1}, {manyTools, 2}},
			Contestants: []Contestant{
				{byInvoke, Ours, oursIndependent},
				{arithmetic, Floor, func(int) (Body, func(), error) {
					turns := spinsPerMicrosecond() / 2
					return func(_, n int) error {
						for range n {
							if spin(turns) == 0 {
								return errWrong
							}
						}
						return nil
					}, nil, nil
				}},
			},
		},
		{
			Section: "The whole call",
			Name:    binding,
			Note:    "Eight slots, and a tool that computes for a microsecond.",
			Loads:   []Load{{64, 2}, {512, 2}},
			Contestants: []Contestant{
				{byInvoke, Ours, oursCall(spinningTool, ours)},
				{byInvokeNil, Ours, oursCall(spinningTool, oursConfig{limit: 8})},
				{"fused, first in first out", Floor, fusedCall(spinningTool, 8, dropSink{}, 0)},
				{byHand, Peer, handmadeCall(spinningTool, 8, 0)},
				{byFail, Peer, failCall(spinningTool, failConfig{limit: 8})},
			},
		},
	}
}

// oursIndependent is exec.Invoke of a tool that nobody else calls.
func oursIndependent(int) (Body, func(), error) {
	reg := sluice.NewToolRegistry()
	exec, err := sluice.NewExecutor(reg, sluice.Config{})
	if err != nil {
		return nil, nil, err
	}
	var requests [manyTools]sluice.Request
	for i := range requests {
		r := request
		r.Tool = "tool-" + strconv.Itoa(i)
		requests[i] = r
		if _, err := sluice.Register(reg, sluice.Spec{Name: r.Tool, Policy: sluice.Policy{Concurrency: 8}}, tool); err != nil {
			return nil, nil, err
		}
	}
	ctx := context.Background()
	return func(worker, n int) error { return invokes(ctx, exec, requests[worker], n) }, func() { exec.Close(ctx) }, nil
}

// spinningTool takes a microsecond of processor time, however long others keep it waiting.
func spinningTool(ctx context.Context, in Input) (int, error) {
	if spin(spinsPerMicrosecond()) == 0 {
		return 0, errWrong
	}
	return len(in.Query), nil
}

// spin is n steps of arithmetic, each of which needs the one before.
//
//go:noinline
func spin(n int) uint64 {
	x := uint64(1)
	for range n {
		x = x*6364136223846793005 + 1442695040888963407
	}
	return x
}

// spinsPerMicrosecond is how many steps take a microsecond where nothing disturbs them: the best
// of several trials.
var spinsPerMicrosecond = sync.OnceValue(func() int {
	const steps = 100_000
	best := time.Hour
	for range 20 {
		start := time.Now()
		if spin(steps) != 0 {
			best = min(best, time.Since(start))
		}
	}
	return max(1, int(steps*time.Microsecond/max(best, 1)))
})
