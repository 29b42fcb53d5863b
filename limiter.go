package sluice

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/semaphore"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrSaturated is the reason of a call refused by a [Limit] that refuses instead of
// waiting, by one that it is too wide for, or because all keys of a limit are busy.
var ErrSaturated = errors.New("saturated")

// ConcurrencyLimiter bounds calls in flight. It is an [Interceptor]; listed beside the
// other gates it decides jointly with them: a call holds a slot from the instant at
// which all of them agree until its code has really ended, however it ends.
//
// Make one with [NewConcurrencyLimiter]; the zero value is not usable. It is safe for
// concurrent use and may be shared by executors. A call waits in the one queue of its
// executor, until it may start, its context ends, MaxWait is over or the executor closes.
type ConcurrencyLimiter struct {
	core gateCore
	conf ConcurrencyLimiterConfig
}

// ConcurrencyLimiterConfig configures a [ConcurrencyLimiter].
type ConcurrencyLimiterConfig struct {
	Name   string  // for errors, events and snapshots; empty means "concurrency"
	Limits []Limit // at least one; all of them hold together
	_      struct{}
}

// Limit is one bound on calls in flight.
type Limit struct {
	Max      int       // most in flight at once; required unless Adaptive
	Scope    Scope     // what is counted together; zero means Global
	Unit     string    // empty counts calls; else Policy.Cost gives the weight of each
	Refuse   bool      // refuse with ErrSaturated instead of waiting
	Adaptive *Adaptive // moves the limit by what calls meet; nil means it is fixed
	MaxKeys  int       // of a ByTenant or ByKey scope, idle ones make room; zero means 10,000

	// Semaphore is shared with other code: what a call holds of this limit it holds there too. Max
	// is its size, or less to leave others the rest; a call wider than the semaphore would wait in
	// vain, and others behind it. It is asked last, when all else agrees. While calls wait for it,
	// one of the library's goroutines stands in its line, for whoever is first when it has its
	// turn. A call should need one only: where two are contended it may be overtaken without end.
	// Nested calls that wait for each other through one are not found out: their MaxWait ends them.
	// Global, ForTool and ForType scopes only.
	Semaphore *semaphore.Weighted
}

// Adaptive lets a limit find out what a backend bears: additive increase, multiplicative
// decrease (Chiu and Jain 1989), driven by [OutcomeOverload] alone. It begins at Min and
// doubles with each round of successes until the first overload. An overload cuts it by a
// tenth, at least by one, once for all calls that were in flight together; ten rounds of
// successes that used the whole limit add one. So a backend that falls from capacity n to
// m is followed by at most n - m cuts, in about the time of one call, and one that rises
// from m to n within about 10*(n-m) times as long as a call takes. Neither time in the
// queue nor how long a tool takes is a signal.
type Adaptive struct {
	Min int // zero means 1
	Max int // required
}

func (c ConcurrencyLimiterConfig) validate() (ConcurrencyLimiterConfig, error) {
	if err := check.Name("sluice: ConcurrencyLimiterConfig.Name", c.Name); err != nil {
		return c, err
	}
	if c.Name == "" {
		c.Name = "concurrency"
	}
	if len(c.Limits) == 0 {
		return c, errors.New("sluice: ConcurrencyLimiterConfig.Limits is empty: must have at least one limit")
	}
	c.Limits = slices.Clone(c.Limits)
	for i := range c.Limits {
		l, field := &c.Limits[i], fmt.Sprintf("ConcurrencyLimiterConfig.Limits[%d]", i)
		if l.Adaptive != nil {
			a := *l.Adaptive
			if a.Min == 0 {
				a.Min = 1
			}
			switch {
			case l.Max != 0:
				return c, fmt.Errorf("sluice: %s.Max is %d with Adaptive: must be zero, Adaptive.Max bounds it", field, l.Max)
			case a.Min < 1 || a.Min > a.Max:
				return c, fmt.Errorf("sluice: %s.Adaptive.Min is %d: must be from 1 to Max (%d)", field, a.Min, a.Max)
			case a.Max > rules.MaxLimit:
				return c, fmt.Errorf("sluice: %s.Adaptive.Max is %d: must be at most %d", field, a.Max, rules.MaxLimit)
			}
			l.Adaptive = &a
		} else if l.Max < 1 || l.Max > rules.MaxLimit {
			return c, fmt.Errorf("sluice: %s.Max is %d: must be from 1 to %d", field, l.Max, rules.MaxLimit)
		}
		if err := l.Scope.check(field + ".Scope"); err != nil {
			return c, err
		}
		l.Scope = l.Scope.or(rules.Global)
		if l.Semaphore != nil && !oneKey(l.Scope) {
			return c, fmt.Errorf("sluice: %s.Scope is %v with Semaphore: must be Global, ForTool or ForType", field, l.Scope)
		}
		if err := check.Name("sluice: "+field+".Unit", l.Unit); err != nil {
			return c, err
		}
		n, err := maxKeys(field+".MaxKeys", l.MaxKeys)
		if err != nil {
			return c, err
		}
		l.MaxKeys = n
		for j, o := range c.Limits[:i] {
			if o.Scope.same(l.Scope) && o.Unit == l.Unit {
				return c, fmt.Errorf("sluice: %s has the Scope and Unit of Limits[%d]: must differ in one", field, j)
			}
		}
	}
	return c, nil
}

