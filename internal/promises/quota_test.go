package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const day = 24 * time.Hour

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

// Estimates are capped at the bucket; Settle gives back what was too much, and takes what
// was too little, into debt.
func TestQuota_Settle(t *testing.T) {
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

// Without a Cost the estimate is learned from what calls settle.
func TestQuota_LearnedEstimate(t *testing.T) {
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

// retryIn is an upstream's answer.
type retryIn time.Duration

func (d retryIn) Error() string             { return "429 in " + time.Duration(d).String() }
func (d retryIn) RetryAfter() time.Duration { return time.Duration(d) }

// byAPIKey counts by an attribute of the run.
var byAPIKey = sluice.ByKey("api key", func(c sluice.Call) string { return c.Pipeline.Attrs["api_key"] })

func (r *rig) withKey(key string) context.Context {
	pc := r.pc
	pc.Attrs = map[string]string{"api_key": key}
	return sluice.WithPipelineContext(r.t.Context(), pc)
}

// A throttle pauses every waiter of the key at once, and no other key; the key re-opens
// with one token, at the configured rate.
func TestQuota_ThrottlePausesTheKey(t *testing.T) {
	const period = 100 * ms
	for _, x := range []struct {
		name  string
		retry time.Duration
		pause time.Duration // that is observed
	}{
		{"30s", 30 * time.Second, 30 * time.Second},
		{"zero", 0, 0},
		{"negative", -time.Hour, 0},
		{"24h", day, day},
		{"a month is cut to 24h", 30 * day, day},
	} {
		for _, asError := range []bool{false, true} {
			for _, upstream := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s error %v upstream %v", x.name, asError, upstream), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: byAPIKey, Rates: []sluice.Rate{{N: 10, Burst: 1}}, Upstream: upstream}))
						r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
						defer r.end()
						var mu sync.Mutex
						starts := map[string][]time.Duration{}
						first := true
						fetch := func(ctx context.Context) error {
							c, _ := sluice.CallFrom(ctx)
							mu.Lock()
							key := c.Pipeline.Attrs["api_key"] + " " + c.Tool
							starts[key] = append(starts[key], r.at())
							throttles := first
							first = false
							mu.Unlock()
							if !throttles {
								return nil
							}
							time.Sleep(period / 2)
							if asError {
								return retryIn(x.retry)
							}
							sluice.ReportThrottle(ctx, x.retry)
							return nil
						}
						r.tool(sluice.Spec{Name: "fetch"}, fetch)
						r.tool(sluice.Spec{Name: "other"}, fetch)
						var fs []*sluice.Future
						for _, key := range []string{"a", "a", "a", "a", "b", "b"} {
							fs = append(fs, r.Submit(r.withKey(key), sluice.Request{Tool: "fetch"}))
							synctest.Wait()
						}
						fs = append(fs, r.Submit(r.withKey("c"), sluice.Request{Tool: "other"}), r.Submit(r.withKey("c"), sluice.Request{Tool: "other"}))
						for i, f := range fs {
							var e retryIn
							if _, err := f.Wait(t.Context()); asError && i == 0 {
								assert.ErrorAs(t, err, &e, "%v, want the tool's own error", err)
							} else if err != nil {
								t.Error(err)
							}
						}
						want := map[string][]time.Duration{
							"a fetch": {0, period, 2 * period, 3 * period},
							"b fetch": {0, period},
							"c other": {0, period},
						}
						if end := period/2 + x.pause; x.pause > 0 && upstream {
							want["a fetch"] = []time.Duration{0, end, end + period, end + 2*period}
						} else if x.pause > 0 { // the tool pauses, for all keys and a minute at most; buckets are none of its business
							end := period/2 + min(x.pause, time.Minute)
							want["a fetch"] = []time.Duration{0, end, end + period, end + 2*period}
							want["b fetch"] = []time.Duration{0, end}
						}
						assert.Equal(t, want, starts, "starts")
					})
				})
			}
		}
	}
}

