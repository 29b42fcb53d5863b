package oneshot

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestValue_ComesToWhoeverAskedBeforeAndAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v Value[int]
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if n, err := v.Wait(t.Context()); n != 7 || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			})
		}
		synctest.Wait()
		select {
		case <-v.Done():
			t.Error("it has come")
		default:
		}
		v.Set(7)
		<-v.Done()
		n, err := v.Wait(t.Context())
		assert.Equal(t, 7, n)
		assert.NoError(t, err)
		wg.Wait()
	})
}

func TestWait_PrefersTheValueToAContextThatHasEnded(t *testing.T) {
	mine := errors.New("mine")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(mine)
	var v Value[int]
	if n, err := v.Wait(ctx); n != 0 || err != mine {
		t.Errorf("before it came: %d, %v, want the context's cause", n, err)
	}
	v.Set(7)
	for range 100 {
		n, err := v.Wait(ctx)
		require.Equal(t, 7, n, "after it came")
		require.NoError(t, err, "after it came")
	}
}

// Who asks first and who sets race for the state.
func TestSet_WhileOthersAskFirst(t *testing.T) {
	for range 2000 {
		var v Value[*int]
		n := new(int)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got, err := v.Wait(context.Background()); got != n || err != nil {
					t.Errorf("%p, %v", got, err)
				}
			})
		}
		wg.Go(func() { v.Set(n) })
		wg.Wait()
	}
}

func TestSet_TakesOneAllocation(t *testing.T) {
	vs := make([]Value[[4]int], 101) // one run more than are measured
	i := 0
	if got := testing.AllocsPerRun(100, func() { vs[i].Set([4]int{1}); i++ }); got > 1 {
		t.Errorf("%v allocations, want 1", got)
	}
}
