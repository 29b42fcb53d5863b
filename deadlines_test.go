package sluice

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeadlines_Timer: an attempt that ended early leaves the timer running, for less than
// stopping it would cost; it fires for nobody then, and Close stops it.
func TestDeadlines_Timer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := Must(NewExecutor(NewToolRegistry(), Config{Timeout: time.Minute}))
		f := Must(Wrap(exec, Spec{Name: "x"}, func(context.Context, int) (int, error) { return 1, nil }))
		armed := func(runs int, in time.Duration) {
			t.Helper()
			synctest.Wait()
			d := &exec.deadlines
			d.mu.Lock()
			defer d.mu.Unlock()
			at := int64(0)
			if in > 0 {
				at = exec.clock.Now() + int64(in)
			}
			if d.all.Len() != runs || d.armed != at {
				t.Errorf("%d attempts, fires at %d; want %d and %d", d.all.Len(), d.armed, runs, at)
			}
		}
		call := func() {
			t.Helper()
			if n, err := f(t.Context(), 1); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		armed(0, 0)
		call()
		armed(0, time.Minute)
		time.Sleep(20 * time.Second)
		call()
		armed(0, 40*time.Second) // earlier than it must be
		time.Sleep(40 * time.Second)
		armed(0, 0)
		call()
		armed(0, time.Minute)
		if err := exec.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		armed(0, 0)
	})
}
