package resilience_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

const duplicates = 10_000

// duplicate is what has become of one of many calls that ask for the same.
type duplicate struct {
	page page
	err  error
	at   time.Duration
}

// ask makes n calls of the tool x at once, every other by Submit, and answers what becomes of them. Call i has the
// context that ctx gives; the first is made before all others.
func ask(r *rig, n int, ctx func(i int) context.Context) []duplicate {
	out := make([]duplicate, n)
	var wg sync.WaitGroup
	for i := range n {
		req, c := sluice.Request{Tool: "x", Input: query{"a"}}, ctx(i)
		if i%2 == 0 {
			f := r.Submit(c, req)
			wg.Go(func() {
				res, err := f.Wait(context.Background())
				out[i].is(r, res, err)
			})
		} else {
			wg.Go(func() {
				res, err := r.Invoke(c, req)
				out[i].is(r, res, err)
			})
		}
		if i == 0 {
			synctest.Wait()
		}
	}
	wg.Wait()
	return out
}

func (d *duplicate) is(r *rig, res sluice.Result, err error) {
	d.err, d.at = err, time.Since(r.start)
	if d.page, _ = res.Value.(page); len(d.page.Links) > 0 {
		d.page.Links = slices.Clone(d.page.Links)
		res.Value.(page).Links[0] = "changed by whoever has it"
	}
}

// Ten thousand calls that ask for the same are one execution, whatever becomes of who leads it.
func TestDuplicates_OneExecution(t *testing.T) {
	const slow = time.Second
	fine := duplicate{page: page{1, []string{"a"}}, at: slow}
	for _, tt := range []struct {
		name   string
		tool   func(ctx context.Context) error // after a second
		leaves func(i int) time.Duration       // when call i does; zero is never
		first  string                          // the code of the leader's error
		code   string                          // and of all others'
		queued bool                            // for three seconds first
		runs   int
	}{
		{name: "it works", runs: 1},
		{name: "its tool fails", tool: func(context.Context) error { return errBoom }, first: "tool_error", code: "tool_error", runs: 1},
		{name: "its tool panics", tool: func(context.Context) error { panic(errBoom) }, first: "panic", code: "panic", runs: 1},
		{name: "its tool exits", tool: func(context.Context) error { runtime.Goexit(); return nil }, first: "goexit", code: "goexit", runs: 1},
		{name: "the leader leaves", leaves: leaders(slow / 2), first: "canceled", runs: 1},
		{name: "the leader leaves the queue", queued: true, leaves: leaders(slow / 2), first: "canceled", runs: 1},
		{name: "all but the last leave", leaves: func(i int) time.Duration {
			if i == duplicates-1 {
				return 0
			}
			return slow / 2
		}, first: "canceled", code: "canceled", runs: 1},
		{name: "all leave the queue", queued: true, leaves: func(int) time.Duration { return slow / 2 }, first: "canceled", code: "canceled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				layer := join(t, resilience.JoinConfig{})
				limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
				quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("x"), Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
				r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit, quota}}, layer)
				search(r, "x", readOnly, func(ctx context.Context, _ int) error {
					time.Sleep(slow)
					if ctx.Err() != nil {
						t.Error("it was told to end")
					}
					if tt.tool != nil {
						return tt.tool(ctx)
					}
					return nil
				})
				want := fine
				if tt.queued {
					other := search(r, "other", sluice.Hints{}, func(context.Context, int) error { time.Sleep(3 * slow); return nil })
					go other(r.ctx, "b")
					synctest.Wait()
					want.at += 3 * slow
				}
				out := ask(r, duplicates, func(i int) context.Context {
					if tt.leaves == nil || tt.leaves(i) == 0 {
						return r.ctx
					}
					ctx, cancel := context.WithCancel(r.ctx)
					time.AfterFunc(tt.leaves(i), cancel)
					return ctx
				})
				for i, d := range out {
					code := tt.code
					if i == 0 {
						code = tt.first
					}
					switch last := tt.runs == 1 && tt.code == "canceled" && i == duplicates-1; {
					case code == "" || last:
						require.Equal(t, want, d, "%d", i)
					case code == "canceled":
						require.Equal(t, slow/2, d.at, "%d", i)
					default:
						require.Equal(t, want.at, d.at, "%d", i)
						require.NotErrorIs(t, d.err, sluice.ErrRejected, "%d: the tool ran, for another call", i)
						if code != "goexit" {
							require.ErrorIs(t, d.err, errBoom)
						}
						require.Equal(t, code, sluice.CodeOf(d.err))
						continue
					}
					if code == "canceled" && d.err != nil {
						require.Equal(t, code, sluice.CodeOf(d.err), "%d: %v", i, d.err)
						require.Equal(t, i > 0 || tt.queued, errors.Is(d.err, sluice.ErrRejected), "%d: %v", i, d.err)
					}
				}
				require.Zero(t, layer.Inspect()[0].Used)
				kinds := map[sluice.EventKind]int{}
				for _, e := range r.rec.Events("x") {
					kinds[e.Kind]++
				}
				require.Equal(t, duplicates, kinds[sluice.ToolInvoked])
				require.Equal(t, duplicates, kinds[sluice.ToolCompleted]+kinds[sluice.ToolFailed])
				require.Equal(t, tt.runs, kinds[sluice.ToolStarted])
				r.end()
			})
		})
	}
}

