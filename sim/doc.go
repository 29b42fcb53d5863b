// Package sim tries an admission policy before production: it runs hours of traffic
// through the library's own decisions in seconds, on virtual time.
//
// A [Config] has the same components that an Executor is given, the tools with the times
// they take and the ways they fail, and the traffic. [Run] answers with a [Report]:
// who waited how long, who was refused and why, what was left idle.
//
//	report, err := sim.Run(sim.Config{
//		Gates:    []sluice.Interceptor{limits, quota, order}, // those of the executor
//		Tools:    []sim.Tool{{Spec: search, Service: sim.LogNormal(80*time.Millisecond, 600*time.Millisecond)}},
//		Traffic:  []sim.Traffic{{Tool: "search", Tenant: "acme", Arrivals: sim.Poisson(40)}},
//		Duration: time.Hour,
//	})
//
// The command sim/sluicesim does so without a program: it reads policies and traffic from a
// file, and draws one policy, or two side by side. See docs/sim.md.
//
// # What is simulated
//
// Admission is not modelled: the state machine that decides in an Executor decides here,
// call by call, about the constraints that the gates and the tools' policies make. A test
// runs the same calls through both and finds each start at the same nanosecond. Around it
// there is no concurrency and no clock, only a heap of events.
//
//	arrivals ──► admission (the library's) ──► tool: its time, outages, capacity, nested calls
//	   ▲             │ refused                      │ ends
//	   └── loops ────┴──────────────────────────────┘
//
// What tools do is modelled: service times are drawn from a [Dist], errors from a rate,
// outages and the capacity of a backend follow a schedule. Interceptors other than gates,
// such as retries, are not part of it, nor is Policy.Classify: what a call's end means is
// known. Components are read when Run begins; a pause or a change made to them at run time
// plays no part.
//
// # Comparing policies
//
// Every stream of traffic draws from a generator of its own, seeded by [Config.Seed] and
// the stream's name: it has the same arrivals and service times whatever else changes, be
// it the policy or another stream. So the difference between two reports is the effect of
// what was changed, not of chance. Loops ([Callers]) and nested calls answer to what they
// meet, as they do in production.
//
// Vary the seed to see what is chance. A simulation is as good as its distributions: take
// them from measurements ([Samples], or [LogNormal] from the median and the 99th
// percentile of a dashboard), and arrivals from a log ([Replay]).
//
// # What is checked
//
// After every decision the simulator recounts, with code of its own, the slots in use, the
// tokens charged in any window, who runs and who waits, and pauses and open breakers, and
// at the end that every call has ended. What breaks one of these promises of the library,
// or leaves a call waiting that could start although nothing is kept for anybody, is an
// error of Run that names the instant and the seed. Idle capacity, overtaking and the
// fairness of tenants are measured while no more than 32 lanes wait, idling beyond that
// after some of the decisions.
//
// # Ageing and claims
//
// The simulator has settled two constants of the library: how many starts are worth one
// priority (PrioritySchedulerConfig.Ageing, 8) and after how many failures at a front a
// call has freed slots kept for it (a claim; 4). The mix is adversarial: three limits of 4
// slots, each saturated by 20 interactive callers of its own and by 10 that need two of
// them, and 5 callers of calls that need all three, at the lowest level; service times
// exponential, 10 ms; one minute. A test prints the table anew.
//
//	ageing  claims after  worst overtakes  started  slots used
//	     4             1              541      667      98.50%
//	     4             2             1075      342      99.08%
//	     4             4             2083      174      99.50%
//	     4             8             4150       88      99.74%
//	     4            16             8262       43      99.86%
//	     8             1             1108      354      99.19%
//	     8             2             2062      179      99.53%
//	     8             4             4004       90      99.72%
//	     8             8             8053       45      99.87%
//	     8            16            16025       22      99.93%
//	    16             1             2154      182      99.59%
//	    16             2             4044       91      99.74%
//	    16             4             7952       46      99.87%
//	    16             8            15556       23      99.93%
//	    16            16            31202       11      99.96%
//	   any         never         for ever        0     100.00%
//
//	all at one level, so that ageing plays no part
//
//	     -             1               66     2972      94.99%
//	     -             2               82     2841      95.52%
//	     -             4               92     2631      95.97%
//	     -             8              164     2163      96.91%
//	     -            16              321     1321      98.05%
//	     -         never         for ever        0     100.00%
//
// Across levels both follow the product of the two settings: a call that needs all three
// is overtaken at most about 130 times that product, and of the capacity about 8 % divided
// by it is lost to collecting. Without claims it never starts, at any ageing. Ageing 8
// with claims after 4 loses 0.3 % across levels and 4 % where calls that need everything
// are many and have the same priority as the rest; each halving of either halves the
// worst wait and doubles the loss. Ageing also weighs levels at a single constraint, where
// among saturated levels one that is four priorities lower gets one start in 4*Ageing.
package sim
