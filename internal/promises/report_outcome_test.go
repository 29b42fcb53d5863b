package promises_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// What a tool's code reports is what its end means, whatever comes of it, unless a Classify function says otherwise. It
// is of that attempt alone, and of no call after it.
func TestReportOutcome(t *testing.T) {
	const auto, success, failure, neutral, overload = sluice.OutcomeAuto, sluice.OutcomeSuccess, sluice.OutcomeFailure, sluice.OutcomeNeutral, sluice.OutcomeOverload
	says := func(o sluice.Outcome) func(sluice.Call, sluice.Result, error) sluice.Outcome {
		return func(sluice.Call, sluice.Result, error) sluice.Outcome { return o }
	}
	boom := errors.New("boom")
	for _, tt := range []struct {
		name     string
		reports  []sluice.Outcome
		classify func(sluice.Call, sluice.Result, error) sluice.Outcome
		err      error
		want     sluice.Outcome
	}{
		{"nothing", nil, nil, nil, success},
		{"a failure told by a result", []sluice.Outcome{failure}, nil, nil, failure},
		{"a result that says nothing", []sluice.Outcome{neutral}, nil, nil, neutral},
		{"a busy upstream, told by a result", []sluice.Outcome{overload}, nil, nil, overload},
		{"an error that is none", []sluice.Outcome{success}, nil, boom, success},
		{"an error that says nothing", []sluice.Outcome{neutral}, nil, boom, neutral},
		{"before what an error says of itself", []sluice.Outcome{neutral}, nil, speaking{failure}, neutral},
		{"the last one", []sluice.Outcome{failure, success, neutral}, nil, nil, neutral},
		{"taken back", []sluice.Outcome{failure, auto}, nil, nil, success},
		{"taken back, with an error", []sluice.Outcome{success, auto}, nil, boom, failure},
		{"no such outcome", []sluice.Outcome{neutral, overload + 1}, nil, nil, neutral},
		{"a function that says otherwise", []sluice.Outcome{failure}, says(success), nil, success},
		{"a function that leaves it open", []sluice.Outcome{failure}, says(auto), nil, failure},
	} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			for _, hangs := range []bool{false, true} {
				t.Run(fmt.Sprint(tt.name, " ", timeout, " ", hangs), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						var got sluice.Attempt
						look := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
							return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
								res, err := next(ctx, c)
								got = c.AttemptOf(res, err)
								return res, err
							}
						})
						b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
						r := newRig(t, sluice.Config{Interceptors: interceptors(look, b), Timeout: timeout, Classify: tt.classify})
						reports, err := tt.reports, tt.err
						r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cooperative: !hangs}}, func(ctx context.Context) error {
							for _, o := range reports {
								sluice.ReportOutcome(ctx, o)
							}
							return err
						})
						require.Equal(t, tt.err, r.call("x"), "the caller has what the code answered")
						require.Equal(t, tt.want, got.Outcome)
						want := sluice.BreakerClosed
						if tt.want == failure {
							want = sluice.BreakerOpen
						}
						require.Equal(t, want, sluice.Must(b.State("x")))
						require.NoError(t, b.Reset("x"))
						for reports, err = nil, nil; r.at() < 20*time.Second; time.Sleep(time.Second) {
							require.NoError(t, r.call("x"))
							if tt.classify == nil {
								require.Equal(t, success, got.Outcome, "of a call that reports nothing")
							}
						}
						r.end()
					})
				})
			}
		}
	}
}

// speaking is an error that says what it means.
type speaking struct{ outcome sluice.Outcome }

func (speaking) Error() string             { return "boom" }
func (e speaking) Outcome() sluice.Outcome { return e.outcome }

// Each attempt of a call reports for itself, also of those that run at one time.
func TestReportOutcome_OfOneAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		twice := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				go next(ctx, c)
				return next(ctx, c)
			}
		})
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(twice, b)})
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			if c.Attempt == 1 {
				sluice.ReportOutcome(ctx, sluice.OutcomeFailure)
			}
			time.Sleep(time.Duration(c.Attempt) * time.Second)
			return nil
		})
		for range 10 {
			require.NoError(t, r.call("x"))
			time.Sleep(3 * time.Second)
		}
		require.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("x")), "there were two failures in a row")
		r.end()
	})
}

