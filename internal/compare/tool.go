package compare

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync/atomic"
)

// Input is what the tool of every row takes.
type Input struct{ Query string }

const toolName = "search"

var errWrong = errors.New("compare: wrong outcome")

// tool is the function that every contestant guards. Its result is a small number, which
// Go puts into an interface without allocating.
//
//go:noinline
func tool(ctx context.Context, in Input) (int, error) { return len(in.Query), nil }

// yieldingTool lets others run while it holds its slot, so that they have to queue.
//
//go:noinline
func yieldingTool(ctx context.Context, in Input) (int, error) {
	runtime.Gosched()
	return len(in.Query), nil
}

// watchingTool looks at its deadline as a tool does that passes its context on: it asks for
// the Done channel.
//
//go:noinline
func watchingTool(ctx context.Context, in Input) (int, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	default:
		return len(in.Query), nil
	}
}

type toolFunc = func(context.Context, Input) (int, error)

var input = Input{Query: "go"}

const answer = 2

// keys are made once and shared by all tables, so that nobody pays for their bytes.
func keys(n int) []string {
	k := make([]string, n)
	for i := range k {
		k[i] = "key-" + strconv.Itoa(i)
	}
	return k
}

// walk visits n places of a table in an order without a pattern: a linear congruential
// generator whose multiplier and increment give it the full period (Hull and Dobell 1962).
type walk struct{ x uint64 }

func (w *walk) next(n int) int {
	w.x = w.x*6364136223846793005 + 1442695040888963407
	return int((w.x >> 33) % uint64(n))
}

// walks are where the workers of a load are. A worker takes its walk along and puts it
// back, so that the next round goes on and does not visit the same places again.
type walks []struct {
	walk
	_ [56]byte // a cache line each
}

func newWalks(workers int) walks {
	w := make(walks, workers)
	for i := range w {
		w[i].x = uint64(i)*0x9e3779b97f4a7c15 + 1
	}
	return w
}

// muster has the first holder of a slot wait until all workers stand in the queue, so that
// every later one waits too.
type muster struct {
	workers int64
	arrived atomic.Int64
}

// arrive is called by each worker before it asks for its first slot.
func (m *muster) arrive() { m.arrived.Add(1) }

// hold is called by whoever holds a slot. All workers of a round are gone before those of
// the next arrive.
func (m *muster) hold() {
	if m.arrived.Load()%m.workers == 0 {
		return
	}
	for m.arrived.Load()%m.workers != 0 {
		runtime.Gosched()
	}
	for range m.workers { // from having arrived to standing in the queue
		runtime.Gosched()
	}
}
