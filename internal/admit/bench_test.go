package admit

import (
	"fmt"
	"strconv"
	"testing"
)

// What queues of a thousand to a million calls cost is measured in internal/compare, beside
// what others need.

// pingPong is the worst case for moving lanes: every head needs two limits of which one is
// always full. Whichever frees its slot sends all heads that wait there to the other, and
// only then serves the single calls that keep it busy.
type pingPong struct {
	*bare
	x, y, both *NeedSet
	odd        bool
}

func newPingPong(lanes, claim int) *pingPong {
	p := standard()
	p.Claim = claim
	c := &pingPong{bare: newBare(p)}
	x, y := c.cell(slots("x", 0, 1)), c.cell(slots("y", 0, 1))
	c.x, c.y, c.both = NewNeedSet([]Need{{x, 1}}), NewNeedSet([]Need{{y, 1}}), NewNeedSet([]Need{{x, 1}, {y, 1}})
	c.m.Together([]*Cell{x}, nil)
	c.m.Together([]*Cell{y}, nil)
	c.m.Together([]*Cell{x, y}, nil)
	for range 2 {
		c.arrive(1, 0, "", c.x, 1)
		c.arrive(2, 0, "", c.y, 2)
	}
	for i := range lanes {
		c.arrive(3, 4, strconv.Itoa(i), c.both, 3)
	}
	return c
}

// step ends the call that holds x, then, the next time, the one that holds y.
func (c *pingPong) step() {
	c.now++
	c.odd = !c.odd
	i := 0
	for j, t := range c.runs {
		if n := t.Owner.(int); n == 3 || n == 1 == c.odd {
			i = j
		}
	}
	plan, tenant := c.runs[i].Plan, c.runs[i].Tenant
	c.finish(i, func(*Ticket) {})
	switch plan.Tool {
	case 1:
		c.arrive(1, 0, "", c.x, 1)
	case 2:
		c.arrive(2, 0, "", c.y, 2)
	default:
		c.arrive(3, 4, tenant, c.both, 3)
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, claim := range []int{4, 1 << 30} {
		for _, lanes := range []int{10, 100, 1000, 10_000} {
			name := fmt.Sprintf("R=%d/lanes=%d", claim, lanes)
			if claim > 1000 {
				name = fmt.Sprintf("no claims/lanes=%d", lanes)
			}
			b.Run(name, func(b *testing.B) {
				c := newPingPong(lanes, claim)
				before := c.m.Work()
				for b.Loop() {
					c.step()
				}
				after := c.m.Work()
				starts := float64(max(1, after.Starts-before.Starts))
				b.ReportMetric(float64(after.Moved-before.Moved)/starts, "moved/start")
				b.ReportMetric(float64(after.Examined-before.Examined)/starts, "examined/start")
			})
		}
	}
}

// The cost of an event is bounded by the lanes there are, also in the worst case: each head
// moves at most once for each of its cells.
func TestPingPongIsBounded(t *testing.T) {
	for _, claim := range []int{1, 4, 1 << 30} {
		const lanes = 200
		c := newPingPong(lanes, claim)
		worst := uint64(0)
		both := 0
		for range 2000 {
			before := c.m.Work()
			c.step()
			worst = max(worst, c.m.Work().Moved-before.Moved)
			for _, t := range c.runs {
				if t.Owner.(int) == 3 {
					both++
				}
			}
		}
		t.Logf("R=%d: at most %d lanes moved in one event, %d steps with a call that has both", claim, worst, both)
		if worst > 2*(lanes+2) {
			t.Errorf("R=%d: %d lanes moved in one event, there are %d", claim, worst, lanes+2)
		}
		if claim <= 4 && both < 500 {
			t.Errorf("R=%d: calls that need both ran in %d of 2000 steps", claim, both)
		}
	}
}

// BenchmarkQueued is calls that each wait at a limit of one, of one tool or of several.
func BenchmarkQueued(b *testing.B) {
	for _, tools := range []int{1, 4} {
		b.Run(fmt.Sprintf("tools=%d", tools), func(b *testing.B) {
			c := newBare(standard())
			all := c.cell(slots("all", 7, 1))
			var sets []*NeedSet
			for i := range tools {
				sets = append(sets, NewNeedSet([]Need{{c.cell(slots(fmt.Sprint("tool ", i), 0, Unlimited)), 1}, {all, 1}}))
			}
			next := 0
			call := func() {
				next++
				c.arrive(uint64(next%tools), 4, "", sets[next%tools], nil)
			}
			for range 100 {
				call()
			}
			for b.Loop() {
				c.now++
				c.finish(0, func(*Ticket) {})
				call()
			}
		})
	}
}
