package promises_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// stateOfFleet has newState make one that is at a fleet's engine.
var stateOfFleet bool

func newFleetState(t testing.TB) (*sluice.SharedState, context.Context) {
	t.Helper()
	m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	// Not all of the tests are in bubbles: whoever is late there is not cut off.
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m, Budget: time.Minute}))
	s, err := sluice.NewFleetState(f, sluice.FleetStateConfig{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, f.Close(context.Background()))
		require.NoError(t, m.Close())
	})
	return s, sluice.WithState(context.Background(), s)
}

// What a state in the process promises, one of a fleet does. Left out are tests of what a fleet's does not promise, or
// does otherwise: Go types of values, snapshots that are restored, bounds of views, versions inside a Txn, every change of
// a Watch; and those that take long without a bubble.
func TestFleetState_KeepsThePromisesOfStates(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"WhatWritesDoToALifetime":             TestWhatWritesDoToALifetime,
		"WritesAtExpiryFindTheKeyAbsent":      TestWritesAtExpiryFindTheKeyAbsent,
		"ReadsDoNotRefresh":                   TestReadsDoNotRefresh,
		"RefreshBeatsTheSweeper":              TestRefreshBeatsTheSweeper,
		"NReadModifyWritesAreN":               TestPromise20_NReadModifyWritesAreN,
		"IncrementsOfAllKindsAddUp":           TestPromise20_IncrementsOfAllKindsAddUp,
		"IncrementNeverWrapsAround":           TestIncrementNeverWrapsAround,
		"IncrementCountsFromZero":             TestIncrementCountsFromZero,
		"CompareAndSwapWantsTheVersion":       TestCompareAndSwapWantsTheVersion,
		"OneOfManySwapsWins":                  TestOneOfManySwapsWins,
		"SwapsAgainstAllOtherWrites":          TestSwapsAgainstAllOtherWrites,
		"VersionsNeverRepeat":                 TestVersionsNeverRepeat,
		"UpdateIsAllOrNothing":                TestUpdateIsAllOrNothing,
		"UpdateEndsWithItsContext":            TestUpdateEndsWithItsContext,
		"UpdateThatPanicsLocksNothing":        TestUpdateThatPanicsLocksNothing,
		"UpdateMayCallTheStore":               TestUpdateMayCallTheStore,
		"NoStateIsOneErrorForAll":             TestNoStateIsOneErrorForAll,
		"WithStateKeepsOnWhoseBehalfCallsRun": TestWithStateKeepsOnWhoseBehalfCallsRun,
		"StateErrorsNameTheKey":               TestStateErrorsNameTheKey,
		"TxnRunsAReentrantUpdateAgain":        TestTxnRunsAReentrantUpdateAgain,
		"TxnIsAllOrNothing":                   TestTxnIsAllOrNothing,
		"TxnRunsAgainOnConflict":              TestTxnRunsAgainOnConflict,
		"TxnMoneyIsKept":                      TestTxnMoneyIsKept,
		"TxnCreatesAndDeletesTogether":        TestTxnCreatesAndDeletesTogether,
		"TxnMayUseSeveralGoroutines":          TestTxnMayUseSeveralGoroutines,
		"TxnOutlivesWhoeverMadeItsView":       TestTxnOutlivesWhoeverMadeItsView,
		"TxnReadsAreBounded":                  TestTxnReadsAreBounded,
		"WatchEndsWithClose":                  TestWatchEndsWithClose,
	} {
		t.Run(name, func(t *testing.T) {
			stateOfFleet = true
			defer func() { stateOfFleet = false }()
			test(t)
		})
	}
}
