package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// costing is a policy of calls that cost what their id says.
func costing(p sluice.Policy) sluice.Policy {
	p.Cost = func(c sluice.Call, _ string) (n int64) { _, _ = fmt.Sscan(c.ID, &n); return n }
	return p
}

// Promise 3: a charge that is corrected, however late, counts as if it had been its final
// amount from its own instant on: time has given back nothing that the correction gives again.
func TestPromise03_LateRefundsSpendNothingTwice(t *testing.T) {
	type charge struct {
		at   time.Duration
		cost int64
	}
	for name, x := range map[string]struct {
		rate    sluice.Rate
		cost    int64 // of a call at 0
		others  []charge
		reports []int64 // at settle, one after the other
		settle  time.Duration
		want    int64 // left at settle
	}{
		"time gave all back":            {sluice.Rate{N: 4, Unit: "tokens"}, 4, []charge{{time.Minute - 1, 4}}, []int64{0}, time.Minute + 1, 0},
		"time gave half back":           {sluice.Rate{N: 1, Burst: 10, Unit: "tokens"}, 10, []charge{{5 * time.Second, 5}}, []int64{0}, 6 * time.Second, 6},
		"time gave nothing back yet":    {sluice.Rate{N: 10, Per: time.Hour, Unit: "tokens"}, 10, nil, []int64{3}, time.Second, 7},
		"a second, lower report":        {sluice.Rate{N: 4, Unit: "tokens"}, 4, []charge{{time.Minute - 1, 4}}, []int64{3, 0}, time.Minute + 1, 0},
		"up and down":                   {sluice.Rate{N: 4, Unit: "tokens"}, 4, []charge{{time.Minute - 1, 4}}, []int64{900, 0}, time.Minute + 1, 0},
		"up, and down to what it was":   {sluice.Rate{N: 1, Burst: 10, Unit: "tokens"}, 10, []charge{{5 * time.Second, 5}}, []int64{90, 10}, 6 * time.Second, 1},
		"a later one's charge stays":    {sluice.Rate{N: 1, Burst: 10, Unit: "tokens"}, 5, []charge{{time.Second, 5}, {2 * time.Second, 2}}, []int64{0}, 3 * time.Second, 5},
		"twice as many as there is":     {sluice.Rate{N: 4, Unit: "tokens"}, 1, []charge{{time.Minute - 1, 4}}, []int64{0}, time.Minute + 1, 0},
		"the rest of several refunds":   {sluice.Rate{N: 1, Burst: 10, Unit: "tokens"}, 10, []charge{{5 * time.Second, 5}}, []int64{8, 5, 2, 0}, 6 * time.Second, 6},
		"of a rate that refills slowly": {sluice.Rate{N: 24, Per: day, Unit: "tokens"}, 24, []charge{{day - 1, 23}}, []int64{0}, day, 1},
	} {
		for _, how := range []string{"limiter", "policy", "nested", "one of two rates"} {
			t.Run(name+", "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					list, p, gate := []sluice.Rate{x.rate}, sluice.Policy{}, "rate"
					if how == "one of two rates" {
						list = append(list, sluice.Rate{N: 1e6, Unit: "pages"})
					}
					c := sluice.Config{}
					if how == "policy" {
						p.Rates, gate = list, "tool/x"
					} else {
						c.Interceptors = interceptors(rates(list...))
					}
					r := newRig(t, c)
					defer r.end()
					report := func(ctx context.Context, in string) (int, error) {
						if in == "late" {
							time.Sleep(x.settle)
							for _, n := range x.reports {
								sluice.ReportUsage(ctx, "tokens", n)
							}
							if got := r.unitLeft(gate, "tokens"); got != x.want {
								t.Errorf("%d left at %v, want %d", got, r.at(), x.want)
							}
						}
						return 0, nil
					}
					sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "x", Policy: costing(p)}, report))
					tool := "x"
					if how == "nested" {
						tool = "outer"
						r.tool(sluice.Spec{Name: "outer", Policy: costing(sluice.Policy{})}, func(ctx context.Context) error {
							c, _ := sluice.CallFrom(ctx)
							_, err := r.Invoke(ctx, sluice.Request{ID: c.Pipeline.Attrs["cost"], Tool: "x", Input: any("late")})
							return err
						})
					}
					for _, o := range x.others {
						time.AfterFunc(o.at, func() {
							_, err := r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint(o.cost), Tool: "x", Input: any("")})
							assert.NoError(t, err)
							if at := r.at(); at != o.at {
								t.Errorf("the other started at %v, want %v", at, o.at)
							}
						})
					}
					pc := r.pc
					pc.Attrs = map[string]string{"cost": fmt.Sprint(x.cost)}
					id := fmt.Sprint(x.cost)
					if how == "nested" {
						id = "0"
					}
					_, err := r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{ID: id, Tool: tool, Input: any("late")})
					require.NoError(t, err)
					if got := r.unitLeft(gate, "tokens"); got != x.want {
						t.Errorf("%d left at %v, after the end, want %d", got, r.at(), x.want)
					}
				})
			})
		}
	}
}

