package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/change"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/classify"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/enum"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrBreakerOpen is the reason of a call that a breaker refused.
var ErrBreakerOpen = errors.New("breaker open")

// CircuitBreaker stops calls to what keeps failing, and finds out when it works again. It is a
// gate, see [ConcurrencyLimiter], and asked first: nobody waits at it.
//
// Closed, it opens if Ratio of the results in Window failed, or Failures in a row. Open, it refuses all for Cooldown (±15
// % outside testing/synctest), doubled at each opening without recovery up to 2 min, or one longer Cooldown, and while a
// throttle asks, up to 1 min. Half-open, Probes calls start: as many successes close it, one failure opens it. Then for
// one Cooldown Probes calls run at once, and one more for each success. A result counts only in the state its call was
// admitted in; refusals and the caller's own cancellation never. With a [Fleet] processes judge together.
type CircuitBreaker struct {
	core gateCore
	conf CircuitBreakerConfig
}

// CircuitBreakerConfig configures a [CircuitBreaker].
type CircuitBreakerConfig struct {
	Name     string        // empty means "breaker"
	Scope    Scope         // zero means ByTool
	Ratio    float64       // of failures, up to 1; zero means 0.5, or off with Failures
	MinCalls int           // before Ratio counts; zero means 5
	Window   time.Duration // zero means 30 s
	Failures int           // in a row; zero means 20, or off with Ratio
	Cooldown time.Duration // zero means 5 s
	Probes   int           // zero means 1
	Lease    time.Duration // of a hung probe; zero means 1 min
	MaxKeys  int           // as in Limit

	// Fleet has the breaker judge together with those of other processes whose Fleets have its Name and engine, and
	// breakers this Name. When all together have met as many failures in a row as open Quorum of them, all are open; then
	// one process at a time probes, and recovers, for all. While the engine is away each judges alone. See docs/fleet.md.
	Fleet  *Fleet
	Quorum int // zero means 2, with Fleet
	_      struct{}
}

// BreakerPolicy is a tool's own breaker, see [CircuitBreakerConfig].
type BreakerPolicy struct {
	Ratio    float64
	MinCalls int
	Window   time.Duration
	Failures int
	Cooldown time.Duration
	Probes   int
	Lease    time.Duration // zero means Policy.MaxTimeout, else its Timeout, else 1 min
}

// BreakerState is that of a breaker; zero is none.
type BreakerState uint8

const (
	BreakerClosed BreakerState = iota + 1
	BreakerOpen
	BreakerHalfOpen
)

var breakerStates = enum.Names[BreakerState]{Type: "BreakerState", List: []string{"", "closed", "open", "half-open"}}

// String is "closed", "open", "half-open" or empty.
func (s BreakerState) String() string { return breakerStates.Text(s) }

// MarshalText is String.
func (s BreakerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *BreakerState) UnmarshalText(text []byte) error { return breakerStates.Read(text, s) }

// breakerState is s for users. They stand in the order of those of package breaker.
func breakerState(s breaker.State) BreakerState { return BreakerState(s) + BreakerClosed }

// rule is what a breaker of c goes by.
func (c *CircuitBreakerConfig) rule() rules.Breaker {
	return rules.Breaker{Ratio: c.Ratio, MinCalls: c.MinCalls, Window: c.Window, Failures: c.Failures,
		Cooldown: c.Cooldown, Probes: c.Probes, Lease: c.Lease}
}

// complete fills in the defaults.
func (c CircuitBreakerConfig) complete() (CircuitBreakerConfig, error) {
	const field = "sluice: CircuitBreakerConfig"
	r := c.rule()
	err := cmp.Or(rules.Named(field, &c.Name, "breaker", (*rules.Scope)(&c.Scope), rules.ByTool), r.Complete(field),
		rules.CompleteQuorum(field, c.Fleet != nil, &c.Quorum), rules.Keys(field+".MaxKeys", &c.MaxKeys))
	c.Ratio, c.MinCalls, c.Window, c.Failures, c.Cooldown, c.Probes, c.Lease = r.Ratio, r.MinCalls, r.Window, r.Failures, r.Cooldown, r.Probes, r.Lease
	return c, err
}

