package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// Class is what an outcome means to breakers and retries.
type Class uint8

const (
	// ClassAuto lets the library decide: no error is a success; the caller's own
	// cancellation or deadline, and refusals of nested calls, are neutral; an error with a
	// RetryAfter() time.Duration method is an overload; all else is a failure, a timeout and
	// a panic too.
	ClassAuto Class = iota
	ClassSuccess
	ClassFailure
	ClassNeutral  // counts neither way
	ClassOverload // the backend is too busy: slow down; not a breaker's failure
)

// admission is the stage of one tool in one executor: which cells a call needs, how it
// waits for them, and what is given back. It never changes once it is compiled.
type admission struct {
	tool             *tool // nil for a gate wrapped by hand
	stage            *stageRef
	next             Handler // what admitted calls run
	plan             uint64
	parts            []part         // narrow before wide
	needs            *admit.NeedSet // if it is the same for every call
	keys             []Scope        // to ask each call for
	units            []string       // to ask the cost of
	timeout, maxWait time.Duration
	classify         func(Call, Result, error) Class
	cost             func(Call, string) int64
}

// part is one constraint on the tool's calls.
type part struct {
	class *admit.Class
	cell  *admit.Cell // unless keyed
	key   int         // in keys
	unit  int         // in units, or -1: every call takes one
}

// newAdmission joins the stages of gates and compiles what they ask of the tool.
func newAdmission(gates []*gateCore, spec *Spec, e *Executor) (*admission, error) {
	var refs []*stageRef
	if e != nil {
		refs = append(refs, &e.stage)
	}
	for _, g := range gates {
		refs = append(refs, &g.stage)
	}
	if err := join(nil, refs...); err != nil {
		return nil, err
	}
	a := &admission{stage: refs[0], plan: toolIDs.Add(1)}
	s := a.stage.lock()
	defer s.unlock()
	for _, g := range gates {
		for _, l := range g.limits {
			key, applies := l.scope.fixed(spec)
			if !applies {
				continue
			}
			p := part{class: l.class, unit: -1, key: -1}
			if l.scope.keyed() {
				p.key = index(&a.keys, l.scope)
			} else {
				p.cell = s.m.Cell(s.now(), l.class, key)
			}
			if l.class.Kind == admit.Tokens || l.class.Kind == admit.Slots && l.class.Unit != "" {
				p.unit = index(&a.units, l.class.Unit)
			}
			a.parts = append(a.parts, p)
		}
	}
	slices.SortStableFunc(a.parts, func(x, y part) int { return cmp.Compare(x.class.Order(), y.class.Order()) })
	var fixed []*admit.Cell
	var keyed []*admit.Class
	for _, p := range a.parts {
		if p.cell != nil {
			fixed = append(fixed, p.cell)
		} else {
			keyed = append(keyed, p.class)
		}
	}
	s.m.Together(fixed, keyed)
	return a, nil
}

func index[T comparable](list *[]T, v T) int {
	if i := slices.Index(*list, v); i >= 0 {
		return i
	}
	*list = append(*list, v)
	return len(*list) - 1
}

// configure takes the settings of the tool's policy, else of the executor.
func (a *admission) configure(e *Executor) {
	p := &a.tool.spec.Policy
	a.plan = a.tool.shared.id
	a.timeout = cmp.Or(p.Timeout, e.conf.Timeout)
	a.maxWait = cmp.Or(p.MaxWait, e.conf.MaxWait)
	a.cost = p.Cost
	a.classify = p.Classify
	if a.classify == nil {
		a.classify = e.conf.Classify
	}
	if a.cost == nil && slices.Equal(a.units, []string{""}) {
		for i := range a.parts {
			a.parts[i].unit = -1
		}
		a.units = nil
	}
	if len(a.keys) == 0 && len(a.units) == 0 {
		list := make([]admit.Need, len(a.parts))
		for i, p := range a.parts {
			list[i] = admit.Need{Cell: p.cell, N: 1}
		}
		a.needs = admit.NewNeedSet(list)
	}
}

