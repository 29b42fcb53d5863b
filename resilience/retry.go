package resilience

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"time"

	"github.com/sluice-go/sluice"
)

// Retry makes calls again that failed and may succeed. It is an interceptor that stands before the gates:
// nothing is held while it waits, and each attempt is admitted and charged anew. By default it repeats
// only what is safe, see [Retryable]. It never repeats an attempt whose code still runs when the wait is over.
//
// A call whose last attempt failed too ends with a [*RetryError], one that made a single attempt with what
// that ended with. Make it with [NewRetry]; it is safe for concurrent use. A wait ends with the context.
type Retry struct{ conf settings[RetryConfig] }

var _ sluice.Stepper = (*Retry)(nil)

// RetryConfig configures a [Retry]. The zero value makes up to three attempts of what is safe to repeat.
type RetryConfig struct {
	Name     string        // empty means "retry"
	Attempts int           // of a call, up to 100; zero means 3
	Base     time.Duration // the first wait, doubled with each further one; zero means 500 ms
	Max      time.Duration // no wait is longer: who asks for more is not asked again; zero means 30 s
	Jitter   Jitter
	Total    time.Duration // from the call's beginning to the end of its last wait; zero means no bound
	Budget   *Budget       // may be shared; nil means one of its own, by the zero BudgetConfig

	// If decides what is repeated, within the bounds above; nil means Retryable. It sees failing results
	// too, and must not wait. A panic ends the call.
	If func(tool sluice.Spec, a sluice.Attempt, r sluice.Result, err error) bool
	_  struct{}
}

// maxAttempts bounds RetryConfig.Attempts.
const maxAttempts = 100

// complete fills in the defaults.
func (c RetryConfig) complete() (RetryConfig, error) {
	c.Name, c.Attempts = cmp.Or(c.Name, "retry"), cmp.Or(c.Attempts, 3)
	c.Base, c.Max = cmp.Or(c.Base, 500*time.Millisecond), cmp.Or(c.Max, max(30*time.Second, c.Base))
	switch {
	case c.Attempts < 1 || c.Attempts > maxAttempts:
		return c, fmt.Errorf("resilience: RetryConfig.Attempts is %d: must be zero (3) or from 1 to %d", c.Attempts, maxAttempts)
	case c.Base < 0:
		return c, fmt.Errorf("resilience: RetryConfig.Base is %v: must be zero (500 ms) or positive", c.Base)
	case c.Max < c.Base:
		return c, fmt.Errorf("resilience: RetryConfig.Max is %v: must be zero (30 s) or at least Base, %v", c.Max, c.Base)
	case c.Jitter > NoJitter:
		return c, fmt.Errorf("resilience: RetryConfig.Jitter is %v: must be one of the constants", c.Jitter)
	case c.Total < 0:
		return c, fmt.Errorf("resilience: RetryConfig.Total is %v: must be zero (no bound) or positive", c.Total)
	}
	if c.If == nil {
		c.If = Retryable
	}
	return c, cmp.Or(unit("RetryConfig.Base", c.Base), unit("RetryConfig.Max", c.Max), unit("RetryConfig.Total", c.Total))
}

func (c RetryConfig) title() (kind, name string) { return "RetryConfig", c.Name }

func (c RetryConfig) keeps(was *RetryConfig) (RetryConfig, error) {
	c.Name, c.Budget = was.Name, cmp.Or(c.Budget, was.Budget)
	return c, nil
}

// NewRetry returns a Retry, or an error that names the wrong field.
func NewRetry(c RetryConfig) (*Retry, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	if c.Budget == nil {
		if c.Budget, err = NewBudget(BudgetConfig{}); err != nil {
			return nil, err
		}
	}
	c.Budget.counted.Store(true)
	r := new(Retry)
	r.conf.Store(&c)
	return r, nil
}

// String is the name.
func (r *Retry) String() string { return r.conf.Load().Name }

// Config returns a copy, defaults filled in.
func (r *Retry) Config() RetryConfig { return *r.conf.Load() }

// Change changes all but the name, by [sluice.Reconfigure], for attempts that end from then on. Without a
// Budget it keeps the one that it has.
func (r *Retry) Change(c RetryConfig) sluice.Change {
	return r.conf.change(r, c, func(c *RetryConfig) {
		c.Budget.counted.Store(true)
		r.conf.Store(c)
	})
}

// Inspect is the budget, for snapshots.
func (r *Retry) Inspect() []sluice.GateState {
	c := r.conf.Load()
	return c.Budget.inspect(c.Name)
}

// Steps makes r an interceptor in steps.
func (r *Retry) Steps(tool sluice.Spec) sluice.Steps {
	return sluice.Steps{
		Before: func(_ context.Context, s *sluice.Step) {
			c := r.conf.Load()
			if c.Budget.earn(); c.Total > 0 {
				s.State = &retrying{began: time.Now()}
			}
		},
		After: func(ctx context.Context, s *sluice.Step) {
			if a := s.Attempt(); !succeeded(a, s.Err) {
				r.goOn(ctx, tool, s, a)
			}
		},
	}
}

// Wrap makes r an interceptor.
func (r *Retry) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	return r.Steps(tool).Wrap(next)
}

// succeeded reports whether there is nothing to repeat.
func succeeded(a sluice.Attempt, err error) bool {
	return err == nil && (a.N == 0 || a.Outcome == sluice.OutcomeSuccess)
}

// retrying is a call whose first attempt has failed, or that has so much time in all.
type retrying struct {
	began time.Time // zero if nobody asked
	tried []Tried
	res   sluice.Result // of the last attempt that ran, or of the last
	err   error         // likewise
	ran   bool          // some attempt has
}

