// Package sluiceotel shows tool calls, queues, limits and breakers in OpenTelemetry: a span for each call, by the
// conventions for GenAI or for MCP, with what it waited for and why it was refused, and metrics that a model cannot
// multiply.
//
//	obs, err := sluiceotel.New(sluiceotel.Config{})
//	exec, err := sluice.NewExecutor(registry, sluice.Config{
//		Interceptors: []sluice.Interceptor{obs, limits, breaker}, // first
//		Sink:         obs,
//	})
//	stop, err := obs.Watch("", exec) // the state of limits and breakers, if you want that too
//
// # Spans
//
// A call is execute_tool NAME, of kind internal, from tool.invoked to its last event: that of a stream ends with it.
// Calls that no interceptor sees, of unknown tools or with wrong arguments, have one too. What the tool does with its
// context is inside, and so are nested calls.
//
//   - From the conventions: gen_ai.operation.name, gen_ai.tool.name, gen_ai.tool.type, gen_ai.tool.call.id,
//     gen_ai.tool.description, gen_ai.agent.name, gen_ai.conversation.id (the session), error.type ([sluice.CodeOf]).
//     A call that failed or was refused has the status Error, with the error's text.
//   - Of the library: sluice.call.key (as in event_id), sluice.priority, sluice.tenant, sluice.run.id,
//     sluice.tool.type, sluice.attempts, sluice.queue.wait and sluice.run.duration (s), sluice.limiter (what refused
//     it), sluice.retry_after (s), sluice.answered_by.
//   - Events: sluice.queued (by which limiter), sluice.started, sluice.retrying, sluice.abandoned, and what layers
//     tell with Call.Emit, as sluice.approval.requested.
//
// Arguments and results are not there, unless the sink is sluice.WithPayloads(obs, ...): then they are
// gen_ai.tool.call.arguments and gen_ai.tool.call.result, bounded and redacted. sluice.WithoutErrorText(obs) keeps
// out what tools say of their errors.
//
// With Config.MCP a call is tools/call NAME, with mcp.method.name and mcp.session.id. With Config.Annotate it is the
// span that a framework has opened, which gets the library's attributes and events, error.type and the status.
//
// # Metrics
//
// From events, always:
//
//	gen_ai.execute_tool.duration  s, histogram  gen_ai.tool.name, gen_ai.tool.type, error.type, gen_ai.agent.name
//	mcp.server.operation.duration, or client    instead with Config.MCP: also mcp.method.name, gen_ai.operation.name
//	sluice.queue.wait             s, histogram  gen_ai.tool.name, sluice.limiter, sluice.priority: of calls that waited
//	sluice.rejections             counter       gen_ai.tool.name, error.type, sluice.limiter: the code did not run
//	sluice.retries                counter       gen_ai.tool.name, error.type
//	sluice.abandoned              counter       gen_ai.tool.name
//	sluice.breaker.transitions    counter       sluice.limiter, sluice.breaker.from, sluice.breaker.to
//	sluice.rate_limit.pauses      counter       sluice.limiter
//	sluice.limit.stalls           counter       sluice.limiter
//
// By [Observer.Watch], read when metrics are collected, with sluice.executor if it has a name:
//
//	sluice.executor.running, .queued, .abandoned  calls
//	sluice.events.dropped                         counter
//	sluice.in_flight, sluice.limit                sluice.limiter: what is taken, and what there is
//	sluice.limit.keys, .stalled                   sluice.limiter: how many keys
//	sluice.queue.length, .oldest (s)              sluice.limiter, sluice.priority
//	sluice.rate_limit.tokens, .paused             sluice.limiter: below zero it is in debt
//	sluice.breaker.state                          sluice.limiter, sluice.breaker.state: keys in that state, 0 or 1 without
//	sluice.layer.used, .limit                     sluice.layer: what interceptors say of themselves
//
// No label comes from a model's text: a tool's name is one once it is known to be registered, all others are _OTHER,
// and so are error codes beyond 100, limiters beyond 1,000 and tools beyond 10,000. Tenants and other keys are never
// labels; numbers are sums over them.
//
// # What to know
//
//   - Listed first, an Observer has all that other interceptors do inside the span. But then, as with any interceptor
//     there that is no Stepper, Executor.Submit starts a goroutine for each call at once. Listed last, inside the
//     gates, it does not; spans that interceptors open are then beside the call's.
//   - As an interceptor alone it does nothing. As a sink alone it makes all spans and metrics, but spans that tools
//     open are beside the call's, and a tool is _OTHER until its first call is admitted.
//   - It does not wait: there is no use for a sluice.AsyncSink around it, behind which a call may be over before its
//     span is opened.
//   - In annotate mode what a stream comes to is lost if the framework ends its span before.
package sluiceotel
