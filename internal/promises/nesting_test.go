package promises_test

import (
	"context"
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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A call that arranges its next run with its own context, and returns, is not nested in
// what has ended: neither depth, nor the count under a root, nor the priority, adds up.
func TestContinuation_IsNotNestedInWhatHasEnded(t *testing.T) {
	const rounds = 200
	for name, next := range map[string]func(r *rig, ctx context.Context, more func(error)){
		"on a timer": func(r *rig, ctx context.Context, more func(error)) {
			time.AfterFunc(time.Second, func() {
				_, err := r.Invoke(context.WithoutCancel(ctx), sluice.Request{Tool: "poll"})
				more(err)
			})
		},
		"submitted before the tool returns": func(r *rig, ctx context.Context, more func(error)) {
			f := r.Submit(context.WithoutCancel(ctx), sluice.Request{Tool: "poll"})
			go func() { _, err := f.Wait(context.Background()); more(err) }()
		},
	} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			t.Run(name+" "+timeout.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: timeout, MaxDepth: 3, MaxCallsPerRoot: 5})
					ran, over := 0, make(chan struct{})
					r.tool(sluice.Spec{Name: "poll"}, func(ctx context.Context) error {
						time.Sleep(ms) // by then the one before has returned
						if ran++; ran == rounds {
							close(over)
							return nil
						}
						next(r, ctx, func(err error) {
							assert.NoError(t, err)
						})
						return nil
					})
					require.NoError(t, r.call("poll"))
					select {
					case <-over:
					case <-time.After(time.Hour):
						t.Errorf("it ran %d times, want %d", ran, rounds)
					}
					synctest.Wait()
					r.end()
				})
			})
		}
	}
}

// Depth counts the calls around that still run: those in between that have ended do not.
func TestContinuation_DepthCountsWhatRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxDepth: 2})
		var down func(ctx context.Context, n int) error
		r.tool(sluice.Spec{Name: "deep"}, func(ctx context.Context) error { return down(ctx, 1) })
		down = func(ctx context.Context, n int) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "deep"})
			return err
		}
		if err := r.call("deep"); !errors.Is(err, sluice.ErrNesting) || errors.Is(err, sluice.ErrRejected) {
			t.Errorf("without an end: %v, want ErrNesting", err)
		}
		// root runs; middle has ended when its continuation calls leaf: one deep, not two.
		done := make(chan error, 1)
		r.tool(sluice.Spec{Name: "root"}, func(ctx context.Context) error {
			if _, err := r.Invoke(ctx, sluice.Request{Tool: "middle"}); err != nil {
				return err
			}
			return <-done
		})
		r.tool(sluice.Spec{Name: "middle"}, func(ctx context.Context) error {
			time.AfterFunc(time.Second, func() {
				_, err := r.Invoke(ctx, sluice.Request{Tool: "first"})
				done <- err
			})
			return nil
		})
		r.tool(sluice.Spec{Name: "first"}, func(ctx context.Context) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "second"})
			return err
		})
		r.tool(sluice.Spec{Name: "second"}, func(context.Context) error { return nil })
		require.NoError(t, r.call("root"))
		if id, want := r.terminal("first").ParentID, r.terminal("middle").Call.ID; id != want {
			t.Errorf("the continuation's parent is %q, want %q, which arranged it", id, want)
		}
		r.end()
	})
}

// An urgent call lends its priority to those that it waits for, and to nobody afterwards.
func TestContinuation_InheritsNoPriorityOfWhatHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		got := map[string]sluice.Priority{}
		after := make(chan struct{})
		seen := func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			got[c.Tool] = c.Priority
			return nil
		}
		r.tool(sluice.Spec{Name: "during"}, seen)
		r.tool(sluice.Spec{Name: "after"}, seen)
		r.tool(sluice.Spec{Name: "urgent", Policy: sluice.Policy{Priority: sluice.PriorityInteractive}}, func(ctx context.Context) error {
			time.AfterFunc(time.Second, func() {
				defer close(after)
				_, err := r.Invoke(ctx, sluice.Request{Tool: "after"})
				assert.NoError(t, err)
			})
			_, err := r.Invoke(ctx, sluice.Request{Tool: "during"})
			return err
		})
		require.NoError(t, r.call("urgent"))
		<-after
		if got["during"] != sluice.PriorityInteractive || got["after"] != sluice.PriorityNormal {
			t.Errorf("priorities %v, want interactive during the call, and normal after it", got)
		}
		r.end()
	})
}