// What is refused inside the gates, late, or told to stop, was charged nothing: neither is
// anything given twice.
func TestPromise03_DenialIsACorrectionToNothing(t *testing.T) {
	reports := map[string][]int64{"none": nil, "nothing": {0}, "less": {1}, "more": {5}, "much more": {math.MaxInt64}, "up and down": {900, 1}}
	for name, list := range reports {
		for _, late := range []time.Duration{0, 30 * time.Minute} {
			for _, unit := range []string{"", "tokens"} {
				t.Run(fmt.Sprintf("%s, %v, %q", name, late, unit), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						inside := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
							return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
								if c.Input != any("deny") {
									return next(ctx, c)
								}
								for _, n := range list {
									sluice.ReportUsage(ctx, unit, n)
								}
								time.Sleep(late)
								return sluice.Result{}, errors.New("no")
							}
						})
						r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10, Per: time.Hour, Unit: unit}), inside), MaxWait: sluice.NoWait})
						defer r.end()
						r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, sleeps(0))
						for range 5 {
							require.NoError(t, r.call("x"))
						}
						_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: any("deny")})
						require.ErrorIs(t, err, sluice.ErrRejected)
						n := 0
						for ; r.call("x") == nil; n++ {
						}
						assert.Equal(t, 5+int(late/(6*time.Minute)), n, "calls could run after the denial")
					})
				})
			}
		}
	}
}

// Attempts at once are charged, and corrected, apart.
func TestPromise03_AttemptsAreCorrectedApart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		twice := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
				done := make(chan error, 2)
				for range 2 {
					go func() { _, err := next(ctx, c); done <- err }()
				}
				err = <-done
				return res, errors.Join(err, <-done)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(twice, rates(sluice.Rate{N: 100, Per: time.Hour, Unit: "tokens"}))})
		defer r.end()
		var attempts atomic.Int64
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 40 }}}, func(ctx context.Context) error {
			n := attempts.Add(1)
			sluice.ReportUsage(ctx, "tokens", n*10)
			time.Sleep(time.Duration(n))
			return nil
		})
		require.NoError(t, r.call("x"))
		assert.Equal(t, int64(70), r.unitLeft("rate", "tokens"), "units left after attempts of 10 and of 20")
	})
}

