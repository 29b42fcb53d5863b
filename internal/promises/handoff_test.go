package promises_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// Who gives back a slot goes on before the call that gets it, unless the scheduler hands off: then that runs first. On one
// processor the difference shows in each of many turns, but where something else of the process gets in between.
func TestHandOff_WhoWaitsRunsFirst(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	turns := func(handOff bool) (first int) {
		order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(order, atMost(1))})
		to := order.Config()
		to.HandOff = handOff
		require.NoError(t, sluice.Reconfigure("test", order.Change(to)))
		var began atomic.Bool
		waits := make(chan struct{})
		r.tool(sluice.Spec{Name: "holds"}, func(context.Context) error {
			go func() {
				_ = r.call("waits")
				waits <- struct{}{}
			}()
			for r.Snapshot().Queued == 0 {
				runtime.Gosched()
			}
			return nil
		})
		r.tool(sluice.Spec{Name: "waits"}, func(context.Context) error {
			began.Store(true)
			return nil
		})
		for range 100 {
			began.Store(false)
			require.NoError(t, r.call("holds"))
			if began.Load() {
				first++
			}
			<-waits
		}
		r.end()
		return first
	}
	require.Less(t, turns(false), 50)
	require.Greater(t, turns(true), 50)
}