// NewConcurrencyLimiter returns a limiter, or an error that names the field of c that is
// out of range.
func NewConcurrencyLimiter(c ConcurrencyLimiterConfig) (*ConcurrencyLimiter, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	l := &ConcurrencyLimiter{conf: c}
	l.core.name, l.core.stage = c.Name, new(stage.Ref)
	for _, x := range c.Limits {
		slots := rules.Slots{
			Scope: rules.Scope(x.Scope), Unit: x.Unit, Refuse: x.Refuse, Max: int64(x.Max), MaxKeys: x.MaxKeys,
		}
		if x.Adaptive != nil {
			slots.Adaptive = x.Adaptive.bounds()
		}
		if x.Semaphore != nil {
			slots.Shared = sharedSemaphore{x.Semaphore}
		}
		l.core.limits = append(l.core.limits, gateLimit{slots.Class(c.Name), slots.Scope})
	}
	return l, nil
}

// sharedSemaphore is a *semaphore.Weighted of the caller's own. Nothing of it that does not wait
// blocks or runs code but that package's, so that may run under the stage's lock.
type sharedSemaphore struct{ *semaphore.Weighted }

// Release gives n back. If other code has given back more than it held, which panics sooner or
// later, that stops no call.
func (s sharedSemaphore) Release(n int64) {
	defer func() { _ = recover() }()
	s.Weighted.Release(n)
}

func (a *Adaptive) bounds() *admit.Adaptive {
	return &admit.Adaptive{Min: int64(a.Min), Max: int64(a.Max)}
}

// String is the bounds as they stand in events: "1 to 64".
func (a *Adaptive) String() string { return fmt.Sprintf("%d to %d", a.Min, a.Max) }

// Wrap makes l an [Interceptor]. An [Executor] fuses the gates it lists and does not call
// it; the Handler of one that is called by hand refuses every call, and says so.
func (l *ConcurrencyLimiter) Wrap(tool Spec, next Handler) Handler {
	return outside("ConcurrencyLimiter", l.String())
}

// String is the name that Plan shows; "nil" of a nil pointer.
func (l *ConcurrencyLimiter) String() string {
	if l == nil {
		return "nil"
	}
	return l.core.name
}

// Config returns a copy of the current configuration, defaults filled in.
func (l *ConcurrencyLimiter) Config() ConcurrencyLimiterConfig {
	l.core.mu.Lock()
	defer l.core.mu.Unlock()
	c := l.conf
	c.Limits = slices.Clone(c.Limits)
	for i, x := range c.Limits {
		if x.Adaptive != nil {
			a := *x.Adaptive
			c.Limits[i].Adaptive = &a
		}
	}
	return c
}

// Change is the change to c, applied by [Reconfigure]; alone it does nothing. Max, Refuse,
// MaxKeys and the bounds of Adaptive can change; names, scopes, units, semaphores, the number of
// limits and which of them are adaptive cannot.
func (l *ConcurrencyLimiter) Change(c ConcurrencyLimiterConfig) Change {
	return Change{&configChange[ConcurrencyLimiterConfig]{l, &l.core, &l.conf, c, l.fits, l.turn}}
}

// fits completes to, unless l cannot become that.
func (l *ConcurrencyLimiter) fits(was, to ConcurrencyLimiterConfig) (ConcurrencyLimiterConfig, error) {
	to, err := to.validate()
	if err != nil {
		return to, err
	}
	if err := sameName("ConcurrencyLimiterConfig", to.Name, was.Name); err != nil {
		return to, err
	}
	if err := sameShape("ConcurrencyLimiterConfig.Limits", len(to.Limits), len(was.Limits)); err != nil {
		return to, err
	}
	for i, n := range to.Limits {
		o, field := was.Limits[i], fmt.Sprintf("sluice: ConcurrencyLimiterConfig.Limits[%d]", i)
		switch {
		case !n.Scope.same(o.Scope) || n.Unit != o.Unit:
			return to, fmt.Errorf("%s changes its Scope or Unit: they cannot change", field)
		case (n.Adaptive == nil) != (o.Adaptive == nil):
			return to, fmt.Errorf("%s.Adaptive comes or goes: it cannot, only its bounds can change", field)
		case n.Semaphore != o.Semaphore:
			return to, fmt.Errorf("%s.Semaphore is another: it cannot change", field)
		}
		to.Limits[i].Scope = o.Scope // with the function that there is
	}
	return to, nil
}

