package resilience

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
)

// StandardConfig configures [Standard]. The zero value is meant to be used.
type StandardConfig struct {
	Total   time.Duration // of a call, waits and retries included; zero means 3 min
	Attempt time.Duration // of each attempt's run; zero means 1 min, or Total if that is less
	Retry   RetryConfig
	Breaker sluice.CircuitBreakerConfig // of each tool unless it says otherwise

	// What else is to be there, each in its place; nil leaves it out.
	Fallback *Fallback
	Cache    *Cache
	Join     *Join

	Gates []sluice.Interceptor // limiters, rates and the scheduler, beside the breaker
	_     struct{}
}

// Standard is the configuration of an executor with the usual layers in the usual order, for those who do not
// want to think about it: a total time, retries of what is safe to repeat, an attempt's time, and a breaker for
// each tool. Further fields can be set on it, as a Sink. An error names the wrong field.
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
	total, err := NewTimeout(TimeoutConfig{Total: c.Total})
	if err != nil {
		return sluice.Config{}, err
	}
	retry, err := NewRetry(c.Retry)
	if err != nil {
		return sluice.Config{}, err
	}
	breaker, err := sluice.NewCircuitBreaker(c.Breaker)
	if err != nil {
		return sluice.Config{}, err
	}
	var list []sluice.Interceptor
	if c.Fallback != nil {
		list = append(list, c.Fallback)
	}
	if c.Cache != nil {
		list = append(list, c.Cache)
	}
	if c.Join != nil {
		list = append(list, c.Join)
	}
	list = append(list, total, retry)
	list = append(list, slices.Clone(c.Gates)...)
	return sluice.Config{Interceptors: append(list, breaker), Timeout: c.Attempt}, nil
}