// NewCircuitBreaker returns a closed breaker.
func NewCircuitBreaker(c CircuitBreakerConfig) (*CircuitBreaker, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	scope := rules.Scope(c.Scope)
	limits := []rules.Limit{{Class: rules.Circuit(c.Name, scope, c.MaxKeys, c.rule().Machine()), Scope: scope}}
	b := &CircuitBreaker{core: gateCore{name: c.Name, stage: new(stage.Ref), limits: limits, fleet: c.Fleet}, conf: c}
	if f := c.Fleet; f != nil {
		if err := f.core.AddBreaker(b.core.stage, limits[0], c.Name, c.Quorum); err != nil {
			return nil, fmt.Errorf("sluice: CircuitBreakerConfig%w", err)
		}
	}
	return b, nil
}

// Wrap makes b an [Interceptor].
func (b *CircuitBreaker) Wrap(tool Spec, next Handler) Handler { return outside(b) }

// String is the name.
func (b *CircuitBreaker) String() string { return nameOf(b) }

// Config returns a copy, defaults filled in.
func (b *CircuitBreaker) Config() CircuitBreakerConfig {
	b.core.mu.Lock()
	defer b.core.mu.Unlock()
	return b.conf
}

// Change changes all but name, scope and Fleet, by [Reconfigure]. What was counted stays.
func (b *CircuitBreaker) Change(c CircuitBreakerConfig) Change {
	return configChange(b, &b.core, &b.conf, c, b.fits, b.turn)
}

// State is that of key, closed if unused, half-open once Cooldown is over. Like Trip and Reset it
// fails as [RateLimiter.Pause] does.
func (b *CircuitBreaker) State(key string) (BreakerState, error) {
	state := BreakerClosed
	err := b.each(key, false, func(s *stage.Stage, c *admit.Cell) { state = breakerState(c.BreakerState(s.Now())) })
	return state, err
}

// Trip opens key until Reset, and refuses calls that wait for it. With a Fleet it is here at once and everybody's as
// soon as they are told, and stays when this process ends; so is Reset.
func (b *CircuitBreaker) Trip(key string) error {
	return b.each(key, true, func(s *stage.Stage, c *admit.Cell) { s.M.Trip(s.Now(), c, "Trip") })
}

// Reset closes key and forgets its failures.
func (b *CircuitBreaker) Reset(key string) error {
	return b.each(key, b != nil && b.core.fleet != nil, func(s *stage.Stage, c *admit.Cell) { s.M.Reset(s.Now(), c, "Reset") })
}

// each runs f on the breaker of key, made if need be, under the stage's lock; without make
// there may be none.
func (b *CircuitBreaker) each(key string, make bool, f func(*stage.Stage, *admit.Cell)) error {
	return withCells(b, key, make, func(s *stage.Stage, cells []*admit.Cell) {
		for _, c := range cells {
			f(s, c)
		}
	})
}

// fits says why b cannot become to, if it cannot.
func (b *CircuitBreaker) fits(was CircuitBreakerConfig, to *CircuitBreakerConfig) error {
	const field = "sluice: CircuitBreakerConfig"
	err := cmp.Or(check.Same(field+".Name", to.Name, was.Name), check.Kept(field+".Scope", to.Scope.same(was.Scope)),
		check.Kept(field+".Fleet", to.Fleet == was.Fleet))
	to.Scope = was.Scope // with the function that there is
	return err
}

// turn has the machine follow a change.
func (b *CircuitBreaker) turn(lk *change.Locked, s *stage.Stage, now int64, was, to CircuitBreakerConfig) {
	if was == to {
		return
	}
	k := b.core.limits[0].Class
	s.M.SetMaxKeys(now, k, rules.Scope(to.Scope).TableSize(to.MaxKeys))
	s.M.SetBreaker(now, k, to.rule().Machine())
	s.M.SetQuorum(now, k, to.Quorum)
	lk.Changed(s, k.Name, "", "")
}

// Outcome is what an end means to breakers and retries.
type Outcome uint8

const (
	// OutcomeAuto: what [ReportOutcome] has said; no error is a success; one with Outcome() Outcome is what that says;
	// the caller's own cancellation or deadline, refusals and throttles of nested calls are neutral; an error with
	// RetryAfter() time.Duration is an overload; others, timeout and panic too, are failures.
	OutcomeAuto Outcome = iota
	OutcomeSuccess
	OutcomeFailure
	OutcomeNeutral  // counts neither way
	OutcomeOverload // too busy: slow down; no breaker's failure
)

