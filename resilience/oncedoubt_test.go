package resilience_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// doubts holds that a call of o at once is told that its key is in doubt, since so long after the start.
func (s *shop) doubts(o order, since time.Duration) {
	s.t.Helper()
	began := time.Now()
	_, err := s.pay(s.ctx, o)
	require.Zero(s.t, time.Since(began), "at once")
	var x *resilience.OnceInDoubtError
	require.ErrorAs(s.t, err, &x)
	require.Equal(s.t, key(o.No), x.OnceKey)
	require.Equal(s.t, since, x.Since.Sub(s.start))
	require.NotErrorIs(s.t, err, sluice.ErrRejected, "the tool may have run")
	require.Equal(s.t, "once_in_doubt", sluice.CodeOf(err))
}

// gives holds that a call of o is answered with the n-th execution's result.
func (s *shop) gives(o order, n int) {
	s.t.Helper()
	p, err := s.pay(s.ctx, o)
	require.NoError(s.t, err)
	require.Equal(s.t, n, p.N)
}

var aSecond = sluice.Spec{Policy: sluice.Policy{Timeout: time.Second}}

// ignoring is code that ignores its context in its first execution, for so long, and ends with err then.
func ignoring(d time.Duration, err error) func(context.Context, int) error {
	return func(_ context.Context, n int) error {
		if n > 1 {
			return nil
		}
		time.Sleep(d)
		return err
	}
}

// A key is in doubt while code goes on whose caller has left, and what the code gives then is what duplicates get.
func TestOnce_LateCode(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{{"a result", nil, 1}, {"an error", errBoom, 2}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newShop(t, resilience.OnceConfig{}, aSecond, ignoring(time.Minute, tt.err))
				_, err := s.pay(s.ctx, order{"a", 1})
				require.ErrorIs(t, err, sluice.ErrTimeout)
				s.doubts(order{"a", 1}, time.Second)
				time.Sleep(time.Minute - time.Second - 1)
				s.doubts(order{"a", 1}, time.Second)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				s.gives(order{"a", 1}, tt.want)
				s.end()
			})
		})
	}
}

// Code that gives its result at the very instant at which its time is over has had its effect: the result is kept,
// whoever is first to know.
func TestOnce_ResultAtTheLastMoment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{}, aSecond, lasts(time.Second))
		late := 0
		for i := range 500 {
			o := order{string(rune('a' + i)), 1}
			if _, err := s.pay(s.ctx, o); err != nil {
				require.ErrorIs(t, err, sluice.ErrTimeout)
				late++
			}
			synctest.Wait()
			s.gives(o, i+1)
		}
		t.Logf("%d of 500 were late", late)
		s.end()
	})
}

