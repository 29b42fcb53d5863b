package sluice

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/bucket"
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
}

// RateLimiterConfig configures a [RateLimiter].
type RateLimiterConfig struct {
	Name     string // for errors, events and snapshots; empty means "rate"
	Scope    Scope  // what is counted together; zero means Global
	Rates    []Rate // taken all or nothing; required unless Limiter is set
	Refuse   bool   // refuse with ErrRateLimited instead of waiting
	Upstream bool   // mirrors an upstream's quota: a throttle that a tool reports, or package upstream reads, pauses its key; see ReportThrottle
	MaxKeys  int    // of a ByTenant or ByKey scope, idle ones make room; zero means 10,000

	// Limiter is a bucket shared with other code, instead of Rates. It is asked last, when
	// all else agrees, and as well as its non-blocking methods allow: the order among
	// waiting calls is kept, exactness is its own, and other code that reserves tokens ahead
	// with its Wait goes first. Global, ForTool and ForType scopes only.
	Limiter *rate.Limiter
	_       struct{}
}

// Rate is a token bucket: N units per Per, exactly. Rate{N: 90_000, Per: time.Minute,
// Unit: "tokens"} refills one token each 666,666.6… ns and never drifts.
type Rate struct {
	N     int64         // units per Per; required
	Per   time.Duration // zero means one second
	Burst int64         // most units at once; zero means N
	Unit  string        // empty means calls; else Policy.Cost estimates and ReportUsage corrects
}

func (c RateLimiterConfig) validate() (RateLimiterConfig, []bucket.Rate, error) {
	fail := func(format string, a ...any) (RateLimiterConfig, []bucket.Rate, error) {
		return c, nil, fmt.Errorf("sluice: RateLimiterConfig."+format, a...)
	}
	if err := checkName("RateLimiterConfig.Name", c.Name); err != nil {
		return c, nil, err
	}
	if c.Name == "" {
		c.Name = "rate"
	}
	if err := c.Scope.check("RateLimiterConfig.Scope"); err != nil {
		return c, nil, err
	}
	c.Scope = c.Scope.or(Global)
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
	case c.Limiter != nil && c.Scope.kind != scopeGlobal && c.Scope.kind != scopeForTool && c.Scope.kind != scopeForType:
		return fail("Scope is %v with Limiter: must be Global, ForTool or ForType", c.Scope)
	}
	c.Rates, err = checkRates("RateLimiterConfig.Rates", c.Rates)
	if err != nil {
		return c, nil, err
	}
	buckets := make([]bucket.Rate, len(c.Rates))
	for i, r := range c.Rates {
		if buckets[i], err = bucket.NewRate(r.N, int64(r.Per), r.Burst); err != nil {
			return fail("Rates[%d].%w", i, err)
		}
	}
	return c, buckets, nil
}

// checkRates fills in the defaults of rates.
func checkRates(field string, rates []Rate) ([]Rate, error) {
	rates = slices.Clone(rates)
	for i := range rates {
		r := &rates[i]
		switch {
		case r.N < 1:
			return nil, fmt.Errorf("sluice: %s[%d].N is %d: must be at least 1", field, i, r.N)
		case r.Per < 0:
			return nil, fmt.Errorf("sluice: %s[%d].Per is %v: must be zero (one second) or positive", field, i, r.Per)
		case r.Burst < 0:
			return nil, fmt.Errorf("sluice: %s[%d].Burst is %d: must be zero (N) or positive", field, i, r.Burst)
		}
		if r.Per == 0 {
			r.Per = time.Second
		}
		if r.Burst == 0 {
			r.Burst = r.N
		}
		if err := checkName(fmt.Sprintf("%s[%d].Unit", field, i), r.Unit); err != nil {
			return nil, err
		}
		for j, o := range rates[:i] {
			if o.Per == r.Per && o.Unit == r.Unit {
				return nil, fmt.Errorf("sluice: %s[%d] has the Per and Unit of [%d]: must differ in one", field, i, j)
			}
		}
	}
	return rates, nil
}

// rateName says what a rate counts, as providers write it: "tokens per minute".
func rateName(prefix string, r Rate) string {
	unit := r.Unit
	if unit == "" {
		unit = "calls"
	}
	per := ""
	switch r.Per {
	case time.Second:
		per = "second"
	case time.Minute:
		per = "minute"
	case time.Hour:
		per = "hour"
	case 24 * time.Hour:
		per = "day"
	default:
		per = strings.TrimSuffix(r.Per.String(), "0s")
	}
	return prefix + " " + unit + " per " + per
}

