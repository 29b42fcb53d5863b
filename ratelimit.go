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
)

// ErrRateLimited is the reason of a call refused by a [RateLimiter] that refuses instead
// of waiting.
var ErrRateLimited = errors.New("rate limited")

// RateLimiter bounds starts over time, with token buckets in exact integer arithmetic
// (the generic cell rate algorithm, ITU-T I.371): in every window of length w at most
// Burst + N*w/Per units are charged. It is an [Interceptor]; listed beside the other
// gates it decides jointly with them, so that a token is paid at the instant at which the
// call starts, and never by a call that waits, is cancelled or is refused.
//
// Make one with [NewRateLimiter]; the zero value is not usable. It is safe for concurrent
// use and may be shared by executors. Calls that wait for one bucket are paid in the
// queue's order.
type RateLimiter struct {
	core gateCore
	conf RateLimiterConfig
	at   []int // where in core.limits each of conf.Rates is; only Reconfigure asks, once at a time
}

// RateLimiterConfig configures a [RateLimiter].
type RateLimiterConfig struct {
	Name     string // for errors, events and snapshots; empty means "rate"
	Scope    Scope  // what is counted together; zero means Global
	Rates    []Rate // taken all or nothing; required unless Limiter is set
	Refuse   bool   // refuse with ErrRateLimited instead of waiting
	Upstream bool   // mirrors an upstream's quota: throttles that are reported pause its key; see ReportThrottle
	MaxKeys  int    // of a ByTenant or ByKey scope, idle ones make room; zero means 10,000

	// Limiter is a bucket shared with other code, instead of Rates. It is asked last, when
	// all else agrees, and as well as its non-blocking methods allow: the order among
	// waiting calls is kept, exactness is its own, and other code that reserves tokens ahead
	// with its Wait goes first. The token of a call whose code did not run is given back if that
	// is known at once; later nothing is. Global, ForTool and ForType scopes only.
	Limiter *rate.Limiter
	_       struct{}
}

// Rate is a token bucket: N units per Per, exactly. Rate{N: 90_000, Per: time.Minute,
// Unit: "tokens"} refills one token each 666,666.6… ns and does not drift. Calls start at whole
// nanoseconds, never early: with a Burst of 1 nothing can be saved, so each start is rounded up
// and at 3 per second they are 333,333,334 ns apart.
type Rate struct {
	N     int64         // units per Per; required
	Per   time.Duration // zero means one second
	Burst int64         // most units at once; zero means N
	Unit  string        // empty means calls; else Policy.Cost estimates and ReportUsage corrects
}

// String is the rate as it stands in events: "90000 tokens per minute, burst 90000".
func (r Rate) String() string { return rules.Rate(r).String() }

func (r Rate) bucket() (bucket.Rate, error) { return bucket.NewRate(r.N, int64(r.Per), r.Burst) }

func (c RateLimiterConfig) validate() (RateLimiterConfig, []bucket.Rate, error) {
	fail := func(format string, a ...any) (RateLimiterConfig, []bucket.Rate, error) {
		return c, nil, fmt.Errorf("sluice: RateLimiterConfig."+format, a...)
	}
	if err := check.Name("sluice: RateLimiterConfig.Name", c.Name); err != nil {
		return c, nil, err
	}
	if c.Name == "" {
		c.Name = "rate"
	}
	if err := c.Scope.check("RateLimiterConfig.Scope"); err != nil {
		return c, nil, err
	}
	c.Scope = c.Scope.or(rules.Global)
	n, err := maxKeys("RateLimiterConfig.MaxKeys", c.MaxKeys)
	if err != nil {
		return c, nil, err
	}
	c.MaxKeys = n
	switch {
	case c.Limiter == nil && len(c.Rates) == 0:
		return fail("Rates is empty: must have at least one rate, or Limiter")
	case c.Limiter != nil && len(c.Rates) > 0:
		return fail("Rates and Limiter are both set: must be one of them")
	case c.Limiter != nil && !oneKey(c.Scope):
		return fail("Scope is %v with Limiter: must be Global, ForTool or ForType", c.Scope)
	}
	var buckets []bucket.Rate
	c.Rates, buckets, err = checkRates("RateLimiterConfig.Rates", c.Rates)
	return c, buckets, err
}

// oneKey reports whether all calls that count by s count together.
func oneKey(s Scope) bool {
	switch rules.Scope(s).Kind() {
	case rules.Global, rules.ForTool, rules.ForType:
		return true
	}
	return false
}

