package promises_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Explain refuses what Invoke refuses before any gate is asked, for the same reason.
func TestExplain_RefusesAsInvokeDoes(t *testing.T) {
	type in struct{ Host string }
	byHost := sluice.ByKey("host", func(c sluice.Call) string { return c.Input.(in).Host })
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(errTool)
	late, end := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer end()
	open := func(t *testing.T, c sluice.Config) *rig {
		r := newRig(t, c)
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "int"}, func(context.Context, int) (int, error) { return 0, nil }))
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "host"}, func(context.Context, in) (int, error) { return 0, nil }))
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "dear", Policy: sluice.Policy{
			Rates: []sluice.Rate{{N: 1, Unit: "u"}}, Cost: func(sluice.Call, string) int64 { panic("cost") }}},
			func(context.Context, int) (int, error) { return 0, nil }))
		r.ctx = context.Background()
		return r
	}
	hosts := sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: byHost}))}
	exits := sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByKey("k", func(sluice.Call) string { runtime.Goexit(); return "" })}))}
	panics := sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByKey("k", func(sluice.Call) string { panic("key") })}))}
	wraps := sluice.Config{Interceptors: interceptors(sluice.InterceptorFunc(func(sluice.Spec, sluice.Handler) sluice.Handler { panic("wrap") }))}
	for name, tt := range map[string]struct {
		conf   sluice.Config
		ctx    context.Context
		r      sluice.Request
		before func(*rig)
		want   error // nil if it would start
	}{
		"would start":              {r: sluice.Request{Tool: "int", Input: 1}},
		"no arguments":             {r: sluice.Request{Tool: "int"}, want: sluice.ErrInvalidArguments},
		"wrong arguments":          {r: sluice.Request{Tool: "int", Args: json.RawMessage(`"x"`)}, want: sluice.ErrInvalidArguments},
		"wrong input":              {r: sluice.Request{Tool: "int", Input: "x"}, want: sluice.ErrInvalidArguments},
		"both":                     {r: sluice.Request{Tool: "int", Input: 1, Args: json.RawMessage(`1`)}, want: sluice.ErrInvalidArguments},
		"a key of no arguments":    {conf: hosts, r: sluice.Request{Tool: "host"}, want: nil},
		"a key of wrong arguments": {conf: hosts, r: sluice.Request{Tool: "int", Input: 1}, want: sluice.ErrRejected},
		"a key too long":           {conf: hosts, r: sluice.Request{Tool: "host", Input: in{strings.Repeat("h", 2000)}}, want: sluice.ErrInvalidArguments},
		"a key that panics":        {conf: panics, r: sluice.Request{Tool: "int", Input: 1}, want: sluice.ErrRejected},
		"a cost that panics":       {r: sluice.Request{Tool: "dear", Input: 1}, want: sluice.ErrRejected},
		"a Wrap that panics":       {conf: wraps, r: sluice.Request{Tool: "int", Input: 1}, want: sluice.ErrRejected},
		"an unknown tool":          {r: sluice.Request{Tool: "nit"}, want: sluice.ErrUnknownTool},
		"a cancelled context":      {ctx: cancelled, r: sluice.Request{Tool: "int", Input: 1}, want: sluice.ErrRejected},
		"a deadline that is over":  {ctx: late, r: sluice.Request{Tool: "int", Input: 1}, want: sluice.ErrWaitTooLong},
		"closed":                   {r: sluice.Request{Tool: "int", Input: 1}, before: func(r *rig) { r.end() }, want: sluice.ErrClosed},
		"removed":                  {r: sluice.Request{Tool: "int", Input: 1}, before: func(r *rig) { r.reg.Remove("int") }, want: sluice.ErrUnknownTool},
		"a bad priority": {r: sluice.Request{Tool: "int", Input: 1}, want: sluice.ErrInvalidArguments,
			ctx: sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Priority: 100})},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, tt.conf)
			if tt.before != nil {
				tt.before(r)
			}
			ctx := tt.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			d := r.Explain(ctx, tt.r)
			_, err := r.Invoke(ctx, tt.r)
			if (d.Refusal == nil) != (err == nil) || (err == nil) != (tt.want == nil) {
				t.Fatalf("Explain: %v; Invoke: %v; want %v", d.Refusal, err, tt.want)
			}
			var e *sluice.Error
			if err != nil && (!errors.As(err, &e) || d.Refusal.Reason != e.Reason || d.Refusal.By != e.By || d.Refusal.Tool != e.Tool || e.Reason != tt.want) {
				t.Errorf("Explain: %+v\nInvoke:  %+v\nwant %v", d.Refusal, err, tt.want)
			}
		})
	}
	t.Run("a key that exits", func(t *testing.T) { // ends the goroutine that asked, of either
		r := open(t, exits)
		for name, ask := range map[string]func(){
			"Explain": func() { r.Explain(r.ctx, sluice.Request{Tool: "int", Input: 1}) },
			"Invoke":  func() { r.Invoke(r.ctx, sluice.Request{Tool: "int", Input: 1}) },
		} {
			done, back := make(chan struct{}), false
			go func() {
				defer close(done)
				ask()
				back = true
			}()
			<-done
			assert.False(t, back, "%s came back from a runtime.Goexit", name)
		}
		r.end()
	})
	t.Run("calls under one root", func(t *testing.T) {
		r := open(t, sluice.Config{MaxCallsPerRoot: 2, MaxDepth: 2})
		r.tool(sluice.Spec{Name: "root"}, func(ctx context.Context) error {
			for i := range 4 {
				d, err := r.Explain(ctx, sluice.Request{Tool: "int", Input: 1}), errOf(r.Invoke(ctx, sluice.Request{Tool: "int", Input: 1}))
				if (d.Refusal == nil) != (err == nil) || (err == nil) != (i < 2) {
					t.Errorf("call %d: Explain: %v; Invoke: %v", i, d.Refusal, err)
				}
			}
			return nil
		})
		require.NoError(t, r.call("root"))
		r.end()
	})
}