// handler is the admission stage around next.
func (a *admission) handler(next Handler) Handler {
	a.next = next
	return func(ctx context.Context, c Call) (Result, error) {
		if c.inv == nil {
			return Result{}, errors.New("sluice: a gate's Handler was called outside an Executor: list the gate in Config.Interceptors")
		}
		n := int32(0)
		if a.tool != nil {
			n = c.inv.attempts.Add(1)
			c.Attempt = n
		}
		r, err := a.enter(ctx, &c)
		if err != nil {
			return Result{}, err
		}
		return a.perform(r, &c)
	}
}

// perform runs an admitted call.
func (a *admission) perform(r *running, c *Call) (Result, error) {
	c.run = r
	if a.timeout > 0 {
		return a.timed(r, *c, a.next)
	}
	return a.attempt(r, c, a.next)
}

// asked is what user code said about a call before admission: its keys and costs.
type asked struct {
	keys  [4]string
	costs [4]int64
	more  []string
	extra []int64
}

func (q *asked) key(i int) string {
	if i < len(q.keys) {
		return q.keys[i]
	}
	return q.more[i-len(q.keys)]
}

func (q *asked) cost(i int) int64 {
	if i < len(q.costs) {
		return q.costs[i]
	}
	return q.extra[i-len(q.costs)]
}

// ask runs key and cost functions, outside every lock.
func (a *admission) ask(c *Call, q *asked) (err error) {
	normal := false
	defer func() {
		if !normal {
			err = c.inv.refused(ErrRejected, "", caught(c.Tool, recover()))
		}
	}()
	for i, s := range a.keys {
		k := s.of(c)
		if len(k) > maxKeyBytes {
			normal = true
			return c.inv.refused(ErrInvalidArguments, s.String(), fmt.Errorf("sluice: key has %d bytes: must have at most %d", len(k), maxKeyBytes))
		}
		if i < len(q.keys) {
			q.keys[i] = k
		} else {
			q.more = append(q.more, k)
		}
	}
	for i, u := range a.units {
		n := int64(1)
		switch {
		case a.cost != nil:
			if n = a.cost(*c, u); n < 0 {
				normal = true
				return c.inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Policy.Cost of unit %q is %d: must not be negative", u, n))
			}
		case u != "" && a.tool != nil:
			n = a.tool.shared.estimate(u)
		}
		if i < len(q.costs) {
			q.costs[i] = n
		} else {
			q.extra = append(q.extra, n)
		}
	}
	normal = true
	return nil
}

// maxKeyBytes bounds what a key of a call can be.
const maxKeyBytes = 1024

// fill gives t its needs, with cells of keys that are new made by cell: Machine.Cell, or
// Machine.Peek for a forecast. It answers the refusal by a table of keys that is full.
func (a *admission) fill(s *stage, t *admit.Ticket, c *Call, q *asked, now int64, cell func(*admit.Machine, int64, *admit.Class, string) *admit.Cell) error {
	if a.needs != nil {
		s.m.Fixed(t, a.needs)
		return nil
	}
	for i := range a.parts {
		p := &a.parts[i]
		n := int64(1)
		if p.unit >= 0 {
			if n = q.cost(p.unit); n == 0 {
				continue
			}
			if p.class.Kind == admit.Tokens {
				n = min(n, p.class.Rate.Burst())
			} else {
				n = min(n, maxLimit+1) // too wide whatever it is, and sums stay in range
			}
		}
		x := p.cell
		if x == nil {
			key := q.key(p.key)
			if key == "" && a.keys[p.key].kind == scopeKeyed {
				continue
			}
			if x = cell(s.m, now, p.class, key); x == nil {
				return c.inv.refused(reasonOf(p.class.Kind), p.class.Name, errors.New("sluice: all its keys are busy"))
			}
		}
		s.m.Add(t, x, n)
	}
	return nil
}

// enter waits for admission. The attempt that it answers holds what the call needs.
func (a *admission) enter(ctx context.Context, c *Call) (*running, error) {
	if ctx.Err() != nil {
		return nil, c.inv.gaveUp(ctx, "")
	}
	r := c.inv.newRunning(ctx, c.Attempt, c.run)
	r.adm = a
	w, err := a.arrive(r, c, nil)
	if w == nil {
		return r, err
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		if err := a.giveUp(r, w); err != nil {
			return nil, err
		}
		<-w.ready // decided meanwhile
	}
	return r, a.decided(r, w)
}

