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
// [Executor.Invoke] calls a tool by its name with JSON arguments, as a model asks for it; package agent does so for whole
// answers of models. The README has a program to begin with, docs/ the guides.
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
// takes everything or nothing; while it waits it holds nothing. Who is next is chosen by priority, then in fair shares
// of tenants, then by arrival. A struct that embeds a gate is no gate.
//
// # Order
//
// Interceptors before the gates go around admission: they hold no slot, and each call of next is an attempt, admitted
// and charged anew. Retries, hedging, fallbacks, caches and a timeout for all attempts stand there (package resilience):
// back-off holds nothing, and an open breaker answers before anybody queues. Interceptors after the gates run inside
// an admitted attempt, and may call next once; to breakers their answer is the outcome.
//
// # Errors
//
// errors.Is(err, [ErrRejected]) says that the tool's code did not run. Every refusal is an [*Error], with the reason, the
// constraint that refused and, where somebody can know, the time to retry. A tool's own error comes back as it is, a panic
// as a [*PanicError]. [CodeOf] is a word for each; docs/errors has a page for each word. [ModelText] is for models.
//
// # Nested calls
//
// A tool may call tools with the context it was given. A limit counts chains of calls: where an ancestor holds a slot
// of the same constraint, the call runs on that slot, one descendant at a time, at least at the waiting ancestor's
// priority. Rates and breakers count every call. A nested call that needs a slot of its own waits a minute at most
// unless MaxWait says otherwise; one that would wait for itself through others is refused with [ErrNesting], which
// names the limits. Called with another context, a tool is called as by a stranger.
//
// # Bounds
//
// Everything is bounded by default; the fields of configurations say how. What is required and zero is an error, never
// "unlimited". So is a duration below a microsecond: a unit was forgotten. Panics and Goexit of tools are caught. What the
// runtime throws (concurrent map writes, a stack overflow, no memory) nobody can catch: run such tools in another process.
//
// docs/decisions.md has what was decided in the small, docs/promises.md what is guaranteed, with the tests.
package sluice