// Without the inner part it is not known how late code has ended, nor what a layer further in has done that answers for
// itself: the key is in doubt until its time is over, or somebody decides.
func TestOnce_WithoutInner(t *testing.T) {
	open := func(t *testing.T, gates ...sluice.Interceptor) *shop {
		s := openShop(t, resilience.OnceConfig{DoubtTTL: time.Hour}, gates...)
		s.sell(aSecond, ignoring(time.Minute, nil))
		return s
	}
	for name, gates := range map[string][]sluice.Interceptor{"none": {}, "not listed": {anyNumber()}, "listed where it sees nothing": {nil}, "before the gates": {nil, anyNumber()}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := open(t, gates...)
				for _, no := range []string{"a", "b", "c"} {
					_, err := s.pay(s.ctx, order{no, 1})
					require.ErrorIs(t, err, sluice.ErrTimeout)
					s.runs.Store(0)
				}
				s.runs.Store(1)
				time.Sleep(time.Hour - 2*time.Second - 1)
				s.doubts(order{"a", 1}, time.Second)
				require.NoError(t, s.once.Resolve(s.ctx, key("b"), receipt{7, nil}))
				s.gives(order{"b", 1}, 7)
				require.NoError(t, s.once.Forget(s.ctx, key("c")))
				s.gives(order{"c", 1}, 2)
				time.Sleep(time.Nanosecond)
				s.gives(order{"a", 1}, 3)
				s.end()
			})
		})
	}
	layer := func(f func(ctx context.Context, c sluice.Call, next sluice.Handler) (sluice.Result, error)) sluice.Interceptor {
		return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return f(ctx, c, next) }
		})
	}
	denies := layer(func(context.Context, sluice.Call, sluice.Handler) (sluice.Result, error) {
		return sluice.Result{}, errBoom
	})
	bubble(t, func(t *testing.T) {
		s := open(t, denies, anyNumber())
		_, err := s.pay(s.ctx, order{"a", 1})
		require.ErrorIs(t, err, sluice.ErrDenied)
		s.doubts(order{"a", 1}, 0)
		s.end()
	})
	bubble(t, func(t *testing.T) {
		s := open(t, denies, anyNumber(), nil)
		for range 2 { // the inner part would have seen the code begin
			_, err := s.pay(s.ctx, order{"a", 1})
			require.ErrorIs(t, err, sluice.ErrDenied)
		}
		s.end()
	})
	leaves := layer(func(ctx context.Context, c sluice.Call, next sluice.Handler) (sluice.Result, error) {
		c.Go(func() { _, _ = next(ctx, c) })
		time.Sleep(time.Second)
		return sluice.Result{}, errBoom
	})
	bubble(t, func(t *testing.T) { // a layer that answers before its next has
		s := openShop(t, resilience.OnceConfig{}, leaves, anyNumber(), nil)
		s.sell(sluice.Spec{}, ignoring(time.Minute, nil))
		_, err := s.pay(s.ctx, order{"a", 1})
		require.ErrorIs(t, err, errBoom)
		s.doubts(order{"a", 1}, time.Second)
		time.Sleep(time.Minute)
		s.gives(order{"a", 1}, 1)
		s.end()
	})
	breaks := layer(func(ctx context.Context, c sluice.Call, next sluice.Handler) (sluice.Result, error) {
		_, _ = next(ctx, c)
		panic(errBoom)
	})
	for _, code := range []time.Duration{0, time.Minute} {
		bubble(t, func(t *testing.T) { // one that panics
			s := openShop(t, resilience.OnceConfig{}, breaks, anyNumber(), nil)
			s.sell(aSecond, ignoring(code, nil))
			_, err := s.pay(s.ctx, order{"a", 1})
			require.ErrorIs(t, err, errBoom)
			if code > 0 {
				s.doubts(order{"a", 1}, time.Second)
			}
			s.end()
		})
	}
}

// The lease of a call that takes long is renewed, and nobody in another process executes or doubts.
func TestOnce_LeaseIsRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		state := newState(t, sluice.SharedStateConfig{})
		conf := resilience.OnceConfig{State: state, Lease: time.Second, DoubtTTL: time.Second, TTL: time.Hour}
		a := newShop(t, conf, sluice.Spec{}, lasts(time.Minute))
		b := newShop(t, conf, sluice.Spec{}, works)
		go a.pay(a.ctx, order{"a", 1})
		synctest.Wait()
		b.gives(order{"a", 1}, 1)
		require.Equal(t, time.Minute, time.Since(b.start))
		require.Zero(t, b.runs.Load())
		a.end()
		b.end()
	})
}

// copied is what there is of a state, in another one.
func copied(t *testing.T, s *sluice.SharedState) *sluice.SharedState {
	t.Helper()
	data, err := json.Marshal(s)
	require.NoError(t, err)
	to := newState(t, sluice.SharedStateConfig{})
	require.NoError(t, json.Unmarshal(data, to))
	return to
}

// If a process dies the key is in doubt when the lease has run out, and not free before its time is over; those who wait
// learn it at that instant.
func TestOnce_ProcessDies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		state := newState(t, sluice.SharedStateConfig{})
		dead := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, lasts(10*time.Minute))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = dead.pay(dead.ctx, order{"a", 1})
		}()
		time.Sleep(35 * time.Second) // so the lease was renewed last at 30 s
		left := copied(t, state)
		s := newShop(t, resilience.OnceConfig{State: left, DoubtTTL: time.Hour}, sluice.Spec{}, works)
		s.start = dead.start
		for _, p := range s.all(s.ctx, 3, order{"a", 1}) {
			require.Equal(t, "once_in_doubt", sluice.CodeOf(p.err))
			require.Equal(t, time.Minute, p.at)
		}
		s.doubts(order{"a", 1}, time.Minute)
		require.ErrorContains(t, s.once.Forget(s.ctx, key("b")), "absent")
		require.EqualError(t, s.once.Resolve(s.ctx, key("b"), 1), "resilience: Once.Resolve: the key is not in doubt")
		again := newShop(t, resilience.OnceConfig{State: copied(t, left)}, sluice.Spec{}, works)
		require.NoError(t, again.once.Resolve(s.ctx, key("a"), json.RawMessage(`{"n":5,"lines":null}`)))
		again.gives(order{"a", 1}, 5)
		require.NoError(t, s.once.Forget(s.ctx, key("a")))
		s.gives(order{"a", 1}, 1)
		<-done
		for _, x := range []*shop{dead, s, again} {
			x.end()
		}
	})
}

