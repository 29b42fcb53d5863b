package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A random storm does not find races of hand-over: there is a test for each here, which
// tries both orders with some yielding between, and counts that both outcomes came about.

// yield lets others run n times.
func yield(n int) {
	for range n {
		runtime.Gosched()
	}
}

// held is a tool that says when it runs and ends when it is told to.
type held struct {
	running chan struct{}
	end     chan struct{}
}

func (h *held) run(context.Context) error {
	h.running <- struct{}{}
	<-h.end
	return nil
}

// raceRig is an executor with one slot, a tool that holds it, and one that counts.
func raceRig(t *testing.T, gates ...sluice.Interceptor) (*rig, *held, *gauge) {
	r := newRig(t, sluice.Config{Interceptors: gates})
	r.ctx = t.Context() // nobody records
	h := &held{make(chan struct{}), make(chan struct{})}
	g := new(gauge)
	r.tool(sluice.Spec{Name: "hold"}, h.run)
	r.tool(sluice.Spec{Name: "next"}, g.counts(0))
	return r, h, g
}

// until lets others run until what it asks for is so.
func (r *rig) until(what string, so func(sluice.Snapshot) bool) {
	r.t.Helper()
	for began := time.Now(); !so(r.Snapshot()); runtime.Gosched() {
		if time.Since(began) > 20*time.Second {
			s := r.Snapshot()
			r.t.Fatalf("waited 20s for %s: queued %d, in flight %d, lanes %v", what, s.Queued, s.InFlight, s.Lanes)
		}
	}
}

// A waiter's context ends just when it is granted the slot.
func TestHandOver_CancelAgainstGrant(t *testing.T) {
	for _, submit := range []bool{false, true} {
		t.Run(fmt.Sprint("submit ", submit), func(t *testing.T) {
			r, h, g := raceRig(t, atMost(1))
			defer r.end()
			granted, left := 0, 0
			for round := range rounds(2000) {
				hold := make(chan error, 1)
				go func() { hold <- r.call("hold") }()
				<-h.running
				ctx, cancel := context.WithCancel(r.ctx)
				got := make(chan error, 1)
				go func() {
					if submit {
						_, err := r.Submit(ctx, sluice.Request{Tool: "next"}).Wait(context.Background())
						got <- err
						return
					}
					got <- errOf(r.Invoke(ctx, sluice.Request{Tool: "next"}))
				}()
				r.until("a waiter", func(s sluice.Snapshot) bool { return s.Queued == 1 })
				before := g.total.Load()
				if round%2 == 0 {
					h.end <- struct{}{}
					yield(round / 2 % 12)
					cancel()
				} else {
					cancel()
					yield(round / 2 % 12)
					h.end <- struct{}{}
				}
				err := <-got
				require.NoError(t, <-hold)
				ran := g.total.Load() - before
				switch {
				case err == nil && ran == 1 && round%2 == 0: // never where it was cancelled first
					granted++
				case errors.Is(err, context.Canceled) && errors.Is(err, sluice.ErrRejected) && ran == 0:
					left++
				default:
					t.Fatalf("round %d: %v, and the tool ran %d times", round, err, ran)
				}
				// The slot is not lost: one more call runs.
				require.NoError(t, r.call("next"))
			}
			if (granted == 0 || left == 0) && !underRace {
				t.Errorf("%d granted, %d left: the race was not run", granted, left)
			}
		})
	}
}