// A long chain of continuations keeps nothing of the calls that have ended.
func TestContinuation_KeepsNothing(t *testing.T) {
	r := newRig(t, sluice.Config{})
	const rounds = 20_000
	ran, over := 0, make(chan struct{})
	before := heapInUse()
	r.tool(sluice.Spec{Name: "poll"}, func(ctx context.Context) error {
		if ran++; ran < rounds {
			r.Submit(ctx, sluice.Request{Tool: "poll"})
			return nil
		}
		if more := heapInUse() - before; more > 2<<20 {
			t.Errorf("%d bytes are kept after %d runs", more, rounds)
		}
		runtime.KeepAlive(ctx)
		close(over)
		return nil
	})
	r.Submit(context.Background(), sluice.Request{Tool: "poll"}) // without a recorder, which keeps events
	<-over
	r.end()
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Promise 9: nested calls run on what their ancestors hold.
func TestPromise09_DeepCallsRunAtALimitOfOne(t *testing.T) {
	for _, submit := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1}, sluice.Limit{Max: 1, Scope: sluice.ByTool}), scheduler(sluice.PrioritySchedulerConfig{}))})
			defer r.end()
			depth := 0
			r.tool(sluice.Spec{Name: "deep", Policy: sluice.Policy{Concurrency: 1}}, func(ctx context.Context) error {
				time.Sleep(ms)
				if depth++; depth > 8 {
					return nil
				}
				if submit {
					_, err := r.Submit(ctx, sluice.Request{Tool: "deep"}).Wait(ctx)
					return err
				}
				return errOf(r.Invoke(ctx, sluice.Request{Tool: "deep"}))
			})
			require.NoError(t, r.call("deep"))
			assert.Equal(t, 9, depth)
			assert.Equal(t, 9*ms, r.at())
			var parents []string
			for _, e := range r.rec.Events() {
				if e.Kind == sluice.ToolInvoked {
					parents = append(parents, e.ParentID)
				}
			}
			if want := []string{"", "call-1", "call-2", "call-3", "call-4", "call-5", "call-6", "call-7", "call-8"}; !slices.Equal(parents, want) {
				t.Errorf("parents %v, want %v", parents, want)
			}
		})
	}
}

func TestPromise09_BatchesRunAtALimitOfOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "leaf"}, g.counts(10*ms))
		r.tool(sluice.Spec{Name: "parent"}, func(ctx context.Context) error {
			parallel(3, func(int) { assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"}))) })
			return nil
		})
		require.NoError(t, r.call("parent"))
		if g.peak.Load() != 1 || r.at() != 30*ms {
			t.Errorf("%d leaves at once, in %v: want 1, 30ms: a slot is lent to one at a time", g.peak.Load(), r.at())
		}
		r.slotsFree("leaf", &g, 1)
	})
}

func TestPromise09_NeverBelowTheWaitingAncestor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("leaf")}), scheduler(sluice.PrioritySchedulerConfig{}))})
		defer r.end()
		var order log
		r.tool(sluice.Spec{Name: "leaf"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			order.add("%s/%d", c.ID, c.Priority)
			time.Sleep(10 * ms)
			return nil
		})
		r.tool(sluice.Spec{Name: "parent"}, func(ctx context.Context) error {
			pc := sluice.PipelineContextFrom(ctx)
			pc.Priority = sluice.PriorityBatch // it cannot lower what the ancestor waits for
			return errOf(r.Invoke(sluice.WithPipelineContext(ctx, pc), sluice.Request{ID: "nested", Tool: "leaf"}))
		})
		var wg sync.WaitGroup
		call := func(ctx context.Context, id, tool string) {
			wg.Go(func() { assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{ID: id, Tool: tool}))) })
			synctest.Wait()
		}
		call(r.ctx, "first", "leaf")
		call(r.ctx, "normal1", "leaf")
		call(r.ctx, "normal2", "leaf")
		call(r.as(sluice.PriorityInteractive, ""), "outer", "parent")
		wg.Wait()
		assert.Equal(t, "first/5 nested/9 normal1/5 normal2/5", order.String(), "order")
	})
}

func TestPromise09_CrossingLimitsDoNotDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "leafA"}, sleeps(0))
		cross := func(other string) func(context.Context) error {
			return func(ctx context.Context) error {
				if c, _ := sluice.CallFrom(ctx); c.ID == "" || strings.HasPrefix(c.ID, "call") {
					return nil // the nested one
				}
				time.Sleep(ms)
				return errOf(r.Invoke(ctx, sluice.Request{Tool: other}))
			}
		}
		r.tool(sluice.Spec{Name: "a"}, cross("b"))
		r.tool(sluice.Spec{Name: "b"}, cross("a"))
		var errs [2]error
		parallel(2, func(i int) {
			_, errs[i] = r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint("outer", i), Tool: []string{"a", "b"}[i]})
		})
		refused := 0
		for _, err := range errs {
			var e *sluice.Error
			if errors.Is(err, sluice.ErrNesting) {
				refused++
				if !errors.As(err, &e) || !strings.Contains(err.Error(), "concurrency per tool -> concurrency per tool") || errors.Is(err, sluice.ErrRejected) {
					t.Errorf("%v: want the limits named, and no ErrRejected, since the outer call ran", err)
				}
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused != 1 || r.at() != ms {
			t.Errorf("%d of two crossing calls refused at %v, want 1 at 1ms", refused, r.at())
		}
	})
}