// A process that was only held up, and goes on, ends the doubt; unless it was decided otherwise meanwhile: then its
// result changes nothing.
func TestOnce_ProcessGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		state := newState(t, sluice.SharedStateConfig{})
		conf := resilience.OnceConfig{State: state}
		a := newShop(t, conf, aSecond, lasts(time.Minute))
		b := newShop(t, conf, sluice.Spec{}, works)
		for _, no := range []string{"a", "b", "c"} {
			_, err := a.pay(a.ctx, order{no, 1})
			require.ErrorIs(t, err, sluice.ErrTimeout)
		}
		b.doubts(order{"a", 1}, time.Second)
		require.NoError(t, b.once.Forget(b.ctx, key("b")))
		b.gives(order{"b", 1}, 1)
		require.NoError(t, b.once.Resolve(b.ctx, key("c"), receipt{9, nil}))
		time.Sleep(2 * time.Minute)
		b.gives(order{"a", 1}, 1)
		b.gives(order{"b", 1}, 1)
		b.gives(order{"c", 1}, 9)
		require.EqualValues(t, 3, a.runs.Load())
		require.EqualValues(t, 1, b.runs.Load())
		a.end()
		b.end()
	})
}

// Code that ends late, and with an error, frees no key that another call has by then.
func TestOnce_LateErrorOfAForgottenCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{Policy: sluice.Policy{Timeout: time.Hour}}, func(_ context.Context, n int) error {
			time.Sleep(time.Minute)
			if n == 1 {
				return errBoom
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		_, err := s.pay(ctx, order{"a", 1})
		require.Error(t, err)
		require.NoError(t, s.once.Forget(s.ctx, key("a")))
		for _, p := range s.all(s.ctx, 2, order{"a", 1}) {
			require.NoError(t, p.err)
			require.Equal(t, 2, p.receipt.N)
		}
		s.gives(order{"a", 1}, 2)
		s.end()
	})
	bubble(t, func(t *testing.T) { // in another process, at the instant at which that looks
		state := newState(t, sluice.SharedStateConfig{})
		a := newShop(t, resilience.OnceConfig{State: state}, aSecond, ignoring(time.Minute, errBoom))
		b := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, lasts(2*time.Minute))
		_, err := a.pay(a.ctx, order{"a", 1})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.NoError(t, b.once.Forget(b.ctx, key("a")))
		go b.pay(b.ctx, order{"a", 1})
		time.Sleep(90 * time.Second)
		a.gives(order{"a", 1}, 1)
		require.EqualValues(t, 1, b.runs.Load())
		require.EqualValues(t, 1, a.runs.Load())
		a.end()
		b.end()
	})
}

// A call without a key that is nested in one with a key is none of its attempts.
func TestOnce_NestedCallWithoutAKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := openShop(t, resilience.OnceConfig{}, anyNumber(), nil)
		s.sell(aSecond, func(ctx context.Context, n int) error {
			if n > 1 {
				return nil
			}
			_, err := s.pay(ctx, order{"none", 1})
			require.NoError(t, err)
			time.Sleep(time.Minute)
			return errBoom
		})
		_, err := s.pay(s.ctx, order{"a", 1})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		time.Sleep(time.Minute)
		s.gives(order{"a", 1}, 3)
		s.end()
	})
}

// What is under way is not forgotten, nor resolved.
func TestOnce_DecisionsTooEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{}, lasts(time.Minute))
		go s.pay(s.ctx, order{"a", 1})
		synctest.Wait()
		require.EqualError(t, s.once.Forget(s.ctx, key("a")), "resilience: Once.Forget: a call with the key is under way")
		require.EqualError(t, s.once.Resolve(s.ctx, key("a"), 1), "resilience: Once.Resolve: the key is not in doubt")
		require.EqualError(t, s.once.Resolve(s.ctx, key("a"), make(chan int)), "resilience: Once.Resolve: the result has no JSON: json: unsupported type: chan int")
		require.EqualError(t, s.once.Forget(s.ctx, key("")), "resilience: the key has 0 bytes: must have 1 to 255")
		require.ErrorIs(t, s.once.Forget(context.Background(), key("a")), sluice.ErrNoState)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, s.once.Forget(s.ctx, key("a")), "a result may be")
		s.gives(order{"a", 1}, 2)
		s.end()
	})
}

