package sluice

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/survey"
)

// ErrRateLimited is the reason of a call refused by a [RateLimiter] with Refuse.
var ErrRateLimited = errors.New("rate limited")

// RateLimiter bounds starts over time: in every window of length w at most Burst + N*w/Per units
// are charged, exactly (generic cell rate algorithm, ITU-T I.371). It is a gate, see
// [ConcurrencyLimiter]: a call pays when it starts, not if it waits, is cancelled or refused. Calls
// that wait for a bucket are paid in order.
type RateLimiter struct {
	core gateCore
	conf RateLimiterConfig
	at   []int // conf.Rates in core.limits, for Reconfigure
}

// RateLimiterConfig configures a [RateLimiter].
type RateLimiterConfig struct {
	Name     string // empty means "rate"
	Scope    Scope  // zero means Global
	Rates    []Rate // all or nothing; required without Limiter
	Refuse   bool   // instead of waiting
	Upstream bool   // paused by ReportThrottle
	MaxKeys  int    // as in Limit

	// Limiter is a bucket shared with other code, as exact as itself; Global, ForTool or ForType. It
	// is asked last, its own Wait goes first. Tokens of calls whose code did not run are given back
	// at once, or never.
	Limiter *rate.Limiter
	_       struct{}
}

// Rate is a token bucket, without drift. Starts are at whole nanoseconds, never early; with a Burst
// of 1 each is rounded up.
type Rate struct {
	N     int64         // units per Per; required
	Per   time.Duration // zero means one second
	Burst int64         // most at once; zero means N
	Unit  string        // empty counts calls; else Policy.Cost says
}

// complete fills in the defaults.
func (c RateLimiterConfig) complete() (_ RateLimiterConfig, err error) {
	const field = "sluice: RateLimiterConfig"
	if err := check.NameOr(field+".Name", &c.Name, "rate"); err != nil {
		return c, err
	}
	if c.Scope, err = c.Scope.complete(field+".Scope", rules.Global); err != nil {
		return c, err
	}
	if err := rules.Keys(field+".MaxKeys", &c.MaxKeys); err != nil {
		return c, err
	}
	switch {
	case c.Limiter == nil && len(c.Rates) == 0:
		err = errors.New(field + ".Rates is empty: must have at least one rate, or Limiter")
	case c.Limiter != nil && len(c.Rates) > 0:
		err = errors.New(field + ".Rates and Limiter are both set: must be one of them")
	case c.Limiter != nil && !rules.Scope(c.Scope).OneKey():
		err = fmt.Errorf("%s.Scope is %v with Limiter: must be Global, ForTool or ForType", field, c.Scope)
	default:
		c.Rates, _, err = rules.CompleteRates(field+".Rates", c.Rates)
	}
	return c, err
}

// NewRateLimiter returns a limiter with full buckets.
func NewRateLimiter(c RateLimiterConfig) (*RateLimiter, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	l := &RateLimiter{core: gateCore{name: c.Name, stage: new(stage.Ref)}, conf: c}
	quota := c.quota()
	for i, r := range c.Rates {
		b, _ := rules.Rate(r).Bucket() // complete has made it before
		l.core.limits = append(l.core.limits, survey.Limit{Class: quota.Class(rules.Rate(r), &b), Scope: quota.Scope})
		l.at = append(l.at, i)
	}
	if c.Limiter != nil {
		l.core.foreign = &foreignLimiter{limiter: c.Limiter}
		l.core.limits = append(l.core.limits, survey.Limit{Class: quota.Shared(l.core.foreign), Scope: quota.Scope})
	}
	return l, nil
}

// quota is what the rates of c have in common.
func (c *RateLimiterConfig) quota() rules.Quota {
	return rules.Quota{
		Name: c.Name, Scope: rules.Scope(c.Scope), Refuse: c.Refuse, Upstream: c.Upstream, MaxKeys: c.MaxKeys,
	}
}

// foreignLimiter asks a *rate.Limiter of the caller's own. Its methods do not block and run
// no code but that package's, so they may run under the stage's lock.
type foreignLimiter struct{ limiter *rate.Limiter }

// Wait is how many nanoseconds pass until a token may be there; it takes none.
func (f *foreignLimiter) Wait() int64 {
	per := f.limiter.Limit()
	switch missing := 1 - f.limiter.Tokens(); {
	case per == rate.Inf || missing <= 0:
		return 0
	case f.limiter.Burst() < 1 || per <= 0:
		return admit.Never
	default:
		if ns := math.Ceil(missing / float64(per) * 1e9); ns < float64(bucket.MaxSpan) {
			return max(1, int64(ns))
		}
		return admit.Never
	}
}