// leaders leave, and nobody else.
func leaders(d time.Duration) func(int) time.Duration {
	return func(i int) time.Duration {
		if i == 0 {
			return d
		}
		return 0
	}
}

// An execution whose last caller has left is told to end, and whoever comes while its code goes on has one of its own.
func TestDuplicates_NewcomersInheritNoCancelledExecution(t *testing.T) {
	for _, stack := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			layers := []sluice.Interceptor{join(t, resilience.JoinConfig{})}
			if stack {
				layers = usualStack(t)
			}
			r := newRig(t, sluice.Config{}, layers...)
			var told []error
			f := search(r, "x", readOnly, func(ctx context.Context, n int) error {
				if time.Sleep(2 * time.Second); n == 1 {
					told = append(told, ctx.Err())
				}
				return ctx.Err()
			})
			ctx, cancel := context.WithCancel(r.ctx)
			time.AfterFunc(time.Second, cancel)
			for i, o := range together(f, ctx, ctx) {
				require.ErrorIs(t, o.err, context.Canceled)
				require.Equal(t, time.Second, o.at, i)
			}
			time.Sleep(500 * ms)
			for _, o := range together(f, r.ctx, r.ctx) {
				require.NoError(t, o.err)
				require.Equal(t, page{2, []string{"a"}}, o.page)
				require.Equal(t, 2*time.Second, o.at)
			}
			require.Equal(t, []error{context.Canceled}, told)
			require.Len(t, r.starts(), 2)
			r.end()
		})
	}
}

// Somebody comes just as the last leaves: either it keeps the execution alive, or it has one of its own.
func TestDuplicates_OneComesAsTheLastLeaves(t *testing.T) {
	layer := join(t, resilience.JoinConfig{})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
	var runs atomic.Int64
	var gate atomic.Pointer[chan struct{}] // of the round
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, _ int) (int64, error) {
		n := runs.Add(1)
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-*gate.Load():
			return n, nil
		}
	}))
	const rounds = 3000
	for i := range rounds {
		ctx, cancel := context.WithCancel(context.Background())
		before, open := runs.Load(), make(chan struct{})
		gate.Store(&open)
		left, came := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := f(ctx, 1)
			left <- err
		}()
		for runs.Load() == before {
			runtime.Gosched()
		}
		comes := func() {
			_, err := f(context.Background(), 1)
			came <- err
		}
		leaves := func() {
			for range i % 12 {
				runtime.Gosched()
			}
			cancel()
		}
		if i%2 == 0 {
			go comes()
			leaves()
		} else {
			go leaves()
			go comes()
		}
		for layer.Inspect()[0].Used == 0 { // the newcomer is not there yet
			runtime.Gosched()
		}
		err := <-left
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		close(open)
		require.NoError(t, <-came, "round %d", i)
	}
	require.NoError(t, exec.Close(context.Background()))
	require.Zero(t, layer.Inspect()[0].Used)
	t.Logf("%d executions in %d rounds", runs.Load(), rounds)
}

