package promises_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// says is an interceptor that emits an event before its next and one after it, with the number of its attempt.
func says(t *testing.T, name string) sluice.InterceptorFunc {
	return func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			assert.NoError(t, c.Emit(ctx, sluice.EventKind(name+".before"), slog.Int("attempt", int(c.Attempt))))
			res, err := next(ctx, c)
			assert.NoError(t, c.Emit(ctx, sluice.EventKind(name+".after"), slog.Bool("failed", err != nil)))
			return res, err
		}
	}
}

// Layers emit events of their own in the call's order, outside the gates and inside them, with what they say.
func TestEmit_InTheCallsOrder(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var lines, logged bytes.Buffer
				debug := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
				r := newRig(t, sluice.Config{Interceptors: interceptors(says(t, "out"), atMost(1), says(t, "in")), Timeout: way.timeout,
					Sink: sluice.MultiSink(sluice.NewJSONSink(&lines), sluice.NewSlogSink(debug))})
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { time.Sleep(time.Second); return errTool })
				if way.submit {
					_, _ = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(t.Context())
				} else {
					_ = r.call("x")
				}
				r.trace("x: invoked out.before in.before started in.after out.after failed")
				for i, e := range r.rec.Events() {
					require.Equal(t, uint32(i+1), e.Seq)
					if e.Kind == "in.after" {
						require.Equal(t, int32(1), e.Call.Attempt)
						require.Equal(t, time.Second, e.Elapsed)
						require.Equal(t, []slog.Attr{slog.Bool("failed", true)}, e.Attrs)
						require.Nil(t, e.Call.Input)
					} else if !strings.Contains(string(e.Kind), "out") && !strings.Contains(string(e.Kind), "in.") {
						require.Empty(t, e.Attrs)
					}
				}
				require.Regexp(t, `\{"type":"in.before","event_id":"[^"]*/3","seq":3,.*"attempt":1,"priority":5,"attrs":\{"attempt":1\}\}`, lines.String())
				require.Contains(t, lines.String(), `"attrs":{"failed":true}}`)
				require.Regexp(t, `level=DEBUG msg="tool event" event=out.before tool=x .*attrs.attempt=0\n`, logged.String())
				r.end()
			})
		})
	}
}

// What is wrong is said, and nothing is emitted; nor is anything once the call has ended.
func TestEmit_WhatIsWrong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var kept sluice.Call
		bad := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				require.EqualError(t, c.Emit(ctx, sluice.ToolFailed), `sluice: Call.Emit: the kind "tool.failed" is one of the library's: must be another`)
				require.ErrorContains(t, c.Emit(ctx, "failed"), `sluice: Call.Emit: the kind is "failed": must be words`)
				require.ErrorContains(t, c.Emit(ctx, "my.kind", slog.Any("input", c.Input)), `sluice: Call.Emit: attribute "input" is a Any: must be a string`)
				kept = c
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(bad)})
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			require.ErrorContains(t, c.Emit(ctx, "my.kind"), "sluice: Call.Emit: the Call is of no interceptor")
			return nil
		})
		require.NoError(t, r.call("x"))
		require.NoError(t, kept.Emit(r.ctx, "my.kind"))
		r.trace("x: invoked started completed")
		require.Zero(t, r.Snapshot().EventsDropped)
		r.end()
	})
}

// The kinds of the library no layer can have; what only begins like them it can.
func TestEmit_KindsOfTheLibraryAreTaken(t *testing.T) {
	for _, k := range []sluice.EventKind{
		sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolRetrying, sluice.ToolAbandoned, sluice.ToolCompleted,
		sluice.ToolFailed, sluice.ToolDenied, sluice.BreakerStateChanged, sluice.LimitChanged, sluice.LimitStalled,
		sluice.RateLimitPaused, sluice.RateLimitDebt,
	} {
		require.ErrorContains(t, sluice.Call{}.Emit(t.Context(), k), "is one of the library's", k)
	}
	require.ErrorContains(t, sluice.Call{}.Emit(t.Context(), "tool.undone"), "is of no interceptor")
}

// Without a sink nothing is made of it, and it is checked all the same.
func TestEmit_WithoutASink(t *testing.T) {
	exec := newExec(t, sluice.Config{Interceptors: interceptors(says(t, "a"), sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			require.Error(t, c.Emit(ctx, "x"))
			return next(ctx, c)
		}
	}))})
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	n, err := f(t.Context(), 7)
	require.NoError(t, err)
	require.Equal(t, 7, n)
}

// Several goroutines of a call emit at once, also while it ends: the order has no gap, and the end is last.
func TestEmit_Storm(t *testing.T) {
	rec := new(sluice.Recorder)
	var all sync.WaitGroup
	many := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			for g := range 4 {
				all.Go(func() {
					for i := range 20 {
						assert.NoError(t, c.Emit(ctx, sluice.EventKind(fmt.Sprintf("g%d.says", g)), slog.Int("i", i)))
					}
				})
			}
			return next(ctx, c)
		}
	})
	exec := newExec(t, sluice.Config{Interceptors: interceptors(many, atMost(2)), Sink: rec})
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for range 25 {
				_, err := f(t.Context(), 7)
				assert.NoError(t, err)
			}
		})
	}
	calls.Wait()
	all.Wait()
	require.NoError(t, exec.Close(t.Context()))
	require.NoError(t, rec.Check())
	next := map[string]int64{}
	for _, e := range rec.Events() {
		if strings.HasSuffix(string(e.Kind), ".says") {
			k := fmt.Sprint(e.CallKey, e.Kind)
			require.Equal(t, next[k], e.Attrs[0].Value.Int64(), "what one goroutine says")
			next[k]++
		}
	}
}