// RateLimiter.Pause holds a key without a call; a longer pause stays, zero ends it, and
// the key re-opens with one token either way.
func TestQuota_Pause(t *testing.T) {
	type step struct {
		at, d time.Duration
	}
	for _, x := range []struct {
		name  string
		steps []step
		want  time.Duration // of the first start after; one token takes 1 s, burst 3
	}{
		{"once", []step{{0, 10 * time.Second}}, 10 * time.Second},
		{"a shorter one changes nothing", []step{{0, 10 * time.Second}, {2 * time.Second, time.Second}}, 10 * time.Second},
		{"a longer one holds", []step{{0, 10 * time.Second}, {2 * time.Second, 20 * time.Second}}, 22 * time.Second},
		{"ended", []step{{0, time.Hour}, {2 * time.Second, 0}}, 2 * time.Second},
		{"ended by a negative one", []step{{0, time.Hour}, {2 * time.Second, -1}}, 2 * time.Second},
		{"ended, and again", []step{{0, time.Hour}, {2 * time.Second, 0}, {2500 * time.Millisecond, 5 * time.Second}}, 2 * time.Second},
		{"ended after two", []step{{0, time.Hour}, {time.Second, 2 * time.Hour}, {2 * time.Second, 0}}, 2 * time.Second},
		{"at most a day", []step{{0, 1 << 62}}, day},
		{"ended without one", []step{{0, 0}}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: byAPIKey, Rates: []sluice.Rate{{N: 1, Burst: 3}}}))
				r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
				defer r.end()
				var mu sync.Mutex
				var starts []time.Duration
				r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					starts = append(starts, r.at())
					return nil
				})
				r.tool(sluice.Spec{Name: "else"}, sleeps(0))
				q.Pause("a", x.steps[0].d)
				wait := inOrder(3, func(int) { assert.NoError(t, errOf(r.Invoke(r.withKey("a"), sluice.Request{Tool: "fetch"}))) })
				came := r.at()
				require.NoError(t, errOf(r.Invoke(r.withKey("b"), sluice.Request{Tool: "else"})))
				if r.at() != came {
					t.Errorf("another key waited %v", r.at()-came)
				}
				for _, s := range x.steps[1:] {
					time.Sleep(s.at - r.at())
					q.Pause("a", s.d)
				}
				wait()
				gap := time.Second
				if x.want == 0 {
					gap = 0
				}
				want := []time.Duration{x.want, x.want + gap, x.want + 2*gap}
				if x.name == "ended, and again" { // the first was at 2 s
					want[1], want[2] = 7500*ms, 8500*ms
				}
				assert.Equal(t, want, starts, "starts")
			})
		})
	}
}

// Debt is owed through a pause, and is still owed when that is lifted.
func TestQuota_PauseForgivesNoDebt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := rates(sluice.Rate{N: 1, Unit: "tokens", Burst: 10})
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		r.tool(sluice.Spec{Name: "ask", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, func(ctx context.Context) error {
			sluice.ReportUsage(ctx, "tokens", 100) // 90 in debt
			return nil
		})
		r.tool(sluice.Spec{Name: "next", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, sleeps(0))
		require.NoError(t, r.call("ask"))
		q.Pause("", 10*time.Second)
		time.Sleep(5 * time.Second)
		q.Pause("", 0)
		require.NoError(t, r.call("next"))
		assert.Equal(t, 91*time.Second, r.at(), "the next call went at")
	})
}

