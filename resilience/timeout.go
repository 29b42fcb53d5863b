package resilience

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// Timeout bounds the whole time of a call: in the queue, in all attempts, and in the waits between them.
// It is an interceptor that stands before the gates, outside what repeats; Policy.Timeout bounds one
// attempt. When the time is over, who called goes on, whatever the tool does; that keeps its slots until
// its code has ended.
//
// A call that it ends has a [*TimeoutError], which matches context.DeadlineExceeded; the tool finds it by
// context.Cause. Make it with [NewTimeout]; it is safe for concurrent use.
type Timeout struct {
	conf  settings[TimeoutConfig]
	first *TimeoutConfig // which calls do not remember
}

var _ sluice.Stepper = (*Timeout)(nil)

// TimeoutConfig configures a [Timeout]. Total is required.
type TimeoutConfig struct {
	Name  string                      // empty means "timeout"
	Tools func(tool sluice.Spec) bool // asked for each call, must not wait; nil means all
	Total time.Duration               // from where the call meets this interceptor
	cause *TimeoutError               // of its own calls
	_     struct{}
}

// complete fills in the defaults.
func (c TimeoutConfig) complete() (TimeoutConfig, error) {
	c.Name = cmp.Or(c.Name, "timeout")
	if c.Total <= 0 {
		return c, fmt.Errorf("resilience: TimeoutConfig.Total is %v: must be positive", c.Total)
	}
	if c.Tools == nil {
		c.Tools = func(sluice.Spec) bool { return true }
	}
	c.cause = &TimeoutError{Total: c.Total}
	return c, unit("TimeoutConfig.Total", c.Total)
}

func (c TimeoutConfig) title() (kind, name string) { return "TimeoutConfig", c.Name }

func (c TimeoutConfig) keeps(was *TimeoutConfig) (TimeoutConfig, error) {
	c.Name = was.Name
	return c, nil
}

// NewTimeout returns a Timeout, or an error that names the wrong field.
func NewTimeout(c TimeoutConfig) (*Timeout, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	t := &Timeout{first: &c}
	t.conf.Store(&c)
	return t, nil
}

// String is the name.
func (t *Timeout) String() string { return t.conf.Load().Name }

// Config returns a copy, defaults filled in.
func (t *Timeout) Config() TimeoutConfig { return *t.conf.Load() }

// Change changes all but the name, by [sluice.Reconfigure], for calls that come from then on.
func (t *Timeout) Change(c TimeoutConfig) sluice.Change { return t.conf.change(t, c, nil) }

// Steps makes t an interceptor in steps.
func (t *Timeout) Steps(tool sluice.Spec) sluice.Steps {
	return sluice.Steps{
		Before: func(_ context.Context, s *sluice.Step) {
			c := t.conf.Load()
			if !c.Tools(tool) {
				return
			}
			if s.Within(c.Total, c.cause); c != t.first {
				s.State = c
			}
		},
		After: func(ctx context.Context, s *sluice.Step) {
			if s.Err == nil || !s.IsOver() || ctx.Err() != nil {
				return
			}
			c, changed := s.State.(*TimeoutConfig)
			if !changed {
				c = t.first
			}
			if !errors.Is(s.Err, error(c.cause)) {
				s.Err = &TimeoutError{Total: c.Total, err: s.Err}
			}
		},
	}
}

// Wrap makes t an interceptor.
func (t *Timeout) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return t.Steps(tool).Wrap(next)
}

// TimeoutError is what a call ends with whose whole time is over, or the cause of that. It wraps what the
// call had come to, as a refusal if it was waiting.
type TimeoutError struct {
	Total time.Duration

	err error
}

// Error is one line.
func (e *TimeoutError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("resilience: the time of the whole call, %v, is over", e.Total)
	}
	return fmt.Sprintf("resilience: the time of the whole call, %v, is over: %v", e.Total, e.err)
}

// Is reports whether target is context.DeadlineExceeded.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Unwrap is what the call had come to.
func (e *TimeoutError) Unwrap() error { return e.err }