// Explain makes no key and has none evicted, of a limit that has room and of one that is full.
func TestExplain_MakesAndEvictsNoKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTenant, MaxKeys: 3}, sluice.Limit{Max: 5, Scope: sluice.ByTool}),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, MaxKeys: 3, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}})))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		as := func(tenant string) context.Context {
			pc := r.pc
			pc.Tenant = tenant
			return sluice.WithPipelineContext(t.Context(), pc)
		}
		explain := func(want error, tenants ...string) {
			t.Helper()
			before := r.Snapshot().Gates
			for _, n := range tenants {
				if d := r.Explain(as(n), sluice.Request{Tool: "x"}); d.Refusal != nil && d.Refusal.Reason != want || d.Refusal == nil && want != nil {
					t.Errorf("%s: %+v, want %v", n, d.Refusal, want)
				}
			}
			if after := r.Snapshot().Gates; !reflect.DeepEqual(before, after) {
				t.Errorf("keys before\n%+v\nand after\n%+v", before, after)
			}
		}
		r.Plan("x") // so that the tool's own cells are there
		explain(nil, "a", "b", "c", "d")
		for i, n := range []string{"a", "b", "c"} {
			require.NoError(t, errOf(r.Invoke(as(n), sluice.Request{Tool: "x"})))
			if i < 2 {
				explain(nil, "new")
			}
		}
		explain(sluice.ErrSaturated, "new")
		// Full: no key of the rate is idle for an hour.
		if d := r.Explain(as("d"), sluice.Request{Tool: "x"}); d.Refusal == nil || d.Refusal.By != "rate calls per hour" {
			t.Errorf("a fourth key: %+v", d)
		}
		_, err := r.Invoke(as("d"), sluice.Request{Tool: "x"})
		assert.Error(t, err, "a fourth key was made where three are busy")
		time.Sleep(time.Hour)
		explain(nil, "d", "e", "f", "g") // they could be evicted, and are not
		for _, n := range []string{"a", "b", "c"} {
			assert.NotEmpty(t, r.gateState("rate calls per hour", n).Name, "key %s is gone", n)
		}
	})
}

