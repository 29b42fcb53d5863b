package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/change"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/few"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrSaturated is the reason of a call refused by a [Limit] with Refuse, too narrow, or with all keys busy.
var ErrSaturated = errors.New("saturated")

// ConcurrencyLimiter bounds calls in flight: a call holds its slots until its code has really ended. It is a gate.
// Gates stand side by side in [Config].Interceptors, of several executors too, and are safe for concurrent use. A
// call starts at the instant at which all agree; until then it waits in the executor's queue.
type ConcurrencyLimiter struct {
	core gateCore
	conf ConcurrencyLimiterConfig
}

// ConcurrencyLimiterConfig configures a [ConcurrencyLimiter].
type ConcurrencyLimiterConfig struct {
	Name   string  // empty means "concurrency"
	Limits []Limit // at least one; all hold

	// Fleet has the limits shared with other processes: those whose Fleets have its Name and engine, and limiters this
	// Name, Limits and Lease. Slots are leased as calls need them. A call whose lease could not be renewed has its context
	// canceled, see [ErrLeaseLost] and [Fence]. Not with Adaptive, Ordered or Semaphore. See docs/fleet.md.
	Fleet *Fleet
	Lease time.Duration // of a slot; zero means 10 s
	_     struct{}
}

// Limit allows Max calls at once, or as much weight, for each key of its Scope.
type Limit struct {
	Max      int       // at once; required unless Adaptive
	Scope    Scope     // zero means Global
	Unit     string    // empty counts calls; else Policy.Cost weighs
	Refuse   bool      // instead of waiting
	Adaptive *Adaptive // nil means fixed
	MaxKeys  int       // ByTenant, ByKey, ByKeys, ByWeights; idle ones make room; zero means 10,000

	// Ordered has calls of one key start in the order they came. While one that needs it waits, here or
	// for another limit, no later one starts, whatever its priority, tenant and weight; the earlier one
	// keeps its own priority. Calls of other keys go on. If readers weigh 1 and writers Max, writers run
	// alone, and are not passed. Calls keep their weight: raise Max while no writer runs or waits.
	//
	// A nested call runs on what its ancestor holds of the key, out of turn and whatever its weight. At
	// another key it waits for its turn, and passes calls that wait for its ancestors once no holder of
	// it can run. An attempt that follows another comes anew. Not with Refuse or Semaphore.
	Ordered bool

	// Semaphore is shared with other code: what a call holds here it holds there too, Max its size or less. It is
	// asked last. While calls wait, one goroutine stands in its line, for whoever is first then. Calls that need two
	// may starve; those it can never admit wait until MaxWait. Global, ForTool and ForType scopes only.
	Semaphore *semaphore.Weighted
}

// Adaptive finds out how many calls a backend bears: by [OutcomeOverload] alone, not by waiting or slow tools. From Min it
// doubles with each round of successes until the first overload. Each overload cuts a tenth, at least one, once for
// all calls in flight together; ten rounds of successes that used all of it add one. So a fall from n to m takes n-m
// cuts at most, in about one call's time, a rise 10*(n-m) calls' time (AIMD, Chiu and Jain 1989).
type Adaptive struct {
	Min int // zero means 1
	Max int // required
}

