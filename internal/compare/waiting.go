package compare

import (
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
)

// Waiting is what a queue of a certain length costs. Calls are of 20 tools, 100 tenants and
// 5 levels: 10,000 lanes.
type Waiting struct {
	Calls    int
	Machines []QueueCost // one for each of Topologies
	Err      error
}

// QueueCost is what the admission machine needs, in nanoseconds, and how many lanes it moved
// for each start.
type QueueCost struct{ Leave, Start, Moved float64 }

// Topologies are the sets of limits that a call has to agree with: slots of its tool, its
// type and all calls, which hold each other; the same and slots of its tenant, which cross
// those; and the same with a rate in place of the tenant.
var Topologies = []string{"chain", "crossing", "rate"}

// QueueSizes are how many calls wait.
func (s Size) QueueSizes() []int {
	if s.Keys < Full.Keys {
		return []int{s.Keys / 10, s.Keys}
	}
	return []int{1e3, 1e4, 1e5, 1e6}
}

// MeasureWaiting measures queues of the sizes of s, each several times, and keeps the median.
func MeasureWaiting(s Size, o Options) []Waiting {
	ops, rounds := 200_000, max(o.Rounds, 1)
	if o.Smoke {
		ops, rounds = 100, 1
	}
	var out []Waiting
	for _, n := range s.QueueSizes() {
		w := Waiting{Calls: n}
		for _, topology := range Topologies {
			q := newLongQueue(topology, n)
			var leave, start []float64
			for range rounds {
				leave = append(leave, timed(ops, q.comeAndLeave))
			}
			before := q.m.Work()
			for range rounds {
				start = append(start, timed(ops, q.endAndCome))
			}
			if err := q.check(); err != nil {
				w.Err = err
			}
			after := q.m.Work()
			starts := float64(max(after.Starts-before.Starts, 1))
			w.Machines = append(w.Machines, QueueCost{
				Leave: median(leave),
				Start: median(start) * float64(ops*rounds) / starts,
				Moved: float64(after.Moved-before.Moved) / starts,
			})
		}
		out = append(out, w)
		runtime.GC()
	}
	return out
}

func timed(n int, f func()) float64 {
	start := time.Now()
	for range n {
		f()
	}
	return float64(time.Since(start).Nanoseconds()) / float64(n)
}

// longQueue is an admission machine in which many calls wait.
type longQueue struct {
	m     *admit.Machine
	walk  walk
	now   int64
	size  int
	lanes []longLane
	runs  []*admit.Ticket
}

type longLane struct {
	plan   *admit.Plan
	level  int8
	tenant string
	needs  *admit.NeedSet
}

const (
	queueTools   = 20
	queueTenants = 100
	queueLevels  = 5
)

func newLongQueue(topology string, n int) *longQueue {
	q := &longQueue{size: n, walk: walk{x: 1}, m: admit.NewMachine(admit.Policy{
		Ordered: true, Ageing: 8, Claim: 4, MaxQueue: 2 * n, MaxPerTenant: 2 * n})}
	slots := func(name string, rank uint8, limit int64) *admit.Cell {
		return q.m.Cell(0, &admit.Class{Name: name, Kind: admit.Slots, Rank: rank, Limit: limit}, "")
	}
	var tools, types, tenants []*admit.Cell
	for i := range queueTools {
		tools = append(tools, slots("tool "+strconv.Itoa(i), 0, 6))
	}
	for i := range queueTools / 2 {
		types = append(types, slots("type "+strconv.Itoa(i), 4, 12))
	}
	for i := range queueTenants {
		tenants = append(tenants, slots("tenant "+strconv.Itoa(i), 2, 3))
	}
	all := slots("all", 7, 64)
	r, err := bucket.NewRate(1, 2, 8)
	if err != nil {
		panic(err) // build makes it the row's error
	}
	rate := q.m.Cell(0, &admit.Class{Name: "rate", Kind: admit.Tokens, Rank: 5, Rate: &r}, "")
	client := admit.NewClient()
	for i, tool := range tools {
		plan := newPlan(uint64(i+1), client)
		for j, tenant := range tenants {
			cells := []*admit.Cell{tool, types[i/2], all}
			switch topology {
			case "crossing":
				cells = []*admit.Cell{tool, tenant, types[i/2], all}
			case "rate":
				cells = []*admit.Cell{tool, types[i/2], rate, all}
			}
			q.m.Together(cells, nil)
			var needs []admit.Need
			for _, c := range cells {
				needs = append(needs, admit.Need{Cell: c, N: 1})
			}
			set := admit.NewNeedSet(needs)
			for level := range int8(queueLevels) {
				q.lanes = append(q.lanes, longLane{plan, level, "tenant-" + strconv.Itoa(j), set})
			}
		}
	}
	for q.m.Waiting() < n {
		q.come()
	}
	return q
}