// Lanes say what orders them, are told apart by what they wait for, and appear once.
func TestSnapshot_LanesAreToldApartAndAppearOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		sched []sluice.Interceptor
		want  []sluice.LaneState
	}{
		"with a scheduler": {interceptors(scheduler(sluice.PrioritySchedulerConfig{})), []sluice.LaneState{
			{Tool: "x", Tenant: "t2", Priority: 9, Waiting: 2, Oldest: 4 * time.Second, By: "concurrency global"},
			{Tool: "x", Tenant: "t1", Priority: 5, Waiting: 1, Oldest: 1 * time.Second, By: "concurrency per host", Key: "c"},
			{Tool: "x", Tenant: "t1", Priority: 5, Waiting: 1, Oldest: 2 * time.Second, By: "concurrency per host", Key: "d"},
			{Tool: "x", Tenant: "t1", Priority: 1, Waiting: 2, Oldest: 5 * time.Second, By: "concurrency global"},
		}},
		"without a scheduler": {nil, []sluice.LaneState{
			{Tool: "x", Tenant: "t2", Priority: 9, Waiting: 2, Oldest: 4 * time.Second, By: "concurrency global"},
			{Tool: "x", Tenant: "t1", Priority: 5, Waiting: 1, Oldest: 1 * time.Second, By: "concurrency per host", Key: "c"},
			{Tool: "x", Tenant: "t1", Priority: 5, Waiting: 1, Oldest: 2 * time.Second, By: "concurrency per host", Key: "d"},
			{Tool: "x", Tenant: "t1", Priority: 1, Waiting: 2, Oldest: 5 * time.Second, By: "concurrency global"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l := limitsOf(sluice.Limit{Max: 2}, sluice.Limit{Max: 1, Scope: sluice.ByKey("host", func(c sluice.Call) string { return c.Pipeline.UserID })})
				r := newRig(t, sluice.Config{Interceptors: append(interceptors(l), tt.sched...)})
				defer r.end()
				r.tool(sluice.Spec{Name: "x"}, sleeps(time.Minute))
				call := func(tenant string, p sluice.Priority, host string) {
					pc := r.pc
					pc.Tenant, pc.Priority, pc.UserID = tenant, p, host
					go r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "x"})
					synctest.Wait()
				}
				call("t1", 5, "c")
				call("t1", 5, "d")
				// Each needs another key, so each has a lane of its own; two and two look alike.
				for i, x := range []struct {
					tenant string
					p      sluice.Priority
					host   string
				}{{"t1", 1, "e"}, {"t2", 9, "f"}, {"t2", 9, "g"}, {"t1", 5, "d"}, {"t1", 5, "c"}} {
					call(x.tenant, x.p, x.host)
					if i == 2 {
						call("t1", 1, "h")
					}
					time.Sleep(time.Second)
				}
				s := r.Snapshot()
				assert.Equal(t, tt.want, s.Lanes, "lanes")
				assert.Equal(t, 6, s.Queued)
				assert.Equal(t, 2, s.InFlight)
			})
		})
	}
	// A lane's JSON has no priority where there is none.
	b, err := json.Marshal(sluice.LaneState{Tool: "x", Waiting: 1, By: "queue"})
	require.NoError(t, err)
	assert.Equal(t, `{"tool":"x","waiting":1,"oldest_ns":0,"by":"queue"}`, string(b), "%s", b)
}

// More keys and lanes than one batch are all there, once, in order.
func TestSnapshot_HasAllKeysAndLanesOnceInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 2500
		r := newRig(t, sluice.Config{Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTenant, MaxKeys: n}),
			scheduler(sluice.PrioritySchedulerConfig{MaxQueue: n}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
		for range 2 {
			for i := range n {
				r.Submit(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprintf("t%04d", i)}), sluice.Request{Tool: "x"})
			}
		}
		synctest.Wait()
		s := r.Snapshot()
		if s.InFlight != n || s.Queued != n || len(s.Lanes) != n || len(s.Gates) != n+1 {
			t.Fatalf("in flight %d, queued %d, lanes %d, constraints %d: want %d of each, and one of the tool", s.InFlight, s.Queued, len(s.Lanes), len(s.Gates), n)
		}
		for i := range n {
			key := fmt.Sprintf("t%04d", i)
			if g := s.Gates[i]; g.Key != key || g.Used != 1 || g.Waiting != 1 {
				t.Fatalf("the %d-th constraint is %+v", i, g)
			}
			if l := s.Lanes[i]; l.Tenant != key || l.Waiting != 1 || l.Key != key {
				t.Fatalf("the %d-th lane is %+v", i, l)
			}
		}
		time.Sleep(2 * time.Second)
	})
}

