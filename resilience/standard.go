package resilience

import (
	"cmp"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// StandardConfig configures [Standard]. The zero value is meant to be used.
type StandardConfig struct {
	Total   time.Duration // of a call, waits and retries included; zero means 3 min
	Attempt time.Duration // of each attempt's run; zero means 1 min, or Total if that is less
	Retry   RetryConfig

	// Breaker is of each tool unless it says otherwise. Without Ratio and Failures it opens if 80 % of at least
	// 10 results, or of MinCalls, failed, or 20 in a row: what fails less often is for the retries, and to open
	// at half, as breakers do by themselves, would keep calls out that these get through.
	Breaker sluice.CircuitBreakerConfig

	// What else is to be there, each in its place; nil leaves it out.
	Fallback *Fallback
	Once     *Once // with its Inner
	Cache    *Cache
	Join     *Join
	Hedge    *Hedge

	Gates []sluice.Interceptor // limiters, rates and the scheduler, beside the breaker
	_     struct{}
}

// Standard is the configuration of an executor with the usual layers in the usual order, for those who do not
// want to think about it: a total time, retries of what is safe to repeat, an attempt's time, and a breaker for
// each tool. Further fields can be set on it, as a Sink. An error names the wrong field. From outside they are:
//
//	Fallback, Once, Cache, Join, Timeout, Retry, Hedge, the gates, Once.Inner
//
// A call that is submitted has no goroutine while it waits, in the queue or to be made again, unless there is a
// Once, a Join or a Hedge.
//
//	exec, err := sluice.NewExecutor(reg, sluice.Must(resilience.Standard(resilience.StandardConfig{})))
func Standard(c StandardConfig) (sluice.Config, error) {
	c.Total = cmp.Or(c.Total, 3*time.Minute)
	c.Attempt = cmp.Or(c.Attempt, min(time.Minute, c.Total))
	switch {
	case c.Total < 0:
		return sluice.Config{}, fmt.Errorf("resilience: StandardConfig.Total is %v: must be zero (3 min) or positive", c.Total)
	case c.Attempt < 0 || c.Attempt > c.Total:
		return sluice.Config{}, fmt.Errorf("resilience: StandardConfig.Attempt is %v: must be zero (1 min) or up to Total, %v", c.Attempt, c.Total)
	}
	if err := cmp.Or(unit("StandardConfig.Total", c.Total), unit("StandardConfig.Attempt", c.Attempt)); err != nil {
		return sluice.Config{}, err
	}
	total, err := NewTimeout(TimeoutConfig{Total: c.Total})
	if err != nil {
		return sluice.Config{}, err
	}
	retry, err := NewRetry(c.Retry)
	if err != nil {
		return sluice.Config{}, err
	}
	if b := &c.Breaker; b.Ratio == 0 && b.Failures == 0 {
		b.Ratio, b.MinCalls, b.Failures = 0.8, cmp.Or(b.MinCalls, 10), 20
	}
	breaker, err := sluice.NewCircuitBreaker(c.Breaker)
	if err != nil {
		return sluice.Config{}, err
	}
	var list []sluice.Interceptor
	if c.Fallback != nil {
		list = append(list, c.Fallback)
	}
	if c.Once != nil {
		list = append(list, c.Once)
	}
	if c.Cache != nil {
		list = append(list, c.Cache)
	}
	if c.Join != nil {
		list = append(list, c.Join)
	}
	list = append(list, total, retry)
	if c.Hedge != nil {
		list = append(list, c.Hedge)
	}
	list = append(append(list, c.Gates...), breaker)
	if c.Once != nil {
		list = append(list, c.Once.Inner())
	}
	return sluice.Config{Interceptors: list, Timeout: c.Attempt}, nil
}
