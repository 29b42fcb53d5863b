// Package sluice decides whether, when and in what order an agent's tools run.
//
// Make an [Executor], [Wrap] your functions, and call them as before:
//
//	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
//		Interceptors: []sluice.Interceptor{limits, quota, breaker, order}, // gates in any order: one joint decision
//	})
//	search, err := sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb) // same type, guarded
//	out, err := search(ctx, SearchInput{Query: "go"})
//
// Start with [Wrap], [Executor.Invoke], [NewConcurrencyLimiter] and [NewTestPipelineContext].
//
// # How a call flows
//
//	Invoke ─ tool.invoked ─ decode, check ─► interceptors (an onion, compiled once per tool)
//	                             │
//	                             ▼
//	        admission: every constraint of the call: breaker · slots · rates
//	                   one lock, one instant
//	                   all agree, nobody ahead ──► take everything
//	                   a breaker is open, or it cannot be in time ──► refused, nothing taken
//	                   else ──► wait, holding nothing
//	                             │
//	                             ▼ tool.started
//	                   attempt timeout ─ panic capture ─ the tool
//	                             │ deferred: give everything back, serve who waits
//	                             ▼
//	                   tool.completed │ tool.failed │ tool.denied   (exactly one)
//
// # One place to wait
//
// A [ConcurrencyLimiter], a [RateLimiter] and a [CircuitBreaker] are gates: they say whether
// a call may start now, and never wait themselves. Gates and the [PriorityScheduler] stand
// side by side in the list of interceptors, in any order, and are one admission stage with
// one queue, one lock and one timer. A call starts when all its gates agree, at one
// instant, and takes everything or nothing; while it waits it holds nothing. So a slow rate
// cannot fill a shared limit with sleepers, a token is never paid by a call that still
// queues, and priority means something, since nobody waits behind the queue. Executors
// that share a registry, a gate or a scheduler share the stage.
//
// # Order
//
// Interceptors before the gates go around admission: what they do holds no slot, and each
// call of next is an attempt, admitted and charged anew. Those after the gates run inside an
// admitted attempt. The usual order, from outside, is
//
//	observe → replay → join or cache → total timeout → fallback → retry → hedge → gates → tool
//
// so that back-off and hedging hold nothing, an open breaker answers before anybody queues,
// and time in the queue is never taken for a slow tool.
//
// At each constraint where calls wait the next one is chosen by level, then tenant, then
// arrival, as [PriorityScheduler] says. Where several contended constraints cross, no
// formula bounds the wait of a call that needs them all. There a call that came to a front
// four times and failed elsewhere has freed slots collected for it, one such call at a time.
// Four is a trade, found with package sim: where three saturated limits cross and all but
// one of the callers are of higher levels, a call of the lowest level was overtaken at most
// 4,004 times (1,108 if it claims at its first failure, 16,025 at its sixteenth), and never
// started without claims; 99.72 % of the slots were in use (99.19 %, 99.93 %). With
// everybody at one level it was 92 times and 95.97 % (66 and 94.99 %, 321 and 98.05 %).
//
// # Nested calls
//
// A tool may call tools with the context it was given. A limit counts chains of calls:
// where a call's ancestor holds a slot of the same constraint, the call runs on that slot,
// one descendant at a time, at least at the waiting ancestor's priority. Rates and breakers
// count every call. A nested call that needs a slot of its own waits a minute at most unless
// MaxWait says otherwise; one that would wait for itself through others is refused with
// [ErrNesting], which names the limits. Depth and number of nested calls are bounded.
//
// # Decisions
//
//   - A slot stays taken until the tool's code has really ended, also after its time was over,
//     and when an interceptor inside the gates has answered before: the call ends with that
//     answer, which is what breakers learn, and its next, if it begins later, is refused.
//   - Code that is asked what an outcome means (Classify, methods of the error) may keep the
//     slot for a second; breakers have the outcome whenever it is there. Code that never
//     answers delays its own caller alone.
//   - A tool that answers with a stream can [Hold] its call open, for ten minutes at most.
//   - What counts for a nested call is what still runs around it: depth, the root that
//     MaxCallsPerRoot counts under, and the priority that it inherits. A call made with the
//     context of one that has ended is a new beginning, and tells that one as its parent.
//   - A call with a nil context is reported, and refused for [ErrInvalidArguments].
//   - The last event of a call is out before the call returns, also where a sink is still busy
//     with another event of it.
//   - What is due happens first, whether its timer has fired or not: tokens, ends of pauses and
//     of waits. So nobody who comes later is served before those who could have been.
//   - A refused or cancelled call spends no token; nor does one whose code did not run, as far as
//     a shared *rate.Limiter can take one back.
//   - At every instant a rate stands where it would if each call had been charged what is known of
//     its use by then from its own start on. So what is given back late is what time has not
//     brought back already.
//   - A report of use, however wrong, leaves a rate in debt for a day at most, or as long as its
//     burst takes to refill; what is beyond is forgotten and told as ratelimit.debt. An operator
//     ends debt and pause of a key with [RateLimiter].Lift, those of a tool with [ToolRegistry].Lift.
//   - After a pause a rate that refills within it, or within a minute, has one token at most,
//     a slower one what it had. Then calls start in a ramp, for ten seconds: one, one more for
//     each success, and at least twice as many each second.
//   - A rate that is changed goes on as the one of its unit and period, or else of its unit; so
//     does a breaker. A new one of a policy starts no fuller than the fullest of its unit.
//   - The bound of the queue is each executor's own, and what fills it has to be one's own to be
//     refused for it: each tool, and each tenant, has 16 places.
//   - A key for which there is no room is refused with [ErrSaturated]. Only keys that remember
//     nothing make room; failures in a row are remembered for an hour.
//   - A limit that has released nothing for a minute while calls wait is told once, as
//     limit.stalled, and nobody is refused for it: a slow tool looks the same.
//   - RetryAfter is zero where nobody can know.
//   - The library's own timeout is a failure to a breaker; the caller's deadline and
//     cancellation are neutral, and so are refusals of nested calls.
//   - A throttle concerns the call that met it. Whatever its ancestors make of the error, it
//     pauses none of their keys or tools and is neutral to their breakers and limits: so is an
//     error of theirs that wraps it and asks for a pause itself, or equals it.
//   - A throttle pauses as much as it names. What is wider than that, and a tool without an
//     Upstream rate limiter, pauses for a minute at most. A limiter applies to a call that costs
//     nothing there: its throttle pauses the key, and while that pauses it waits.
//   - Of a tool's error 1,000 nodes are looked at; a method of it that panics has said nothing.
//   - Intervals are half-open: a breaker is open in [opened, opened+Cooldown), a key lives
//     in [set, set+ttl). A call may start at exactly arrival+MaxWait, and not at its
//     context's deadline.
//   - Sinks are called by the goroutine of the call, in order; wrap a slow one in
//     [NewAsyncSink], which counts what it drops.
//   - Queued calls are refused at [Executor.Close]; running ones are waited for.
//   - A limit of zero is an error, never "unlimited": leave the limit out instead.
//   - Priorities go from 1 to 9, so that each of them can be asked for: zero takes the tool's,
//     and a tool without one has PriorityNormal, 5.
//   - The order of names in a scope does not matter, and the name of [ByKey] stands for its
//     function: two of one name are one scope to a limiter, and to a Change of it.
//   - Arguments that are blank are {}, for every tool. Every spelling of a whole number is an
//     integer, 3.0 and 5e0 too. Arguments that come as JSON must have what the top-level
//     required of the tool's InputSchema names; the rest of a schema is for [Spec].Check.
//   - Errors about arguments name the place, the kind of thing there and what is expected,
//     never the value. Names that a type or a schema declares are told, and an unknown key.
//   - A configured duration below a microsecond is a forgotten unit, and an error. Not to wait
//     at all is [NoWait].
//   - An unknown tool is a call like others: it is invoked, and fails.
//   - An interceptor that calls next twice makes two attempts outside the gates, and gets an
//     error inside them.
//   - Events of a call share an [Event].CallKey that no other call has; ids are the callers',
//     who may give one twice. They tell the call that was invoked, whatever interceptors made
//     of it, and with the number and priority of the attempt.
//   - A sink that an executor and a run both list, or two executors that share a gate, gets
//     each event once. One behind a wrapper of its own counts as another.
//   - A tool's own error text is written to events, logs and JSON; [WithoutErrorText] keeps it
//     from a sink. Values of arguments, results and panics never are, unless by [WithPayloads].
//   - A retry is told before its wait by the layer that waits ([Call].ReportRetry), else when
//     next is called again. Attempts at once are no retries.
//   - A refusal that a tool passes on from a call nested in it is the tool's error: tool_error.
//   - An unknown tool's error names tools of similar names, but not where interceptors may
//     hide some from some callers.
//   - An increment keeps the lifetime of its key.
//   - An Update or a Txn whose function was overtaken 10,000 times fails with [ErrConflict]: so
//     ends one that writes, past itself, what it has read.
//   - Keys of the state are UTF-8, and a snapshot is read strictly: no name twice, none unknown.
//   - What an executor shares with others is fixed in [NewExecutor]: it joins the live executors
//     that list its registry, a gate or its scheduler. It is refused if those share nothing so
//     far, or if two schedulers would order one queue. A registry, gate or scheduler is free
//     again once each executor that lists it is closed and its calls have ended; what was
//     counted stays.
//   - Gates are known by their own type. A struct with one inside is an interceptor like others,
//     and a gate's own Wrap, called by anybody, refuses the calls.
//   - Pause, Trip, Reset and State fail for a key that the scope cannot have: a tool must be
//     registered, or a type be one of a registered tool, once the gate belongs to an executor.
//   - What limits counted for a tool is forgotten when it has been removed, its calls have ended
//     and there is nothing to remember: no debt, no pause, no failure.
//   - [Executor.Explain] refuses what [Executor.Invoke] refuses, missing arguments included.
//   - A call whose context ends while an interceptor's Wrap runs is refused; the Wrap goes on for
//     later calls, and Close waits for it.
//   - Everything is bounded by default: queue 1,000 calls, arguments 4 MiB, results 16 MiB,
//     depth 32, calls under one root 10,000, keys of a limit 10,000, state 100,000 keys.
//
// # Untrusted code
//
// Panics and Goexit of tools are caught. What the Go runtime itself throws (concurrent map
// writes, a stack overflow, running out of memory) cannot be caught by anybody: run tools
// that may do that in another process.
package sluice
