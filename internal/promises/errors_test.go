package promises_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
)

// endless is an error that wraps others of its kind, with no end.
type endless struct{ wraps *[]error }

func (endless) Error() string     { return "endless" }
func (e endless) Unwrap() []error { return *e.wraps }

// lasso is an error that wraps one other, which may be itself.
type lasso struct{ wraps *error }

func (lasso) Error() string   { return "lasso" }
func (e lasso) Unwrap() error { return *e.wraps }

// mine is an error each of whose methods panics.
type mine struct{}

func (mine) Error() string             { panic("secret") }
func (mine) Is(error) bool             { panic("secret") }
func (mine) As(any) bool               { panic("secret") }
func (mine) Unwrap() error             { panic("secret") }
func (mine) RetryAfter() time.Duration { panic("secret") }

// oddErrors is errors that are hard to look at.
func oddErrors() map[string]error {
	itself := lasso{new(error)}
	*itself.wraps = itself
	one, two := lasso{new(error)}, lasso{new(error)}
	*one.wraps, *two.wraps = two, one
	tree := endless{new([]error)}
	*tree.wraps = []error{tree, tree, tree}
	return map[string]error{"wraps itself": itself, "two wrap each other": one, "a tree without end": tree, "its methods panic": mine{}}
}

// Whatever the tree of a tool's error is, the call ends, its error passes through untouched,
// and what it held is there again.
func TestPromise10_GivenBackWhateverTheErrorWraps(t *testing.T) {
	for name, odd := range oddErrors() {
		for _, timeout := range []time.Duration{0, time.Second} {
			for _, how := range []string{"invoke", "submit", "nested"} {
				t.Run(fmt.Sprint(name, " ", timeout, " ", how), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), breakerOf(sluice.CircuitBreakerConfig{})), Timeout: timeout})
						defer r.end()
						var g gauge
						bad := error(nil)
						r.tool(sluice.Spec{Name: "odd"}, func(context.Context) error { return bad })
						r.tool(sluice.Spec{Name: "around"}, func(ctx context.Context) error {
							_, err := r.Invoke(ctx, sluice.Request{Tool: "odd"})
							return err
						})
						r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
						for _, bad = range []error{odd, fmt.Errorf("outer: %w", odd), errors.Join(errors.New("beside"), odd)} {
							var err error
							switch how {
							case "invoke":
								err = r.call("odd")
							case "submit":
								_, err = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
							case "nested":
								err = r.call("around")
							}
							if err != bad {
								t.Errorf("the error is %T: want it untouched", err)
							}
							r.slotsFree("plain", &g, 1)
						}
					})
				})
			}
		}
	}
}
