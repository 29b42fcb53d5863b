package resilience_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

type query struct {
	Q string `json:"q"`
}

// page is what a search answers: something that can be changed.
type page struct {
	N     int      `json:"n"`
	Links []string `json:"links"`
}

func cache(t *testing.T, c resilience.CacheConfig) *resilience.Cache {
	t.Helper()
	x, err := resilience.NewCache(c)
	require.NoError(t, err)
	return x
}

// search registers a tool that counts its runs, and answers with them what f says.
func search(r *rig, name string, h sluice.Hints, f func(ctx context.Context, n int) error) func(ctx context.Context, q string) (page, error) {
	r.t.Helper()
	var runs atomic.Int64
	g, err := sluice.Wrap(r.Executor, sluice.Spec{Name: name, Hints: h}, func(ctx context.Context, in query) (page, error) {
		n := int(runs.Add(1))
		return page{n, []string{in.Q}}, f(ctx, n)
	})
	require.NoError(r.t, err)
	return func(ctx context.Context, q string) (page, error) { return g(ctx, query{q}) }
}

func works(context.Context, int) error { return nil }

// An answer is kept for its time, for those who ask the same, and each has one of its own.
func TestCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, cache(t, resilience.CacheConfig{}))
		f := search(r, "x", readOnly, works)
		get := func(ctx context.Context, q string) int {
			t.Helper()
			p, err := f(ctx, q)
			require.NoError(t, err)
			require.Equal(t, []string{q}, p.Links)
			p.Links[0] = "changed"
			return p.N
		}
		acme := sluice.WithPipelineContext(r.ctx, sluice.PipelineContext{Tenant: "acme"})
		org := sluice.WithPipelineContext(r.ctx, sluice.PipelineContext{OrgID: "acme", RunID: "other"})
		require.Equal(t, 1, get(r.ctx, "a"))
		require.Equal(t, 1, get(r.ctx, "a"))
		require.Equal(t, 2, get(r.ctx, "b"))
		require.Equal(t, 3, get(acme, "a"), "another tenant")
		require.Equal(t, 3, get(org, "a"), "the same tenant")
		res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Args: json.RawMessage(`{"q":"a"}`)})
		require.NoError(t, err)
		require.Equal(t, page{1, []string{"a"}}, res.Value, "the tool's own type")
		time.Sleep(time.Minute - 1)
		require.Equal(t, 1, get(r.ctx, "a"))
		time.Sleep(time.Nanosecond)
		require.Equal(t, 4, get(r.ctx, "a"))
		r.end()
	})
}

// Arguments that say the same are the same, in whatever order.
func TestCache_RawArguments(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, cache(t, resilience.CacheConfig{}))
		n := 0
		sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "raw", Hints: readOnly}, func(context.Context, json.RawMessage) (json.RawMessage, error) {
			n++
			return json.RawMessage(fmt.Sprint(n)), nil
		}))
		get := func(args string) string {
			t.Helper()
			res, err := r.Invoke(r.ctx, sluice.Request{Tool: "raw", Args: json.RawMessage(args)})
			require.NoError(t, err)
			return string(res.Value.(json.RawMessage))
		}
		require.Equal(t, "1", get(`{"a":1,"b":{"c":[1,2],"d":"x"}}`))
		require.Equal(t, "1", get(` { "b" : {"d":"x","c":[1, 2]}, "a": 1 } `))
		require.Equal(t, "2", get(`{"a":1,"b":{"c":[2,1],"d":"x"}}`))
		require.Equal(t, "3", get(`{"a":12345678901234567890,"b":1}`))
		require.Equal(t, "4", get(`{"a":12345678901234567891,"b":1}`), "numbers are not rounded")
		r.end()
	})
}

// What is not kept, and what is.
func TestCache_WhatIsKept(t *testing.T) {
	fails := func(context.Context, int) error { return errBoom }
	for _, tt := range []struct {
		name  string
		conf  resilience.CacheConfig
		hints sluice.Hints
		pol   sluice.Config
		tool  func(ctx context.Context, n int) error
		runs  int // of two calls
	}{
		{"a tool that writes", resilience.CacheConfig{}, sluice.Hints{Idempotent: true}, sluice.Config{}, works, 2},
		{"by its own rule", resilience.CacheConfig{Tools: func(s sluice.Spec) bool { return s.Name == "x" }}, sluice.Hints{}, sluice.Config{}, works, 1},
		{"no key", resilience.CacheConfig{Key: func(sluice.Call) (string, bool) { return "k", false }}, readOnly, sluice.Config{}, works, 2},
		{"an error", resilience.CacheConfig{}, readOnly, sluice.Config{}, fails, 2},
		{"an error, for a time", resilience.CacheConfig{ErrorTTL: time.Second}, readOnly, sluice.Config{}, fails, 1},
		{"a throttle", resilience.CacheConfig{ErrorTTL: time.Second}, readOnly, sluice.Config{}, func(context.Context, int) error { return later(ms) }, 2},
		{"a timeout", resilience.CacheConfig{ErrorTTL: time.Hour}, readOnly, sluice.Config{Timeout: time.Second},
			func(context.Context, int) error { time.Sleep(2 * time.Second); return nil }, 2},
		{"a failing result", resilience.CacheConfig{}, readOnly,
			sluice.Config{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeFailure }}, works, 2},
		{"a result that its code says is a failure", resilience.CacheConfig{}, readOnly, sluice.Config{}, func(ctx context.Context, _ int) error {
			sluice.ReportOutcome(ctx, sluice.OutcomeFailure)
			return nil
		}, 2},
		{"too large", resilience.CacheConfig{MaxBytes: 100}, readOnly, sluice.Config{}, works, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, tt.pol, cache(t, tt.conf))
				f := search(r, "x", tt.hints, tt.tool)
				_, first := f(r.ctx, "a")
				_, second := f(r.ctx, "a")
				require.Equal(t, sluice.CodeOf(first), sluice.CodeOf(second))
				if first != nil {
					require.NotErrorIs(t, second, sluice.ErrRejected)
				}
				require.Len(t, r.starts(), tt.runs)
				r.end()
			})
		})
	}
	bubble(t, func(t *testing.T) { // nor what ended because its caller left
		r := newRig(t, sluice.Config{}, cache(t, resilience.CacheConfig{ErrorTTL: time.Hour}))
		f := search(r, "x", readOnly, func(ctx context.Context, n int) error {
			if n == 1 {
				<-ctx.Done()
			}
			return ctx.Err()
		})
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		_, err := f(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		p, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, 2, p.N)
		r.end()
	})
}

