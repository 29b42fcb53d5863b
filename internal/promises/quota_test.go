package promises_test

import (
	"context"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ratBucket is a token bucket in exact fractions, to hold the library's against.
type ratBucket struct {
	rate  sluice.Rate
	level *big.Rat
	at    time.Duration
}

func newRatBucket(r sluice.Rate) *ratBucket {
	if r.Per == 0 {
		r.Per = time.Second
	}
	if r.Burst == 0 {
		r.Burst = r.N
	}
	return &ratBucket{rate: r, level: big.NewRat(r.Burst, 1)}
}

// pass lets time pass up to t.
func (b *ratBucket) pass(t time.Duration) {
	in := new(big.Rat).Mul(big.NewRat(int64(t-b.at), 1), big.NewRat(b.rate.N, int64(b.rate.Per)))
	b.level.Add(b.level, in)
	if full := big.NewRat(b.rate.Burst, 1); b.level.Cmp(full) > 0 {
		b.level = full
	}
	b.at = t
}

// ready is the first nanosecond, from t on, at which n tokens are there.
func (b *ratBucket) ready(t time.Duration, n int64) time.Duration {
	b.pass(t)
	lack := new(big.Rat).Sub(big.NewRat(n, 1), b.level)
	if lack.Sign() <= 0 {
		return t
	}
	lack.Mul(lack, big.NewRat(int64(b.rate.Per), b.rate.N))
	ns := new(big.Int).Add(lack.Num(), new(big.Int).Sub(lack.Denom(), big.NewInt(1)))
	return t + time.Duration(ns.Quo(ns, lack.Denom()).Int64())
}

func (b *ratBucket) take(n int64) { b.level.Sub(b.level, big.NewRat(n, 1)) }

// A vector of quotas is taken all or nothing, and every start of a long line is at its
// exact nanosecond, over days.
func TestQuota_VectorIsExactOverDays(t *testing.T) {
	vector := []sluice.Rate{
		{N: 2, Burst: 2},
		{N: 7, Per: time.Minute, Burst: 5},
		{N: 700, Per: time.Minute, Burst: 1000, Unit: "tokens"},
		{N: 11, Per: day, Burst: 16},
	}
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(vector...), atMost(100))})
		defer r.end()
		cost := func(i int) int64 { return int64(40 + 391*i%600) }
		var mu sync.Mutex
		var starts []time.Duration
		rawTool(t, r.reg, sluice.Spec{Name: "ask", Policy: sluice.Policy{Cost: func(c sluice.Call, unit string) int64 {
			if unit == "" {
				return 1
			}
			i, _ := sluiceIndex(c.ID)
			return cost(i)
		}}}, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, r.at())
			return nil
		})
		var futures []*sluice.Future
		for i := range 60 {
			futures = append(futures, r.Submit(r.ctx, sluice.Request{Tool: "ask", ID: fmt.Sprint("ask-", i)}))
		}
		for _, f := range futures {
			require.NoError(t, errOf(f.Wait(t.Context())))
		}
		var want []time.Duration
		var buckets []*ratBucket
		for _, x := range vector {
			buckets = append(buckets, newRatBucket(x))
		}
		now := time.Duration(0)
		for i := range 60 {
			n := func(b *ratBucket) int64 {
				if b.rate.Unit != "" {
					return cost(i)
				}
				return 1
			}
			at := now
			for _, b := range buckets {
				at = max(at, b.ready(now, n(b)))
			}
			for now = at; ; { // all of them at one instant
				for _, b := range buckets {
					at = max(at, b.ready(now, n(b)))
				}
				if at == now {
					break
				}
				now = at
			}
			for _, b := range buckets {
				b.take(n(b))
			}
			want = append(want, now)
		}
		assert.Equal(t, want, starts, "starts")
		t.Logf("60 calls over %v, each at its nanosecond; the first: %v", now, starts[:8])
		if now < 3*day {
			t.Errorf("only %v passed, want days", now)
		}
	})
}

// sluiceIndex is the number at the end of an id.
func sluiceIndex(id string) (i int, err error) {
	_, err = fmt.Sscanf(id[strings.LastIndexByte(id, '-')+1:], "%d", &i)
	return i, err
}

