package compare

import "slices"

// Budget is one line of the table that the report begins with: a piece of work, and the marks
// that it has to reach.
type Budget struct {
	Work  string
	Marks []Mark
	See   string // what measures it, where this report does not
}

// Quantity is what a mark is about.
type Quantity uint8

// The quantities.
const (
	Time       Quantity = iota // of Ours, divided by that of Against
	Throughput                 // of Ours, divided by that of Against: at least Must
	Allocs                     // of Ours
	Bytes                      // of Ours
)

// Mark is one figure of a budget.
type Mark struct {
	What     string // how the figure reads in the report
	Quantity Quantity
	Row      string
	Load     Load
	Ours     string // contestant that is judged
	Minus    string // contestant whose time is taken off ours; empty means none
	Against  string // contestant of the same row
	// AgainstLoad is the load of the other side; zero means Load.
	AgainstLoad Load
	Most        bool    // whether there is a bound, Must
	Must, Aim   float64 // no aim is zero; without both the mark is there for comparison
}

// must is m with a bound, and an aim unless it is zero.
func (m Mark) must(bound, aim float64) Mark {
	m.Most, m.Must, m.Aim = true, bound, aim
	return m
}

// beside is the time of Invoke divided by that of another contestant.
func beside(what, row string, l Load, against string) Mark {
	return Mark{What: "time / " + what, Row: row, Load: l, Ours: byInvoke, Against: against}
}

// only is the time of a call as people configure it, without what minus takes by itself, divided
// by that of a plain call.
func only(name, minus string) Mark {
	what := name + ": time / plain"
	if minus != "" {
		what = name + ": (time − " + minus + ") / plain"
	}
	return Mark{What: what, Row: configured, Load: alone, Ours: name, Minus: minus, Against: byInvoke}.must(1.5, 1.2)
}

// refusal are the marks of calls that are refused.
func refusal(what, row string) []Mark {
	return []Mark{
		beside("floor, "+what, row, alone, fusedOne).must(3, 2),
		beside("hand-made, "+what, row, alone, byHand).must(0.9, 0),
		Mark{What: "allocations, " + what, Quantity: Allocs, Row: row, Load: alone, Ours: byInvoke}.must(0.3, 0),
	}
}