// The same, where the waiter waits for a token and the timer grants it.
func TestHandOver_CancelAgainstTimer(t *testing.T) {
	granted, left := 0, 0
	for round := range rounds(300) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10, Burst: 1}), atMost(1))})
			defer r.end()
			var g gauge
			r.tool(sluice.Spec{Name: "work"}, g.counts(0))
			require.NoError(t, r.call("work"))
			ctx, cancel := context.WithCancel(r.ctx)
			got := make(chan error, 1)
			go func() {
				if round%2 == 0 {
					got <- errOf(r.Invoke(ctx, sluice.Request{Tool: "work"}))
				} else {
					got <- errOf(r.Submit(ctx, sluice.Request{Tool: "work"}).Wait(context.Background()))
				}
			}()
			synctest.Wait()
			time.Sleep(100 * ms) // the timer fires at the same instant
			yield(round % 12)
			cancel()
			err := <-got
			ran := g.total.Load() == 2
			if ran != (err == nil) || !ran && !errors.Is(err, context.Canceled) {
				t.Errorf("round %d: %v, ran %v", round, err, ran)
			}
			if ran {
				granted++
			} else {
				left++
			}
			// Whoever left has paid nothing.
			require.NoError(t, r.call("work"))
			want := 100 * ms
			if ran {
				want = 200 * ms
			}
			assert.Equal(t, want, r.at(), "round %d: the next call went at", round)
		})
	}
	if granted == 0 && !underRace {
		t.Errorf("%d granted, %d left: the race was not run", granted, left)
	}
}

// A waiter's context ends just when its own limit of time does.
func TestHandOver_DeadlineAgainstMaxWait(t *testing.T) {
	r, h, g := raceRig(t, atMost(1))
	defer r.end()
	r.tool(sluice.Spec{Name: "hasty", Policy: sluice.Policy{MaxWait: 20 * time.Microsecond}}, g.counts(0))
	hold := r.Submit(r.ctx, sluice.Request{Tool: "hold"})
	<-h.running
	outs := map[error]int{}
	for round := range rounds(3000) {
		ctx, cancel := context.WithTimeout(r.ctx, time.Duration(10+round%30)*time.Microsecond)
		if round%3 == 0 {
			ctx, cancel = context.WithCancel(r.ctx)
			time.AfterFunc(time.Duration(10+round%30)*time.Microsecond, cancel)
		}
		var err error
		if round%2 == 0 {
			_, err = r.Invoke(ctx, sluice.Request{Tool: "hasty"})
		} else {
			_, err = r.Submit(ctx, sluice.Request{Tool: "hasty"}).Wait(context.Background())
		}
		var e *sluice.Error
		if !errors.As(err, &e) || !errors.Is(err, sluice.ErrRejected) {
			t.Fatalf("round %d: %v", round, err)
		}
		outs[e.Reason]++
		cancel()
	}
	h.end <- struct{}{}
	require.NoError(t, errOf(hold.Wait(context.Background())))
	require.NotZero(t, outs[sluice.ErrWaitTooLong])
	assert.Zero(t, g.total.Load())
}

// A newcomer does not take the slot that is handed to a waiter.
func TestHandOver_NewcomerAgainstWaiter(t *testing.T) {
	for round := range rounds(1000) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
			defer r.end()
			r.ctx = t.Context()
			var order log
			h := &held{make(chan struct{}), make(chan struct{})}
			r.tool(sluice.Spec{Name: "hold"}, h.run)
			work := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "work"}, func(_ context.Context, name string) (int, error) {
				order.add("%s", name)
				return 0, nil
			}))
			var wg sync.WaitGroup
			wg.Go(func() { assert.NoError(t, r.call("hold")) })
			<-h.running
			for i := range 3 {
				wg.Go(func() { assert.NoError(t, errOf(work(r.ctx, fmt.Sprint("waiter", i)))) })
				synctest.Wait()
			}
			wg.Go(func() { h.end <- struct{}{} })
			yield(round % 12)
			wg.Go(func() { assert.NoError(t, errOf(work(r.ctx, "newcomer"))) })
			wg.Wait()
			assert.Equal(t, "waiter0 waiter1 waiter2 newcomer", order.String(), "round %d: order", round)
		})
	}
}