// used is what is missing in each bucket.
func (r *rig) used() map[string]int64 {
	m := make(map[string]int64)
	for _, g := range r.Snapshot().Gates {
		m[g.Name+" "+g.Key] = g.Used
	}
	return m
}

// Whichever quota of the vector binds, the refused call names it, says exactly when to
// retry, and has taken nothing of the others.
func TestQuota_AllOrNothing(t *testing.T) {
	for _, x := range []struct {
		by    string
		rates []sluice.Rate
		after time.Duration
	}{
		{"rate/model calls per second", []sluice.Rate{{N: 3}, {N: 60, Per: time.Minute}, {N: 9000, Per: time.Minute, Unit: "tokens"}, {N: 100, Per: day}}, 333333334},
		{"rate/model calls per minute", []sluice.Rate{{N: 50}, {N: 3, Per: time.Minute}, {N: 9000, Per: time.Minute, Unit: "tokens"}, {N: 100, Per: day}}, 20 * time.Second},
		{"rate/model tokens per minute", []sluice.Rate{{N: 50}, {N: 60, Per: time.Minute}, {N: 350, Per: time.Minute, Unit: "tokens"}, {N: 100, Per: day}}, 8571428572},
		{"rate/model calls per day", []sluice.Rate{{N: 50}, {N: 60, Per: time.Minute}, {N: 9000, Per: time.Minute, Unit: "tokens"}, {N: 3, Per: day}}, 8 * time.Hour},
	} {
		t.Run(x.by, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "model", Rates: x.rates, Refuse: true}))
				r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
				defer r.end()
				r.tool(sluice.Spec{Name: "ask", Policy: sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 {
					return map[string]int64{"": 1, "tokens": 100}[unit]
				}}}, sleeps(0))
				for range 3 {
					require.NoError(t, r.call("ask"))
				}
				before := r.used()
				for range 5 {
					e := wantRefusal(t, r.call("ask"), sluice.ErrRateLimited, x.by, x.after)
					d := r.Explain(r.ctx, sluice.Request{Tool: "ask"})
					require.NotNil(t, d.Refusal)
					require.NotNil(t, e)
					require.Equal(t, e.RetryAfter, d.Refusal.RetryAfter)
					assert.Equal(t, e.By, d.Refusal.By)
				}
				if after := r.used(); !reflect.DeepEqual(before, after) {
					t.Errorf("refused calls took something: %v, was %v", after, before)
				}
				if r.gateState("rate/model calls per day", "").Used != 3 {
					t.Errorf("used %v, want 3 calls", r.used())
				}
				time.Sleep(x.after)
				require.NoError(t, r.call("ask"))
			})
		})
	}
}

// Estimates are capped at the bucket; a report of what was used gives back what was too
// much, and takes what was too little, into debt.
func TestQuota_ReportsCorrectTheEstimate(t *testing.T) {
	for _, x := range []struct {
		name     string
		estimate int64
		settle   []int64
		next     time.Duration // when a call of 1 token goes, of 100 a minute, burst 100
	}{
		{"exact", 100, []int64{100}, 600 * ms},
		{"capped", 5000, nil, 600 * ms},
		{"capped, and settled at what it was", 5000, []int64{5000}, 600*ms + 4900*600*ms},
		{"down", 100, []int64{40}, 0},
		{"down to nothing", 100, []int64{0}, 0},
		{"negative counts as zero", 100, []int64{-7}, 0},
		{"up into debt", 100, []int64{250}, 151 * 600 * ms},
		{"up and down again", 100, []int64{250, 100}, 600 * ms},
		{"down and up again", 100, []int64{10, 130}, 31 * 600 * ms},
		{"the same again", 100, []int64{120, 120, 120}, 21 * 600 * ms},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 100, Per: time.Minute, Unit: "tokens"}))})
				defer r.end()
				r.tool(sluice.Spec{Name: "ask", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return x.estimate }}}, func(ctx context.Context) error {
					for _, n := range x.settle {
						sluice.ReportUsage(ctx, "tokens", n)
						sluice.ReportUsage(ctx, "pages", 77) // counted nowhere
					}
					return nil
				})
				r.tool(sluice.Spec{Name: "next", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, sleeps(0))
				res, err := r.Invoke(r.ctx, sluice.Request{Tool: "ask"})
				require.NoError(t, err)
				actual := min(x.estimate, 100)
				if n := len(x.settle); n > 0 {
					actual = max(0, x.settle[n-1])
				}
				if c := res.Decision().Costs; len(c) != 1 || c[0] != (sluice.Cost{Unit: "tokens", Estimate: min(x.estimate, 100), Actual: actual}) {
					t.Errorf("costs %+v", c)
				}
				assert.Equal(t, actual, r.gateState("rate tokens per minute", "").Used, "used")
				require.NoError(t, r.call("next"))
				assert.Equal(t, x.next, r.at(), "the next call went at")
			})
		})
	}
}