// Budgets are what this project holds itself to. Hand-made is a stack of gobreaker, x/time and
// x/sync.
var Budgets = []Budget{
	{Work: "whole call with a sink, 1 goroutine", Marks: []Mark{
		beside("chain", wholeCall, alone, chained).must(1.3, 1.1),
		beside("hand-made", wholeCall, alone, byHand).must(0.75, 0),
		beside("failsafe-go", wholeCall, alone, byFail).must(0.2, 0),
		Mark{What: "allocations", Quantity: Allocs, Row: wholeCall, Load: alone, Ours: byInvoke}.must(0, 0),
		Mark{What: "bytes", Quantity: Bytes, Row: wholeCall, Load: alone, Ours: byInvoke}.must(80, 0),
	}},
	{Work: "the same as people configure it", Marks: []Mark{
		only(withArgs, decoding),
		only(withKeys, keyFunction),
		only(withAround, ""),
		only(withRatio, ""),
		only(withOwnSink, secondSink),
	}},
	{Work: "whole call, many goroutines, 2 cores", Marks: []Mark{
		beside("hand-made, 100 goroutines", wholeCall, hundred, byHand).must(0.5, 0.35),
		beside("hand-made, 1,000 goroutines", wholeCall, thousand, byHand).must(0.5, 0.35),
	}},
	{Work: "independent tools, 64 goroutines", Marks: []Mark{
		Mark{What: "throughput on 2 cores / on 1", Quantity: Throughput, Row: independent, Load: Load{64, 2}, Ours: byInvoke,
			Against: byInvoke, AgainstLoad: Load{64, 1}}.must(1.5, 1.8),
		{What: "the same of arithmetic, for comparison", Quantity: Throughput, Row: independent, Load: Load{64, 2}, Ours: arithmetic,
			Against: arithmetic, AgainstLoad: Load{64, 1}},
	}},
	{Work: "typed call, 1 goroutine", Marks: []Mark{
		Mark{What: "time / hand-made", Row: wholeCall, Load: alone, Ours: byTyped, Against: byHand}.must(0.9, 0.75),
	}},
	{Work: "refused call, 1 goroutine", Marks: slices.Concat(refusal("open breaker", refusedOpen), refusal("full limit", refusedFull))},
	{Work: "with an attempt timeout, 1 goroutine", Marks: []Mark{
		beside("hand-made", withTimeout, alone, byHand+" + WithTimeout").must(1.1, 0.8),
		beside("failsafe-go", withTimeout, alone, byFail+" and timeout").must(0.35, 0),
	}},
	{Work: "queued call, 2 cores", Marks: []Mark{
		beside("hand-made, 100 goroutines", queuedCall, hundred, byHand).must(1.6, 1),
		beside("hand-made, 1,000 goroutines", queuedCall, thousand, byHand).must(1.6, 1),
	}},
	{Work: "queued admission, the machine", Marks: []Mark{
		Mark{What: "time / floor, 100 goroutines", Row: queuedPart, Load: hundred, Ours: machinePart, Against: levelFloor}.must(1.8, 1.5),
		Mark{What: "time / floor, 1,000 goroutines", Row: queuedPart, Load: thousand, Ours: machinePart, Against: levelFloor}.must(1.8, 1.5),
	}},
	{Work: "limit of 8, a tool of 1 µs, 2 cores", Marks: []Mark{
		Mark{What: "throughput / hand-made, 64 goroutines", Quantity: Throughput, Row: binding, Load: Load{64, 2}, Ours: byInvoke, Against: byHand}.must(0.75, 1),
		Mark{What: "throughput / hand-made, 512 goroutines", Quantity: Throughput, Row: binding, Load: Load{512, 2}, Ours: byInvoke, Against: byHand}.must(0.75, 1),
	}},
	{Work: "nested; submitted; keyed call through the lock", See: "`go run ./cmd/versus -rows nested,submit,keyed OLDER ../..`: time / an older state, ≤ 1, aim 0.7"},
	{Work: "shared state, 1 goroutine", Marks: []Mark{
		Mark{What: "get: time / sync.Map of atomics", Row: "state: get", Load: alone, Ours: "SharedState", Against: syncMap}.must(1.3, 1),
		Mark{What: "increment: time / sync.Map of atomics", Row: "state: increment", Load: alone, Ours: "SharedState", Against: syncMap}.must(1.3, 1),
	}},
	{Work: "10,000 calls of 10 ms at once", Marks: []Mark{
		Mark{What: "Invoke: time / goroutines that sleep", Row: slowAtOnce, Load: Load{1, 2}, Ours: slowInvoke, Against: sleepers}.must(2, 0),
		Mark{What: "Submit: time / goroutines that sleep", Row: slowAtOnce, Load: Load{1, 2}, Ours: "Submit", Against: sleepers}.must(2, 0),
	}},
	{Work: "layers, 1 goroutine", Marks: []Mark{
		Mark{What: "what Retry adds: (time − without) / failsafe-go's retry alone", Row: layered, Load: alone, Ours: withRetry, Minus: byInvokeNil, Against: failRetry}.must(0.3, 0),
		Mark{What: "allocations with Retry", Quantity: Allocs, Row: layered, Load: alone, Ours: withRetry}.must(0.1, 0),
		Mark{What: "Standard: time / failsafe-go's same policies", Row: layered, Load: alone, Ours: standard, Against: failStandard}.must(0.3, 0),
	}},
	{Work: "reading and writing a turn of 8 calls, 1 goroutine", Marks: turnMarks()},
}