// A call nested in one of an executor that shares nothing with its own waits a minute too: who holds what
// it needs may wait for its caller, which nobody can see.
func TestPromise09_ANestedWaitInAnotherDomainIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(atMost(1))}))
		b := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(atMost(1))}))
		inner := sluice.Must(sluice.Wrap(b, sluice.Spec{Name: "inner"}, func(_ context.Context, d time.Duration) (int, error) {
			time.Sleep(d)
			return 0, nil
		}))
		outer := sluice.Must(sluice.Wrap(a, sluice.Spec{Name: "outer"}, func(ctx context.Context, d time.Duration) (int, error) {
			return inner(ctx, d)
		}))
		var all sync.WaitGroup
		all.Go(func() { _, err := inner(t.Context(), time.Hour); assert.NoError(t, err) })
		synctest.Wait()
		start := time.Now()
		all.Go(func() { _, err := inner(t.Context(), 0); assert.NoError(t, err, "this one is nested in nothing") })
		_, err := outer(t.Context(), 0)
		require.ErrorIs(t, err, sluice.ErrWaitTooLong)
		require.Equal(t, time.Minute, time.Since(start))
		all.Wait()
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, b.Close(t.Context()))
	})
}

func TestPromise09_ChildThatOutlivesItsParentKeepsTheSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "child"}, g.counts(time.Second))
		var child *sluice.Future
		r.tool(sluice.Spec{Name: "parent"}, func(ctx context.Context) error {
			child = r.Submit(context.WithoutCancel(ctx), sluice.Request{Tool: "child"})
			return nil
		})
		started := time.Duration(0)
		r.tool(sluice.Spec{Name: "next"}, func(context.Context) error { started = r.at(); return nil })
		require.NoError(t, r.call("parent"))
		assert.Zero(t, r.at(), "the parent returned at")
		require.NoError(t, r.call("next"))
		assert.Equal(t, time.Second, started,
			"the next call started at: the slot is given back when the last of the chain ends")
		require.NoError(t, errOf(child.Wait(t.Context())))
		r.slotsFree("child", &g, 1)
	})
}

func TestPromise09_RecursionIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxDepth: 5, MaxCallsPerRoot: 20, Interceptors: interceptors(atMost(1))})
		defer r.end()
		runs := 0
		r.tool(sluice.Spec{Name: "bomb"}, func(ctx context.Context) error {
			runs++
			return errOf(r.Invoke(ctx, sluice.Request{Tool: "bomb"}))
		})
		err := r.call("bomb")
		if !errors.Is(err, sluice.ErrNesting) || errors.Is(err, sluice.ErrRejected) || runs != 6 {
			t.Errorf("%v after %d runs, want ErrNesting after 6", err, runs)
		}
		fan, refused := 0, 0
		r.tool(sluice.Spec{Name: "leaf"}, func(context.Context) error { fan++; return nil })
		r.tool(sluice.Spec{Name: "fan"}, func(ctx context.Context) error {
			for range 30 {
				if err := errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"})); errors.Is(err, sluice.ErrNesting) {
					refused++
				}
			}
			return nil
		})
		require.NoError(t, r.call("fan"))
		require.NoError(t, r.call("fan")) // the budget is of each root
		if fan != 40 || refused != 20 {
			t.Errorf("%d nested calls ran, %d refused, want 40 and 20", fan, refused)
		}
	})
}

func TestNestedCallsNeverWaitForTheirAncestors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1)}})
		var g gauge
		leaf := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "leaf"}, func(context.Context, int) (int, error) {
			g.enter()
			time.Sleep(time.Second)
			g.leave()
			return 0, nil
		}))
		var deep func(context.Context, int) (int, error)
		deep = sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "deep"}, func(ctx context.Context, n int) (int, error) {
			if n == 0 {
				return leaf(ctx, 0)
			}
			return deep(ctx, n-1)
		}))
		start := time.Now()
		if _, err := deep(t.Context(), 8); err != nil || time.Since(start) != time.Second {
			t.Errorf("depth 8 at limit 1: %v after %v", err, time.Since(start))
		}
		batch := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "batch"}, func(ctx context.Context, n int) (int, error) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					_, err := leaf(ctx, 0)
					assert.NoError(t, err)
				})
			}
			wg.Wait()
			return n, nil
		}))
		start = time.Now()
		if _, err := batch(t.Context(), 3); err != nil || time.Since(start) != 3*time.Second || g.peak.Load() != 1 {
			t.Errorf("batch of 3 at limit 1: %v after %v, peak %d", err, time.Since(start), g.peak.Load())
		}
		var bomb func(context.Context, int) (int, error)
		depth := 0
		bomb = sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "bomb"}, func(ctx context.Context, n int) (int, error) {
			depth = max(depth, n)
			return bomb(ctx, n+1)
		}))
		if _, err := bomb(t.Context(), 0); !errors.Is(err, sluice.ErrNesting) || errors.Is(err, sluice.ErrRejected) || depth != 32 {
			t.Errorf("bomb: %v at depth %d, want ErrNesting at 32", err, depth)
		}
		free(t, e, 1)
	})
}