// Whoever waits leaves when its context ends, and takes nothing along; a leader that leaves hands over at once.
func TestOnce_WhoLeaves(t *testing.T) {
	minds := func(ctx context.Context, _ int) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Second):
			return nil
		}
	}
	gone := errors.New("gone")
	bubble(t, func(t *testing.T) {
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{}, minds)
		ctx, cancel := context.WithCancelCause(s.ctx)
		time.AfterFunc(time.Second, func() { cancel(gone) })
		list := s.all(ctx, 3, order{"a", 1})
		require.ErrorIs(t, list[0].err, context.Canceled)
		require.Equal(t, time.Second, list[0].at)
		for _, p := range list[1:] {
			require.NoError(t, p.err)
			require.Equal(t, receipt{2, []string{"a"}}, p.receipt)
			require.Equal(t, 11*time.Second, p.at)
		}
		s.end()
	})
	bubble(t, func(t *testing.T) { // a follower, here and in another process
		state := newState(t, sluice.SharedStateConfig{})
		a := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, minds)
		b := newShop(t, resilience.OnceConfig{State: state}, sluice.Spec{}, minds)
		go a.pay(a.ctx, order{"a", 1})
		synctest.Wait()
		for _, s := range []*shop{a, b} {
			began := time.Now()
			ctx, cancel := context.WithCancelCause(s.ctx)
			time.AfterFunc(2*time.Second, func() { cancel(gone) })
			_, err := s.pay(ctx, order{"a", 1})
			require.ErrorIs(t, err, gone)
			require.ErrorIs(t, err, sluice.ErrRejected)
			require.Equal(t, 2*time.Second, time.Since(began))
		}
		b.gives(order{"a", 1}, 1)
		require.Equal(t, 10*time.Second, time.Since(a.start))
		a.end()
		b.end()
	})
	bubble(t, func(t *testing.T) { // by a Timeout further out
		total := timeout(t, resilience.TimeoutConfig{Total: 5 * time.Second, Tools: func(s sluice.Spec) bool { return s.Name == "y" }})
		once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: func(sluice.Call) (string, bool) { return "k", true }}))
		r := newRig(t, sluice.Config{}, total, once, anyNumber(), once.Inner())
		f := search(r, "y", readOnly, func(_ context.Context, n int) error { time.Sleep(time.Minute); return nil })
		_, err := f(r.ctx, "a")
		require.ErrorIs(t, err, sluice.ErrTimeout)
		_, err = f(r.ctx, "a")
		require.Equal(t, "once_in_doubt", sluice.CodeOf(err))
		time.Sleep(time.Minute)
		p, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 1, p.N)
		r.end()
	})
}

// Who is refused leaves the key free, and each who waits has a chance of its own.
func TestOnce_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		s := openShop(t, resilience.OnceConfig{}, limit, nil)
		s.sell(sluice.Spec{}, lasts(time.Second))
		slow := s.tool(sluice.Spec{Name: "slow"}, lasts(10*time.Second))
		go slow(s.ctx)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		list := s.all(ctx, 3, order{"a", 1})
		require.ErrorIs(t, list[0].err, sluice.ErrWaitTooLong)
		for _, p := range list[1:] {
			require.NoError(t, p.err)
			require.Equal(t, receipt{1, []string{"a"}}, p.receipt)
			require.Equal(t, 11*time.Second, p.at)
		}
		s.end()
	})
	for _, inner := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
			gates := []sluice.Interceptor{breaker}
			if inner {
				gates = append(gates, nil)
			}
			s := openShop(t, resilience.OnceConfig{}, gates...)
			s.sell(sluice.Spec{}, works)
			s.gives(order{"a", 1}, 1)
			require.NoError(t, breaker.Trip("pay"))
			_, err := s.pay(s.ctx, order{"b", 1})
			require.ErrorIs(t, err, sluice.ErrBreakerOpen)
			s.gives(order{"a", 1}, 1)
			require.NoError(t, breaker.Reset("pay"))
			s.gives(order{"b", 1}, 2)
			s.end()
		})
	}
}

