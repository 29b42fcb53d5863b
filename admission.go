package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// admission is the stage of one tool in one executor: which cells a call needs, how it
// waits for them, and what is given back. It never changes once it is compiled.
type admission struct {
	tool             *tool
	stage            *stage.Stage
	dropped          bool    // its plan no longer keeps the cells of parts; guarded by the stage's lock
	next             Handler // what admitted calls run; nil means the tool itself
	plan             *admit.Plan
	parts            []part         // narrow before wide
	needs            *admit.NeedSet // if it is the same for every call
	keys             []rules.Scope  // to ask each call for
	units            []string       // to ask the cost of
	timeout, maxWait time.Duration
	classify         func(Call, Result, error) Outcome
	cost             func(Call, string) int64
}

// part is one constraint on the tool's calls.
type part struct {
	class *admit.Class
	cell  *admit.Cell // unless keyed
	key   int         // in keys
	unit  int         // in units, or -1: every call takes one
}

// newAdmission compiles what e's gates, and the tool's own policy, ask of it.
func newAdmission(e *Executor, t *tool) *admission {
	a := &admission{tool: t, stage: e.stage}
	s := a.stage.Lock()
	for _, g := range append([]*gateCore{&t.shared.core}, e.gates...) {
		for _, l := range g.limits {
			key, applies := l.scope.Fixed(t.spec.Name, t.spec.Type)
			if !applies {
				continue
			}
			p := part{class: l.class, unit: -1, key: -1}
			if l.scope.Keyed() {
				p.key = index(&a.keys, l.scope)
			} else {
				p.cell = s.M.Pin(s.Now(), l.class, key)
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
	s.M.Together(fixed, keyed)
	s.Unlock()
	a.configure(e)
	return a
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
	a.plan = &admit.Plan{Tool: a.tool.shared.id, Client: e.client, Name: a.tool.spec.Name}
	a.timeout = cmp.Or(p.Timeout, e.conf.Timeout)
	a.maxWait = cmp.Or(p.MaxWait, e.conf.MaxWait)
	a.cost = p.Cost
	a.classify = firstOpinion(p.Classify, e.conf.Classify)
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

// firstOpinion asks the tool's own classify function, and the executor's where that has none.
func firstOpinion(own, common func(Call, Result, error) Outcome) func(Call, Result, error) Outcome {
	switch {
	case own == nil:
		return common
	case common == nil:
		return own
	}
	return func(c Call, r Result, err error) Outcome {
		if o := classified(own, c, r, err); o != OutcomeAuto {
			return o
		}
		return common(c, r, err)
	}
}

// handler is the admission stage around next.
func (a *admission) handler(next Handler) Handler {
	a.next = next
	return func(ctx context.Context, c Call) (Result, error) {
		if c.inv == nil {
			return Result{}, errors.New("sluice: a gate's Handler was called outside an Executor: list the gate in Config.Interceptors")
		}
		return a.do(ctx, &c, 0)
	}
}

// do admits c and runs it. The instant now is the present one, or zero.
func (a *admission) do(ctx context.Context, c *Call, now int64) (res Result, err error) {
	inv := c.inv
	if exec := inv.plan.exec; len(exec.outer) > 0 { // which may answer before it has ended
		exec.helperStarts()
		defer exec.helperEnds()
	}
	if c.Attempt, err = inv.attempt(); err != nil {
		return Result{}, err
	}
	entered := false
	defer func() {
		if !entered { // it was refused, or a sink called Goexit
			inv.attemptEnds()
		}
	}()
	if inv.loud && len(inv.plan.exec.outer) > 0 {
		inv.emitRetry(ctx, c)
		defer func() { inv.first.attemptEnded(err) }()
	}
	r, err := a.enter(ctx, c, now)
	if err != nil {
		return Result{}, err
	}
	entered = true
	return a.perform(r, c)
}

// code runs what an admitted call is for.
func (a *admission) code(r *running, c *Call) (Result, error) {
	if a.next == nil {
		return runTool(r, c, a.tool)
	}
	return a.next(r, *c)
}

// perform runs an admitted call.
func (a *admission) perform(r *running, c *Call) (Result, error) {
	c.run = r
	if a.timeout > 0 {
		return a.timed(r, c)
	}
	return a.attempt(r, c)
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
		k := keyOf(s, c)
		if len(k) > rules.MaxKeyBytes {
			normal = true
			return c.inv.refused(ErrInvalidArguments, s.String(), fmt.Errorf("sluice: key has %d bytes: must have at most %d", len(k), rules.MaxKeyBytes))
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
			if n = a.cost(c.shown(), u); n < 0 {
				normal = true
				return c.inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Policy.Cost of unit %q is negative: must not be", u))
			}
		case u != "":
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

// cellFunc finds or makes the cell of a key: Machine.Cell, or Machine.Peek for a forecast.
type cellFunc func(*admit.Machine, int64, *admit.Class, string) *admit.Cell

// fill gives t its needs, with cells of keys that are new made by cell. It answers the refusal
// by a table of keys that is full.
func (a *admission) fill(s *stage.Stage, t *admit.Ticket, c *Call, q *asked, now int64, cell cellFunc) error {
	if a.needs != nil && !a.dropped {
		s.M.Fixed(t, a.needs)
		return nil
	}
	for i := range a.parts {
		p := &a.parts[i]
		n := int64(1)
		if p.unit >= 0 {
			switch n = q.cost(p.unit); {
			case p.class.Kind == admit.Tokens:
				n = min(n, p.class.Rate.Burst()) // zero too: what it turns out to use counts
			case n == 0:
				continue
			default:
				n = min(n, rules.MaxLimit+1) // too wide whatever it is, and sums stay in range
			}
		}
		x, key := p.cell, ""
		if x != nil {
			key = x.Key()
		} else if key = q.key(p.key); key == "" && a.keys[p.key].Kind() == rules.ByKey {
			continue
		}
		if x == nil || a.dropped {
			if x = cell(s.M, now, p.class, key); x == nil {
				err := c.inv.refused(ErrSaturated, p.class.Name, errors.New("sluice: all its keys are busy"))
				if at := s.M.Vacancy(p.class); at != admit.Never {
					err.RetryAfter = time.Duration(max(0, at-now))
				}
				return err
			}
		}
		s.M.Add(t, x, n)
	}
	return nil
}
