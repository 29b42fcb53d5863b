package sluice

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// ErrBreakerOpen is the reason of a call that a circuit breaker did not let through.
var ErrBreakerOpen = errors.New("breaker open")

// CircuitBreaker stops calls to what keeps failing, and finds out by itself when it works
// again. It is an [Interceptor]; listed beside the other gates it decides jointly with
// them and is asked first: an open breaker refuses at once, before a call queues.
//
// Closed, it counts outcomes: Failures in a row, or Ratio of the calls that ended within
// Window, open it. Open, it refuses everything for Cooldown, which doubles with each
// opening that no recovery came between, up to 8 Cooldowns and 2 min, or one Cooldown that
// is longer. Half-open, it lets Probes calls through; as many successes close it, one
// failure opens it. Closed again, it recovers: for one Cooldown at most Probes calls run at
// once, plus one for each success (slow start, as in RFC 5681, section 3.1), and others are
// refused; one call at a time never is. A result counts only if the state has not changed
// since its call was admitted. Refusals and the caller's own cancellation count neither way.
//
// Make one with [NewCircuitBreaker]; the zero value is not usable. It is safe for
// concurrent use and may be shared by executors. Nobody waits at a breaker.
type CircuitBreaker struct {
	core gateCore
	conf CircuitBreakerConfig
}

// CircuitBreakerConfig configures a [CircuitBreaker].
type CircuitBreakerConfig struct {
	Name     string        // for errors, events and snapshots; empty means "breaker"
	Scope    Scope         // what is judged together; zero means ByTool
	Failures int           // in a row that open it; zero means 5, unless Ratio is set
	Ratio    float64       // of failures in Window that opens it, up to 1; zero means off
	MinCalls int           // in Window before Ratio counts; zero means 20
	Window   time.Duration // zero means 10 s
	Cooldown time.Duration // how long it stays open; zero means 30 s
	Probes   int           // at once while half-open, and successes that close it; zero means 1
	Lease    time.Duration // of a probe that does not end; zero means 1 min, in a Policy the tool's Timeout
	MaxKeys  int           // of a ByTenant or ByKey scope, idle ones make room; zero means 10,000
	_        struct{}
}

// BreakerState is closed, open or half-open. Zero is none of them: what is no breaker has it.
type BreakerState uint8

const (
	BreakerClosed BreakerState = iota + 1
	BreakerOpen
	BreakerHalfOpen
)

// String is "closed", "open" or "half-open"; empty for zero.
func (s BreakerState) String() string {
	switch s {
	case 0:
		return ""
	case BreakerClosed:
		return "closed"
	case BreakerOpen:
		return "open"
	case BreakerHalfOpen:
		return "half-open"
	}
	return fmt.Sprintf("BreakerState(%d)", uint8(s))
}

// MarshalText is String.
func (s BreakerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *BreakerState) UnmarshalText(text []byte) error {
	for x := range BreakerHalfOpen + 1 {
		if x.String() == string(text) {
			*s = x
			return nil
		}
	}
	return fmt.Errorf("sluice: BreakerState is %q: must be closed, open, half-open or empty", cut(string(text), 128))
}

func breakerState(s breaker.State) BreakerState {
	switch s {
	case breaker.Open:
		return BreakerOpen
	case breaker.HalfOpen:
		return BreakerHalfOpen
	}
	return BreakerClosed
}

