package resilience

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice"
)

// Fallback answers for tools that fail, by another tool or a function. It is an interceptor that stands
// before the gates, outside what stores or shares answers, so that its own are never taken for the tool's.
//
// Make it with [NewFallback]; it is safe for concurrent use. It waits for what it calls.
type Fallback struct{ conf FallbackConfig }

// FallbackConfig configures a [Fallback]: To or Func is required.
type FallbackConfig struct {
	Name  string                      // empty means "fallback"
	Tools func(tool sluice.Spec) bool // nil means all but To

	// To is the tool that is called instead, with the same input, nested in the call. It must take and
	// give what the tool does.
	To string

	// Func answers instead, with a value of the tool's Out.
	Func func(ctx context.Context, c sluice.Call, err error) (any, error)

	// If says for which errors; nil means all but those of the caller's own leaving. It must not wait.
	If func(err error) bool
	_  struct{}
}

// NewFallback returns a Fallback, or an error that names the wrong field.
func NewFallback(c FallbackConfig) (*Fallback, error) {
	c.Name = cmp.Or(c.Name, "fallback")
	if (c.To == "") == (c.Func == nil) {
		return nil, errors.New("resilience: FallbackConfig: To and Func are both set, or neither: must be one of them")
	}
	if c.Tools == nil {
		c.Tools = func(tool sluice.Spec) bool { return tool.Name != c.To }
	}
	if c.If == nil {
		c.If = func(error) bool { return true }
	}
	return &Fallback{c}, nil
}

// String is the name.
func (f *Fallback) String() string { return f.conf.Name }

// Steps makes f an interceptor in steps.
func (f *Fallback) Steps(tool sluice.Spec) sluice.Steps {
	if !f.conf.Tools(tool) {
		return sluice.Steps{}
	}
	return sluice.Steps{After: func(ctx context.Context, s *sluice.Step) {
		if s.Err == nil || ctx.Err() != nil || !f.conf.If(s.Err) {
			return
		}
		res, failed := s.Result, s.Err
		s.Instead(func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			instead, err := f.answer(ctx, c, failed)
			if err != nil {
				return res, &FallbackError{Err: failed, Fallback: err}
			}
			return instead, nil
		})
	}}
}

// Wrap makes f an interceptor.
func (f *Fallback) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return f.Steps(tool).Wrap(next)
}

// answer is what the fallback gives.
func (f *Fallback) answer(ctx context.Context, c sluice.Call, err error) (sluice.Result, error) {
	if f.conf.To != "" {
		return c.Invoke(ctx, sluice.Request{Tool: f.conf.To, Input: c.Input})
	}
	v, err := f.conf.Func(ctx, c, err)
	return sluice.Result{Value: v}, err
}

// FallbackError is what a call ends with that failed, and whose fallback failed too. It wraps what the
// call itself failed with.
type FallbackError struct{ Err, Fallback error }

// Error is one line, of both.
func (e *FallbackError) Error() string {
	return fmt.Sprintf("%v; its fallback failed too: %v", e.Err, e.Fallback)
}

// Unwrap is Err.
func (e *FallbackError) Unwrap() error { return e.Err }