// ReportOutcome says what the end of the running attempt will mean, whatever comes of it, where Policy.Classify leaves
// that open: for code that tells a model of a failure by a result. It counts when the code returns, and when a stream of
// it fails, see [Hold]. Another report replaces it, OutcomeAuto takes it back. Code that is left behind because its time
// is over has failed all the same. Outside a running call it does nothing.
func ReportOutcome(ctx context.Context, o Outcome) {
	if r := callOf(ctx); r != nil && o <= OutcomeOverload {
		r.said.Store(uint32(o))
	}
}

// returned ends an attempt whose handler has returned. What it holds is given back as soon as
// no code is inside, and what its outcome means is known, or has not become known for as
// long as judging may take. The error that it answers is that of the call.
func (a *admission) returned(r *running, c *Call, res Result, err error) error {
	if err == nil && a.isPlain(r) && r.HasBegun() && r.finished() {
		return nil
	}
	return a.settled(r, c, res, err)
}

// isPlain reports whether a success of r is one, and nobody is to be asked.
func (a *admission) isPlain(r *running) bool { return a.classify == nil && r.said.Load() == 0 }

// settled is returned where there may be more to do, or nobody may wait for the attempt any more.
func (a *admission) settled(r *running, c *Call, res Result, err error) error {
	if err == nil {
		r.Streams()
	}
	if err != nil || !a.isPlain(r) {
		return a.judged(r, c, res, err)
	}
	r.Outcome = breaker.Success
	if r.ReturnJudged(a.next == nil) {
		r.giveBack(nil)
	} else {
		r.lingers(r.Linger(nil))
	}
	return nil
}

// giveBack gives back what an attempt holds, which nobody needs any more. If its outcome is
// not known yet, Hindsight does the rest.
func (r *running) giveBack(throttles []stage.Throttle) {
	exec := r.inv.plan.exec
	if !r.Tool().Direct || r.WasHeld() { // nobody may be left but this goroutine, which is not the call's
		exec.helperStarts()
		defer exec.helperEnds()
	}
	now := exec.clock.Now() // not under the lock, which others wait for
	defer r.goBack(now, throttles)
	r.limit().end(now) // which asks the caller's context, and that may panic
}

func (r *running) goBack(now int64, throttles []stage.Throttle) {
	if back := r.GiveBack(now, throttles); back != nil {
		r.goesOn(back)
	} else {
		r.ends()
	}
}

// admission is where r was admitted.
func (r *running) admission() *admission { return r.Tool().Owner.(*admission) }

// ends counts r out, which holds nothing any more.
func (r *running) ends() {
	if r.inv.plan.once {
		r.GaveBack()
	}
	if !r.inv.plan.once || r.Attempt > 1 {
		r.inv.attempts.End()
	}
}

// goesOn does what is left to do once r has given back what it held.
func (r *running) goesOn(back *stage.Returned) {
	exec := r.inv.plan.exec
	if back.Abandoned {
		defer exec.countOut() // also if a sink calls Goexit
	}
	for _, u := range back.Used {
		r.admission().tool.shared.learned.Learn(u.Unit, u.N)
	}
	r.ends()
	if back.Abandoned {
		exec.countMore(0, -1)
	}
	if back.Stream != nil {
		r.inv.endStreamed(back.Stream)
	}
}

// finished ends an attempt that is a success all at once, if that is all there is to do.
func (r *running) finished() bool {
	now := r.inv.plan.exec.clock.Now()
	switch r.Finish(now) {
	case stage.NotEnded:
		return false
	case stage.EndedLate:
		r.goesOn(&stage.Returned{Abandoned: true})
	default:
		if !r.inv.plan.once || r.Attempt > 1 {
			r.ends()
		}
	}
	r.limit().end(now)
	return true
}

