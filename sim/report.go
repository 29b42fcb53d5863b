package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
)

// Report is what a simulation found. It counts what happened before Config.Duration; calls
// that still waited or ran then are told apart. Its JSON has times in nanoseconds. Equal
// configurations and seeds give equal reports, byte for byte, on one architecture and
// version of Go.
type Report struct {
	Duration time.Duration `json:"duration_ns"`
	Seed     uint64        `json:"seed"`
	Drained  time.Duration `json:"drained_ns"` // how long it took after Duration until all had ended

	All        Group   `json:"all"`
	Traffic    []Group `json:"traffic"`    // in the order of Config.Traffic, nested calls after theirs
	Priorities []Group `json:"priorities"` // highest first
	Tenants    []Group `json:"tenants"`    // by name
	Tools      []Group `json:"tools"`      // in the order of Config.Tools

	Refusals []Refusal `json:"refusals"` // most frequent first
	Limits   []Limit   `json:"limits"`   // used ones: tools' own first, then in the order of Config.Gates
	Openings int64     `json:"breaker_openings"`

	// Idle is the share of time in which some call that was first in its lane could have
	// started, and did not. Both are deliberate; anything else is an error of Run.
	Idle Idle `json:"idle"`

	Overtaken Counts   `json:"overtaken"` // by how many later calls, of the calls that waited and started
	Passed    []Passed `json:"passed"`    // per priority in use, highest first
	Beyond    int64    `json:"beyond"`    // starts that exceeded Passed.Bound; zero unless constraints cross
	Uneven    float64  `json:"uneven"`    // largest difference of two waiting tenants, as a share of its bound

	Moved     float64   `json:"moved_per_start"`    // lanes that changed the constraint they wait for
	Examined  float64   `json:"examined_per_start"` // calls asked whether they can start
	Estimates Estimates `json:"estimates"`
	Checks    int64     `json:"checks"` // decisions after which order and idling were looked at
	Decisions int64     `json:"decisions"`
}

// Group is calls that have something in common.
type Group struct {
	Name       string        `json:"name"`
	Arrived    int64         `json:"arrived"`
	Started    int64         `json:"started"`
	Succeeded  int64         `json:"succeeded"`
	Failed     int64         `json:"failed"`
	Overloaded int64         `json:"overloaded"`
	TimedOut   int64         `json:"timed_out"`
	Late       int64         `json:"late"`
	Refused    int64         `json:"refused"`
	Waiting    int64         `json:"waiting"`    // at the end
	Oldest     time.Duration `json:"oldest_ns"`  // how long the first of them had waited
	Share      float64       `json:"share"`      // of all starts
	Goodput    float64       `json:"goodput"`    // successes per second
	Wait       Times         `json:"wait"`       // of calls that started
	Total      Times         `json:"total"`      // from arrival to end, of calls that ran
	CostError  float64       `json:"cost_error"` // mean difference of estimated and used units, as a share of the used
}

