package sluice_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
)

// What the package documentation lists under "Decisions" and no promise covers.

// A call that an interceptor inside the gates refused has been admitted, but has not run:
// its token goes back, and the breaker hears nothing of it.
func TestDecision_WhatDidNotRunSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
		deny := true
		rule := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if deny {
					return sluice.Result{}, errors.New("not now")
				}
				return next(ctx, c)
			}
		})
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1), rates, breaker, rule}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		start := time.Now()
		for range 3 {
			if _, err := f(t.Context(), ""); !errors.Is(err, sluice.ErrDenied) || !errors.Is(err, sluice.ErrRejected) {
				t.Errorf("got %v, want ErrDenied", err)
			}
		}
		deny = false
		if _, err := f(t.Context(), ""); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v: want the token back and the breaker closed", err, time.Since(start))
		}
		if _, err := f(t.Context(), ""); err != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v: want a token spent by the call that ran", err, time.Since(start))
		}
	})
}

// A call may start at exactly arrival + MaxWait, and not at its context's deadline.
func TestDecision_LimitsOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}, MaxWait: time.Second})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		start := time.Now()
		for i := range 2 {
			if _, err := f(t.Context(), ""); err != nil || time.Since(start) != time.Duration(i)*time.Second {
				t.Errorf("call %d: %v after %v", i, err, time.Since(start))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var refused *sluice.Error
		if _, err := f(ctx, ""); !errors.As(err, &refused) || refused.Reason != sluice.ErrWaitTooLong || refused.RetryAfter != time.Second || time.Since(start) != time.Second {
			t.Errorf("at its deadline: %v after %v", err, time.Since(start))
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second+time.Nanosecond)
		defer cancel()
		if _, err := f(ctx, ""); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("a nanosecond before its deadline: %v after %v", err, time.Since(start))
		}
	})
}