// judged is returned where it has to be asked what the outcome means.
func (a *admission) judged(r *running, c *Call, res Result, err error) error {
	r.Return(a.next == nil)
	if err != nil {
		defer r.CutStreams()
	}
	outcome, throttles := breaker.Failure, []stage.Throttle(nil)
	if err == nil {
		outcome = breaker.Success
	}
	exec, asked := r.inv.plan.exec, (*judging)(nil)
	if a.classify != nil || !tame(err) {
		asked = &judging{r: r}
		exec.deadlines.Add(asked, exec.clock.Now()+int64(maxJudging))
	}
	defer func() { // also if the code that is asked calls Goexit
		if asked != nil && !exec.deadlines.Remove(asked) {
			r.inv.attempts.Keep() // Expire is at it
		}
		r.Outcome = outcome
		switch over, inTime := r.Judge(); {
		case over:
			r.giveBack(throttles)
		case inTime:
			r.lingers(r.Linger(throttles))
		default:
			r.lingers(r.Hindsight(throttles))
		}
	}()
	if err = r.limit().timedOut(err); err != nil && r.LostLease() && r.caller().Err() == nil && isReason(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", ErrLeaseLost, err)
	}
	outcome, throttles = a.judge(r, c, res, err)
	return err
}

// maxJudging is how long the code that is asked about an outcome may keep what the attempt
// holds: the classify function, and methods of the error.
const maxJudging = time.Second

// judging is the question what an outcome means, while it is asked.
type judging struct {
	deadline.Entry
	r *running
}

// Expire gives back what the attempt holds. What its outcome means to the breakers follows.
func (j *judging) Expire() {
	j.r.inv.attempts.Keep() // the code that is asked goes on, when the call may have ended
	if j.r.GiveUp() {
		j.r.giveBack(nil)
	}
}

// lingers goes on with an attempt that is not over although its outcome is known: code may be
// inside, and nobody waits for it then, which may be news.
func (r *running) lingers(inside, news bool) {
	if inside {
		r.limit().end(r.inv.plan.exec.clock.Now())
	}
	if news && r.inv.loud {
		r.emitAbandoned()
	}
}

// tame reports whether nothing that is asked of err runs code of others.
func tame(err error) bool {
	if err == nil || err == context.Canceled || err == context.DeadlineExceeded {
		return true
	}
	if e, ok := err.(*Error); ok {
		return e != nil && e.Cause == nil
	}
	return reflect.TypeOf(err) == plainError
}

var plainError = reflect.TypeOf(errors.New(""))

// judge says what an outcome means to the breakers and limits, and what pauses an upstream asked for. It runs user code,
// so it holds no lock, and whoever calls it has a deferred function that goes on if that code calls Goexit.
func (a *admission) judge(r *running, c *Call, res Result, err error) (breaker.Outcome, []stage.Throttle) {
	class := OutcomeAuto
	if r.HasBegun() {
		class = classify.Of(a.classify, Outcome(r.said.Load()), OutcomeOverload, c.shown(), res, err)
	}
	if err == nil {
		if class == OutcomeOverload {
			r.throttled(0)
		}
		return means(class, breaker.Success), nil
	}
	b := r.blames(err)
	switch own := len(b.Own) > 0; {
	case own && class == OutcomeAuto:
		class = OutcomeOverload
	case own:
	case class == OutcomeOverload && b.Nested:
		class = OutcomeNeutral // the nested call has been charged with it
	case class == OutcomeOverload, r.HasMetThrottle():
		b.Carried = append(b.Carried, blame.Charge{Err: err, After: -1})
	}
	r.inv.passOn(b.Carried)
	o := breaker.Failure
	if x := r.limit(); x != nil && x.isLeft() && x.Err() != nil || r.caller().Err() != nil || r.LostLease() || b.Nested || b.Refused || isReason(err, ErrRejected) {
		o = breaker.Neutral
	}
	m := means(class, o)
	if len(b.Own) > 0 || m == breaker.Overload {
		r.throttled(b.Longest())
	}
	return m, a.throttles(b.Own)
}

// means is what class means to the machine, and auto if that is left to the library.
func means(class Outcome, auto breaker.Outcome) breaker.Outcome {
	return [...]breaker.Outcome{
		OutcomeAuto: auto, OutcomeSuccess: breaker.Success, OutcomeFailure: breaker.Failure,
		OutcomeNeutral: breaker.Neutral, OutcomeOverload: breaker.Overload,
	}[class]
}

