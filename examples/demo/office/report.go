package office

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/sluice-go/sluice"
)

// column is one run's results.
type column struct {
	answers []answer
	counts  backendCounts
	took    time.Duration
	retried int // calls that an open breaker held back, and that were made again
}

// levels, as the table lists them.
var levels = []struct {
	name     string
	priority sluice.Priority
}{
	{"interactive", sluice.PriorityInteractive},
	{"normal", sluice.PriorityNormal},
	{"batch", sluice.PriorityBatch},
}

func (c column) count(is func(a answer) bool) int {
	n := 0
	for _, a := range c.answers {
		if is(a) {
			n++
		}
	}
	return n
}

func (c column) succeeded() int { return c.count(func(a answer) bool { return a.Err == nil }) }
func (c column) answered() int  { return c.count(func(a answer) bool { return a.Sent != nil }) }

// excused counts failures with the broken endpoint's own answer, or a refusal because of it.
func (c column) excused() int {
	return c.count(func(a answer) bool {
		status, ok := errors.AsType[*statusError](a.Err)
		return a.Tool == brokenTool && (ok && status.Status == http.StatusInternalServerError ||
			errors.Is(a.Err, sluice.ErrBreakerOpen))
	})
}

// wait is a quantile of the time from a call's arrival to its start, for one level. Calls
// of the broken endpoint are left out: they wait for its recovery, not for their turn.
func (c column) wait(p sluice.Priority, q float64) time.Duration {
	var waits []time.Duration
	for _, a := range c.answers {
		if a.Priority == p && a.Tool != brokenTool {
			waits = append(waits, a.Began-a.Arrived)
		}
	}
	return quantile(waits, q)
}

// quantile is the nearest-rank quantile, 0 of nothing.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	rank := int(math.Ceil(q * float64(len(d))))
	return d[min(max(rank, 1), len(d))-1]
}

// shares is how much of the backend each tenant got while all of them wanted it: of the
// successful normal calls that began when every tenant had one still to come, counted for
// each provider apart, since that is where they compete. Calls of the broken endpoint are
// left out.
func (c column) shares() map[string]float64 {
	got, sum := make(map[string]int), 0
	for _, provider := range []string{"web", "office"} {
		type span struct{ first, last time.Duration }
		spans := make(map[string]span)
		contends := func(a answer) bool {
			return a.Provider == provider && a.Priority == sluice.PriorityNormal && a.Tool != brokenTool
		}
		for _, a := range c.answers {
			if !contends(a) {
				continue
			}
			s, ok := spans[a.Tenant]
			if !ok || a.Arrived < s.first {
				s.first = a.Arrived
			}
			s.last = max(s.last, a.Began)
			spans[a.Tenant] = s
		}
		from, to := time.Duration(0), time.Duration(math.MaxInt64)
		for _, s := range spans {
			from, to = max(from, s.first), min(to, s.last)
		}
		for _, a := range c.answers {
			if contends(a) && a.Err == nil && from <= a.Began && a.Began <= to {
				got[a.Tenant]++
				sum++
			}
		}
	}
	shares := make(map[string]float64)
	for tenant, n := range got {
		shares[tenant] = float64(n) / float64(sum)
	}
	return shares
}

