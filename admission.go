package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/classify"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/few"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// admission is the stage of one tool in one executor: which cells a call needs, how it
// waits for them, and what is given back. It never changes once it is compiled.
type admission struct {
	tool             *tool
	at               stage.Tool // where its calls are admitted, and what permits know of it
	next             Handler    // what admitted calls run; nil means the tool itself
	needs            stage.Needs
	keys             []rules.Scope // to ask each call for
	units            []string      // to ask the cost of
	asks, leased     bool          // functions say some of that; its calls may run on leases
	timeout, maxWait time.Duration
	more             time.Duration // that Extend can add to the timeout
	apart            bool          // its code has a goroutine of its own for that
	bounded          atomic.Bool   // interceptors have bounded calls of it
	classify         func(Call, Result, error) Outcome
	cost             func(Call, string) int64
}

// newAdmission compiles what e's gates, and the tool's own policy, ask of it.
func newAdmission(e *Executor, t *tool) *admission {
	a := &admission{tool: t}
	s := e.stage.Lock()
	class := t.shared.core.limits[0].Class // which a change of the policy writes, as all of limits
	for _, g := range append([]*gateCore{&t.shared.core}, e.gates...) {
		for _, l := range g.limits {
			key, applies := l.Scope.Fixed(t.spec.Name, t.spec.Type)
			if !applies {
				continue
			}
			p := stage.Part{Class: l.Class, Unit: -1, Key: -1, Some: l.Scope.Asks(), Each: l.Scope.Several()}
			if l.Scope.Keyed() {
				p.Key = few.Index(&a.keys, l.Scope)
			} else {
				p.Cell = s.M.Pin(s.Now(), l.Class, key)
			}
			if l.Class.Kind == admit.Tokens || l.Class.Kind == admit.Slots && l.Class.Unit != "" {
				p.Unit = few.Index(&a.units, l.Class.Unit)
			}
			a.needs.Parts = append(a.needs.Parts, p)
		}
	}
	slices.SortStableFunc(a.needs.Parts, func(x, y stage.Part) int { return cmp.Compare(x.Class.Order(), y.Class.Order()) })
	a.configure(e, class)
	s.Unlock()
	// An interceptor inside may answer instead of the tool: then the token goes back as if it had never been
	// taken, and of one that was taken without the lock nobody knows what that would have changed.
	if len(e.inner) == 0 || !slices.ContainsFunc(a.needs.Parts, func(p stage.Part) bool { return p.Class.Kind == admit.Tokens }) {
		a.needs.Quicken()
	}
	return a
}

// configure takes the settings of the tool's policy, else of the executor.
func (a *admission) configure(e *Executor, class *admit.Class) {
	p := &a.tool.spec.Policy
	a.at = stage.Tool{
		Stage: e.stage, Class: class, Owner: a, Count: e.countMore,
		Plan:   &admit.Plan{Tool: a.tool.shared.id, Client: e.client, Name: a.tool.spec.Name},
		Direct: true, // see handler
		Priced: p.Cost != nil, Several: len(e.outer) > 0 && !e.inSteps,
	}
	for _, p := range a.needs.Parts {
		if c := p.Cell; c != nil && c.Class().Upstream {
			a.at.Upstreams = append(a.at.Upstreams, c)
		}
	}
	a.timeout = cmp.Or(p.Timeout, e.conf.Timeout)
	a.apart, a.more = a.timeout > 0 && !p.Cooperative, max(0, p.MaxTimeout-a.timeout)
	a.maxWait, a.cost = cmp.Or(p.MaxWait, e.conf.MaxWait), p.Cost
	a.classify = classify.First(p.Classify, e.conf.Classify, OutcomeOverload)
	if a.cost == nil && slices.Equal(a.units, []string{""}) {
		for i := range a.needs.Parts {
			a.needs.Parts[i].Unit = -1
		}
		a.units = nil
	}
	a.leased = slices.ContainsFunc(a.needs.Parts, func(p stage.Part) bool { return p.Class.Leases != nil })
	a.asks = len(a.units) > 0 || slices.ContainsFunc(a.keys, rules.Scope.Asks)
	a.needs.Compile(&a.at, len(a.keys), len(a.units))
}

