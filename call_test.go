package sluice

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/sluice-go/sluice/internal/permit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCallsPerRoot_StayInRange: nested calls that are refused because there were too many
// do not count, so that the count cannot run over however many there are.
func TestCallsPerRoot_StayInRange(t *testing.T) {
	exec := Must(NewExecutor(NewToolRegistry(), Config{MaxCallsPerRoot: 3}))
	inner := Must(Wrap(exec, Spec{Name: "inner"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	outer := Must(Wrap(exec, Spec{Name: "outer"}, func(ctx context.Context, n int) (int, error) {
		for i := range n {
			_, err := inner(ctx, i)
			assert.Equal(t, i >= 3, errors.Is(err, ErrNesting), "call %d: %v", i, err)
		}
		return int(callOf(ctx).inv.first.calls.Load()), nil
	}))
	if n, err := outer(t.Context(), 10); n != 3 || err != nil {
		t.Errorf("%d calls are counted, want 3; %v", n, err)
	}
}

// TestCall_IsNotComparable: with the code of a declared tool one would panic as the key of a map.
func TestCall_IsNotComparable(t *testing.T) { require.False(t, reflect.TypeFor[Call]().Comparable()) }

// TestDo_LetsCodeGo: what serves the next call keeps none of the code of one that has ended, nor what that leads to.
func TestDo_LetsCodeGo(t *testing.T) {
	exec := Must(NewExecutor(NewToolRegistry(), Config{}))
	require.NoError(t, Declare(exec.registry, Spec{Name: "search"}))
	for range 10 { // each may have a frame of its own
		_, err := Do(t.Context(), exec, Request{Tool: "search"}, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
		x := frames.Get().(*frame)
		require.Nil(t, x.c.code)
		frames.Put(x)
	}
}

// TestFindAndPart: of who looks for a call and who is done with it at one time, one hears of the other.
func TestFindAndPart(t *testing.T) {
	const rounds = 100_000
	exec := Must(NewExecutor(NewToolRegistry(), Config{}))
	var at atomic.Pointer[callContext]
	var found atomic.Pointer[invocation]
	go func() {
		for range rounds {
			x := at.Swap(nil)
			for ; x == nil; x = at.Swap(nil) {
				runtime.Gosched()
			}
			found.Store(x.find())
		}
	}()
	alone, plan := 0, exec.refusing(&tool{}, ErrClosed, nil)
	for i := range rounds {
		w := &whole{invocation: invocation{plan: plan}}
		w.first = &w.space
		x := new(callContext).set(t.Context(), &w.invocation)
		at.Store(x)
		for range i % 64 { // part comes a little later each time
			at.Load()
		}
		parted := x.part(permit.Gone)
		inv := found.Swap(nil)
		for ; inv == nil; inv = found.Swap(nil) {
			runtime.Gosched()
		}
		if parted {
			alone++
			require.NotSame(t, &w.invocation, inv, "it was found, and would be used for another")
			require.NotSame(t, &w.invocation, x.find(), "it is used for another")
		}
	}
	t.Logf("parted %d times of %d", alone, rounds)
}

// TestFind: what there is to find of a call, at each step of its way.
func TestFind(t *testing.T) {
	exec := Must(NewExecutor(NewToolRegistry(), Config{}))
	Must(Wrap(exec, Spec{Name: "x"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	plan := exec.compile(t.Context(), "x")
	made := func() (*whole, *callContext) {
		w := new(whole)
		w.join(nil)
		w.plan, w.id = plan, "a"
		return w, new(callContext).set(t.Context(), &w.invocation)
	}
	t.Run("found while it is under way", func(t *testing.T) {
		w, x := made()
		require.Same(t, &w.invocation, x.find())
		require.False(t, w.space.HasBegun(), "a sink may have looked")
		require.Same(t, &w.space.running, x.call())
		require.True(t, w.space.Inside(), "whoever has the code's context is the code")
		require.False(t, x.part(permit.Ending), "it is kept")
		x.sight.Ended()
		require.Same(t, &w.invocation, x.find())
	})
	t.Run("not found before it has returned", func(t *testing.T) {
		w, x := made()
		require.True(t, x.part(permit.Ending))
		require.Nil(t, x.inv, "what leads to the call, and by it to others")
		inv := x.find()
		require.NotSame(t, &w.invocation, inv)
		require.Equal(t, "a", inv.id)
		require.True(t, x.call().Over())
		require.False(t, inv.attempts.IsReported(), "its end is being reported")
		x.sight.Ended()
		require.True(t, x.find().attempts.IsReported())
		require.False(t, w.space.HasBegun(), "nobody has touched what is used again")
	})
	t.Run("not found before it is over", func(t *testing.T) {
		_, x := made()
		require.True(t, x.part(permit.Gone))
		require.Nil(t, x.inv)
		require.True(t, x.find().attempts.IsReported())
		require.True(t, x.call().Over())
	})
}
