package sluice

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/sluice-go/sluice/internal/admit"
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

// maxLimit bounds what one limit allows at once: 1<<40, or what half an int can hold.
const maxLimit = min(1<<40, math.MaxInt>>1+1)

func (c ConcurrencyLimiterConfig) validate() (ConcurrencyLimiterConfig, error) {
	if err := checkName("ConcurrencyLimiterConfig.Name", c.Name); err != nil {
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
			case a.Max > maxLimit:
				return c, fmt.Errorf("sluice: %s.Adaptive.Max is %d: must be at most %d", field, a.Max, maxLimit)
			}
			l.Adaptive = &a
		} else if l.Max < 1 || l.Max > maxLimit {
			return c, fmt.Errorf("sluice: %s.Max is %d: must be from 1 to %d", field, l.Max, maxLimit)
		}
		if err := l.Scope.check(field + ".Scope"); err != nil {
			return c, err
		}
		l.Scope = l.Scope.or(Global)
		if err := checkName(field+".Unit", l.Unit); err != nil {
			return c, err
		}
		n, err := maxKeys(field+".MaxKeys", l.MaxKeys)
		if err != nil {
			return c, err
		}
		l.MaxKeys = n
		for j, o := range c.Limits[:i] {
			if o.Scope == l.Scope && o.Unit == l.Unit {
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
	l.core.name = c.Name
	for _, x := range c.Limits {
		k := &admit.Class{
			Name:    limitName(label("concurrency", c.Name), x.Scope, x.Unit),
			Kind:    admit.Slots,
			Rank:    x.Scope.rank(),
			Unit:    x.Unit,
			Refuse:  x.Refuse,
			MaxKeys: tableSize(x.Scope, x.MaxKeys),
			Limit:   int64(x.Max),
		}
		if k.Adaptive = x.Adaptive.bounds(); k.Adaptive != nil {
			k.Limit = k.Adaptive.Min
		}
		l.core.limits = append(l.core.limits, gateLimit{k, x.Scope})
	}
	return l, nil
}

func (a *Adaptive) bounds() *admit.Adaptive {
	if a == nil {
		return nil
	}
	return &admit.Adaptive{Min: int64(a.Min), Max: int64(a.Max)}
}

// String is the bounds as they stand in events: "1 to 64".
func (a *Adaptive) String() string { return fmt.Sprintf("%d to %d", a.Min, a.Max) }

func limitName(prefix string, s Scope, unit string) string {
	if unit == "" {
		return prefix + " " + s.String()
	}
	return prefix + " " + unit + " " + s.String()
}

// Wrap makes l an [Interceptor]. An [Executor] fuses the gates it lists and does not call
// it; called by hand it guards next with l alone.
func (l *ConcurrencyLimiter) Wrap(tool Spec, next Handler) Handler {
	return wrapAlone(&l.core, tool, next)
}

func (l *ConcurrencyLimiter) gate() *gateCore { return &l.core }

// String is the name that Plan shows.
func (l *ConcurrencyLimiter) String() string { return l.core.name }

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
// MaxKeys and the bounds of Adaptive can change; names, scopes, units, the number of
// limits and which of them are adaptive cannot.
func (l *ConcurrencyLimiter) Change(c ConcurrencyLimiterConfig) Change {
	return Change{&limiterChange{l: l, to: c}}
}

type limiterChange struct {
	l  *ConcurrencyLimiter
	to ConcurrencyLimiterConfig
}

func (x *limiterChange) target() any       { return x.l }
func (x *limiterChange) refs() []*stageRef { return []*stageRef{&x.l.core.stage} }

func (x *limiterChange) check() (err error) {
	if x.to, err = x.to.validate(); err != nil {
		return err
	}
	was := x.l.Config()
	if x.to.Name != was.Name {
		return fmt.Errorf("sluice: ConcurrencyLimiterConfig.Name is %q: cannot change from %q", x.to.Name, was.Name)
	}
	if err := sameShape("ConcurrencyLimiterConfig.Limits", len(x.to.Limits), len(was.Limits)); err != nil {
		return err
	}
	for i, n := range x.to.Limits {
		if o := was.Limits[i]; n.Scope != o.Scope || n.Unit != o.Unit {
			return fmt.Errorf("sluice: ConcurrencyLimiterConfig.Limits[%d] changes its Scope or Unit: they cannot change", i)
		} else if (n.Adaptive == nil) != (o.Adaptive == nil) {
			return fmt.Errorf("sluice: ConcurrencyLimiterConfig.Limits[%d].Adaptive comes or goes: it cannot, only its bounds can change", i)
		}
	}
	return nil
}

func (x *limiterChange) apply(lk *locked) {
	s, now := lk.stage(&x.l.core.stage)
	x.l.core.mu.Lock()
	was := x.l.conf
	x.l.conf = x.to
	x.l.core.mu.Unlock()
	for i, n := range x.to.Limits {
		k := x.l.core.limits[i].class
		k.Refuse, k.MaxKeys = n.Refuse, tableSize(n.Scope, n.MaxKeys)
		if o := was.Limits[i]; n.Adaptive != nil && *n.Adaptive != *o.Adaptive {
			s.m.SetAdaptive(now, k, n.Adaptive.bounds())
			lk.changed(s, k.Name, o.Adaptive.String(), n.Adaptive.String())
		} else if n.Max != o.Max {
			s.m.SetLimit(now, k, int64(n.Max))
			lk.changed(s, k.Name, fmt.Sprint(was.Limits[i].Max), fmt.Sprint(n.Max))
		}
	}
}