// when is the present instant and that of its caller's deadline, or admit.Never.
type when struct{ now, finish int64 }

// ask is when c comes to admission, or why it must not. The present instant is now, unless that is zero.
func (a *admission) ask(ctx context.Context, c *Call, now int64) (when, error) {
	if ctx.Err() != nil {
		return when{}, c.inv.gaveUp(ctx, "")
	}
	if !rules.IsPriority(c.Priority) { // an interceptor's doing
		return when{}, c.inv.refused(ErrInvalidArguments, "",
			fmt.Errorf("sluice: Call.Priority is %d: must be from %d to %d", c.Priority, PriorityBatch, PriorityInteractive))
	}
	if c.Pipeline == nil {
		c.Pipeline = c.inv.pipeline
	}
	finish := deadline.Of(ctx, &a.at.Stage.Clock)
	if now == 0 {
		now = a.at.Stage.Clock.Now() // not under the lock, which others wait for
	}
	if x := c.within; x != nil && now >= x.Due {
		return when{}, c.inv.refused(ErrWaitTooLong, "", x.Cause)
	}
	return when{now, c.within.Until(finish)}, nil
}

// answer makes q what is to be known of c before the stage is locked. It answers the tool as calls with
// those keys see it, and when that is.
func (a *admission) answer(c *Call, w when, q *stage.Answers) (_ *stage.Tool, _ when, err error) {
	switch {
	case a.at.Needs != nil:
		return &a.at, w, nil
	case a.asks:
		err = a.askUser(c, q)
		w.now = a.at.Stage.Clock.Now() // foreign code has run
	default:
		err = a.askKeys(c, c.inv, q)
	}
	if err != nil {
		return nil, w, err
	}
	return a.needs.Of(q), w, nil
}

// askUser runs key and cost functions, outside every lock.
func (a *admission) askUser(c *Call, q *stage.Answers) (err error) {
	normal, inv, within, run, code := false, c.inv, c.within, c.run, c.code
	c.inv, c.within, c.run, c.code = nil, nil, nil, nil // see shown
	defer func() {
		if c.inv, c.within, c.run, c.code = inv, within, run, code; !normal {
			err = inv.refused(ErrRejected, "", caught(c.Tool, recover()))
		}
	}()
	if err := a.askKeys(c, inv, q); err != nil {
		normal = true
		return err
	}
	for _, u := range a.units {
		n := int64(1)
		switch {
		case a.cost != nil && c.Input != any(anyInput{}):
			if n = a.cost(*c, u); n < 0 {
				normal = true
				return inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Policy.Cost of unit %q is negative: must not be", u))
			}
		case u != "":
			n = a.tool.shared.learned.Estimate(u)
		}
		q.Costs.Add(n)
	}
	normal = true
	return nil
}

// askKeys asks what c counts under.
func (a *admission) askKeys(c *Call, inv *invocation, q *stage.Answers) error {
	for i := range a.keys {
		k, err := keyOf(&a.keys[i], c)
		if err != nil {
			return inv.refused(ErrInvalidArguments, a.keys[i].String(), err)
		}
		q.Keys.Add(k)
	}
	return nil
}

// handler is the admission stage around next.
func (a *admission) handler(next Handler) Handler {
	a.next, a.at.Direct = next, false
	return func(ctx context.Context, c Call) (Result, error) {
		if c.inv == nil {
			return Result{}, errors.New("sluice: a gate's Handler was called outside an Executor: list the gate in Config.Interceptors")
		}
		if !c.inv.plan.once {
			return a.again(ctx, &c)
		}
		return a.do(ctx, &c, 0, nil)
	}
}