func (c CircuitBreakerConfig) validate(field string) (CircuitBreakerConfig, error) {
	if err := check.Name("sluice: "+field+".Name", c.Name); err != nil {
		return c, err
	}
	if c.Name == "" {
		c.Name = "breaker"
	}
	if err := c.Scope.check(field + ".Scope"); err != nil {
		return c, err
	}
	c.Scope = c.Scope.or(rules.ByTool)
	if math.IsNaN(c.Ratio) || c.Ratio < 0 || c.Ratio > 1 {
		return c, fmt.Errorf("sluice: %s.Ratio is %v: must be from 0 (off) to 1", field, c.Ratio)
	}
	if c.Failures == 0 && c.Ratio == 0 {
		c.Failures = 5
	}
	if c.Failures < 0 || c.Failures > 1<<20 {
		return c, fmt.Errorf("sluice: %s.Failures is %d: must be from 0 to %d", field, c.Failures, 1<<20)
	}
	for _, f := range []struct {
		name      string
		v         *int
		def, most int
	}{{"MinCalls", &c.MinCalls, 20, 1 << 20}, {"Probes", &c.Probes, 1, breaker.MaxProbes}} {
		if *f.v < 0 || *f.v > f.most {
			return c, fmt.Errorf("sluice: %s.%s is %d: must be from 0 (%d) to %d", field, f.name, *f.v, f.def, f.most)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	for _, f := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"Window", &c.Window, 10 * time.Second},
		{"Cooldown", &c.Cooldown, 30 * time.Second},
		{"Lease", &c.Lease, time.Minute},
	} {
		if *f.v < 0 || *f.v > check.MaxDuration {
			return c, fmt.Errorf("sluice: %s.%s is %v: must be from 0 (%v) to %v", field, f.name, *f.v, f.def, check.MaxDuration)
		}
		if err := check.Unit("sluice: "+field+"."+f.name, *f.v); err != nil {
			return c, err
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	n, err := maxKeys(field+".MaxKeys", c.MaxKeys)
	c.MaxKeys = n
	return c, err
}

func (c *CircuitBreakerConfig) machine() *breaker.Config {
	return &breaker.Config{
		Failures: c.Failures,
		Ratio:    c.Ratio,
		MinCalls: c.MinCalls,
		Window:   int64(c.Window),
		Cooldown: int64(c.Cooldown),
		Lease:    int64(c.Lease),
		Probes:   c.Probes,
	}
}

// NewCircuitBreaker returns a closed breaker, or an error that names the field of c that
// is out of range.
func NewCircuitBreaker(c CircuitBreakerConfig) (*CircuitBreaker, error) {
	c, err := c.validate("CircuitBreakerConfig")
	if err != nil {
		return nil, err
	}
	b := &CircuitBreaker{conf: c}
	b.core.name, b.core.stage = c.Name, new(stage.Ref)
	scope := rules.Scope(c.Scope)
	b.core.limits = []gateLimit{{rules.Circuit(c.Name, scope, c.MaxKeys, c.machine()), scope}}
	return b, nil
}

// Wrap makes b an [Interceptor]. An [Executor] fuses the gates it lists and does not call
// it; the Handler of one that is called by hand refuses every call, and says so.
func (b *CircuitBreaker) Wrap(tool Spec, next Handler) Handler {
	return outside("CircuitBreaker", b.String())
}

// String is the name that Plan shows; "nil" of a nil pointer.
func (b *CircuitBreaker) String() string {
	if b == nil {
		return "nil"
	}
	return b.core.name
}

// Config returns a copy of the current configuration, defaults filled in.
func (b *CircuitBreaker) Config() CircuitBreakerConfig {
	b.core.mu.Lock()
	defer b.core.mu.Unlock()
	return b.conf
}

// Change is the change to c, applied by [Reconfigure]; alone it does nothing. The name and
// the scope cannot change. Nothing that was counted is forgotten.
func (b *CircuitBreaker) Change(c CircuitBreakerConfig) Change {
	return Change{&configChange[CircuitBreakerConfig]{b, &b.core, &b.conf, c, b.fits, b.turn}}
}

// State is the state of key: a tool's name under ByTool, "" under Global, ForTool and
// ForType. A key that nobody has used is closed. An open breaker whose Cooldown is over is
// half-open. It fails for a key that the scope cannot have, as [RateLimiter.Pause] does.
func (b *CircuitBreaker) State(key string) (BreakerState, error) {
	state := BreakerClosed
	err := b.each(key, false, func(s *stage.Stage, c *admit.Cell) { state = breakerState(c.BreakerState(s.Now())) })
	return state, err
}

// Trip opens key until Reset, and refuses the calls that wait for it. It fails for a key that
// the scope cannot have, as [RateLimiter.Pause] does.
func (b *CircuitBreaker) Trip(key string) error {
	return b.each(key, true, func(s *stage.Stage, c *admit.Cell) { s.M.Trip(s.Now(), c, "Trip") })
}

// Reset closes key and forgets its failures. It fails for a key that the scope cannot have, as
// [RateLimiter.Pause] does.
func (b *CircuitBreaker) Reset(key string) error {
	return b.each(key, false, func(s *stage.Stage, c *admit.Cell) { s.M.Reset(s.Now(), c, "Reset") })
}

// each runs f on the breaker of key, made if need be, under the stage's lock; without make
// there may be none.
func (b *CircuitBreaker) each(key string, make bool, f func(*stage.Stage, *admit.Cell)) error {
	if b == nil {
		return errNilGate("CircuitBreaker")
	}
	s, cells, err := b.core.at("CircuitBreaker", key, make)
	if err != nil {
		return err
	}
	for _, c := range cells {
		f(s, c)
	}
	s.Unlock()
	return nil
}

// fits completes to, unless b cannot become that.
func (b *CircuitBreaker) fits(was, to CircuitBreakerConfig) (CircuitBreakerConfig, error) {
	to, err := to.validate("CircuitBreakerConfig")
	if err != nil {
		return to, err
	}
	if err := sameName("CircuitBreakerConfig", to.Name, was.Name); err != nil {
		return to, err
	}
	if !to.Scope.same(was.Scope) {
		return to, errors.New("sluice: CircuitBreakerConfig.Scope changes: it cannot change")
	}
	to.Scope = was.Scope // with the function that there is
	return to, nil
}

// turn has the machine follow a change.
func (b *CircuitBreaker) turn(lk *locked, s *stage.Stage, now int64, was, to CircuitBreakerConfig) {
	if was == to {
		return
	}
	k := b.core.limits[0].class
	s.M.SetMaxKeys(now, k, rules.Scope(to.Scope).TableSize(to.MaxKeys))
	s.M.SetBreaker(now, k, to.machine())
	lk.changed(s, k.Name, "", "")
}

// Outcome is what an outcome means to breakers and retries.
type Outcome uint8

const (
	// OutcomeAuto lets the library decide: no error is a success; the caller's own
	// cancellation or deadline, refusals of nested calls, and throttles that nested calls have
	// been charged with, are neutral; an error with a RetryAfter() time.Duration method is an
	// overload; all else is a failure, a timeout and a panic too.
	OutcomeAuto Outcome = iota
	OutcomeSuccess
	OutcomeFailure
	OutcomeNeutral  // counts neither way
	OutcomeOverload // the backend is too busy: slow down; not a breaker's failure
)

// judge says what an outcome means to the breakers and limits, and what pauses an upstream
// asked for. It runs user code, so it holds no lock, and whoever calls it has a deferred
// function that goes on if that code calls Goexit.
func (a *admission) judge(r *running, c *Call, res Result, err error) (breaker.Outcome, []pause) {
	class := OutcomeAuto
	if a.classify != nil && r.state.HasBegun() {
		class = classified(a.classify, c.shown(), res, err)
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
	case class == OutcomeOverload, r.reported.Load():
		b.Carried = append(b.Carried, blame.Charge{Err: err, After: -1})
	}
	r.inv.passOn(b.Carried)
	o := breaker.Failure
	if r.caller().Err() != nil || b.Nested || b.Refused || isReason(err, ErrRejected) {
		o = breaker.Neutral
	}
	m := means(class, o)
	if len(b.Own) > 0 || m == breaker.Overload {
		r.throttled(b.Longest())
	}
	return m, a.pauses(b.Own)
}

// means is what class means to the machine, and auto if that is left to the library.
func means(class Outcome, auto breaker.Outcome) breaker.Outcome {
	switch class {
	case OutcomeSuccess:
		return breaker.Success
	case OutcomeFailure:
		return breaker.Failure
	case OutcomeNeutral:
		return breaker.Neutral
	case OutcomeOverload:
		return breaker.Overload
	}
	return auto
}

// caller is the context that the attempt was made with, without its timeout.
func (r *running) caller() context.Context {
	if x, ok := r.Context.(*timedRun); ok {
		return x.Caller()
	}
	return r.Context
}

// classified runs a classify function; one that panics leaves the decision to the library.
func classified(f func(Call, Result, error) Outcome, c Call, res Result, err error) (class Outcome) {
	defer func() {
		if recover() != nil || class > OutcomeOverload {
			class = OutcomeAuto
		}
	}()
	return f(c, res, err)
}