// arrive asks for admission. It answers where to wait, if the call has to: at w, or, of a
// future, until that is told.
func (a *admission) arrive(r *running, c *Call, f *Future) (*waiter, error) {
	if !c.Priority.valid() { // an interceptor's doing
		return nil, c.inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Call.Priority is %d: must be from %d to %d", c.Priority, PriorityBatch, PriorityInteractive))
	}
	if c.Pipeline == nil {
		c.Pipeline = c.inv.pipeline
	}
	var q asked
	if a.needs == nil {
		if err := a.ask(c, &q); err != nil {
			return nil, err
		}
	}
	s := a.stage.lock()
	now := c.inv.start // one reading serves the door and admission, if no foreign code ran between
	if c.Attempt != 1 || a.needs == nil || c.inv.loud || len(c.inv.exec.outer) > 0 {
		now = s.now()
	}
	if c.inv.exec.closed() {
		s.unlock()
		return nil, c.inv.refused(ErrClosed, "", nil)
	}
	t := s.m.Ticket()
	if err := a.fill(s, t, c, &q, now, (*admit.Machine).Cell); err != nil {
		s.m.Free(t)
		s.unlock()
		return nil, err
	}
	t.Plan = a.plan
	t.Level = c.Priority.level()
	t.Tenant = c.Pipeline.tenant()
	if t.Parent = c.inv.parent.holder(s); c.run != nil {
		t.Parent = c.run.holder(s)
	}
	a.limit(r.Context, s, t, now)
	switch s.m.Arrive(now, t) {
	case admit.Running:
		r.ticket = t
		r.admitted(t, now)
		s.unlock()
		return nil, nil
	case admit.Refused:
		err := r.refused(s, t)
		s.m.Free(t)
		s.unlock()
		return nil, err
	}
	r.ticket = t
	w := s.newWaiter(c.inv.exec, c.Tool, f)
	t.Owner = w
	by := t.WaitsAt().Class().Name
	s.unlock()
	if c.inv.loud {
		a.tellQueued(r, c, by, now)
	}
	return w, nil
}

// tellQueued reports that a call waits. If a sink calls Goexit, nobody waits any more.
func (a *admission) tellQueued(r *running, c *Call, by string, now int64) {
	normal := false
	defer func() {
		if normal {
			return
		}
		s := a.stage.lock()
		s.m.Cancel(s.now(), r.ticket) // which is not used again: somebody may be about to wake it
		r.ticket = nil
		s.unlock()
	}()
	var ev Event
	c.inv.describe(&ev, ToolQueued, now)
	ev.Call, ev.By = *c, by
	ev.Call.inv, ev.Call.run = nil, nil
	c.inv.emit(r.Context, &ev, false)
	normal = true
}

// giveUp takes a call whose context has ended out of the queue. It answers nil if the call
// has been decided already.
func (a *admission) giveUp(r *running, w *waiter) error {
	s := a.stage.lock()
	t := r.ticket
	if t == nil || t.State() != admit.Waiting {
		s.unlock()
		return nil
	}
	by := t.WaitsAt().Class().Name
	now := s.now()
	s.m.Cancel(now, t)
	if t.State() != admit.Left { // it was too late just now, which says as much
		s.unlock()
		return nil
	}
	r.note(s, t)
	r.inv.queued.Add(now - t.Arrived())
	r.ticket = nil
	s.m.Free(t)
	s.freeWaiter(w)
	s.unlock()
	return r.inv.gaveUp(r.Context, by)
}

// limit sets the latest instant at which t may start.
func (a *admission) limit(ctx context.Context, s *stage, t *admit.Ticket, now int64) {
	if a.maxWait > 0 {
		t.Limit = now + int64(a.maxWait)
	} else if t.Parent != nil {
		t.Limit = now + int64(nestedWait)
	}
	if d, ok := ctx.Deadline(); ok {
		t.Finish = s.clock.instant(d)
		t.Limit = min(t.Limit, t.Finish-1)
	}
}