// Close and calls that come: each call ends, none runs after Close has returned.
func TestHandOver_CloseAgainstInvoke(t *testing.T) {
	ok, closed := 0, 0
	for round := range rounds(10_000) {
		reg := sluice.NewToolRegistry()
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		var gates []sluice.Interceptor
		if round%2 == 0 {
			gates = interceptors(atMost(1))
		}
		e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{State: state, Interceptors: gates}))
		down := atomic.Bool{}
		inside := atomic.Int64{}
		rawTool(t, reg, sluice.Spec{Name: "work"}, func(context.Context) error {
			inside.Add(1)
			assert.False(t, down.Load(), "a tool runs after Close")
			runtime.Gosched()
			inside.Add(-1)
			return nil
		})
		var wg sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			wg.Go(func() {
				yield((round + i) % 5)
				if i == 2 {
					errs[i] = errOf(e.Submit(t.Context(), sluice.Request{Tool: "work"}).Wait(context.Background()))
				} else {
					errs[i] = errOf(e.Invoke(t.Context(), sluice.Request{Tool: "work"}))
				}
			})
		}
		wg.Go(func() {
			yield(round / 5 % 12)
			assert.NoError(t, e.Close(context.Background()))
			down.Store(true)
			assert.Zero(t, inside.Load(), "round %d: tools run after Close", round)
		})
		wg.Wait()
		for _, err := range errs {
			switch {
			case err == nil:
				ok++
			case errors.Is(err, sluice.ErrClosed) && errors.Is(err, sluice.ErrRejected):
				closed++
			default:
				t.Fatalf("round %d: %v", round, err)
			}
		}
		require.NoError(t, state.Close())
	}
	if (ok == 0 || closed == 0) && !underRace {
		t.Errorf("%d ran, %d refused: the race was not run", ok, closed)
	}
}

// Close while many are parked: all return.
func TestHandOver_CloseWhileParked(t *testing.T) {
	for _, n := range []int{100, 1000} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), rates(sluice.Rate{N: 1, Burst: 1}))})
			defer r.end()
			h := &held{make(chan struct{}), make(chan struct{})}
			r.tool(sluice.Spec{Name: "hold"}, h.run)
			r.tool(sluice.Spec{Name: "work"}, sleeps(0))
			go func() { _ = r.call("hold") }()
			<-h.running
			closed := atomic.Int64{}
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					var err error
					if i%2 == 0 {
						err = r.call("work")
					} else {
						err = errOf(r.Submit(r.ctx, sluice.Request{Tool: "work"}).Wait(context.Background()))
					}
					if errors.Is(err, sluice.ErrClosed) && errors.Is(err, sluice.ErrRejected) {
						closed.Add(1)
					} else {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			done := make(chan error)
			go func() { done <- r.Close(ctx) }()
			wg.Wait()
			if closed.Load() != int64(n) || r.at() != 0 {
				t.Errorf("%d of %d told at %v, want all at once", closed.Load(), n, r.at())
			}
			if err := <-done; !errors.Is(err, context.DeadlineExceeded) || r.at() != time.Second {
				t.Errorf("Close: %v at %v, want its context's end at 1s", err, r.at())
			}
			h.end <- struct{}{}
		})
	}
}

// An attempt whose time is over just when its code ends: whoever wins, the slot comes back
// once, nothing is sent to nobody, and no goroutine is left.
func TestHandOver_TimeoutAgainstReturn(t *testing.T) {
	outs := map[string]int{}
	for round := range rounds(400) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Timeout: 10 * ms, Interceptors: interceptors(atMost(2), breakerOf(sluice.CircuitBreakerConfig{}))})
			defer r.end()
			var g gauge
			r.tool(sluice.Spec{Name: "tie"}, func(ctx context.Context) error {
				switch round % 4 {
				case 0:
					time.Sleep(10 * ms)
				case 1:
					<-ctx.Done()
					yield(round % 12)
				case 2:
					time.Sleep(10 * ms)
					runtime.Goexit()
				case 3:
					<-ctx.Done()
					panic("late")
				}
				return nil
			})
			r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
			err := r.call("tie")
			var p *sluice.PanicError
			switch {
			case err == nil:
				outs["returned"]++
			case errors.Is(err, sluice.ErrTimeout):
				outs["timed out"]++
			case errors.As(err, &p):
				outs["panicked"]++
			default:
				t.Error(err)
			}
			synctest.Wait()
			r.idle()
			r.slotsFree("plain", &g, 2)
		})
	}
	if len(outs) < 2 && !underRace {
		t.Errorf("outcomes %v: the race was not run", outs)
	}
}

