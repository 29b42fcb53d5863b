// Package breaker is a circuit breaker as a state machine: it is told the time and the
// outcomes, and answers whether a call may start. It reads no clock, takes no lock and
// calls nobody. The caller serializes its methods and passes now, in nanoseconds of a
// clock that does not go back.
//
// # States
//
//	Closed    calls start. A failure ratio in a window of time, or failures in a row, open it.
//	Open      no call starts in [opened, opened+cooldown). The first call after that is a probe
//	          and makes it half-open.
//	HalfOpen  probes start, as many as are still needed. Probes successes close it, one failure
//	          opens it again.
//
// Besides these, only Trip and Reset change the state. The state is what was recorded: an
// open breaker whose cooldown is over says Open until the first probe starts, so that what
// State says and the changes that Take and Done report are always the same story.
//
// # Generations
//
// Every change of state begins a generation, and nothing else does. A permit belongs to the
// generation it was taken in; the result of an older one moves nothing, neither a counter
// nor a permit. A call that outlasts the window still counts: results are counted when they
// arrive.
//
// # Probes and leases
//
// While half-open, the probes that run and the probes that have succeeded are together at
// most Probes, so exactly Probes probes run on the way to a recovery that nothing disturbs.
// A probe that has not ended after its lease no longer counts as running, and another may
// start in its place. Its late result still counts, but gives nothing back. So a hung probe
// delays recovery by at most one lease. A neutral outcome gives the probe back and says
// nothing.
//
// # Recovery
//
// A closed breaker that has just recovered does not let everybody in at once. For one
// Cooldown after closing at most Probes + (successes since closing) calls run at a time.
// That is slow start as in RFC 5681, section 3.1: the number doubles with every round of
// successes (1, 2, 4, ... for one probe). One call at a time is never refused, and calls
// that hang do not hold up others beyond the end of that Cooldown.
//
// A breaker that opens again before that time is over stays open twice as long as the time
// before, up to 2 minutes (or one Cooldown, if that is longer). One that stayed closed starts
// again with one Cooldown. With a Seed each of these times is a little longer or shorter, and
// none ends before the callee wants to be called again, see Throttle.
package breaker