// holder is the ticket, of this stage, of the nearest call around that still runs.
func (r *running) holder(s *stage) *admit.Ticket {
	for ; r != nil; r = r.around() {
		if r.adm != nil && r.adm.stage.p.Load().is(s) && r.live {
			return r.ticket
		}
	}
	return nil
}

// around is the attempt that r is in: of the same call, else of the one it is nested in.
func (r *running) around() *running {
	if r.up != nil {
		return r.up
	}
	return r.inv.parent
}

// is reports whether s is, or has become part of, the locked stage t.
func (s *stage) is(t *stage) bool {
	for s != nil && s != t {
		s = s.into.Load()
	}
	return s == t
}

// decided is what became of a call that waited.
func (a *admission) decided(r *running, w *waiter) (err error) {
	s := a.stage.lock()
	defer s.unlock()
	t := r.ticket
	s.freeWaiter(w)
	switch {
	case t.State() == admit.Refused:
		err = r.refused(s, t)
	case r.Context.Err() != nil: // it must not run any more: all goes back
		s.m.Cancel(s.now(), t)
		r.note(s, t)
		err = r.inv.gaveUp(r.Context, "")
	default:
		r.admitted(t, s.now())
		return nil
	}
	r.ticket = nil
	s.m.Free(t)
	return err
}

// admitted makes r an attempt that runs from the instant now on.
func (r *running) admitted(t *admit.Ticket, now int64) {
	r.live, r.granted = true, now
	if t.Place() > 0 {
		r.inv.queued.Add(now - t.Arrived())
	}
}

// refused is the error of a refused ticket.
func (r *running) refused(s *stage, t *admit.Ticket) error {
	r.note(s, t)
	if t.Place() > 0 {
		r.inv.queued.Add(s.now() - t.Arrived())
	}
	return r.inv.refusal(&t.Refusal)
}

// refusal is what the machine's refusal is to the caller.
func (inv *invocation) refusal(f *admit.Refusal) error {
	e := inv.refused(ErrQueueFull, "queue", nil)
	if f.By != nil {
		e.By = f.By.Class().Name
	}
	e.RetryAfter = time.Duration(min(f.After, math.MaxInt64/2))
	switch f.Reason {
	case admit.Saturated:
		e.Reason = ErrSaturated
	case admit.TooWide:
		e.Reason, e.Cause = ErrSaturated, errors.New("sluice: the call weighs more than the limit")
	case admit.RateLimited:
		e.Reason = ErrRateLimited
	case admit.BreakerOpen:
		e.Reason = ErrBreakerOpen
	case admit.TooLong:
		e.Reason = ErrWaitTooLong
	case admit.Cycle:
		e.Reason, e.Cause = ErrNesting, fmt.Errorf("sluice: nested calls wait for each other: %s", f.Detail)
	case admit.Closed:
		e.Reason, e.By = ErrClosed, ""
	}
	return e
}

func reasonOf(k admit.Kind) error {
	switch k {
	case admit.Tokens, admit.Foreign:
		return ErrRateLimited
	}
	return ErrSaturated
}

// gaveUp is the error of a call whose own context ended before its code ran.
func (inv *invocation) gaveUp(ctx context.Context, by string) error {
	cause, reason := context.Cause(ctx), ErrRejected
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return inv.refused(reason, by, cause)
}

// attempt runs next on the caller's goroutine. What the call holds is given back however
// it ends.
func (a *admission) attempt(r *running, c *Call, next Handler) (res Result, err error) {
	normal := false
	defer func() {
		if !normal {
			res, err = Result{}, caught(c.Tool, recover())
		}
		a.leave(r, c, res, err)
	}()
	res, err = next(r, *c)
	normal = true
	return res, err
}