// A Submit's context ends while the call is being admitted, refused, or has run: its
// watch over the context does not end it twice.
func TestHandOver_SubmitWatch(t *testing.T) {
	r, h, _ := raceRig(t, limitsOf(sluice.Limit{Max: 1}), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))
	defer r.end()
	for round := range rounds(2000) {
		hold := r.Submit(r.ctx, sluice.Request{Tool: "hold"})
		<-h.running
		ctx, cancel := context.WithCancel(r.ctx)
		var wg sync.WaitGroup
		var f [2]*sluice.Future
		wg.Go(func() { f[0] = r.Submit(ctx, sluice.Request{Tool: "next"}) })
		wg.Go(func() { f[1] = r.Submit(ctx, sluice.Request{Tool: "next"}) }) // one of the two is refused
		wg.Go(func() { yield(round % 12); cancel() })
		wg.Go(func() { yield(round / 12 % 12); h.end <- struct{}{} })
		wg.Wait()
		for _, f := range f {
			if _, err := f.Wait(context.Background()); err != nil && !errors.Is(err, sluice.ErrRejected) {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		require.NoError(t, errOf(hold.Wait(context.Background())))
		cancel()
	}
}

// Changes under load: no call is lost or admitted by half of a change.
func TestHandOver_ReconfigureStorm(t *testing.T) {
	l := limitsOf(sluice.Limit{Max: 4}, sluice.Limit{Max: 2, Scope: sluice.ByTool})
	q := rates(sluice.Rate{N: 1_000_000, Burst: 1_000_000})
	b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1000})
	s := scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 10_000})
	r := newRig(t, sluice.Config{Interceptors: interceptors(s, b, q, l)})
	defer r.end()
	var all gauge
	for _, name := range []string{"x", "y", "z"} {
		r.tool(sluice.Spec{Name: name}, func(context.Context) error {
			all.enter()
			defer all.leave()
			runtime.Gosched()
			return nil
		})
	}
	var wg, changers sync.WaitGroup
	stop := atomic.Bool{}
	changes := atomic.Int64{}
	for n := range 2 {
		changers.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			for !stop.Load() {
				max := 1 + rnd.IntN(8)
				list := []sluice.Change{
					l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: max}, {Max: 1 + rnd.IntN(4), Scope: sluice.ByTool}}}),
					q.Change(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: int64(1000 + rnd.IntN(1_000_000))}}}),
					b.Change(sluice.CircuitBreakerConfig{Failures: 1000, Window: time.Duration(1+rnd.IntN(5)) * time.Second}),
					s.Change(sluice.PrioritySchedulerConfig{MaxQueue: 10_000, Ageing: 1 + rnd.IntN(8)}),
					r.reg.WithPolicy("x", sluice.Policy{Concurrency: rnd.IntN(3), Rates: make([]sluice.Rate, 0, 1)}),
				}
				if rnd.IntN(2) == 0 {
					list[4] = r.reg.WithPolicy("x", sluice.Policy{Rates: []sluice.Rate{{N: 1_000_000}}, Breaker: &sluice.BreakerPolicy{}})
				}
				rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				if err := sluice.Reconfigure("storm", list[:1+rnd.IntN(len(list))]...); err != nil {
					t.Error(err)
					return
				}
				changes.Add(1)
				_ = r.Snapshot()
				_ = r.Explain(r.ctx, sluice.Request{Tool: "y"})
				yield(5)
			}
		})
	}
	for i := range 24 {
		wg.Go(func() {
			for j := range rounds(200) {
				assert.NoError(t, r.call([]string{"x", "y", "z"}[(i+j)%3]))
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	changers.Wait()
	if n := int64(24 * rounds(200)); all.total.Load() != n || all.peak.Load() > 8 {
		t.Errorf("%d ran, %d at once: want %d and at most 8", all.total.Load(), all.peak.Load(), n)
	}
	assert.NotZero(t, changes.Load(), "nothing was changed")
}

// A change of a tool's policy against its removal and replacement.
func TestHandOver_PolicyAgainstRegistry(t *testing.T) {
	for round := range rounds(500) {
		reg := sluice.NewToolRegistry()
		r := rigOver(t, reg, sluice.Config{Interceptors: interceptors(atMost(2))})
		work := func(context.Context, any) (int, error) { return 0, nil }
		sluice.Must(sluice.Register(reg, sluice.Spec{Name: "work"}, work))
		require.NoError(t, r.call("work"))
		var wg sync.WaitGroup
		wg.Go(func() {
			yield(round % 12)
			for i := range 5 {
				err := sluice.Reconfigure("test", reg.WithPolicy("work", sluice.Policy{Concurrency: 1 + i, Rates: []sluice.Rate{{N: 1_000_000}}[:i%2]}))
				if err != nil && round%2 == 0 {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			yield(round / 12 % 12)
			for range 5 {
				if round%2 == 0 {
					sluice.Must(sluice.Replace(reg, sluice.Spec{Name: "work"}, work))
				} else {
					reg.Remove("work")
					sluice.Must(sluice.Register(reg, sluice.Spec{Name: "work"}, work))
				}
			}
		})
		wg.Go(func() {
			for range 5 {
				if err := r.call("work"); err != nil && !errors.Is(err, sluice.ErrUnknownTool) {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		r.end()
	}
}

// Everything at once.
func TestHandOver_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const slots, perTool, weight = 8, 4, 10
	l := limitsOf(sluice.Limit{Max: slots}, sluice.Limit{Max: perTool, Scope: sluice.ByTool}, sluice.Limit{Max: weight, Unit: "MB"}, sluice.Limit{Max: 6, Scope: sluice.ByTenant, MaxKeys: 8})
	q := rates(sluice.Rate{N: 200_000, Burst: 50})
	b := breakerOf(sluice.CircuitBreakerConfig{Failures: 30, Cooldown: ms})
	s := scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 40, MaxPerTenant: 20, Shed: true, TenantWeights: map[string]int{"t1": 3}})
	// Hedges sometimes: the slower attempt loses.
	hedge := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name == "wait" {
			return next
		}
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			if len(c.ID)%3 != 0 {
				return next(ctx, c)
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			type out struct {
				res sluice.Result
				err error
			}
			outs := make(chan out, 2)
			for range 2 {
				go func() {
					o := out{err: errors.New("exited")}
					defer func() { outs <- o }()
					o.res, o.err = next(ctx, c)
				}()
			}
			o := <-outs
			cancel()
			<-outs
			return o.res, o.err
		}
	})
	r := newRig(t, sluice.Config{Interceptors: interceptors(hedge, s, q, b, l), MaxWait: 200 * ms})
	var all gauge
	mb := atomic.Int64{}
	body := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			all.enter()
			defer all.leave()
			if n := mb.Add(1); n > weight {
				t.Errorf("seed %d: %d MB held, limit %d", seed, n, weight)
			}
			defer mb.Add(-1)
			switch rand.IntN(20) {
			case 0:
				panic("storm")
			case 1:
				runtime.Goexit()
			case 2, 3:
				return errTool
			case 4:
				<-time.After(3 * ms) // deaf, longer than the timeout of one tool
			case 5:
				sluice.ReportThrottle(ctx, 10*time.Microsecond)
			case 6, 7:
				_, _ = r.Invoke(ctx, sluice.Request{Tool: "leaf"})
				_, _ = r.Submit(ctx, sluice.Request{Tool: "leaf"}).Wait(ctx)
			default:
				yield(int(d))
			}
			return nil
		}
	}
	r.tool(sluice.Spec{Name: "leaf"}, func(context.Context) error { yield(2); return nil })
	r.tool(sluice.Spec{Name: "plain"}, body(3))
	r.tool(sluice.Spec{Name: "timed", Policy: sluice.Policy{Timeout: ms}}, body(2))
	r.tool(sluice.Spec{Name: "rated", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 20_000, Burst: 10}}, Breaker: &sluice.BreakerPolicy{Failures: 50, Cooldown: ms}}}, body(1))
	var wg, extra sync.WaitGroup
	stop := atomic.Bool{}
	extra.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for !stop.Load() {
			assert.NoError(t, sluice.Reconfigure("storm", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
				{Max: 1 + rnd.IntN(slots)}, {Max: 1 + rnd.IntN(perTool), Scope: sluice.ByTool}, {Max: 1 + rnd.IntN(weight), Unit: "MB"}, {Max: 6, Scope: sluice.ByTenant, MaxKeys: 8}}})))
			if rnd.IntN(5) == 0 {
				b.Trip("plain")
				yield(3)
				b.Reset("plain")
			}
			if rnd.IntN(5) == 0 {
				q.Pause("", time.Duration(rnd.IntN(100))*time.Microsecond)
			}
			_ = r.Snapshot()
			_ = r.Explain(r.ctx, sluice.Request{Tool: "rated"})
			yield(10)
		}
	})
	for i := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
			for range 50 {
				ctx := r.as(sluice.Priority(1+rnd.IntN(9)), fmt.Sprint("t", rnd.IntN(10)))
				ctx, cancel := context.WithCancel(ctx)
				if rnd.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(2000))*time.Microsecond)
				}
				tool := []string{"plain", "timed", "rated", "leaf", "nobody"}[rnd.IntN(5)]
				var err error
				if rnd.IntN(2) == 0 {
					_, err, _ = r.invokeApart(ctx, sluice.Request{Tool: tool})
				} else {
					f := r.Submit(ctx, sluice.Request{Tool: tool})
					yield(rnd.IntN(5))
					if rnd.IntN(5) == 0 {
						cancel()
					}
					_, err = f.Wait(context.Background())
				}
				if tool == "nobody" && !errors.Is(err, sluice.ErrUnknownTool) {
					t.Errorf("seed %d: %v", seed, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	stop.Store(true)
	extra.Wait()
	require.NoError(t, sluice.Reconfigure("storm", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
		{Max: slots}, {Max: perTool, Scope: sluice.ByTool}, {Max: weight, Unit: "MB"}, {Max: 6, Scope: sluice.ByTenant, MaxKeys: 8}}})))
	r.until("abandoned calls to end", func(s sluice.Snapshot) bool { return s.InFlight == 0 })
	r.idle()
	if p := all.peak.Load(); p > slots {
		t.Errorf("seed %d: %d in flight, limit %d", seed, p, slots)
	}
	// All slots are free: as many calls as the limit run side by side.
	b.Reset("wait")
	require.NoError(t, q.Lift(""))
	in, out := make(chan struct{}), make(chan struct{})
	r.tool(sluice.Spec{Name: "wait"}, func(context.Context) error {
		in <- struct{}{}
		<-out
		return nil
	})
	var last sync.WaitGroup
	for range perTool {
		last.Go(func() { assert.NoError(t, r.call("wait")) })
	}
	for range perTool {
		<-in
	}
	for range perTool {
		out <- struct{}{}
	}
	last.Wait()
	r.end()
}

