package agent_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// A call's place in its group is that of its first report that was kept, and no earlier one's.
func TestUndo_OrderOfWhatWasKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{MaxBytes: 200, Lifetime: time.Hour}, sluice.Policy{})
		s.do = func(ctx context.Context, file string) error {
			if file == "late" { // it is refused at first
				require.Error(t, agent.ReportUndo(ctx, undoData{strings.Repeat("x", 200)}))
				time.Sleep(2 * time.Minute)
			}
			return agent.ReportUndo(ctx, undoData{file})
		}
		go s.write(s.ctx, "late")
		time.Sleep(time.Minute)
		require.NoError(t, s.write(s.ctx, "early"))
		time.Sleep(time.Minute)
		synctest.Wait()
		n, err := s.undo.Group(s.ctx, "run-1")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, []string{"late", "early"}, s.order())

		// So it is if what it had left has been forgotten.
		s.do = func(ctx context.Context, file string) error {
			require.NoError(t, agent.ReportUndo(ctx, undoData{file + "1"}))
			if file == "late" {
				time.Sleep(61 * time.Minute)
				return agent.ReportUndo(ctx, undoData{file + "2"})
			}
			return nil
		}
		go s.write(s.ctx, "late")
		time.Sleep(time.Hour)
		require.NoError(t, s.write(s.ctx, "early"))
		time.Sleep(2 * time.Minute)
		n, err = s.undo.Group(s.ctx, "run-1")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, []string{"late", "early", "late2", "early1"}, s.order())
		s.end()
	})
}