// Plan names the gates that limit the tool, and Snapshot the names of a scope that no tool has.
func TestPlan_NamesTheGatesThatLimitTheTool(t *testing.T) {
	limit := func(name string, s ...sluice.Scope) *sluice.ConcurrencyLimiter {
		c := sluice.ConcurrencyLimiterConfig{Name: name}
		for i, s := range s {
			c.Limits = append(c.Limits, sluice.Limit{Max: 1 + i, Scope: s})
		}
		return sluice.Must(sluice.NewConcurrencyLimiter(c))
	}
	typo := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "typo", Scope: sluice.ForTool("serach"), Rates: []sluice.Rate{{N: 3}}}))
	r := newRig(t, sluice.Config{Interceptors: interceptors(passing,
		limit("all", sluice.Global), limit("wbe", sluice.ForType("wbe")), typo, limit("some", sluice.ForType("wbe", "web"), sluice.ForTool("other")),
		breakerOf(sluice.CircuitBreakerConfig{Name: "fetch", Scope: sluice.ForTool("fetch", "search")}),
		limit("key", sluice.ByKey("k", func(sluice.Call) string { return "" })), scheduler(sluice.PrioritySchedulerConfig{}))})
	defer r.end()
	r.tool(sluice.Spec{Name: "search", Type: "web", Policy: sluice.Policy{Concurrency: 1}}, func(context.Context) error { return nil })
	r.tool(sluice.Spec{Name: "bare"}, func(context.Context) error { return nil })
	for tool, want := range map[string]string{
		"search": "func1 → admit[all some fetch key priority tool/search] → search",
		"bare":   "func1 → admit[all key priority] → bare",
	} {
		got, ok := r.Plan(tool)
		if _, rest, _ := strings.Cut(got, " → "); !ok || rest != want[len("func1 → "):] {
			t.Errorf("%s: %q %v, want %q", tool, got, ok, want)
		}
	}
	if p, ok := r.Plan("serach"); ok || p != "" {
		t.Errorf("a plan of no tool: %q", p)
	}
	unmatched := func() map[string]string {
		out := map[string]string{}
		for _, g := range r.Snapshot().Gates {
			if g.Unmatched != nil {
				out[g.Name] = fmt.Sprintf("%d%v", g.Limit, g.Unmatched)
			}
		}
		return out
	}
	want := map[string]string{
		"concurrency/wbe type wbe":      `1[wbe (did you mean "web"?)]`,
		"rate/typo calls per second":    `3[serach (did you mean "search"?)]`,
		"concurrency/some type wbe+web": `1[wbe (did you mean "web"?)]`,
		"concurrency/some tool other":   "2[other]",
		"breaker/fetch":                 "0[fetch]",
	}
	assert.Equal(t, want, unmatched(), "unmatched")
	for _, tool := range []string{"search", "bare"} {
		require.NoError(t, r.call(tool))
	}
	assert.Equal(t, want, unmatched(), "unmatched after calls")
	r.tool(sluice.Spec{Name: "serach"}, func(context.Context) error { return nil })
	delete(want, "rate/typo calls per second")
	assert.Equal(t, want, unmatched(), "unmatched")
}

type stringer struct {
	sluice.InterceptorFunc
	name func() string
}

func (s *stringer) String() string { return s.name() }

