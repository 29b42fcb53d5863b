package sluice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/change"
	"github.com/sluice-go/sluice/internal/highest"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrRateLimited is the reason of a call refused by a [RateLimiter] with Refuse.
var ErrRateLimited = errors.New("rate limited")

// RateLimiter bounds starts over time: in every window w at most Burst + N*w/Per units are charged. That is exact
// (generic cell rate algorithm, ITU-T I.371). It is a gate, see [ConcurrencyLimiter]: a call pays when it starts, not
// if it waits, is cancelled or refused. Calls that wait for a bucket are paid in order.
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

	// Limiter is a bucket shared with other code, as exact as itself; Global, ForTool or ForType. It is asked last,
	// its own Wait goes first. Tokens of calls whose code did not run are given back at once, or never.
	Limiter *rate.Limiter

	// Fleet has the buckets shared with other processes: those whose Fleets have its Name and engine, and
	// limiters this Name, Unit and Per. Pause, Lift and throttles are everybody's then. Of each of
	// Rates this process keeps up to Stock units at hand, and calls of less than PriorityInteractive
	// leave Reserve units at the engine to others. See docs/fleet.md.
	Fleet   *Fleet
	Stock   int64 // zero means a twentieth of Burst, at least 1
	Reserve int64
	_       struct{}
}

// Rate allows N units in each Per, and Burst of them at once: a token bucket, without drift. Starts are at whole
// nanoseconds, never early; with a Burst of 1 each is rounded up.
type Rate struct {
	N     int64         // units per Per; required
	Per   time.Duration // zero means one second
	Burst int64         // most at once; zero means N
	Unit  string        // empty counts calls; else Policy.Cost says
}

// complete fills in the defaults.
func (c RateLimiterConfig) complete() (_ RateLimiterConfig, err error) {
	q := c.quota()
	c.Rates, err = rules.CompleteQuota("sluice: RateLimiterConfig", &q, c.Rates)
	c.Name, c.Scope, c.MaxKeys = q.Name, Scope(q.Scope), q.MaxKeys
	return c, err
}

// NewRateLimiter returns a limiter with full buckets.
func NewRateLimiter(c RateLimiterConfig) (*RateLimiter, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	l := &RateLimiter{core: gateCore{name: c.Name, stage: new(stage.Ref), limits: rules.QuotaLimits(c.quota(), c.Rates), fleet: c.Fleet}, conf: c}
	for i := range c.Rates {
		l.at = append(l.at, i)
	}
	if f := c.Fleet; f != nil {
		if err := f.core.Add(l.core.stage, l.core.limits, c.Name, c.Stock, c.Reserve); err != nil {
			return nil, fmt.Errorf("sluice: RateLimiterConfig%w", err)
		}
	}
	return l, nil
}

// quota is what the rates of c have in common, or its Limiter.
func (c *RateLimiterConfig) quota() rules.Quota {
	q := rules.Quota{
		Name: c.Name, Scope: rules.Scope(c.Scope), Refuse: c.Refuse, Upstream: c.Upstream, MaxKeys: c.MaxKeys,
		Stock: c.Stock, Reserve: c.Reserve,
	}
	if c.Fleet != nil {
		q.Fleet = c.Fleet
	}
	if c.Limiter != nil {
		q.Foreign = rules.Foreign[rate.Limit, *rate.Reservation]{Of: c.Limiter} // which can be compared
	}
	return q
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
	return configChange(l, &l.core, &l.conf, c, l.fits, l.turn)
}

// Pause holds all waiters of key for d: an upstream said so. A longer pause stays; zero ends it. Then a bucket that
// refills within the pause, or a minute, has one token at most, a slower one what it had; calls start in a ramp, for
// ten seconds: one, one more for each success, at least twice as many each second. It fails for a key that the scope
// cannot have: Global, ForTool and ForType have "", ByTool a registered tool, ByType the Type of one (any, before
// there is an executor), ByTenant and ByKey a call's, unless MaxKeys are busy.
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
func (l *RateLimiter) Lift(key string) error { return withCells(l, key, false, (*stage.Stage).Lift) }

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
	err := was.change(to).Fits("sluice: RateLimiterConfig")
	to.Scope = was.Scope // with the function that there is
	return err
}

// turn has the machine follow a change.
func (l *RateLimiter) turn(lk *change.Locked, s *stage.Stage, now int64, was, to RateLimiterConfig) {
	l.at = was.change(&to).Apply(s.M, now, l.core.limits, l.at, func(name, from, to string) { lk.Changed(s, name, from, to) })
}

// change is that of c to another.
func (c *RateLimiterConfig) change(to *RateLimiterConfig) *rules.QuotaChange[Rate] {
	return &rules.QuotaChange[Rate]{Was: c.quota(), To: to.quota(), Old: c.Rates, Rates: to.Rates}
}

// ThrottlePart is a part that an upstream limits apart: a host, a resource, a model.
type ThrottlePart struct {
	Kind string // ByKey's name; ignored if empty
	Key  string // ignored if empty, or over 1,024 bytes
}

// ReportThrottle reports that an upstream asked the running call for a pause, as does an error with methods
// RetryAfter() time.Duration and, for one part, ThrottledPart() (kind, key string). All waiters of what pauses are
// held, later ones too; calls around this one are not concerned. Only a positive retryAfter counts.
//
// Without parts the keys of the call's Upstream rate limiters pause, for 24 hours at most. Parts go from wide to
// narrow: the last that an Upstream rate limiter of the tool counts, [ByKey] with the name Kind, has its Key paused,
// whatever the call's, and nothing else. What is wider pauses for a minute at most: an earlier part or, if none is
// counted, the call's keys. So does the tool of a call without an Upstream rate limiter.
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
func (a *admission) aim(parts []ThrottlePart) stage.Aim { return stage.AimOf(&a.needs, a.keys, parts) }

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
	highest.Raise(&r.inv.first.remembers().again, until)
}