// NewRateLimiter returns a limiter whose buckets are full, or an error that names the
// field of c that is out of range.
func NewRateLimiter(c RateLimiterConfig) (*RateLimiter, error) {
	c, buckets, err := c.validate()
	if err != nil {
		return nil, err
	}
	l := &RateLimiter{conf: c}
	l.core.name = c.Name
	prefix := label("rate", c.Name)
	for i, r := range c.Rates {
		l.core.limits = append(l.core.limits, gateLimit{&admit.Class{
			Name:     rateName(prefix, r),
			Kind:     admit.Tokens,
			Rank:     c.Scope.rank(),
			Unit:     r.Unit,
			Refuse:   c.Refuse,
			Upstream: c.Upstream,
			MaxKeys:  tableSize(c.Scope, c.MaxKeys),
			Rate:     &buckets[i],
		}, c.Scope})
	}
	if c.Limiter != nil {
		l.core.foreign = &foreignLimiter{limiter: c.Limiter}
		l.core.limits = append(l.core.limits, gateLimit{&admit.Class{
			Name:     prefix + " shared limiter",
			Kind:     admit.Foreign,
			Rank:     c.Scope.rank(),
			Refuse:   c.Refuse,
			Upstream: c.Upstream,
			Foreign:  l.core.foreign,
		}, c.Scope})
	}
	return l, nil
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

// Wrap makes l an [Interceptor]. An [Executor] fuses the gates it lists and does not call
// it; called by hand it guards next with l alone.
func (l *RateLimiter) Wrap(tool Spec, next Handler) Handler { return wrapAlone(&l.core, tool, next) }

func (l *RateLimiter) gate() *gateCore { return &l.core }

// String is the name that Plan shows.
func (l *RateLimiter) String() string { return l.core.name }

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
// Refuse and MaxKeys can change; names, scopes, units and the number of rates cannot. The
// tokens there are stay, clipped to the new burst; none is created.
func (l *RateLimiter) Change(c RateLimiterConfig) Change { return Change{&rateChange{l: l, to: c}} }

// Pause holds every waiter of key for d: an upstream said so. The key is the one that the
// limiter's scope makes, "" for Global, ForTool and ForType. A pause that is longer
// already stays; zero d lifts it. The key re-opens empty, at its rate.
func (l *RateLimiter) Pause(key string, d time.Duration) {
	s := l.core.stage.lock()
	s.m.Freeze() // all of them, before anybody starts
	for _, c := range l.core.cells(s, key, d > 0) {
		s.pause(c, d)
	}
	s.m.Thaw(s.now())
	s.unlock()
}

type rateChange struct {
	l       *RateLimiter
	to      RateLimiterConfig
	buckets []bucket.Rate
}

func (x *rateChange) target() any       { return x.l }
func (x *rateChange) refs() []*stageRef { return []*stageRef{&x.l.core.stage} }

func (x *rateChange) check() (err error) {
	if x.to, x.buckets, err = x.to.validate(); err != nil {
		return err
	}
	was := x.l.Config()
	if err := sameShape("RateLimiterConfig.Rates", len(x.to.Rates), len(was.Rates)); err != nil {
		return err
	}
	fixed := ""
	switch {
	case x.to.Name != was.Name:
		fixed = "Name"
	case x.to.Scope != was.Scope:
		fixed = "Scope"
	case x.to.Upstream != was.Upstream:
		fixed = "Upstream"
	case x.to.Limiter != was.Limiter:
		fixed = "Limiter"
	}
	if fixed != "" {
		return fmt.Errorf("sluice: RateLimiterConfig.%s changes: it cannot change", fixed)
	}
	for i, r := range x.to.Rates {
		if r.Unit != was.Rates[i].Unit {
			return fmt.Errorf("sluice: RateLimiterConfig.Rates[%d].Unit is %q: cannot change from %q", i, r.Unit, was.Rates[i].Unit)
		}
	}
	return nil
}

func (x *rateChange) apply(lk *locked) {
	s, now := lk.stage(&x.l.core.stage)
	x.l.core.mu.Lock()
	was := x.l.conf
	x.l.conf = x.to
	x.l.core.mu.Unlock()
	for i, r := range x.to.Rates {
		k := x.l.core.limits[i].class
		k.Refuse, k.MaxKeys = x.to.Refuse, tableSize(x.to.Scope, x.to.MaxKeys)
		if o := was.Rates[i]; r != o {
			from := k.Name
			k.Name = rateName(label("rate", x.to.Name), r)
			s.m.SetRate(now, k, &x.buckets[i])
			lk.changed(s, from, o.String(), r.String())
		}
	}
}

// String is the rate as it stands in events: "90000 tokens per minute, burst 90000".
func (r Rate) String() string {
	return fmt.Sprintf("%d%s, burst %d", r.N, rateName("", r), r.Burst)
}
