package sluicetest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

func double(_ context.Context, n int) (int, error) { return 2 * n, nil }

func faults(t *testing.T, c sluicetest.FaultsConfig) *sluicetest.Faults {
	t.Helper()
	f, err := sluicetest.NewFaults(c)
	require.NoError(t, err)
	return f
}

// Each fault reaches who calls the tool through an executor as what it is.
func TestFaults_AreWhatTheySay(t *testing.T) {
	mine := errors.New("mine")
	for _, tt := range []struct {
		name string
		conf sluicetest.FaultsConfig
		code string
		ran  bool // the function itself
		took time.Duration
		is   error
		want sluicetest.FaultCounts
	}{
		{"none", sluicetest.FaultsConfig{}, "", true, 0, nil, sluicetest.FaultCounts{Calls: 1}},
		{"error", sluicetest.FaultsConfig{Errors: 1}, "tool_error", false, 0, sluicetest.ErrFault, sluicetest.FaultCounts{Calls: 1, Errors: 1}},
		{"own error", sluicetest.FaultsConfig{Errors: 1, Err: mine}, "tool_error", false, 0, mine, sluicetest.FaultCounts{Calls: 1, Errors: 1}},
		{"lost", sluicetest.FaultsConfig{Lost: 1}, "tool_error", true, 0, sluicetest.ErrFault, sluicetest.FaultCounts{Calls: 1, Lost: 1}},
		{"panic", sluicetest.FaultsConfig{Panics: 1}, "panic", false, 0, sluicetest.ErrFault, sluicetest.FaultCounts{Calls: 1, Panics: 1}},
		{"exit", sluicetest.FaultsConfig{Exits: 1}, "goexit", false, 0, nil, sluicetest.FaultCounts{Calls: 1, Exits: 1}},
		{"hang", sluicetest.FaultsConfig{Hangs: 1}, "timeout", false, 10 * time.Second, context.DeadlineExceeded, sluicetest.FaultCounts{Calls: 1, Hangs: 1}},
		{"short hang", sluicetest.FaultsConfig{Hangs: 1, HangFor: 3 * time.Second}, "tool_error", false, 3 * time.Second, sluicetest.ErrFault, sluicetest.FaultCounts{Calls: 1, Hangs: 1}},
		{"hang that ignores its context", sluicetest.FaultsConfig{Hangs: 1, HangFor: time.Minute}, "timeout", false, 10 * time.Second, context.DeadlineExceeded, sluicetest.FaultCounts{Calls: 1, Hangs: 1}},
		{"latency beyond the timeout", sluicetest.FaultsConfig{Latency: 1000 * time.Hour}, "timeout", false, 10 * time.Second, context.DeadlineExceeded, sluicetest.FaultCounts{Calls: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ran := false
				exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: 10 * time.Second}))
				f := faults(t, tt.conf)
				tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "double"}, sluicetest.Faulty(f, func(ctx context.Context, n int) (int, error) {
					ran = true
					return double(ctx, n)
				})))
				began := time.Now()
				n, err := tool(context.Background(), 21)
				require.Equal(t, tt.took, time.Since(began))
				require.Equal(t, tt.code, sluice.CodeOf(err), "%v", err)
				if tt.is != nil {
					require.ErrorIs(t, err, tt.is)
				}
				if err == nil {
					require.Equal(t, 42, n)
				}
				require.NoError(t, exec.Close(context.Background()))
				require.Equal(t, tt.ran, ran)
				require.Equal(t, tt.want, f.Counts())
			})
		})
	}
}

// A throttle pauses the tool for as long as it says.
func TestFaults_ThrottlesAreHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
		f := faults(t, sluicetest.FaultsConfig{Throttles: 1, RetryAfter: 7 * time.Second})
		tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "double"}, sluicetest.Faulty(f, double)))
		began := time.Now()
		for range 2 {
			_, err := tool(context.Background(), 1)
			require.EqualError(t, err, "sluicetest: throttled for 7s")
		}
		require.Equal(t, 7*time.Second, time.Since(began))
		require.NoError(t, exec.Close(context.Background()))
	})
}

// The shares are those of the calls, and one seed gives the same calls the same faults.
func TestFaults_SharesAndSeeds(t *testing.T) {
	conf := sluicetest.FaultsConfig{Seed: 7, Errors: 0.2, Lost: 0.1, Throttles: 0.3, Latency: time.Second}
	trace := func(seed uint64) (list []string, c sluicetest.FaultCounts) {
		synctest.Test(t, func(t *testing.T) {
			conf.Seed = seed
			f := faults(t, conf)
			tool := sluicetest.Faulty(f, double)
			for range 10_000 {
				began := time.Now()
				_, err := tool(context.Background(), 1)
				require.Less(t, time.Since(began), time.Second)
				list = append(list, fmt.Sprint(err, time.Since(began)))
			}
			c = f.Counts()
		})
		return list, c
	}
	a, c := trace(7)
	b, _ := trace(7)
	other, _ := trace(8)
	require.Equal(t, a, b)
	require.NotEqual(t, a, other)
	require.Equal(t, 10_000, c.Calls)
	require.InDelta(t, 2000, c.Errors, 200)
	require.InDelta(t, 1000, c.Lost, 150)
	require.InDelta(t, 3000, c.Throttles, 250)
	require.Zero(t, c.Panics+c.Exits+c.Hangs)
}

func TestFaults_Config(t *testing.T) {
	for want, c := range map[string]sluicetest.FaultsConfig{
		"sluicetest: FaultsConfig.Errors is -0.1: must be from 0 to 1":             {Errors: -0.1},
		"sluicetest: FaultsConfig.Lost is 1.5: must be from 0 to 1":                {Lost: 1.5},
		"sluicetest: FaultsConfig.Throttles is NaN: must be from 0 to 1":           {Throttles: math.NaN()},
		"sluicetest: FaultsConfig.Panics is 2: must be from 0 to 1":                {Panics: 2},
		"sluicetest: FaultsConfig.Exits is 2: must be from 0 to 1":                 {Exits: 2},
		"sluicetest: FaultsConfig.Hangs is 2: must be from 0 to 1":                 {Hangs: 2},
		"sluicetest: FaultsConfig: the shares are 1.5 together: must be at most 1": {Errors: 0.75, Hangs: 0.75},
		"sluicetest: FaultsConfig.Latency is -1ns: must not be negative":           {Latency: -1},
		"sluicetest: FaultsConfig.RetryAfter is -1ns: must not be negative":        {RetryAfter: -1},
		"sluicetest: FaultsConfig.HangFor is -1ns: must not be negative":           {HangFor: -1},
	} {
		_, err := sluicetest.NewFaults(c)
		require.EqualError(t, err, want)
	}
	faults(t, sluicetest.FaultsConfig{Errors: 0.7, Lost: 0.2, Hangs: 0.1})
	require.Equal(t, 8, sluice.Must(sluicetest.Faulty(nil, double)(context.Background(), 4)))
}

// A test of an agent gives it tools that fail.
func ExampleFaulty() {
	f := sluice.Must(sluicetest.NewFaults(sluicetest.FaultsConfig{Seed: 1, Errors: 0.3}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	lookup := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "lookup"}, sluicetest.Faulty(f, double)))

	failed := 0
	for n := range 100 {
		if _, err := lookup(context.Background(), n); err != nil {
			failed++
		}
	}
	fmt.Println(failed == f.Counts().Errors, failed > 15 && failed < 45)
	// Output: true true
}