// Retries further in are one execution; a key is refused at once within a call with it, and counts elsewhere.
func TestOnce_InOtherLayers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := openShop(t, resilience.OnceConfig{}, retry(t, resilience.RetryConfig{}), anyNumber(), nil)
		s.sell(sluice.Spec{Hints: readOnly}, func(_ context.Context, n int) error {
			if n < 3 {
				return errBoom
			}
			return nil
		})
		for _, p := range s.all(s.ctx, 3, order{"a", 1}) {
			require.NoError(t, p.err)
			require.Equal(t, 3, p.receipt.N)
			require.Equal(t, 300*ms, p.at)
		}
		s.end()
	})
	bubble(t, func(t *testing.T) {
		s := openShop(t, resilience.OnceConfig{}, anyNumber(), nil)
		var same, other error
		s.sell(sluice.Spec{}, func(ctx context.Context, n int) error {
			if n == 1 {
				_, same = s.pay(ctx, order{"a", 1})
				_, other = s.pay(ctx, order{"b", 1})
				time.Sleep(time.Second)
			}
			return nil
		})
		for _, p := range s.all(s.ctx, 2, order{"a", 1}) {
			require.NoError(t, p.err)
			require.Equal(t, 1, p.receipt.N)
		}
		require.ErrorIs(t, same, sluice.ErrRejected)
		require.ErrorContains(t, same, "nested in one with the same key")
		require.NoError(t, other)
		s.gives(order{"b", 1}, 2)
		s.end()
	})
	bubble(t, func(t *testing.T) { // of a call that Submit has made
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{}, lasts(time.Second))
		var list []*sluice.Future
		for range 3 {
			list = append(list, s.Submit(s.ctx, sluice.Request{Tool: "pay", Input: order{"a", 1}}))
		}
		for _, f := range list {
			res, err := f.Wait(s.ctx)
			require.NoError(t, err)
			require.Equal(t, receipt{1, []string{"a"}}, res.Value)
		}
		s.end()
	})
	bubble(t, func(t *testing.T) { // a failing result reaches who waits for it, and is not kept
		once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: byNumber}))
		classify := func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeFailure }
		s := &shop{rig: newRig(t, sluice.Config{Classify: classify}, once, anyNumber(), once.Inner()), once: once}
		n := 0
		s.pay = sluice.Must(sluice.Wrap(s.Executor, sluice.Spec{Name: "pay"}, func(context.Context, order) (receipt, error) {
			time.Sleep(time.Second)
			n++
			return receipt{N: n}, nil
		}))
		for _, p := range s.all(s.ctx, 3, order{"a", 1}) {
			require.NoError(t, p.err)
			require.Equal(t, 1, p.receipt.N)
		}
		s.gives(order{"a", 1}, 2)
		s.end()
	})
	bubble(t, func(t *testing.T) { // a rule that panics ends its call, and nothing else
		s := newShop(t, resilience.OnceConfig{Errors: func(error) bool { panic(errBoom) }}, sluice.Spec{}, func(_ context.Context, n int) error {
			if time.Sleep(time.Second); n < 3 {
				runtime.Gosched()
				return errBoom
			}
			return nil
		})
		list := s.all(s.ctx, 3, order{"a", 1})
		var panicked *sluice.PanicError
		require.ErrorAs(t, list[0].err, &panicked)
		codes := map[string]int{}
		for _, p := range list {
			codes[sluice.CodeOf(p.err)]++
		}
		require.Equal(t, map[string]int{"panic": 2, "": 1}, codes)
		s.end()
	})
}

// What a fallback further in has answered is not what the tool has done: a duplicate of a call that failed executes,
// one of a call whose code goes on does not, and has the tool's own result when that has ended.
func TestOnce_FallbackFurtherIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		instead := fallback(t, resilience.FallbackConfig{Func: func(context.Context, sluice.Call, error) (any, error) { return receipt{N: 99}, nil }})
		s := newShop(t, resilience.OnceConfig{}, sluice.Spec{Policy: sluice.Policy{Timeout: time.Second}}, func(_ context.Context, n int) error {
			if n == 1 {
				return errBoom
			}
			time.Sleep(time.Minute)
			return nil
		}, instead)
		pay := func() (int, error) {
			p, err := s.pay(s.ctx, order{No: "1"})
			return p.N, err
		}
		for want := range 2 { // the first fails, the second goes on
			n, err := pay()
			require.NoError(t, err)
			require.Equal(t, 99, n)
			require.EqualValues(t, want+1, s.runs.Load())
		}
		_, err := pay()
		var doubt *resilience.OnceInDoubtError
		require.ErrorAs(t, err, &doubt)
		time.Sleep(time.Minute)
		n, err := pay()
		require.NoError(t, err)
		require.Equal(t, 2, n, "the tool's own")
		require.EqualValues(t, 2, s.runs.Load())
		s.end()
	})
}
