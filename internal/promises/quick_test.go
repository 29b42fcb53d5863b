package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// never has calls come by the lock, and changes nothing else: a limit by a key, which nobody reaches.
func never() sluice.Interceptor {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name: "never", Limits: []sluice.Limit{{Max: 1 << 20, Scope: sluice.ByTenant}}}))
}

// twin is one call of a world: what happens around it and in its code, attempt for attempt.
type twin struct {
	at      time.Duration
	tool    string
	own     time.Duration // the caller's timeout; zero is none
	around  string        // what the interceptor outside does
	inside  string        // and that inside
	submit  bool
	code    []string // of the attempts
	takes   []time.Duration
	attempt int
}

type twinKey struct{}

// twinWorld makes calls of random kinds at random instants, with interceptors around and inside or not.
func twinWorld(r *rand.Rand) (calls []*twin, outer, inner bool) {
	outer, inner = r.IntN(2) == 0, r.IntN(2) == 0
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for range 30 {
		c := &twin{at: time.Duration(r.Int64N(int64(20 * time.Second))), tool: pick("timed", "timed", "untimed", "deaf", "cooperative")}
		if c.around, c.inside = pick("pass", "pass", "retry", "hedge", "leave"), pick("pass", "pass", "pass", "leave", "keep"); c.around != "hedge" && r.IntN(5) == 0 {
			c.own = time.Duration(1 + r.Int64N(int64(2*time.Second)))
		}
		c.submit = r.IntN(3) == 0
		for range 3 {
			c.code = append(c.code, pick("return", "return", "return", "return", "error", "panic", "exit", "nested", "hold"))
			c.takes = append(c.takes, time.Duration(1+r.Int64N(int64(1500*ms))))
		}
		calls = append(calls, c)
	}
	return calls, outer, inner
}

// twinAround retries, makes two attempts at once, or answers before its own has ended.
func twinAround(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
		x, _ := ctx.Value(twinKey{}).(*twin)
		if x == nil || c.Tool == "nested" {
			return next(ctx, c)
		}
		switch x.around {
		case "retry":
			for range 3 {
				if res, err = next(ctx, c); err == nil {
					break
				}
				time.Sleep(10*ms + x.at%1000) // never two at one instant
			}
			return res, err
		case "hedge":
			var all sync.WaitGroup
			for range 2 {
				all.Go(func() { next(ctx, c) })
				time.Sleep(7*ms + 9)
			}
			all.Wait()
			return res, nil
		case "leave":
			go next(ctx, c)
			time.Sleep(300*ms + 1)
			return res, nil
		}
		return next(ctx, c)
	}
}

// twinInside answers before its next has ended, or without it.
func twinInside(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
		x, _ := ctx.Value(twinKey{}).(*twin)
		switch {
		case x == nil || c.Tool == "nested" || x.inside == "pass":
			return next(ctx, c)
		case x.inside == "leave":
			go next(ctx, c)
			time.Sleep(200*ms + 3)
		default:
			time.Sleep(50*ms + 5)
		}
		return res, nil
	}
}

// twinTool is the code of the calls.
func twinTool(e **sluice.Executor, mu *sync.Mutex, deaf bool) func(context.Context) error {
	return func(ctx context.Context) error {
		x := ctx.Value(twinKey{}).(*twin)
		mu.Lock()
		n := x.attempt % 3
		x.attempt++
		mu.Unlock()
		over := ctx.Done()
		if deaf {
			over = nil
		}
		select {
		case <-time.After(x.takes[n]):
		case <-over:
			return ctx.Err()
		}
		switch x.code[n] {
		case "error":
			return errTool
		case "panic":
			panic("a panic")
		case "exit":
			runtime.Goexit()
		case "nested":
			_, err := (*e).Invoke(ctx, sluice.Request{Tool: "nested"})
			return err
		case "hold":
			_, done, err := sluice.Hold(ctx)
			if err != nil {
				return err
			}
			time.AfterFunc(x.takes[n]/2, func() { done(nil) })
		}
		return nil
	}
}

