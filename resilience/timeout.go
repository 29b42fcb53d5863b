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

// Wrap makes t an interceptor.
func (t *Timeout) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	if !t.conf.Tools(tool) {
		return next
	}
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		cause := &TimeoutError{Total: t.conf.Total}
		bounded := c.Within(t.conf.Total, cause)
		at, _ := bounded.Deadline(context.Background())
		if before, ok := c.Deadline(context.Background()); ok && before.Equal(at) { // it had less time
			return next(ctx, c)
		}
		res, err := next(ctx, bounded)
		if err != nil && ctx.Err() == nil && !errors.Is(err, error(cause)) && time.Until(at) <= early {
			err = &TimeoutError{Total: t.conf.Total, err: err}
		}
		return res, err
	}
}

// early is how much sooner than its time a wait in the queue ends.
const early = time.Nanosecond

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
