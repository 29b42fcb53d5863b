package rules

import (
	"cmp"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/bucket"
)

// Tool is what limits one tool alone.
type Tool struct {
	Name        string
	Concurrency int // most calls in flight; zero means no limit
	Rates       []Rate
	Breaker     *Breaker // may be nil

	buckets []bucket.Rate // of Rates
}

// CompleteTool fills in the defaults of rates and breaker, in the fields that begin with field, and
// is what they limit the tool to. A probe has as long as a call, if that is bounded.
func CompleteTool[R asRate](field, name string, concurrency int, rates *[]R, b *Breaker, timeout time.Duration) (Tool, error) {
	t := Tool{Name: name, Concurrency: concurrency, Breaker: b}
	list, buckets, err := CompleteRates(field+".Rates", *rates)
	if err != nil {
		return t, err
	}
	for _, r := range list {
		t.Rates = append(t.Rates, Rate(r))
	}
	*rates, t.buckets = list, buckets
	if b != nil {
		b.Lease = cmp.Or(b.Lease, timeout)
		return t, b.Complete(field + ".Breaker")
	}
	return t, nil
}

// Limits is the constraints of t: its slots, which there always are, its rates and its breaker.
func (t *Tool) Limits() []Limit {
	list := []*admit.Class{ToolSlots(t.Name, t.Concurrency)}
	for i := range t.Rates {
		list = append(list, t.rate(i))
	}
	if t.Breaker != nil {
		list = append(list, ToolBreaker(t.Name, t.Breaker.Machine()))
	}
	return t.limits(list)
}

// limits is classes, which count the calls of t alone.
func (t *Tool) limits(classes []*admit.Class) []Limit {
	only, list := For(ForTool, []string{t.Name}), make([]Limit, len(classes))
	for i, k := range classes {
		list[i] = Limit{k, only}
	}
	return list
}

func (t *Tool) rate(i int) *admit.Class { return ToolRate(t.Name, t.Rates[i], &t.buckets[i]) }

// ToolChange is the change of one tool's limits in a machine, at an instant. What stays keeps what it
// has counted; a rate that is new starts no fuller than the fullest of its unit.
type ToolChange struct {
	Machine *admit.Machine
	Now     int64
	ID      uint64                      // of the tool, in plans
	Cost    func(unit string) int64     // what a call is expected to use
	Changed func(name, from, to string) // is told of each constraint that changes

	gone map[*admit.Class]bool
	add  []admit.Need
}

// Apply turns the constraints limits, which are those of was, into those of to, and has the calls
// that wait for the tool need these.
func (x *ToolChange) Apply(was, to *Tool, limits []Limit) []Limit {
	slots, others := limits[0].Class, make([]*admit.Class, 0, len(limits))
	for _, l := range limits[1:] {
		others = append(others, l.Class)
	}
	if n := Concurrency(to.Concurrency); n != slots.Limit {
		x.Changed(slots.Name, limitText(slots.Limit), limitText(n))
		x.Machine.SetLimit(x.Now, slots, n)
	}
	x.gone = make(map[*admit.Class]bool)
	for _, k := range others {
		x.gone[k] = true
	}
	list := append([]*admit.Class{slots}, x.rates(was, to, others[:len(was.Rates)])...)
	if to.Breaker != nil {
		list = append(list, x.breaker(was, to, others[len(was.Rates):]))
	}
	if len(x.gone)+len(x.add) > 0 {
		x.Machine.Replan(x.Now, x.ID, x.gone, x.add)
		x.Changed(ToolLabel(to.Name), "", "")
	}
	return to.limits(list)
}

// rates turns the constraints of was's rates into those of to's.
func (x *ToolChange) rates(was, to *Tool, classes []*admit.Class) []*admit.Class {
	list, from := make([]*admit.Class, len(to.Rates)), Match(was.Rates, to.Rates)
	for i, r := range to.Rates { // before the others change
		if from[i] >= 0 {
			continue
		}
		list[i] = to.rate(i)
		c := x.Machine.Cell(x.Now, list[i], "")
		var like []*admit.Cell
		for _, k := range classes {
			if k.Unit == r.Unit {
				like = append(like, x.Machine.Cell(x.Now, k, ""))
			}
		}
		x.Machine.Fill(x.Now, c, like)
		n := int64(1)
		if r.Unit != "" {
			n = min(x.Cost(r.Unit), r.Burst)
		}
		x.add = append(x.add, admit.Need{Cell: c, N: n})
	}
	for i, r := range to.Rates {
		if from[i] < 0 {
			continue
		}
		k, o := classes[from[i]], was.Rates[from[i]]
		delete(x.gone, k)
		if list[i] = k; r != o {
			x.Changed(k.Name, o.String(), r.String())
			k.Name = ToolRateName(to.Name, r)
			x.Machine.SetRate(x.Now, k, &to.buckets[i])
		}
	}
	return list
}

// breaker is the constraint of to's breaker, which goes on as that of classes, if there is one.
func (x *ToolChange) breaker(was, to *Tool, classes []*admit.Class) *admit.Class {
	if len(classes) == 0 {
		k := ToolBreaker(to.Name, to.Breaker.Machine())
		x.add = append(x.add, admit.Need{Cell: x.Machine.Cell(x.Now, k, ""), N: 1})
		return k
	}
	k := classes[0]
	delete(x.gone, k)
	if *to.Breaker != *was.Breaker {
		x.Machine.SetBreaker(x.Now, k, to.Breaker.Machine())
		x.Changed(k.Name, "", "")
	}
	return k
}