// slots is l as it is for the machine.
func (l *Limit) slots() rules.Slots {
	s := rules.Slots{
		Scope: rules.Scope(l.Scope), Unit: l.Unit, Refuse: l.Refuse, Ordered: l.Ordered, Max: int64(l.Max), MaxKeys: l.MaxKeys,
	}
	if a := l.Adaptive; a != nil {
		s.Adaptive = &admit.Adaptive{Min: int64(a.Min), Max: int64(a.Max)}
	}
	if l.Semaphore != nil {
		s.Shared = sharedSemaphore{l.Semaphore}
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
	return c, rules.CompleteLeases(field, c.Fleet != nil, &c.Lease, all)
}

// NewConcurrencyLimiter returns a limiter, or an error that names the wrong field.
func NewConcurrencyLimiter(c ConcurrencyLimiterConfig) (*ConcurrencyLimiter, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	l := &ConcurrencyLimiter{core: gateCore{name: c.Name, stage: new(stage.Ref), fleet: c.Fleet}, conf: c}
	for _, x := range c.Limits {
		s := x.slots()
		l.core.limits = append(l.core.limits, rules.Limit{Class: s.Class(c.Name), Scope: s.Scope})
	}
	if f := c.Fleet; f != nil {
		if err := f.core.AddSlots(l.core.stage, l.core.limits, c.Name, c.Lease); err != nil {
			return nil, fmt.Errorf("sluice: ConcurrencyLimiterConfig%w", err)
		}
	}
	return l, nil
}

// sharedSemaphore is a *semaphore.Weighted of the caller's own. Nothing of it that does not wait
// blocks or runs code but that package's, so that may run under the stage's lock.
type sharedSemaphore struct{ *semaphore.Weighted }

// Release gives n back. If other code has given back more than it held, which panics sooner or
// later, that stops no call.
func (s sharedSemaphore) Release(n int64) { stage.Harmless(func() { s.Weighted.Release(n) }) }

// Wrap makes l an [Interceptor]; by hand it refuses calls.
func (l *ConcurrencyLimiter) Wrap(tool Spec, next Handler) Handler { return outside(l) }

// String is the name.
func (l *ConcurrencyLimiter) String() string { return nameOf(l) }

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

// Change changes Max, Refuse, Ordered, MaxKeys and Adaptive's bounds, by [Reconfigure].
func (l *ConcurrencyLimiter) Change(c ConcurrencyLimiterConfig) Change {
	return configChange(l, &l.core, &l.conf, c, l.fits, l.turn)
}

// fits says why l cannot become to, if it cannot.
func (l *ConcurrencyLimiter) fits(was ConcurrencyLimiterConfig, to *ConcurrencyLimiterConfig) error {
	const field = "sluice: ConcurrencyLimiterConfig"
	if err := cmp.Or(check.Same(field+".Name", to.Name, was.Name), check.Kept(field+".Fleet", to.Fleet == was.Fleet),
		check.Kept(field+".Lease", to.Lease == was.Lease), was.change(*to).Fits(field+".Limits")); err != nil {
		return err
	}
	for i := range to.Limits {
		to.Limits[i].Scope = was.Limits[i].Scope // with the function that there is
	}
	return nil
}

// turn has the machine follow a change.
func (l *ConcurrencyLimiter) turn(lk *change.Locked, s *stage.Stage, now int64, was, to ConcurrencyLimiterConfig) {
	was.change(to).Apply(s.M, now, l.core.limits, func(name, from, to string) { lk.Changed(s, name, from, to) })
}

// change is that of c to another.
func (c *ConcurrencyLimiterConfig) change(to ConcurrencyLimiterConfig) *rules.SlotsChange {
	slots := func(l Limit) rules.Slots { return l.slots() }
	return &rules.SlotsChange{Was: few.Map(c.Limits, slots), To: few.Map(to.Limits, slots)}
}

// Scope is what a limit counts by; zero is the component's default. == compares what scopes say, names in any order.
// A [ByKey] scope is == to its copies; to a component its name stands for its function, and a Change keeps the first.
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
	return keyed(rules.ByKey, name, key, rules.OneKey)
}

// ByKeys is [ByKey] for calls that name several, such as files: the call takes its weight of each, of
// all at one instant, so that no two wait for each other. Of the same key twice one counts, and "" does
// not; without any the limit does not apply. More than 64 refuse. Only a [Limit] takes it.
func ByKeys(name string, keys func(c Call) []string) Scope {
	return keyed(rules.ByKeys, name, keys, rules.JoinKeys)
}

// ByWeights is [ByKeys] for calls that take more of one key than of another, as who reads some files and writes others.
// Each key has its own weight; zero does not count. With Ordered a call that needs Max/2 at most passes those that wait
// elsewhere if there is room for all such. A nested call runs on what an ancestor holds of a key only if that is enough.
// Else it needs its own beside that, and where it would wait for its ancestors it is refused with [ErrNesting].
func ByWeights(name string, weights func(c Call) map[string]int64) Scope {
	return keyed(rules.ByWeights, name, weights, rules.JoinWeights)
}

// keyed is the scope of a function, of which no component takes nil.
func keyed[K any](kind rules.Kind, name string, of func(Call) K, join func(K) (string, error)) Scope {
	if of == nil {
		return Scope(rules.Keyed(kind, name, nil))
	}
	return Scope(rules.Keyed(kind, name, &keyFunc{func(c Call) (string, error) { return join(of(c)) }}))
}

// keyFunc is a function that can be compared, by where it stands.
type keyFunc struct{ of func(Call) (string, error) }

// keyOf is what c counts under by s, which is keyed; of ByKeys as rules.JoinKeys has it.
func keyOf(s *rules.Scope, c *Call) (key string, err error) {
	switch {
	case s.Kind() == rules.ByTenant:
		return rules.OneKey(c.Pipeline.tenant())
	case c.Input == any(anyInput{}):
		return "", nil
	}
	return s.Key().(*keyFunc).of(*c)
}

// String is s in refusals and snapshots.
func (s Scope) String() string { return rules.Scope(s).String() }

// Key is what c counts under, and whether it does; it runs ByKey's function. Of ByKeys all are named.
func (s Scope) Key(tool Spec, c Call) (key string, counts bool) {
	r := rules.Scope(s)
	if !r.Keyed() {
		return r.Fixed(tool.Name, tool.Type)
	}
	if c.Pipeline == nil {
		c.Pipeline = anonymous.pipeline
	}
	c = c.shown()
	if key, _ = keyOf(&r, &c); r.Several() {
		key = rules.KeysText(key)
	}
	return key, key != "" || s == ByTenant
}

// same reports whether s and o are one scope to the component that has them.
func (s Scope) same(o Scope) bool { return rules.Scope(s).Same(rules.Scope(o)) }

// maxHold bounds for how long a stream can hold a call open.
const maxHold = 10 * time.Minute