// do makes an attempt of c: it is admitted and runs, and gives back what it held however that ends.
// The instant now is the present one, or zero. A call that was admitted already has its attempt r.
func (a *admission) do(ctx context.Context, c *Call, now int64, r *running) (res Result, err error) {
	normal, handed := false, false
	defer func() {
		if r == nil { // it was refused, or a sink called Goexit
			if !c.isOnly() {
				c.inv.attempts.End()
			}
		} else if !handed { // else the goroutine of the code sees to it
			if !normal {
				res, err = Result{}, caught(c.Tool, recover())
			}
			err = a.returned(r, c, res, err)
		}
	}()
	if r == nil {
		if r, err = a.admit(ctx, c, now); err != nil {
			return Result{}, err
		}
	}
	if c.run = r; a.timeout > 0 || c.within != nil {
		a.limited(r, nil, deadline.Of(ctx, &a.at.Stage.Clock), c.within)
	}
	if a.next == nil {
		r.starts(c)
	}
	if ctx = r; a.leased {
		ctx = r.Leased(r, ErrLeaseLost)
	}
	if a.isApart(c) {
		handed = true
		own := *c
		res, handed, err = a.timed(ctx, r, &own)
	} else {
		res, err = a.code(ctx, c)
	}
	normal = true
	return res, err
}

// attempt is do for the first attempt of a call that only its own goroutine, which has the frame x, is
// in, unless its code has one. Whoever has x gives back what it holds if its code does not return.
func (a *admission) attempt(ctx context.Context, x *frame, now int64) (res Result, err error) {
	c, inv := &x.c, x.c.inv
	c.Attempt, inv.tried = 1, true
	w, err := a.ask(ctx, c, now)
	if err != nil {
		return res, err
	}
	var r *running
	if a.at.Needs == nil {
		r, err = a.askFirst(ctx, c, w)
	} else if r = a.quickly(ctx, c, w, &a.at); r == nil {
		r, err = a.wait(ctx, c, w, &a.at, &noAnswers)
	}
	if err != nil {
		return res, err
	}
	given := (*callContext)(nil)
	if c.within != nil {
		w.finish = deadline.Of(ctx, &a.at.Stage.Clock) // without what interceptors have left
		x.bound(a)
	}
	if ctx = r; !inv.isKept() {
		given = inv.first.give(r.Context)
		ctx = given
	}
	switch x.stage = inStart; {
	case a.timeout == 0 && c.within == nil:
	case given == nil:
		a.limited(r, nil, w.finish, c.within)
	default:
		ctx = a.limited(r, x.timed.Last(), w.finish, c.within)
	}
	if inv.loud {
		r.emitStarted(ctx, c)
	}
	unseen := given != nil && r.IsQuick() && a.classify == nil
	if !unseen {
		r.Began()
	}
	if x.stage = inAttempt; a.leased {
		ctx = r.Leased(ctx, ErrLeaseLost)
	}
	if !a.isApart(c) {
		res, err = c.runCode(ctx, a.tool)
		x.stage = underWay
	} else {
		x.stage = underWay
		var ended bool
		if res, ended, err = a.timed(ctx, r, c); ended {
			x.lent = r.IsLate()
			return res, err
		}
	}
	if unseen && err == nil && given.part(permit.OverOnce(inv.loud)) {
		now := a.at.Stage.Clock.Now()
		r.FinishUnseen(now)
		if x.stage = succeeded; a.timeout > 0 || c.within != nil {
			r.limit().end(now) // which asks the caller's context, and that may panic
		}
		return res, nil
	}
	r.Began()
	return res, a.returned(r, c, res, err)
}

// admit begins an attempt and waits until it may run.
func (a *admission) admit(ctx context.Context, c *Call, now int64) (*running, error) {
	if !c.begin() {
		return nil, c.inv.refused(ErrRejected, "",
			errors.New("sluice: the call is over: an interceptor answered before it called next"))
	}
	if inv := c.inv; !inv.plan.once && c.Attempt > 1 && inv.loud {
		inv.emitRetry(ctx, c)
	}
	w, err := a.ask(ctx, c, now)
	if err != nil {
		return nil, err
	}
	return a.askFirst(ctx, c, w)
}