// A report beyond all measure closes its key for a day at most, or one refill, and it is told.
func TestReportsBeyondMeasureAreCut(t *testing.T) {
	for _, x := range []struct {
		rate  sluice.Rate
		bound time.Duration // until the first token after
	}{
		{sluice.Rate{N: 1, Per: time.Hour, Unit: "tokens"}, day + time.Hour},
		{sluice.Rate{N: 100, Unit: "tokens"}, day + 10*ms},
		{sluice.Rate{N: 250, Per: 30 * day, Unit: "tokens"}, 30*day + 30*day/250},
	} {
		for _, reports := range [][]int64{{math.MaxInt64}, {1 << 50}, {math.MaxInt64, math.MaxInt64}, {5, 1 << 50}, {math.MaxInt64, 1 << 60}} {
			t.Run(fmt.Sprint(x.rate, " ", reports), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					rec := new(sluice.Recorder)
					r := newRig(t, sluice.Config{Interceptors: interceptors(rates(x.rate)), Sink: rec})
					defer r.end()
					one := sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}
					r.tool(sluice.Spec{Name: "report", Policy: one}, func(ctx context.Context) error {
						for _, n := range reports {
							sluice.ReportUsage(ctx, "tokens", n)
						}
						return nil
					})
					r.tool(sluice.Spec{Name: "x", Policy: one}, sleeps(0))
					require.NoError(t, r.call("report"))
					told := 0
					for _, e := range rec.Events() {
						if e.Kind == sluice.RateLimitDebt && e.RetryAfter > x.bound-x.bound/10 && e.RetryAfter <= x.bound {
							told++
						}
					}
					assert.NotZero(t, told, "nobody was told that a report was cut")
					require.NoError(t, r.call("x"))
					if at := r.at(); at > x.bound || at < x.bound-x.bound/10 {
						t.Errorf("the key re-opened at %v, want after %v", at, x.bound)
					}
				})
			})
		}
	}
}

// The correction of a report beyond all measure is exact, and what others owe stays: the key goes
// on as if the last report had been the only one.
func TestReportsBeyondMeasureAreCorrectedExactly(t *testing.T) {
	for _, x := range []struct {
		others int64         // reported by another call, which has ended
		after  time.Duration // until the last report
		first  time.Duration // start of three that wait, an hour apart
	}{
		{0, 0, 0},
		{1, 0, time.Hour},
		{5, 0, 5 * time.Hour},
		{5, 3 * time.Hour, 5 * time.Hour},
		{20, 0, 20 * time.Hour},
		{20, 19 * time.Hour, 20 * time.Hour},
	} {
		for _, reports := range [][]int64{{1}, {1 << 50, 1}, {math.MaxInt64, 1}, {math.MaxInt64, 0, 1 << 60, 1}, {2, math.MaxInt64, 1}} {
			t.Run(fmt.Sprint(x.others, " of others, ", reports, " over ", x.after), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Per: time.Hour, Burst: 2, Unit: "tokens"}))})
					defer r.end()
					begun := make(chan struct{})
					r.tool(sluice.Spec{Name: "beyond"}, func(ctx context.Context) error {
						<-begun
						last := len(reports) - 1
						for _, n := range reports[:last] {
							sluice.ReportUsage(ctx, "tokens", n)
						}
						time.Sleep(x.after)
						sluice.ReportUsage(ctx, "tokens", reports[last])
						return nil
					})
					r.tool(sluice.Spec{Name: "others"}, func(ctx context.Context) error {
						sluice.ReportUsage(ctx, "tokens", x.others)
						return nil
					})
					r.tool(sluice.Spec{Name: "x"}, sleeps(0))
					wait := inOrder(1, func(int) { assert.NoError(t, r.call("beyond")) })
					require.NoError(t, r.call("others"))
					close(begun)
					synctest.Wait()
					parallel(3, func(int) { assert.NoError(t, r.call("x")) })
					wait()
					want := []time.Duration{x.first, x.first + time.Hour, x.first + 2*time.Hour}
					assert.Equal(t, want, r.starts("x"), "starts")
				})
			})
		}
	}
}

// A call whose code did not run teaches the estimate nothing.
func TestQuota_DenialTeachesNoEstimate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inside := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if c.Input == any("deny") {
					sluice.ReportUsage(ctx, "tokens", 0)
					return sluice.Result{}, errors.New("no")
				}
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1000, Per: time.Hour, Unit: "tokens"}), inside)})
		defer r.end()
		r.tool(sluice.Spec{Name: "ask"}, func(ctx context.Context) error { sluice.ReportUsage(ctx, "tokens", 80); return nil })
		require.NoError(t, r.call("ask"))
		_, err := r.Invoke(r.ctx, sluice.Request{Tool: "ask", Input: any("deny")})
		assert.ErrorIs(t, err, sluice.ErrDenied, "want a denial")
		if d := r.Explain(r.ctx, sluice.Request{Tool: "ask"}); len(d.Costs) != 1 || d.Costs[0].Estimate != 80 {
			t.Errorf("costs %+v, want an estimate of 80", d.Costs)
		}
	})
}

