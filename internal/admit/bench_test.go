package admit

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
)

// crowd is a machine in which many wait in 10,000 lanes: 20 tools, 100 tenants, 5 levels.
type crowd struct {
	*bare
	rng   *rand.Rand
	lanes []laneOf
	n     int
}

type laneOf struct {
	plan   uint64
	level  int8
	tenant string
	needs  *NeedSet
}

func newCrowd(topology string, n int) *crowd {
	c := &crowd{bare: newBare(standard()), rng: rand.New(rand.NewPCG(1, 1)), n: n}
	global := c.cell(slots("global", 3, 64))
	var types, tools, tenants []*Cell
	for i := range 10 {
		types = append(types, c.cell(slots("type "+strconv.Itoa(i), 1, 12)))
	}
	for i := range 20 {
		tools = append(tools, c.cell(slots("tool "+strconv.Itoa(i), 0, 6)))
	}
	for i := range 100 {
		tenants = append(tenants, c.cell(slots("tenant "+strconv.Itoa(i), 2, 3)))
	}
	r, err := bucket.NewRate(1, 2, 8)
	if err != nil {
		panic(err)
	}
	rate := c.cell(&Class{Name: "rate", Kind: Tokens, Rank: 3, Rate: &r})
	for k, tool := range tools {
		for i, tenant := range tenants {
			cells := []*Cell{tool, types[k%10], global}
			switch topology {
			case "rate":
				cells = []*Cell{tool, types[k%10], global, rate}
			case "cross":
				cells = []*Cell{tool, types[k%10], tenant, global}
			}
			c.m.Together(cells, nil)
			needs := make([]Need, len(cells))
			for j, cell := range cells {
				needs[j] = Need{cell, 1}
			}
			set := NewNeedSet(needs)
			for level := range int8(5) {
				c.lanes = append(c.lanes, laneOf{uint64(k), level, strconv.Itoa(i), set})
			}
		}
	}
	return c
}

// come has a call of a random lane arrive.
func (c *crowd) come() *Ticket {
	l := &c.lanes[c.rng.IntN(len(c.lanes))]
	t := c.m.Ticket()
	t.Plan, t.Level, t.Tenant = l.plan, l.level, l.tenant
	c.m.Fixed(t, l.needs)
	if c.m.Arrive(c.now, t) == Running {
		c.runs = append(c.runs, t)
	}
	return t
}

// fill has calls arrive until n wait.
func (c *crowd) fill() {
	for c.m.Waiting() < c.n {
		c.now++
		c.come()
	}
}

// end ends a random call that runs; without one, time passes.
func (c *crowd) end() {
	c.now++
	if len(c.runs) == 0 {
		c.now = max(c.now, c.m.Due())
		c.m.Tick(c.now)
		c.starts()
		return
	}
	i := c.rng.IntN(len(c.runs))
	t := c.runs[i]
	c.runs[i] = c.runs[len(c.runs)-1]
	c.runs = c.runs[:len(c.runs)-1]
	c.m.Finish(c.now, t, breaker.Success)
	c.m.Free(t)
	if c.m.Due() <= c.now {
		c.m.Tick(c.now)
	}
	c.starts()
}

func (c *crowd) starts() {
	for t := c.m.Decided(); t != nil; {
		next := t.Next()
		c.runs = append(c.runs, t)
		t = next
	}
}

func heapNow() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

var (
	topologies = []string{"chain", "cross", "rate"}
	crowds     = []int{1e3, 1e4, 1e5, 1e6}
)

func eachCrowd(b *testing.B, f func(b *testing.B, c *crowd)) {
	for _, topology := range topologies {
		for _, n := range crowds {
			b.Run(fmt.Sprintf("%s/waiting=%d", topology, n), func(b *testing.B) {
				c := newCrowd(topology, n)
				c.fill()
				b.ReportAllocs()
				f(b, c)
			})
		}
	}
}

// One call arrives among many that wait; another leaves, so that their number stays.
func BenchmarkArriveAndCancel(b *testing.B) {
	eachCrowd(b, func(b *testing.B, c *crowd) {
		var ts [256]*Ticket
		n := 0
		for b.Loop() {
			if i := n % len(ts); ts[i] != nil {
				c.m.Cancel(c.now, ts[i])
				c.m.Free(ts[i])
			}
			t := c.come()
			if t.State() == Running { // it would be ended elsewhere
				c.runs = c.runs[:len(c.runs)-1]
			}
			ts[n%len(ts)] = t
			n++
		}
	})
}

// One call ends, others start, as many arrive: ns per operation is per end with what follows.
func BenchmarkEndAndAdmit(b *testing.B) {
	eachCrowd(b, func(b *testing.B, c *crowd) {
		before := c.m.Work()
		for b.Loop() {
			c.end()
			for c.m.Waiting() < c.n {
				c.come()
			}
		}
		after := c.m.Work()
		starts := float64(max(1, after.Starts-before.Starts))
		b.ReportMetric(float64(after.Moved-before.Moved)/starts, "moved/start")
		b.ReportMetric(float64(after.Examined-before.Examined)/starts, "examined/start")
		b.ReportMetric(b.Elapsed().Seconds()*1e9/starts, "ns/start")
	})
}

// What a waiting call costs, without the future and the context of its caller.
func BenchmarkBytesPerWaiter(b *testing.B) {
	for _, n := range crowds {
		b.Run(fmt.Sprintf("waiting=%d", n), func(b *testing.B) {
			var per float64
			for range b.N {
				c := newCrowd("chain", n)
				before := heapNow()
				c.fill()
				per = float64(heapNow()-before) / float64(n)
				runtime.KeepAlive(c)
			}
			b.ReportMetric(per, "B/waiter")
		})
	}
}

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
	switch plan {
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