// Code that its caller has left behind, because its time is over, has failed, whatever it has said; if it ends when its
// time is over, what it has said holds.
func TestReportOutcome_OutOfTime(t *testing.T) {
	for _, cooperative := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			var got sluice.Attempt
			look := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					res, err := next(ctx, c)
					got = c.AttemptOf(res, err)
					return res, err
				}
			})
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
			r := newRig(t, sluice.Config{Interceptors: interceptors(look, b), Timeout: time.Second})
			r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cooperative: cooperative}}, func(ctx context.Context) error {
				sluice.ReportOutcome(ctx, sluice.OutcomeNeutral)
				if <-ctx.Done(); !cooperative {
					time.Sleep(time.Second)
				}
				return ctx.Err()
			})
			require.ErrorIs(t, r.call("x"), sluice.ErrTimeout)
			want, state := sluice.OutcomeFailure, sluice.BreakerOpen
			if cooperative {
				want, state = sluice.OutcomeNeutral, sluice.BreakerClosed
			}
			require.Equal(t, want, got.Outcome)
			time.Sleep(2 * time.Second)
			require.Equal(t, state, sluice.Must(b.State("x")))
			r.end()
		})
	}
}

// A stream says by its error what its end means; what is reported while it goes on counts only if it fails.
func TestReportOutcome_DuringAStream(t *testing.T) {
	for _, failure := range []error{nil, errTool} {
		for _, o := range []sluice.Outcome{sluice.OutcomeFailure, sluice.OutcomeNeutral} {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
				r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
				r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
					stream, done, err := sluice.Hold(ctx)
					go func() {
						time.Sleep(time.Second)
						sluice.ReportOutcome(stream, o)
						done(failure)
					}()
					return err
				})
				require.NoError(t, r.call("x"))
				time.Sleep(2 * time.Second)
				opens := failure != nil && o == sluice.OutcomeFailure
				require.Equal(t, opens, sluice.Must(b.State("x")) == sluice.BreakerOpen, "%v %v", failure, o)
				r.end()
			})
		}
	}
}

// A stream's end means what has been reported before its code has returned.
func TestReportOutcome_OfAStream(t *testing.T) {
	for _, failure := range []error{nil, errTool} {
		for _, o := range []sluice.Outcome{sluice.OutcomeAuto, sluice.OutcomeFailure, sluice.OutcomeNeutral} {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Hour})
				r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
				stream, failing := streams(t, time.Second, failure), true
				r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
					if failing {
						return errTool
					}
					sluice.ReportOutcome(ctx, o)
					return stream(ctx)
				})
				require.Error(t, r.call("x"))
				failing = false
				require.NoError(t, r.call("x"))
				time.Sleep(2 * time.Second)
				opens := o == sluice.OutcomeFailure || o == sluice.OutcomeAuto && failure != nil
				require.Equal(t, opens, sluice.Must(b.State("x")) == sluice.BreakerOpen, "%v after %v", failure, o)
				failing = true
				if !opens {
					require.Equal(t, errTool, r.call("x"))
					require.Equal(t, o == sluice.OutcomeNeutral, sluice.Must(b.State("x")) == sluice.BreakerOpen, "what is neutral ends no row")
				}
				r.end()
			})
		}
	}
}

// Outside a call, and late, a report does nothing.
func TestReportOutcome_Outside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		sluice.ReportOutcome(t.Context(), sluice.OutcomeFailure)
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		var kept context.Context
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { kept = ctx; return nil })
		for range 100 {
			require.NoError(t, r.call("x"))
			sluice.ReportOutcome(kept, sluice.OutcomeFailure)
		}
		require.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("x")))
		r.end()
	})
}