// Hold keeps the running call open beyond the return of its tool, which answers with a stream:
// slots stay taken, [ReportUsage] counts, and the terminal event and [Executor.Close] wait until
// done is called. The caller has its result at once.
//
// The stream uses the context that Hold returns. It ends with the one that Hold was given, when
// done is called, and when the attempt's Timeout, or the caller's deadline where there is one, is
// over, after ten minutes at most: the call has then timed out.
//
// The call ends with the error that done is given; an error of the tool ends its holds at once. Only the first done
// counts. A call may have 1,000 holds, and ends with the last. An interceptor that drops a result must end its stream.
//
// Outside a running tool Hold answers an error. Neither it nor done waits; done may call sinks.
func Hold(ctx context.Context) (stream context.Context, done func(error), err error) {
	r := callOf(ctx)
	if r == nil {
		return nil, nil, errors.New("sluice: Hold: the context belongs to no call: must be the one that a tool gets, or made from it")
	}
	exec := r.inv.plan.exec
	now := exec.clock.Now()
	h := &hold{r: r, most: now + int64(maxHold)}
	due := h.most
	if x := r.limit(); x != nil {
		due = min(due, x.Due())
	}
	stream, h.cancel = context.WithCancelCause(ctx)
	if err := r.hold(h); err != nil {
		h.cancel(nil)
		return nil, nil, err
	}
	h.keep(due)
	return stream, h.done, nil
}

// hold is one stream that holds an attempt open.
type hold struct {
	deadline.Entry
	r      *running
	most   int64 // an instant
	cancel context.CancelCauseFunc
	asked  atomic.Bool // done has been called
	over   atomic.Bool // it is given up
	failed atomic.Pointer[error]
}

// hold adds h, or says why it cannot.
func (r *running) hold(h *hold) error {
	switch r.Keep(h) {
	case permit.Returned:
		return errors.New("sluice: Hold: the tool has returned: a call can be held open only while its code runs")
	case permit.Late:
		return errors.New("sluice: Hold: the time of the attempt is over: a call can be held open only before that")
	case permit.TooMany:
		return fmt.Errorf("sluice: Hold: the call is held open %d times: must be at most that at once", permit.MaxHolds)
	}
	return nil
}

// keep has h expire at the instant due, unless it is over.
func (h *hold) keep(due int64) {
	e := &h.r.inv.plan.exec.deadlines
	if e.Add(h, due); h.over.Load() { // already: it was not there yet to be removed
		e.Remove(h)
	}
}

// Cut ends a stream of an attempt that has failed.
func (h *hold) Cut() {
	if h.over.CompareAndSwap(false, true) {
		h.end(nil, breaker.Success, context.Canceled)
	}
}

// done ends the hold, with the stream's error.
func (h *hold) done(err error) {
	if h.over.Load() || !h.asked.CompareAndSwap(false, true) { // nobody asks any more after Close
		return
	}
	outcome, r := breaker.Success, h.r
	defer func() { // also if the error's own code calls Goexit
		if h.over.CompareAndSwap(false, true) {
			h.end(err, outcome, nil)
		}
	}()
	if err == nil {
		return
	}
	outcome = breaker.Failure
	if exec := r.inv.plan.exec; !tame(err) || r.admission().classify != nil {
		given := err
		h.failed.Store(&given)
		exec.deadlines.Remove(h)
		if h.keep(exec.clock.Now() + int64(maxJudging)); h.over.Load() {
			return
		}
	}
	var c Call
	r.inv.fill(&c, false)
	c.Attempt = r.Attempt
	o, throttles := r.admission().judge(r, &c, Result{}, err)
	outcome = o
	err = r.inv.verdict(err, true) // which may be a refusal of a nested call
	if len(throttles) > 0 {
		r.Throttle(throttles, func() {})
	}
}

// Expire ends a hold that has lasted too long, or whose end has been judged for too long.
func (h *hold) Expire() {
	if x := h.r.limit(); x != nil && x.Moves(x) && h.failed.Load() == nil {
		now := x.Clock().Now()
		if due := min(h.most, x.Expire(now)); due > now {
			h.keep(due)
			return
		}
	}
	if !h.over.CompareAndSwap(false, true) {
		return
	}
	if err := h.failed.Load(); err != nil {
		h.end(passedOn(*err, h.r.inv.key), breaker.Failure, nil)
		return
	}
	outcome := breaker.Failure
	if x := h.r.limit(); x != nil && x.isOthers() || h.r.caller().Err() != nil { // the time was the caller's
		outcome = breaker.Neutral
	}
	err := h.r.inv.refused(ErrTimeout, "", context.DeadlineExceeded)
	h.end(err, outcome, err)
}

// end gives back what h kept.
func (h *hold) end(err error, outcome breaker.Outcome, cause error) {
	h.r.inv.plan.exec.deadlines.Remove(h)
	next := h.r.Drop(h, err, outcome)
	h.cancel(cause)
	defer func() {
		if h.r.EndHold() {
			h.r.giveBack(nil)
		}
	}()
	for _, f := range next { // before the call ends, so that Close waits for them
		stage.Harmless(f)
	}
}
