package sluice

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/stage"
)

// Decision is the admission record of a call, or [Executor.Explain]'s forecast of one. It
// is a value without references to the call, and marshals itself for operators.
type Decision struct {
	Refusal   *Error        // nil if it ran, or would run
	Wait      time.Duration // in the queue, all attempts
	Waits     []Wait        // longest first
	Place     int           // in the queue on arrival, from 1; 0 means not queued
	Overtaken int           // at least so many calls that came later started earlier
	Attempts  int
	Costs     []Cost
}

// Wait is time spent on one constraint.
type Wait struct {
	By  string // "rate/openai tokens per minute"
	For time.Duration
}

// Cost is one unit's estimate and, after [ReportUsage], its actual use.
type Cost struct {
	Unit     string // empty means calls
	Estimate int64
	Actual   int64 // the estimate, if nothing was settled
}

// MarshalJSON writes milliseconds.
func (d Decision) MarshalJSON() ([]byte, error) {
	type waitJSON struct {
		By string  `json:"by"`
		MS float64 `json:"ms"`
	}
	type costJSON struct {
		Unit     string `json:"unit"`
		Estimate int64  `json:"estimate"`
		Actual   int64  `json:"actual"`
	}
	out := struct {
		Refusal   *Error     `json:"refusal,omitempty"`
		WaitMS    float64    `json:"wait_ms"`
		Waits     []waitJSON `json:"waits,omitempty"`
		Place     int        `json:"place,omitempty"`
		Overtaken int        `json:"overtaken,omitempty"`
		Attempts  int        `json:"attempts,omitempty"`
		Costs     []costJSON `json:"costs,omitempty"`
	}{Refusal: d.Refusal, WaitMS: millis(d.Wait), Place: d.Place, Overtaken: d.Overtaken, Attempts: d.Attempts}
	for _, w := range d.Waits {
		out.Waits = append(out.Waits, waitJSON{w.By, millis(w.For)})
	}
	for _, c := range d.Costs {
		out.Costs = append(out.Costs, costJSON(c))
	}
	return json.Marshal(out)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// record is a Decision in the making. While the call is under way its fields are guarded by
// the stage's lock.
type record struct {
	wait      int64
	place     int32
	overtaken int32
	attempts  int32
	waits     []Wait
	costs     []Cost

	waitSpace [2]Wait // where most of them fit
	costSpace [2]Cost
}

// Decision is the admission record; zero if the call passed without waiting and without a
// cost of its own.
func (r Result) Decision() Decision {
	if r.rec == nil {
		return Decision{}
	}
	d := Decision{
		Wait:      time.Duration(r.rec.wait),
		Waits:     slices.Clone(r.rec.waits),
		Place:     int(r.rec.place),
		Overtaken: int(r.rec.overtaken),
		Attempts:  int(r.rec.attempts),
		Costs:     slices.Clone(r.rec.costs),
	}
	slices.SortStableFunc(d.Waits, func(a, b Wait) int { return cmp.Compare(b.For, a.For) })
	return d
}

// sealed stands for the record of a call that has ended before its attempts have: nothing
// is written into it.
var sealed record

// note writes what admission knows of the ticket of an attempt into the record of its call.
// The stage is locked.
func (a *admission) note(s *stage.Stage, inv *invocation, t *admit.Ticket, attempt int32) {
	if t.Place() == 0 && a.cost == nil && len(t.Settled()) == 0 {
		return
	}
	sum := inv.ownTotals()
	rec := sum.rec
	if rec == &sealed { // the caller has it: an attempt that nobody waited for ends late
		return
	}
	if rec == nil {
		rec = take[record](&records)
		rec.waits, rec.costs = rec.waitSpace[:0], rec.costSpace[:0]
		sum.rec = rec
	}
	rec.attempts = max(rec.attempts, attempt)
	rec.place = int32(t.Place())
	rec.overtaken += int32(s.M.Overtaken(t))
	for _, w := range t.Waits() {
		rec.wait += w.For
		name := w.Cell.Class().Name
		if i := slices.IndexFunc(rec.waits, func(x Wait) bool { return x.By == name }); i >= 0 {
			rec.waits[i].For += time.Duration(w.For)
		} else {
			rec.waits = append(rec.waits, Wait{name, time.Duration(w.For)})
		}
	}
	rec.costs = costsOf(rec.costs[:0], t)
}

// with is what rec says, with the costs of t as they are now.
func (rec *record) with(t *admit.Ticket) *record {
	if rec == nil && len(t.Settled()) == 0 {
		return nil
	}
	r := record{attempts: 1}
	if rec != nil {
		r = *rec
	}
	r.costs = costsOf(nil, t)
	return &r
}

// costsOf appends what t is charged of each unit to list, and what it turned out to use.
func costsOf(list []Cost, t *admit.Ticket) []Cost {
	for _, n := range t.Needs() {
		k := n.Cell.Class()
		if k.Kind != admit.Tokens && (k.Kind != admit.Slots || k.Unit == "") {
			continue
		}
		if slices.ContainsFunc(list, func(c Cost) bool { return c.Unit == k.Unit }) {
			continue
		}
		c, known := Cost{k.Unit, n.N, n.N}, n.N > 0
		for _, u := range t.Settled() {
			if u.Unit == k.Unit {
				c.Actual, known = u.N, true
			}
		}
		if known {
			list = append(list, c)
		}
	}
	return list
}
