package sluice

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestLateAttemptsWriteNothingIntoTheRecordOfEndedCalls: an attempt that ends after its call writes nothing into the record that
// stands for those of all such calls.
func TestLateAttemptsWriteNothingIntoTheRecordOfEndedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early := InterceptorFunc(func(_ Spec, next Handler) Handler {
			return func(ctx context.Context, c Call) (Result, error) {
				go next(ctx, c)
				time.Sleep(time.Second)
				return Result{}, nil
			}
		})
		exec := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: []Interceptor{early,
			Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1}}})),
			Must(NewRateLimiter(RateLimiterConfig{Rates: []Rate{{N: 100, Unit: "tokens"}}}))}}))
		Must(Wrap(exec, Spec{Name: "x", Policy: Policy{Cost: func(Call, string) int64 { return 3 }}}, func(ctx context.Context, _ int) (int, error) {
			time.Sleep(time.Minute)
			ReportUsage(ctx, "tokens", 5)
			return 0, nil
		}))
		var results []Result
		for range 3 { // one runs, the others wait for longer than their calls
			res, err := exec.Invoke(t.Context(), Request{Tool: "x", Input: 1})
			if err != nil && len(results) == 0 {
				t.Error(err)
			}
			results = append(results, res)
		}
		assert.NoError(t, exec.Close(t.Context()))
		for i, r := range results {
			d := r.Decision()
			assert.Zero(t, d.Attempts, "call %d, which had ended, got a decision from later", i)
			assert.Empty(t, d.Costs, "call %d, which had ended, got a decision from later", i)
			assert.Empty(t, d.Waits, "call %d, which had ended, got a decision from later", i)
		}
	})
}
