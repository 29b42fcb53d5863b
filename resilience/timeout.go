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
type Timeout struct{ conf TimeoutConfig }

// TimeoutConfig configures a [Timeout]. Total is required.
type TimeoutConfig struct {
	Name  string                      // empty means "timeout"
	Tools func(tool sluice.Spec) bool // nil means all
	Total time.Duration               // from where the call meets this interceptor
	_     struct{}
}

// NewTimeout returns a Timeout, or an error that names the wrong field.
func NewTimeout(c TimeoutConfig) (*Timeout, error) {
	c.Name = cmp.Or(c.Name, "timeout")
	if c.Total <= 0 {
		return nil, fmt.Errorf("resilience: TimeoutConfig.Total is %v: must be positive", c.Total)
	}
	if c.Tools == nil {
		c.Tools = func(sluice.Spec) bool { return true }
	}
	return &Timeout{c}, nil
}

// String is the name.
func (t *Timeout) String() string { return t.conf.Name }

// Steps makes t an interceptor in steps.
func (t *Timeout) Steps(tool sluice.Spec) sluice.Steps {
	if !t.conf.Tools(tool) {
		return sluice.Steps{}
	}
	cause := &TimeoutError{Total: t.conf.Total}
	return sluice.Steps{
		Before: func(_ context.Context, s *sluice.Step) { s.Within(t.conf.Total, cause) },
		After: func(ctx context.Context, s *sluice.Step) {
			if s.Err != nil && s.IsOver() && ctx.Err() == nil && !errors.Is(s.Err, error(cause)) {
				s.Err = &TimeoutError{Total: t.conf.Total, err: s.Err}
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