// checkRates fills in the defaults of rates.
func checkRates(field string, rates []Rate) (_ []Rate, buckets []bucket.Rate, err error) {
	rates, buckets = slices.Clone(rates), make([]bucket.Rate, len(rates))
	for i := range rates {
		r := &rates[i]
		switch {
		case r.N < 1:
			return nil, nil, fmt.Errorf("sluice: %s[%d].N is %d: must be at least 1", field, i, r.N)
		case r.Per < 0:
			return nil, nil, fmt.Errorf("sluice: %s[%d].Per is %v: must be zero (one second) or positive", field, i, r.Per)
		case r.Burst < 0:
			return nil, nil, fmt.Errorf("sluice: %s[%d].Burst is %d: must be zero (N) or positive", field, i, r.Burst)
		}
		if err := check.Unit(fmt.Sprintf("sluice: %s[%d].Per", field, i), r.Per); err != nil {
			return nil, nil, err
		}
		if r.Per == 0 {
			r.Per = time.Second
		}
		if r.Burst == 0 {
			r.Burst = r.N
		}
		if err := check.Name(fmt.Sprintf("sluice: %s[%d].Unit", field, i), r.Unit); err != nil {
			return nil, nil, err
		}
		for j, o := range rates[:i] {
			if o.Per == r.Per && o.Unit == r.Unit {
				return nil, nil, fmt.Errorf("sluice: %s[%d] has the Per and Unit of [%d]: must differ in one", field, i, j)
			}
		}
		if buckets[i], err = r.bucket(); err != nil {
			return nil, nil, fmt.Errorf("sluice: %s[%d].%w", field, i, err)
		}
	}
	return rates, buckets, nil
}

