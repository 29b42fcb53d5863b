package sluicegenkit

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/genkit"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// Runs of all kinds at once, some cancelled, while the tool leaves the registry: each call has an output that is its
// own, each run ends, and nothing stays.
func TestStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Concurrency: 3, Timeout: 50 * time.Millisecond, MaxWait: 200 * time.Millisecond}
		}}, g.search)
		kinds := []string{"go", "panic", "exit", "hang", "deaf", "fail", "interrupt"}
		var wg sync.WaitGroup
		for i := range 8 {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for range 8 {
					if w == byMiddleware && rnd.IntN(4) == 0 {
						e.Registry().Remove("search")
					}
					ctx, cancel := context.WithCancel(t.Context())
					if rnd.IntN(4) == 0 {
						time.AfterFunc(time.Duration(rnd.IntN(30))*time.Millisecond, cancel)
					}
					var queries []string
					for range 1 + rnd.IntN(5) {
						queries = append(queries, kinds[rnd.IntN(len(kinds))])
					}
					res, outputs, err := generate(ctx, gk, opts, asks("search", queries...)...)
					check(t, ctx, queries, res, outputs, err)
					cancel()
				}
			})
		}
		wg.Wait()
		time.Sleep(2 * time.Second) // what does not hear of its timeout ends
		x := e.Snapshot()
		require.Zero(t, x.InFlight+x.Queued)
		require.Zero(t, g.now.Load())
	})
}

// check is how a run with those queries may end.
func check(t *testing.T, ctx context.Context, queries []string, res *ai.ModelResponse, outputs []string, err error) {
	if err != nil {
		require.ErrorIs(t, err, context.Canceled)
		require.Error(t, ctx.Err())
		return
	}
	if res.FinishReason == ai.FinishReasonInterrupted {
		require.Contains(t, queries, "interrupt")
		return
	}
	require.Len(t, outputs, len(queries))
	for i, got := range outputs {
		if got == fmt.Sprintf(`{"hits":%d}`, len(queries[i])) {
			require.Equal(t, "go", queries[i])
			continue
		}
		var said struct{ Error struct{ Type string } }
		require.NoError(t, json.Unmarshal([]byte(got), &said), got)
		want := map[string]string{"panic": "panic", "exit": "goexit", "hang": "timeout", "deaf": "timeout", "fail": "tool_error"}[queries[i]]
		require.True(t, slices.Contains([]string{want, "wait_too_long", "unknown_tool"}, said.Error.Type), "%s: %s", queries[i], got)
		require.NotContains(t, got, "sk-123")
	}
}

// Code that returns, panics or exits ends alone, and leaves no goroutine: the bubble would not end.
func TestContained(t *testing.T) {
	for name, c := range map[string]struct {
		f      func()
		value  any
		failed bool
		goexit bool
	}{
		"returns":          {f: func() {}},
		"panics":           {f: func() { panic(errBackend) }, failed: true, value: errBackend},
		"exits":            {f: runtime.Goexit, failed: true, goexit: true},
		"exits in a defer": {f: func() { defer runtime.Goexit(); panic(errBackend) }, failed: true, goexit: true},
		"keeps its thread": {f: runtime.LockOSThread},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				deferred := false
				err := contained("search", func() {
					defer func() { deferred = true }()
					c.f()
				})
				require.True(t, deferred)
				if !c.failed {
					require.NoError(t, err)
					return
				}
				var p *sluice.PanicError
				require.ErrorAs(t, err, &p)
				require.Equal(t, []any{"search", c.value, c.goexit}, []any{p.Tool, p.Value, p.Goexit})
				require.True(t, strings.Contains(string(p.Stack), "storm_test.go"))
			})
		})
	}
}