// Figure is a mark with what was measured.
type Figure struct {
	Mark
	Got      float64
	Measured bool
}

// Met says whether the bound was kept. Allocations are counted for the whole process, so less
// than one in twenty operations is none.
func (f Figure) Met() bool { return !f.noise() && (!f.Most || f.reaches(f.Must)) }

// noise says whether what was to be taken off took longer than all, so that the figure says nothing.
func (f Figure) noise() bool { return f.Minus != "" && f.Got <= 0 }

func (f Figure) reaches(x float64) bool {
	switch f.Quantity {
	case Throughput:
		return f.Got >= x
	case Allocs:
		return f.Got < x+0.05
	}
	return f.Got <= x
}

// Verdict is what the report says of the figure; nothing of one that is there for comparison.
func (f Figure) Verdict() string {
	switch {
	case !f.Measured:
		return "not measured"
	case f.noise():
		return "too noisy"
	case !f.Met():
		return "missed"
	case f.Aim > 0 && f.reaches(f.Aim):
		return "aim met"
	case f.Most:
		return "met"
	}
	return ""
}

// Judge holds the results against the marks of b.
func (b Budget) Judge(results []Result) []Figure {
	var out []Figure
	for _, m := range b.Marks {
		out = append(out, m.figure(results))
	}
	return out
}

func (m Mark) figure(results []Result) Figure {
	f := Figure{Mark: m}
	ours := line(results, m.Row, m.Load, m.Ours)
	if ours == nil {
		return f
	}
	switch m.Quantity {
	case Allocs:
		f.Got, f.Measured = median(ours.allocs()), true
		return f
	case Bytes:
		f.Got, f.Measured = median(ours.bytes()), true
		return f
	}
	otherLoad := m.AgainstLoad
	if otherLoad == (Load{}) {
		otherLoad = m.Load
	}
	other := line(results, m.Row, otherLoad, m.Against)
	minus := new(Line)
	if m.Minus != "" {
		minus = line(results, m.Row, m.Load, m.Minus)
	}
	if other == nil || minus == nil {
		return f
	}
	f.Measured = true
	if otherLoad == m.Load {
		f.Got = median(ratios(ours, minus, other))
	} else { // measured at different times: no pairs
		f.Got = median(ours.times()) / median(other.times())
	}
	if m.Quantity == Throughput {
		f.Got = 1 / f.Got
	}
	return f
}

// line is what a contestant needed, or nil.
func line(results []Result, row string, l Load, name string) *Line {
	for i := range results {
		r := &results[i]
		if r.Row.Name != row || r.Load != l {
			continue
		}
		for j := range r.Lines {
			if r.Lines[j].Name == name && r.Lines[j].Err == nil && len(r.Lines[j].Samples) > 0 {
				return &r.Lines[j]
			}
		}
	}
	return nil
}

func (l *Line) times() []float64 { return pick(l.Samples, func(s Sample) float64 { return s.NS }) }
func (l *Line) allocs() []float64 {
	return pick(l.Samples, func(s Sample) float64 { return s.Allocs })
}
func (l *Line) bytes() []float64 { return pick(l.Samples, func(s Sample) float64 { return s.Bytes }) }

func pick(s []Sample, f func(Sample) float64) []float64 {
	out := make([]float64, len(s))
	for i := range s {
		out[i] = f(s[i])
	}
	return out
}

// ratios are a's times, less those of minus if it has any, by b's, round for round.
func ratios(a, minus, b *Line) []float64 {
	out := make([]float64, min(len(a.Samples), len(b.Samples)))
	for i := range out {
		t := a.Samples[i].NS
		if i < len(minus.Samples) {
			t -= minus.Samples[i].NS
		}
		out[i] = t / b.Samples[i].NS
	}
	return out
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile interpolates between the two nearest values.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	at := q * float64(len(v)-1)
	i := int(at)
	if i == len(v)-1 {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}