// A foreign String that panics, exits or never answers harms no plan and no error; then the
// interceptor's type stands for it.
func TestPlan_ForeignNamesDoNoHarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block := make(chan struct{})
		for want, name := range map[string]func() string{
			"mine":                              func() string { return "mine" },
			"stringer":                          func() string { panic("name") },
			"stringer ":                         func() string { runtime.Goexit(); return "" },
			"stringer  ":                        func() string { <-block; return "late" },
			strings.Repeat("n", 128) + "\u2026": func() string { return strings.Repeat("n", 1<<20) },
		} {
			want = strings.TrimSpace(want)
			x := &stringer{passing, name}
			for _, list := range [][]sluice.Interceptor{interceptors(x), interceptors(atMost(1), x)} {
				r := newRig(t, sluice.Config{Interceptors: list})
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
				from := r.at()
				if p, ok := r.Plan("x"); !ok || !strings.Contains(p, strings.TrimSuffix(want, "\u2026")) || len(p) > 400 || r.at()-from > 100*ms {
					t.Errorf("plan %.200q %v after %v, want %.50q", p, ok, r.at()-from, want)
				}
				require.NoError(t, r.call("x"))
				r.end()
			}
			nothing := &stringer{func(sluice.Spec, sluice.Handler) sluice.Handler { return nil }, name}
			r := newRig(t, sluice.Config{Interceptors: interceptors(nothing)})
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
			var p *sluice.PanicError
			if err := r.call("x"); !errors.Is(err, sluice.ErrRejected) || !errors.As(err, &p) || !strings.Contains(fmt.Sprint(p.Value), "answered a nil Handler") {
				t.Errorf("%v", err)
			}
			r.end()
		}
		close(block)
	})
}

// Explain foretells what Invoke does from the same place: nested in an urgent call, nested
// too deep, and over a table of keys that is full.
func TestExplain_ForetellsWhatInvokeDoes(t *testing.T) {
	t.Run("nested", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Second}}}))
			r := newRig(t, sluice.Config{MaxDepth: 1, MaxCallsPerRoot: 2, Interceptors: interceptors(rates, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})))})
			defer r.end()
			var asked []sluice.Priority // by one goroutine at a time
			queued := make(chan struct{})
			r.tool(sluice.Spec{Name: "leaf", Policy: sluice.Policy{Cost: func(c sluice.Call, _ string) int64 {
				asked = append(asked, c.Priority)
				return 1
			}}}, sleeps(0))
			r.tool(sluice.Spec{Name: "other"}, sleeps(0))
			same := func(ctx context.Context, tool string) {
				d, err := r.Explain(ctx, sluice.Request{Tool: tool}), errOf(r.Invoke(ctx, sluice.Request{Tool: tool}))
				if d.Refusal == nil || err == nil || d.Refusal.Error() != err.Error() || !errors.Is(err, sluice.ErrNesting) {
					t.Errorf("Explain says %v, Invoke %v, want the same ErrNesting", d.Refusal, err)
				}
			}
			r.tool(sluice.Spec{Name: "middle"}, func(ctx context.Context) error {
				same(ctx, "leaf")
				return nil
			})
			r.tool(sluice.Spec{Name: "urgent", Policy: sluice.Policy{Priority: sluice.PriorityInteractive}}, func(ctx context.Context) error {
				<-queued
				asked = nil
				if d := r.Explain(ctx, sluice.Request{Tool: "leaf"}); d.Place != 4 || d.Wait != time.Second {
					t.Errorf("Explain says place %d after %v, want 4, and to overtake: after 1s", d.Place, d.Wait)
				}
				assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"})))
				if r.at() != time.Second || !slices.Equal(asked, []sluice.Priority{sluice.PriorityInteractive, sluice.PriorityInteractive}) {
					t.Errorf("it ran at %v, and the cost was asked for at %v, want 1s and both times as urgent as what it is nested in", r.at(), asked)
				}
				assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "middle"})))
				same(ctx, "leaf") // the third under its root
				return nil
			})
			done := make(chan error, 1)
			go func() { done <- r.call("urgent") }()
			synctest.Wait()
			for range 3 {
				go func() { _ = r.call("other") }()
			}
			synctest.Wait()
			close(queued)
			require.NoError(t, <-done)
		})
	})
	t.Run("full table", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, MaxKeys: 1, Scope: sluice.ByTenant}))})
			defer r.end()
			r.tool(sluice.Spec{Name: "slow"}, sleeps(time.Second))
			done := make(chan error, 1)
			go func() { done <- errOf(r.Invoke(r.as(0, "a"), sluice.Request{Tool: "slow"})) }()
			synctest.Wait()
			d, err := r.Explain(r.as(0, "b"), sluice.Request{Tool: "slow"}), errOf(r.Invoke(r.as(0, "b"), sluice.Request{Tool: "slow"}))
			if d.Refusal == nil || err == nil || d.Refusal.Error() != err.Error() || !errors.Is(err, sluice.ErrSaturated) {
				t.Errorf("Explain says %v, Invoke %v, want the same ErrSaturated", d.Refusal, err)
			}
			require.NoError(t, <-done)
			if d := r.Explain(r.as(0, "b"), sluice.Request{Tool: "slow"}); d.Refusal != nil || d.Place != 0 {
				t.Errorf("Explain says %+v, want room: the only key is idle", d)
			}
		})
	})
	t.Run("two rates of one unit", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 5}, {N: 60, Per: time.Minute}}}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(rates)})
			defer r.end()
			r.tool(sluice.Spec{Name: "x"}, sleeps(0))
			if d := r.Explain(r.ctx, sluice.Request{Tool: "x"}); len(d.Costs) != 1 || d.Costs[0] != (sluice.Cost{Unit: "", Estimate: 1, Actual: 1}) {
				t.Errorf("Explain says %+v, want one cost of one call", d.Costs)
			}
		})
	})
}

