package sluice

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrSaturated is the reason of a call refused by a [Limit] with Refuse, too narrow, or with all
// keys busy.
var ErrSaturated = errors.New("saturated")

// ConcurrencyLimiter bounds calls in flight: a call holds its slots until its code has really
// ended. It is a gate. Gates stand side by side in [Config].Interceptors, of several executors too,
// and are safe for concurrent use. A call starts at the instant at which all agree; until then it
// waits in the executor's queue.
type ConcurrencyLimiter struct {
	core gateCore
	conf ConcurrencyLimiterConfig
}

// ConcurrencyLimiterConfig configures a [ConcurrencyLimiter].
type ConcurrencyLimiterConfig struct {
	Name   string  // empty means "concurrency"
	Limits []Limit // at least one; all hold
	_      struct{}
}

// Limit bounds calls in flight.
type Limit struct {
	Max      int       // at once; required unless Adaptive
	Scope    Scope     // zero means Global
	Unit     string    // empty counts calls; else Policy.Cost weighs
	Refuse   bool      // instead of waiting
	Adaptive *Adaptive // nil means fixed
	MaxKeys  int       // ByTenant, ByKey; idle ones make room; zero means 10,000
}

// Adaptive finds out what a backend bears, by [OutcomeOverload] alone, not by waiting or slow
// tools. From Min it doubles with each round of successes until the first overload. Each overload
// cuts a tenth, at least one, once for all calls in flight together; ten rounds of successes that
// used all of it add one. So a fall from n to m takes n-m cuts at most, in about one call's time, a
// rise 10*(n-m) calls' time (AIMD, Chiu and Jain 1989).
type Adaptive struct {
	Min int // zero means 1
	Max int // required
}

// slots is l as it is for the machine.
func (l *Limit) slots() rules.Slots {
	s := rules.Slots{
		Scope: rules.Scope(l.Scope), Unit: l.Unit, Refuse: l.Refuse, Max: int64(l.Max), MaxKeys: l.MaxKeys,
	}
	if a := l.Adaptive; a != nil {
		s.Adaptive = &admit.Adaptive{Min: int64(a.Min), Max: int64(a.Max)}
	}
	return s
}

// complete fills in the defaults.
func (c ConcurrencyLimiterConfig) complete() (ConcurrencyLimiterConfig, error) {
	const field = "sluice: ConcurrencyLimiterConfig"
	if err := check.NameOr(field+".Name", &c.Name, "concurrency"); err != nil {
		return c, err
	}
	if len(c.Limits) == 0 {
		return c, errors.New(field + ".Limits is empty: must have at least one limit")
	}
	c.Limits = slices.Clone(c.Limits)
	all := make([]rules.Slots, len(c.Limits))
	for i := range all {
		l, s := &c.Limits[i], &all[i]
		*s = l.slots()
		if err := s.Complete(fmt.Sprintf("%s.Limits[%d]", field, i), all[:i]); err != nil {
			return c, err
		}
		l.Scope, l.MaxKeys = Scope(s.Scope), s.MaxKeys
		if a := s.Adaptive; a != nil {
			l.Adaptive = &Adaptive{int(a.Min), int(a.Max)}
		}
	}
	return c, nil
}

// NewConcurrencyLimiter returns a limiter, or an error that names the wrong field.
func NewConcurrencyLimiter(c ConcurrencyLimiterConfig) (*ConcurrencyLimiter, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	l := &ConcurrencyLimiter{conf: c}
	l.core.name, l.core.stage = c.Name, new(stage.Ref)
	for _, x := range c.Limits {
		s := x.slots()
		l.core.limits = append(l.core.limits, gateLimit{s.Class(c.Name), s.Scope})
	}
	return l, nil
}

// Wrap makes l an [Interceptor]; by hand it refuses calls.
func (l *ConcurrencyLimiter) Wrap(tool Spec, next Handler) Handler {
	return outside("ConcurrencyLimiter", l.String())
}

// String is the name.
func (l *ConcurrencyLimiter) String() string {
	if l == nil {
		return "nil"
	}
	return l.core.name
}

// Config returns a copy, defaults filled in.
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

// Change changes Max, Refuse, MaxKeys and Adaptive's bounds, by [Reconfigure].
func (l *ConcurrencyLimiter) Change(c ConcurrencyLimiterConfig) Change {
	return Change{&configChange[ConcurrencyLimiterConfig]{l, &l.core, &l.conf, c, l.fits, l.turn}}
}

// fits completes to, unless l cannot become that.
func (l *ConcurrencyLimiter) fits(was, to ConcurrencyLimiterConfig) (ConcurrencyLimiterConfig, error) {
	to, err := to.complete()
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
		}
		to.Limits[i].Scope = o.Scope // with the function that there is
	}
	return to, nil
}

// turn has the machine follow a change.
func (l *ConcurrencyLimiter) turn(lk *locked, s *stage.Stage, now int64, was, to ConcurrencyLimiterConfig) {
	for i, n := range to.Limits {
		k, o, slots := l.core.limits[i].class, was.Limits[i], n.slots()
		k.Refuse = n.Refuse
		s.M.SetMaxKeys(now, k, slots.Scope.TableSize(n.MaxKeys))
		if n.Adaptive != nil && *n.Adaptive != *o.Adaptive {
			s.M.SetAdaptive(now, k, slots.Adaptive)
			lk.changed(s, k.Name, o.bound(), n.bound())
		} else if n.Max != o.Max {
			s.M.SetLimit(now, k, slots.Max)
			lk.changed(s, k.Name, o.bound(), n.bound())
		}
	}
}

// bound is how l stands in events.
func (l *Limit) bound() string {
	if a := l.Adaptive; a != nil {
		return fmt.Sprintf("%d to %d", a.Min, a.Max)
	}
	return fmt.Sprint(l.Max)
}

// Scope is what a limit counts by; zero is the component's default. == compares what scopes say,
// names in any order. A [ByKey] scope is == to its copies; to a component its name stands for its
// function, and a Change keeps the first.
type Scope rules.Scope

// The scopes that need no name.
var (
	Global   = Scope(rules.Of(rules.Global))   // all calls together
	ByTool   = Scope(rules.Of(rules.ByTool))   // each tool
	ByType   = Scope(rules.Of(rules.ByType))   // each Spec.Type; tools without one together
	ByTenant = Scope(rules.Of(rules.ByTenant)) // each tenant; calls without one together
)

// ForTool counts these tools together, no others.
func ForTool(names ...string) Scope { return Scope(rules.For(rules.ForTool, names)) }

// ForType counts tools of these types together, no others.
func ForType(types ...string) Scope { return Scope(rules.For(rules.ForType, types)) }

// ByKey counts by any key of the call, such as a host; "" does not count. key runs once per
// attempt, before the queue, outside locks, and changes nothing; a panic refuses.
func ByKey(name string, key func(c Call) string) Scope {
	if key == nil {
		return Scope(rules.Keyed(name, nil)) // which no component takes
	}
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

// String is s in refusals and snapshots.
func (s Scope) String() string { return rules.Scope(s).String() }

// Key is what c counts under, and whether it does; it runs ByKey's function.
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

// complete is s, or the default, unless there can be no such scope.
func (s Scope) complete(field string, def rules.Kind) (Scope, error) {
	r, err := rules.Scope(s).Complete(field, def)
	return Scope(r), err
}

// same reports whether s and o are one scope to the component that has them.
func (s Scope) same(o Scope) bool { return rules.Scope(s).Same(rules.Scope(o)) }
