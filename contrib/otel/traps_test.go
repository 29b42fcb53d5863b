package sluiceotel_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// TestTrap_CallsOfOneIDAtOnce: calls that have one id have spans of their own, with what happens in each.
func TestTrap_CallsOfOneIDAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{})
		r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, in string) (string, error) {
			_, s := r.tp.Tracer("http").Start(ctx, "GET "+in)
			defer s.End()
			d, err := time.ParseDuration(in)
			time.Sleep(d)
			return "", err
		})
		ins := []string{"1s", "2s", "3s", "4s"}
		var wg sync.WaitGroup
		for _, in := range ins {
			wg.Go(func() { call(t.Context(), e, "call_0", "search", in) })
		}
		wg.Wait()
		ends := map[string]string{}
		for _, s := range r.spans.GetSpans() {
			if in, ok := strings.CutPrefix(s.Name, "GET "); ok {
				ends[s.Parent.SpanID().String()] = in
			}
		}
		require.Len(t, ends, len(ins))
		for _, s := range r.spans.GetSpans() {
			if s.Name == "execute_tool search" {
				require.Equal(t, ends[s.SpanContext.SpanID().String()], s.EndTime.Sub(s.StartTime).String())
			}
		}
	})
}

// TestTrap_BeforeTheChain: what never reaches an interceptor has a span and is counted all the same.
func TestTrap_BeforeTheChain(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	ctx, root := r.tp.Tracer("agent").Start(t.Context(), "invoke_agent")
	require.ErrorIs(t, call(ctx, e, "", "serach", ""), sluice.ErrUnknownTool)
	_, err := e.Invoke(ctx, sluice.Request{Tool: "search", Args: []byte("{")})
	require.ErrorIs(t, err, sluice.ErrInvalidArguments)
	require.NoError(t, e.Close(t.Context()))
	require.ErrorIs(t, call(ctx, e, "", "search", ""), sluice.ErrClosed)
	root.End()
	spans := r.take()
	require.Len(t, spans, 4)
	for _, s := range spans[1:] {
		require.Contains(t, s, ` (internal) in "invoke_agent", `)
	}
	require.Len(t, points(t, r.collect()["sluice.rejections"]), 3)
}

// TestTrap_MadeUpNamesAddNoSeries: 10,000 names that a model made up are one series of each metric, whatever else is
// wrong with their calls; and so are codes, and constraints, of errors that foreign code makes.
func TestTrap_MadeUpNamesAddNoSeries(t *testing.T) {
	const names = 10_000
	r := newRig(t, sluiceotel.Config{TracerProvider: sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))})
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
		{Max: 1, Scope: sluice.ByTenant, MaxKeys: 20_000},
	}}))
	layer := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			if c.ID == "refused" {
				return sluice.Result{}, &sluice.Error{Reason: sluice.ErrDenied, By: c.Input.(string)}
			}
			return next(ctx, c)
		}
	})
	e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{layer, slots}})
	stop, err := r.obs.Watch("", e)
	require.NoError(t, err)
	defer stop()
	r.tool(e, sluice.Spec{Name: "search"}, func(_ context.Context, in string) (string, error) {
		if in == "" {
			return "", nil
		}
		return "", coded{in}
	})
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	require.Error(t, call(t.Context(), e, "", "made_up", ""))
	before := r.series()
	for i := range names {
		made := fmt.Sprintf("made_up_%d", i)
		require.ErrorIs(t, call(t.Context(), e, "", made, ""), sluice.ErrUnknownTool)
		ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: made, UserID: made, RunID: made, SessionID: made})
		require.NoError(t, call(ctx, e, made, "search", ""))
	}
	require.Equal(t, before, r.series())
	for i := range names {
		made := fmt.Sprintf("made_up_%d", i)
		require.Error(t, call(nil, e, "", made, ""))
		require.Error(t, call(t.Context(), e, "", "search", made), "a tool that makes up codes")
		require.Error(t, call(t.Context(), e, "refused", "search", made), "a layer that makes up constraints")
	}
	require.NoError(t, e.Close(t.Context()))
	for i := range names {
		require.ErrorIs(t, call(t.Context(), e, "", fmt.Sprintf("made_up_%d", i), ""), sluice.ErrClosed)
	}
	for name, m := range r.collect() {
		n := len(points(t, m))
		switch name {
		case "gen_ai.execute_tool.duration": // search with 100 codes, _OTHER with 3
			require.LessOrEqual(t, n, 110)
		case "sluice.rejections": // of 1,000 constraints
			require.LessOrEqual(t, n, 1010)
		default:
			require.LessOrEqual(t, n, 3, name)
		}
		for k := range points(t, m) {
			require.NotContains(t, k, "gen_ai.tool.name=made", name)
		}
	}
}

