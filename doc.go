// Package sluice decides whether, when and in what order an agent's tools run.
//
// Make an [Executor], [Wrap] your functions, and call them as before:
//
//	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
//		Interceptors: []sluice.Interceptor{limits, quota, breaker, order},
//	})
//	search, err := sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb)
//	out, err := search(ctx, SearchInput{Query: "go"})
//
// # How a call flows
//
//	Invoke ─ tool.invoked ─ decode, check
//	   └► interceptors before the gates
//	        └► admission: breakers, slots and rates, one decision, one instant
//	             all agree, nobody ahead ──► take everything
//	             a breaker is open, or it cannot be in time ──► refused, nothing taken
//	             else ──► wait, holding nothing
//	             └► tool.started ─ attempt timeout ─ panic capture ─ the tool
//	                  deferred: give everything back, serve who waits
//	tool.completed │ tool.failed │ tool.denied   (exactly one)
//
// # One place to wait
//
// A [ConcurrencyLimiter], a [RateLimiter] and a [CircuitBreaker] are gates: they say whether a call may start now,
// and never wait themselves. Gates and the [PriorityScheduler] stand side by side in the list of interceptors, in any
// order, and are one admission stage with one queue. A call starts when all its gates agree, at one instant, and
// takes everything or nothing; while it waits it holds nothing.
//
// A struct that embeds a gate is no gate.
//
// # Order
//
// Interceptors before the gates go around admission: they hold no slot, and each call of next is an attempt, admitted
// and charged anew. Retries, hedging, fallbacks, caches and a timeout for all attempts of your own stand there:
// back-off holds nothing, and an open breaker answers before anybody queues. Interceptors after the gates run inside
// an admitted attempt, and may call next once; to breakers their answer is the outcome.
//
// At each constraint the next call is chosen as [PriorityScheduler] says. No formula bounds the wait of a call that
// needs several contended constraints; but once it came to a front four times and failed elsewhere, freed slots are
// collected for it, for one such call at a time. A [Limit] with Ordered goes by arrival instead.
//
// # Nested calls
//
// A tool may call tools with the context it was given. A limit counts chains of calls: where an ancestor holds a slot
// of the same constraint, the call runs on that slot, one descendant at a time, at least at the waiting ancestor's
// priority. Rates and breakers count every call. A nested call that needs a slot of its own waits a minute at most
// unless MaxWait says otherwise; one that would wait for itself through others is refused with [ErrNesting], which
// names the limits.
//
// Depth, root and inherited priority are those of the calls that still run around it. A call with
// the context of one that has ended is a new root, and names that one as parent.
//
// # Decisions
//
//   - Everything is bounded by default; the fields of configurations say how. What is required
//     and zero is an error, never "unlimited". So is a duration below a microsecond: a unit was
//     forgotten.
//   - What is due happens first, whether its timer has fired or not: tokens, ends of pauses and
//     of waits. So nobody who comes later is served before.
//   - Intervals are half-open: a key lives in [set, set+ttl). A call may start at exactly
//     arrival+MaxWait, and not at its context's deadline.
//   - Code that is asked what an outcome means (Classify, methods of the error) keeps the slot for
//     a second at most, and delays its own caller alone; breakers get the outcome whenever it comes.
//   - A call whose code did not run spends no token. At every instant a rate stands where it would
//     if each call had been charged, from its own start on, what is known of its use by then. So a
//     late report gives back only what time has not.
//   - A report of use, however wrong, leaves a rate in debt for a day at most, or as long as its
//     burst takes to refill; more is forgotten, and [RateLimitDebt] says so.
//   - Only keys that remember nothing but successes make room for others; failures in a row last
//     an hour.
//   - A throttle concerns the call that met it. It pauses nothing of its ancestors, and is neutral to
//     their breakers and limits, whatever they make of the error; also if theirs wraps or equals it
//     and asks for a pause itself.
//   - A rate applies to a call that costs nothing there: its throttle pauses the key, and while
//     that pauses it waits.
//   - Of a tool's error 1,000 nodes are looked at; methods that panic have said nothing.
//   - Every spelling of a whole number is an integer, 3.0 and 5e0 too. Errors about arguments name
//     the place, the kind of thing there and what is expected, with declared names and unknown
//     keys, never the value.
//   - A call of an unknown tool is invoked and fails. Its error names similar tools, unless
//     interceptors may hide some.
//
// # Untrusted code
//
// Panics and Goexit of tools are caught. What the runtime throws (concurrent map writes, a stack
// overflow, no memory) nobody can catch: run such tools in another process.
package sluice