// Organisation, user, session, tool and API key: five levels, each its own limiter, one
// decision. Each binds in turn, names itself, and leaves the others untouched.
func TestQuota_Hierarchy(t *testing.T) {
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

// A hundred thousand made-up keys against a table of a hundred: memory stays, nobody's
// quota is refreshed by being pushed out, and new keys are refused only while all are busy.
func TestQuota_HostileKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const keys, hostile = 100, 100_000
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: byAPIKey, MaxKeys: keys, Refuse: true, Rates: []sluice.Rate{{N: 2, Per: time.Minute}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "fetch"}, g.counts(0))
		try := func(key string) error {
			pc := sluice.PipelineContext{Attrs: map[string]string{"api_key": key}}
			return errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "fetch"}))
		}
		const by = "rate/api calls per minute"
		require.NoError(t, try("acme"))
		require.NoError(t, try("acme"))
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		ran, before := 0, int64(0)
		for i := range hostile {
			err := try(fmt.Sprint("made-up-", i))
			if err == nil {
				ran++
			} else if i%1000 == 0 {
				e := wantRefusal(t, err, sluice.ErrSaturated, by, 30*time.Second) // when one has its token back
				if e == nil || e.Cause == nil || !strings.Contains(e.Cause.Error(), "keys are busy") {
					t.Errorf("%v, want it to say that all keys are busy", err)
				}
			}
			if i%1000 == 0 {
				wantRefusal(t, try("acme"), sluice.ErrRateLimited, by, 30*time.Second) // never refreshed
			}
			if i == keys {
				before = heap()
			}
		}
		grown := heap() - before
		t.Logf("%d of %d made-up keys ran; the heap has grown by %d bytes", ran, hostile, grown)
		assert.Equal(t, keys-1, ran, "made-up keys ran: as many as there is room for")
		if grown > 256<<10 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		if n := len(r.Snapshot().Gates); n > keys+2 {
			t.Errorf("%d gates in the snapshot, want at most %d keys", n, keys)
		}
		time.Sleep(30 * time.Second) // the made-up ones are idle again; acme has one call
		for i := range keys {
			if err := try(fmt.Sprint("later-", i)); i < keys-1 && err != nil {
				t.Fatalf("key %d: %v, want idle ones to make room", i, err)
			} else if i == keys-1 {
				wantRefusal(t, err, sluice.ErrSaturated, by, 30*time.Second)
			}
		}
		require.NoError(t, try("acme"))
		wantRefusal(t, try("acme"), sluice.ErrRateLimited, by, 30*time.Second)
	})
}

// The keys of a limit on calls in flight are busy while a call runs or waits under them.
func TestQuota_BusyKeysOfALimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: byAPIKey, MaxKeys: 3}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "fetch"}, sleeps(time.Second))
		const by = "concurrency per api key"
		var fs []*sluice.Future
		for _, k := range []string{"a", "b", "c", "c"} {
			fs = append(fs, r.Submit(r.withKey(k), sluice.Request{Tool: "fetch"}))
		}
		synctest.Wait()
		e := wantRefusal(t, errOf(r.Invoke(r.withKey("d"), sluice.Request{Tool: "fetch"})), sluice.ErrSaturated, by, 0)
		if e != nil && (e.Cause == nil || !strings.Contains(e.Cause.Error(), "keys are busy")) {
			t.Errorf("%v, want it to say that all keys are busy", e)
		}
		require.NoError(t, errOf(r.Invoke(r.withKey(""), sluice.Request{Tool: "fetch"}))) // counts nowhere
		time.Sleep(time.Nanosecond)
		for i, k := range []string{"d", "e"} { // a and b have ended
			if i == 0 {
				fs = append(fs, r.Submit(r.withKey(k), sluice.Request{Tool: "fetch"}))
				continue
			}
			fs = append(fs, r.Submit(r.withKey(k), sluice.Request{Tool: "fetch"}))
		}
		wantRefusal(t, errOf(r.Invoke(r.withKey("f"), sluice.Request{Tool: "fetch"})), sluice.ErrSaturated, by, 0)
		for _, f := range fs {
			require.NoError(t, errOf(f.Wait(t.Context())))
		}
	})
}

// A *rate.Limiter of the caller's own: calls wait until it has a token, take none unless
// everything else agrees, and leave to other code what they do not take.
func TestQuota_SharedLimiter(t *testing.T) {
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