// An interceptor may have the calls of one tool run by another's chain: what they use is charged to the
// tool that ran, and teaches its estimate.
func TestQuota_LearnsForTheToolThatRan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		chains := map[string]sluice.Handler{}
		route := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			chains[s.Name] = next
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return chains["b"](ctx, c) }
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(route)})
		defer r.end()
		p := sluice.Policy{Rates: []sluice.Rate{{N: 1000, Per: time.Hour, Unit: "tokens"}}}
		r.tool(sluice.Spec{Name: "a", Policy: p}, func(context.Context) error { t.Error("a ran"); return nil })
		r.tool(sluice.Spec{Name: "b", Policy: p}, func(ctx context.Context) error {
			sluice.ReportUsage(ctx, "tokens", 100)
			return nil
		})
		require.NoError(t, r.call("b"))
		for range 5 {
			require.NoError(t, r.call("a"))
		}
		for tool, want := range map[string]int64{"a": 1, "b": 100} {
			d := r.Explain(r.ctx, sluice.Request{Tool: tool})
			require.Len(t, d.Costs, 1)
			assert.Equal(t, want, d.Costs[0].Estimate, "the estimate of %s", tool)
		}
		assert.Equal(t, int64(1000), r.unitLeft("tool/a", "tokens"))
		assert.Equal(t, int64(400), r.unitLeft("tool/b", "tokens"))
	})
}

// The estimate follows what calls use of a unit of which they use few, too.
func TestQuota_EstimateOfSmallUnits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1000, Per: time.Hour, Unit: "gpus"}))})
		defer r.end()
		use := int64(1)
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { sluice.ReportUsage(ctx, "gpus", use); return nil })
		for i, want := range []int64{1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6} {
			require.NoError(t, r.call("x"))
			if d := r.Explain(r.ctx, sluice.Request{Tool: "x"}); d.Costs[0].Estimate != want {
				t.Errorf("after %d calls %d are expected, want %d", i+1, d.Costs[0].Estimate, want)
			}
			if use = 8; i > 7 {
				use = 4
			}
		}
	})
}

// In every window at most burst + rate × window starts.
func TestPromise03_WindowsNeverExceedBurstPlusRate(t *testing.T) {
	for seed := range uint64(8) {
		bubble(t, func(t *testing.T) {
			const n, burst, per = 7, 5, 100 * ms
			q := rates(sluice.Rate{N: n, Per: per, Burst: burst})
			r := newRig(t, sluice.Config{Interceptors: interceptors(q, atMost(3), scheduler(sluice.PrioritySchedulerConfig{}))})
			defer r.end()
			r.ctx = t.Context()
			var mu sync.Mutex
			var starts []time.Duration
			rnd := rand.New(rand.NewPCG(5, seed))
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
				mu.Lock()
				starts = append(starts, r.at())
				takes := time.Duration(len(starts)%20) * ms
				mu.Unlock()
				time.Sleep(takes)
				return nil
			})
			var wg sync.WaitGroup
			for range 400 {
				patience := time.Duration(rnd.IntN(int(400 * ms)))
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(r.ctx, patience)
					defer cancel()
					if _, err := r.Invoke(ctx, sluice.Request{Tool: "work"}); err != nil && !errors.Is(err, sluice.ErrRejected) {
						t.Error(err)
					}
				})
				if rnd.IntN(40) == 0 { // a change of anything but the rate makes no tokens
					require.NoError(t, sluice.Reconfigure("test", q.Change(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: n, Per: per, Burst: burst}}})))
				}
				if rnd.IntN(60) == 0 {
					time.Sleep(time.Second) // fills up, and not beyond
				}
				time.Sleep(time.Duration(rnd.IntN(int(20 * ms))))
			}
			wg.Wait()
			slices.Sort(starts)
			for i := range starts {
				for j := i; j < len(starts); j++ {
					if w := starts[j] - starts[i]; time.Duration(j-i+1-burst)*per > n*w {
						t.Fatalf("seed %d: %d starts in %v from %v on, with burst %d and %d per %v", seed, j-i+1, w, starts[i], burst, n, per)
					}
				}
			}
			if len(starts) < 200 {
				t.Errorf("only %d ran", len(starts))
			}
		})
	}
}