// TestDecisionOfACallIsFinal: an attempt that ends after its call has, as a hedged one does, does
// not change what the caller was told.
func TestDecisionOfACallIsFinal(t *testing.T) {
	hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			first := make(chan sluice.Result, 2)
			for range 2 {
				go func() {
					r, _ := next(ctx, c)
					first <- r
				}()
				time.Sleep(time.Millisecond)
			}
			return <-first, nil
		}
	})
	synctest.Test(t, func(t *testing.T) {
		exec := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{hedge}})
		var calls atomic.Int64
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: sluice.Policy{
			Rates: []sluice.Rate{{N: 1e6, Unit: "tokens"}},
			Cost:  func(sluice.Call, string) int64 { return 5 },
		}}, func(ctx context.Context, n int) (int, error) {
			i := calls.Add(1)
			time.Sleep(time.Duration(i) * time.Second) // the second comes later, and takes longer
			sluice.ReportUsage(ctx, "tokens", i)
			return n, nil
		}))
		r, err := exec.Invoke(t.Context(), sluice.Request{Tool: "x", Input: 7})
		want := sluice.Decision{Attempts: 1, Waits: []sluice.Wait{}, Costs: []sluice.Cost{{Unit: "tokens", Estimate: 5, Actual: 1}}}
		if d := r.Decision(); err != nil || r.Value != 7 || !reflect.DeepEqual(d, want) {
			t.Fatalf("%v, %v, %+v: want %+v", r.Value, err, d, want)
		}
		time.Sleep(time.Hour)
		assert.Equal(t, want, r.Decision(), "later the decision")
	})
}

// A result that an interceptor answers from a store says nothing of the call that once gave it.
func TestDecisionOfAStoredResultIsOfItsOwnCall(t *testing.T) {
	for _, loud := range []bool{false, true} {
		t.Run(fmt.Sprint("with a sink ", loud), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var stored *sluice.Result
				store := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						if stored != nil {
							return *stored, nil
						}
						return next(ctx, c)
					}
				})
				r := newRig(t, sluice.Config{Interceptors: interceptors(store, atMost(1))})
				defer r.end()
				if !loud {
					r.ctx = t.Context()
				}
				r.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
				r.busy("x")
				first, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
				require.NoError(t, err)
				waited := sluice.Decision{
					Wait: time.Second, Waits: []sluice.Wait{{By: "concurrency global", For: time.Second}},
					Place: 1, Attempts: 1, Costs: []sluice.Cost{},
				}
				require.Equal(t, waited, first.Decision())
				stored = &first
				again, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
				require.NoError(t, err)
				assert.Equal(t, first.Value, again.Value)
				assert.Empty(t, again.Decision(), "the decision of a call that was answered from the store")
				assert.Equal(t, waited, first.Decision(), "later")
			})
		})
	}
}

