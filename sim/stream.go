package sim

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
)

// stream is one Traffic, or the nested calls of one tool under one Traffic.
type stream struct {
	source
	name     string
	traffic  *Traffic
	tool     *tool
	pipeline *sluice.PipelineContext
	priority sluice.Priority
	nested   bool
	subs     []*stream
	until    int64 // no calls from then on

	rng *rand.Rand // draws made at the start of a call, so that they follow no policy's order
	n   int64      // calls so far

	units []string // that calls use, sorted
	uses  []Dist

	parts  []part
	asked  []string // units of parts
	costs  []int64  // of asked, for the call at hand
	needs  *admit.NeedSet
	holds  []hold // of needs
	counts counts
}

// part is one constraint on the stream's calls.
type part struct {
	k      *constraint
	cell   *admit.Cell // unless keyed
	shadow *shadow
	key    string // if keyed, unless asked of each call
	unit   int    // in asked, or -1: a call takes one
}

// hold is what one call takes from one cell.
type hold struct {
	cell   *admit.Cell
	shadow *shadow
	n      int64
	charge int64 // its number in the shadow's quota
}

func (s *simulation) newStream(t *Traffic, name, toolName string, outer *stream) (*stream, error) {
	st := &stream{name: name, traffic: t, tool: s.tools[toolName], nested: outer != nil, until: s.end}
	st.pipeline = &sluice.PipelineContext{Tenant: t.Tenant, Priority: t.Priority, Attrs: t.Attrs}
	st.priority = cmp.Or(t.Priority, st.tool.Spec.Policy.Priority, sluice.PriorityNormal)
	h := fnv.New64a()
	h.Write([]byte(name))
	st.rng = rand.New(rand.NewPCG(s.conf.Seed, h.Sum64()))
	if outer == nil {
		st.source = source{
			Arrivals: t.Arrivals,
			rng:      rand.New(rand.NewPCG(s.conf.Seed, ^h.Sum64())),
			from:     int64(t.From),
		}
		if t.For > 0 {
			st.until = min(st.until, int64(t.From+t.For))
		}
		st.units = slices.Sorted(maps.Keys(t.Uses))
		for _, u := range st.units {
			st.uses = append(st.uses, t.Uses[u])
		}
	} else {
		st.priority = max(st.priority, outer.priority)
	}
	if err := s.constrain(st); err != nil {
		return nil, err
	}
	s.streams = append(s.streams, st)
	for i, sub := range st.tool.Calls {
		own, before := name+" > "+sub, 0
		for _, o := range st.tool.Calls[:i] {
			if o == sub {
				before++
			}
		}
		if before > 0 { // a stream of its own, with draws of its own
			own += fmt.Sprintf(" (%d)", before+1)
		}
		x, err := s.newStream(t, own, sub, st)
		if err != nil {
			return nil, err
		}
		st.subs = append(st.subs, x)
	}
	return st, nil
}

// input reports whether calls of st differ in what functions are asked.
func (st *stream) input() bool { return !st.nested && st.traffic.Input != nil }

// constrain works out what the calls of st need, once if it is the same for all of them.
func (s *simulation) constrain(st *stream) error {
	policy := &st.tool.Spec.Policy
	same := true
	c := st.call(nil)
	for _, k := range st.tool.own {
		p := part{k: k, unit: -1}
		if k.scope.Keyed() {
			same = false
			if !st.input() {
				var err error
				if p.key, err = st.key(k, c); err != nil {
					return err
				}
			}
		} else {
			key, _ := k.scope.Fixed(st.tool.Spec.Name, st.tool.Spec.Type)
			p.cell = s.m.Cell(0, k.class, key)
			p.shadow = s.shadow(k, key)
		}
		if k.metered() && (policy.Cost != nil || k.class.Unit != "") {
			if p.unit = slices.Index(st.asked, k.class.Unit); p.unit < 0 {
				p.unit = len(st.asked)
				st.asked = append(st.asked, k.class.Unit)
			}
			same = same && policy.Cost != nil && !st.input()
		}
		st.parts = append(st.parts, p)
	}
	st.costs = make([]int64, len(st.asked))
	if !st.input() { // else each call is asked about, with its input
		if err := st.ask(c); err != nil {
			return err
		}
	}
	if !same {
		return nil
	}
	var list []admit.Need
	for _, p := range st.parts {
		if n := st.amount(&p); n > 0 || p.k.class.Kind == admit.Tokens { // zero too: what it turns out to use counts
			list = append(list, admit.Need{Cell: p.cell, N: n})
			st.holds = append(st.holds, hold{cell: p.cell, shadow: p.shadow, n: n})
		}
	}
	st.needs = admit.NewNeedSet(list)
	return nil
}

