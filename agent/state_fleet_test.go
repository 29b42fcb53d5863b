package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
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

// newState is one in the process, or one of a fleet.
func newState(t *testing.T) *sluice.SharedState {
	t.Helper()
	if stateOfFleet {
		return newFleetState(t)
	}
	return sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
}

// What Approvals and Undo promise with a state in the process they do with one of a fleet, but for
// the bounds of views.
func TestApprovalsAndUndo_WithAStateOfAFleet(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"TestApprovals_Model":               TestApprovals_Model,
		"TestApprovals":                     TestApprovals,
		"TestApprovals_AreOfOneCall":        TestApprovals_AreOfOneCall,
		"TestApprovals_EditedArguments":     TestApprovals_EditedArguments,
		"TestApprovals_RefusedFurtherIn":    TestApprovals_RefusedFurtherIn,
		"TestApprovals_StateIsClosed":       TestApprovals_StateIsClosed,
		"TestApprovals_NestedCallIsRefused": TestApprovals_NestedCallIsRefused,
		"TestApprovals_Events":              TestApprovals_Events,
		"TestApprovals_BrokenSink":          TestApprovals_BrokenSink,
		"TestApprovals_AThousandDeciders":   TestApprovals_AThousandDeciders,
		"TestApprovals_DecisionMeetsExpiry": TestApprovals_DecisionMeetsExpiry,
		"TestApprovals_ForeignEntry":        TestApprovals_ForeignEntry,
		"TestUndo_AfterEveryEnding":         TestUndo_AfterEveryEnding,
		"TestUndo_KeysTenantsLifetimes":     TestUndo_KeysTenantsLifetimes,
		"TestUndo_Attempts":                 TestUndo_Attempts,
		"TestUndo_BetweenAttempts":          TestUndo_BetweenAttempts,
		"TestUndo_Group":                    TestUndo_Group,
		"TestUndo_FunctionFails":            TestUndo_FunctionFails,
		"TestUndo_FunctionIsLate":           TestUndo_FunctionIsLate,
		"TestUndo_CallerLeaves":             TestUndo_CallerLeaves,
		"TestUndo_Events":                   TestUndo_Events,
		"TestUndo_SinkFails":                TestUndo_SinkFails,
		"TestUndo_Nested":                   TestUndo_Nested,
		"TestUndo_AThousandCallers":         TestUndo_AThousandCallers,
		"TestUndo_ProcessDies":              TestUndo_ProcessDies,
		"TestUndo_Storm":                    TestUndo_Storm,
	} {
		t.Run(name, func(t *testing.T) {
			stateOfFleet = true
			defer func() { stateOfFleet = false }()
			test(t)
		})
	}
}
