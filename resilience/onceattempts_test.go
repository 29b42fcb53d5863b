package resilience_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// attempts is a tool whose n-th run takes so long, whatever its context says, and ends so; further ones work at once.
func attempts(list ...try) func(context.Context, int) error {
	return func(_ context.Context, n int) error {
		if n > len(list) {
			return nil
		}
		time.Sleep(list[n-1].d)
		return list[n-1].ends()
	}
}

// Of several attempts a call ends with what one has come to. Another that goes on, or has had its effect when nobody
// waited for it any more, counts as much: nobody executes again until it is known that there was none.
func TestOnce_OtherAttempts(t *testing.T) {
	fails, gives := func() error { return errBoom }, func() error { return nil }
	hedges := func(t *testing.T) sluice.Interceptor {
		return hedge(t, resilience.HedgeConfig{Tools: func(sluice.Spec) bool { return true }})
	}
	repeats := func(t *testing.T) sluice.Interceptor {
		return retry(t, resilience.RetryConfig{Attempts: 2, Base: 500 * ms, Jitter: resilience.NoJitter,
			If: func(sluice.Spec, sluice.Attempt, sluice.Result, error) bool { return true }})
	}
	for _, tt := range []struct {
		name  string
		layer func(t *testing.T) sluice.Interceptor
		tool  func(context.Context, int) error
		leave time.Duration // when its caller does; zero is never
		at    time.Duration // when the call ends, with errBoom
		doubt time.Duration // until when the key is in doubt; zero is not at all
		want  int           // which run has given what duplicates get
		plain bool          // nothing goes on, or has been late
	}{
		{"a hedge whose time is over, and whose code is not", hedges, attempts(try{500 * ms, fails}, try{time.Minute, gives}), 0, 1100 * ms, time.Minute + 100*ms, 2, false},
		{"and fails late", hedges, attempts(try{500 * ms, fails}, try{time.Minute, fails}), 0, 1100 * ms, time.Minute + 100*ms, 3, false},
		{"a hedge that goes on when the caller leaves", hedges, attempts(try{500 * ms, fails}, try{time.Minute, gives}), 600 * ms, 600 * ms, time.Minute + 100*ms, 2, false},
		{"a hedge that has failed, too", hedges, attempts(try{500 * ms, fails}, try{500 * ms, fails}), 0, 600 * ms, 0, 3, true},
		{"an attempt before that has succeeded late", repeats, attempts(try{1200 * ms, gives}, try{100 * ms, fails}), 0, 1600 * ms, 0, 1, false},
		{"and one that has failed late", repeats, attempts(try{1200 * ms, fails}, try{100 * ms, fails}), 0, 1600 * ms, 0, 3, false},
	} {
		for _, inner := range []bool{true, false} {
			t.Run(tt.name+map[bool]string{true: ", seen", false: ", unseen"}[inner], func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					gates := []sluice.Interceptor{tt.layer(t), anyNumber()}
					if inner {
						gates = append(gates, nil)
					}
					s := openShop(t, resilience.OnceConfig{DoubtTTL: time.Hour}, gates...)
					s.sell(aSecond, tt.tool)
					ctx, cancel := context.WithCancel(s.ctx)
					defer cancel()
					if tt.leave > 0 {
						time.AfterFunc(tt.leave, cancel)
					}
					_, err := s.pay(ctx, order{"a", 1})
					require.ErrorIs(t, err, errBoom)
					require.Equal(t, tt.at, time.Since(s.start))
					switch until := tt.doubt; {
					case !inner && !tt.plain: // nobody knows what has become of it
						s.doubts(order{"a", 1}, tt.at)
						time.Sleep(time.Hour)
						s.gives(order{"a", 1}, 3)
					case until > 0:
						s.doubts(order{"a", 1}, tt.at)
						time.Sleep(time.Until(s.start.Add(until)))
						synctest.Wait()
						fallthrough
					default:
						s.gives(order{"a", 1}, tt.want)
					}
					s.end()
				})
			})
		}
	}
}

// A first attempt that is refused while the second runs does not hide what the tool says, neither from the call nor from
// one that shares its outcome: code has run for both.
func TestHedge_TheFirstIsRefused(t *testing.T) {
	once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{
		Key: func(c sluice.Call) (string, bool) { return "k", c.Tool == "x" },
	}))
	for _, tt := range []struct {
		name  string
		layer sluice.Interceptor
		inner []sluice.Interceptor
	}{
		{"join", join(t, resilience.JoinConfig{}), nil},
		{"once", once, []sluice.Interceptor{once.Inner()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
				r := newRig(t, sluice.Config{Interceptors: append([]sluice.Interceptor{limit}, tt.inner...)}, tt.layer, hedge(t, resilience.HedgeConfig{}))
				slow := r.runs(sluice.Spec{Name: "slow"}, func(context.Context, int) error { time.Sleep(350 * ms); return nil })
				f := r.runs(sluice.Spec{Name: "x", Hints: readOnly, Policy: sluice.Policy{MaxWait: 300 * ms}}, func(context.Context, int) error {
					time.Sleep(50 * ms)
					return errBoom
				})
				go slow(r.ctx)
				synctest.Wait()
				errs := make(chan error, 2)
				for range 2 {
					go func() {
						_, err := f(r.ctx)
						errs <- err
					}()
				}
				for range 2 {
					err := <-errs
					require.ErrorIs(t, err, errBoom)
					require.NotErrorIs(t, err, sluice.ErrRejected)
					require.Equal(t, 400*ms, time.Since(r.start))
				}
				r.end()
			})
		})
	}
}

// A call whose first attempt was refused, and whose caller leaves while the second runs, is not said to have been
// refused: code has run. Where none has, it is.
func TestHedge_TheFirstIsRefusedAndTheCallerLeaves(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other time.Duration // holds the only slot for so long
		runs  int
	}{{"the second runs", 350 * ms, 1}, {"the second waits", time.Second, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
				r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, hedge(t, resilience.HedgeConfig{}))
				slow := r.runs(sluice.Spec{Name: "slow"}, func(context.Context, int) error { time.Sleep(tt.other); return nil })
				runs := 0
				f := r.runs(sluice.Spec{Name: "x", Hints: readOnly, Policy: sluice.Policy{MaxWait: 300 * ms}}, func(context.Context, int) error {
					runs++
					time.Sleep(time.Second)
					return nil
				})
				go slow(r.ctx)
				synctest.Wait()
				ctx, cancel := context.WithCancel(r.ctx)
				time.AfterFunc(380*ms, cancel)
				_, err := f(ctx)
				require.Equal(t, 380*ms, time.Since(r.start))
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, tt.runs == 0, errors.Is(err, sluice.ErrRejected))
				require.NotErrorIs(t, err, sluice.ErrWaitTooLong)
				require.Equal(t, "canceled", sluice.CodeOf(err))
				r.end()
				require.Equal(t, tt.runs, runs)
			})
		})
	}
}