// turn has the machine follow a change.
func (l *ConcurrencyLimiter) turn(lk *locked, s *stage.Stage, now int64, was, to ConcurrencyLimiterConfig) {
	for i, n := range to.Limits {
		k, o := l.core.limits[i].class, was.Limits[i]
		k.Refuse = n.Refuse
		s.M.SetMaxKeys(now, k, rules.Scope(n.Scope).TableSize(n.MaxKeys))
		if n.Adaptive != nil && *n.Adaptive != *o.Adaptive {
			s.M.SetAdaptive(now, k, n.Adaptive.bounds())
			lk.changed(s, k.Name, o.Adaptive.String(), n.Adaptive.String())
		} else if n.Max != o.Max {
			s.M.SetLimit(now, k, int64(n.Max))
			lk.changed(s, k.Name, fmt.Sprint(o.Max), fmt.Sprint(n.Max))
		}
	}
}

// Scope is what a limit counts by. The zero value means the component's default.
//
// Scopes are values: == compares what they say, so that ForType("a", "b") is ForType("b",
// "a"). Functions cannot be compared: a scope of [ByKey] is == to its own copies alone.
// In one component, and in a Change of it, its name stands for its function: two of one
// name are the same scope.
type Scope rules.Scope

// The scopes that need no name.
var (
	Global   = Scope(rules.Of(rules.Global))   // all calls together
	ByTool   = Scope(rules.Of(rules.ByTool))   // each tool apart
	ByType   = Scope(rules.Of(rules.ByType))   // each Spec.Type apart; tools without one together
	ByTenant = Scope(rules.Of(rules.ByTenant)) // each tenant apart; calls without one together
)

// ForTool counts the named tools together and leaves others alone.
func ForTool(names ...string) Scope { return Scope(rules.For(rules.ForTool, names)) }

// ForType counts the tools of these types together and leaves others alone.
func ForType(types ...string) Scope { return Scope(rules.For(rules.ForType, types)) }

// ByKey counts by any key of the call, such as an API key, a host or an attribute of the
// run; "" leaves the call alone. name stands in refusals and snapshots. key runs once per
// attempt, before the call queues and outside every lock; if it panics, the call is
// refused. It must not change what it is given. A Change keeps the function there is.
func ByKey(name string, key func(c Call) string) Scope {
	return Scope(rules.Keyed(name, &keyFunc{key}))
}

// keyFunc is a function that can be compared, by where it stands.
type keyFunc struct{ of func(Call) string }

// keyOf is what c counts under by s, which is keyed.
func keyOf(s rules.Scope, c *Call) string {
	if s.Kind() == rules.ByTenant {
		return c.Pipeline.tenant()
	}
	return s.Key().(*keyFunc).of(c.shown())
}

// String is how the scope stands in refusals and snapshots.
func (s Scope) String() string { return rules.Scope(s).String() }

// Key is what the call c of the tool counts under, and whether it counts at all. It runs
// the key function of ByKey. The zero Scope counts like Global.
func (s Scope) Key(tool Spec, c Call) (key string, counts bool) {
	r := rules.Scope(s)
	if !r.Keyed() {
		return r.Fixed(tool.Name, tool.Type)
	}
	if c.Pipeline == nil {
		c.Pipeline = anonymous.pipeline
	}
	key = keyOf(r, &c)
	return key, key != "" || s == ByTenant
}

func (s Scope) or(def rules.Kind) Scope { return Scope(rules.Scope(s).Or(def)) }

// same reports whether s and o are one scope to the component that has them.
func (s Scope) same(o Scope) bool { return rules.Scope(s).Same(rules.Scope(o)) }

// check says what is wrong with a scope in the field named.
func (s Scope) check(field string) error {
	r := rules.Scope(s)
	switch r.Kind() {
	case rules.ForTool, rules.ForType:
		names := r.Names()
		if len(names) == 0 {
			return fmt.Errorf("sluice: %s names nothing: must name at least one", field)
		}
		for i, n := range names {
			if n == "" {
				return fmt.Errorf("sluice: %s has an empty name at %d: must not be empty", field, i)
			}
			if err := check.Name("sluice: "+field, n); err != nil {
				return err
			}
			if i > 0 && n == names[i-1] {
				return fmt.Errorf("sluice: %s names %q twice: must name each once", field, n)
			}
		}
	case rules.ByKey:
		if r.Name() == "" {
			return fmt.Errorf("sluice: %s is ByKey without a name: must have one", field)
		}
		if err := check.Name("sluice: "+field, r.Name()); err != nil {
			return err
		}
		if r.Key().(*keyFunc).of == nil {
			return fmt.Errorf("sluice: %s is ByKey(%q) with a nil function: must not be nil", field, r.Name())
		}
	}
	return nil
}