// timed runs next on a goroutine of its own, and answers when that ends or the attempt's
// time is over, whichever comes first. What the call holds is given back when the code has
// really ended; what it means to the breakers is settled when its time is over.
func (a *admission) timed(r *running, c Call, next Handler) (Result, error) {
	caller := r.Context
	late := &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrTimeout, Cause: context.DeadlineExceeded}
	ctx, cancel := context.WithTimeoutCause(caller, a.timeout, late)
	r.Context, r.outside = ctx, caller
	end, own := a.timeout, true
	if d, ok := caller.Deadline(); ok {
		if left := time.Until(d); left <= end {
			end, own = left, false
		}
	}
	timer := time.NewTimer(end)
	defer timer.Stop()
	run := &timedRun{done: make(chan struct{})}
	c.inv.exec.active.Add(2)
	go run.do(a, r, c, next, cancel)
	select {
	case <-run.done:
		return run.res, run.err
	case <-timer.C:
	}
	if !run.abandon(c.inv.exec) {
		<-run.done // both at once: its answer counts
		return run.res, run.err
	}
	outcome := breaker.Failure
	if r.phase.CompareAndSwap(fresh, calledOff) || !own || caller.Err() != nil {
		outcome = breaker.Neutral
	}
	s := a.stage.lock()
	r.left = true
	if r.live {
		now := s.now()
		s.m.Judge(now, r.ticket, outcome)
		r.inv.book(r, now)
	}
	s.unlock()
	return Result{}, late
}

// timedRun is an attempt on a goroutine of its own.
type timedRun struct {
	state atomic.Int32 // who was first: 1 the code ended, 2 the caller left
	done  chan struct{}
	res   Result
	err   error
}

func (run *timedRun) do(a *admission, r *running, c Call, next Handler, cancel context.CancelFunc) {
	exec, normal := c.inv.exec, false
	defer exec.leave()
	defer func() {
		if !run.state.CompareAndSwap(0, 1) {
			exec.abandoned.Add(-1)
		}
		close(run.done)
	}()
	defer func() {
		cancel()
		a.leave(r, &c, run.res, run.err)
	}()
	defer func() {
		if !normal {
			run.res, run.err = Result{}, caught(c.Tool, recover())
		}
		run.err = timedOut(r, &c, run.err)
	}()
	run.res, run.err = next(r, c)
	normal = true
}

// abandon has the caller go on without the code, unless that has ended just now.
func (run *timedRun) abandon(e *Executor) bool {
	e.abandoned.Add(1)
	if run.state.CompareAndSwap(0, 2) {
		return true
	}
	e.abandoned.Add(-1)
	return false
}

// timedOut makes the error of code that gave up because the attempt's time was over the
// library's own.
func timedOut(r *running, c *Call, err error) error {
	if err == nil || r.outside.Err() != nil || r.Context.Err() != context.DeadlineExceeded || !isReason(err, context.DeadlineExceeded) {
		return err
	}
	return &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrTimeout, Cause: err}
}

// leave gives back what an attempt holds.
func (a *admission) leave(r *running, c *Call, res Result, err error) {
	outcome, pause := breaker.Failure, time.Duration(0)
	if err == nil {
		outcome = breaker.Success
	}
	defer func() { a.giveBack(r, outcome, pause) }() // also if a classifier calls Goexit
	outcome, pause = a.judge(r, c, res, err)
}

func (a *admission) giveBack(r *running, outcome breaker.Outcome, pause time.Duration) {
	s := a.stage.lock()
	now := s.now()
	t := r.ticket
	if pause > 0 {
		a.throttle(s, t, pause)
	}
	if r.ran() {
		s.m.Finish(now, t, outcome)
	} else {
		s.m.Cancel(now, t)
	}
	if !r.left {
		r.note(s, t)
		r.inv.book(r, now)
	}
	r.live, r.ticket = false, nil
	var settled []admit.Used
	if a.tool != nil && len(t.Settled()) > 0 {
		settled = slices.Clone(t.Settled())
	}
	s.m.Free(t)
	s.unlock()
	for _, u := range settled {
		a.tool.shared.learn(u.Unit, u.N)
	}
}