// noAnswers is all there is to know of calls that all need the same.
var noAnswers stage.Answers

// askFirst is admit where it may have to be asked what an attempt needs.
func (a *admission) askFirst(ctx context.Context, c *Call, w when) (*running, error) {
	var q stage.Answers
	x, w, err := a.answer(c, w, &q)
	if err != nil {
		return nil, err
	}
	if r := a.quickly(ctx, c, w, x); r != nil {
		return r, nil
	}
	return a.wait(ctx, c, w, x, &q)
}

// wait has c's attempt come to x, and waits until it may run.
func (a *admission) wait(ctx context.Context, c *Call, w when, x *stage.Tool, q *stage.Answers) (*running, error) {
	if inv := c.inv; x.Needs != nil && !a.at.Priced && !inv.plan.exec.closed() { // else there is something to note of it
		if y, after := x.Needs.Refusal(w.now, c.run != nil || inv.parent.Load() != nil); y != nil {
			return nil, inv.refusedPlainly(w.now, y, after)
		}
	}
	r, t, err := a.arrive(ctx, c, w, x, q, nil)
	if t != nil {
		r, err = a.await(ctx, c, t)
	}
	return r, err
}

// quickly admits c's attempt at x without the lock, or answers nil if it has to come to the stage.
func (a *admission) quickly(ctx context.Context, c *Call, w when, x *stage.Tool) *running {
	inv := c.inv
	if x.Needs == nil || w.now >= w.finish || c.run != nil || inv.parent.Load() != nil || inv.plan.exec.closed() {
		return nil
	}
	r := &inv.first.running
	switch {
	case c.isOnly():
		r.Context = ctx
	case inv.first.aside.Load() == nil:
		r = a.newAttempt(ctx, c)
	default: // it has met something that is to be forgotten
		return nil
	}
	if !r.GrantQuick(x, &inv.first.Tally, rules.Level(c.Priority), c.Attempt, w.now) {
		return nil
	}
	inv.first.keep(r)
	return r
}

// again is do for interceptors outside the gates, which may answer before it has ended, and call it
// more than once.
func (a *admission) again(ctx context.Context, c *Call) (res Result, err error) {
	inv, exec := c.inv, c.inv.plan.exec
	exec.helperStarts()
	defer func() {
		if c.Attempt > 0 && inv.loud {
			inv.first.attemptEnded(err)
		}
		exec.helperEnds()
	}()
	c.Attempt = 0 // unless it begins
	res, err = a.do(ctx, c, 0, nil)
	res.from = permit.SourceOf(uint64(inv.key), c.Attempt)
	return res, err
}

// code runs what an admitted call is for.
func (a *admission) code(ctx context.Context, c *Call) (Result, error) {
	if a.next != nil {
		return a.next(ctx, *c)
	}
	return c.runCode(ctx, a.tool)
}

// await waits until t is decided, or ctx ends. The context may be anybody's: if that panics or
// calls Goexit, nobody waits any more.
func (a *admission) await(ctx context.Context, c *Call, t *admit.Ticket) (r *running, err error) {
	normal := false
	defer func() {
		if !normal {
			a.at.Stage.Forsake(&t)
		}
	}()
	how := stage.Await(ctx, t, func() bool {
		err = a.giveUp(ctx, c.inv, &t)
		return err != nil
	})
	if how == admit.Running && c.isOnly() && ctx.Err() == nil { // nobody else has to do with t any more
		r, t = a.run(ctx, c, t, a.at.Stage.Now()), nil
	} else if how != admit.Left {
		r, err = a.decided(ctx, c, &t)
	}
	normal = true
	return r, err
}