// Take takes a token. One that other code has just taken leaves it in debt.
func (f *foreignLimiter) Take() { f.limiter.Reserve() }

// Give gives back a token that was taken so many nanoseconds ago, if time has not brought
// back any of it meanwhile; the limiter cannot tell how much that would be worth. (Its Cancel
// gives nothing back once the instant of the reservation is over, which is at once.)
func (f *foreignLimiter) Give(since int64) {
	if per := f.limiter.Limit(); per != rate.Inf && float64(since)*float64(per) < 1e7 { // a hundredth of a token
		f.limiter.ReserveN(time.Now(), -1)
	}
}

// Wrap makes l an [Interceptor].
func (l *RateLimiter) Wrap(tool Spec, next Handler) Handler { return outside(l) }

// String is the name.
func (l *RateLimiter) String() string { return nameOf(l) }

// Config returns a copy, defaults filled in: Burst too, where it was N.
func (l *RateLimiter) Config() RateLimiterConfig {
	l.core.mu.Lock()
	defer l.core.mu.Unlock()
	c := l.conf
	c.Rates = slices.Clone(c.Rates)
	return c
}

// Change changes N, Per, Burst, Refuse, MaxKeys and the order of Rates, by [Reconfigure]. A rate goes
// on as that of its Unit and Per, else of its Unit, with debt and tokens, up to the new Burst.
func (l *RateLimiter) Change(c RateLimiterConfig) Change {
	return Change{&configChange[RateLimiterConfig]{l, &l.core, &l.conf, c, l.fits, l.turn}}
}

// Pause holds all waiters of key for d: an upstream said so. A longer pause stays; zero ends it.
// Then a bucket that refills within the pause, or a minute, has one token at most, a slower one
// what it had; calls start in a ramp, for ten seconds: one, one more for each success, at least
// twice as many each second. It fails for a key that the scope cannot have: Global, ForTool and
// ForType have "", ByTool a registered tool, ByType the Type of one (any, before there is an
// executor), ByTenant and ByKey a call's, unless MaxKeys are busy.
func (l *RateLimiter) Pause(key string, d time.Duration) error {
	return withCells(l, key, d > 0, func(s *stage.Stage, cells []*admit.Cell) {
		s.AtOnce(func(int64) { // all of them, before anybody starts
			for _, c := range cells {
				s.Pause(c, d)
			}
		})
	})
}

// Lift ends a pause of key without a ramp, and its debt: buckets are empty, not below, and running
// calls pay only for more than they reported. It fails as Pause.
func (l *RateLimiter) Lift(key string) error { return withCells(l, key, false, lift) }

// lift ends the pauses and debts of cells together.
func lift(s *stage.Stage, cells []*admit.Cell) {
	s.AtOnce(func(now int64) {
		for _, c := range cells {
			s.M.Lift(now, c)
		}
	})
}

// ReportUsage reports what the running call really used of a unit: the difference to the estimate
// is given back or taken, into debt if need be. Another report replaces it; negative is zero.
// Outside a running call it and ReportThrottle do nothing.
func ReportUsage(ctx context.Context, unit string, used int64) {
	r := callOf(ctx)
	if r == nil {
		return
	}
	r.Settle(unit, max(used, 0))
}

// fits says why l cannot become to, if it cannot.
func (l *RateLimiter) fits(was RateLimiterConfig, to *RateLimiterConfig) error {
	if err := check.SameLength("sluice: RateLimiterConfig.Rates", len(to.Rates), len(was.Rates)); err != nil {
		return err
	}
	fixed := ""
	switch {
	case to.Name != was.Name:
		fixed = "Name"
	case !to.Scope.same(was.Scope):
		fixed = "Scope"
	case to.Upstream != was.Upstream:
		fixed = "Upstream"
	case to.Limiter != was.Limiter:
		fixed = "Limiter"
	}
	if fixed != "" {
		return fmt.Errorf("sluice: RateLimiterConfig.%s changes: it cannot change", fixed)
	}
	for i, j := range rules.Match(was.Rates, to.Rates) {
		if j < 0 {
			return fmt.Errorf("sluice: RateLimiterConfig.Rates[%d].Unit is %q: cannot change from %q",
				i, to.Rates[i].Unit, was.Rates[i].Unit)
		}
	}
	to.Scope = was.Scope // with the function that there is
	return nil
}

