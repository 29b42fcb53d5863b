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
		s := newShed(t, agent.UndoConfig{Timeout: time.Hour}, sluice.Policy{}, twice(time.Minute))
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

// twice repeats a call that fails once, after so long.
func twice(wait time.Duration) sluice.Interceptor {
	return sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 2, Base: wait, Max: wait, Jitter: resilience.NoJitter,
		If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool { return err != nil }}))
}

// reports has each attempt leave its number, and the first of them fail.
func reports(ctx context.Context, file string) error {
	c, _ := sluice.CallFrom(ctx)
	if err := agent.ReportUndo(ctx, undoData{fmt.Sprint(file, c.Attempt)}); err != nil || c.Attempt > 1 {
		return err
	}
	return errOwn
}

// Whose undo function ends when what it had in hand has been forgotten decides nothing about what another has in hand.
func TestUndo_EndsWhenAnotherHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Lifetime: time.Hour, Timeout: 3 * time.Hour}, sluice.Policy{}, twice(61*time.Minute))
		s.do = reports
		s.undoes = func(_ context.Context, file string) error {
			time.Sleep(map[string]time.Duration{"f1": 90, "f2": 40}[file] * time.Minute)
			return nil
		}
		go s.write(s.ctx, "f")
		synctest.Wait()
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- s.undo.Call(s.ctx, s.key(0)) }() // until minute 90
		time.Sleep(62 * time.Minute)
		go func() { second <- s.undo.Call(s.ctx, s.key(0)) }() // until minute 102
		require.NoError(t, <-first)
		require.Equal(t, "undoing", reason(s.undo.Call(s.ctx, s.key(0))))
		require.NoError(t, <-second)
		require.Equal(t, "undone", reason(s.undo.Call(s.ctx, s.key(0))))
		require.Equal(t, []string{"f1", "f2"}, s.order())
		s.end()
	})
}

// An undo function that succeeds after its time undoes what it was given. Its caller has been told, so it goes no further.
func TestUndo_LateFunctionIsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Timeout: time.Second}, sluice.Policy{}, twice(time.Second))
		s.do = reports
		require.NoError(t, s.write(s.ctx, "f"))
		s.undoes = func(context.Context, string) error { time.Sleep(time.Minute); return nil }
		require.Equal(t, "timeout", reason(s.undo.Call(s.ctx, s.key(0))))
		time.Sleep(time.Hour)
		require.Equal(t, []string{"f2"}, s.order())
		s.undoes = nil
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"f2", "f1"}, s.order())
		s.end()
	})
}

// A call whose code runs on for an earlier attempt is not undone when a later one has ended.
func TestUndo_EarlierAttemptRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hedge := sluice.Must(resilience.NewHedge(resilience.HedgeConfig{Tools: func(sluice.Spec) bool { return true }}))
		s := newShed(t, agent.UndoConfig{}, sluice.Policy{}, hedge)
		s.do = func(ctx context.Context, file string) error {
			if c, _ := sluice.CallFrom(ctx); c.Attempt == 1 {
				defer time.Sleep(time.Hour) // it minds nothing
			}
			return reports(ctx, file)
		}
		require.NoError(t, s.write(s.ctx, "f"))
		for range 3 {
			require.Equal(t, "running", reason(s.undo.Call(s.ctx, s.key(0))))
			time.Sleep(19 * time.Minute)
		}
		time.Sleep(3 * time.Minute)
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"f2", "f1"}, s.order())
		s.end()
	})
}

// Before the gates nobody sees that code goes on. What it leaves when it is being undone does not replace what is in hand.
func TestUndo_ReportsWhileItIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShed(t, agent.UndoConfig{Timeout: time.Hour}, sluice.Policy{Timeout: time.Second})
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		exec := sluice.Must(sluice.NewExecutor(s.exec.Registry(), sluice.Config{Interceptors: []sluice.Interceptor{s.undo, limits}}))
		s.do = func(ctx context.Context, file string) error {
			require.NoError(t, agent.ReportUndo(ctx, undoData{file}))
			time.Sleep(5 * time.Minute)
			return agent.ReportUndo(ctx, undoData{file + " and more"})
		}
		_, err := exec.Invoke(s.ctx, sluice.Request{ID: "c", Tool: "write", Input: "a"})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		s.undoes = func(context.Context, string) error { time.Sleep(10 * time.Minute); return errOwn }
		time.Sleep(time.Minute)
		require.Equal(t, "failed", reason(s.undo.Call(s.ctx, s.key(0))))
		s.undoes = nil
		require.NoError(t, s.undo.Call(s.ctx, s.key(0)))
		require.Equal(t, []string{"a and more", "a"}, s.order())
		require.NoError(t, exec.Close(t.Context()))
		s.end()
	})
}
