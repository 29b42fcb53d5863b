package office

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// An endpoint that stays broken: what ran is not repeated, and what was refused waits for no longer
// than patience.
func TestGuardOfWhatStaysBroken(t *testing.T) {
	inBubble(t, func(t *testing.T, b *backend, tools map[string]agentTool) {
		b.broke = b.broke.Add(time.Hour)
		exec := newGuard(tools, new(atomic.Int64), new(Observer))
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

// The waits that the report shows are those until the tools' code began, to the nanosecond.
func TestWaitsAreThoseOfTheTools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, err := loadTurns(turnFiles)
		require.NoError(t, err)
		var mu sync.Mutex
		began := make(map[string][]time.Duration) // by tool
		start := time.Now()
		c, err := pipes().run(t.Context(), terminal{w: io.Discard}, turns, func(tools map[string]agentTool, retried *atomic.Int64) (turnFunc, closer) {
			for name, tool := range tools {
				run := tool.run
				tool.run = func(ctx context.Context, args json.RawMessage) (json.RawMessage, error) {
					mu.Lock()
					began[name] = append(began[name], time.Since(start))
					mu.Unlock()
					return run(ctx, args)
				}
				tools[name] = tool
			}
			return guarded(tools, retried)
		})
		require.NoError(t, err)
		told := make(map[string][]time.Duration)
		for _, a := range c.answers {
			told[a.Tool] = append(told[a.Tool], a.Began)
		}
		for name := range workTime {
			if name != brokenTool { // whose calls wait for its recovery too
				slices.Sort(told[name])
				require.Equal(t, began[name], told[name], name)
			}
		}
	})
}

// A replay that is stopped answers every call nevertheless, so that the histories stay valid.
func TestStoppedReplayAnswersEveryCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, err := loadTurns(turnFiles)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var out bytes.Buffer
		c, err := pipes().run(ctx, terminal{w: &out}, turns, guarded)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, c.took)
		checkAnswers(t, c)
		require.Less(t, c.succeeded(), 50)
		require.Contains(t, out.String(), "223/223 ended")
	})
}