// What is too old answers where a call fails, but not for ever, and not who leaves.
func TestCache_Stale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker}}, cache(t, resilience.CacheConfig{TTL: time.Second, StaleTTL: 10 * time.Second}))
		down := false
		f := search(r, "x", readOnly, func(context.Context, int) error {
			if down {
				return errBoom
			}
			return nil
		})
		_, err := f(r.ctx, "a")
		require.NoError(t, err)
		down = true
		time.Sleep(2 * time.Second)
		for range 2 { // the tool fails, then the breaker refuses
			p, err := f(r.ctx, "a")
			require.NoError(t, err)
			require.Equal(t, 1, p.N)
		}
		_, err = f(r.ctx, "b")
		require.ErrorIs(t, err, sluice.ErrBreakerOpen)
		ctx, cancel := context.WithCancel(r.ctx)
		cancel()
		_, err = f(ctx, "a")
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(9 * time.Second)
		_, err = f(r.ctx, "a")
		require.ErrorIs(t, err, sluice.ErrBreakerOpen, "it is over")
		r.end()
	})
}

// The least used make room, for entries and for bytes, and a snapshot says how much there is.
func TestCache_Bounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		layer := cache(t, resilience.CacheConfig{MaxEntries: 2})
		r := newRig(t, sluice.Config{}, layer)
		f := search(r, "x", readOnly, works)
		get := func(q string) int {
			p, err := f(r.ctx, q)
			require.NoError(t, err)
			return p.N
		}
		require.Equal(t, []int{1, 2, 1, 3, 1, 4}, []int{get("a"), get("b"), get("a"), get("c"), get("a"), get("b")})
		gates := layer.Inspect()
		require.Equal(t, int64(2), gates[0].Used)
		layer.Clear()
		require.Zero(t, layer.Inspect()[0].Used+layer.Inspect()[1].Used)
		require.Equal(t, 5, get("a"))
		r.end()

		layer = cache(t, resilience.CacheConfig{MaxBytes: 1000})
		r = newRig(t, sluice.Config{}, layer)
		f = search(r, "x", readOnly, works)
		for i := range 100 {
			get(fmt.Sprint(i))
			require.LessOrEqual(t, layer.Inspect()[1].Used, int64(1000))
		}
		require.Greater(t, layer.Inspect()[0].Used, int64(1))
		r.end()
	})
}

// Many who ask at once, for more than there is room, get what is theirs.
func TestCache_Storm(t *testing.T) {
	layer := cache(t, resilience.CacheConfig{MaxEntries: 7, TTL: time.Millisecond})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly}, func(_ context.Context, n int) (int, error) {
		if n%5 == 0 {
			return 0, errBoom
		}
		return n * n, nil
	}))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				n := (i*7 + g) % 20
				got, err := f(context.Background(), n)
				if n%5 == 0 {
					if !errors.Is(err, errBoom) {
						t.Errorf("%d: %v", n, err)
					}
				} else if got != n*n || err != nil {
					t.Errorf("%d: %d %v", n, got, err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, exec.Close(context.Background()))
}

func TestCache_Config(t *testing.T) {
	for want, c := range map[string]resilience.CacheConfig{
		"resilience: CacheConfig.TTL is -1ns: must not be negative":                        {TTL: -1},
		"resilience: CacheConfig.ErrorTTL is -1ns: must not be negative":                   {ErrorTTL: -1},
		"resilience: CacheConfig.StaleTTL is -1ns: must not be negative":                   {StaleTTL: -1},
		"resilience: CacheConfig.MaxEntries is -1: must be zero or up to 1073741824":       {MaxEntries: -1},
		"resilience: CacheConfig.MaxBytes is 1073741825: must be zero or up to 1073741824": {MaxBytes: 1<<30 + 1},
	} {
		_, err := resilience.NewCache(c)
		require.EqualError(t, err, want)
	}
}

// A tool that only reads is asked once for what many want to know.
func ExampleNewCache() {
	layer := sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
	defer exec.Close(context.Background())
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}},
		func(_ context.Context, city string) (string, error) {
			fmt.Println("asking about", city)
			return city + ": sunny", nil
		}))
	for range 2 {
		fmt.Println(weather(context.Background(), "Oslo"))
	}
	// Output:
	// asking about Oslo
	// Oslo: sunny <nil>
	// Oslo: sunny <nil>
}