// come has a call of a random lane arrive.
func (q *longQueue) come() *admit.Ticket {
	q.now++
	l := &q.lanes[q.walk.next(len(q.lanes))]
	t := q.m.Ticket()
	t.Plan, t.Level, t.Tenant = l.plan, l.level, l.tenant
	q.m.Fixed(t, l.needs)
	if q.m.Arrive(q.now, t) == admit.Running {
		q.runs = append(q.runs, t)
	}
	return t
}

// comeAndLeave is a call that comes, and gives up if it has to wait.
func (q *longQueue) comeAndLeave() {
	if t := q.come(); t.State() == admit.Waiting {
		q.m.Cancel(q.now, t)
		q.m.Free(t)
	}
	q.started()
}

// endAndCome has a call end, or time pass if none runs, and calls come until as many wait
// as before.
func (q *longQueue) endAndCome() {
	q.now++
	if len(q.runs) == 0 {
		q.now = max(q.now, q.m.Due())
		q.m.Tick(q.now)
	} else {
		i := q.walk.next(len(q.runs))
		t := q.runs[i]
		q.runs[i] = q.runs[len(q.runs)-1]
		q.runs = q.runs[:len(q.runs)-1]
		q.m.Finish(q.now, t, breaker.Success)
		q.m.Free(t)
		if q.m.Due() <= q.now {
			q.m.Tick(q.now)
		}
	}
	for q.started(); q.m.Waiting() < q.size; q.started() {
		q.come()
	}
}

func (q *longQueue) started() {
	for t := q.m.Decided(); t != nil; t = t.Next() {
		q.runs = append(q.runs, t)
	}
}

func (q *longQueue) check() error {
	if w, r := q.m.Waiting(), q.m.Running(); w < q.size || r != len(q.runs) || r > 64 {
		return fmt.Errorf("compare: %d calls wait and %d run, %d of them known: %w", w, r, len(q.runs), errWrong)
	}
	return nil
}

func (r Report) writeWaiting(p printer) {
	if len(r.Waiting) == 0 {
		return
	}
	p("\n## A long queue\n")
	p("Calls of 20 tools, 100 tenants and 5 levels: 10,000 lanes. *Leave* is a call that comes and gives up, *start* one that ends, the next that starts, and another that comes; both in nanoseconds of the admission machine, without a lock or a clock. *Moved* is how many lanes were moved for each start. *Chain* is slots of the tool, its type and all calls, *crossing* has slots of the tenant too, *rate* a rate.\n")
	head, line := "| waiting |", "|--:|"
	for _, t := range Topologies {
		head += fmt.Sprintf(" %s: leave | start | moved |", t)
		line += "--:|--:|--:|"
	}
	p("%s\n%s", head, line)
	for _, w := range r.Waiting {
		if w.Err != nil {
			p("| %d | %s |", w.Calls, oneLine(w.Err))
			continue
		}
		row := fmt.Sprintf("| %d |", w.Calls)
		for _, m := range w.Machines {
			row += fmt.Sprintf(" %s | %s | %.2f |", number(m.Leave), number(m.Start), m.Moved)
		}
		p("%s", row)
	}
}