// Waiters' contexts end at the very instant at which tokens come in for them and for others,
// before the timer has fired: whoever starts at that instant is told, whoever left is not, and
// nobody is forgotten.
func TestHandOver_CancelOfWhatIsDue(t *testing.T) {
	for _, submit := range []bool{false, true} {
		t.Run(fmt.Sprint("submit ", submit), func(t *testing.T) {
			var ran, left atomic.Int64
			for round := range rounds(100) {
				bubble(t, func(t *testing.T) {
					const keys = 6
					r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
						Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 1, Per: time.Second}}})))})
					defer r.end()
					var g gauge
					r.tool(sluice.Spec{Name: "x"}, g.counts(0))
					var ctxs [keys]context.Context
					var cancels [keys]context.CancelFunc
					for i := range keys {
						pc := r.pc
						pc.Tenant = fmt.Sprint(i)
						ctxs[i], cancels[i] = context.WithCancel(sluice.WithPipelineContext(t.Context(), pc))
						require.NoError(t, errOf(r.Invoke(ctxs[i], sluice.Request{Tool: "x"})))
					}
					go func() {
						time.Sleep(time.Second)
						for i := range 1 + round%keys {
							cancels[i]()
						}
					}()
					parallel(keys, func(i int) {
						var err error
						if submit {
							_, err = r.Submit(ctxs[i], sluice.Request{Tool: "x"}).Wait(context.Background())
						} else {
							_, err = r.Invoke(ctxs[i], sluice.Request{Tool: "x"})
						}
						switch {
						case err == nil:
							ran.Add(1)
						case i <= round%keys && errors.Is(err, context.Canceled) && errors.Is(err, sluice.ErrRejected):
							left.Add(1)
						default:
							t.Errorf("call %d: %v", i, err)
						}
					})
					assert.Equal(t, time.Second, r.at(), "it took")
				})
			}
			if (ran.Load() == 0 || left.Load() == 0) && !underRace {
				t.Errorf("%d ran, %d left: the race was not run", ran.Load(), left.Load())
			}
		})
	}
}

