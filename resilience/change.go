package resilience

import (
	"fmt"
	"sync/atomic"

	"github.com/sluice-go/sluice"
)

// configuration is that of a layer, of which C is the type.
type configuration[C any] interface {
	complete() (C, error)       // defaults filled in
	title() (kind, name string) // of the type, and the Name
	keeps(was *C) (C, error)    // what no change changes is as it was, or why it cannot be else
}

var (
	_ configuration[RetryConfig]    = RetryConfig{}
	_ configuration[HedgeConfig]    = HedgeConfig{}
	_ configuration[CacheConfig]    = CacheConfig{}
	_ configuration[JoinConfig]     = JoinConfig{}
	_ configuration[FallbackConfig] = FallbackConfig{}
	_ configuration[TimeoutConfig]  = TimeoutConfig{}
	_ configuration[OnceConfig]     = OnceConfig{}
)

// settings is a layer's configuration, which [sluice.Reconfigure] may change at any time.
type settings[C configuration[C]] struct{ atomic.Pointer[C] }

// change is the change to another configuration, which apply, if there is one, makes the present one.
func (s *settings[C]) change(layer any, to C, apply func(c *C)) sluice.Change {
	if apply == nil {
		apply = s.Store
	}
	var next *C // that the check has found
	return sluice.NewChange(layer, func() error {
		was := s.Load()
		kind, name := to.title()
		if _, is := (*was).title(); name != "" && name != is {
			return fmt.Errorf("resilience: %s.Name is %q: cannot change, it is %q", kind, name, is)
		}
		x, err := to.keeps(was)
		if err == nil {
			x, err = x.complete()
		}
		next = &x
		return err
	}, func() { apply(next) })
}