// Without a Cost the estimate is learned from what calls report.
func TestQuota_EstimateIsLearnedFromReports(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1_000_000, Per: time.Minute, Unit: "tokens", Burst: 1000}))})
		defer r.end()
		use := int64(0)
		r.tool(sluice.Spec{Name: "ask"}, func(ctx context.Context) error { sluice.ReportUsage(ctx, "tokens", use); return nil })
		r.tool(sluice.Spec{Name: "other"}, sleeps(0))
		estimate := int64(1)
		for i, u := range []int64{80, 40, 40, 800, 0, 5000, 5000} {
			use = u
			if d := r.Explain(r.ctx, sluice.Request{Tool: "ask"}); len(d.Costs) != 1 || d.Costs[0].Estimate != min(estimate, 1000) {
				t.Errorf("call %d: Explain says %+v, want an estimate of %d", i, d.Costs, estimate)
			}
			res, err := r.Invoke(r.ctx, sluice.Request{Tool: "ask"})
			require.NoError(t, err)
			if c := res.Decision().Costs; len(c) != 1 || c[0] != (sluice.Cost{Unit: "tokens", Estimate: min(estimate, 1000), Actual: u}) {
				t.Errorf("call %d: costs %+v, want %d and %d", i, c, estimate, u)
			}
			if i == 0 {
				estimate = u
			} else {
				estimate += (u - estimate) / 8
			}
			time.Sleep(time.Minute)
		}
		// It is the tool's own.
		d := r.Explain(r.ctx, sluice.Request{Tool: "other"})
		assert.Equal(t, int64(1), d.Costs[0].Estimate, "estimate of another tool %+v", d.Costs)
	})
}

// Calls that are refused or cancelled, for whatever reason, change no balance.
func TestQuota_RefusedAndCancelledChangeNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10, Per: time.Hour}, {N: 1000, Per: time.Hour, Unit: "tokens"}}}))
		perDay := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "strict", Scope: sluice.ForTool("strict"), Refuse: true, Rates: []sluice.Rate{{N: 1, Per: day}}}))
		br := breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.ForTool("broken")})
		r := newRig(t, sluice.Config{Interceptors: interceptors(q, perDay, br,
			limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("slow")}), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2}))})
		defer r.end()
		cost := sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 { return 7 }}
		r.tool(sluice.Spec{Name: "slow", Policy: cost}, sleeps(time.Minute))
		r.tool(sluice.Spec{Name: "strict", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, sleeps(0))
		r.tool(sluice.Spec{Name: "broken", Policy: cost}, sleeps(0))
		r.tool(sluice.Spec{Name: "panics", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { panic("cost") }}}, sleeps(0))
		for s := range r.reg.Tools() {
			r.Plan(s.Name) // a tool has balances from its first call on
		}
		require.NoError(t, r.call("strict"))
		br.Trip("")
		cancelled, cancel := context.WithCancel(r.ctx)
		cancel()
		short, end := context.WithTimeout(r.ctx, time.Second)
		defer end()
		r.busy("slow") // holds the one slot, 7 calls and 7 tokens
		before := r.used()
		refuse := func(name string, want error, ctx context.Context, tool string) {
			t.Helper()
			_, err := r.Invoke(ctx, sluice.Request{Tool: tool})
			assert.ErrorIs(t, err, want, name)
			assert.ErrorIs(t, err, sluice.ErrRejected, name)
			if now := r.used(); !reflect.DeepEqual(now, before) {
				t.Errorf("%s: balances %v, were %v", name, now, before)
			}
		}
		refuse("another quota", sluice.ErrRateLimited, r.ctx, "strict")
		refuse("breaker", sluice.ErrBreakerOpen, r.ctx, "broken")
		refuse("panic in Cost", sluice.ErrRejected, r.ctx, "panics")
		refuse("unknown tool", sluice.ErrUnknownTool, r.ctx, "nobody")
		refuse("cancelled before it came", context.Canceled, cancelled, "slow")
		refuse("deadline too near for the tokens", sluice.ErrWaitTooLong, short, "slow")
		var fs []*sluice.Future
		ctx, stop := context.WithCancel(r.ctx)
		for range 2 {
			fs = append(fs, r.Submit(ctx, sluice.Request{Tool: "slow"}))
		}
		refuse("queue full", sluice.ErrQueueFull, r.ctx, "slow")
		stop()
		for _, f := range fs {
			_, err := f.Wait(t.Context())
			assert.ErrorIs(t, err, context.Canceled)
		}
		if now := r.used(); !reflect.DeepEqual(now, before) {
			t.Errorf("cancelled while they waited: balances %v, were %v", now, before)
		}
		time.Sleep(time.Minute)
	})
}

