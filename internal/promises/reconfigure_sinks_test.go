package promises_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
)

// Whoever one change lets start starts, whatever a sink of another domain does that is told of it.
func TestReconfigure_ASinkHoldsUpNoOtherDomain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		slow := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.LimitChanged {
				<-release
			}
			return nil
		})
		var rigs [2]*rig
		var inside [2]gauge
		var changes []sluice.Change
		for i := range rigs {
			hold := atMost(1)
			rigs[i] = newRig(t, sluice.Config{Interceptors: interceptors(hold), Sink: slow})
			rigs[i].tool(sluice.Spec{Name: "x"}, inside[i].counts(time.Minute))
			for range 2 {
				rigs[i].Submit(rigs[i].ctx, sluice.Request{Tool: "x"})
			}
			changes = append(changes, hold.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
		}
		synctest.Wait()
		go func() {
			if err := sluice.Reconfigure("me", changes...); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		for i := range rigs {
			if n := inside[i].inside.Load(); n != 2 {
				t.Errorf("%d calls of domain %d run, want 2", n, i)
			}
		}
		close(release)
		for _, r := range rigs {
			r.end()
		}
	})
}