// RetryAfter is zero where nobody can know, and never beyond what a clock can say.
func TestRetryAfterIsNeverAbsurd(t *testing.T) {
	sane := func(t *testing.T, err error, want ...time.Duration) {
		t.Helper()
		var e *sluice.Error
		if !errors.As(err, &e) || !errors.Is(err, sluice.ErrRejected) {
			t.Errorf("%v: want a refusal", err)
			return
		}
		for _, w := range want {
			if e.RetryAfter == w {
				return
			}
		}
		t.Errorf("RetryAfter %v, want %v (%v)", e.RetryAfter, want, err)
	}
	bubble(t, func(t *testing.T) { // tripped over waiters
		b := breakerOf(sluice.CircuitBreakerConfig{Cooldown: time.Minute, Scope: sluice.Global})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
		r.busy("x")
		errs := make(chan error, 10)
		for range 10 {
			go func() { errs <- r.call("x") }()
		}
		synctest.Wait()
		require.NoError(t, b.Trip(""))
		for range 10 {
			sane(t, <-errs, 0, time.Minute)
		}
		sane(t, r.call("x"), 0, time.Minute)
		time.Sleep(time.Second)
	})
	bubble(t, func(t *testing.T) { // what never refills
		for name, lim := range map[string]*rate.Limiter{"no rate": rate.NewLimiter(0, 1), "burst 0": rate.NewLimiter(1, 0), "hardly ever": rate.NewLimiter(1e-12, 1)} {
			q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(q), MaxWait: time.Minute})
			r.tool(sluice.Spec{Name: "x"}, sleeps(0))
			if lim.Burst() > 0 {
				require.NoError(t, r.call("x"))
			}
			start := time.Now()
			err := r.call("x")
			var e *sluice.Error
			if !errors.As(err, &e) || e.RetryAfter < 0 || e.RetryAfter > 100*365*day || time.Since(start) > time.Minute {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
			r.end()
		}
	})
	bubble(t, func(t *testing.T) { // a cost above the burst is all of it, a width above the limit never fits
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10, Unit: "tokens"}), limitsOf(sluice.Limit{Max: 4, Unit: "GB"})), MaxWait: sluice.NoWait})
		defer r.end()
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 { return map[string]int64{"tokens": 1 << 60, "GB": 1}[unit] }}}, sleeps(0))
		r.tool(sluice.Spec{Name: "wide", Policy: sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 { return map[string]int64{"tokens": 1, "GB": 1 << 60}[unit] }}}, sleeps(0))
		require.NoError(t, r.call("x"))
		sane(t, r.call("x"), time.Second)
		sane(t, r.call("wide"), 0)
	})
}

// A token of a limiter that other code shares goes back for a call whose code did not run, at
// once and whole.
func TestSharedLimiter_TokenOfACallThatDidNotRunGoesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lim := rate.NewLimiter(rate.Every(time.Hour), 10)
		deny := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if c.ID == "deny" {
					return sluice.Result{}, errTool
				}
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim})), deny)})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		for range 5 {
			_, err := r.Invoke(r.ctx, sluice.Request{ID: "deny", Tool: "x"})
			require.ErrorIs(t, err, sluice.ErrRejected)
		}
		assert.Equal(t, float64(10), lim.Tokens(), "tokens left")
		require.NoError(t, r.call("x"))
		assert.Equal(t, float64(9), lim.Tokens(), "tokens left")
	})
}

