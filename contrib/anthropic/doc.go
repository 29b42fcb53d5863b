// Package sluiceanthropic has the tool calls of github.com/anthropics/anthropic-sdk-go run through a Sluice executor:
// limits, queue, breakers, timeouts and events hold for them. There is one line for each of two loops.
//
// With the library's tool runner, [Tools] stands around its tools:
//
//	client.Beta.Messages.NewToolRunner(sluice.Must(sluiceanthropic.Tools(exec, sluiceanthropic.Config{}, tools...)), params)
//
// In a loop of your own, [Answer] runs a message's calls, and answers them:
//
//	turn, err := sluiceanthropic.Answer(ctx, runner, agent.CodecConfig{}, message)
//
// Append turn.Messages to the history, and ask again unless turn.Done. [MessageTools] lists the registry's tools. The
// [agent.Runner] says how a turn is run.
//
// # What is kept
//
// With the runner: names, descriptions and schemas as the model is told of them, the context's values and
// cancellation, results with images and all else that they have, and the order of results. Streams and message
// threads work as before.
//
// With Answer: what the model has said goes back as it came, with members that the library does not know, and
// numbers of any size; only that the library writes some characters as escapes, which say the same, and that texts of
// white space alone, which the API does not take back, are left out. Ids are the calls' own. All results stand in one message, in the order of the calls. Calls that were cut off do not run, and
// the model reads why. On whose behalf calls run is said by the context, see [sluice.WithPipelineContext].
//
// # What a refusal looks like
//
// A call that is refused, fails, panics or exits ends no turn and no process. Its result has is_error, and the model
// reads
//
//	{"type":"rate_limited","message":"too many calls for now; try again in 2 s","retryable":true,"retry_after_ms":1200}
//
// which is [sluice.ModelText]: no names of limits, no stack, no value of a panic. The runner writes "Error: " before it.
// Of a name that the model has made up the runner says itself that there is no such tool. Neither way registers it.
//
// # What does not work
//
// The runner tells a tool neither the id of its call nor the session: events have ids of their own. It hands on
// numbers of the arguments as float64, so above 2^53 digits are lost before Sluice sees them; Answer keeps them. It
// starts all calls of a message at once, without a pool, so they wait in one place, the executor's queue, but which of
// them is first is chance; with Answer it is the order of the message. The spans of tools that the library's MCP
// helper has made begin with anthropic.custom_tool_use instead of anthropic.mcp_tool_use.
//
// Accumulate makes {} of streamed arguments that are no JSON, so a tool that requires none would run with none. Where
// arguments are streamed without the API's checks, give the RawJSON of each event to an [agent.Stream] instead; its
// Message is for [agent.Runner.Answer].
package sluiceanthropic
