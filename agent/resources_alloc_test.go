//go:build !race

package agent_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// TestResources_AllocateNothing: calls that name no resource cost no memory.
func TestResources_AllocateNothing(t *testing.T) {
	for _, with := range []bool{false, true} {
		exec, ctx, req := resourcesExec(t, with), context.Background(), sluice.Request{Tool: "x", Input: 1}
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			if _, err := exec.Invoke(ctx, req); err != nil {
				t.Error(err)
			}
		}), "with resources: %v", with)
	}
}