// arrive asks for admission at x. It answers the attempt, if it may run, else the ticket with which the
// call waits: its owner is y, if that is not nil, or a waiter.
func (a *admission) arrive(ctx context.Context, c *Call, w when, x *stage.Tool, q *stage.Answers, y *submission) (*running, *admit.Ticket, error) {
	inv := c.inv
	s, t, err := a.present(c, w, x, q, (*admit.Machine).Cell)
	if err != nil {
		return nil, nil, err
	}
	a.needs.Note(t, q)
	switch s.M.Arrive(w.now, t) {
	case admit.Running:
		r := a.run(ctx, c, t, w.now)
		s.Unlock()
		return r, nil, nil
	case admit.Refused:
		return nil, nil, a.turnedAway(s, inv, t, c.Attempt)
	}
	if y == nil {
		s.Waits(t)
	} else {
		t.Owner, y.ticket = y, t
	}
	by := t.WaitsAt().Class().Name
	s.Unlock()
	if inv.loud {
		a.emitQueued(ctx, c, t, by, w.now)
	}
	return nil, t, nil
}

// present locks the stage and makes the ticket with which c comes to it. If it fails, it locks nothing.
func (a *admission) present(c *Call, w when, x *stage.Tool, q *stage.Answers, cell stage.CellFunc) (*stage.Stage, *admit.Ticket, error) {
	s := a.at.Stage.Lock()
	if c.inv.plan.exec.closed() {
		s.Unlock()
		return nil, nil, c.inv.refused(ErrClosed, "", nil)
	}
	s.M.Advance(w.now) // what is due comes first
	t := s.M.Ticket()
	if full := a.needs.Fill(w.now, t, x, q, cell); full != nil {
		err := c.inv.refused(ErrSaturated, full.Name, errors.New("sluice: all its keys are busy"))
		if at := s.M.Vacancy(full); at != admit.Never {
			err.RetryAfter = time.Duration(max(0, at-w.now))
		}
		s.M.Free(t)
		s.Unlock()
		return nil, nil, err
	}
	if t.Level = rules.Level(c.Priority); t.Plan != a.at.Plan {
		t.Plan = a.at.Plan
	}
	if tenant := c.Pipeline.tenant(); tenant != "" {
		t.Tenant = tenant
	}
	a.bound(s, t, c, w.now)
	if w.finish != admit.Never {
		t.Finish = w.finish // by which it is to start, and to be done
		t.Limit = min(t.Limit, t.Finish-1)
	}
	return s, t, nil
}

// giveUp takes a call whose context has ended, and its ticket *p, out of the queue. It
// answers nil if the call has been decided already.
func (a *admission) giveUp(ctx context.Context, inv *invocation, p **admit.Ticket) error {
	s := a.at.Stage.Lock()
	t := *p
	if t == nil {
		s.Unlock()
		return nil
	}
	now := s.Now()
	s.M.Advance(now) // what is due comes first, and may be its own start or refusal
	if t.State() != admit.Waiting {
		s.Unlock()
		return nil
	}
	by := t.WaitsAt().Class().Name
	s.M.Cancel(now, t)
	sum := inv.ownTotals()
	sum.Note(&a.at, t, inv.begun())
	sum.Waited(t, now)
	*p = nil
	s.Free(t)
	s.Unlock()
	return inv.gaveUp(ctx, by)
}

// bound says what t, the ticket of c, is nested in, and for how long it may wait, but for its
// caller's deadline.
func (a *admission) bound(s *stage.Stage, t *admit.Ticket, c *Call, now int64) {
	up := cmp.Or(c.run, c.inv.parent.Load())
	t.Parent = up.holder(s)
	switch {
	case a.maxWait == NoWait:
		t.AtOnce = true
	case a.maxWait > 0:
		t.Limit = now + int64(a.maxWait)
	case up.mayHold(): // also in a call of another domain
		t.Limit = now + int64(nestedWait)
	}
}