// caller is the context that the attempt was made with, without its timeout.
func (r *running) caller() context.Context {
	if x := r.limit(); x != nil {
		return x.Context
	}
	return r.Context
}

// Attempt is what came of one attempt of a call, see [Call.AttemptOf].
type Attempt struct {
	N          int           // from 1; zero if an interceptor further in has answered, or eight later ones are made
	Ran        bool          // the tool's code has begun
	Running    bool          // and goes on, though nobody waits for it any more
	Held       bool          // a stream keeps the call open, see Hold
	Outcome    Outcome       // what the end means to breakers; of a refusal OutcomeNeutral
	RetryAfter time.Duration // that who refused it, or its error, asks for; zero if nobody does
}

// AttemptOf is the attempt that r and err come from, as an interceptor outside the gates got them from its
// next. It asks err, and does not wait.
func (c Call) AttemptOf(r Result, err error) Attempt {
	n, p := c.attemptOf(r)
	if n == 0 {
		return Attempt{}
	}
	x := Attempt{N: int(n), Outcome: OutcomeNeutral}
	if err != nil {
		if _, x.RetryAfter = whose(err); x.RetryAfter == 0 {
			x.RetryAfter = meanings.ForeignRetry(err)
		}
	}
	if p == nil { // it was not admitted
		return x
	}
	begun, known, _ := p.Flags()
	x.Ran, x.Running, x.Held = begun, p.Inside(), p.IsHeld()
	switch {
	case !begun:
	case known && !x.Running:
		x.Outcome = outcomeOf(p.Outcome)
	case isReason(err, ErrTimeout):
		if l := p.limit(); l == nil || !l.isOthers() {
			x.Outcome = OutcomeFailure
		}
	}
	return x
}

// AfterStream has f called when the stream that r is, as an interceptor got it from its next, has ended, and
// reports whether it will: false means that r is no stream, see [Hold], or that it has ended. An interceptor
// that makes the context of an attempt lets go of it then. f runs before the call's last event, on the goroutine
// that ends the stream; it must not wait, and a panic of f ends no more than f.
func (c Call) AfterStream(r Result, f func()) bool {
	_, p := c.attemptOf(r)
	return p != nil && p.AfterStreams(f)
}

// attemptOf is the number of the attempt that r comes from, zero if that is none or is forgotten, and what it
// has, nil if it was not admitted.
func (c Call) attemptOf(r Result) (n int32, p *running) {
	if c.inv == nil {
		return 0, nil
	}
	last := c.inv.begun()
	if n = r.from.Attempt(uint64(c.inv.key), last); n <= 0 || n > 1 && last-n >= manyAttempts {
		return 0, nil
	}
	return n, c.inv.first.attempt(n)
}

// outcomeOf is o for users. They stand in the order of those of package breaker, behind OutcomeAuto.
func outcomeOf(o breaker.Outcome) Outcome { return Outcome(o) + OutcomeSuccess }

// manyAttempts is how many of a call's attempts are remembered, the last ones, beside the first.
const manyAttempts = 8

// attempt is the n-th of f's call, which has ended and is not forgotten; nil if it was not admitted.
func (f *first) attempt(n int32) *running {
	if f == nil || n == 1 && f.Attempt != 1 {
		return nil
	}
	if n == 1 {
		return &f.running
	}
	if x := f.aside.Load(); x != nil {
		if r := x.later[n%manyAttempts].Load(); r != nil && r.Attempt == n {
			return r
		}
	}
	return nil
}

// keep has r, which is admitted, be found by its number.
func (f *first) keep(r *running) {
	if r.Attempt > 1 {
		f.keepLater(r)
	}
}

// forsakes tells of the attempts of f's call, which is over, that go on.
func (f *first) forsakes() {
	for n, last := int32(1), f.inv.begun(); n <= last; n = max(n+1, last-manyAttempts+1) {
		r := &f.running
		if n > 1 {
			r = f.attempt(n)
		}
		if r != nil && r.HasBegun() && r.Forsaken() {
			r.emitAbandoned()
		}
	}
}

func (f *first) keepLater(r *running) { f.remembers().later[r.Attempt%manyAttempts].Store(r) }