// call is what key and cost functions are asked about.
func (st *stream) call(input any) sluice.Call {
	return sluice.Call{
		ID:       "simulated",
		Tool:     st.tool.Spec.Name,
		Type:     st.tool.Spec.Type,
		Input:    input,
		Priority: st.priority,
		Attempt:  1,
		Pipeline: st.pipeline,
	}
}

func (st *stream) key(k *constraint, c sluice.Call) (string, error) {
	key, _ := sluice.Scope(k.scope).Key(st.tool.Spec, c)
	if len(key) > rules.MaxKeyBytes {
		return "", fmt.Errorf("sim: the key of %s for %s has %d bytes: must have at most %d",
			k.class.Name, st.name, len(key), rules.MaxKeyBytes)
	}
	return key, nil
}

// ask fills in the costs of c.
func (st *stream) ask(c sluice.Call) error {
	for i, unit := range st.asked {
		if f := st.tool.Spec.Policy.Cost; f != nil {
			if st.costs[i] = f(c, unit); st.costs[i] < 0 {
				return fmt.Errorf("sim: Policy.Cost of unit %q for %s is %d: must not be negative", unit, st.name, st.costs[i])
			}
		} else {
			st.costs[i] = st.tool.learned.Estimate(unit)
		}
	}
	return nil
}

// amount is what the call at hand takes of p.
func (st *stream) amount(p *part) int64 {
	if p.unit < 0 {
		return 1
	}
	n := st.costs[p.unit]
	if p.k.class.Kind == admit.Tokens {
		return min(n, p.k.rate.Burst)
	}
	return min(n, rules.MaxLimit+1) // too wide whatever it is
}

// fill gives c's ticket its needs. It answers the constraint whose table of keys is full,
// if one is.
func (s *simulation) fill(c *call, t *admit.Ticket) (full *constraint, err error) {
	st := c.s
	if st.needs != nil {
		s.m.Fixed(t, st.needs)
		c.holds = append(c.holds, st.holds...)
		return nil, nil
	}
	var asked sluice.Call
	if st.input() {
		asked = st.call(st.traffic.Input(st.n))
	}
	if st.input() || st.tool.Spec.Policy.Cost == nil {
		if err := st.ask(asked); err != nil {
			return nil, err
		}
	}
	for i := range st.parts {
		p := &st.parts[i]
		n := st.amount(p)
		if n == 0 && p.k.class.Kind != admit.Tokens {
			continue
		}
		cell, sh := p.cell, p.shadow
		if cell == nil {
			key := p.key
			if st.input() {
				if key, err = st.key(p.k, asked); err != nil {
					return nil, err
				}
			}
			if key == "" && p.k.scope.Kind() != rules.ByTenant {
				continue
			}
			if cell = s.m.Cell(s.now, p.k.class, key); cell == nil {
				return p.k, nil
			}
			sh = s.shadow(p.k, key)
		}
		s.m.Add(t, cell, n)
		c.holds = append(c.holds, hold{cell: cell, shadow: sh, n: n})
	}
	return nil, nil
}
