package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
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
func TestSnapshot_Lanes(t *testing.T) {
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
func TestSnapshot_ManyKeysAndLanes(t *testing.T) {
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
func TestPlan_WhatAppliesToTheTool(t *testing.T) {
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
		"concurrency/wbe type wbe":      "1[wbe]",
		"rate/typo calls per second":    "3[serach]",
		"concurrency/some type wbe+web": "1[wbe]",
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
func TestPlan_ForeignNames(t *testing.T) {
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

// Who calls a tool whose chain is still being compiled waits no longer than its context; the
// compiling goes on, later calls use it, and Close waits for it. Other tools are not held up.
func TestWrap_ThatBlocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		var wraps atomic.Int64
		slow := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name == "x" {
				wraps.Add(1)
				<-release
			}
			return next
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(slow, atMost(1))})
		for _, n := range []string{"x", "y"} {
			r.tool(sluice.Spec{Name: n}, func(context.Context) error { return nil })
		}
		for i := range 20 {
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(r.ctx)
			time.AfterFunc(time.Second, func() { cancel(cause) })
			from := r.at()
			_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
			assert.ErrorIs(t, err, sluice.ErrRejected, "call %d", i)
			assert.ErrorIs(t, err, cause, "call %d", i)
			assert.Equal(t, time.Second, r.at()-from, "call %d", i)
		}
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		if d := r.Explain(ctx, sluice.Request{Tool: "x"}); d.Refusal == nil || d.Refusal.Reason != sluice.ErrWaitTooLong {
			t.Errorf("Explain: %+v", d.Refusal)
		}
		require.NoError(t, r.call("y"))
		if n := wraps.Load(); n > 2 {
			t.Errorf("%d goroutines are in Wrap, want at most two for one tool", n)
		}
		done := make(chan error)
		go func() { done <- r.call("x") }()
		synctest.Wait()
		before := wraps.Load()
		close(release)
		require.NoError(t, <-done)
		require.NoError(t, r.call("x"))
		if n := wraps.Load(); n != before {
			t.Errorf("%d wraps, %d before it came through: later calls use what was compiled", n, before)
		}
		r.end()
	})
}

// Close waits for a Wrap under way, and says so if its context ends first.
func TestWrap_CloseWaitsForIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			<-release
			return next
		}))})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { t.Error("it ran"); return nil })
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
		assert.ErrorIs(t, err, sluice.ErrWaitTooLong)
		assert.ErrorIs(t, r.Close(ctx), context.DeadlineExceeded, "Close")
		close(release)
		r.end()
		wantRefusal(t, r.call("x"), sluice.ErrClosed, "", 0)
	})
}

// A Wrap may call the tool that it is for, as one that warms it up does.
func TestWrap_CallsItsOwnTool(t *testing.T) {
	var r *rig
	var once atomic.Bool
	warm := make(chan error, 1)
	warms := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if once.CompareAndSwap(false, true) {
			warm <- r.call(s.Name)
		}
		return next
	})
	r = newRig(t, sluice.Config{Interceptors: interceptors(warms)})
	defer r.end()
	var n atomic.Int64
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { n.Add(1); return nil })
	require.NoError(t, r.call("x"))
	require.NoError(t, <-warm)
	if n.Load() != 2 {
		t.Errorf("the tool ran %d times, want twice", n.Load())
	}
}

// A breaker's key that has counted failures is not idle: it makes no room for another.
func TestKeys_CountedFailuresMakeNoRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant, MaxKeys: 2, Failures: 2, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		defer r.end()
		fail := true
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error {
			if fail {
				return errTool
			}
			return nil
		})
		call := func(tenant string) error {
			pc := r.pc
			pc.Tenant = tenant
			return errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "x"}))
		}
		for _, n := range []string{"a", "b"} {
			if err := call(n); err != errTool {
				t.Error(err)
			}
		}
		if err := call("c"); !errors.Is(err, sluice.ErrSaturated) && !errors.Is(err, sluice.ErrRejected) {
			t.Errorf("a third key where both have counted a failure: %v", err)
		}
		assert.Error(t, b.Trip("c"), "a third key was tripped where both have counted a failure")
		for _, n := range []string{"a", "b"} { // the second failure opens: the first was not forgotten
			_ = call(n)
			assert.Equal(t, sluice.BreakerOpen, sluice.Must(b.State(n)), n)
		}
	})
}

// A change of a limiter's MaxKeys bounds the keys from then on.
func TestKeys_ChangedMaxKeysCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conf := func(keys int) sluice.ConcurrencyLimiterConfig {
			return sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant, MaxKeys: keys}}}
		}
		l := sluice.Must(sluice.NewConcurrencyLimiter(conf(2)))
		r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(time.Hour))
		ok := func(tenants int) (n int) {
			for i := range tenants {
				pc := r.pc
				pc.Tenant = fmt.Sprint("t", i)
				f := r.Submit(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "x"})
				synctest.Wait()
				select {
				case <-f.Done():
					_, err := f.Wait(t.Context())
					wantRefusal(t, err, sluice.ErrSaturated, "concurrency per tenant", 0)
				default:
					n++
				}
			}
			return n
		}
		assert.Equal(t, 2, ok(5), "keys of two")
		require.NoError(t, sluice.Reconfigure("me", l.Change(conf(4))))
		time.Sleep(3 * time.Hour)
		assert.Equal(t, 4, ok(5), "keys of four")
		time.Sleep(3 * time.Hour)
		require.NoError(t, sluice.Reconfigure("me", l.Change(conf(1))))
		assert.Equal(t, 1, l.Config().Limits[0].MaxKeys, "MaxKeys")
	})
}

// Whoever has an executor can register tools with it.
func TestExecutor_Registry(t *testing.T) {
	reg := sluice.NewToolRegistry()
	e := sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
	if e.Registry() != reg {
		t.Error("it is not the registry that the executor was made with")
	}
	sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "x"}, echo))
	require.NoError(t, errOf(e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: ""})))
	require.NoError(t, e.Close(t.Context()))
	var none *sluice.Executor
	if none.Registry() != nil || new(sluice.Executor).Registry() != nil {
		t.Error("an executor that nobody made has a registry")
	}
}