func (c column) tenants() []string {
	names := make(map[string]bool)
	for _, a := range c.answers {
		names[a.Tenant] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// fairShare is what a tenant's weight entitles it to.
func fairShare(tenant string, all []string) float64 {
	weight := func(t string) int { return max(1, tenantWeights[t]) }
	sum := 0
	for _, t := range all {
		sum += weight(t)
	}
	return float64(weight(tenant)) / float64(sum)
}

// brokenPromises lists what the guarded run should have kept and did not.
func (c column) brokenPromises() []string {
	var broken []string
	expect := func(kept bool, format string, args ...any) {
		if !kept {
			broken = append(broken, fmt.Sprintf(format, args...))
		}
	}
	expect(c.counts.TooMany == 0, "the server answered 429 %d times", c.counts.TooMany)
	expect(c.counts.TooBusy == 0, "the server answered 503 %d times", c.counts.TooBusy)
	expect(c.counts.Peak <= serverSlots, "%d requests were in flight at once", c.counts.Peak)
	expect(c.answered() == len(c.answers), "%d of %d calls have no answer", len(c.answers)-c.answered(), len(c.answers))
	lost := len(c.answers) - c.succeeded() - c.excused()
	expect(lost == 0, "%d calls failed that the broken endpoint does not explain", lost)
	for i, above := range levels[:len(levels)-1] {
		below := levels[i+1]
		a, b := c.wait(above.priority, 0.5), c.wait(below.priority, 0.5)
		expect(a < b, "half of the %s calls waited %v and half of the %s calls only %v", above.name, a, below.name, b)
	}
	const tolerance = 0.10 // tenants differ by a call or two in a window of a few dozen
	shares, tenants := c.shares(), c.tenants()
	for _, t := range tenants {
		fair := fairShare(t, tenants)
		expect(math.Abs(shares[t]-fair) <= tolerance, "%s got %.0f %% of the backend where %.0f %% is fair", t, 100*shares[t], 100*fair)
	}
	return broken
}

// row is a line of the table. A zero that is good, or a number that is bad, is painted.
type row struct {
	label string
	value func(c column) string
	bad   func(c column) bool // nil if the line judges nothing
}

func rows(tenants []string) []row {
	number := func(label string, n func(c column) int) row {
		return row{label: label, value: func(c column) string { return strconv.Itoa(n(c)) }}
	}
	harm := func(label string, n func(c column) int, allowed int) row {
		r := number(label, n)
		r.bad = func(c column) bool { return n(c) > allowed }
		return r
	}
	table := []row{
		number("tool calls", func(c column) int { return len(c.answers) }),
		number("answered to the model", column.answered),
		number("succeeded", column.succeeded),
	}
	for _, l := range levels {
		table = append(table, row{label: "  of " + l.name, value: func(c column) string {
			ok := c.count(func(a answer) bool { return a.Priority == l.priority && a.Err == nil })
			all := c.count(func(a answer) bool { return a.Priority == l.priority })
			return fmt.Sprintf("%d of %d", ok, all)
		}})
	}
	table = append(table,
		harm("429 too many requests", func(c column) int { return c.counts.TooMany }, 0),
		harm("503 too busy", func(c column) int { return c.counts.TooBusy }, 0),
		number("500 wasted on the broken endpoint", func(c column) int { return c.counts.Wasted }),
		number("held back by its breaker, tried again", func(c column) int { return c.retried }),
		harm("peak in flight, seen by the server", func(c column) int { return c.counts.Peak }, serverSlots),
	)
	for _, l := range levels {
		table = append(table, row{label: "wait p50 / p99, " + l.name, value: func(c column) string {
			return seconds(c.wait(l.priority, 0.5)) + " / " + seconds(c.wait(l.priority, 0.99))
		}})
	}
	for _, t := range tenants {
		label := fmt.Sprintf("share of %s (fair: %.0f %%)", t, 100*fairShare(t, tenants))
		table = append(table, row{label: label, value: func(c column) string {
			return fmt.Sprintf("%.0f %%", 100*c.shares()[t])
		}})
	}
	return append(table, row{label: "all done after", value: func(c column) string { return seconds(c.took) }})
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// printTable writes the two runs side by side.
func printTable(term terminal, without, with column) {
	const format = "%-38s %18s %18s\n"
	fmt.Fprint(term.w, term.paint(bold, fmt.Sprintf(format, "", "unguarded", "guarded")))
	for _, r := range rows(with.tenants()) {
		cell := func(c column) string {
			text := fmt.Sprintf("%18s", r.value(c)) // padded first: colour codes have no width
			switch {
			case r.bad == nil:
				return text
			case r.bad(c):
				return term.paint(red, text)
			}
			return term.paint(green, text)
		}
		fmt.Fprintf(term.w, format, r.label, cell(without), cell(with))
	}
	fmt.Fprintf(term.w, `
wait:  from arrival to the start of the tool, without %s. Unguarded
       calls do not wait: they fail.
share: of the normal calls that succeeded while every tenant had some to come.
Guarded, each of %d answers is a result, or one of %d errors of the broken endpoint.
`, brokenTool, with.answered(), with.excused())
}