// runTwin is what happens in a world, as lines.
func runTwin(t *testing.T, seed, n uint64, lock bool) (lines []string) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, n))
		calls, outer, inner := twinWorld(rnd)
		var list []sluice.Interceptor
		if outer {
			list = append(list, sluice.InterceptorFunc(twinAround))
		}
		list = append(list, limitsOf(sluice.Limit{Max: 2 + rnd.IntN(6)}), rates(sluice.Rate{N: 1 + rnd.Int64N(8), Per: time.Second, Burst: 8}),
			breakerOf(sluice.CircuitBreakerConfig{Failures: 1000})) // it never opens: who is tried first of those that fail at one instant is open
		if lock {
			list = append(list, never())
		}
		if inner {
			list = append(list, sluice.InterceptorFunc(twinInside))
		}
		r := newRig(t, sluice.Config{Interceptors: list, MaxWait: 2 * time.Second})
		var mu sync.Mutex
		r.tool(sluice.Spec{Name: "timed", Policy: sluice.Policy{Timeout: time.Second}}, twinTool(&r.Executor, &mu, false))
		r.tool(sluice.Spec{Name: "deaf", Policy: sluice.Policy{Timeout: time.Second + 11}}, twinTool(&r.Executor, &mu, true))
		r.tool(sluice.Spec{Name: "cooperative", Policy: sluice.Policy{Timeout: time.Second + 17, Cooperative: true}}, twinTool(&r.Executor, &mu, false))
		r.tool(sluice.Spec{Name: "untimed"}, twinTool(&r.Executor, &mu, false))
		r.tool(sluice.Spec{Name: "nested", Policy: sluice.Policy{Timeout: time.Second + 13}}, sleeps(20*ms+7))
		say := func(format string, a ...any) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf("%v: ", r.at())+fmt.Sprintf(format, a...))
		}
		var all sync.WaitGroup
		for i, c := range calls {
			all.Go(func() {
				time.Sleep(c.at)
				ctx := context.WithValue(r.ctx, twinKey{}, c)
				if c.own > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.own)
					defer cancel()
				}
				q := sluice.Request{ID: fmt.Sprint("call ", i), Tool: c.tool}
				if c.submit {
					_, err := r.Submit(ctx, q).Wait(context.Background())
					say("call %d of %s, submitted, ends: %q", i, c.tool, sluice.CodeOf(err))
					return
				}
				_, err, returned := r.invokeApart(ctx, q)
				say("call %d of %s ends: %v %q", i, c.tool, returned, sluice.CodeOf(err))
			})
		}
		for range 60 {
			time.Sleep(time.Duration(rnd.Int64N(int64(700 * ms))))
			synctest.Wait()
			s := r.Snapshot()
			say("%d in flight, %d queued, %d abandoned", s.InFlight, s.Queued, s.Abandoned)
		}
		all.Wait()
		time.Sleep(time.Minute)
		s := r.Snapshot()
		say("%d completed, %d failed, %d denied", s.Completed, s.Failed, s.Denied)
		r.end()
		slices.Sort(lines)
		var events []string
		for _, e := range withoutAbandoned(r.rec.Events()) { // whether code that ends with its context is, depends on the scheduler
			if e.CallKey != 0 && e.Call.Tool != "nested" {
				if e.Kind == sluice.ToolStarted {
					e.Queued = 0 // of attempts that start at one instant, it depends on which is told of first
				}
				events = append(events, fmt.Sprintf("%s %d %v at %v: attempt %d, queued %v, took %v, by %s, %q",
					e.Call.ID, e.Seq, e.Kind, e.Time.Sub(r.start), e.Call.Attempt, e.Queued, e.Duration, e.By, sluice.CodeOf(e.Err)))
			}
		}
		slices.Sort(events)
		lines = append(lines, events...)
	})
	return lines
}

// Whoever comes without the lock, calls with timeouts and with interceptors around and inside start, end
// and are told of as if all came by the lock: attempts one after the other and at once, code that its
// caller does not wait for, errors, panics, Goexit, nested calls and held streams.
func TestQuick_TheSameAsByTheLock(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(rounds(300)) {
		a, b := runTwin(t, seed, n, true), runTwin(t, seed, n, false)
		for i := range min(len(a), len(b)) {
			require.Equal(t, a[i], b[i], "line %d of world %d", i, n)
		}
		require.Len(t, b, len(a), "world %d", n)
	}
}

// What attempts that come without the lock add to their call is exact, also if they end at one instant,
// and the call with them.
func TestQuick_AttemptsAtOnceAddUp(t *testing.T) {
	for range rounds(300) {
		hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
				var all sync.WaitGroup
				for range 8 {
					all.Go(func() { next(ctx, c) })
				}
				all.Wait()
				return res, nil
			}
		})
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Timeout: time.Minute, Interceptors: interceptors(hedge, atMost(8))})
			r.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
			for range 2 { // the first comes by the lock
				require.NoError(t, r.call("x"))
				require.Equal(t, 8*time.Second, r.terminal("x").Duration)
			}
			r.end()
		})
	}
}

