package promises_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A run's priority goes before its tool's, and zero asks for none; so each of the nine can
// be asked for. A nested call has at least its caller's.
func TestEffectivePriority(t *testing.T) {
	const unset = sluice.Priority(0)
	for _, tc := range []struct{ run, tool, want sluice.Priority }{
		{unset, unset, sluice.PriorityNormal},
		{unset, sluice.PriorityBatch, sluice.PriorityBatch},
		{unset, sluice.PriorityInteractive, sluice.PriorityInteractive},
		{sluice.PriorityNormal, sluice.PriorityInteractive, sluice.PriorityNormal},
		{sluice.PriorityNormal, sluice.PriorityBatch, sluice.PriorityNormal},
		{sluice.PriorityBatch, unset, sluice.PriorityBatch},
		{sluice.PriorityInteractive, sluice.PriorityBatch, sluice.PriorityInteractive},
		{4, 6, 4},
	} {
		t.Run(fmt.Sprintf("run %d, tool %d", tc.run, tc.tool), func(t *testing.T) {
			r := newRig(t, sluice.Config{})
			var got [2]sluice.Priority
			seen := func(ctx context.Context, i int) {
				c, _ := sluice.CallFrom(ctx)
				got[i] = c.Priority
			}
			r.tool(sluice.Spec{Name: "inner", Policy: sluice.Policy{Priority: sluice.PriorityBatch}}, func(ctx context.Context) error {
				seen(ctx, 1)
				return nil
			})
			r.tool(sluice.Spec{Name: "outer", Policy: sluice.Policy{Priority: tc.tool}}, func(ctx context.Context) error {
				seen(ctx, 0)
				_, err := r.Invoke(sluice.WithPipelineContext(ctx, sluice.PipelineContext{}), sluice.Request{Tool: "inner"})
				return err
			})
			require.NoError(t, errOf(r.Invoke(r.as(tc.run, ""), sluice.Request{Tool: "outer"})))
			assert.Equal(t, [2]sluice.Priority{tc.want, tc.want}, got,
				"the call and the one nested in it ran at, want %d", tc.want)
		})
	}
}

// A priority out of range is refused, and no event tells one.
func TestPriorityOutOfRange(t *testing.T) {
	for _, p := range []sluice.Priority{-128, -4, -1, 10, 127} {
		r := newRig(t, sluice.Config{})
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Priority: 3}}, func(context.Context) error { return nil })
		_, err := r.Invoke(r.as(p, ""), sluice.Request{Tool: "x"})
		want := fmt.Sprintf(`sluice: tool "x": invalid arguments: sluice: PipelineContext.Priority is %d: must be zero (the tool's) or from 1 to 9`, p)
		assert.ErrorIs(t, err, sluice.ErrInvalidArguments)
		assert.ErrorIs(t, err, sluice.ErrRejected)
		assert.EqualError(t, err, want)
		for _, e := range r.rec.Events() {
			assert.Equal(t, sluice.Priority(3), e.Call.Priority,
				"priority %d asked for: %s tells priority", p, e.Kind)
		}
	}
}
