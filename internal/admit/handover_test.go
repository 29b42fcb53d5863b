package admit

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/breaker"
)

// state is all of s that decides who starts next, and what is told of those who wait and run.
func (s *side) state(w *twins) string {
	var b strings.Builder
	m := s.m
	fmt.Fprintln(&b, "starts", m.starts, "waiting", m.waiting, "running", m.running, "queues", m.queues, "marked", m.marked,
		"claims", len(m.claims), "lanes", len(m.all), "due", m.Due(), "notices", m.Notices(nil) != nil)
	var cells []*Cell
	for _, k := range s.classes {
		for _, key := range twinKeys { // the first of which is that of a class without keys
			if c := k.Lookup(key); c != nil {
				cells = append(cells, c)
			}
		}
	}
	for _, c := range cells {
		fmt.Fprintln(&b, cellName(c), "calls", c.calls, "lanes", c.lanes, c.bucket.FullAt())
		if c.kind == Slots {
			fmt.Fprintln(&b, "  used", c.used, "held", c.average(), "stuck", c.stuck)
		}
		if q := c.q; q != nil {
			fmt.Fprintln(&b, "  since", q.since, q.stalled, "in order", q.n, q.ordered, "aside", len(q.aside))
			for p := range q.levels {
				l := &q.levels[p]
				if q.known&(1<<p) == 0 {
					continue
				}
				fmt.Fprintln(&b, "  level", p, "at", l.v, "load", l.load, "passed", q.starts-q.last[p], q.ordered&(1<<p))
				for _, name := range []string{"tenant 0", "tenant 1", "tenant 2"} {
					for f := range l.by.all {
						if f.tenant.name == name || f.tenant == &m.everybody && name == "tenant 0" {
							fmt.Fprintln(&b, "    ", name, f.tag, f.place, f.lanes.Len())
						}
					}
				}
			}
		}
	}
	for _, c := range w.calls {
		t := w.of(c, s).t
		fmt.Fprint(&b, c.name, " ", t.state, " place ", t.place, " granted ", t.Granted(), " as ", t.read().startedAs, " overtaken ", m.Overtaken(t))
		for _, x := range t.Waits() {
			fmt.Fprint(&b, " ", x.Cell.class.Name, " ", x.For)
		}
		if t.lane != nil {
			fmt.Fprint(&b, " fails ", t.lane.fails)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// Handing over comes to what giving back and serving comes to: in one step and in two the same calls
// start, and all is left as it would be.
func TestHandOver_TheSameAsInTwoSteps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	handed, worlds := 0, uint64(300)
	if raceDetector { // which has nothing to find in one goroutine, and takes ten times as long
		worlds = 12
	}
	for n := range worlds {
		r := rand.New(rand.NewPCG(seed, n))
		p := Policy{Ordered: r.IntN(4) > 0, Ageing: 1 + r.IntN(8), Claim: 1 + r.IntN(4), MaxQueue: 5 + r.IntN(40), MaxPerTenant: 20,
			Shed: r.IntN(3) == 0, Standing: r.IntN(4) == 0, RefuseLate: r.IntN(4) == 0, Weights: map[string]int{"tenant 1": 3}}
		w := &twins{TB: t, r: r, slow: newSide(t, false), fast: newSide(t, false), last: map[string]int{}, busy: n%4 > 0}
		w.slow.apart = true
		for _, s := range []*side{w.slow, w.fast} {
			s.m.SetPolicy(0, p)
		}
		if n%2 == 0 { // so that it is the slots that are short
			w.both("rates are wide", func(s *side) {
				for _, k := range s.classes {
					if k.Kind == Tokens {
						s.m.SetRate(0, k, s.rate("", 0, 1e9, sec, 1e6).Rate)
					}
				}
			})
		}
		switch n % 6 {
		case 0:
			w.only = []int{0, 1}
			w.both("breakers are strict", func(s *side) {
				s.m.SetBreaker(0, s.classes[0], &breaker.Config{Failures: 1, Cooldown: ms})
			})
		case 1:
			w.only = []int{9, 10}
		}
		for range 300 {
			before := w.fast.m.Work()
			w.step()
			after := w.fast.m.Work()
			if after.Starts > before.Starts && after.Examined == before.Examined {
				handed++
			}
			if a, b := w.slow.state(w), w.fast.state(w); a != b {
				w.fail("world %d: in two steps\n%s\nand in one\n%s", n, a, b)
			}
		}
		w.wind()
		require.Equal(t, w.slow.state(w), w.fast.state(w))
	}
	t.Logf("%d calls were handed what they needed", handed)
	require.Greater(t, handed, int(worlds)*10/3)
}

// countdown is a limiter of other code with so many tokens.
type countdown struct{ left int }

func (c *countdown) Wait() int64 {
	if c.left > 0 {
		return 0
	}
	return Never
}
func (c *countdown) Take()      { c.left-- }
func (c *countdown) Give(int64) { c.left++ }

// told is a semaphore of other code that says what it was asked.
type told struct{ asked []string }

func (s *told) TryAcquire(int64) bool { s.asked = append(s.asked, "acquire"); return true }
func (s *told) Release(int64)         { s.asked = append(s.asked, "release") }

// What other code counts as well is asked for each call.
func TestHandOver_NotOfWhatOthersShare(t *testing.T) {
	w := newWorld(t, standard())
	tokens := &countdown{left: 2}
	k, shared := slots("k", 0, 1), &Class{Name: "foreign", Kind: Foreign, Rank: 1, Foreign: tokens}
	set := NewNeedSet([]Need{{w.cell(k), 1}, {w.cell(shared), 1}})
	call := func(name string) *Ticket {
		x := w.m.Ticket()
		x.Plan, x.Owner = w.plan(), name
		w.m.Fixed(x, set)
		w.m.Arrive(w.now, x)
		w.calls = append(w.calls, x)
		return x
	}
	first, second := call("first"), call("second")
	third := call("third")
	w.finish(first)
	require.Equal(t, []any{Running, Waiting, 0}, []any{second.State(), third.State(), tokens.left})
	w.finish(second)
	require.Equal(t, []any{Waiting, 0}, []any{third.State(), tokens.left})

	w.cancel(third)
	s := new(told)
	k = &Class{Name: "shared", Kind: Slots, Limit: 1, Semaphore: s}
	set = NewNeedSet([]Need{{w.cell(k), 1}})
	first, second = call("first"), call("second")
	w.finish(first)
	require.Equal(t, Running, second.State())
	require.Equal(t, []string{"acquire", "release", "acquire"}, s.asked)
}

// More waits may be over at one instant than an event ends: none of them starts all the same.
func TestHandOver_NotToWhomItIsTooLate(t *testing.T) {
	w := newWorld(t, standard())
	k := slots("k", 0, 1)
	set, plan := NewNeedSet([]Need{{w.cell(k), 1}}), w.plan()
	var list []*Ticket
	for range 3*batch + 2 {
		x := w.m.Ticket()
		x.Plan, x.Limit = plan, 10
		w.m.Fixed(x, set)
		w.m.Arrive(w.now, x)
		list = append(list, x)
	}
	w.m.Finish(20, list[0], breaker.Success)
	for w.m.Pending() {
		w.m.Step(20)
	}
	for i, x := range list[1:] {
		require.Equal(t, Refused, x.State(), "call %d", i)
	}
}

// Whoever starts by it may make others give way, as whoever else starts.
func TestHandOver_OthersGiveWay(t *testing.T) {
	p := standard()
	p.Standing = true
	w := newWorld(t, p)
	k := slots("k", 0, 1)
	set, plan := NewNeedSet([]Need{{w.cell(k), 1}}), w.plan()
	var list []*Ticket
	for i := range 30 { // of many tenants, so that each is the head of its lane
		x := w.m.Ticket()
		x.Plan, x.Tenant = plan, fmt.Sprint(i%10)
		w.m.Fixed(x, set)
		w.m.Arrive(w.now, x)
		list = append(list, x)
	}
	shed := 0
	for run := list[0]; run != nil; {
		w.now += 10 * ms
		before := w.m.Work().Examined
		w.m.Finish(w.now, run, breaker.Success)
		run = nil
		gaveWay := false
		for x := w.m.Decided(); x != nil; x = x.Next() {
			if x.State() == Running {
				run = x
			} else {
				gaveWay = true
			}
		}
		if gaveWay && w.m.Work().Examined == before {
			shed++
		}
		require.Zero(t, w.m.marked, "cells that nobody has looked at, at %d", w.now)
	}
	require.Positive(t, shed, "calls that gave way as another was handed what it needed")
}