// An attempt that outlives its call may still wait in the queue when the executor is closed and
// no call is left. Close refuses it before the gates belong to nobody: whoever lists them next
// finds nobody in their queues.
func TestHandOver_CloseAgainstAnAttemptLeftBehind(t *testing.T) {
	taken := 0
	for range rounds(300) {
		q := rates(sluice.Rate{N: 1000})
		var left sync.WaitGroup
		second := make(chan struct{})
		hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				assert.NoError(t, q.Pause("", time.Hour))
				left.Go(func() {
					_, err := next(context.Background(), c)
					assert.ErrorIs(t, err, sluice.ErrRejected, "how the attempt ended")
				})
				<-second
				return res, err
			}
		})
		reg, other := sluice.NewToolRegistry(), sluice.NewToolRegistry()
		rawTool(t, reg, sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		rawTool(t, other, sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: interceptors(hedge, q)}))
		live := sluice.Must(sluice.NewExecutor(other, sluice.Config{})) // so that other belongs to a domain
		got := make(chan error, 1)
		go func() { got <- errOf(e.Invoke(t.Context(), sluice.Request{Tool: "x"})) }()
		for e.Snapshot().Queued == 0 {
			runtime.Gosched()
		}
		close(second)
		require.NoError(t, <-got)
		closed := make(chan struct{})
		go func() {
			assert.NoError(t, e.Close(context.Background()))
			close(closed)
		}()
		next, err := sluice.NewExecutor(other, sluice.Config{Interceptors: interceptors(q)})
		for err != nil {
			next, err = sluice.NewExecutor(other, sluice.Config{Interceptors: interceptors(q)})
		}
		if s := next.Snapshot(); len(s.Gates) != 1 || s.Gates[0].Waiting != 0 {
			taken++
		}
		f := next.Submit(t.Context(), sluice.Request{Tool: "x"})
		<-closed
		left.Wait()
		require.NoError(t, next.Close(t.Context()))
		if _, err := f.Wait(t.Context()); !errors.Is(err, sluice.ErrClosed) {
			t.Errorf("the next executor's call: %v", err)
		}
		require.NoError(t, live.Close(t.Context()))
	}
	if taken > 0 {
		t.Errorf("%d times the next executor found somebody in the queue", taken)
	}
}