// Attempts that go on when their call is over are counted, and Close waits for them.
func TestQuick_AttemptsThatAreLeftAreCounted(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		bubble(t, func(t *testing.T) {
			leave := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
					for range 3 {
						go next(ctx, c)
					}
					time.Sleep(time.Second)
					return res, nil
				}
			})
			r := newRig(t, sluice.Config{Timeout: timeout, Interceptors: interceptors(leave, atMost(8))})
			r.tool(sluice.Spec{Name: "x"}, sleeps(5*time.Second))
			require.NoError(t, r.call("x"))
			time.Sleep(9 * time.Second)
			require.NoError(t, r.call("x")) // the first came by the lock
			require.Equal(t, 11*time.Second, r.at())
			s := r.Snapshot()
			require.Equal(t, 3, s.InFlight)
			require.Equal(t, 3, s.Abandoned)
			require.NoError(t, r.Close(t.Context()))
			require.Equal(t, 15*time.Second, r.at(), "Close returned")
			r.end()
		})
	}
}

// runBreakerTwin is what becomes of calls of two tools, one after the other, and one nested in another,
// where breakers open, are tried, and are changed, as lines.
func runBreakerTwin(t *testing.T, seed, n uint64, lock bool) (lines []string) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, n))
		conf := sluice.CircuitBreakerConfig{Failures: 2, Cooldown: 3 * time.Second, Scope: sluice.ForType("remote")}
		shared := breakerOf(conf)
		own := breakerOf(sluice.CircuitBreakerConfig{Name: "own", Failures: 1 + rnd.IntN(3), Cooldown: 2 * time.Second})
		if rnd.IntN(2) == 0 {
			own = breakerOf(sluice.CircuitBreakerConfig{Name: "own", Ratio: 0.3, MinCalls: 4, Window: 5 * time.Second, Cooldown: 2 * time.Second})
		}
		list := interceptors(shared, own, atMost(3))
		keyed := rnd.IntN(2) == 0
		if lock { // as all calls do that an adaptive limit counts
			list = append(list, sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
				Name: "adaptive", Limits: []sluice.Limit{{Adaptive: &sluice.Adaptive{Min: 1000, Max: 1000}}}})))
		} else if keyed {
			list = append(list, never())
		}
		if rnd.IntN(2) == 0 { // calls have several attempts then
			list = append(interceptors(sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
					if res, err = next(ctx, c); err != nil && c.Type == "remote" {
						return next(ctx, c)
					}
					return res, err
				}
			})), list...)
		}
		r := newRig(t, sluice.Config{Interceptors: list})
		say := func(format string, a ...any) {
			lines = append(lines, fmt.Sprintf("%v: ", r.at())+fmt.Sprintf(format, a...))
		}
		fails := false
		code := func(context.Context) error {
			if fails {
				return errTool
			}
			return nil
		}
		r.tool(sluice.Spec{Name: "a", Type: "remote"}, code)
		r.tool(sluice.Spec{Name: "b", Type: "remote", Policy: sluice.Policy{MaxWait: sluice.NoWait}}, code)
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error { return errOf(r.Invoke(ctx, sluice.Request{Tool: "a"})) })
		change := func(c sluice.Change) { require.NoError(t, sluice.Reconfigure("me", c)) }
		for i := range 120 {
			tool := []string{"a", "a", "b", "outer"}[rnd.IntN(4)]
			switch fails = rnd.IntN(2) == 0; rnd.IntN(16) {
			case 0:
				require.NoError(t, own.Trip([]string{"a", "b"}[rnd.IntN(2)]))
			case 1:
				require.NoError(t, own.Reset([]string{"a", "b"}[rnd.IntN(2)]))
			case 2:
				require.NoError(t, shared.Reset(""))
			case 3:
				conf.Cooldown = time.Duration(1+rnd.IntN(5)) * time.Second
				change(shared.Change(conf))
			case 4:
				for _, g := range r.Snapshot().Gates {
					if g.Kind == "breaker" {
						say("%s %s is %v until %v", g.Name, g.Key, g.State, g.Until.Sub(r.start))
					}
				}
			case 5:
				say("%s would be refused: %v", tool, r.Explain(r.ctx, sluice.Request{Tool: tool}).Refusal)
			case 6, 7:
				time.Sleep(time.Duration(rnd.Int64N(int64(2 * time.Second))))
			default:
				_, err := r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint("call ", i), Tool: tool})
				say("call %d of %s: %v", i, tool, err)
				if e := (*sluice.Error)(nil); errors.As(err, &e) {
					say("%q %v %v", e.By, e.RetryAfter, e.Reason)
				}
			}
			time.Sleep(time.Duration(rnd.Int64N(int64(300 * ms))))
		}
		s := r.Snapshot()
		say("%d completed, %d failed, %d denied", s.Completed, s.Failed, s.Denied)
		r.end()
		for _, e := range r.rec.Events() {
			lines = append(lines, fmt.Sprintf("%s %d %v at %v: attempt %d, took %v, by %s, retry after %v, %v",
				e.Call.ID, e.Seq, e.Kind, e.Time.Sub(r.start), e.Call.Attempt, e.Duration, e.By, e.RetryAfter, e.Err))
		}
	})
	return lines
}

