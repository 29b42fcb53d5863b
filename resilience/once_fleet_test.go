package resilience_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// stateOfFleet has tests use states that are at a fleet's engine.
var stateOfFleet bool

func newFleetState(t *testing.T) *sluice.SharedState {
	t.Helper()
	m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m, Budget: time.Minute}))
	s := sluice.Must(sluice.NewFleetState(f, sluice.FleetStateConfig{}))
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, f.Close(context.Background()))
		require.NoError(t, m.Close())
	})
	return s
}

// What Once promises with a state in the process it does with one of a fleet. Left out are tests of states that are full,
// that copy a state by a snapshot, or that use the state of the context.
func TestOnce_WithAStateOfAFleet(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"TestOnce":                           TestOnce,
		"TestOnce_Mismatch":                  TestOnce_Mismatch,
		"TestOnce_Endings":                   TestOnce_Endings,
		"TestOnce_OtherAttempts":             TestOnce_OtherAttempts,
		"TestOnce_ChangeOfTTL":               TestOnce_ChangeOfTTL,
		"TestOnce_ChangeOfErrors":            TestOnce_ChangeOfErrors,
		"TestOnce_ChangeOfDoubtTTL":          TestOnce_ChangeOfDoubtTTL,
		"TestOnce_ChangeOfLease":             TestOnce_ChangeOfLease,
		"TestOnce_ChangeOfTools":             TestOnce_ChangeOfTools,
		"TestOnce_ChangeStorm":               TestOnce_ChangeStorm,
		"TestOnce_LateCode":                  TestOnce_LateCode,
		"TestOnce_ResultAtTheLastMoment":     TestOnce_ResultAtTheLastMoment,
		"TestOnce_WithoutInner":              TestOnce_WithoutInner,
		"TestOnce_LeaseIsRenewed":            TestOnce_LeaseIsRenewed,
		"TestOnce_ProcessGoesOn":             TestOnce_ProcessGoesOn,
		"TestOnce_LateErrorOfAForgottenCall": TestOnce_LateErrorOfAForgottenCall,
		"TestOnce_NestedCallWithoutAKey":     TestOnce_NestedCallWithoutAKey,
		"TestOnce_WhoLeaves":                 TestOnce_WhoLeaves,
		"TestOnce_Refusals":                  TestOnce_Refusals,
		"TestOnce_InOtherLayers":             TestOnce_InOtherLayers,
		"TestOnce_FallbackFurtherIn":         TestOnce_FallbackFurtherIn,
		"TestOnce_TenThousandDuplicates":     TestOnce_TenThousandDuplicates,
		"TestOnce_Storm":                     TestOnce_Storm,
	} {
		t.Run(name, func(t *testing.T) {
			stateOfFleet = true
			defer func() { stateOfFleet = false }()
			test(t)
		})
	}
}

// shared is one of several processes of a fleet, with a shop of its own.
type shared struct {
	*shop
	way   *sluicetest.Chaos // to the engine
	fleet *sluice.Fleet
	state *sluice.SharedState
}

// survivor is an engine that goes on when one of the ways to it is closed.
type survivor struct{ *engine.Memory }

func (survivor) Close() error { return nil }

func newShared(t *testing.T, m *engine.Memory, f func(ctx context.Context, n int) error) *shared {
	s := &shared{way: sluice.Must(sluicetest.NewChaos(sluicetest.ChaosConfig{Open: func() (engine.Engine, error) { return survivor{m}, nil }}))}
	s.fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: s.way}))
	s.state = sluice.Must(sluice.NewFleetState(s.fleet, sluice.FleetStateConfig{}))
	s.shop = newShop(t, resilience.OnceConfig{State: s.state}, sluice.Spec{}, f)
	return s
}

func (s *shared) close(t *testing.T) {
	s.end()
	require.NoError(t, s.state.Close())
	require.NoError(t, s.fleet.Close(context.Background()))
	require.NoError(t, s.way.Close())
}

// Of forty calls with one key in four processes one executes, and all get its result.
func TestOnce_FourProcessesExecuteOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
		defer m.Close()
		var list []*shared
		for range 4 {
			list = append(list, newShared(t, m, func(context.Context, int) error { time.Sleep(time.Minute); return nil }))
		}
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				p, err := list[i%4].pay(list[i%4].ctx, order{"a", 1})
				require.NoError(t, err)
				require.Equal(t, 1, p.N)
			})
		}
		wg.Wait()
		runs := int64(0)
		for _, s := range list {
			runs += s.runs.Load()
			s.close(t)
		}
		require.EqualValues(t, 1, runs)
	})
}

// When the process that executes is gone from one moment to the next, the others learn that the key is in doubt as soon
// as its lease has run out, and nobody executes.
func TestOnce_TheLeadingProcessIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
		defer m.Close()
		var list []*shared
		for range 4 {
			list = append(list, newShared(t, m, func(context.Context, int) error { time.Sleep(time.Hour); return nil }))
		}
		leader := make(chan struct{})
		go func() {
			defer close(leader)
			_, _ = list[0].pay(list[0].ctx, order{"a", 1})
		}()
		time.Sleep(35 * time.Second) // its lease was renewed last at 30 s
		list[0].way.Set(sluicetest.Refusing)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 9 {
			wg.Go(func() {
				s := list[1+i%3]
				_, err := s.pay(s.ctx, order{"a", 1})
				require.Equal(t, "once_in_doubt", sluice.CodeOf(err))
				require.Equal(t, 25*time.Second, time.Since(began))
			})
		}
		wg.Wait()
		<-leader
		require.EqualValues(t, 1, list[0].runs.Load())
		list[0].way.Set(sluicetest.Healthy)
		for _, s := range list[1:] {
			require.Zero(t, s.runs.Load())
		}
		for _, s := range list {
			s.close(t)
		}
	})
}
