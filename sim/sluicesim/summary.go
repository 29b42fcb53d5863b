package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-go/sluice/sim"
)

// summary is the results as tables, side by side.
func summary(m *mix, results []*result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n\n", m.title, circumstances(m))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	head, names := "", ""
	for _, x := range results {
		names += "\t" + x.policy.name + "\t\t\t\t\t"
		head += "\tok/s\trefused\twait p50\tp99\tmax\t"
	}
	tables := []struct {
		name  string
		parts func(*result) []sim.Group
	}{
		{"priority", func(x *result) []sim.Group { return x.report.Priorities }},
		{"traffic", func(x *result) []sim.Group { return x.report.Traffic }},
	}
	fmt.Fprintf(w, "%s\n", names)
	for _, t := range tables {
		fmt.Fprintf(w, "by %s%s\n", t.name, head)
		for _, name := range named(results, t.parts) {
			fmt.Fprint(w, name)
			for _, x := range results {
				g := group(t.parts(x), name)
				fmt.Fprintf(w, "\t%s\t%s\t%s\t%s\t%s\t", decimal(g.Goodput, 1), percent(share(g.Refused, g.Arrived)),
					waited(g, g.Wait.P50), waited(g, g.Wait.P99), waited(g, g.Wait.Max))
			}
			fmt.Fprintln(w)
		}
	}
	w.Flush()
	b.WriteByte('\n')
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "mean use of a limit")
	for _, x := range results {
		fmt.Fprint(w, "\t", x.policy.name)
	}
	fmt.Fprintln(w)
	for _, name := range limits(results) {
		fmt.Fprint(w, name)
		for _, x := range results {
			fmt.Fprint(w, "\t", used(x, name))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "\nrefused calls")
	for _, x := range results {
		fmt.Fprint(w, "\t", x.policy.name)
	}
	fmt.Fprintln(w)
	reasons := refusals(results)
	for _, why := range reasons {
		fmt.Fprint(w, why)
		for _, x := range results {
			n := int64(0)
			for _, r := range x.report.Refusals {
				if reason(r) == why {
					n += r.Count
				}
			}
			fmt.Fprint(w, "\t", n)
		}
		fmt.Fprintln(w)
	}
	if len(reasons) == 0 {
		fmt.Fprintln(w, "none")
	}
	w.Flush()
	return trimmed(b.String())
}

// named is the names of all groups, in order.
func named(results []*result, parts func(*result) []sim.Group) (names []string) {
	for _, x := range results {
		for _, g := range parts(x) {
			if !slices.Contains(names, g.Name) {
				names = append(names, g.Name)
			}
		}
	}
	return names
}

// group is the one of that name; zero if there is none.
func group(list []sim.Group, name string) sim.Group {
	if i := slices.IndexFunc(list, func(g sim.Group) bool { return g.Name == name }); i >= 0 {
		return list[i]
	}
	return sim.Group{Name: name}
}

// trimmed is s without blanks at the ends of its lines.
func trimmed(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// circumstances says what was simulated.
func circumstances(m *mix) string {
	return fmt.Sprintf("%s of traffic, seed %d", exactly(m.duration), m.seed)
}

// exactly is d without parts that are zero.
func exactly(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if r, ok := strings.CutSuffix(s, zero); ok && r != "" && !strings.ContainsAny(r[len(r)-1:], "0123456789.") {
			s = r
		}
	}
	return s
}

// limits is the names of all limits that were used, in order.
func limits(results []*result) (names []string) {
	for _, x := range results {
		for _, l := range x.report.Limits {
			if !slices.Contains(names, l.Name) {
				names = append(names, l.Name)
			}
		}
	}
	return names
}

// limit is x's limit of that name.
func (x *result) limit(name string) (sim.Limit, bool) {
	i := slices.IndexFunc(x.report.Limits, func(l sim.Limit) bool { return l.Name == name })
	if i < 0 {
		return sim.Limit{}, false
	}
	return x.report.Limits[i], true
}

// used is how far x used the limit.
func used(x *result, name string) string {
	l, ok := x.limit(name)
	if !ok {
		return "no such limit"
	}
	s := percent(l.Used)
	if l.Keys > 1 {
		s += fmt.Sprintf(" of %d keys", l.Keys)
	}
	if l.Peak > 0 {
		s += fmt.Sprintf(", at most %d of %d", l.Peak, l.Max)
	}
	return s
}

// refusals is the reasons of all refusals, in order.
func refusals(results []*result) (out []string) {
	for _, x := range results {
		for _, r := range x.report.Refusals {
			if why := reason(r); !slices.Contains(out, why) {
				out = append(out, why)
			}
		}
	}
	return out
}

func reason(r sim.Refusal) string {
	if r.By == "" {
		return r.Reason
	}
	return r.Reason + ": " + r.By
}

// waited is a time that the calls of g waited; a dash if none started.
func waited(g sim.Group, d time.Duration) string {
	if g.Started == 0 {
		return "–"
	}
	return spell(d)
}

// spell is d with three digits or so.
func spell(d time.Duration) string {
	switch {
	case d <= 0:
		return "0"
	case d < time.Millisecond:
		return decimal(float64(d)/float64(time.Microsecond), 0) + " µs"
	case d < 10*time.Millisecond:
		return decimal(float64(d)/float64(time.Millisecond), 1) + " ms"
	case d < time.Second:
		return decimal(float64(d)/float64(time.Millisecond), 0) + " ms"
	case d < 10*time.Second:
		return strings.TrimSuffix(decimal(d.Seconds(), 1), ".0") + " s"
	case d < 2*time.Minute:
		return decimal(d.Seconds(), 0) + " s"
	case d < 2*time.Hour:
		return decimal(d.Minutes(), 0) + " min"
	}
	return decimal(d.Hours(), 0) + " h"
}

func decimal(x float64, digits int) string { return strconv.FormatFloat(x, 'f', digits, 64) }

// percent is a share.
func percent(x float64) string {
	if x == 0 {
		return "0 %"
	}
	return decimal(100*x, 1) + " %"
}

func share(n, of int64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}