// sameByTheLock holds that random worlds tell the same whether calls may do without the lock or not, and that some line
// of them says what is looked for.
func sameByTheLock(t *testing.T, worlds int, look string, run func(t *testing.T, seed, n uint64, quick bool) []string) {
	t.Helper()
	seed, found := rand.Uint64(), 0
	t.Logf("seed %d", seed)
	for n := range uint64(worlds) {
		a, b := run(t, seed, n, true), run(t, seed, n, false)
		for i := range min(len(a), len(b)) {
			require.Equal(t, a[i], b[i], "line %d of world %d", i, n)
			if strings.Contains(a[i], look) {
				found++
			}
		}
		require.Len(t, b, len(a), "world %d", n)
	}
	t.Log(found, "lines of refusals")
	require.Positive(t, found)
}

// Calls that a breaker refuses without the lock get the same errors, and are told of the same way, as if
// all came by the lock.
func TestQuick_RefusedTheSameAsByTheLock(t *testing.T) {
	sameByTheLock(t, rounds(300), "breaker open", runBreakerTwin)
}

// Whoever has tripped a breaker finds every later call refused, and whoever has reset it none, however many
// calls are refused without the lock meanwhile; and each of them is counted.
func TestQuick_StormOfRefusals(t *testing.T) {
	twice := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
			if res, err = next(ctx, c); err == nil {
				return res, nil
			}
			var other sync.WaitGroup
			other.Go(func() { next(ctx, c) })
			_, err = next(ctx, c)
			other.Wait()
			return res, err
		}
	})
	for name, c := range map[string]sluice.Config{"plain": {}, "timeout": {Timeout: time.Hour}, "keys": {Interceptors: interceptors(never())}, "attempts": {Interceptors: interceptors(twice)}} {
		t.Run(name, func(t *testing.T) { stormOfRefusals(t, c) })
	}
}

func stormOfRefusals(t *testing.T, c sluice.Config) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	tool := breakerOf(sluice.CircuitBreakerConfig{Name: "tool"})
	all := breakerOf(sluice.CircuitBreakerConfig{Name: "all", Scope: sluice.Global})
	c.Interceptors = append(c.Interceptors, tool, all, atMost(1000))
	e := newExec(t, c)
	var in, wrong, refused, ran atomic.Int64
	var closed atomic.Bool // once the breaker is tripped, and nobody is inside
	f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, n int) (int, error) {
		in.Add(1)
		if closed.Load() {
			wrong.Add(1)
		}
		in.Add(-1)
		return n, nil
	}))
	call := func() error {
		_, err := f(context.Background(), 1)
		switch {
		case err == nil:
			ran.Add(1)
		case errors.Is(err, sluice.ErrBreakerOpen):
			refused.Add(1)
		default:
			wrong.Add(1)
		}
		return err
	}
	var done atomic.Bool
	var others sync.WaitGroup
	for range 3 {
		others.Go(func() {
			for !done.Load() {
				call()
			}
		})
	}
	for range rounds(200) {
		b, key := tool, "x"
		if rnd.IntN(2) == 0 {
			b, key = all, ""
		}
		require.NoError(t, b.Trip(key))
		require.ErrorIs(t, call(), sluice.ErrBreakerOpen)
		for e.Snapshot().InFlight > 0 {
			runtime.Gosched()
		}
		closed.Store(true)
		for range rnd.IntN(20) {
			require.ErrorIs(t, call(), sluice.ErrBreakerOpen)
		}
		closed.Store(false)
		require.NoError(t, b.Reset(key))
		for range 1 + rnd.IntN(20) {
			require.NoError(t, call())
		}
	}
	done.Store(true)
	others.Wait()
	s := e.Snapshot()
	require.Zero(t, wrong.Load())
	require.Equal(t, uint64(ran.Load()), s.Completed)
	require.Equal(t, uint64(refused.Load()), s.Failed)
	require.NoError(t, e.Close(t.Context()))
	t.Logf("%d ran, %d were refused", ran.Load(), refused.Load())
}

// An attempt that its interceptor has left behind may be refused just as the call ends: it is none of its
// business in what frame that was made.
func TestQuick_RefusedAsTheCallEnds(t *testing.T) {
	b := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
	var left sync.WaitGroup
	leaves := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			left.Go(func() {
				_, err := next(ctx, c)
				assert.ErrorIs(t, err, sluice.ErrRejected)
			})
			runtime.Gosched()
			return sluice.Result{Value: 7}, nil
		}
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{leaves, b}}))
	tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	require.NoError(t, b.Trip("x"))
	for range 5_000 {
		n, err := tool(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 7, n)
	}
	left.Wait()
	require.NoError(t, exec.Close(t.Context()))
}