// Times is a distribution. Percentiles are at most 1.6 % too high; Mean and Max are exact.
type Times struct {
	Count int64         `json:"count"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P90   time.Duration `json:"p90_ns"`
	P99   time.Duration `json:"p99_ns"`
	P999  time.Duration `json:"p999_ns"`
	Max   time.Duration `json:"max_ns"`
}

// Counts is a distribution of numbers, as [Times] is of times.
type Counts struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// Refusal is how often one constraint refused for one reason.
type Refusal struct {
	Reason string `json:"reason"` // as the library's errors say it
	By     string `json:"by"`     // empty for the queue
	Count  int64  `json:"count"`
}

// Limit is how a limit or a rate was used, over all its keys.
type Limit struct {
	Name string  `json:"name"`
	Max  int64   `json:"max"`  // slots, or units per Per
	Keys int     `json:"keys"` // used ones
	Used float64 `json:"used"` // mean share of what all its keys together allow
	Peak int64   `json:"peak"` // most slots of one key at once
}

// Idle is shares of time.
type Idle struct {
	Claim  float64 `json:"claim"`  // slots were kept for a call that had waited at a front too often
	Bucket float64 `json:"bucket"` // tokens were kept for the first at a rate
}

// Passed is how many other calls started at one constraint between two starts of a
// priority that waited there.
type Passed struct {
	Priority sluice.Priority `json:"priority"`
	Worst    int             `json:"worst"`
	Bound    int             `json:"bound"` // at one constraint
}

// Estimates is how good the library's estimates of waits were. Each 32nd call that found
// others waiting was asked for one.
type Estimates struct {
	Asked    int64 `json:"asked"`
	Off      int64 `json:"off"`      // waits not within half and twice the estimate, and by more than 1 ms
	Refusals int64 `json:"refusals"` // calls that would have been refused by the estimate, and started in time
	Missed   int64 `json:"missed"`   // calls that the estimate would have let in, and that waited too long
}

// counts is what one stream counts.
type counts struct {
	arrived, started       int64
	outcomes               [Refused + 1]int64
	refusals               map[refusal]int64
	wait, total            hist
	waiting, oldest        int64
	estimated, used, wrong int64
}

type refusal struct{ reason, by string }

func (k *counts) refuse(reason, by string) {
	if k.refusals == nil {
		k.refusals = make(map[refusal]int64)
	}
	k.refusals[refusal{reason, by}]++
}

func (k *counts) merge(o *counts) {
	k.arrived += o.arrived
	k.started += o.started
	for i, n := range o.outcomes {
		k.outcomes[i] += n
	}
	k.wait.merge(&o.wait)
	k.total.merge(&o.total)
	k.waiting += o.waiting
	k.oldest = max(k.oldest, o.oldest)
	k.estimated += o.estimated
	k.used += o.used
	k.wrong += o.wrong
}

// count counts the start of c.
func (s *simulation) count(c *call) {
	c.s.counts.started++
	c.s.counts.wait.add(s.now - c.arrived)
}

// left counts the end of c.
func (s *simulation) left(c *call, by string) {
	if s.ended {
		return
	}
	k := &c.s.counts
	k.outcomes[c.outcome]++
	if c.started >= 0 {
		k.total.add(s.now - c.arrived)
	}
	if s.conf.Each != nil {
		s.conf.Each(Call{
			Traffic:  c.s.name,
			Tool:     c.s.tool.Spec.Name,
			Tenant:   c.s.traffic.Tenant,
			Priority: c.s.priority,
			Arrived:  time.Duration(c.arrived),
			Started:  time.Duration(c.started),
			Ended:    time.Duration(s.now),
			Outcome:  c.outcome,
			By:       by,
		})
	}
}

// close writes the report. What happens later is only checked.
func (s *simulation) close() {
	s.check()
	s.ended = true
	for l := range s.m.Lanes() {
		k := &l.Owner.(*call).s.counts
		k.waiting += int64(l.Waiting)
		k.oldest = max(k.oldest, s.now-l.Since)
	}
	r := &s.report
	r.Duration, r.Seed, r.Decisions = s.conf.Duration, s.conf.Seed, int64(s.steps)
	var all counts
	for _, st := range s.streams {
		all.merge(&st.counts)
	}
	r.All = s.group("all", &all, &all)
	for _, st := range s.streams {
		r.Traffic = append(r.Traffic, s.group(st.name, &st.counts, &all))
	}
	tools := make([]string, len(s.conf.Tools))
	for i := range tools {
		tools[i] = s.conf.Tools[i].Spec.Name
	}
	tenants, same := slices.Sorted(maps.Keys(s.tenants)), func(n string) string { return n }
	r.Tools = groups(s, &all, tools, func(st *stream) string { return st.tool.Spec.Name }, same)
	r.Tenants = groups(s, &all, tenants, func(st *stream) string { return st.traffic.Tenant }, same)
	var levels []sluice.Priority
	for p := sluice.PriorityInteractive; p >= sluice.PriorityBatch; p-- {
		if slices.ContainsFunc(s.streams, func(st *stream) bool { return st.priority == p }) {
			levels = append(levels, p)
			if s.ordered {
				level := int(p - sluice.PriorityBatch)
				r.Passed = append(r.Passed, Passed{p, s.counting.worst[level], s.bound(level)})
			}
		}
	}
	r.Priorities = groups(s, &all, levels, func(st *stream) sluice.Priority { return st.priority }, priorityName)
	s.refusals()
	s.limits()
	k := &s.counting
	r.Idle = Idle{Claim: k.idleTime[forClaim] / float64(s.end), Bucket: k.idleTime[forBucket] / float64(s.end)}
	r.Overtaken = Counts{int64(k.overtaken.quantile(0.5)), int64(k.overtaken.quantile(0.99)), k.overtaken.max}
	r.Beyond, r.Uneven, r.Checks = k.beyond, k.uneven, k.scans
	if w := s.m.Work(); w.Starts > 0 {
		r.Moved, r.Examined = float64(w.Moved)/float64(w.Starts), float64(w.Examined)/float64(w.Starts)
	}
	e := k.estimates
	r.Estimates = Estimates{e.asked, e.off, e.refusals, e.missed}
}

// groups is the streams by what key says, for each of list.
func groups[K comparable](
	s *simulation, all *counts, list []K, key func(*stream) K, name func(K) string,
) (out []Group) {
	sums := make(map[K]*counts, len(list))
	for _, st := range s.streams {
		k := key(st)
		if sums[k] == nil {
			sums[k] = new(counts)
		}
		sums[k].merge(&st.counts)
	}
	for _, k := range list {
		if sums[k] != nil {
			out = append(out, s.group(name(k), sums[k], all))
		}
	}
	return out
}

func (s *simulation) group(name string, k, all *counts) Group {
	g := Group{
		Name:       name,
		Arrived:    k.arrived,
		Started:    k.started,
		Succeeded:  k.outcomes[Succeeded],
		Failed:     k.outcomes[Failed],
		Overloaded: k.outcomes[Overloaded],
		TimedOut:   k.outcomes[TimedOut],
		Late:       k.outcomes[Late],
		Refused:    k.outcomes[Refused],
		Waiting:    k.waiting,
		Oldest:     time.Duration(k.oldest),
		Goodput:    float64(k.outcomes[Succeeded]) / s.conf.Duration.Seconds(),
		Wait:       k.wait.times(),
		Total:      k.total.times(),
	}
	if all.started > 0 {
		g.Share = float64(k.started) / float64(all.started)
	}
	if k.used > 0 {
		g.CostError = float64(k.wrong) / float64(k.used)
	}
	return g
}

func (s *simulation) refusals() {
	sum := make(map[refusal]int64)
	for _, st := range s.streams {
		for r, n := range st.counts.refusals {
			sum[r] += n
		}
	}
	for r, n := range sum {
		s.report.Refusals = append(s.report.Refusals, Refusal{r.reason, r.by, n})
	}
	slices.SortFunc(s.report.Refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.By, b.By))
	})
}

func (s *simulation) limits() {
	for _, k := range s.constraints {
		l := Limit{Name: k.class.Name, Max: k.max, Keys: len(k.shadow)}
		if k.class.Kind == admit.Breaker || k.max == admit.Unlimited || l.Keys == 0 {
			continue
		}
		allowed := 0.0
		for _, key := range slices.Sorted(maps.Keys(k.shadow)) { // in order: sums of floats depend on it
			sh := k.shadow[key]
			if k.class.Kind == admit.Slots {
				sh.book(s.now)
				l.Used += sh.busy
				l.Peak = max(l.Peak, sh.peak)
				allowed += float64(k.max) * float64(s.end)
			} else {
				l.Max = k.rate.N
				l.Used += float64(sh.charged)
				allowed += float64(k.rate.Burst) + float64(k.rate.N)*float64(s.end)/float64(k.rate.Per)
			}
		}
		l.Used /= allowed
		s.report.Limits = append(s.report.Limits, l)
	}
}

// String is the report as tables, for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v of traffic, seed %d: %d calls, %d started, %.1f/s succeeded\n",
		r.Duration, r.Seed, r.All.Arrived, r.All.Started, r.All.Goodput)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tcalls\tshare\tok/s\tfailed\trefused\twaiting\twait p50\tp99\tmax\ttotal p50\tp99\t")
	row := func(g *Group) {
		name := g.Name
		if name == "" {
			name = "(none)"
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f%%\t%.1f\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t\n", name, g.Arrived, 100*g.Share, g.Goodput,
			g.Failed+g.Overloaded+g.TimedOut+g.Late, g.Refused, g.Waiting,
			short(g.Wait.P50), short(g.Wait.P99), short(g.Wait.Max), short(g.Total.P50), short(g.Total.P99))
	}
	row(&r.All)
	for _, part := range []struct {
		name string
		list []Group
	}{{"traffic", r.Traffic}, {"priority", r.Priorities}, {"tenant", r.Tenants}, {"tool", r.Tools}} {
		if part.name != "traffic" && len(part.list) < 2 {
			continue
		}
		fmt.Fprintf(w, "-- by %s\t\t\t\t\t\t\t\t\t\t\t\t\n", part.name)
		for i := range part.list {
			if i == mostRows {
				fmt.Fprintf(w, "%d more\t\t\t\t\t\t\t\t\t\t\t\t\n", len(part.list)-i)
				break
			}
			row(&part.list[i])
		}
	}
	w.Flush()
	for _, l := range r.Limits {
		fmt.Fprintf(&b, "limit    %s: %.1f%% used", l.Name, 100*l.Used)
		if l.Keys > 1 {
			fmt.Fprintf(&b, " over %d keys", l.Keys)
		}
		if l.Peak > 0 {
			fmt.Fprintf(&b, ", peak %d of %d", l.Peak, l.Max)
		}
		b.WriteByte('\n')
	}
	for _, f := range r.Refusals {
		fmt.Fprintf(&b, "refused  %d: %s", f.Count, f.Reason)
		if f.By != "" {
			fmt.Fprintf(&b, ", %s", f.By)
		}
		b.WriteByte('\n')
	}
	if r.Openings > 0 {
		fmt.Fprintf(&b, "breaker  opened %d times\n", r.Openings)
	}
	fmt.Fprintf(&b, "idle     %.2f%% of the time for a claim, %.2f%% for a rate's first\n", 100*r.Idle.Claim, 100*r.Idle.Bucket)
	fmt.Fprintf(&b, "order    overtaken by %d (p50), %d (p99), %d (max)",
		r.Overtaken.P50, r.Overtaken.P99, r.Overtaken.Max)
	for _, p := range r.Passed {
		fmt.Fprintf(&b, "; %s passed by %d, bound %d", priorityName(p.Priority), p.Worst, p.Bound)
	}
	fmt.Fprintf(&b, "; tenants %.0f%% of their bound apart\n", 100*r.Uneven)
	fmt.Fprintf(&b, "work     %.3f lanes moved and %.3f calls examined per start\n", r.Moved, r.Examined)
	if e := r.Estimates; e.Asked > 0 {
		fmt.Fprintf(&b, "estimate of %d waits %.1f%% off by more than twice; %d refusals would have been wrong, %d missed\n",
			e.Asked, 100*float64(e.Off)/float64(e.Asked), e.Refusals, e.Missed)
	}
	return b.String()
}

// mostRows bounds each table of String.
const mostRows = 20

// short is d with three digits or so.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < 10*time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + "ns"
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 100*time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
