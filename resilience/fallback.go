package resilience

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sluice-go/sluice"
)

// Fallback answers for tools that fail, by another tool or a function. It is an interceptor that stands
// before the gates, outside what stores or shares answers, so that its own are never taken for the tool's.
//
// It answers for a tool's [runtime.Goexit] only where the call goes on after that, as one with a time limit, or a
// submitted one with nothing but [sluice.Stepper]s around it; else that ends the goroutine that the call runs on, of
// [sluice.Executor.Invoke] the caller's, and all interceptors with it.
//
// Make it with [NewFallback]; it is safe for concurrent use. It waits for what it calls.
type Fallback struct{ conf settings[FallbackConfig] }

var _ sluice.Stepper = (*Fallback)(nil)

// FallbackConfig configures a [Fallback]: To or Func is required.
type FallbackConfig struct {
	Name  string                      // empty means "fallback"
	Tools func(tool sluice.Spec) bool // asked for each call that fails, must not wait; nil means all but To

	// To is the tool that is called instead, with the same input, nested in the call. It must take and
	// give what the tool does.
	To string

	// Func answers instead, with a value of the tool's Out.
	Func func(ctx context.Context, c sluice.Call, err error) (any, error)

	// If says for which errors, as errors.Is(err, sluice.ErrRejected) does for all that keep the tool from running;
	// nil means for all. It is not asked, and nobody answers, once the caller has left or its time is over: nobody
	// waits for an answer then. It must not wait.
	If func(err error) bool
	_  struct{}
}

// complete checks c. What Tools is if it is nil depends on To.
func (c FallbackConfig) complete() (FallbackConfig, error) {
	c.Name = cmp.Or(c.Name, "fallback")
	if (c.To == "") == (c.Func == nil) {
		return c, errors.New("resilience: FallbackConfig: To and Func are both set, or neither: must be one of them")
	}
	return c, nil
}

func (c FallbackConfig) title() (kind, name string) { return "FallbackConfig", c.Name }

func (c FallbackConfig) keeps(was *FallbackConfig) (FallbackConfig, error) {
	c.Name = was.Name
	return c, nil
}

// answersFor reports whether c says that calls of the tool are answered that fail with err.
func (c *FallbackConfig) answersFor(tool sluice.Spec, err error) bool {
	if c.Tools == nil && tool.Name == c.To || c.Tools != nil && !c.Tools(tool) {
		return false
	}
	return c.If == nil || c.If(err)
}

// NewFallback returns a Fallback, or an error that names the wrong field.
func NewFallback(c FallbackConfig) (*Fallback, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	f := new(Fallback)
	f.conf.Store(&c)
	return f, nil
}

// String is the name.
func (f *Fallback) String() string { return f.conf.Load().Name }

// Config returns a copy. Functions are as they were given.
func (f *Fallback) Config() FallbackConfig { return *f.conf.Load() }

// Change changes all but the name, by [sluice.Reconfigure], for calls that fail from then on.
func (f *Fallback) Change(c FallbackConfig) sluice.Change { return f.conf.change(f, c, nil) }

// Steps makes f an interceptor in steps.
func (f *Fallback) Steps(tool sluice.Spec) sluice.Steps {
	return sluice.Steps{After: func(ctx context.Context, s *sluice.Step) {
		if s.Err == nil || ctx.Err() != nil || isLate(ctx, s) {
			return
		}
		conf := f.conf.Load()
		if !conf.answersFor(tool, s.Err) {
			return
		}
		res, failed := s.Result, s.Err
		s.Instead(func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			instead, err := conf.answer(ctx, c, failed)
			if err != nil {
				return res, &FallbackError{Err: failed, Fallback: err}
			}
			by := "func"
			if conf.To != "" {
				by = "tool"
			}
			c.Emit(ctx, fallbackAnswered, slog.String("by", by))
			return instead.By(conf.Name), nil
		})
	}}
}

// Wrap makes f an interceptor.
func (f *Fallback) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return f.Steps(tool).Wrap(next)
}

// isLate reports whether the time is over that the caller, or an interceptor further out, has left the call.
func isLate(ctx context.Context, s *sluice.Step) bool {
	at, ok := s.Deadline(ctx)
	return ok && time.Until(at) <= 1 // ns, at which a wait in the queue ends
}

// answer is what the fallback gives.
func (c *FallbackConfig) answer(ctx context.Context, call sluice.Call, err error) (sluice.Result, error) {
	if c.To != "" {
		return call.Invoke(ctx, sluice.Request{Tool: c.To, Input: call.Input})
	}
	v, err := c.Func(ctx, call, err)
	return sluice.Result{Value: v}, err
}

// FallbackError is what a call ends with that failed, and whose fallback failed too. It wraps what the
// call itself failed with.
type FallbackError struct{ Err, Fallback error }

// fellBack reports whether err is of a fallback, too, and not the tool's alone.
func fellBack(err error) bool {
	var f *FallbackError
	return errors.As(err, &f)
}

// Error is one line, of both.
func (e *FallbackError) Error() string {
	return fmt.Sprintf("%v; its fallback failed too: %v", e.Err, e.Fallback)
}

// Unwrap is Err.
func (e *FallbackError) Unwrap() error { return e.Err }