// judge says what an outcome means to the breakers, and how long an upstream asked to
// pause. It runs user code, so it holds no lock.
func (a *admission) judge(r *running, c *Call, res Result, err error) (o breaker.Outcome, pause time.Duration) {
	class := ClassAuto
	if a.classify != nil && r.ran() {
		class = classified(a.classify, *c, res, err)
	}
	if err != nil {
		var x interface{ RetryAfter() time.Duration }
		if asError(err, &x) {
			if pause = retryAfter(x); class == ClassAuto && pause >= 0 {
				class = ClassOverload
			}
		}
	}
	switch class {
	case ClassSuccess:
		return breaker.Success, pause
	case ClassFailure:
		return breaker.Failure, pause
	case ClassNeutral:
		return breaker.Neutral, pause
	case ClassOverload:
		return breaker.Overload, pause
	}
	switch {
	case err == nil:
		return breaker.Success, pause
	case r.caller().Err() != nil, isReason(err, ErrRejected):
		return breaker.Neutral, pause
	}
	return breaker.Failure, pause
}

// caller is the context that the attempt was made with, without its timeout.
func (r *running) caller() context.Context {
	if r.outside != nil {
		return r.outside
	}
	return r.Context
}

// classified runs a classify function; one that panics leaves the decision to the library.
func classified(f func(Call, Result, error) Class, c Call, res Result, err error) (class Class) {
	defer func() {
		if recover() != nil || class > ClassOverload {
			class = ClassAuto
		}
	}()
	return f(c, res, err)
}

func retryAfter(x interface{ RetryAfter() time.Duration }) (d time.Duration) {
	defer func() {
		if recover() != nil {
			d = -1
		}
	}()
	return x.RetryAfter()
}

// throttle pauses what an upstream's answer speaks of: the keys of the call's Upstream
// rate limiters, or, without one, the tool.
func (a *admission) throttle(s *stage, t *admit.Ticket, d time.Duration) {
	s.m.Freeze() // all of them, before anybody starts
	defer func() { s.m.Thaw(s.now()) }()
	found := false
	for _, n := range t.Needs() {
		if n.Cell.Class().Upstream {
			s.pause(n.Cell, d)
			found = true
		}
	}
	if found || a.tool == nil {
		return
	}
	for _, n := range t.Needs() {
		if n.Cell.Class() == a.tool.shared.core.limits[0].class {
			s.pause(n.Cell, d)
		}
	}
}

// Settle reports what the running call really used of a unit: the difference to the
// estimate is given back to its rates, or taken from them, into debt if need be. Calling
// it again replaces what it said before. Outside a call, and after it has ended, it does
// nothing; negative counts as zero. It does not block.
func Settle(ctx context.Context, unit string, used int64) {
	for r := scopeOf(ctx).call; r != nil; r = r.up {
		s := r.adm.stage.lock()
		if r.live {
			s.m.Settle(s.now(), r.ticket, unit, max(used, 0))
		}
		s.unlock()
	}
}

// Throttle reports that the upstream asked for a pause, as an error with a
// RetryAfter() time.Duration method does: the keys of the call's Upstream rate limiters
// pause for every waiter, or, if it has none, its tool pauses. Outside a call, after it
// has ended, and for a duration that is not positive it does nothing. At most 24 hours
// are observed. It does not block.
func Throttle(ctx context.Context, retryAfter time.Duration) {
	if retryAfter <= 0 {
		return
	}
	for r := scopeOf(ctx).call; r != nil; r = r.up {
		s := r.adm.stage.lock()
		if r.live {
			r.adm.throttle(s, r.ticket, retryAfter)
		}
		s.unlock()
	}
}

// estimate is what calls of the tool are expected to use of a unit: what they used
// lately, 1 before anything is known.
func (t *toolShared) estimate(unit string) int64 {
	if v, ok := t.learned.Load(unit); ok {
		return max(1, v.(*atomic.Int64).Load())
	}
	return 1
}

// learn moves the estimate an eighth of the way to what a call used.
func (t *toolShared) learn(unit string, used int64) {
	v, ok := t.learned.Load(unit)
	if !ok {
		v, ok = t.learned.LoadOrStore(unit, new(atomic.Int64))
	}
	est := v.(*atomic.Int64)
	if !ok {
		est.Store(used)
		return
	}
	old := est.Load()
	est.CompareAndSwap(old, old+(used-old)/8)
}