// NewRateLimiter returns a limiter whose buckets are full, or an error that names the
// field of c that is out of range.
func NewRateLimiter(c RateLimiterConfig) (*RateLimiter, error) {
	c, buckets, err := c.validate()
	if err != nil {
		return nil, err
	}
	l := &RateLimiter{conf: c}
	l.core.name, l.core.stage = c.Name, new(stage.Ref)
	quota := c.quota()
	for i, r := range c.Rates {
		l.core.limits = append(l.core.limits, gateLimit{quota.Class(rules.Rate(r), &buckets[i]), quota.Scope})
		l.at = append(l.at, i)
	}
	if c.Limiter != nil {
		l.core.foreign = &foreignLimiter{limiter: c.Limiter}
		l.core.limits = append(l.core.limits, gateLimit{quota.Shared(l.core.foreign), quota.Scope})
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

// Wrap makes l an [Interceptor]. An [Executor] fuses the gates it lists and does not call
// it; the Handler of one that is called by hand refuses every call, and says so.
func (l *RateLimiter) Wrap(tool Spec, next Handler) Handler {
	return outside("RateLimiter", l.String())
}

// String is the name that Plan shows; "nil" of a nil pointer.
func (l *RateLimiter) String() string {
	if l == nil {
		return "nil"
	}
	return l.core.name
}

// Config returns a copy of the current configuration, defaults filled in: who changes N in
// it keeps the Burst that N was the default of.
func (l *RateLimiter) Config() RateLimiterConfig {
	l.core.mu.Lock()
	defer l.core.mu.Unlock()
	c := l.conf
	c.Rates = slices.Clone(c.Rates)
	return c
}

// Change is the change to c, applied by [Reconfigure]; alone it does nothing. N, Per, Burst,
// Refuse and MaxKeys can change, and the order of the rates; names, scopes, units and the number
// of rates cannot. A rate goes on as the one of its Unit and Per, or else as one of its Unit:
// the tokens there are stay, clipped to the new burst, and so does debt; none is created.
func (l *RateLimiter) Change(c RateLimiterConfig) Change {
	return Change{&configChange[RateLimiterConfig]{l, &l.core, &l.conf, c, l.fits, l.turn}}
}

// Pause holds every waiter of key for d: an upstream said so. A pause that is longer already
// stays; zero d ends it. A bucket that refills within the pause, or within a minute, re-opens
// with one token at most, a slower one with what it had; and calls start in a ramp: one, then
// one more for each success, and at least twice as many each second. It fails, and pauses nothing,
// for a key that the limiter's scope cannot have: it is "" for Global, ForTool and ForType, the
// name of a registered tool for ByTool, the Type of one for ByType, and what the scope makes of
// a call for ByTenant and ByKey, as long as MaxKeys of them are not busy. Before the limiter
// belongs to an executor any tool's name and type is taken. It does not block.
func (l *RateLimiter) Pause(key string, d time.Duration) error {
	if l == nil {
		return errNilGate("RateLimiter")
	}
	s, cells, err := l.core.at("RateLimiter", key, d > 0)
	if err != nil {
		return err
	}
	s.AtOnce(func(int64) { // all of them, before anybody starts
		for _, c := range cells {
			s.Pause(c, d)
		}
	})
	s.Unlock()
	return nil
}

// Lift ends a pause of key, without a ramp, and forgives its debt: its buckets are empty then,
// not below. Calls that run and report later what they used are charged only what is more
// than they had reported. It fails as Pause does. It does not block.
func (l *RateLimiter) Lift(key string) error {
	if l == nil {
		return errNilGate("RateLimiter")
	}
	s, cells, err := l.core.at("RateLimiter", key, false)
	if err != nil {
		return err
	}
	lift(s, cells)
	s.Unlock()
	return nil
}

// lift ends the pauses and debts of cells together.
func lift(s *stage.Stage, cells []*admit.Cell) {
	s.AtOnce(func(now int64) {
		for _, c := range cells {
			s.M.Lift(now, c)
		}
	})
}

// ReportUsage reports what the running call really used of a unit: the difference to the
// estimate is given back to its rates, or taken from them, into debt if need be. Calling
// it again replaces what it said before. Outside a call, and after it has ended, it does
// nothing; negative counts as zero. It does not block.
func ReportUsage(ctx context.Context, unit string, used int64) {
	r := scopeOf(ctx).call
	if r == nil {
		return
	}
	r.Settle(unit, max(used, 0))
}

// match finds for each of rates the one of old that it goes on as: that of its Unit and Per,
// else one of its Unit, else none (-1).
func match(old, rates []Rate) []int {
	from, taken := make([]int, len(rates)), make([]bool, len(old))
	for i := range from {
		from[i] = -1
	}
	for _, exactly := range []bool{true, false} {
		for i, r := range rates {
			for j, o := range old {
				if from[i] < 0 && !taken[j] && r.Unit == o.Unit && (r.Per == o.Per || !exactly) {
					from[i], taken[j] = j, true
				}
			}
		}
	}
	return from
}

// fits completes to, unless l cannot become that.
func (l *RateLimiter) fits(was, to RateLimiterConfig) (RateLimiterConfig, error) {
	to, _, err := to.validate()
	if err != nil {
		return to, err
	}
	if err := sameShape("RateLimiterConfig.Rates", len(to.Rates), len(was.Rates)); err != nil {
		return to, err
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
		return to, fmt.Errorf("sluice: RateLimiterConfig.%s changes: it cannot change", fixed)
	}
	for i, j := range match(was.Rates, to.Rates) {
		if j < 0 {
			return to, fmt.Errorf("sluice: RateLimiterConfig.Rates[%d].Unit is %q: cannot change from %q",
				i, to.Rates[i].Unit, was.Rates[i].Unit)
		}
	}
	to.Scope = was.Scope // with the function that there is
	return to, nil
}

// turn has the machine follow a change.
func (l *RateLimiter) turn(lk *locked, s *stage.Stage, now int64, was, to RateLimiterConfig) {
	quota, from := to.quota(), match(was.Rates, to.Rates)
	at := make([]int, len(from))
	for i, r := range to.Rates {
		at[i] = l.at[from[i]]
		k := l.core.limits[at[i]].class
		k.Refuse = to.Refuse
		s.M.SetMaxKeys(now, k, quota.Scope.TableSize(to.MaxKeys))
		if o := was.Rates[from[i]]; r != o {
			b, _ := r.bucket() // fits has made it before
			s.M.SetRate(now, k, &b)
			name := k.Name
			k.Name = quota.RateName(rules.Rate(r))
			lk.changed(s, name, o.String(), r.String())
		}
	}
	l.at = at
}

// ThrottlePart names what a throttle is about, where an upstream limits its parts apart: a
// host, a resource, a policy, a model. A [RateLimiter] with Upstream set that counts
// [ByKey] with the name Kind has one key for each of them.
type ThrottlePart struct {
	Kind string // as in "host": the name given to ByKey; a part without one is ignored
	Key  string // which of them; a part without one, or with more than 1,024 bytes, is ignored
}

// ReportThrottle reports that an upstream asked the running call for a pause, as an error
// with a RetryAfter() time.Duration method does. Every waiter of what pauses is held, those
// who come meanwhile too. The calls that ctx's call is nested in are not concerned: their
// own limits and tools go on. Outside a call, after it has ended, and for a duration that is
// not positive it does nothing. It does not block.
//
// Without parts the keys of the call's Upstream rate limiters pause, for 24 hours at most.
// Parts say that it is about less than that, from wide to narrow: the host, then one of its
// resources. The last of them that an Upstream rate limiter of the tool counts [ByKey] has
// its key paused there, whatever the key of the call is, and nothing else is; an error says
// the same of one part by a ThrottledPart() (kind, key string) method. What is wider than
// the last part pauses for a minute at most: the key of another part, or, where no limiter
// counts by any of them, the keys of the call. So does the tool of a call without an Upstream
// rate limiter, with parts or without.
func ReportThrottle(ctx context.Context, retryAfter time.Duration, parts ...ThrottlePart) {
	if retryAfter <= 0 {
		return
	}
	r := scopeOf(ctx).call
	if r == nil {
		return
	}
	if r.Throttle([]stage.Throttle{{After: retryAfter, Aim: r.inv.plan.adm.aim(parts)}}) {
		r.MeetThrottle()
		r.throttled(retryAfter)
	}
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
	bound := stage.MaxPause
	for _, p := range slices.Backward(parts) {
		if p.Kind == "" || p.Key == "" || len(p.Key) > rules.MaxKeyBytes {
			continue
		}
		x := stage.Aim{Key: p.Key, Bound: bound}
		for i := range a.parts {
			if l := &a.parts[i]; l.class.Upstream && l.key >= 0 && a.keys[l.key].Kind() == rules.ByKey && a.keys[l.key].Name() == p.Kind {
				x.Classes = append(x.Classes, l.class)
			}
		}
		if len(x.Classes) > 0 {
			return x
		}
		bound = stage.MaxWider
	}
	return stage.Aim{Bound: bound}
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
