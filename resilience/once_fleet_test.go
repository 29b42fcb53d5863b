package resilience_test

import (
	"context"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// stateOfFleet has tests use states that are at a fleet's engine.
var stateOfFleet bool

func newFleetState(t *testing.T) *sluice.SharedState {
	t.Helper()
	m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
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
