package compare

import (
	"context"
	"sync/atomic"

	"github.com/afex/hystrix-go/hystrix"
)

// newHystrix is hystrix-go: breaker, slots and timeout, which cannot be turned off. Its
// commands are global to the process, so each contestant has a name of its own.
func newHystrix(f toolFunc, name string, limit int) func(context.Context) (int, error) {
	hystrix.ConfigureCommand(name, hystrix.CommandConfig{Timeout: 60_000, MaxConcurrentRequests: 8 * limit}) // its tickets come back late
	return func(ctx context.Context) (int, error) {
		var out atomic.Int64 // the command runs in a goroutine of its own
		err := hystrix.DoC(ctx, name, func(ctx context.Context) error {
			v, err := f(ctx, input)
			out.Store(int64(v))
			return err
		}, nil)
		return int(out.Load()), err
	}
}