// TestTrap_LanesAreNotUnique: without a scheduler, and with several tenants, what waits for a constraint is one
// series at each priority.
func TestTrap_LanesAreNotUnique(t *testing.T) {
	for _, scheduler := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, sluiceotel.Config{})
			gates := []sluice.Interceptor{sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))}
			if scheduler {
				gates = append(gates, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})))
			}
			e := r.exec(sluice.Config{Interceptors: gates})
			_, err := r.obs.Watch("", e)
			require.NoError(t, err)
			var wg sync.WaitGroup
			for i := range 12 {
				r.tool(e, sluice.Spec{Name: fmt.Sprint("tool", i)}, func(context.Context, string) (string, error) {
					time.Sleep(time.Second)
					return "", nil
				})
				ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint("tenant", i%3), Priority: sluice.Priority(4 + i%2)})
				wg.Go(func() { call(ctx, e, "", fmt.Sprint("tool", i), "") })
				synctest.Wait()
			}
			m := r.collect()
			want := map[string]string{
				"sluice.limiter=concurrency global sluice.priority=4": "5", "sluice.limiter=concurrency global sluice.priority=5": "6",
			}
			require.Equal(t, want, points(t, m["sluice.queue.length"]))
			wg.Wait()
			for k, v := range points(t, r.collect()["sluice.queue.length"]) {
				require.Equal(t, "0", v, "%s goes on with zero", k)
				require.Contains(t, want, k)
			}
		})
	}
}

// TestTrap_TheSpanSaysHowLongItQueued: though an interceptor does not see how its call was admitted.
func TestTrap_TheSpanSaysHowLongItQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Minute}}})),
		}})
		r.tool(e, sluice.Spec{Name: "search"}, nothing)
		require.NoError(t, call(t.Context(), e, "", "search", ""))
		require.NoError(t, call(t.Context(), e, "", "search", ""))
		require.Contains(t, r.take()[0], "\nsluice.queue.wait=60\n")
		require.Equal(t, map[string]string{"gen_ai.tool.name=search sluice.limiter=rate calls per minute sluice.priority=5": "1 in 60"},
			points(t, r.collect()["sluice.queue.wait"]))
	})
}

// TestRemovedTool_IsNoLabel: what was registered once and is asked for still counts as made up.
func TestRemovedTool_IsNoLabel(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	require.True(t, e.Registry().Remove("search"))
	require.ErrorIs(t, call(t.Context(), e, "", "search", ""), sluice.ErrUnknownTool)
	spans := r.take()
	require.Contains(t, spans[1], "execute_tool _OTHER (internal)")
	require.Contains(t, spans[1], "\ngen_ai.tool.name=_OTHER\n")
	require.Contains(t, points(t, r.collect()["gen_ai.execute_tool.duration"]), "error.type=unknown_tool gen_ai.tool.name=_OTHER gen_ai.tool.type=function")
}

// TestReplacedTool_HasItsNewDescription.
func TestReplacedTool_HasItsNewDescription(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	for _, text := range []string{"Search.", "Search the web."} {
		require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{Name: "search", Description: text}))
		_, err := sluice.Do(t.Context(), e, sluice.Request{Tool: "search"}, func(context.Context) (string, error) { return "", nil })
		require.NoError(t, err)
		require.Contains(t, r.take()[0], "\ngen_ai.tool.description="+text+"\n")
	}
	require.Len(t, points(t, r.collect()["gen_ai.execute_tool.duration"]), 1)
}

// TestNested_IsInside: a call that a tool makes, and one that a layer makes instead of it, are inside its call's span.
func TestNested_IsInside(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	var e *sluice.Executor
	e = r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				if err != nil && tool.Name == "search" {
					return c.Invoke(ctx, sluice.Request{Tool: "archive", Args: []byte(`""`)})
				}
				return res, err
			}
		}),
	}})
	r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, _ string) (string, error) {
		return "", errors.Join(call(ctx, e, "", "fetch", ""), errors.New("no route"))
	})
	r.tool(e, sluice.Spec{Name: "fetch"}, nothing)
	r.tool(e, sluice.Spec{Name: "archive"}, nothing)
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	var heads []string
	for _, s := range r.take() {
		heads = append(heads, s[:strings.Index(s, ",")])
	}
	require.Equal(t, []string{
		`execute_tool search (internal) in ""`, `execute_tool fetch (internal) in "execute_tool search"`, `execute_tool archive (internal) in "execute_tool search"`,
	}, heads)
}
