package agent_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
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

// What an attempt has left whose code runs is not undone after that of an earlier one: its effect may be yet to come.
func TestUndo_LaterAttemptRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 2, Base: time.Minute, Max: time.Minute, Jitter: resilience.NoJitter,
			If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool { return err != nil }}))
		s := newShed(t, agent.UndoConfig{Timeout: time.Hour}, sluice.Policy{}, retry)
		s.do = func(ctx context.Context, file string) error {
			c, _ := sluice.CallFrom(ctx)
			require.NoError(t, agent.ReportUndo(ctx, undoData{fmt.Sprint(file, c.Attempt)}))
			if c.Attempt == 1 {
				return errOwn
			}
			time.Sleep(time.Minute)
			require.Equal(t, []string{"f1"}, s.order(), "the effect is still to come")
			return nil
		}
		s.undoes = func(context.Context, string) error { time.Sleep(90 * time.Second); return nil }
		done := make(chan error, 1)
		go func() { done <- s.write(s.ctx, "f") }()
		time.Sleep(time.Second)
		require.Equal(t, "running", reason(s.undo.Call(s.ctx, s.key(0)))) // from 1 s to 91 s; the attempt from 60 s to 120 s
		require.Equal(t, []string{"f1"}, s.order())
		require.Equal(t, agent.UndoRunning, s.undo.List(s.ctx, "run-1")[0].State)
		require.NoError(t, <-done)
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"f1", "f2"}, s.order())
		events := s.rec.Events()
		require.Equal(t, sluice.EventKind("tool.undo_failed"), events[len(events)-2].Kind)
		require.Equal(t, sluice.EventKind("tool.undone"), events[len(events)-1].Kind)
		s.end()
	})
}
