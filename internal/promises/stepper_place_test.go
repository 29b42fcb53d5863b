package promises_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// What is for before the gates cannot stand after them, where a Retry would never repeat a call and say nothing.
func TestSteppersStandBeforeTheGates(t *testing.T) {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
	timeout := sluice.Must(resilience.NewTimeout(resilience.TimeoutConfig{Total: time.Second}))
	list := func(list ...sluice.Interceptor) error {
		e, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list})
		if err == nil {
			require.NoError(t, e.Close(context.Background()))
		}
		return err
	}
	require.EqualError(t, list(limits, retry), "sluice: Config.Interceptors[1] (retry) stands after a gate: must stand before all gates, as a Stepper")
	require.EqualError(t, list(retry, limits, timeout), "sluice: Config.Interceptors[2] (timeout) stands after a gate: must stand before all gates, as a Stepper")
	require.NoError(t, list(retry, timeout, limits))
	require.NoError(t, list(retry, timeout), "without gates")
}