// An interceptor inside the gates returns just when the code that it has left behind ends, long
// after the call was out of time: once Close has returned, nothing of it is counted any more.
func TestHandOver_CloseAgainstTheLastGivingBack(t *testing.T) {
	for range rounds(500) {
		bubble(t, func(t *testing.T) {
			leaves := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					go next(ctx, c)
					time.Sleep(2 * ms)
					return sluice.Result{}, errTool
				}
			})
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(atMost(20), leaves), Timeout: ms}))
			work := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { time.Sleep(2 * ms); return 0, nil }))
			parallel(20, func(i int) {
				_, err := work(t.Context(), i)
				assert.ErrorIs(t, err, sluice.ErrTimeout)
			})
			require.NoError(t, e.Close(t.Context()))
			if s := e.Snapshot(); s.Abandoned != 0 || s.InFlight != 0 {
				t.Errorf("closed, and %d abandoned, %d in flight", s.Abandoned, s.InFlight)
			}
		})
	}
}

// Attempts of one call begin and end at once: each holds and gives back what is its own.
func TestHandOver_AttemptAgainstAttempt(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(atOnce, atMost(4))})
	r.ctx = t.Context()
	var g gauge
	r.tool(sluice.Spec{Name: "x"}, g.counts(0))
	calls := rounds(1000)
	for range calls {
		require.NoError(t, r.call("x"))
	}
	assert.Equal(t, int64(2*calls), g.total.Load(), "attempts")
	r.end()
}
