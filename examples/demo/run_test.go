package main

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// An endpoint that stays broken: what ran is not repeated, and what was refused waits for no longer
// than patience.
func TestGuardOfWhatStaysBroken(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		b.born = b.born.Add(time.Hour)
		exec, err := newGuard(tools, nil)
		require.NoError(t, err)
		invoke := func() error {
			_, err := exec.Invoke(t.Context(), sluice.Request{Tool: brokenTool, Args: []byte(`{}`)})
			return err
		}
		for range 3 { // which open the breaker
			start := time.Now()
			require.ErrorAs(t, invoke(), new(*statusError))
			require.Equal(t, workTime[brokenTool], time.Since(start))
		}
		require.Equal(t, 3, b.Counts().Wasted, "requests")

		start := time.Now()
		ends := make([]error, 6)
		var wg sync.WaitGroup
		for i := range ends {
			wg.Go(func() { ends[i] = invoke() })
		}
		wg.Wait()
		require.LessOrEqual(t, time.Since(start), patience+workTime[brokenTool])
		tried, refused := 0, 0
		for _, err := range ends {
			if status, ran := errors.AsType[*statusError](err); ran {
				require.Equal(t, http.StatusInternalServerError, status.Status)
				tried++
				continue
			}
			gaveUp, ok := errors.AsType[*resilience.RetryError](err)
			require.True(t, ok, "%v", err)
			require.ErrorIs(t, err, sluice.ErrRejected)
			require.ErrorIs(t, err, sluice.ErrBreakerOpen)
			require.Greater(t, len(gaveUp.Tried), 1)
			refused++
		}
		require.Positive(t, refused, "all %d found out for themselves", tried)
		require.Positive(t, tried, "nobody looked whether it works again")
		require.Equal(t, 3+tried, b.Counts().Wasted, "requests")
		require.NoError(t, exec.Close(t.Context()))
	})
}