// goOn has a call made again whose attempt a has failed, or ends it.
func (r *Retry) goOn(ctx context.Context, tool sluice.Spec, s *sluice.Step, a sluice.Attempt) {
	x, _ := s.State.(*retrying)
	if x == nil {
		x = new(retrying)
		s.State = x
	}
	n := len(x.tried)
	switch {
	case n > 0 && a.N == 0 && ctx.Err() != nil && !panicked(s.Err): // in a wait, here or in a layer further in
		s.Result, s.Err = x.giveUp("its caller left", context.Cause(ctx))
		return
	case n > 0 && a.N > 0 && a.N == x.tried[n-1].N: // the wait is over
		s.Result, s.Err = x.giveUp("its code still runs", nil)
		return
	}
	ran := a.Ran || a.N == 0 && s.Err != nil && !errors.Is(s.Err, sluice.ErrRejected) // or a layer further in says that it has
	if x.tried = append(x.tried, Tried{Attempt: a, Err: s.Err}); ran || !x.ran {
		x.res, x.err, x.ran = s.Result, s.Err, ran
	}
	wait, why := x.decide(ctx, r.conf.Load(), tool, s, a)
	if why != "" {
		s.Result, s.Err = x.giveUp(why, nil)
		return
	}
	x.tried[len(x.tried)-1].Wait = wait
	if a.Ran && errors.Is(s.Err, sluice.ErrTimeout) {
		goesOn(ctx, s.Call())
	}
	s.Again(wait)
}

// panicked reports whether code did, or exited: a layer further in, as a Hedge, can tell that of an attempt alone.
func panicked(err error) bool {
	_, ok := errors.AsType[*sluice.PanicError](err)
	return ok
}

// decide is how long to wait before the next attempt, or why there is none.
func (x *retrying) decide(ctx context.Context, c *RetryConfig, tool sluice.Spec, s *sluice.Step, a sluice.Attempt) (wait time.Duration, why string) {
	switch {
	case ctx.Err() != nil:
		return 0, "its caller left"
	case !c.If(tool, a, s.Result, s.Err):
		return 0, "this is not to be repeated"
	}
	left, total := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	now := time.Now()
	if t, ok := s.Deadline(ctx); ok {
		left = t.Sub(now)
	}
	if c.Total > 0 && !x.began.IsZero() {
		total = c.Total - now.Sub(x.began)
	}
	n, last := len(x.tried), time.Duration(0)
	if n > 1 {
		last = x.tried[n-2].Wait
	}
	if wait, why = c.wait(n, last, a.RetryAfter, left, total, rand.Uint64()); why == "" && !c.Budget.spend() {
		why = "the budget is used up"
	}
	return wait, why
}

// wait is how long to wait after n attempts, or why not to: who answered asks for after, the caller's
// deadline leaves so much time, and Total that.
func (c *RetryConfig) wait(n int, last, after, left, total time.Duration, chance uint64) (wait time.Duration, why string) {
	switch wait = (backoff{c.Base, c.Max, c.Jitter}).wait(n, last, after, chance); {
	case n >= c.Attempts:
		return 0, "no more are allowed"
	case wait > c.Max:
		return 0, "the next was to wait longer than Max"
	case wait >= left:
		return 0, "its deadline comes before the next"
	case wait > total:
		return 0, "Total ends before the next"
	}
	return wait, ""
}

// giveUp is what the call ends with.
func (x *retrying) giveUp(why string, cause error) (sluice.Result, error) {
	if x.err == nil || len(x.tried) == 1 && cause == nil {
		return x.res, x.err
	}
	return x.res, &RetryError{Tried: x.tried, Why: why, last: x.err, cause: cause}
}

// Tried is one attempt that failed.
type Tried struct {
	sluice.Attempt
	Err  error         // nil if its result was the failure
	Wait time.Duration // before the next
}

// RetryError is what a call ends with that a [Retry] has given up. It wraps the tool's own last error, or
// the last refusal if the tool has not run, and why the caller left if that ended a wait.
type RetryError struct {
	Tried []Tried
	Why   string // there were no more attempts

	last, cause error
}

// Error is one line: how many attempts there were, why no more, and the last error.
func (e *RetryError) Error() string {
	if len(e.Tried) == 1 {
		return fmt.Sprintf("resilience: an attempt failed, %s: %v", e.Why, e.last)
	}
	return fmt.Sprintf("resilience: %d attempts failed, %s: %v", len(e.Tried), e.Why, e.last)
}

// Unwrap is the last error, and why the caller left.
func (e *RetryError) Unwrap() []error {
	if e.cause != nil {
		return []error{e.last, e.cause}
	}
	return []error{e.last}
}

// Retryable is what a [Retry] repeats by default: attempts that were refused, by what passes at a known
// time and is no breaker; that an upstream refused because it had too much to do; that failed before a
// connection stood; and, of tools hinted ReadOnly or Idempotent, those that failed, but not by a panic.
// It repeats nothing of which an error says NoRetry() bool.
func Retryable(tool sluice.Spec, a sluice.Attempt, r sluice.Result, err error) bool {
	var no interface{ NoRetry() bool }
	var panicked *sluice.PanicError
	switch {
	case a.N == 0:
		return false
	case !a.Ran:
		return a.RetryAfter > 0 && !errors.Is(err, sluice.ErrBreakerOpen)
	case errors.As(err, &no) && no.NoRetry(), errors.As(err, &panicked):
		return false
	case a.Outcome == sluice.OutcomeOverload:
		return true
	case a.Outcome != sluice.OutcomeFailure:
		return false
	}
	return harmless(tool) || unconnected(err)
}

// unconnected reports whether err says that there was no connection by which the tool could have had an
// effect.
func unconnected(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}
