package promises_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A call that arranges its next run with its own context, and returns, is not nested in
// what has ended: neither depth, nor the count under a root, nor the priority, adds up.
func TestContinuation(t *testing.T) {
	const rounds = 200
	for name, next := range map[string]func(r *rig, ctx context.Context, more func(error)){
		"on a timer": func(r *rig, ctx context.Context, more func(error)) {
			time.AfterFunc(time.Second, func() {
				_, err := r.Invoke(context.WithoutCancel(ctx), sluice.Request{Tool: "poll"})
				more(err)
			})
		},
		"submitted before the tool returns": func(r *rig, ctx context.Context, more func(error)) {
			f := r.Submit(context.WithoutCancel(ctx), sluice.Request{Tool: "poll"})
			go func() { _, err := f.Wait(context.Background()); more(err) }()
		},
	} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			t.Run(name+" "+timeout.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: timeout, MaxDepth: 3, MaxCallsPerRoot: 5})
					ran, over := 0, make(chan struct{})
					r.tool(sluice.Spec{Name: "poll"}, func(ctx context.Context) error {
						time.Sleep(ms) // by then the one before has returned
						if ran++; ran == rounds {
							close(over)
							return nil
						}
						next(r, ctx, func(err error) {
							assert.NoError(t, err)
						})
						return nil
					})
					require.NoError(t, r.call("poll"))
					select {
					case <-over:
					case <-time.After(time.Hour):
						t.Errorf("it ran %d times, want %d", ran, rounds)
					}
					synctest.Wait()
					r.end()
				})
			})
		}
	}
}

// Depth counts the calls around that still run: those in between that have ended do not.
func TestContinuation_DepthCountsWhatRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxDepth: 2})
		var down func(ctx context.Context, n int) error
		r.tool(sluice.Spec{Name: "deep"}, func(ctx context.Context) error { return down(ctx, 1) })
		down = func(ctx context.Context, n int) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "deep"})
			return err
		}
		if err := r.call("deep"); !errors.Is(err, sluice.ErrNesting) || errors.Is(err, sluice.ErrRejected) {
			t.Errorf("without an end: %v, want ErrNesting", err)
		}
		// root runs; middle has ended when its continuation calls leaf: one deep, not two.
		done := make(chan error, 1)
		r.tool(sluice.Spec{Name: "root"}, func(ctx context.Context) error {
			if _, err := r.Invoke(ctx, sluice.Request{Tool: "middle"}); err != nil {
				return err
			}
			return <-done
		})
		r.tool(sluice.Spec{Name: "middle"}, func(ctx context.Context) error {
			time.AfterFunc(time.Second, func() {
				_, err := r.Invoke(ctx, sluice.Request{Tool: "first"})
				done <- err
			})
			return nil
		})
		r.tool(sluice.Spec{Name: "first"}, func(ctx context.Context) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "second"})
			return err
		})
		r.tool(sluice.Spec{Name: "second"}, func(context.Context) error { return nil })
		require.NoError(t, r.call("root"))
		if id, want := r.terminal("first").ParentID, r.terminal("middle").Call.ID; id != want {
			t.Errorf("the continuation's parent is %q, want %q, which arranged it", id, want)
		}
		r.end()
	})
}

// An urgent call lends its priority to those that it waits for, and to nobody afterwards.
func TestContinuation_Priority(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		got := map[string]sluice.Priority{}
		after := make(chan struct{})
		seen := func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			got[c.Tool] = c.Priority
			return nil
		}
		r.tool(sluice.Spec{Name: "during"}, seen)
		r.tool(sluice.Spec{Name: "after"}, seen)
		r.tool(sluice.Spec{Name: "urgent", Policy: sluice.Policy{Priority: sluice.PriorityInteractive}}, func(ctx context.Context) error {
			time.AfterFunc(time.Second, func() {
				defer close(after)
				_, err := r.Invoke(ctx, sluice.Request{Tool: "after"})
				assert.NoError(t, err)
			})
			_, err := r.Invoke(ctx, sluice.Request{Tool: "during"})
			return err
		})
		require.NoError(t, r.call("urgent"))
		<-after
		if got["during"] != sluice.PriorityInteractive || got["after"] != sluice.PriorityNormal {
			t.Errorf("priorities %v, want interactive during the call, and normal after it", got)
		}
		r.end()
	})
}

// A long chain of continuations keeps nothing of the calls that have ended.
func TestContinuation_KeepsNothing(t *testing.T) {
	r := newRig(t, sluice.Config{})
	const rounds = 20_000
	ran, over := 0, make(chan struct{})
	before := heapInUse()
	r.tool(sluice.Spec{Name: "poll"}, func(ctx context.Context) error {
		if ran++; ran < rounds {
			r.Submit(ctx, sluice.Request{Tool: "poll"})
			return nil
		}
		if more := heapInUse() - before; more > 2<<20 {
			t.Errorf("%d bytes are kept after %d runs", more, rounds)
		}
		runtime.KeepAlive(ctx)
		close(over)
		return nil
	})
	r.Submit(context.Background(), sluice.Request{Tool: "poll"}) // without a recorder, which keeps events
	<-over
	r.end()
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