// decided is what became of a call that waited with the ticket *p: an attempt that may run,
// or an error.
func (a *admission) decided(ctx context.Context, c *Call, p **admit.Ticket) (*running, error) {
	over := ctx.Err() != nil
	s := a.at.Stage.Lock()
	t := *p
	*p = nil
	switch {
	case t.State() == admit.Refused:
		return nil, a.turnedAway(s, c.inv, t, c.Attempt)
	case over: // it must not run any more: all goes back
		s.M.Cancel(s.Now(), t)
		c.inv.ownTotals().Note(&a.at, t, c.Attempt)
		s.Free(t)
		s.Unlock()
		return nil, c.inv.gaveUp(ctx, "")
	}
	r := a.run(ctx, c, t, s.Now())
	s.Unlock()
	return r, nil
}

// turnedAway is the error of a refused ticket, which it writes into the record of the call. It
// unlocks the stage.
func (a *admission) turnedAway(s *stage.Stage, inv *invocation, t *admit.Ticket, attempt int32) error {
	sum := inv.ownTotals()
	sum.Note(&a.at, t, attempt)
	sum.Waited(t, s.Now())
	f := s.Refusal(t, t.Refusal())
	s.Free(t)
	s.Unlock()
	return a.refusal(inv, &f)
}

// runTool is the innermost handler: from here on the call has run. An interceptor inside the gates may
// have called next on a goroutine of its own: a panic must not be the end of that.
func runTool(ctx context.Context, c *Call, t *tool) (res Result, err error) {
	r := c.run
	if r == nil {
		return Result{}, &Error{Tool: t.spec.Name, Reason: ErrRejected,
			Cause: errors.New("sluice: an interceptor made a Call of its own: it must change a copy of the one it was given")}
	}
	if why := r.Begin(); why != permit.None {
		return Result{}, r.mustNotBegin(ctx, why)
	}
	defer func() {
		if v := recover(); v != nil {
			res, err = Result{}, caught(c.Tool, v)
		}
		if r.Leave() {
			r.giveBack(nil)
		}
	}()
	if !c.isOnly() && !r.inv.attempts.Run() { // else nobody can have answered before
		r.CallOff()
		return Result{}, r.inv.refused(ErrRejected, "",
			errors.New("sluice: the call is over: an interceptor answered before its next had ended"))
	}
	if r.inv.loud {
		normal := false
		defer func() {
			if !normal { // a sink called Goexit: the code does not run
				r.CallOff()
				r.inv.attempts.CallOff()
			}
		}()
		r.emitStarted(ctx, c)
		normal = true
	}
	return c.runCode(ctx, t)
}

// starts says that the code of r, between which and admission nothing stands, is about to run. It is not
// if a sink calls Goexit.
func (r *running) starts(c *Call) {
	if r.Began(); !c.isOnly() {
		r.inv.attempts.Run()
	}
	if !r.inv.loud {
		return
	}
	normal := false
	defer func() {
		if !normal {
			r.CallOff()
		}
	}()
	r.emitStarted(r, c)
	normal = true
}

// runCode runs the tool's code.
func (c *Call) runCode(ctx context.Context, t *tool) (res Result, err error) {
	if c.code != nil {
		res.Value, err = c.code.Run(ctx)
	} else {
		res.Value, err = t.run(ctx, c.Input)
	}
	return res, err
}

// run makes c's attempt one that runs, with what the ticket t holds, from the instant now on.
// The stage is locked, unless it is the one attempt of a call that waited.
func (a *admission) run(ctx context.Context, c *Call, t *admit.Ticket, now int64) *running {
	r := a.newAttempt(ctx, c)
	r.Grant(&a.at, &c.inv.first.Tally, t, c.Attempt, now)
	c.inv.first.keep(r)
	return r
}

// newAttempt is c's, to be granted, with the context ctx.
func (a *admission) newAttempt(ctx context.Context, c *Call) *running {
	inv, sum := c.inv, c.inv.ownTotals()
	r := &sum.running
	if c.Attempt != 1 {
		r = &running{inv: inv}
	}
	if x := sum.aside.Load(); x != nil {
		x.again.Store(0) // whatever an earlier attempt met
	}
	r.Context = inside(ctx)
	return r
}
