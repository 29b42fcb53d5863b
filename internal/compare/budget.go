package compare

import "slices"

// Budget is how much one contestant may need, measured against another of the same run.
type Budget struct {
	Row     string
	Load    Load
	Ours    string // contestant that is judged
	Against string // contestant of the same row
	// AgainstLoad is the load of the other side; zero means Load.
	AgainstLoad Load
	Most        float64 // ratio of times; zero means that there is only an aim
	Stretch     float64 // the ratio to aim for; zero means none
	MostAllocs  int     // of the judged contestant; -1 means not judged
}

const (
	fullCall = "whole call"
	chained  = "chain: six compiled closures"
	oneFunc  = "fused: all in one function"
	byHand   = "gobreaker + x/time + x/sync"
	byFail   = "failsafe-go, 3 policies"
)

// Budgets are what this project holds itself to.
var Budgets = []Budget{
	{Row: fullCall, Load: alone, Ours: "Invoke", Against: chained, Most: 1.3, MostAllocs: 0},
	{Row: fullCall, Load: alone, Ours: "Invoke", Against: oneFunc, Stretch: 1.3, MostAllocs: 0},
	{Row: fullCall, Load: alone, Ours: "Invoke", Against: byFail, Most: 0.25, Stretch: 0.15, MostAllocs: 0},
	{Row: fullCall, Load: alone, Ours: "Invoke", Against: byHand, Most: 0.9, Stretch: 0.5, MostAllocs: 0},
	{Row: fullCall, Load: hundred, Ours: "Invoke", Against: byHand, Most: 0.9, Stretch: 0.25, MostAllocs: 0},
	{Row: fullCall, Load: hundred, Ours: "Invoke", Against: "Invoke", AgainstLoad: alone, Most: 1, MostAllocs: 0},
	{Row: fullCall, Load: thousand, Ours: "Invoke", Against: "Invoke", AgainstLoad: alone, Most: 1, MostAllocs: 0},
	{Row: fullCall, Load: alone, Ours: "Tool.Invoke (typed)", Against: byHand, Most: 0.9, MostAllocs: 2},
	{Row: "whole call with an attempt timeout", Load: alone, Ours: "Invoke", Against: byHand + " + WithTimeout", Most: 0.4, MostAllocs: 2},
	{Row: "whole call with an attempt timeout", Load: alone, Ours: "Invoke", Against: "failsafe-go, 3 policies and timeout", Stretch: 0.13, MostAllocs: 2},
	{Row: "whole call refused", Load: alone, Ours: "Invoke", Against: "fused", Most: 1.3, MostAllocs: -1},
	{Row: "whole call refused", Load: alone, Ours: "Invoke", Against: byFail, Stretch: 0.25, MostAllocs: -1},
	{Row: "whole call that queued", Load: hundred, Ours: "Invoke", Against: byHand, Most: 1, Stretch: 0.7, MostAllocs: 0},
	{Row: "admission of a queued call", Load: hundred, Ours: "admission machine, lock, channel", Against: "four levels, lock, channel", Most: 1.5, MostAllocs: 0},
	{Row: "admission of a queued call", Load: thousand, Ours: "admission machine, lock, channel", Against: "four levels, lock, channel", Most: 1.5, MostAllocs: 0},
	{Row: "rate: allow, one key", Load: alone, Ours: "its bucket, own clock and lock", Against: "x/time Limiter.Allow", Most: 0.5, MostAllocs: 0},
	{Row: "rate: allow, 1e6 keys", Load: alone, Ours: "admission machine by key, lock, clock", Against: "sharded map", Most: 1.3, MostAllocs: 0},
	{Row: "concurrency: acquire and release", Load: alone, Ours: "admission machine, lock, clock", Against: "x/sync semaphore", Most: 1, MostAllocs: 0},
	{Row: "concurrency: limit 64", Load: hundred, Ours: "admission machine, lock, clock", Against: "channel with select", Most: 1, MostAllocs: 0},
	{Row: "breaker: closed, success", Load: alone, Ours: "its machine, own clock and lock", Against: "gobreaker Execute", Most: 0.5, MostAllocs: 0},
	{Row: "state: increment", Load: alone, Ours: "SharedState", Against: "sync.Map of atomics", Most: 1.5, MostAllocs: 0},
	{Row: "state: get", Load: alone, Ours: "SharedState", Against: "sync.Map of atomics", Most: 1, MostAllocs: 0},
	{Row: "state: increment", Load: hundred, Ours: "SharedState", Against: "sync.Map of atomics", Most: 2, MostAllocs: 0},
	{Row: "slow calls: 10,000 at once", Load: Load{1, 2}, Ours: "Invoke, a goroutine each", Against: "goroutines that sleep", Most: 2, MostAllocs: -1},
	{Row: "slow calls: 10,000 at once", Load: Load{1, 2}, Ours: "Submit", Against: "goroutines that sleep", Most: 2, MostAllocs: -1},
	{Row: "asynchronous sink, drop mode", Load: Load{1, 2}, Ours: "AsyncSink", Against: "channel, select with default", Most: 2, MostAllocs: 0},
}

// MemoryBudgets are the most bytes per key.
var MemoryBudgets = map[string]float64{"SharedState": 120, "RateLimiter by key": 120}

// Verdict is a budget with what was measured.
type Verdict struct {
	Budget
	Ratio, Allocs float64
	Measured      bool
}

// Met says whether the budget was kept. Allocations are counted for the whole process, so
// less than one in twenty operations is none.
func (v Verdict) Met() bool {
	return (v.Most == 0 || v.Ratio <= v.Most) && (v.MostAllocs < 0 || v.Allocs < float64(v.MostAllocs)+0.05)
}

// String is the verdict in words.
func (v Verdict) String() string {
	aimed := v.Stretch > 0 && v.Ratio <= v.Stretch
	switch {
	case !v.Measured:
		return "not measured"
	case !v.Met():
		return "missed"
	case v.Most == 0 && aimed:
		return "aim met"
	case v.Most == 0:
		return "above the aim"
	case aimed:
		return "met, aim too"
	}
	return "met"
}

// Judge holds the results against the budgets.
func Judge(results []Result) []Verdict {
	find := func(row string, l Load, name string) *Line {
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
	var out []Verdict
	for _, b := range Budgets {
		v := Verdict{Budget: b}
		al := b.AgainstLoad
		if al == (Load{}) {
			al = b.Load
		}
		ours, other := find(b.Row, b.Load, b.Ours), find(b.Row, al, b.Against)
		if ours != nil && other != nil {
			v.Measured = true
			v.Allocs = median(ours.allocs())
			if al == b.Load {
				v.Ratio = median(ratios(ours, other))
			} else { // measured at different times: no pairs
				v.Ratio = median(ours.times()) / median(other.times())
			}
		}
		out = append(out, v)
	}
	return out
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

// ratios are a's times by b's, round for round.
func ratios(a, b *Line) []float64 {
	out := make([]float64, min(len(a.Samples), len(b.Samples)))
	for i := range out {
		out[i] = a.Samples[i].NS / b.Samples[i].NS
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