// What is shared, and kept, is one tool's for one tenant, and for arguments that say the same however they are written.
func TestDuplicates_Scope(t *testing.T) {
	for name, layer := range map[string]sluice.Interceptor{"join": join(t, resilience.JoinConfig{}), "cache": cache(t, resilience.CacheConfig{})} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, layer)
				var runs atomic.Int64
				for _, tool := range []string{"raw", "other"} {
					sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: tool, Hints: readOnly}, func(_ context.Context, in json.RawMessage) (string, error) {
						runs.Add(1)
						time.Sleep(time.Second)
						return string(in), nil
					}))
				}
				pc := sluice.PipelineContextFrom(r.ctx)
				twice := func(tool, tenant, args string, more int64) {
					t.Helper()
					before := runs.Load()
					pc.Tenant = tenant
					ctx := sluice.WithPipelineContext(r.ctx, pc)
					var wg sync.WaitGroup
					for range 100 {
						wg.Go(func() {
							_, err := r.Invoke(ctx, sluice.Request{Tool: tool, Args: json.RawMessage(args)})
							if err != nil {
								t.Error(err)
							}
						})
						if name == "cache" {
							wg.Wait()
						}
					}
					wg.Wait()
					require.Equal(t, more, runs.Load()-before, "%s %s %s", tool, tenant, args)
				}
				again := int64(1)
				if name == "cache" {
					again = 0
				}
				twice("raw", "t1", `{"a":1,"b":[1,2]}`, 1)
				twice("raw", "t1", ` { "b" : [1, 2], "a":1 } `, again)
				twice("raw", "t2", `{"a":1,"b":[1,2]}`, 1)
				twice("other", "t1", `{"a":1,"b":[1,2]}`, 1)
				twice("raw", "t1", `{"a":1,"b":[2,1]}`, 1)
				twice("raw", "t1", `{"a":9007199254740993}`, 1)
				twice("raw", "t1", `{"a":9007199254740992}`, 1)
				twice("raw", "t1", `{"a":"1"}`, 1)
				twice("raw", "", `{"a":"1"}`, 1)
				require.NoError(t, r.Close(context.Background()))
				require.NoError(t, r.rec.Check())
			})
		})
	}
}

// What differs in spelling alone shares one execution also at the same time.
func TestDuplicates_Spelling(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		var runs atomic.Int64
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "raw", Hints: readOnly}, func(context.Context, json.RawMessage) (string, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			return "fine", nil
		}))
		var wg sync.WaitGroup
		for i := range 100 {
			args := `{"a":1,"b":{"c":2,"d":"é"}}`
			if i%2 == 1 {
				args = "{\n\t\"b\" : {\"d\":\"\\u00e9\" , \"c\":2},\"a\":1}" + strings.Repeat(" ", i)
			}
			wg.Go(func() {
				res, err := r.Invoke(r.ctx, sluice.Request{Tool: "raw", Args: json.RawMessage(args)})
				if err != nil || res.Value != "fine" {
					t.Error(res.Value, err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, runs.Load())
		r.end()
	})
}

// What a call was answered is answered again for as long as it is kept, to the nanosecond, without slot, token or breaker;
// and when that is over a thousand who ask at once are one execution.
func TestDuplicates_Replay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const ttl = time.Minute
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ForTool("x")}))
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Refuse: true}}}))
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("x"), Refuse: true, Rates: []sluice.Rate{{N: 2, Per: time.Hour}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker, limit, quota}},
			cache(t, resilience.CacheConfig{TTL: ttl}), join(t, resilience.JoinConfig{}))
		search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		other := search(r, "other", sluice.Hints{}, func(context.Context, int) error { time.Sleep(ttl - 1); return nil })
		always := func(int) context.Context { return r.ctx }
		hold := func(n int, at time.Duration, list []duplicate) {
			t.Helper()
			for i, d := range list {
				require.Equal(t, duplicate{page: page{n, []string{"a"}}, at: at}, d, "%d", i)
			}
		}
		hold(1, time.Second, ask(r, 1000, always))
		require.NoError(t, breaker.Trip(""))
		go other(r.ctx, "b")
		synctest.Wait()
		hold(1, time.Second, ask(r, duplicates, always))
		time.Sleep(ttl - 1)
		hold(1, time.Second+ttl-1, ask(r, 1, always))
		require.NoError(t, breaker.Reset(""))
		require.Len(t, r.starts(), 2)
		time.Sleep(time.Nanosecond)
		hold(2, 2*time.Second+ttl, ask(r, 1000, always))
		require.Len(t, r.starts(), 3, "one of x, one of the other, and one more of x")
		for _, g := range r.Snapshot().Gates {
			if g.Kind == "rate" {
				require.EqualValues(t, 2, g.Used, fmt.Sprint(g.Name))
			}
		}
		r.end()
	})
}