// Attempts at once of one call may each call a tool of another executor, which is nested in the attempt.
func TestNestedCallsOfAttemptsAtOnce(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(atOnce)})
	other := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
	var inner atomic.Int64
	other.tool(sluice.Spec{Name: "inner"}, func(context.Context) error { inner.Add(1); return nil })
	r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
		return errOf(other.Invoke(ctx, sluice.Request{Tool: "inner"}))
	})
	r.ctx = t.Context()
	calls := rounds(1000)
	for range calls {
		require.NoError(t, r.call("outer"))
	}
	assert.Equal(t, int64(2*calls), inner.Load(), "nested calls")
	r.end()
	other.end()
}

// An interceptor that calls another tool does so in its call: events say so, priorities and the bounds of nesting
// hold, and nothing is held meanwhile, so that a wait has no bound of its own.
func TestInvokeOfALayer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		instead := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				if to, ok := strings.CutPrefix(s.Description, "or "); ok && err != nil {
					return c.Invoke(ctx, sluice.Request{Tool: to})
				}
				return res, err
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(instead, atMost(1)), MaxDepth: 5})
		fails := func(context.Context) error { return errors.New("boom") }
		r.tool(sluice.Spec{Name: "first", Description: "or second"}, fails)
		r.tool(sluice.Spec{Name: "second", Description: "or third"}, fails)
		var seen sluice.Call
		r.tool(sluice.Spec{Name: "third"}, func(ctx context.Context) error {
			seen, _ = sluice.CallFrom(ctx)
			return nil
		})
		r.tool(sluice.Spec{Name: "round", Description: "or round"}, fails)

		_, err := r.Invoke(r.as(sluice.PriorityInteractive, ""), sluice.Request{Tool: "first"})
		require.NoError(t, err)
		require.Equal(t, sluice.PriorityInteractive, seen.Priority)
		require.Equal(t, "first", r.terminal("first").Call.Tool)
		require.Equal(t, r.terminal("first").CallKey, r.terminal("second").ParentKey)
		require.Equal(t, r.terminal("second").CallKey, r.terminal("third").ParentKey)
		require.Equal(t, sluice.ToolCompleted, r.terminal("first").Kind)

		err = r.call("round")
		require.ErrorIs(t, err, sluice.ErrNesting)
		require.Len(t, r.starts("round"), 6)

		began := r.at()
		r.tool(sluice.Spec{Name: "slow"}, func(context.Context) error { time.Sleep(time.Hour); return nil })
		r.tool(sluice.Spec{Name: "busy", Description: "or third"}, func(context.Context) error {
			go r.call("slow") // which comes to run before the third
			time.Sleep(time.Second)
			return errors.New("boom")
		})
		require.NoError(t, r.call("busy"))
		require.Equal(t, time.Hour+time.Second, r.at()-began)
		r.end()
	})
}

// A Call that no interceptor was given, and one that is over, call nothing; a context that the other's tool has kept
// says afterwards that nothing runs.
func TestInvokeOfALayer_WhenItIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var kept sluice.Call
		var late context.Context
		keep := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if s.Name == "x" {
					kept = c
					_, err := c.Invoke(ctx, sluice.Request{Tool: "y"})
					return sluice.Result{}, err
				}
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(keep)})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "y"}, func(ctx context.Context) error { late = ctx; return nil })
		require.NoError(t, r.call("x"))
		_, err := kept.Invoke(r.ctx, sluice.Request{Tool: "y"})
		require.ErrorIs(t, err, sluice.ErrRejected)
		require.ErrorContains(t, err, "the call is over")
		_, err = sluice.Call{}.Invoke(r.ctx, sluice.Request{Tool: "y"})
		require.ErrorIs(t, err, sluice.ErrRejected)
		_, err = r.Invoke(late, sluice.Request{Tool: "y"})
		require.NoError(t, err)
		require.NoError(t, r.Close(late), "nobody would wait for itself")
		r.end()
	})
}