// To explain a call makes no key, evicts none and takes nothing.
func TestExplainTakesNoKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, MaxKeys: 2, Rates: []sluice.Rate{{N: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q, limitsOf(sluice.Limit{Max: 5, Scope: sluice.ByTenant, MaxKeys: 2}),
			breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant, MaxKeys: 2}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		explain := func() {
			for i := range 20 {
				d := r.Explain(r.as(0, fmt.Sprint("new", i)), sluice.Request{Tool: "x"})
				assert.Nil(t, d.Refusal, "%+v, want no refusal", d)
			}
		}
		keys := func() (list []string) {
			for _, g := range r.Snapshot().Gates {
				if g.Key != "" {
					list = append(list, g.Name+" "+g.Key)
				}
			}
			return list
		}
		before := keys()
		explain()
		for range 2 {
			if after := keys(); !slices.Equal(before, after) {
				t.Errorf("keys %q, were %q", after, before)
			}
			for _, tenant := range []string{"a", "b"} {
				require.NoError(t, errOf(r.Invoke(r.as(0, tenant), sluice.Request{Tool: "x"})))
			}
			time.Sleep(time.Hour) // both are idle
			before = keys()
			explain()
		}
		assert.Len(t, before, 6, "keys, want two of each gate")
	})
}

// A gate says what it is, by what it counts, and, if it is a breaker, its state; and a
// snapshot can be read back.
func TestSnapshot_GatesSayKindScopeAndState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "openai", Scope: sluice.ForType("web"), Rates: []sluice.Rate{{N: 5}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(quota, limitsOf(sluice.Limit{Max: 3, Scope: sluice.ByTenant}), breakerOf(sluice.CircuitBreakerConfig{Failures: 1}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work", Type: "web", Policy: sluice.Policy{Concurrency: 2, Rates: []sluice.Rate{{N: 9}}, Breaker: &sluice.BreakerPolicy{}}},
			func(context.Context) error { return errTool })
		_ = r.call("work")
		quota.Pause("", time.Minute)
		b, err := json.Marshal(r.Snapshot())
		require.NoError(t, err)
		var snap sluice.Snapshot
		require.NoError(t, json.Unmarshal(b, &snap))
		var got []string
		for _, g := range snap.Gates {
			got = append(got, fmt.Sprintf("%s: %v %s %q %v", g.Name, g.Kind, g.Scope, g.State, g.Paused))
		}
		want := []string{
			`breaker: breaker per tool "open" false`,
			`concurrency per tenant: concurrency per tenant "" false`,
			`rate/openai calls per second: rate type web "" true`,
			`tool/work breaker: breaker tool work "closed" false`,
			`tool/work calls per second: rate tool work "" false`,
			`tool/work concurrency: concurrency tool work "" false`,
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), b)
		}
		for _, s := range []string{`"kind":"breaker","scope":"per tool"`, `"state":"open"`, `"paused":true`} {
			assert.True(t, bytes.Contains(b, []byte(s)), "no %s in %s", s, b)
		}
		var s sluice.BreakerState
		assert.Error(t, s.UnmarshalText([]byte("odd")), "reads what is none")
	})
}

// meter is an interceptor that says of itself what it counts.
type meter struct {
	sluice.InterceptorFunc
	inspect func() []sluice.GateState
}

func (m meter) Inspect() []sluice.GateState { return m.inspect() }

// A snapshot shows what interceptors say of themselves, as what they are, and does without what panics.
func TestSnapshot_Interceptors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		pass := func(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }
		own := []sluice.GateState{{Name: "budget", Scope: "global", Limit: 10, Used: 3}}
		around := meter{pass, func() []sluice.GateState { return own }}
		broken := meter{pass, func() []sluice.GateState { panic("broken") }}
		inside := meter{pass, func() []sluice.GateState { return []sluice.GateState{{Name: "inside"}} }}
		r := newRig(t, sluice.Config{Interceptors: interceptors(around, broken, atMost(1), inside)})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		require.NoError(t, r.call("x"))
		var kinds []string
		for _, g := range r.Snapshot().Gates {
			kinds = append(kinds, g.Kind+" "+g.Name)
		}
		require.Equal(t, []string{"layer budget", "layer inside"}, kinds[len(kinds)-2:])
		require.Empty(t, own[0].Kind, "its own list stays what it was")
		b, err := json.Marshal(r.Snapshot().Gates[len(kinds)-2])
		require.NoError(t, err)
		require.JSONEq(t, `{"name":"budget","kind":"layer","scope":"global","limit":10,"used":3,"waiting":0}`, string(b))
		r.end()
	})
}
