package agent_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// A thousand at once, through a process that dies in it, decisions about that, a restart, and the end of the lifetime:
// what was left is undone once, and by nobody whose undoing may have had its effect.
func TestUndo_AThousandCallersAndRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		began := make(chan *shed, 1000)
		var runs atomic.Int32
		process := func() *shed {
			view := sluice.Must(state.View("here/", sluice.SharedStateConfig{}))
			s := newShed(t, agent.UndoConfig{State: view, Lease: 30 * time.Second, Lifetime: time.Hour}, sluice.Policy{})
			s.undoes = func(context.Context, string) error {
				runs.Add(1)
				began <- s
				time.Sleep(10 * time.Second)
				return nil
			}
			return s
		}
		first := process()
		require.NoError(t, first.write(first.ctx, "a"))
		key := first.key(0)
		thousand := func(all []*shed, f func(*shed) error) map[string]int {
			told := map[string]int{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					s := all[i%len(all)]
					err := f(s)
					mu.Lock()
					defer mu.Unlock()
					told[reason(err)]++
				})
			}
			wg.Wait()
			return told
		}
		call := func(s *shed) error { return s.undo.Call(s.ctx, key) }

		// One undoes, and its process dies in that.
		all := []*shed{first, process(), process()}
		go func() {
			winner := <-began
			time.Sleep(5 * time.Second)
			require.NoError(t, winner.state.Close())
		}()
		told := thousand(all, call)
		require.Equal(t, map[string]int{"undoing": 999, "state": 1}, told, "it could not say that it has undone")
		require.EqualValues(t, 1, runs.Load())

		// Nobody undoes what may be undone. A thousand decide, one of whom does.
		time.Sleep(time.Minute)
		all = []*shed{process(), process()}
		require.Equal(t, map[string]int{"in_doubt": 1000}, thousand(all, call))
		require.Equal(t, map[string]int{"<nil>": 1, "open": 999}, thousand(all, func(s *shed) error { return s.undo.Resolve(s.ctx, key, false) }))
		require.EqualValues(t, 1, runs.Load())

		// Then one undoes it, after a restart.
		next := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		raw, err := state.MarshalJSON()
		require.NoError(t, err)
		require.NoError(t, next.UnmarshalJSON(raw))
		require.NoError(t, state.Close())
		state = next
		all = []*shed{process(), process(), process()}
		require.Equal(t, map[string]int{"<nil>": 1, "undoing": 999}, thousand(all, call))
		require.Equal(t, map[string]int{"undone": 1000}, thousand(all, call))
		require.EqualValues(t, 2, runs.Load())

		// What has expired at that very instant, nobody does.
		require.NoError(t, all[0].write(all[0].ctx, "b"))
		key = all[0].key(0)
		time.Sleep(time.Hour)
		require.Equal(t, map[string]int{"unknown": 1000}, thousand(all, call))
		require.EqualValues(t, 2, runs.Load())
		require.NoError(t, state.Close())
	})
}