// Organisation, user, session, tool and API key: five levels, each its own limiter, one
// decision. Each binds in turn, names itself, and leaves the others untouched.
func TestQuota_EachOfFiveLevelsBindsInTurn(t *testing.T) {
	levels := []struct {
		name  string
		scope sluice.Scope
		other func(pc *sluice.PipelineContext) (tool string) // counts elsewhere on this level
	}{
		{"org", sluice.ByKey("organisation", func(c sluice.Call) string { return c.Pipeline.OrgID }), func(pc *sluice.PipelineContext) string { pc.OrgID = "other"; return "search" }},
		{"user", sluice.ByKey("user", func(c sluice.Call) string { return c.Pipeline.UserID }), func(pc *sluice.PipelineContext) string { pc.UserID = "other"; return "search" }},
		{"session", sluice.ByKey("session", func(c sluice.Call) string { return c.Pipeline.SessionID }), func(pc *sluice.PipelineContext) string { pc.SessionID = "other"; return "search" }},
		{"tool", sluice.ByTool, func(*sluice.PipelineContext) string { return "fetch" }},
		{"key", byAPIKey, func(pc *sluice.PipelineContext) string {
			pc.Attrs = map[string]string{"api_key": "other"}
			return "search"
		}},
	}
	for binding := range levels {
		for _, refuse := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s refuse %v", levels[binding].name, refuse), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					var gates []sluice.Interceptor
					for i, l := range levels {
						n := int64(20)
						if i == binding {
							n = 3
						}
						gates = append(gates, sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
							Name: l.name, Scope: l.scope, Rates: []sluice.Rate{{N: n, Per: time.Hour}}, Refuse: refuse,
						})))
					}
					r := newRig(t, sluice.Config{Interceptors: gates})
					defer r.end()
					r.tool(sluice.Spec{Name: "search"}, sleeps(0))
					r.tool(sluice.Spec{Name: "fetch"}, sleeps(0))
					r.pc.Attrs = map[string]string{"api_key": "sk-1"}
					r.ctx = sluice.WithPipelineContext(t.Context(), r.pc)
					for range 3 {
						require.NoError(t, r.call("search"))
					}
					before, by := r.used(), "rate/"+levels[binding].name+" calls per hour"
					if refuse {
						wantRefusal(t, r.call("search"), sluice.ErrRateLimited, by, 20*time.Minute)
					} else {
						ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
						defer cancel()
						wantRefusal(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "search"})), sluice.ErrWaitTooLong, by, 20*time.Minute)
					}
					if now := r.used(); !reflect.DeepEqual(now, before) {
						t.Errorf("balances %v, were %v", now, before)
					}
					pc := r.pc
					tool := levels[binding].other(&pc)
					require.NoError(t, errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: tool})))
					assert.Zero(t, r.at())
					if refuse {
						return
					}
					res, err := r.Invoke(r.ctx, sluice.Request{Tool: "search"})
					require.NoError(t, err)
					d := res.Decision()
					require.Equal(t, 20*time.Minute, r.at())
					require.Equal(t, 20*time.Minute, d.Wait)
					require.Len(t, d.Waits, 1)
					assert.Equal(t, by, d.Waits[0].By)
				})
			})
		}
	}
}