// turn has the machine follow a change.
func (l *RateLimiter) turn(lk *locked, s *stage.Stage, now int64, was, to RateLimiterConfig) {
	quota, from := to.quota(), rules.Match(was.Rates, to.Rates)
	at := make([]int, len(from))
	for i, r := range to.Rates {
		at[i] = l.at[from[i]]
		k := l.core.limits[at[i]].Class
		s.M.SetRefuse(k, to.Refuse)
		s.M.SetMaxKeys(now, k, quota.Scope.TableSize(to.MaxKeys))
		if o := was.Rates[from[i]]; r != o {
			b, _ := rules.Rate(r).Bucket() // complete has made it before
			s.M.SetRate(now, k, &b)
			name := k.Name
			k.Name = quota.RateName(rules.Rate(r))
			lk.changed(s, name, rules.Rate(o).String(), rules.Rate(r).String())
		}
	}
	l.at = at
}

// ThrottlePart is a part that an upstream limits apart: a host, a resource, a model.
type ThrottlePart struct {
	Kind string // ByKey's name; ignored if empty
	Key  string // ignored if empty, or over 1,024 bytes
}

// ReportThrottle reports that an upstream asked the running call for a pause, as does an error with
// methods RetryAfter() time.Duration and, for one part, ThrottledPart() (kind, key string). All
// waiters of what pauses are held, later ones too; calls around this one are not concerned. Only a
// positive retryAfter counts.
//
// Without parts the keys of the call's Upstream rate limiters pause, for 24 hours at most. Parts
// go from wide to narrow: the last that an Upstream rate limiter of the tool counts, [ByKey] with
// the name Kind, has its Key paused, whatever the call's, and nothing else. What is wider pauses for
// a minute at most: an earlier part or, if none is counted, the call's keys. So does the tool of a
// call without an Upstream rate limiter.
func ReportThrottle(ctx context.Context, retryAfter time.Duration, parts ...ThrottlePart) {
	if retryAfter <= 0 {
		return
	}
	r := callOf(ctx)
	if r == nil {
		return
	}
	list := []stage.Throttle{{After: retryAfter, Aim: r.admission().aim(parts)}}
	r.Throttle(list, func() {
		r.MeetThrottle()
		r.throttled(retryAfter)
	})
}

// throttles is what those that an attempt of a's has met itself ask for.
func (a *admission) throttles(met []blame.Throttle) (list []stage.Throttle) {
	for _, t := range met {
		list = append(list, stage.Throttle{After: t.After, Aim: a.aim([]ThrottlePart{ThrottlePart(t.Part)})})
	}
	return list
}

// aim finds what the narrowest of parts is that a's limits tell apart.
func (a *admission) aim(parts []ThrottlePart) stage.Aim {
	return stage.Narrowest(parts, func(kind string) (list []*admit.Class) {
		for _, l := range a.needs.Parts {
			if l.Class.Upstream && l.Key >= 0 && a.keys[l.Key].Kind() == rules.ByKey && a.keys[l.Key].Name() == kind {
				list = append(list, l.Class)
			}
		}
		return list
	})
}

// blames says what err, with which the attempt r ended, tells of throttles. Without an attempt it
// is what the call around has to know.
func (r *running) blames(err error) blame.Found {
	if r == nil {
		return blame.Of(err, nil, 0, isRefusal)
	}
	var l *blame.Ledger
	if x := r.inv.first.aside.Load(); x != nil {
		l = &x.nested
	}
	return blame.Of(err, l, r.Attempt, isRefusal)
}

// passOn tells the attempt that inv is nested in, if any, which errors say that somebody
// else has been charged with a throttle already.
func (inv *invocation) passOn(carried []blame.Charge) {
	if r := inv.parent.Load(); r != nil {
		for _, c := range carried {
			r.inv.first.remembers().nested.Charge(r.Attempt, c)
		}
	}
}

// throttled notes that an upstream asked the attempt to wait for d, or to slow down.
func (r *running) throttled(d time.Duration) {
	until := r.inv.plan.exec.clock.Now() + int64(min(d, stage.MaxPause)) + 1
	again := &r.inv.first.remembers().again
	for was := again.Load(); was < until && !again.CompareAndSwap(was, until); was = again.Load() {
	}
}