// A *rate.Limiter of the caller's own: calls wait until it has a token, take none unless
// everything else agrees, and leave to other code what they do not take.
func TestSharedLimiter_IsAskedLastAndLeftToOthers(t *testing.T) {
	const slack = time.Microsecond // its arithmetic is in floating point
	near := func(t *testing.T, what string, got, want time.Duration) {
		t.Helper()
		if got < want-slack || got > want+slack {
			t.Errorf("%s at %v, want %v", what, got, want)
		}
	}
	t.Run("waits", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			lim := rate.NewLimiter(10, 2)
			r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim})))})
			defer r.end()
			var mu sync.Mutex
			var starts []time.Duration
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				starts = append(starts, r.at())
				return nil
			})
			parallel(200, func(int) { assert.NoError(t, r.call("work")) })
			for i, at := range starts {
				near(t, fmt.Sprint("call ", i), at, time.Duration(max(0, i-1))*100*ms)
			}
		})
	})
	t.Run("asked last", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			lim := rate.NewLimiter(rate.Every(time.Hour), 5)
			r := newRig(t, sluice.Config{Interceptors: interceptors(
				sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim})), limitsOf(sluice.Limit{Max: 1, Refuse: true}),
				breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Scope: sluice.ForTool("broken")}))})
			defer r.end()
			r.tool(sluice.Spec{Name: "work"}, sleeps(time.Second))
			r.tool(sluice.Spec{Name: "broken"}, func(context.Context) error { return errors.New("broken") })
			_ = r.call("broken")
			r.busy("work")
			for range 100 {
				wantRefusal(t, r.call("work"), sluice.ErrSaturated, "concurrency global", 0)
				assert.ErrorIs(t, r.call("broken"), sluice.ErrBreakerOpen)
			}
			assert.Equal(t, 3, int(lim.Tokens()), "tokens left: two calls ran")
			time.Sleep(time.Second)
		})
	})
	t.Run("never blocks", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			lim := rate.NewLimiter(10, 1)
			q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim, Refuse: true}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
			defer r.end()
			r.tool(sluice.Spec{Name: "work"}, sleeps(0))
			require.NoError(t, r.call("work"))
			var e *sluice.Error
			if err := r.call("work"); !errors.As(err, &e) || e.Reason != sluice.ErrRateLimited || e.By != "rate shared limiter" || r.at() != 0 {
				t.Errorf("%v at %v, want ErrRateLimited at once", err, r.at())
			} else {
				near(t, "RetryAfter", e.RetryAfter, 100*ms)
				time.Sleep(e.RetryAfter)
				require.NoError(t, r.call("work"))
			}
			lim.SetLimit(0) // nothing comes in any more
			time.Sleep(time.Hour)
			if err := r.call("work"); !errors.As(err, &e) || e.Reason != sluice.ErrRateLimited || e.RetryAfter != 0 {
				t.Errorf("%v, want ErrRateLimited without a time", err)
			}
		})
	})
	t.Run("shared", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			lim := rate.NewLimiter(10, 1)
			r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim})))})
			defer r.end()
			var n atomic.Int64
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { n.Add(1); return nil })
			require.True(t, lim.Allow(), "no token")
			require.NoError(t, r.call("work"))
			near(t, "after other code's token", r.at(), 100*ms)
			// Both take as fast as they may: what they get together is what there is.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			other := 0
			var wg sync.WaitGroup
			wg.Go(func() {
				for lim.Wait(ctx) == nil {
					other++
				}
			})
			for range 3 {
				wg.Go(func() {
					for ctx.Err() == nil {
						if _, err := r.Invoke(ctx, sluice.Request{Tool: "work"}); errors.Is(err, sluice.ErrRejected) {
							return // no token will be there in time
						}
					}
				})
			}
			wg.Wait()
			t.Logf("10 s: %d calls, %d by other code", n.Load(), other)
			if all := n.Load() + int64(other); all > 103 || all < 95 {
				t.Errorf("%d in all, want about 100", all)
			}
		})
	})
}
